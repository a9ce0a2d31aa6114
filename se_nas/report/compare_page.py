"""The page of a comparison of runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from se_nas.analysis.findings import Findings
from se_nas.core.config import SearchConfig
from se_nas.core.trial import Direction
from se_nas.core.words import cost_name, cost_text
from se_nas.report.figures import cost_columns
from se_nas.report.front_chart import OPEN_ROWS, front_rows
from se_nas.report.metric import Metric
from se_nas.report.page import SERIES, Chart, Head, Page, Section, Table, View, escaped
from se_nas.samplers.pareto import Index

DASHES = ("solid", "dash", "dot")


SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "cross")


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run as it is compared."""

    name: str
    config: SearchConfig
    found: Findings
    data: str
    """Checksums of data and split."""

    @property
    def done(self) -> pd.DataFrame:
        """Its complete trials."""
        return self.found.complete


@dataclass(frozen=True, kw_only=True)
class ComparedRun:
    """A run in the table: the best network of its front with value, 90 % interval and cost, and the hypervolume."""

    run: str
    backbone: str
    data: str
    data_checksum: str
    sampler: str
    epochs: int
    trained: int
    front: int
    best: str
    value: float
    lower: float | None
    upper: float | None
    cost: float
    hypervolume: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Several runs side by side.

    ``value`` is ``mean`` (model estimate), or ``metric`` of single trainings where a run has too few; ``reference`` and
    ``best`` are the corners (value, cost) of the box that hypervolumes are shares of.
    """

    out: str
    metric: str
    unit: str
    direction: Direction
    cost: str
    value: str
    reference: tuple[float, float]
    best: tuple[float, float]
    notes: tuple[str, ...]
    runs: tuple[ComparedRun, ...]


def compare_table(comparison: Comparison, metric: Metric) -> Table:
    """One row for each run."""
    heads = ["run", "backbone", "data", "sampler", "epochs", "trainings", "best network", metric.head, "90 % interval",
             cost_name(comparison.cost), "networks on the front", "hypervolume"]  # fmt: skip
    rows = [
        [
            row.run, row.backbone, row.data, row.sampler, str(row.epochs), f"{row.trained:,}",
            row.best.replace(",", ", "), metric.value(row.value), metric.span(row.lower, row.upper),
            cost_text(row.cost, comparison.cost), str(row.front), f"{row.hypervolume:.4f}",
        ]
        for row in comparison.runs
    ]  # fmt: skip
    text = ("run", "backbone", "data", "sampler", "best network")
    return Table(
        caption="The runs; best network: the one of the best value",
        heads=[Head(label=head, number=head not in text) for head in heads],
        rows=rows,
    )


def compare_page(
    runs: Sequence[Run], fronts: Sequence[Index], comparison: Comparison, table: Table, metric: Metric
) -> Page:
    """The page of a comparison: the table of the runs, and their fronts in one chart."""
    traces, tables = [], []
    cost, value = comparison.cost, comparison.value
    for k, (run, front) in enumerate(zip(runs, fronts, strict=True)):
        rows = run.done.iloc[front]
        color = f"@series{k % SERIES}"
        trace: dict[str, Any] = {
            "type": "scatter", "mode": "lines+markers", "name": escaped(run.name),
            "x": rows[cost].astype(float).tolist(), "y": (metric.factor * rows[value]).tolist(),
            "line": {"color": color, "width": 2, "dash": DASHES[k // SERIES % len(DASHES)]},
            "marker": {"color": color, "size": 9, "symbol": SYMBOLS[k % len(SYMBOLS)]},
            "customdata": [[escaped(p.replace(",", ", ")), metric.span(a, b)]
                           for p, a, b in zip(rows["placement"], rows["lower"], rows["upper"], strict=True)],
            "hovertemplate": "<b>%{customdata[0]}</b><br>%{y:.4g} (%{customdata[1]})<br>%{x:.5g}"
                             "<extra>%{fullData.name}</extra>",
        }  # fmt: skip
        if value == "mean":
            trace["error_y"] = {
                "type": "data", "symmetric": False, "color": color, "thickness": 1.5, "width": 4,
                "array": (metric.factor * (rows["upper"] - rows["mean"])).tolist(),
                "arrayminus": (metric.factor * (rows["mean"] - rows["lower"])).tolist(),
            }  # fmt: skip
        traces.append(trace)
        base = run.done[run.done["role"] == "baseline"]
        shown = front_rows(rows, base, cost_columns(run.done, [cost]), metric, recommended=None, cost=cost)
        tables.append(Table(caption=f"{run.name}: {shown.caption}", heads=shown.heads, rows=shown.rows,
                            closed=f"Front of {run.name}" if len(runs) * len(rows) > OPEN_ROWS else ""))  # fmt: skip
    chart = Chart(
        views=[View(traces=traces, layout={"xaxis": {"title": {"text": escaped(cost_name(cost))}},
                                           "yaxis": {"title": {"text": escaped(metric.head)}}})],
        height=480,
        alt=f"Fronts of {len(runs)} runs: {metric.name} against {cost_name(cost)}. The tables below have the numbers.",
        caption="One line for each run; bars: 90 % interval of the true value. Drag to zoom, double-click to reset.",
    )  # fmt: skip
    return Page(
        title=f"Comparison of {len(runs)} runs",
        lead=", ".join(run.name for run in runs),
        sections=[
            Section(id="runs", title="The runs", text=list(comparison.notes), tables=[table]),
            Section(id="fronts", title="The fronts", chart=chart, tables=tables),
        ],
    )
