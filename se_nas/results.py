"""What a study leaves behind: views, the best network, and any other network on request."""

from __future__ import annotations

import html
import io
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pandas as pd
from torch import nn

from se_nas.config import SearchConfig
from se_nas.confirmed import read_confirmed
from se_nas.data.base import DataInfo
from se_nas.effects import effects_table
from se_nas.errors import RunError
from se_nas.export import export_trial, load
from se_nas.figures import draw_front, write_paper, write_views
from se_nas.files import weights_file
from se_nas.page import write_page
from se_nas.records import Unit, from_plain, to_plain
from se_nas.report import best_row, complete_table, front_table, metric_unit, summary, trials_table
from se_nas.run_folder import FINAL, STUDY, RunFolder, clear_errors
from se_nas.run_page import run_page
from se_nas.selection import select as select_trial
from se_nas.storage import reading
from se_nas.study import EARLIER, Objective, Study
from se_nas.verdict import provisional_verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

T = TypeVar("T")

SHOWN = ("trial", "placement", "role", "metric", "mean", "lower", "upper", "p_front", "params", "gflops")
"""Columns of the front that a notebook shows."""


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
    objective: Objective

    def plot(self) -> Figure:
        """The figure of the front, of `matplotlib`: all trials, the front with its intervals, the reference points."""
        return draw_front(self.trials, self.front, self.objective)

    def network(self, select: str = "best") -> nn.Module:
        """A trained network, in eval mode on the CPU; which, as `se_nas.selection.select` says."""
        if select == "best":
            return load(self.folder / "best")
        run, study = existing_run(self.folder)
        trial = select_trial(study.trials(), study.objective, study.space, select)
        with tempfile.TemporaryDirectory() as folder:
            return load(_export(run, study, trial.number, Path(folder) / "network"))

    def _repr_html_(self) -> str:
        """What a notebook shows: the sentences of the report, the figure and the front."""
        sentences = "".join(
            f"<p>{html.escape(line)}</p>" for line in (f"Ended: {self.ended}.", *self.summary["gained"])
        )
        if self.front.empty:
            return sentences
        file = io.StringIO()
        self.plot().savefig(file, format="svg")
        figure = file.getvalue()
        columns = [c for c in SHOWN if c in self.front and self.front[c].notna().any()]
        table = self.front[columns].to_html(index=False, float_format="{:.4f}".format)
        return f"{sentences}{figure[figure.index('<svg') :]}{table}"


def conclude(run: RunFolder, study: Study, ended: str) -> SearchResult:
    """Write the views, the page and the best network, from the study alone; return the result."""
    trials, objective, space = study.trials(), study.objective, study.space
    run.write_config(stored(study, "config", SearchConfig))
    done = complete_table(trials, objective, space)
    write_views(run.path, trials, objective, space, done=done)
    front = front_table(trials, objective, space, done=done)
    best = best_row(front, objective)
    content = described(run, study, ended, done)
    phases = {t.number: t.identity.phase for t in trials}
    kept = [weights_file(run.path, int(n), phases[int(n)]).is_file() for n in done["trial"]]
    here = best_row(done[kept], objective)
    if best is not None and here is not None:
        _export(run, study, int(here["trial"]), run.path / "best")
        if here["trial"] != best["trial"]:
            shared = stored(study, "config", SearchConfig).storage is not None
            why = (
                "are not in this folder (the driver that trained it has them)"
                if shared
                else "were dropped while others led"
            )
            content["gained"].append(
                f"The weights of trial {best['trial']} {why}: best/ is trial {here['trial']}, {here['placement']}, "
                "the best that has weights."
            )
    write_run_page(run.path, study, content, done)
    return SearchResult(
        folder=run.path,
        trials=trials_table(trials, objective),
        front=front,
        best=best,
        ended=ended,
        summary=content,
        objective=objective,
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
    run, study = existing_run(folder)
    with reading(study.url), clear_errors(run.path if figures is None else figures):
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


def _export(run: RunFolder, study: Study, number: int, target: Path) -> Path:
    return export_trial(
        run.path,
        next(t for t in study.trials() if t.number == number),
        target,
        backbone=stored(study, "config", SearchConfig).backbone,
        units=from_plain(study.facts["space"]["units"], tuple[Unit, ...]),
        data=stored(study, "data", DataInfo),
    )


def existing_run(folder: Path) -> tuple[RunFolder, Study]:
    """The folder of a run and its study; RunError if there is none."""
    run = RunFolder(folder)
    storage = run.find_storage()
    study = Study.latest(storage, STUDY) or Study.latest(storage, FINAL)
    if study is None:
        raise RunError(f"the storage of {str(run.path)!r} has no search in it", hint="run se-nas search first")
    return run, study


def stored(study: Study, name: str, kind: type[T]) -> T:
    """What the search kept beside its trials: its ``config`` or its ``data``; RunError if it died before."""
    if name not in study.optuna.user_attrs:
        raise RunError(f"study {study.name!r} has no {name}: its search ended before it began", hint="search again")
    kept = study.optuna.user_attrs[name]
    if kind is SearchConfig and isinstance(kept, dict):
        kept = {**EARLIER, **kept}
    return from_plain(kept, kind, where=f"study {study.name}")
