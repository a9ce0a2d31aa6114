"""What a study leaves behind: views, the best network, and any other network on request."""

from __future__ import annotations

import html
import io
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pandas as pd
from torch import nn

from se_nas.analysis.confirmation import read_confirmed
from se_nas.analysis.findings import Findings
from se_nas.analysis.selection import select as select_trial
from se_nas.analysis.summary import Network, Summary, as_json, summarize
from se_nas.analysis.tables import best_row
from se_nas.commands.diagnosis import explained
from se_nas.commands.page_facts import page_facts
from se_nas.core.config import SearchConfig, of_before
from se_nas.core.errors import RunError
from se_nas.core.files import clear_parts, weights_file
from se_nas.core.plain_text import visible
from se_nas.core.serialization import from_plain
from se_nas.core.storage_url import dashboard_command, offer, without_password
from se_nas.core.trial import Objective, Trial
from se_nas.core.words import CHANCES_HEAD, chances_cell, chances_note, few
from se_nas.data.base import DataInfo
from se_nas.engine.run_folder import FINAL, STUDY, RunFolder, clear_errors
from se_nas.engine.storage import reading
from se_nas.engine.study import EARLIER, Study
from se_nas.exports.bundle import export_trial, load
from se_nas.report.figures import draw_front, write_paper, write_views
from se_nas.report.notebook import front_figure
from se_nas.report.page import write_page
from se_nas.report.run_page import run_page

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

T = TypeVar("T")

SHOWN = ("trial", "placement", "role", "metric", "mean", "lower", "upper", "p_front", "gain", CHANCES_HEAD, "params",
         "gflops")  # fmt: skip
"""Columns of the front that a notebook shows."""


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """What a search found: ``summary`` in words and numbers, ``found`` with all that follows from the trials."""

    folder: Path
    summary: Summary
    found: Findings
    dashboard: str = ""
    """The command that opens the study in optuna-dashboard."""

    @property
    def trials(self) -> pd.DataFrame:
        """One row for each trial."""
        return self.found.table

    @property
    def front(self) -> pd.DataFrame:
        """The networks that are on the front."""
        return self.found.front

    @property
    def best(self) -> pd.Series | None:
        """The row of the front with the best posterior mean (with few trainings: the best observed metric)."""
        return self.found.best

    @property
    def objective(self) -> Objective:
        """What the search compares: a metric with its direction, and costs to keep low."""
        return self.found.objective

    @property
    def recommended(self) -> Network | None:
        """The one network that is recommended; ``best/``, the page, an export and the terminal mean the same one.

        None where nothing can be said; ``best/`` then has the best network so far, if one is within the limits.
        """
        return self.summary.recommended

    @property
    def ended(self) -> str:
        """Why the search ended, in words."""
        return self.summary.ended

    def as_json(self) -> dict[str, Any]:
        """What ``se-nas search --json`` prints."""
        return as_json(self.summary, self.found)

    def plot(self, cost: str | None = None) -> Figure:
        """The front as a figure of plotly, which a notebook shows: the chart of ``report.html``, with its hover texts.

        Over the cost of the search, or another cost that the trials have. ``front.png`` and ``front.svg`` in the run
        folder are versions for papers; ``write_html`` of the figure saves it as a page.
        """
        return front_figure(self.found, self.summary, cost=cost, confirmation=read_confirmed(self.folder))

    def network(self, select: str = "recommended", *, trust: bool = False) -> nn.Module:
        """A trained network, in eval mode on the CPU; which, as `se_nas.analysis.selection.select` says.

        `trust` is that of `se_nas.load`.
        """
        run, study = existing_run(self.folder)
        trial = select_trial(self.found, select, read_confirmed(self.folder))
        with tempfile.TemporaryDirectory() as folder:
            return load(_export(run, study, trial, Path(folder) / "network"), trust=trust)

    def __repr__(self) -> str:
        """The folder and what was found with the verdict, on one screen: its reasons stand in the report."""
        reasons = {reason.text for reason in self.summary.verdict.reasons}
        lines = [f"Ended: {self.ended}.", *(line for line in self.summary.lines if line not in reasons)]
        if reasons:
            lines.append(f"Why: {len(reasons)} reason{'s' * (len(reasons) > 1)} in {self.folder / 'report.html'}")
        return visible("\n  ".join((f"SearchResult({str(self.folder)!r}, {len(self.found.trials)} trials)", *lines)))

    def _repr_html_(self) -> str:
        """What a notebook shows: the sentences of the report, the figure and the front."""
        cautions = (caution.text for caution in self.summary.verdict.cautions)
        lines = (f"Ended: {self.ended}.", *cautions, *self.summary.gained)
        sentences = "".join(f"<p>{html.escape(line)}</p>" for line in lines)
        if self.front.empty:
            return sentences
        file = io.StringIO()
        draw_front(self.found).savefig(file, format="svg")
        figure = file.getvalue()
        front, note = self.front, ""
        if front["p_better"].notna().any():
            chances = front[["role", "p_better", "p_same", "p_worse"]].itertuples(index=False)
            cells = ["" if role == "baseline" else chances_cell(*shares) for role, *shares in chances]
            front = front.assign(**{CHANCES_HEAD: cells})
            note = f"<p>{html.escape(chances_note(self.found.margin, self.found.unit))}</p>"
        columns = [c for c in SHOWN if c in front and front[c].notna().any()]
        table = front[columns].to_html(index=False, float_format="{:.4f}".format)
        return f"{sentences}{figure[figure.index('<svg') :]}{table}{note}"


