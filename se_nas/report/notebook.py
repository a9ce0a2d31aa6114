"""The front as a figure of plotly, for notebooks: the chart of the page, with its hover texts, outside of the page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from se_nas.analysis.confirmation import Confirmation
from se_nas.analysis.findings import Findings
from se_nas.analysis.summary import Summary
from se_nas.core.errors import ConfigError, did_you_mean
from se_nas.report.front_chart import front_chart
from se_nas.report.page import LIGHT, View
from se_nas.report.reading import Reading
from se_nas.report.trial_rows import trial_columns

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

Columns = Mapping[str, list[Any]]


def front_figure(
    found: Findings, summary: Summary, *, cost: str | None = None, confirmation: Confirmation | None = None
) -> Figure:
    """The front over a cost, by default the one that was searched for.

    ConfigError for a cost that no trial has, or while no training is complete.
    """
    from plotly.graph_objects import Figure  # slow to import, and only notebooks need it

    done = found.complete
    cost = found.axes[0] if cost is None else cost
    known = [name for name in {name: None for trial in found.trials for name in trial.costs} if name in done]
    if cost not in known:
        raise ConfigError(f"cost is {cost!r}", allowed=known, hint=did_you_mean(cost, known))
    reading = Reading(found=found, summary=summary, confirmation=confirmation)
    columns = trial_columns(found, [cost], reading.metric)
    rows = np.flatnonzero([trial.state == "complete" for trial in found.trials])
    chart = front_chart(reading, rows, [cost])
    (view,) = chart.views
    figure = Figure(data=traces_of(view, columns), layout=_painted(view.layout))
    legend = {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"}
    figure.update_layout(template="plotly_white", height=chart.height, legend=legend)
    return figure


def traces_of(view: View, columns: Columns) -> list[dict[str, Any]]:
    """The traces of a view with its columns filled in and its colours named, as the page's script does it."""
    return [_filled(_painted(trace), columns) for trace in view.traces]


def _filled(trace: dict[str, Any], columns: Columns) -> dict[str, Any]:
    rows, sources = trace.pop("rows", None), trace.pop("columns", {})
    for key, source in sources.items():
        if key == "customdata":
            trace[key] = [list(row) for row in zip(*(_column(one, columns, rows) for one in source), strict=True)]
        else:
            trace[key] = _column(source, columns, rows)
    return trace


def _column(source: str | dict[str, Any], columns: Columns, rows: list[int] | None) -> list[Any]:
    given = {"name": source} if isinstance(source, str) else source
    every = columns[given["name"]]
    values = every if rows is None else [every[row] for row in rows]
    zero, factor = given.get("zero", 0), given.get("factor", 1)
    return [v if v is None or (factor == 1 and not zero) else (v - zero) * factor for v in values]


def _painted(value: Any) -> Any:
    """The same with ``@name`` as the colour of that name."""
    if isinstance(value, dict):
        return {key: _painted(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_painted(inner) for inner in value]
    return LIGHT.get(value[1:], value) if isinstance(value, str) and value.startswith("@") else value
