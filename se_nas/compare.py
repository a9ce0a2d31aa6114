"""Several runs side by side: their fronts in one figure and one table, with one reference point for all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from se_nas.charts import OPEN_ROWS, Metric, cost_name, front_rows
from se_nas.config import SearchConfig
from se_nas.errors import RunError
from se_nas.features import Array
from se_nas.figures import cost_columns, cost_text, draw_fronts, save_figure, save_table
from se_nas.page import SERIES, Chart, Head, Page, Section, Table, View, escaped, write_page
from se_nas.pareto import Index, hypervolume, rising_front
from se_nas.records import Trial
from se_nas.report import complete_table, metric_unit
from se_nas.results import existing_run, stored
from se_nas.run_folder import clear_errors
from se_nas.storage import reading
from se_nas.study import Objective

DASHES = ("solid", "dash", "dot")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "cross")


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run as it is compared."""

    name: str
    config: SearchConfig
    objective: Objective
    trials: list[Trial]
    done: pd.DataFrame
    data: str
    """Checksums of data and split."""
    epochs: int


def compare(folders: Sequence[Path], target: Path, *, cost: str | None = None) -> dict[str, Any]:
    """Compare runs: write ``compare.html``, figures (PNG, SVG, PDF) and tables (CSV, Markdown, LaTeX) into a folder.

    Runs of another metric, or of one metric in another direction, are refused. Runs on other data or with other epochs
    are compared, since that may be the question, and marked.

    Parameters
    ----------
    cost:
        The cost axis; default the first one of the first run.

    Returns
    -------
    dict
        ``cost``, ``value`` (``mean`` by all trainings together, or ``metric`` of single ones where a run has too few),
        ``reference`` and ``best`` (corners of the box that hypervolumes are shares of: value, cost), ``notes`` and
        ``runs``: one row of plain data each.
    """
    runs = _opened(folders)
    cost = cost or runs[0].objective.cost
    for run in runs:
        if cost not in run.done or run.done[cost].isna().any():
            raise RunError(
                f"run {run.name!r} has no {cost} of all its networks", allowed=_shared(runs), hint="give --cost"
            )
    value = "mean" if all(run.done["mean"].notna().all() for run in runs) else "metric"
    metric = Metric([t for run in runs for t in run.trials], runs[0].objective)
    losses = [np.column_stack([-metric.sign * run.done[value], run.done[cost]]).astype(float) for run in runs]
    worst, best = np.concatenate(losses).max(axis=0), np.concatenate(losses).min(axis=0)
    size = np.where(worst > best, worst - best, 1.0)
    fronts = [rising_front(loss[:, 1:], -loss[:, 0]) for loss in losses]
    volumes = [hypervolume((loss - best) / size, np.ones(2)) for loss in losses]
    content: dict[str, Any] = {
        "metric": metric.name, "direction": runs[0].objective.direction, "cost": cost, "value": value,
        "reference": [-metric.sign * worst[0], worst[1]], "best": [-metric.sign * best[0], best[1]],
        "notes": _notes(runs, value, metric, cost, worst),
        "runs": [_row(*each, value, cost) for each in zip(runs, fronts, volumes, strict=True)],
    }  # fmt: skip
    table = _table(content, metric)
    frame = pd.DataFrame(table.rows, columns=[head.label for head in table.heads])
    lines = {run.name: run.done.iloc[front] for run, front in zip(runs, fronts, strict=True)}
    figure = draw_fronts(lines, cost, value, metric.name, metric_unit(runs[0].trials, runs[0].objective))
    with clear_errors(target):
        target.mkdir(parents=True, exist_ok=True)
        save_figure(figure, target / "compare")
        save_table(frame, target / "compare")
        write_page(_page(runs, fronts, content, table, metric), target / "compare.html")
    return {**content, "out": str(target)}


def _opened(folders: Sequence[Path]) -> list[Run]:
    """The runs, each with a complete training; RunError where they are too few, doubled or of other metrics."""
    paths = [folder.expanduser().absolute().resolve() for folder in folders]
    if len(paths) < 2:
        raise RunError("one run cannot be compared", hint="give two run folders or more; one is shown by se-nas report")
    if doubled := next((p for i, p in enumerate(paths) if p in paths[:i]), None):
        raise RunError(f"run {str(doubled)!r} is given twice", hint="name each run once")
    runs: list[Run] = []
    for path, name in zip(paths, _names(paths), strict=True):
        _, study = existing_run(path)
        with reading(study.url):
            trials, objective, facts = study.trials(), study.objective, study.facts
            done = complete_table(trials, objective, study.space)
            config = stored(study, "config", SearchConfig)
        if done.empty:
            raise RunError(f"run {str(path)!r} has no finished training to compare", hint="go on with its search first")
        first = runs[0].objective if runs else objective
        if (objective.metric, objective.direction) != (first.metric, first.direction):
            raise RunError(
                f"run {name!r} is of {objective.metric} ({objective.direction}), run {runs[0].name!r} of "
                f"{first.metric} ({first.direction}): they have no common axis",
                hint="compare runs of one metric",
            )
        data = f"{facts['data']['checksum']}/{facts['data']['split']}"
        epochs = config.train.epochs
        runs.append(
            Run(name=name, config=config, objective=objective, trials=trials, done=done, data=data, epochs=epochs)
        )
    return runs


