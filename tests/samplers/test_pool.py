"""Candidates of small and of huge spaces."""

from __future__ import annotations

import numpy as np
import pytest
from optuna.distributions import BaseDistribution, IntDistribution

from se_nas.samplers import pool as pool_module
from se_nas.samplers.features import Features
from se_nas.samplers.pareto import hypervolume, rising_front
from se_nas.samplers.pool import NEIGHBOURS, RANDOM, ROUNDS, Pool, SpaceCosts
from se_nas.space.levels import LevelSpace

LEVELS = (None, 32, 16, 8, 4)


def pool(d: int, limits: float | None = None) -> tuple[Pool, SpaceCosts, Features, LevelSpace]:
    distributions: dict[str, BaseDistribution] = {f"s{j}": IntDistribution(0, 4) for j in range(d)}
    space = LevelSpace.of(distributions, LEVELS)
    costs = SpaceCosts(space, lambda p: float(sum((j + 1) * v for j, v in enumerate(p.values()))), limits=limits)
    features = Features(space.meanings)
    return Pool(costs, space, features, rng=np.random.default_rng(0)), costs, features, space


def test_a_small_space_is_listed_within_the_limits() -> None:
    candidates = pool(3, limits=6.0)[0].candidates(np.zeros(1), np.zeros((0, 3), dtype=np.int64))
    every = np.indices((5, 5, 5)).reshape(3, -1).T
    assert len(candidates.codes) == ((every * [1, 2, 3]).sum(axis=1) <= 6).sum()


def test_the_search_of_a_large_space_finds_nearly_the_whole_front() -> None:
    """Against the exact front of 5^7 placements, listed by brute force."""
    searched, _costs, features, space = pool(7)
    assert not searched.listed
    coefficients = np.random.default_rng(1).normal(0, 1, len(features.scale)) * features.scale
    for _ in range(3):
        candidates = searched.candidates(coefficients, np.zeros((1, 7), dtype=np.int64))
    found = candidates.phi @ coefficients
    every = space.all()
    exact, cost = features(every) @ coefficients, (every * np.arange(1, 8)).sum(axis=1, keepdims=True).astype(float)
    front = rising_front(cost, exact)
    reference = np.array([cost.max() + 1, -exact[0] + 1])
    best = hypervolume(np.column_stack([cost, -exact])[front], reference)
    ours = hypervolume(np.column_stack([candidates.cost, -found]), reference)
    assert ours >= 0.98 * best


def test_every_cost_is_asked_once() -> None:
    asked: list[tuple[int, ...]] = []
    space = LevelSpace.of({"a": IntDistribution(0, 4)}, LEVELS)

    def cost(params: dict[str, int]) -> float:
        asked.append(tuple(params.values()))
        return 1.0

    costs = SpaceCosts(space, cost)
    for _ in range(3):
        costs(space.all())
    assert sorted(asked) == [(i,) for i in range(5)]


def test_only_so_many_costs_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "REMEMBERED", 3)
    space = LevelSpace.of({"a": IntDistribution(0, 4)}, LEVELS)
    costs = SpaceCosts(space, lambda p: float(p["a"]))
    for _ in range(3):
        np.testing.assert_array_equal(costs(space.all())[:, 0], range(5))
    assert len(costs._known) <= 3


def test_a_space_of_many_units_has_candidates_in_bounded_number() -> None:
    searched, _, features, space = pool(50)
    assert space.size == 5**50
    assert len(features.scale) < 700
    coefficients = np.random.default_rng(1).normal(0, 1, len(features.scale)) * features.scale
    trained = np.zeros((1, 50), dtype=np.int64)
    counts = [len(searched.candidates(coefficients, trained).codes) for _ in range(3)]
    assert max(counts) <= RANDOM + ROUNDS * NEIGHBOURS + 1000
