"""The study of a search and what it proposes: opened anew, gone on with, or carried over into a wider space."""

from __future__ import annotations

import functools
import time
from dataclasses import replace

from se_nas.core.errors import RunError
from se_nas.core.serialization import from_plain, to_plain
from se_nas.core.storage_url import offer
from se_nas.core.trust import remember
from se_nas.core.words import duration
from se_nas.data.base import ADJECTIVE, PARTS, DataInfo
from se_nas.data.module_seals import seal_changed
from se_nas.engine.leases import Leases
from se_nas.engine.problem import Problem, is_wider
from se_nas.engine.proposer import Proposer
from se_nas.engine.run_folder import STUDY, RunFolder, differences, kept
from se_nas.engine.storage import reading, turn
from se_nas.engine.study import Study
from se_nas.engine.trusted import names_in
from se_nas.report.view import View
from se_nas.samplers.build import open_sampler

LOOK = 0.5
"""Seconds between looks at a study in which another driver may be at work."""

DRIVER_SEEDS = 7919
"""Distance of the sampler's seeds of drivers that share a study."""


def open_study(problem: Problem, run: RunFolder, view: View) -> Study:
    """The study of a problem: a new one, the one in the run folder, or that one carried over into a wider space.

    It is carried over once no other driver is at work in it, which takes a look for as long as a lease lasts where one
    may be. RunError, with the differences, if the study in the folder is of something else.
    """
    storage = problem.config.storage or run.storage
    if problem.config.storage is not None:
        offer(storage)
    with reading(storage):
        own_turn = turn(storage)
    others, said = _Others(run), False
    while True:
        with own_turn:
            study = Study.latest(storage, STUDY)
            wider = study is not None and check_same(study, problem, run)
            if study is None or not wider or others.gone(study):
                return _opened(study, wider, problem, run, view, storage)
        if not said:
            view.say(f"the space is wider than before: seeing for {duration(Study.lease)} whether another search is at "
                     "work in the study")  # fmt: skip
            said = True
        time.sleep(LOOK)  # outside of our turn, so that it can renew its leases


class _Others:
    """Other drivers of a study, as long as it is not known whether they are at work."""

    def __init__(self, run: RunFolder) -> None:
        self._run, self._leases = run, Leases()
        self._first: dict[int, float] | None = None

    def gone(self, study: Study) -> bool:
        """Whether all of them gave no sign of life for a lease; RunError if one did, whatever our clock says."""
        running = [t for t in study.trials() if t.state == "running" and not self._run.owned_by_us(t.owner)]
        leases = {t.number: t.lease for t in running}
        if self._first is None:
            self._first = leases
        if leases != self._first:
            raise RunError(
                "the space is wider than before, but another search is at work in the study",
                where=str(self._run.path),
                hint="wait for its end",
            )
        return len(self._leases.given_up(running, study.lease)) == len(running)


def _opened(study: Study | None, wider: bool, problem: Problem, run: RunFolder, view: View, storage: str) -> Study:
    if study is None:
        study = Study(storage, STUDY, problem.objective, problem.facts)
    elif wider:
        view.say("the space is wider than before: its trials are carried over")
        study = study.widen(problem.facts, problem.space)
    config = replace(problem.config, train=replace(problem.recipe, precision=problem.precision))
    remember(names_in(config))
    run.write_config(config)
    study.optuna.set_user_attr("config", to_plain(kept(config)))
    study.optuna.set_user_attr("data", to_plain(problem.data))
    return study


def check_same(study: Study, problem: Problem, run: RunFolder) -> bool:
    """Whether the space is wider than that of the study; RunError, with the differences, if all else is not equal."""
    changed = differences(study.facts, problem.facts)
    parts = changed_parts(study, problem)
    if parts or (changed and not is_wider(study.facts, problem.facts)):
        raise RunError(
            "the run cannot be continued with other settings:\n  " + "\n  ".join([*parts, *changed][:12]),
            where=str(run.path),
            hint="give another --out, or the settings of the run",
        )
    return bool(changed)


def changed_parts(study: Study, problem: Problem) -> list[str]:
    """Which parts of the data are not those that the study was made with, in words; it may be too old to tell.

    The test set is not decoded for this: a data set that lies elsewhere in another form is compared when it is opened.
    Of a data module, what can be told of its items is compared.
    """
    plain = study.optuna.user_attrs.get("data")
    if plain is None:
        return []
    old, new = from_plain(plain, DataInfo, where=f"study {study.name}"), problem.data
    before, now = dict(old.prepared), dict(new.prepared)
    if old.target == new.target:
        before |= {part: old.sources[part] for part in ("test",) if part in old.sources}
        now |= {part: new.sources[part] for part in ("test",) if part in new.sources}
    return [
        f"data: the {ADJECTIVE[part]} images or labels have changed"
        for part in PARTS
        if part in before and part in now and seal_changed(before[part], now[part])
    ]


def open_proposer(problem: Problem, run: RunFolder, study: Study) -> Proposer:
    """What the search trains: proposals of the configured sampler. Measures first what predicted costs need."""
    config = problem.config
    problem.costs.prepare()
    study.keep_fits(problem.costs.fits)
    rank = 0 if config.storage is None else study.join(run.owner)
    study.optuna.sampler = open_sampler(
        config.sampler,
        space=problem.space,
        # A resumed sampler must not repeat its first draws, nor two drivers draw the same.
        seed=config.seed + len(study.trials()) + DRIVER_SEEDS * rank,
        budget=config.budget,
        cost=problem.costs.of_levels(problem.space, config.cost.split(","), config.max),
    )
    record = functools.partial(problem.trial, owner=run.owner)
    return Proposer(study, problem.space, problem.costs, config.max, seed=config.seed, record=record)