def _names(paths: Sequence[Path]) -> list[str]:
    """The names of the folders, with as much of what stands above as tells them apart."""
    for depth in range(1, max(len(p.parts) for p in paths) + 1):
        names = ["/".join(p.parts[-depth:]) for p in paths]
        if len(set(names)) == len(names):
            break
    return names


def _shared(runs: Sequence[Run]) -> list[str]:
    return [
        name
        for name in cost_columns(runs[0].done, [n for r in runs for n in (r.objective.cost, *r.objective.more)])
        if all(name in run.done and run.done[name].notna().all() for run in runs)
    ]


def _notes(runs: Sequence[Run], value: str, metric: Metric, cost: str, worst: Array) -> list[str]:
    notes = []
    if len({run.data for run in runs}) > 1:
        notes.append(
            f"The runs are of different data: their {metric.name} does not measure the same, and neither fronts nor "
            "hypervolumes say which run is better."
        )
    if len({run.epochs for run in runs}) > 1:
        notes.append("The runs trained for different numbers of epochs: a higher front may be the longer training.")
    notes.append(
        "Values are what all trainings of a run say together."
        if value == "mean"
        else "Values are single trainings, since a run has too few to judge them together: the best is too high."
    )
    worst_value = f"{metric.value(-metric.sign * worst[0])} {metric.unit}".strip()
    notes.append(
        f"Hypervolume: share of the box between the best value at the lowest cost and the common reference point, "
        f"{metric.name} {worst_value} at {cost_name(cost)} {cost_text(worst[1], cost)}, the worst of all runs."
    )
    return notes


def _row(run: Run, front: Index, volume: float, value: str, cost: str) -> dict[str, Any]:
    best = run.done.iloc[front[-1]]
    return {
        "run": run.name,
        "backbone": run.config.backbone.target,
        "data": run.config.data.target,
        "data_checksum": run.data,
        "sampler": run.config.sampler.target,
        "epochs": run.epochs,
        "trained": int(sum(t.counts for t in run.trials)),
        "front": len(front),
        "best": str(best["placement"]),
        "value": float(best[value]),
        "lower": None if pd.isna(best["lower"]) else float(best["lower"]),
        "upper": None if pd.isna(best["upper"]) else float(best["upper"]),
        "cost": float(best[cost]),
        "hypervolume": volume,
    }


def _table(content: dict[str, Any], metric: Metric) -> Table:
    heads = ["run", "backbone", "data", "sampler", "epochs", "trainings", "best network", metric.head, "90 % interval",
             cost_name(content["cost"]), "networks on the front", "hypervolume"]  # fmt: skip
    rows = [
        [
            row["run"], row["backbone"], row["data"], row["sampler"], str(row["epochs"]), f"{row['trained']:,}",
            row["best"].replace(",", ", "), metric.value(row["value"]), metric.span(row["lower"], row["upper"]),
            cost_text(row["cost"], content["cost"]), str(row["front"]), f"{row['hypervolume']:.4f}",
        ]
        for row in content["runs"]
    ]  # fmt: skip
    text = ("run", "backbone", "data", "sampler", "best network")
    return Table(
        caption="The runs; best network: the one of the best value",
        heads=[Head(label=head, number=head not in text) for head in heads],
        rows=rows,
    )


def _page(runs: Sequence[Run], fronts: Sequence[Index], content: dict[str, Any], table: Table, metric: Metric) -> Page:
    traces, tables = [], []
    cost, value = content["cost"], content["value"]
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
        caption="One line for each run; bars: 90 % interval of the true value. Drag to zoom, double-click to go back.",
    )  # fmt: skip
    return Page(
        title=f"Comparison of {len(runs)} runs",
        lead=", ".join(run.name for run in runs),
        sections=[
            Section(id="runs", title="The runs", text=content["notes"], tables=[table]),
            Section(id="fronts", title="The fronts", chart=chart, tables=tables),
        ],
    )
