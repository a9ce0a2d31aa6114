"""Samplers: who proposes the next placement.

Each factory is given what it takes of: the space, a seed, the budget, and the cost of an assignment of levels.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping

import optuna
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler

from se_nas.core.plugins import accepted, check_arguments, resolve
from se_nas.core.trial import Target
from se_nas.samplers.exhaustive import ExhaustiveSampler
from se_nas.samplers.known_cost import KnownCostSampler
from se_nas.space.levels import distributions
from se_nas.space.space import Space

SAMPLERS: dict[str, str] = {
    "known-cost": "se_nas.samplers.build:of_known_cost",
    **{name: f"se_nas.samplers.build:{name}" for name in ("tpe", "gp", "nsga2", "random", "exhaustive")},
}

LevelsCost = Callable[[Mapping[str, int]], tuple[float, ...]]
"""Costs of an assignment of levels, one per cost axis; infinite where it must not be proposed."""


def open_sampler(target: Target, *, space: Space, seed: int, budget: int, cost: LevelsCost) -> BaseSampler:
    """The sampler of a name or import path, with the arguments that it takes."""
    factory, _ = resolve("sampler", target.target, SAMPLERS)
    args = {**accepted(factory, {"space": space, "seed": seed, "budget": budget, "cost": cost}), **target.args}
    check_arguments("sampler", target, factory, args)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler: BaseSampler = factory(**args)
    return sampler


def of_known_cost(space: Space, seed: int, cost: LevelsCost) -> BaseSampler:
    """Expected gain of the front, from the model estimate and the cost that is known."""
    return KnownCostSampler(distributions(space.parameters), cost, levels=space.parameters, seed=seed)


def tpe(seed: int) -> BaseSampler:
    """Tree-structured Parzen estimator, over all parameters together: it repeats itself less often so."""
    return TPESampler(seed=seed, multivariate=True)


def gp(seed: int) -> BaseSampler:
    """Gaussian process."""
    return GPSampler(seed=seed)


def nsga2(seed: int, budget: int) -> BaseSampler:
    """Genetic algorithm, with a population that leaves room for several generations in the budget."""
    return NSGAIISampler(seed=seed, population_size=max(4, min(50, budget // 5)))


def random(seed: int) -> BaseSampler:
    """Every level equally likely."""
    return RandomSampler(seed=seed)


def exhaustive(space: Space) -> BaseSampler:
    """All placements, in the order of the space."""
    return ExhaustiveSampler(space)
