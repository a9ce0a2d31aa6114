"""What a study leaves behind: views, the best network, and any other network on request."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from se_nas.config import SearchConfig
from se_nas.confirmed import read_confirmed
from se_nas.data.base import DataInfo
from se_nas.effects import effects_table
from se_nas.errors import RunError
from se_nas.evaluate import weights_file
from se_nas.export import export_trial
from se_nas.figures import metric_unit, write_paper, write_views
from se_nas.page import write_page
from se_nas.records import Unit, from_plain, to_plain
from se_nas.report import best_row, complete_table, front_table, summary, trials_table
from se_nas.run_folder import STUDY, RunFolder
from se_nas.run_page import run_page
from se_nas.study import Study, reading
from se_nas.verdict import provisional_verdict

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
    """Write the views, the page and the best network, from the study alone; return the result."""
    trials, objective, space = study.trials(), study.objective, study.space
    run.write_config(stored(study, "config", SearchConfig))
    done = complete_table(trials, objective, space)
    write_views(run.path, trials, objective, space, done=done)
    front = front_table(trials, objective, space, done=done)
    best = best_row(front, objective)
    content = described(run, study, ended, done)
    here = best_row(done[[weights_file(run.path, int(n)).is_file() for n in done["trial"]]], objective)
    if best is not None and here is not None:
        _export(run, study, int(here["trial"]), run.path / "best")
        if here["trial"] != best["trial"]:
            content["gained"].append(
                f"The weights of trial {best['trial']} were dropped while others led: best/ is trial {here['trial']}, "
                f"{here['placement']}, the best that has weights."
            )
    write_run_page(run.path, study, content, done)
    return SearchResult(
        folder=run.path,
        trials=trials_table(trials, objective),
        front=front,
        best=best,
        ended=ended,
        summary=content,
    )


def described(run: RunFolder, study: Study, ended: str, done: pd.DataFrame) -> dict[str, Any]:
    """What a study says, as plain data: `report.summary`, with the provisional verdict."""
    trials, objective = study.trials(), study.objective
    budget = stored(study, "config", SearchConfig).budget
    content = summary(trials, objective, folder=run.path, budget=budget, ended=ended, done=done)
    content["verdict"] = to_plain(provisional_verdict(content, unit=metric_unit(trials, objective)))
    return content


def write_run_page(
    folder: Path, study: Study, content: dict[str, Any], done: pd.DataFrame, *, refresh: float | None = None
) -> Path:
    """Write ``report.html`` into a run folder: the page of a study, with the confirm of the run if there is one."""
    trials, objective, space = study.trials(), study.objective, study.space
    page = run_page(
        folder,
        trials,
        objective,
        space,
        config=stored(study, "config", SearchConfig),
        data=stored(study, "data", DataInfo),
        content=content,
        done=done,
        effects=effects_table(trials, objective, space),
        confirmation=read_confirmed(folder),
        times=study.times(),
        refresh=refresh,
    )
    return write_page(page, folder / "report.html")


def write_page_of(run: RunFolder, study: Study, ended: str, *, refresh: float | None = None) -> dict[str, Any]:
    """Write only the page of a study as it is now; returns the summary."""
    done = complete_table(study.trials(), study.objective, study.space)
    content = described(run, study, ended, done)
    write_run_page(run.path, study, content, done, refresh=refresh)
    return content


def report_again(folder: Path, *, figures: Path | None = None) -> dict[str, Any]:
    """Make all views of a run again, from its study alone; returns the summary.

    While a search works in the folder, its files are left to it: only the page is written, as of now.

    Parameters
    ----------
    figures:
        A folder for figures and tables as papers want them, see `figures.write_paper`.
    """
    run, study = open_run(folder)
    with reading(study.url):
        trials = study.trials()
        if figures is not None:
            write_paper(figures, trials, study.objective, study.space)
        ended = progress_text(study)
        if run.busy:
            return write_page_of(run, study, ended)
        return conclude(run, study, ended).summary


def progress_text(study: Study) -> str:
    """How far a search is, in words."""
    trained, budget = sum(t.counts for t in study.trials()), stored(study, "config", SearchConfig).budget
    return f"{trained} of {budget} trainings are there"


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
