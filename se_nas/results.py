"""What a study leaves behind: views, the best network, and any other network on request."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from se_nas.config import SearchConfig
from se_nas.data.base import DataInfo
from se_nas.errors import RunError
from se_nas.evaluate import weights_file
from se_nas.export import export_trial
from se_nas.records import Unit, from_plain
from se_nas.figures import write_views
from se_nas.report import best_row, complete_table, front_table, summary, trials_table
from se_nas.run_folder import STUDY, RunFolder
from se_nas.study import Study

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """What a search found."""

    folder: Path
    trials: pd.DataFrame
    front: pd.DataFrame
    best: pd.Series | None
    """The row of the front with the best posterior mean (with few trainings: the best observed metric)."""
    ended: str
    """Why the search ended, in words."""
    summary: dict[str, Any]


def conclude(run: RunFolder, study: Study, ended: str) -> SearchResult:
    """Write the views and the best network, from the study alone; return the result."""
    trials, objective, space = study.trials(), study.objective, study.space
    config = stored(study, "config", SearchConfig)
    run.write_config(config)
    write_views(run.path, trials, objective, space)
    front = front_table(trials, objective, space)
    best = best_row(front, objective)
    content = summary(trials, objective, folder=run.path, budget=config.budget, ended=ended, space=space)
    complete = complete_table(trials, objective, space)
    here = best_row(complete[[weights_file(run.path, int(n)).is_file() for n in complete["trial"]]], objective)
    if best is not None and here is not None:
        _export(run, study, int(here["trial"]), run.path / "best")
        if here["trial"] != best["trial"]:
            content["gained"].append(
                f"The weights of trial {best['trial']} were dropped while others led: best/ is trial {here['trial']}, "
                f"{here['placement']}, the best that has weights."
            )
    return SearchResult(
        folder=run.path,
        trials=trials_table(trials, objective),
        front=front,
        best=best,
        ended=ended,
        summary=content,
    )


def report_again(folder: Path) -> dict[str, Any]:
    """Make all views of a run again, from its study alone; returns the summary."""
    run, study = open_run(folder)
    trained = sum(t.counts for t in study.trials())
    budget = stored(study, "config", SearchConfig).budget
    return conclude(run, study, f"{trained} of {budget} trainings are there").summary


def export_selected(folder: Path, select: str, target: Path | None) -> Path:
    """Write the network of a trial (``best``, ``baseline``, ``reference`` or ``trial=N``) of a run to a folder."""
    run, study = open_run(folder)
    trials, objective = study.trials(), study.objective
    if select == "best":
        best = best_row(front_table(trials, objective, study.space), objective)
        numbers = [] if best is None else [int(best["trial"])]
    elif select.startswith("trial=") and select[6:].isdigit():
        numbers = [t.number for t in trials if t.number == int(select[6:])]
    elif select in ("baseline", "reference"):
        numbers = [t.number for t in trials if t.role == select and t.state == "complete"]
    else:
        raise RunError(f"select is {select!r}", allowed=["best", "baseline", "reference", "trial=N"])
    if not numbers or next(t for t in trials if t.number == numbers[0]).state != "complete":
        raise RunError(f"the run has no finished training for {select!r}", where=str(run.path))
    key = next(t.placement.key for t in trials if t.number == numbers[0])
    return _export(run, study, numbers[0], target or run.path / f"export-{key}")


def _export(run: RunFolder, study: Study, number: int, target: Path) -> Path:
    return export_trial(
        run.path,
        next(t for t in study.trials() if t.number == number),
        target,
        backbone=stored(study, "config", SearchConfig).backbone,
        units=from_plain(study.facts["space"]["units"], tuple[Unit, ...]),
        data=stored(study, "data", DataInfo),
    )


def open_run(folder: Path) -> tuple[RunFolder, Study]:
    """A run folder and the study of its search; RunError if there is none."""
    run = RunFolder(folder)
    study = Study.latest(run.find_storage(), STUDY)
    if study is None:
        raise RunError(f"the storage of {str(run.path)!r} has no search in it", hint="run se-nas search first")
    return run, study


def stored(study: Study, name: str, kind: type[T]) -> T:
    """A record that the search left in its study; RunError if it died before."""
    if name not in study.optuna.user_attrs:
        raise RunError(f"study {study.name!r} has no {name}: its search ended before it began", hint="search again")
    return from_plain(study.optuna.user_attrs[name], kind, where=f"study {study.name}")
