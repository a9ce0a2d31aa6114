"""The page of a search that is still running, made beside it by a process of its own."""

from __future__ import annotations

import time
from pathlib import Path

from se_nas.commands.results import SearchResult, existing_run, report_again, write_page_of
from se_nas.engine.run_folder import RunFolder, clear_errors
from se_nas.engine.storage import reading
from se_nas.engine.study import Study
from se_nas.report.view import View

#: Writing the page takes at most one part in so many of a core, however long it takes.
SHARE = 5


def watch(
    folder: Path, *, every: float, view: View, figures: Path | None = None, storage: str | None = None
) -> SearchResult:
    """Write ``report.html`` every few seconds while a driver works in a run folder, and all views at its end.

    The search is not slowed down by more than this process takes: the study is read, never written. A run that has
    ended is reported once. After Ctrl-C the page stays as it is, and loads itself no more.

    Parameters
    ----------
    every:
        Seconds between two versions, more where making one takes long.
    """
    run, study, told = RunFolder(folder), None, False
    while run.busy:
        start = time.monotonic()
        study = study or _begun(run, storage)
        if study is not None:
            _write(run, study, every)
            if not told:
                view.say(
                    f"{run.path / 'report.html'} is written every {every:g} s while the search runs; Ctrl-C ends this"
                )
                told = True
        taken = time.monotonic() - start
        try:
            time.sleep(max(every, SHARE * taken))
        except KeyboardInterrupt:
            if study is not None:
                _write(run, study, None)
            raise
    return report_again(folder, figures=figures, storage=storage)


def _begun(run: RunFolder, storage: str | None) -> Study | None:
    """The study of a run, or None before its driver has made it."""
    try:
        _, study = existing_run(run.path, storage=storage)
    except Exception:
        if run.busy:
            return None
        raise
    return study if {"config", "data"} <= study.optuna.user_attrs.keys() else None


def _write(run: RunFolder, study: Study, refresh: float | None) -> None:
    with reading(study.url), clear_errors(run.path):
        write_page_of(run, study, refresh=refresh)
