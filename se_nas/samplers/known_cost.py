"""KnownCostSampler: proposals that know the cost of every placement before anything is trained."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.exceptions import TrialPruned
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from se_nas.core.errors import ExhaustedError, RunError
from se_nas.samplers.features import Array, Features
from se_nas.samplers.observations import PROPOSAL, Observations, Reader, check_no_cost, metric_of
from se_nas.samplers.pareto import Mask, cells, expected_front_gain, expected_hypervolume_improvement, rising_front
from se_nas.samplers.pool import Candidates, Pool, SpaceCosts
from se_nas.samplers.posterior import conditioned, fit, prior_covariance, quadratic
from se_nas.space.levels import Codes, LevelsArgument, LevelSpace

#: The reference cost lies this share of the cost range above the highest cost, so that the last member counts too.
REFERENCE_MARGIN = 0.1
#: The look-ahead considers this many placements by improvement and as many at random, and its effect on this many.
SHORTLIST, JUDGES = 48, 200
#: The first trials, at most so many, are chosen for what they teach about all placements, judged on this many.
OPENING, TAUGHT = 8, 1000

#: Threads of ``n_jobs`` share a sampler: one must note its proposal before the next looks.
_LOCK = threading.Lock()


class KnownCostSampler(BaseSampler):
    """Optuna sampler for one uncertain objective and known costs.

    The *believed front* is the front of the posterior mean over all allowed placements. A training of x moves the mean
    of x by a normal step with variance s(x)^4 / (s(x)^2 + noise^2) (Frazier, Powell and Dayanik 2009, eq. 9), and
    every other mean in proportion to its covariance with x. Candidates are ranked by expected hypervolume improvement,
    in closed form for the step of x alone (:func:`se_nas.samplers.pareto.expected_hypervolume_improvement`). With one
    cost the best of them, and as many at random, are then ranked by what the trial teaches about all placements
    together (:func:`se_nas.samplers.pareto.expected_front_gain`). A known placement is scored by the same formula, so
    that a repeat is proposed (``repeats=True`` only) exactly when it is worth more than everything new. Running trials
    count as trained with an outcome at their mean: they reduce the variance and move nothing. The first trials, too
    few to tell what is good, are those that most reduce the summed variance of all placements (active learning: Cohn
    1996, Neural Networks 9, section 4; Seo et al. 2000).

    The reference point is the posterior mean of the cheapest allowed placement, and per cost the highest one in the
    pool of allowed placements plus a tenth of the range.

    Parameters
    ----------
    space:
        Parameter names and discrete distributions.
    cost:
        Exact cost of a parameter dictionary: one number, or one per known objective. It is called once per placement
        (again after very many others), and must always return the same. An infinite cost forbids a placement. The
        study's cost values are not read.
    levels:
        Meaning of the levels, see :meth:`se_nas.space.levels.LevelSpace.of`.
    metric_index:
        Position of the uncertain objective among the study's directions; it may be maximised or minimised. Default: the
        one that is maximised, else the first. The other objectives are known costs, and must be minimised. A study may
        leave costs out. With the uncertain objective alone, the cost only serves the limits, and proposals are for
        expected improvement.
    limits:
        Highest allowed cost: one number, or one per cost with None where there is no limit.
    repeats:
        Whether a placement may be trained again.
    seed:
        Seed of the tie-breaking and of the search in spaces too large to list. A study that goes on goes on with other
        draws than it began with.

    Raises
    ------
    ExhaustedError
        A SpaceError from ``ask``, after failing the trial, when every allowed placement is known or running and
        ``repeats`` is off, or when no placement is within the limits. ``Study.optimize`` then ends, as by
        ``Study.stop``, with its last trial pruned. RunError when other objectives are maximised. CostError when
        ``cost`` does not return numbers.
    """

    def __init__(
        self,
        space: dict[str, BaseDistribution],
        cost: Callable[[dict[str, Any]], float | Sequence[float]],
        *,
        levels: LevelsArgument = None,
        metric_index: int | None = None,
        limits: float | Sequence[float | None] | None = None,
        repeats: bool = False,
        seed: int | None = None,
    ) -> None:
        self._distributions = dict(space)
        self._space = LevelSpace.of(space, levels)
        self._costs = SpaceCosts(self._space, cost, limits=limits)
        self._metric_index = metric_index
        self._reader = Reader(self._space, metric_index=metric_index)
        self._repeats = repeats
        self._rng = np.random.default_rng(seed)
        self._independent = RandomSampler(seed=seed)
        self._seed, self._begun = seed, False
        self._exhausted: dict[int, ExhaustedError] = {}
        """Trials that `Study.optimize` made though nothing is left to propose."""
        self._pool: Pool | None = None

    def _begin(self, trial: FrozenTrial) -> None:
        """Before the first trial: a study that has some must not see the draws of its beginning again."""
        if not self._begun and self._seed is not None and trial.number > 0:
            self._rng = np.random.default_rng([self._seed, trial.number])
            self._independent = RandomSampler(
                seed=int(np.random.default_rng([self._seed, trial.number, 1]).integers(2**31))
            )
        self._begun = True

    def reseed_rng(self) -> None:
        """Take fresh random streams; Optuna calls this in every thread of ``n_jobs``."""
        self._rng, self._begun = np.random.default_rng(), True
        self._independent.reseed_rng()

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The space that was given, whatever the study has seen."""
        return dict(self._distributions)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A random value, for parameters that are not in the space."""
        if trial.number in self._exhausted:  # in a loop of Optuna: the objective ends here, and the loop after it
            raise TrialPruned(str(self._exhausted.pop(trial.number)))
        return self._independent.sample_independent(study, trial, param_name, param_distribution)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The next placement, as parameters."""
        fixed = trial.system_attrs.get("fixed_params", {})
        with _LOCK:
            self._begin(trial)
        if self._space.encode(fixed) is not None:  # enqueued by the user: nothing is left to propose
            return {name: fixed[name] for name in search_space if name in fixed}
        with _LOCK:
            try:
                params = self._space.decode(self._propose(study, trial))
            except ExhaustedError as error:
                if _stopped(study):
                    self._exhausted[trial.number] = error
                    return {}
                study.tell(trial.number, state=TrialState.FAIL)
                raise
            except Exception:
                # Optuna made the trial before it asked; left running it would count as pending for ever.
                study.tell(trial.number, state=TrialState.FAIL)
                raise
            # NOTE: parameters reach the storage only when they are suggested; other workers must know before.
            study._storage.set_trial_system_attr(trial._trial_id, PROPOSAL, params)
        return {name: value for name, value in params.items() if name in search_space}

    def _propose(self, study: Study, trial: FrozenTrial) -> Codes:
        if len(study.directions) > 1 + self._costs.count:
            raise RunError(
                f"the study has {len(study.directions)} objectives, but one is uncertain and `cost` gives "
                f"{self._costs.count}.",
                hint="let `cost` return one number per other objective of the study.",
            )
        if self._pool is None:
            features = Features(self._space.meanings)
            self._pool = Pool(self._costs, self._space, features, rng=self._rng)
        index = metric_of(study, self._metric_index)
        seen = self._reader(study, skip=trial.number)
        if len(study.directions) > 1:
            check_no_cost(seen, self._costs(seen.codes), index)
        belief = self._belief(self._pool.features, seen)
        candidates = self._pool.candidates(belief.mean, np.concatenate([seen.codes, seen.pending]))
        open_ = self._open(candidates, seen)
        cost = candidates.cost if len(study.directions) > 1 else np.zeros((len(candidates.codes), 1))
        phi = candidates.phi
        score = self._teaches(belief, phi) if belief.early else self._worth(belief, phi, cost, open_)
        best = np.flatnonzero(open_ & (score >= score[open_].max()))
        chosen: Codes = candidates.codes[self._rng.choice(best)]
        return chosen

    def _belief(self, features: Features, seen: Observations) -> _Belief:
        """What is believed now, with running trials counted as trained with an outcome at their mean."""
        if int((seen.extra_variance == 0).sum()) < first_trials(self._space):
            rows = np.concatenate([seen.codes, seen.pending])
            cov = conditioned(prior_covariance(features), features(rows), 1.0)
            return _Belief(mean=np.zeros(len(features.scale)), cov=cov, noise_variance=1.0, early=True)
        posterior = fit(features, seen.codes, seen.value, extra_variance=seen.extra_variance)
        mean, cov = posterior.moments()
        noise_variance = posterior.noise**2
        cov = conditioned(cov, features(seen.pending), noise_variance)
        return _Belief(mean=mean, cov=cov, noise_variance=noise_variance, early=False)

    def _teaches(self, belief: _Belief, phi: Array) -> Array:
        """By how much a trial of each of ``n`` candidates would reduce the mean variance of the candidates."""
        taught = phi[self._rng.choice(len(phi), size=min(TAUGHT, len(phi)), replace=False)]
        loads = phi @ belief.cov
        reduced = quadratic(loads, taught.T @ taught / len(taught)) / (
            np.einsum("np,np->n", loads, phi) + belief.noise_variance
        )
        return np.asarray(np.round(reduced / reduced.max(), 9))  # so that equal ones are drawn from evenly

    def _worth(self, belief: _Belief, phi: Array, cost: Array, open_: Mask) -> Array:
        """How much each of ``n`` candidates is worth training; -inf outside the shortlist."""
        mean, variance = phi @ belief.mean, quadratic(phi, belief.cov)
        front = rising_front(cost, mean)
        low, high = cost.min(axis=0), cost.max(axis=0)
        reference = high + REFERENCE_MARGIN * np.where(high > low, high - low, 1.0)
        boxes = cells(cost[front], mean[front], reference, floor=float(mean[np.lexsort(cost.T[::-1])[0]]))
        sd_seen = np.sqrt(variance + belief.noise_variance)
        improvement = expected_hypervolume_improvement(mean, variance / sd_seen, cost, boxes)
        if cost.shape[1] > 1:
            return improvement
        hope = expected_hypervolume_improvement(mean, np.sqrt(variance), cost, boxes)
        judges = np.union1d(front, np.argsort(-hope)[:JUDGES])
        options = np.flatnonzero(open_)
        drawn = self._rng.choice(options, size=min(SHORTLIST, len(options)), replace=False)
        short = np.union1d(options[np.argsort(-improvement[options])[:SHORTLIST]], drawn)
        slopes = (phi[short] @ belief.cov @ phi[judges].T) / sd_seen[short, None]
        worth = np.full(len(mean), -np.inf)
        worth[short] = expected_front_gain(mean[judges], slopes, cost[judges, 0], float(reference[0]))
        return worth

    def _open(self, candidates: Candidates, seen: Observations) -> Mask:
        """Which candidates may be proposed."""
        pending = frozenset(tuple(row) for row in seen.pending.tolist())
        shut = seen.closed if self._repeats else seen.closed | seen.complete | pending
        open_ = np.array([tuple(row) not in shut for row in candidates.codes.tolist()], dtype=bool)
        if not open_.any():
            raise ExhaustedError(
                f"all {len(open_)} allowed placements are known or running; nothing is left to propose.",
                hint="stop the search here, raise the limits, or set repeats=True to train placements again.",
            )
        return open_


def _stopped(study: Study) -> bool:
    """Have the loop of `Study.optimize` end after this trial; False outside of one, where who asked is told."""
    try:
        study.stop()
    except RuntimeError:
        return False
    return True


@dataclass(frozen=True, kw_only=True)
class _Belief:
    """Mean (``p``) and covariance (``p x p``) of the coefficients; ``early`` while there are too few trials."""

    mean: Array
    cov: Array
    noise_variance: float
    early: bool


def first_trials(space: LevelSpace) -> int:
    """How many trials are chosen for what they teach about all placements, before the front is looked for."""
    return min(space.size, len(space.names) + 3, OPENING)
