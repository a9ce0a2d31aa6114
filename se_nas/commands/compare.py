"""Several runs side by side: their fronts in one figure and one table, with one reference point for all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from se_nas.commands.results import existing_run, stored
from se_nas.core.config import OWN_DATA, SearchConfig
from se_nas.core.errors import RunError
from se_nas.core.files import user_path
from se_nas.core.words import cost_name, cost_text
from se_nas.engine.run_folder import RunFolder, clear_errors
from se_nas.engine.storage import reading
from se_nas.report.compare_page import ComparedRun, Comparison, Run, compare_page, compare_table
from se_nas.report.figures import cost_columns, draw_fronts, save_figure, save_table
from se_nas.report.metric import Metric
from se_nas.report.page import write_page
from se_nas.samplers.features import Array
from se_nas.samplers.pareto import Index, hypervolume, rising_front


def compare(
    folders: Sequence[Path], target: Path, *, cost: str | None = None, storage: str | None = None
) -> Comparison:
    """Compare runs: write ``compare.html``, figures (PNG, SVG, PDF) and tables (CSV, Markdown, LaTeX) into a folder.

    Runs with different metrics or directions are an error. Runs on different data or with different epochs are
    compared, since that may be the question, and marked.

    Parameters
    ----------
    cost:
        The cost axis; default the first one of the first run.
    storage:
        The storage of those runs whose folder names one.
    """
    runs = _opened(folders, storage)
    cost = cost or runs[0].found.objective.cost
    for run in runs:
        if cost not in run.done or run.done[cost].isna().any():
            raise RunError(
                f"run {run.name!r} has no {cost} of all its networks", allowed=_shared(runs), hint="give --cost"
            )
    value = "mean" if all(run.done["mean"].notna().all() for run in runs) else "metric"
    metric = Metric(runs[0].found)
    losses = [np.column_stack([-metric.sign * run.done[value], run.done[cost]]).astype(float) for run in runs]
    worst, best = np.concatenate(losses).max(axis=0), np.concatenate(losses).min(axis=0)
    size = np.where(worst > best, worst - best, 1.0)
    fronts = [rising_front(loss[:, 1:], -loss[:, 0]) for loss in losses]
    volumes = [hypervolume((loss - best) / size, np.ones(2)) for loss in losses]
    comparison = Comparison(
        out=str(target), metric=metric.name, unit=runs[0].found.unit, direction=runs[0].found.objective.direction,
        cost=cost, value=value,
        reference=(float(-metric.sign * worst[0]), float(worst[1])),
        best=(float(-metric.sign * best[0]), float(best[1])),
        notes=tuple(_notes(runs, value, metric, cost, worst)),
        runs=tuple(_row(*each, value, cost) for each in zip(runs, fronts, volumes, strict=True)),
    )  # fmt: skip
    table = compare_table(comparison, metric)
    frame = pd.DataFrame(table.rows, columns=[head.label for head in table.heads])
    lines = {run.name: run.done.iloc[front] for run, front in zip(runs, fronts, strict=True)}
    figure = draw_fronts(lines, cost, value, metric.name, runs[0].found.unit)
    with clear_errors(target):
        target.mkdir(parents=True, exist_ok=True)
        save_figure(figure, target / "compare")
        save_table(frame, target / "compare")
        write_page(compare_page(runs, fronts, comparison, table, metric), target / "compare.html")
    return comparison


def _opened(folders: Sequence[Path], storage: str | None) -> list[Run]:
    """The runs, each with a complete training; RunError where they are too few, doubled or of other metrics."""
    paths = [user_path(folder).absolute().resolve() for folder in folders]
    if len(paths) < 2:
        raise RunError(
            "one run cannot be compared", hint="give at least two run folders; se-nas report shows a single one"
        )
    if doubled := next((p for i, p in enumerate(paths) if p in paths[:i]), None):
        raise RunError(f"run {str(doubled)!r} is given twice", hint="name each run once")
    runs: list[Run] = []
    for path, name in zip(paths, _names(paths), strict=True):
        _, study = existing_run(path, storage=storage if RunFolder(path).named_storage() else None)
        with reading(study.url):
            found, facts = study.findings(), study.facts
            config = stored(study, "config", SearchConfig)
        if found.complete.empty:
            raise RunError(f"run {str(path)!r} has no finished training to compare", hint="go on with its search first")
        objective = found.objective
        first = runs[0].found.objective if runs else objective
        if (objective.metric, objective.direction) != (first.metric, first.direction):
            raise RunError(
                f"run {name!r} is of {objective.metric} ({objective.direction}), run {runs[0].name!r} of "
                f"{first.metric} ({first.direction}): they have no common axis",
                hint="compare runs of one metric",
            )
        data = f"{facts['data']['checksum']}/{facts['data']['split']}"
        runs.append(Run(name=name, config=config, found=found, data=data))
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
        for name in cost_columns(runs[0].done, [n for r in runs for n in r.found.axes])
        if all(name in run.done and run.done[name].notna().all() for run in runs)
    ]


def _notes(runs: Sequence[Run], value: str, metric: Metric, cost: str, worst: Array) -> list[str]:
    notes = []
    if len({run.data for run in runs}) > 1:
        notes.append(
            f"The runs are of different data: their {metric.name} does not measure the same, and neither fronts nor "
            "hypervolumes say which run is better."
        )
    if len({run.config.train.epochs for run in runs}) > 1:
        notes.append("The runs trained for different numbers of epochs: a higher front may be the longer training.")
    notes.append(
        "Values are model estimates."
        if value == "mean"
        else "Values are single trainings, since a run has too few for a model estimate: the best is optimistic."
    )
    worst_value = f"{metric.value(-metric.sign * worst[0])} {metric.unit}".strip()
    notes.append(
        f"Hypervolume: share of the box between the best value at the lowest cost and the common reference point, "
        f"{metric.name} {worst_value} at {cost_name(cost)} {cost_text(worst[1], cost)}, the worst of all runs."
    )
    return notes


def _row(run: Run, front: Index, volume: float, value: str, cost: str) -> ComparedRun:
    best = run.done.iloc[front[-1]]
    return ComparedRun(
        run=run.name,
        backbone=run.config.backbone.target,
        data=run.config.trainer.target if run.config.data.target == OWN_DATA else run.config.data.target,
        data_checksum=run.data,
        sampler=run.config.sampler.target,
        epochs=run.config.train.epochs,
        trained=sum(t.counts for t in run.found.trials),
        front=len(front),
        best=str(best["placement"]),
        value=float(best[value]),
        lower=None if pd.isna(best["lower"]) else float(best["lower"]),
        upper=None if pd.isna(best["upper"]) else float(best["upper"]),
        cost=float(best[cost]),
        hypervolume=float(volume),
    )
