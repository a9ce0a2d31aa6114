"""Pareto arithmetic against brute force, Optuna and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna._hypervolume import compute_hypervolume

from se_nas.core.errors import DataError
from se_nas.samplers.pareto import (
    cells,
    expected_front_gain,
    expected_hypervolume_improvement,
    hypervolume,
    non_dominated,
    rising_front,
)

seeds = st.integers(0, 10_000)


def brute_front(losses: np.ndarray) -> np.ndarray:
    dominated = [any(np.all(b <= a) and np.any(b < a) for b in losses) for a in losses]
    return ~np.array(dominated)


@given(seeds, st.integers(1, 4), st.integers(1, 25))
@settings(max_examples=60, deadline=None)
def test_non_dominated_agrees_with_brute_force(seed: int, k: int, n: int) -> None:
    losses = np.random.default_rng(seed).integers(0, 5, (n, k)).astype(float)
    np.testing.assert_array_equal(non_dominated(losses), brute_front(losses))


@given(seeds, st.integers(2, 3), st.integers(0, 12))
@settings(max_examples=60, deadline=None)
def test_hypervolume_agrees_with_optuna(seed: int, k: int, n: int) -> None:
    losses = np.random.default_rng(seed).random((n, k)) * 1.2
    inside = losses[(losses <= 1).all(axis=1)]
    expected = compute_hypervolume(inside, np.ones(k)) if len(inside) else 0.0
    assert hypervolume(losses, np.ones(k)) == pytest.approx(expected)


def test_hypervolume_wants_a_fitting_reference() -> None:
    with pytest.raises(DataError, match="do not fit a reference of 2"):
        hypervolume(np.zeros((3, 3)), np.ones(2))


@given(seeds, st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_rising_front_keeps_one_of_each_point_of_the_front(seed: int, a: int) -> None:
    rng = np.random.default_rng(seed)
    cost, value = rng.integers(0, 5, (20, a)).astype(float), rng.integers(0, 5, 20).astype(float)
    losses = np.column_stack([cost, -value])
    front = rising_front(cost, value)
    expected = np.unique(losses[brute_front(losses)], axis=0)
    np.testing.assert_array_equal(np.unique(losses[front], axis=0), expected)
    assert len(front) == len(expected)
    if a == 1:
        assert (np.diff(value[front]) > 0).all()
        assert (np.diff(cost[front, 0]) > 0).all()


@given(seeds, st.integers(1, 2))
@settings(max_examples=12, deadline=None)
def test_expected_improvement_agrees_with_monte_carlo(seed: int, a: int) -> None:
    rng = np.random.default_rng(seed)
    cost, value = rng.random((6, a)), rng.random(6)
    front = rising_front(cost, value)
    reference, floor = np.full(a, 1.2), -0.5
    boxes = cells(cost[front], value[front], reference, floor=floor)
    mean, sd, at = rng.random(3), rng.random(3) * 0.5 + 0.01, rng.random((3, a))
    # Improvements happen only where some member is affordable: the boxes start at the cheapest member.
    at = np.maximum(at, cost[front].min(axis=0))
    closed = expected_hypervolume_improvement(mean, sd, at, boxes)
    before = hypervolume(np.column_stack([cost, -value]), np.append(reference, -floor))
    for i in range(3):
        draws = rng.normal(mean[i], sd[i], 2000)
        losses, point = np.column_stack([cost, -value]), np.append(reference, -floor)
        after = [hypervolume(np.vstack([losses, [*at[i], -y]]), point) for y in draws]
        gains = np.array(after) - before
        assert closed[i] == pytest.approx(gains.mean(), abs=5 * gains.std() / np.sqrt(len(draws)) + 1e-5)


def test_without_variance_the_improvement_is_the_gain_itself() -> None:
    boxes = cells(np.array([[0.0], [1.0]]), np.array([0.0, 1.0]), np.array([3.0]), floor=0.0)
    gain = expected_hypervolume_improvement(np.array([2.0, -1.0]), np.zeros(2), np.array([[0.5], [0.5]]), boxes)
    np.testing.assert_allclose(gain, [0.5 * 2 + 2 * 1, 0.0])


def test_three_costs_are_sampled_near_the_exact_volume() -> None:
    boxes = cells(np.zeros((1, 3)), np.zeros(1), np.ones(3), floor=0.0)
    gain = expected_hypervolume_improvement(np.ones(1), np.zeros(1), np.full((1, 3), 0.2), boxes)
    assert gain[0] == pytest.approx(0.8**3, abs=0.08)


def test_front_gain_agrees_with_monte_carlo_and_is_zero_without_correlation() -> None:
    rng = np.random.default_rng(0)
    cost, mean, slopes = rng.random(8), rng.random(8), rng.normal(0, 0.3, (2, 8))
    slopes[1] = 0
    gain = expected_front_gain(mean, slopes, cost, 1.2)

    def volume(values: np.ndarray) -> float:
        order = np.argsort(cost)
        return float(np.maximum.accumulate(values[order]) @ np.diff(np.append(cost[order], 1.2)))

    draws = np.array([volume(mean + z * slopes[0]) for z in rng.standard_normal(20_000)]) - volume(mean)
    assert gain[0] == pytest.approx(draws.mean(), rel=0.06)
    assert gain[1] == pytest.approx(0, abs=1e-12)
