"""The model estimate for each of the trained networks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from se_nas.core.trial import Objective, Trial
from se_nas.samplers.features import Array, Features
from se_nas.samplers.front import believed_front, front_probability
from se_nas.samplers.observations import Row, observed
from se_nas.samplers.pool import Candidates
from se_nas.samplers.posterior import Posterior, fit
from se_nas.space.levels import Codes, LevelSpace, distributions
from se_nas.space.space import Space

#: A posterior is shown from this many trainings more than there are decisions: fewer say little beside the prior.
MORE_THAN_DECISIONS = 3

#: Column -> its value where there is no posterior.
BELIEFS: dict[str, Any] = {
    "mean": np.nan,
    "lower": np.nan,
    "upper": np.nan,
    "p_front": np.nan,
    "posterior_front": False,
    "recommended": False,
    "tied_with": pd.NA,
    "p_beats": np.nan,
    "gain": np.nan,
    "gain_low": np.nan,
    "gain_high": np.nan,
    "p_better": np.nan,
    "p_same": np.nan,
    "p_worse": np.nan,
}


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A posterior with the trainings that it was fitted on.

    ``trials`` are the complete ones; ``codes`` (``n x d``) are their levels in ``levels``; the posterior is of ``sign``
    times the metric, so that larger is better.
    """

    posterior: Posterior
    levels: LevelSpace
    codes: Codes
    trials: tuple[Trial, ...]
    sign: float


def fitted(trials: Sequence[Trial], objective: Objective, space: Space) -> Fitted | None:
    """The posterior of all trials (`se_nas.samplers.posterior.fit`); None if the complete ones are too few.

    Stopped trials count as far as their curves tell where they would have ended, and what a confirm found for networks
    of the search at the same schedule counts like further trainings.
    """
    sign = -1.0 if objective.direction == "minimize" else 1.0
    level_space = LevelSpace.of(distributions(space.parameters), space.parameters)
    placed = [
        (trial, tuple(levels[name] for name in level_space.names))
        for trial in trials
        if trial.state in ("complete", "stopped") and (levels := space.find(trial.placement)) is not None
    ]
    complete = tuple(trial for trial, _ in placed if trial.state == "complete")
    if len(complete) < len(space.decisions) + MORE_THAN_DECISIONS:
        return None
    rows = [_row(trial, codes, objective.metric, sign) for trial, codes in placed]
    rows += [
        Row(codes=codes, state="repeated", value=sign * value)
        for trial, codes in placed
        if trial.state == "complete"
        for value in trial.repeats
    ]
    seen = observed(rows, len(level_space.names))
    posterior = fit(Features(level_space.meanings), seen.codes, seen.value, extra_variance=seen.extra_variance)
    codes = seen.codes[: len(complete)]
    return Fitted(posterior=posterior, levels=level_space, codes=codes, trials=complete, sign=sign)


def _row(trial: Trial, codes: tuple[int, ...], metric: str, sign: float) -> Row:
    complete = trial.state == "complete"
    return Row(
        codes=codes,
        state="complete" if complete else "stopped",
        value=sign * trial.metrics[metric].value if complete else math.nan,
        curve=np.array([sign * epoch.metrics[metric] for epoch in trial.curve]),
    )


def believe(told: Fitted | None, objective: Objective, *, margin: float = 0.0) -> pd.DataFrame | None:
    """What the posterior says of the trained networks, one row for each complete trial, indexed by its number.

    The front is taken among the networks that were trained, since only these can be shipped;
    :func:`se_nas.recommend_front` takes it among all placements.

    Columns: ``mean``, ``lower`` and ``upper`` (90 % interval of the true metric, in its units and without the noise
    of one training); ``p_front``, the probability to be on the true front of the trained networks;
    ``posterior_front``; ``recommended``: on that front, and told apart from the cheaper recommended ones;
    ``tied_with``: the trial of the cheaper network that this one cannot be told apart from; ``p_beats``: the
    probability to be better than that one, or else than the last cheaper recommended one.

    Against the plain backbone, where that is among the trials: ``gain``, ``gain_low`` and ``gain_high`` (90 %
    interval; an end of exactly 0 is the point mass at "no effect"), and three probabilities that add up to 1:
    ``p_better`` (better by more than the ``margin``, in units of the metric), ``p_same`` (no relevant difference) and
    ``p_worse`` (worse by more than the margin).

    None without a posterior, or when a trial lacks a cost of the front.
    """
    axes = [objective.cost, *objective.more]
    if told is None or any(name not in trial.costs for trial in told.trials for name in axes):
        return None
    posterior, sign = told.posterior, told.sign
    distinct, first, row_of = np.unique(told.codes, axis=0, return_index=True, return_inverse=True)
    cost = np.array([[float(told.trials[i].costs[name].value) for name in axes] for i in first])
    candidates = Candidates(codes=distinct, cost=cost, phi=posterior.features(distinct))
    front = believed_front(posterior, candidates)
    number = np.array([told.trials[i].number for i in first])
    bounds = np.sort(sign * np.stack(posterior.interval(distinct)), axis=0)
    table = pd.DataFrame(
        {
            "mean": sign * posterior.predict(distinct)[0],
            "lower": bounds[0],
            "upper": bounds[1],
            "p_front": front_probability(posterior, candidates, np.arange(len(distinct))),
        }
    ).reindex(columns=list(BELIEFS))
    for name in ("posterior_front", "recommended"):
        table[name] = False
    table["tied_with"] = pd.array([pd.NA] * len(distinct), dtype="Int64")
    base = [row for row, i in enumerate(first) if told.trials[i].role == "baseline"]
    if base:
        for name, values in gains_over(told, distinct, distinct[base], margin=margin).items():
            table[name] = values
    for member, better, rival in zip(front.members, front.better, front.tied_with, strict=True):
        table.loc[member, "posterior_front"] = True
        table.loc[member, "recommended"] = bool(rival < 0)
        table.loc[member, "p_beats"] = better
        if rival >= 0:
            table.loc[member, "tied_with"] = number[front.members[rival]]
    beliefs = table.iloc[row_of.ravel()]
    return beliefs.set_axis([trial.number for trial in told.trials], axis=0)


def gains_over(told: Fitted, codes: Codes, base: Codes, *, margin: float) -> dict[str, Array]:
    """What `believe` says of the gains of ``n x d`` codes over ``base`` (``1 x d``), by column: ``n`` numbers each."""
    posterior, sign = told.posterior, told.sign
    against = posterior.differences(codes, minus=base)
    chances = against.chances(margin)
    # Adding 0 makes -0 a plain 0.
    low, high = np.sort(sign * np.stack(against.interval()), axis=0) + 0.0
    return {
        "gain": sign * posterior.predict(codes, minus=base)[0],
        "gain_low": low,
        "gain_high": high,
        "p_better": chances.better,
        "p_same": chances.same,
        "p_worse": chances.worse,
    }
