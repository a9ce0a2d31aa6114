"""The search, from a configuration to a front. Read this first.

::

    config -> data, backbone -> units -> space -> exact costs     (problem)
           -> propose -> evaluate, in an executor -> tell         (driver)
           -> front, best network                                 (results)

The Optuna storage is the one truth; everything else is a view made from it. One driver asks and tells, executors
only train.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import SQLAlchemyError

from se_nas.config import SearchConfig
from se_nas.driver import Driver
from se_nas.errors import RunError
from se_nas.problem import Problem, is_wider, prepare
from se_nas.propose import Proposer
from se_nas.records import Placement, Trial, to_plain
from se_nas.results import SearchResult, conclude
from se_nas.run_folder import STUDY, RunFolder, default_folder, differences
from se_nas.samplers import open_sampler
from se_nas.study import Study
from se_nas.view import View


def search(config: SearchConfig | None = None, *, view: View | None = None) -> SearchResult:
    """Search, or go on with the search in the run folder of the configuration.

    Raises
    ------
    SeNasError
        For anything that the user can mend; what was finished before is kept.
    """
    config = config or SearchConfig()
    run = RunFolder(Path(config.out) if config.out else default_folder(config))
    run.lock()
    try:
        with view or View(quiet=True) as shown, clear_errors(run):
            problem = prepare(config, run.path)
            study = open_study(problem, run, shown)
            ended = Driver(problem, run, study, shown, proposals(problem, run, study)).drive()
            return conclude(run, study, ended)
    finally:
        run.unlock()


def open_study(problem: Problem, run: RunFolder, view: View) -> Study:
    """The study of a problem: a new one, the one in the run folder, or that one carried over into a wider space.

    RunError, with the differences, if the study in the folder is of something else.
    """
    storage = problem.config.storage or run.storage
    study = Study.latest(storage, STUDY)
    if study is None:
        study = Study(storage, STUDY, problem.objective, problem.facts)
    elif changed := differences(study.facts, problem.facts):
        if not is_wider(study.facts, problem.facts):
            raise RunError(
                "the run is of something else, and cannot go on with this:\n  " + "\n  ".join(changed[:12]),
                where=str(run.path),
                hint="give another --out, or the settings that the run was made with",
            )
        view.say("the space is wider than before: its trials are carried over")
        study = study.widen(problem.facts, problem.space)
    config = replace(problem.config, train=replace(problem.recipe, precision=problem.precision))
    run.write_config(config)
    study.optuna.set_user_attr("config", to_plain(config))
    study.optuna.set_user_attr("data", to_plain(problem.data))
    return study


def proposals(problem: Problem, run: RunFolder, study: Study) -> Proposer:
    """What the search trains: proposals of the configured sampler. Measures first what predicted costs need."""
    config = problem.config
    problem.costs.prepare()
    study.optuna.sampler = open_sampler(
        config.sampler,
        space=problem.space,
        seed=config.seed + len(study.trials()),  # a resumed sampler must not repeat its first draws
        budget=config.budget,
        cost=problem.costs.of_levels(problem.space, config.cost.split(","), config.max),
    )

    def record(placement: Placement, role: str, attempts: int, replicate: int) -> Trial:
        return problem.trial(placement, owner=run.owner, role=role, attempts=attempts, replicate=replicate)

    return Proposer(study, problem.space, problem.costs, config.max, seed=config.seed, record=record)


@contextlib.contextmanager
def clear_errors(run: RunFolder) -> Iterator[None]:
    """Errors of the disk and of the study file in words that help."""
    try:
        yield
    except OSError as error:
        free = shutil.disk_usage(run.path).free
        raise RunError(
            f"cannot write to {str(run.path)!r}: {error.strerror or error} ({free / 2**20:.0f} MiB free)",
            hint="make room and give the same command again: nothing that was finished is lost",
        ) from error
    except (SQLAlchemyError, StorageInternalError) as error:
        raise RunError(
            f"the study cannot be written: {str(error.__cause__ or error).splitlines()[0]}",
            where=str(run.path),
            hint="is the disk full, or the file read-only? The same command goes on where this one stopped",
        ) from error
