"""The plan of a search, without the search: what it would train, what that takes, and what it could find out."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Unpack

from se_nas.analysis.search_plan import SearchPlan
from se_nas.core.config import SearchConfig
from se_nas.core.overrides import SearchSettings, configured
from se_nas.core.protocols import Executor
from se_nas.engine.kept_start import start_of, study_of
from se_nas.engine.opening import check_same
from se_nas.engine.planning import allowed_keys, plan_of, timed, weighed
from se_nas.engine.problem import Problem, prepare
from se_nas.engine.proposer import Proposer
from se_nas.engine.run_folder import RunFolder, clear_errors, default_folder
from se_nas.engine.study import Study
from se_nas.executors.build import open_executor
from se_nas.report.plan_text import cost_lines, what_lines
from se_nas.report.view import View
from se_nas.space.pricing import CACHE, FITS


def plan(
    config: SearchConfig | None = None, *, view: View | None = None, **settings: Unpack[SearchSettings]
) -> SearchPlan:
    """What `se_nas.search` would do with these settings: images, networks, trainings, time, memory, disk, and effect.

    Only a few training steps are run, to time them. The run folder is read, not written; the data are prepared in a
    temporary folder. A `view` shows what is being done.

    Raises
    ------
    SeNasError
        If the search itself could not start.
    """
    config = configured(config, settings)
    run = RunFolder(Path(config.out) if config.out else default_folder(config))
    with clear_errors(run.path.parent), _scratch(run.path) as scratch, view or View(quiet=True) as shown:
        study = study_of(config, run, read_only=True)
        problem = prepare(config, scratch, init=start_of(study), stage=shown.stage)
        if study is not None:
            check_same(study, problem, run)
        trials = [] if study is None else study.trials()
        if problem.costs.measurer is not None:  # limits on latency need predictions
            problem.costs.prepare()
        found = plan_of(problem, run.path, trials, allowed=allowed_keys(problem), data_folder=scratch)
        found = weighed(found, problem, run.path)
        if not found.trainings or found.timing is not None or found.untimed:
            return found
        shown.stage("timing some steps of training")
        executor = open_executor(problem.config.executor, problem.devices)
        done = False
        try:
            found = timed(found, problem, scratch, executor)
            done = True
        finally:
            executor.shutdown(wait=done)
        return found


@contextlib.contextmanager
def _scratch(run: Path) -> Iterator[Path]:
    """A folder on the disk of the run, with what the run has prepared already; gone at the end."""
    there = next(path for path in run.parents if path.is_dir())
    where = there if os.access(there, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix=".se-nas-plan-", dir=where, ignore_cleanup_errors=True) as folder:
        scratch = Path(folder)
        if (run / "data" / "data.json").is_file():
            (scratch / "data").mkdir()
            with contextlib.suppress(OSError):  # then they are prepared anew
                for file in (run / "data").iterdir():
                    (scratch / "data" / file.name).hardlink_to(file)
        for name in (CACHE, FITS):
            if (run / name).is_file():
                shutil.copyfile(run / name, scratch / name)
        yield scratch


def announced(
    problem: Problem, run: RunFolder, study: Study, proposer: Proposer, view: View
) -> Callable[[Executor], object]:
    """Say what a search is about to do; the rest of its plan is said by what is returned, once there are workers."""
    found = plan_of(problem, run.path, study.trials(), allowed=proposer.allowed)
    view.say(*what_lines(found))

    def say_the_rest(executor: Executor) -> None:
        plan = weighed(found, problem, run.path)
        known = plan.timing is not None or plan.untimed or not plan.trainings
        if not known:
            view.stage("timing some steps of training")
            plan = timed(plan, problem, run.path, executor)
        view.expected = None if plan.timing is None else plan.timing.seconds
        view.say(*cost_lines(plan))

    return say_the_rest
