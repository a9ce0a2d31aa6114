"""The front as the posterior believes it: error bars, probabilities, and ties spoken plainly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from optuna.distributions import BaseDistribution
from optuna.study import Study, StudyDirection

from se_nas.core.errors import RunError
from se_nas.samplers.features import Array, Features
from se_nas.samplers.observations import Observations, check_no_cost, metric_of, observe
from se_nas.samplers.pareto import Index, rising_front
from se_nas.samplers.pool import Candidates, CostFunction, Pool, SpaceCosts
from se_nas.samplers.posterior import Posterior, fit, quadratic
from se_nas.space.levels import LevelsArgument, LevelSpace

#: Two placements are told apart when one is better than the other with at least this probability.
TOLD_APART = 0.9
#: Joint draws for the probability of being on the front, and how many placements compete in each.
DRAWS, CONTENDERS = 400, 3000


@dataclass(frozen=True, kw_only=True)
class Front:
    """Members by rising cost and rising posterior mean, as ``m`` indices into the candidates.

    ``better``: probability that a member is truly better than the last *recommended* one that costs no more (1 if none
    does). ``tied_with``: position of that cheaper member where the two cannot be told apart, -1 where they
    can: members with -1 are the recommended ones.
    """

    members: Index
    better: Array
    tied_with: Index


def believed_front(posterior: Posterior, candidates: Candidates, *, told_apart: float = TOLD_APART) -> Front:
    """The front of the posterior mean; a member that cannot be told apart from a cheaper one says so.

    Going up in cost, a member is recommended if it beats the best recommended member that costs no more with
    probability ``told_apart`` at least; otherwise it is a tie and the cheaper one stands.
    """
    mean = candidates.phi @ posterior.moments()[0]
    members = rising_front(candidates.cost, mean)
    better, tied_with = np.ones(len(members)), np.full(len(members), -1, dtype=np.int64)
    for k, i in enumerate(members):
        stands = [r for r in range(k) if tied_with[r] < 0]
        cheaper = [r for r in stands if (candidates.cost[members[r]] <= candidates.cost[i]).all()]
        if cheaper:
            rival = max(cheaper, key=lambda r: mean[members[r]])
            against = candidates.codes[[members[rival]]]
            better[k] = posterior.probability_above(candidates.codes[[i]], minus=against)[0]
            tied_with[k] = -1 if better[k] >= told_apart else rival
    return Front(members=members, better=better, tied_with=tied_with)


def front_probability(posterior: Posterior, candidates: Candidates, members: Index, *, seed: int = 0) -> Array:
    """Probability that each of ``members`` is on the true front of the candidates, from joint draws: ``m`` numbers.

    A placement is on the front if no cheaper or equally dear one is as good; of exact ties the cheaper counts.
    Candidates that would need more than a few standard deviations to matter are left out of the draws.
    """
    mean_w, cov = posterior.moments()
    mean, sd = candidates.phi @ mean_w, np.sqrt(quadratic(candidates.phi, cov))
    best = rising_front(candidates.cost, mean)
    affordable = (candidates.cost[best][None, :, :] <= candidates.cost[:, None, :]).all(axis=2)
    height = np.where(affordable, mean[best][None, :], -np.inf).max(axis=1)
    margin = np.where(np.isfinite(height), (mean - height) / np.maximum(sd, 1e-300), np.inf)
    rivals = np.union1d(np.argsort(-margin, kind="stable")[:CONTENDERS], members)
    weights = posterior.coefficient_samples(size=DRAWS, rng=np.random.default_rng(seed))
    draws = weights @ candidates.phi[rivals].T
    if candidates.cost.shape[1] == 1:
        return _on_front(draws, candidates.cost[rivals, 0])[np.searchsorted(rivals, members)]
    result = np.empty(len(members))
    for k, i in enumerate(members):
        cost = candidates.cost[i]
        cheaper = (candidates.cost[rivals] <= cost).all(axis=1) & (rivals != i)
        same_cost = (candidates.cost[rivals] == cost).all(axis=1)
        own = draws[:, rivals == i]
        scale = 1e-9 * np.maximum(np.abs(own), 1e-300)
        beaten = (draws[:, cheaper & ~same_cost] >= own - scale).any(axis=1)
        beaten |= (draws[:, cheaper & same_cost] > own + scale).any(axis=1)
        result[k] = 1.0 - beaten.mean()
    return result


def _on_front(draws: Array, cost: Array) -> Array:
    """Share of ``s x n`` joint draws in which each of ``n`` placements is on the front over one cost: ``n`` numbers.

    One pass by rising cost: what is cheaper is summed up in its best value so far.
    """
    order = np.argsort(cost, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(cost[order])) + 1, len(order))
    share, best, start = np.empty(len(order)), np.full(len(draws), -np.inf), 0
    for end in ends:
        group = order[start:end]
        own = draws[:, group]
        scale = 1e-9 * np.maximum(np.abs(own), 1e-300)
        top = own.max(axis=1)
        beaten = (best[:, None] >= own - scale) | (top[:, None] > own + scale)
        share[group] = 1.0 - beaten.mean(axis=0)
        best, start = np.maximum(best, top), end
    return share


def recommend_front(
    study: Study,
    *,
    space: Mapping[str, BaseDistribution],
    cost: CostFunction,
    levels: LevelsArgument = None,
    metric_index: int | None = None,
) -> pd.DataFrame:
    """The recommended front of anybody's study, ordered by cost, claimed accuracy rising.

    Parameters
    ----------
    study:
        Any study over ``space``, whatever sampler made its trials; `se_nas.samplers.observations` says what counts.
    space, cost, levels, metric_index:
        As for :class:`se_nas.KnownCostSampler`.

    Returns
    -------
    pandas.DataFrame
        One row per member; placements that were never trained may be members. Columns: one per parameter; ``mean``,
        ``lower``, ``upper`` (90 % interval of the true accuracy, in the study's units and direction); ``p_front``;
        ``cost`` (``cost_0``, ``cost_1``, ... if there are several); ``observed`` (mean of the raw values, NaN without),
        ``observed_min``, ``observed_max``, ``trainings``; ``tied_with`` (row of the cheaper member that this one cannot
        be told apart from, <NA> if there is none), ``p_beats`` (probability to beat that row, or else the last
        recommended one) and ``recommended`` (not tied: among placements that cannot be told apart the cheaper one).

    Raises
    ------
    RunError
        When the study has no finished trial in this space, or its objectives are not one metric and minimised costs.
    """
    level_space = LevelSpace.of(space, levels)
    metric_index = metric_of(study, metric_index)
    seen = observe(study, level_space, metric_index=metric_index)
    if not np.any(seen.extra_variance == 0):
        raise RunError("the study has no finished trial in this space.", hint="run at least one training first.")
    features = Features(level_space.meanings)
    posterior = fit(features, seen.codes, seen.value, extra_variance=seen.extra_variance)
    costs = SpaceCosts(level_space, cost)
    if len(study.directions) > 1:
        check_no_cost(seen, costs(seen.codes), metric_index)
    pool = Pool(costs, level_space, features, rng=np.random.default_rng(0))
    candidates = pool.candidates(posterior.moments()[0], seen.codes)
    front = believed_front(posterior, candidates)
    sign = 1.0 if study.directions[metric_index] == StudyDirection.MAXIMIZE else -1.0
    return _table(level_space, posterior, candidates, front, seen, sign)


def _table(
    space: LevelSpace, posterior: Posterior, candidates: Candidates, front: Front, seen: Observations, sign: float
) -> pd.DataFrame:
    codes, cost = candidates.codes[front.members], candidates.cost[front.members]
    bounds = np.sort(sign * np.stack(posterior.interval(codes)), axis=0)
    rows = [space.decode(row) for row in codes]
    table = pd.DataFrame({name: pd.Series([row[name] for row in rows]) for name in space.names})
    table["mean"] = sign * posterior.predict(codes)[0]
    table["lower"], table["upper"] = bounds
    table["p_front"] = front_probability(posterior, candidates, front.members)
    for i in range(cost.shape[1]):
        table["cost" if cost.shape[1] == 1 else f"cost_{i}"] = cost[:, i]
    full = seen.extra_variance == 0
    observed = [sign * seen.value[full & (seen.codes == row).all(axis=1)] for row in codes]
    for name, summary in (("observed", np.mean), ("observed_min", np.min), ("observed_max", np.max)):
        table[name] = [float(summary(v)) if len(v) else np.nan for v in observed]
    table["trainings"] = [len(v) for v in observed]
    table["tied_with"] = pd.Series(front.tied_with, dtype="Int64").where(front.tied_with >= 0, pd.NA)
    table["p_beats"], table["recommended"] = front.better, front.tied_with < 0
    return table
