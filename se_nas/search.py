"""The search, from a configuration to a front. Read this first.

::

    config -> data, backbone -> units -> space -> exact costs     (problem)
           -> propose -> evaluate, in an executor -> tell         (driver)
           -> front, best network                                 (results)

The Optuna storage is the one truth; everything else is a view made from it. One driver asks and tells, executors
only train.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from se_nas.config import SearchConfig
from se_nas.driver import Driver
from se_nas.errors import RunError
from se_nas.problem import Problem, is_wider, prepare
from se_nas.propose import Proposer
from se_nas.records import Placement, Trial, to_plain
from se_nas.results import SearchResult, conclude
from se_nas.run_folder import STUDY, RunFolder, clear_errors, default_folder, differences
from se_nas.samplers import open_sampler
from se_nas.settings import configured
from se_nas.storage import reading, turn
from se_nas.study import Study
from se_nas.view import View

DRIVER_SEEDS = 7919
"""Distance of the sampler's seeds of drivers that share a study."""


def search(
    config: SearchConfig | None = None,
    *,
    on_trial: Callable[[Trial], object] | None = None,
    view: View | None = None,
    **settings: Any,  # those of the command line, and live objects
) -> SearchResult:
    """Search, or go on with the search in the run folder of the configuration.

    ``search(backbone="resnet20", data="digits", budget=50, epochs=5)`` is the command line's search; see
    `se_nas.settings.configured` for what a setting may be.

    Parameters
    ----------
    on_trial:
        Is called with every trial when it has ended. If it returns ``"stop"``, nothing new is trained.

    Raises
    ------
    SeNasError
        For anything that the user can mend; what was finished before is kept.
    """
    config = configured(config, settings)
    run = RunFolder(Path(config.out) if config.out else default_folder(config))
    run.lock()
    try:
        with view or View(quiet=True) as shown, clear_errors(run.path):
            problem = prepare(config, run.path)
            for note in problem.notes:
                shown.say(note)
            study = open_study(problem, run, shown)
            ended = Driver(problem, run, study, shown, proposals(problem, run, study), on_trial).drive()
            return conclude(run, study, ended)
    finally:
        run.unlock()


def open_study(problem: Problem, run: RunFolder, view: View) -> Study:
    """The study of a problem: a new one, the one in the run folder, or that one carried over into a wider space.

    RunError, with the differences, if the study in the folder is of something else.
    """
    storage = problem.config.storage or run.storage
    with reading(storage):
        own_turn = turn(storage)
    with own_turn:
        return _open_study(problem, run, view, storage)


def _open_study(problem: Problem, run: RunFolder, view: View, storage: str) -> Study:
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
        others = [t for t in study.trials() if t.state == "running" and not run.owned_by_us(t.owner)]
        if any(t.lease > time.time() for t in others):
            raise RunError(
                "the space is wider than before, but another search is at work in the study",
                where=str(run.path),
                hint="wait for its end (or, if it was killed, for a minute)",
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
    rank = 0 if config.storage is None else study.join(run.owner)
    study.optuna.sampler = open_sampler(
        config.sampler,
        space=problem.space,
        # A resumed sampler must not repeat its first draws, nor two drivers draw the same.
        seed=config.seed + len(study.trials()) + DRIVER_SEEDS * rank,
        budget=config.budget,
        cost=problem.costs.of_levels(problem.space, config.cost.split(","), config.max),
    )

    def record(placement: Placement, role: str, attempts: int, replicate: int) -> Trial:
        return problem.trial(placement, owner=run.owner, role=role, attempts=attempts, replicate=replicate)

    return Proposer(study, problem.space, problem.costs, config.max, seed=config.seed, record=record)
