"""Who is confirmed, and the trainings that takes: each finalist and both reference points with each fresh seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from se_nas.analysis.findings import Findings
from se_nas.analysis.summary import over_limits
from se_nas.core.errors import ConfigError, RunError
from se_nas.core.placement import Placement
from se_nas.core.serialization import random_stream
from se_nas.core.trial import BLAMELESS, Phase, State, Trial
from se_nas.engine.problem import Problem
from se_nas.engine.proposer import ATTEMPTS
from se_nas.engine.study import Study
from se_nas.space.space import Space

TOP = 3
"""Finalists if nothing else is asked for."""


@dataclass(frozen=True, kw_only=True)
class Finalist:
    """A network to confirm. `role` is ``baseline``, ``reference`` or ``finalist``."""

    placement: Placement
    role: str
    trial: Trial | None = None
    """Its training in the search."""
    promised: float | None = None
    """Posterior mean of the search, where there was a posterior."""


def choose_finalists(found: Findings, space: Space, top: int) -> list[Finalist]:
    """Both reference points, then up to `top` members of the front, the best by posterior mean first.

    Without a posterior (few trainings) the observed front. If the front has nothing but reference points, the
    best other trained network: something must stand against them. SE everywhere is left out where it is over a limit
    on cost, as is what was trained before a limit was lowered: it could not be shipped.

    Raises
    ------
    RunError
        If no training of the search is complete.
    """
    table, estimated = found.complete, found.estimated
    if table.empty:
        failed = sum(t.state == "failed" for t in found.trials)
        raise RunError(
            "the search has no finished training to confirm" + (f": {failed} failed" if failed else ""),
            hint="give the search again, with a larger --budget; se-nas report RUN shows the reasons of failures",
        )
    finalist = _by_search(found)
    over = over_limits(found)
    barred = {t.placement.key for t in found.trials if t.number in over}
    fixed = [finalist(space.baseline, "baseline")]
    if space.reference.key not in barred:
        fixed.append(finalist(space.reference, "reference"))
    table = table[~table["key"].isin(barred)]
    front = table if estimated else found.front[~found.front["key"].isin(barred)]
    members = front[front["posterior_front" if estimated else "observed_front"].astype(bool)]
    column = "mean" if estimated else "metric"
    for rows, number in ((members, top), (table, 1)):
        others = rows[~rows["key"].isin([f.placement.key for f in fixed])].drop_duplicates("key")
        if len(others):
            others = others.sort_values(column, ascending=found.objective.direction == "minimize")
            placements = {t.placement.key: t.placement for t in found.trials if t.state == "complete"}
            return [*fixed, *(finalist(placements[key], "finalist") for key in others["key"].head(number))]
    return fixed


def named_finalists(found: Findings, space: Space, placements: Sequence[str]) -> list[Finalist]:
    """The plain backbone, then the placements that are named, whether the search trained them or not.

    Raises
    ------
    SpaceError
        If a text is not a placement of the space's units (`Space.parse`).
    ConfigError
        If they are all the plain backbone.
    """
    wanted = [space.baseline, *(space.parse(text) for text in placements)]
    finalist, roles = _by_search(found), {space.baseline.key: "baseline", space.reference.key: "reference"}
    chosen = {p.key: finalist(p, roles.get(p.key, "finalist")) for p in wanted}
    if len(chosen) == 1:
        raise ConfigError(
            f"the only placement to confirm is {space.baseline.label!r}, the plain backbone",
            hint="name what it is to be compared with, as in --finalists all:16 stage3=8",
        )
    return list(chosen.values())


def _by_search(found: Findings) -> Callable[[Placement, str], Finalist]:
    """Makes a finalist of a placement and a role, with what the search knows of it."""
    by_key = {t.placement.key: t for t in found.trials if t.state == "complete"}
    means = dict(zip(found.complete["key"], found.complete["mean"], strict=True)) if found.estimated else {}

    def finalist(placement: Placement, role: str) -> Finalist:
        trial, promised = by_key.get(placement.key), means.get(placement.key)
        return Finalist(placement=trial.placement if trial else placement, role=role, trial=trial, promised=promised)

    return finalist


def fresh_seeds(seed: int, number: int) -> list[int]:
    """Seeds of a confirm: the same for all networks, other than the search's, and more of them keep the first."""
    return [random_stream(seed, "confirm", index) % 2**31 for index in range(number)]


class Plan:
    """Hands out networks with seeds until all are trained: what the driver of a confirm trains.

    Seeds should be the outer loop, so that what is there after an interruption is balanced.
    """

    phase: Phase = "confirm"

    def __init__(self, problem: Problem, study: Study, owner: str, jobs: Sequence[tuple[Finalist, int]]) -> None:
        self.problem, self.study, self.owner, self.jobs = problem, study, owner, jobs

    def begin(self, trials: list[Trial]) -> None:
        """Nothing to prepare: jobs are enqueued one by one."""

    def trials(self) -> list[Trial]:
        """Those of this schedule."""
        return self._of_schedule(self.study.trials())

    def missing(self) -> list[tuple[Finalist, int]]:
        """Jobs that are not complete, and did not fail too often."""
        return self._missing(self.trials(), "complete")

    def _of_schedule(self, trials: list[Trial]) -> list[Trial]:
        return [t for t in trials if t.identity.epochs == self.problem.recipe.epochs]

    def _missing(self, trials: Sequence[Trial], *states: State) -> list[tuple[Finalist, int]]:
        """Jobs that have no trial in one of these states, and did not fail too often."""
        settled = {(t.placement.key, t.identity.seed) for t in trials if t.state in states}
        return [
            (network, seed)
            for network, seed in self.jobs
            if (network.placement.key, seed) not in settled
            and len(self._failures(network.placement.key, seed, trials)) < ATTEMPTS
        ]

    def next(self, trials: list[Trial]) -> Trial | None:
        """The next training, marked as running."""
        trials = self._of_schedule(trials)
        missing = self._missing(trials, "complete", "running")
        if not missing:
            return None
        network, seed = missing[0]
        failures = self._failures(network.placement.key, seed, trials)
        record = self.problem.trial(
            network.placement, owner=self.owner, role=network.role, attempts=1 + len(failures), seed=seed,
            replicate=sum("non-finite" in failure.reason for failure in failures), phase="confirm",
        )  # fmt: skip
        return self.study.start(self.study.ask_nothing(), record)

    def retry(self, trial: Trial) -> None:
        """A failed job is missing again."""

    def nothing_left(self, trained: int) -> str:
        """Why `next` has no more, in words."""
        return f"{trained} trainings are done, the others failed"

    def _failures(self, key: str, seed: int, trials: Sequence[Trial]) -> list[Trial]:
        return [
            t
            for t in trials
            if t.state == "failed" and t.reason not in BLAMELESS and (t.placement.key, t.identity.seed) == (key, seed)
        ]
