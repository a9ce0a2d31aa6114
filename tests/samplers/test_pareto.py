"""Pareto arithmetic against brute force, Optuna and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna._hypervolume import compute_hypervolume
from scipy import stats

from se_nas.core.errors import DataError
from se_nas.samplers.pareto import (
    NODES,
    SAMPLED_CELLS,
    Cells,
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
    assert cost[front].tolist() == sorted(cost[front].tolist())
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


def test_nodes_are_the_means_of_ten_equally_likely_slices() -> None:
    edges = stats.norm.ppf(np.linspace(0, 1, 11))
    np.testing.assert_allclose(NODES, -10 * np.diff(stats.norm.pdf(edges)), atol=6e-4)


@given(seeds, st.integers(1, 4), st.integers(0, 8))
def test_hypervolume_is_the_share_of_a_grid_that_is_dominated(seed: int, k: int, n: int) -> None:
    """Losses on the corners of unit cubes, some beyond the reference: cubes are counted."""
    rng = np.random.default_rng(seed)
    losses, reference = rng.integers(0, 5, (n, k)).astype(float), rng.integers(1, 5, k)
    corners = np.stack(np.meshgrid(*map(np.arange, reference)), axis=-1).reshape(-1, k)
    expected = sum(any((row <= corner).all() for row in losses) for corner in corners)
    assert hypervolume(losses, reference) == pytest.approx(expected)


def test_one_loss_is_a_length() -> None:
    assert hypervolume(np.array([[1.0], [0.5], [3.0]]), np.array([2.0])) == 1.5
    with pytest.raises(DataError, match=r"losses of shape \(3,\) do not fit a reference of 1 numbers"):
        hypervolume(np.zeros(3), np.ones(1))


class TestCells:
    def test_have_the_best_value_that_each_corner_can_afford(self) -> None:
        cost, value = np.array([[1.0, 2.0], [3.0, 1.0], [9.0, 9.0]]), np.array([5.0, 4.0, 7.0])
        found = cells(cost, value, np.array([4.0, 3.0]), floor=0.5)
        boxes = {(*low, *high): h for low, high, h in zip(found.lower, found.upper, found.height, strict=True)}
        # The third member is beyond the reference in both costs.
        assert boxes == {(1, 1, 3, 2): 0.5, (1, 2, 3, 3): 5.0, (3, 1, 4, 2): 4.0, (3, 2, 4, 3): 5.0}

    def test_a_member_below_the_floor_does_not_count(self) -> None:
        found = cells(np.array([[1.0]]), np.array([-2.0]), np.array([3.0]), floor=-1.0)
        assert (found.lower.tolist(), found.upper.tolist(), found.height.tolist()) == ([[1]], [[3]], [-1])

    def test_of_an_empty_front(self) -> None:
        assert len(cells(np.empty((0, 2)), np.empty(0), np.ones(2), floor=0.5).height) == 0
        sampled = cells(np.empty((0, 3)), np.empty(0), np.array([1.0, 2.0, 3.0]), floor=0.5)
        assert (sampled.height == 0.5).all()
        np.testing.assert_allclose(sampled.lower.mean(axis=0), [0.5, 1.0, 1.5], rtol=0.15)

    def test_of_three_costs_are_points_between_the_cheapest_and_the_reference(self) -> None:
        cost = np.array([[1.0, 5.0, 2.0], [2.0, 4.0, 2.5], [3.0, 6.0, 1.5]])
        value, reference = np.array([1.0, 2.0, 3.0]), np.array([5.0, 7.0, 4.0])
        found = cells(cost, value, reference, floor=0.5)
        np.testing.assert_array_equal(found.lower, found.upper)
        assert found.lower.shape == (SAMPLED_CELLS, 3)
        low, reach = cost.min(axis=0), reference - cost.min(axis=0)
        where = (found.lower - low) / reach
        assert (where >= 0).all()
        assert (where <= 1).all()
        np.testing.assert_allclose(where.mean(axis=0), 0.5, atol=0.06)
        np.testing.assert_allclose(where.std(axis=0), np.sqrt(1 / 12), atol=0.03)
        for point, height in zip(found.lower, found.height, strict=True):
            assert height == max([0.5, *(v for c, v in zip(cost, value, strict=True) if (c <= point).all())])
        np.testing.assert_array_equal(found.lower, cells(cost, value, reference, floor=0.5).lower)
        assert (found.lower != cells(cost, value, reference, floor=0.5, seed=1).lower).any()

    def test_a_sampled_point_at_the_very_cost_is_affordable(self) -> None:
        points = np.array([[1.0, 1.0, 1.0], [0.9, 2.0, 2.0], [2.0, 2.0, 2.0], [0.0, 0.0, 0.0]])
        boxes = Cells(lower=points, upper=points, height=np.zeros(4))
        gain = expected_hypervolume_improvement(np.array([8.0]), np.zeros(1), np.ones((1, 3)), boxes)
        assert gain.tolist() == [2 * 8 / 4]
        one = Cells(lower=points[:1], upper=points[:1], height=np.zeros(1))
        assert expected_hypervolume_improvement(np.array([8.0]), np.zeros(1), np.ones((1, 3)), one).tolist() == [8]


@given(seeds)
def test_expected_improvement_in_one_cell_is_that_of_jones_schonlau_and_welch(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, mean, sd = rng.normal(size=3)
    boxes = Cells(lower=np.array([[1.0]]), upper=np.array([[3.0]]), height=np.array([height]))
    found = expected_hypervolume_improvement(np.array([mean]), np.array([abs(sd)]), np.array([[2.5]]), boxes)
    y, weight = np.linspace(mean - 9 * abs(sd), mean + 9 * abs(sd), 20_001), 1 / abs(sd)
    density = stats.norm.pdf((y - mean) * weight) * weight
    assert found[0] == pytest.approx(0.5 * np.trapezoid(np.clip(y - height, 0, None) * density, y), abs=1e-5)


@given(seeds)
def test_front_gain_is_that_of_a_front_taken_anew(seed: int) -> None:
    """For each of the ten outcomes, by the hypervolume itself; with costs that are equal, too."""
    rng = np.random.default_rng(seed)
    cost, mean, slopes = rng.integers(0, 4, 6).astype(float), rng.normal(size=6), rng.normal(size=(3, 6))

    def volume(values: np.ndarray) -> float:
        """From the value of the cheapest on; the floor is far below."""
        return hypervolume(np.column_stack([cost, -values]), np.array([5.0, 100.0])) - 100.0 * (5.0 - cost.min())

    def front(values: np.ndarray) -> float:
        order = np.lexsort((-mean, cost))  # equal costs stay in the order of before
        widths = np.diff(np.append(cost[order], 5.0))
        return float(sum(w * max(values[order][: i + 1]) for i, w in enumerate(widths)))

    gain = expected_front_gain(mean, slopes, cost, 5.0)
    for i in range(3):
        played = [volume(mean + z * slopes[i]) - volume(mean) for z in NODES]
        assert [front(mean + z * slopes[i]) - front(mean) for z in NODES] == pytest.approx(played, abs=1e-9)
        assert gain[i] == pytest.approx(np.mean(played), abs=1e-9)
