"""What is trained next: proposals of the sampler that are worth a training, and nothing else."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any, Protocol

from se_nas.core.config import Limits
from se_nas.core.errors import ExhaustedError
from se_nas.core.placement import Placement
from se_nas.core.serialization import random_stream
from se_nas.core.trial import BLAMELESS, Phase, Trial
from se_nas.engine.study import Study
from se_nas.space.pricing import Pricing
from se_nas.space.space import Space

ATTEMPTS = 3
"""A failed placement is tried at most twice more."""

ASKS = 10
"""Proposals in vain after which a placement is drawn at random from those that are left."""

ENUMERABLE = 20_000
"""Spaces up to this size are listed, so that their end is known exactly."""

DRAWS = 5_000
"""Random draws in vain after which a larger space counts as exhausted."""


def listed(space: Space, costs: Pricing, limits: Limits) -> dict[str, dict[str, int]]:
    """The different networks of a space that are within the limits: key -> levels of the first assignment."""
    found: dict[str, dict[str, int]] = {}
    for levels in space.levels():
        placement = space.placement(levels)
        if costs.over_limit(placement, limits) is None:
            found.setdefault(placement.key, levels)
    return found


class Proposals(Protocol):
    """What the driver trains, one trial after the other."""

    phase: Phase

    def begin(self, trials: list[Trial]) -> None:
        """Called once, when what an earlier driver left behind is taken in, with the trials of the study."""

    def next(self, trials: list[Trial]) -> Trial | None:
        """The next trial, marked as running, given those of the study; None when nothing is left."""

    def retry(self, trial: Trial) -> None:
        """Have a failed trial tried again, if it was not tried too often."""

    def nothing_left(self, trained: int) -> str:
        """Why `next` has no more, in words."""


class Proposer:
    """Asks the study for placements, and lets only those pass that are new and within the limits.

    Parameters
    ----------
    record:
        Makes the record of a trial: ``record(placement, role=..., attempts=..., replicate=...)``.
    """

    phase: Phase = "search"

    def __init__(
        self,
        study: Study,
        space: Space,
        costs: Pricing,
        limits: Limits,
        *,
        seed: int,
        record: Callable[..., Trial],
    ) -> None:
        self.study = study
        self.space = space
        self.costs = costs
        self.limits = limits
        self.record = record
        self._generator = random.Random(random_stream(seed, "propose", len(study.trials())))  # noqa: S311
        self._listed = listed(space, costs, limits) if space.size <= ENUMERABLE else None

    @property
    def allowed(self) -> Collection[str] | None:
        """Keys of the networks that may be proposed; None for a space too large to list."""
        return None if self._listed is None else self._listed.keys()

    def begin(self, trials: list[Trial]) -> None:
        """Have the reference points trained first, if they are not yet.

        They are the network without SE, with SE everywhere at r=16, and as it was given if it had SE.
        """
        references = [("baseline", self.space.baseline), ("reference", self.space.reference)]
        if self.space.given.key != self.space.baseline.key:
            references.append(("given", self.space.given))
        for role, placement in references:
            levels = self.space.find(placement)
            if levels is not None and placement.key not in _known(trials) and not self.study.enqueued(role):
                self.study.enqueue(levels, role=role)

    def next(self, trials: list[Trial]) -> Trial | None:
        """The next trial, marked as running; None when no placement is left that is worth one."""
        known = _known(trials)
        if not self._left(known):
            return None
        for _ in range(ASKS):
            try:
                trial, levels = self.study.ask(self.space)
            except ExhaustedError:  # for the sampler, which does not know of failures that say nothing
                break
            placement = self.space.placement(levels)
            failures = _failures(trials, placement.key)
            # The same training again would not turn finite: another replicate has other random numbers.
            replicate = sum("non-finite" in failure.reason for failure in failures)
            record = self.record(
                placement, role=trial.user_attrs.get("role", ""), attempts=1 + len(failures), replicate=replicate
            )
            record = replace(record, number=trial.number)
            objection = self._objection(placement, known=known, reference=bool(record.role))
            if objection is None:
                return self.study.start(trial, record)
            self.study.finish(replace(record, state="rejected", reason=objection))
        if (unseen := self._draw(known)) is None:
            return None
        self.study.enqueue(unseen)
        return self.next(trials)

    def nothing_left(self, trained: int) -> str:
        """Why `next` has no more, in words."""
        return f"the space is exhausted: all {trained} placements that it allows are trained"

    def _left(self, known: set[str]) -> bool:
        """Whether there is a placement that could be proposed (always true for large spaces)."""
        return self._listed is None or bool(self._listed.keys() - known) or self.study.waiting() > 0

    def retry(self, trial: Trial) -> None:
        """Have a failed trial tried again, if it was not tried too often."""
        levels = self.space.find(trial.placement)
        if levels is not None and len(_failures(self.study.trials(), trial.placement.key)) < ATTEMPTS:
            self.study.enqueue(levels, role=trial.role)

    def over_limit(self, placement: Placement) -> str | None:
        """The limit that a placement may be over, in words, or None."""
        return self.costs.over_limit(placement, self.limits)

    def _objection(self, placement: Placement, *, known: set[str], reference: bool) -> str | None:
        if placement.key in known:
            return "known already"
        if reference:
            return None
        if not self.space.contains(placement):
            return "only the reference placement uses this reduction"
        return self.over_limit(placement)

    def _draw(self, known: set[str]) -> dict[str, int] | None:
        """A random assignment that is new and within the limits, or None."""
        if self._listed is not None:
            candidates: list[Any] = [levels for key, levels in self._listed.items() if key not in known]
            return self._generator.choice(candidates) if candidates else None
        for _ in range(DRAWS):
            levels = self.space.random_levels(self._generator)
            placement = self.space.placement(levels)
            if placement.key not in known and self.over_limit(placement) is None:
                return levels
        return None


def _known(trials: list[Trial]) -> set[str]:
    """Keys that need no training: trained, being trained, or failed too often."""
    return {
        t.placement.key
        for t in trials
        if t.state in ("complete", "stopped", "running")
        or (t.state == "failed" and t.reason not in BLAMELESS and t.attempts >= ATTEMPTS)
    }


def _failures(trials: list[Trial], key: str) -> list[Trial]:
    """Trainings of a network that failed by themselves; one whose driver or machine was lost says nothing."""
    return [t for t in trials if t.placement.key == key and t.state == "failed" and t.reason not in BLAMELESS]
