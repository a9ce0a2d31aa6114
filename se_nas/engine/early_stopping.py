"""Early stopping: which running trainings cannot reach the front any more."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from se_nas.analysis.estimates import fitted
from se_nas.core.trial import Epoch, Objective, Trial
from se_nas.samplers.features import Array
from se_nas.samplers.learning_curves import Judgement, Standing
from se_nas.space.space import Space


class EarlyStopping:
    """Judges running trials by their learning curves, against what finished trials have said so far.

    A trial is stopped when, at its own exact cost, its plausible final value does not reach the front of the
    posterior (see :func:`se_nas.samplers.learning_curves.judge`). Reference points and the cheapest network are never
    stopped. `learn` is for the thread that writes to the study, calls are for any thread.
    """

    def __init__(self, objective: Objective, space: Space) -> None:
        self._objective, self._space = objective, space
        self._axes = (objective.cost, *objective.more)
        self._sign = -1.0 if objective.direction == "minimize" else 1.0
        self._known: tuple[Standing, list[str]] | None = None

    def learn(self, trials: Sequence[Trial]) -> None:
        """Take in all trials of the study."""
        told = fitted(trials, self._objective, self._space)
        if told is None or any(name not in t.costs for t in told.trials for name in self._axes):
            return
        finished = told.trials
        standing = Standing(
            curves=[self._curve(t.curve) for t in finished],
            finals=np.array([self._sign * t.metrics[self._objective.metric].value for t in finished]),
            cost=np.array([self._cost(t) for t in finished]),
            mean=told.posterior.predict(told.codes)[0],
        )
        self._known = standing, [t.placement.key for t in finished]

    def __call__(self, trial: Trial, curve: Sequence[Epoch]) -> Judgement:
        """Whether to stop a trial whose epochs so far are these."""
        known = self._known
        if trial.role or known is None:
            reason = "a reference point" if trial.role else "too few trials for a posterior"
            return Judgement(stop=False, probability=1.0, reason=reason)
        standing, keys = known
        return standing.judge(
            self._curve(curve),
            cost=self._cost(trial),
            others=np.array([key != trial.placement.key for key in keys]),
            seen=len(curve) / trial.identity.epochs,
        )

    def _curve(self, curve: Sequence[Epoch]) -> Array:
        return self._sign * np.array([epoch.metrics[self._objective.metric] for epoch in curve], dtype=np.float64)

    def _cost(self, trial: Trial) -> Array:
        return np.array([trial.costs[name].value for name in self._axes], dtype=np.float64)