def conclude(run: RunFolder, study: Study, ended: str) -> SearchResult:
    """Write the views, the page and the best network, from the study alone; return the result."""
    config = replace(stored(study, "config", SearchConfig), storage=None if study.url == run.storage else study.url)
    run.write_config(config)
    found = study.findings()
    write_views(run.path, found)
    confirmation = read_confirmed(run.path)
    summary = summarize(found, folder=str(run.path), budget=config.budget, ended=ended, confirmation=confirmation)
    summary = explained(summary, run, study, found, config, confirmation)
    if note := _write_best(run, study, found, summary, shared=config.storage is not None):
        summary = replace(summary, gained=(*summary.gained, note))
    write_run_page(run, study, found, summary)
    return SearchResult(folder=run.path, summary=summary, found=found, dashboard=dashboard_command(study.url))


def _write_best(run: RunFolder, study: Study, found: Findings, summary: Summary, *, shared: bool) -> str:
    """Write the leading network into ``best/``; returns what is to be said if it has no weights here."""
    trials = {t.number: t for t in found.trials}
    kept = [weights_file(run.path, int(n), trials[int(n)].identity.phase).is_file() for n in found.complete["trial"]]
    wanted, other = summary.leading, best_row(found.complete[kept], found.objective)
    if wanted is None or other is None:
        return ""
    if wanted.trial in set(found.complete[kept]["trial"]):
        _export(run, study, trials[wanted.trial], run.path / "best")
        return ""
    _export(run, study, trials[int(other["trial"])], run.path / "best")
    leads = "is the best so far" if summary.recommended is None else "is recommended"
    why = "are not in this folder (the driver that trained it has them)" if shared else "were dropped while others led"
    return (
        f"The weights of trial {wanted.trial}, which {leads}, {why}: best/ is trial {other['trial']}, "
        f"{other['placement']}, the best that has weights."
    )


def write_run_page(
    run: RunFolder, study: Study, found: Findings, summary: Summary, *, refresh: float | None = None
) -> Path:
    """Write ``report.html`` into a run folder: the page of a study, with the confirm of the run if there is one."""
    facts = page_facts(run, study, found, stored(study, "config", SearchConfig), stored(study, "data", DataInfo))
    return write_page(run_page(found, summary, facts, refresh=refresh), run.path / "report.html")


def write_page_of(run: RunFolder, study: Study, *, refresh: float | None = None) -> SearchResult:
    """Write only the page of a study as it is now."""
    found, budget = study.findings(), stored(study, "config", SearchConfig).budget
    ended = progress_text(found.trials, budget)
    confirmation = read_confirmed(run.path)
    summary = summarize(found, folder=str(run.path), budget=budget, ended=ended, confirmation=confirmation)
    write_run_page(run, study, found, summary, refresh=refresh)
    return SearchResult(folder=run.path, summary=summary, found=found, dashboard=dashboard_command(study.url))


def report_again(folder: Path, *, figures: Path | None = None, storage: str | None = None) -> SearchResult:
    """Rebuild all views of a run from its study alone, which is only read.

    While a search is running in the folder, only the page is written, with the results so far.

    Parameters
    ----------
    figures:
        A folder for figures and tables for papers, see `se_nas.report.figures.write_paper`.
    storage:
        The storage that the folder names, if its study is not in the folder itself.
    """
    run, study = existing_run(folder, storage=storage)
    with reading(study.url), clear_errors(run.path if figures is None else figures):
        if run.busy:
            result = write_page_of(run, study)
        else:
            budget = stored(study, "config", SearchConfig).budget
            clear_parts(run.path)
            result = conclude(run, study, progress_text(study.trials(), budget))
        if figures is not None:
            write_paper(figures, result.found)
        return result


def progress_text(trials: Sequence[Trial], budget: int) -> str:
    """How far a search is, in words."""
    return f"{sum(t.counts for t in trials)} of {few(budget)} there"


def _export(run: RunFolder, study: Study, trial: Trial, target: Path) -> Path:
    return export_trial(
        run.path,
        trial,
        target,
        backbone=stored(study, "config", SearchConfig).backbone,
        units=study.space.units,
        data=stored(study, "data", DataInfo),
    )


def existing_run(folder: Path, *, storage: str | None = None, read_only: bool = True) -> tuple[RunFolder, Study]:
    """The folder of a run and its study, which is not changed with `read_only`; RunError if there is none.

    A storage that the folder names is opened only if the user gives it.
    """
    run = RunFolder(folder)
    url = run.find_storage(storage)
    if storage is not None:
        offer(url)
    found = (Study.latest(url, name, read_only=read_only) for name in (STUDY, FINAL))
    study = next((study for study in found if study is not None), None)
    if study is None:
        raise RunError(f"the storage of {str(run.path)!r} has no search in it", hint="run se-nas search first")
    return run, study


def stored(study: Study, name: str, kind: type[T]) -> T:
    """What the search kept beside its trials: its ``config`` or its ``data``; RunError if it died before."""
    if name not in study.optuna.user_attrs:
        raise RunError(f"study {study.name!r} has no {name}: its search ended before it began", hint="search again")
    content = study.optuna.user_attrs[name]
    if kind is SearchConfig and isinstance(content, dict):
        content = {**EARLIER, **of_before(content)}
        if isinstance(storage := content.get("storage"), str):  # earlier versions kept the password
            content["storage"] = without_password(storage)
    return from_plain(content, kind, where=f"study {study.name}")
