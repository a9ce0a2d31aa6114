"""The share of spread between classes, against analysis of variance by hand, enumeration and simulation."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from se_nas.analysis import class_share
from se_nas.analysis.class_share import (
    adjusted_share,
    can_be_shared,
    class_shares,
    expected_share,
    holm,
    is_constant,
    permutation_p,
    share_between,
)


def by_hand(gates: np.ndarray, labels: np.ndarray) -> float:
    """Sums of squares, one number after the other."""
    between = total = 0.0
    for channel in range(gates.shape[1]):
        mean = sum(gates[:, channel]) / len(gates)
        for image in range(len(gates)):
            own = gates[labels == labels[image], channel]
            between += (sum(own) / len(own) - mean) ** 2
            total += (gates[image, channel] - mean) ** 2
    return between / total


class TestShare:
    @given(st.integers(3, 20), st.integers(1, 4), st.integers(2, 6), st.integers(0, 99))
    def test_is_that_of_an_analysis_of_variance(self, images: int, channels: int, classes: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        gates, labels = rng.random((images, channels)), rng.integers(0, classes, images)
        share = share_between(gates, labels)
        assert share == pytest.approx(by_hand(gates, labels), abs=1e-12)
        assert -1e-12 <= share <= 1 + 1e-12

    def test_of_one_channel_follows_from_the_f_value(self) -> None:
        rng = np.random.default_rng(0)
        labels = rng.integers(0, 4, 60)
        gates = rng.normal(size=60) + 0.4 * labels
        f = stats.f_oneway(*(gates[labels == k] for k in range(4))).statistic
        assert share_between(gates, labels) == pytest.approx(3 * f / (3 * f + 56))

    def test_is_one_where_the_class_says_all_and_zero_where_class_means_agree(self) -> None:
        labels = np.array([0, 0, 1, 1, 2, 2])
        assert share_between(np.array([[1.0, 5], [1, 5], [2, 6], [2, 6], [9, 0], [9, 0]]), labels) == pytest.approx(1)
        assert share_between(np.array([1.0, 2, 2, 1, 1, 2]), labels) == pytest.approx(0)

    def test_expected_share_is_the_mean_over_every_permutation(self) -> None:
        gates = np.random.default_rng(1).random((6, 3)) ** 3
        labels = np.array([0, 0, 0, 1, 2, 2])
        shares = [share_between(gates, np.array(order)) for order in itertools.permutations(labels)]
        assert np.mean(shares) == pytest.approx(expected_share(labels)) == pytest.approx(2 / 5)

    def test_p_is_the_share_of_every_permutation(self) -> None:
        labels = np.array([0, 0, 0, 1, 1, 1, 1])
        gates = np.random.default_rng(3).random((7, 1)) + 0.5 * labels[:, None]
        seen = share_between(gates, labels)
        exact = np.mean([share_between(gates, np.array(o)) >= seen - 1e-12 for o in itertools.permutations(labels)])
        assert permutation_p(gates, labels, draws=20_000) == pytest.approx(exact, abs=0.01)
        assert 0.02 < exact < 0.5

    def test_p_values_of_labels_that_say_nothing_are_even(self) -> None:
        rng = np.random.default_rng(4)
        p = [permutation_p(rng.random((30, 5)) ** 2, rng.integers(0, 3, 30), draws=99) for _ in range(300)]
        assert np.mean(np.array(p) <= 0.05) < 0.09
        assert stats.kstest(p, "uniform").pvalue > 0.01

    def test_adjusted_share_is_nothing_on_average_where_labels_say_nothing(self) -> None:
        rng = np.random.default_rng(5)
        values = [adjusted_share(rng.random((40, 6)), rng.integers(0, 10, 40)) for _ in range(300)]
        assert np.mean(values) == pytest.approx(0, abs=3 * np.std(values) / np.sqrt(300))
        assert np.std(values) > 0.01

    def test_labels_that_say_nothing_at_all(self) -> None:
        assert not can_be_shared(np.zeros(5, int))
        assert not can_be_shared(np.arange(5))
        assert can_be_shared(np.array([0, 0, 1]))

    def test_constant_is_up_to_rounding(self) -> None:
        assert is_constant(np.full((9, 3), 0.7))
        assert is_constant(np.full((9, 3), 0.7) + 1e-8 * np.random.default_rng(0).random((9, 3)))
        assert not is_constant(np.full((9, 3), 0.7) + 1e-4 * np.random.default_rng(0).random((9, 3)))


class TestBlocks:
    def blocks(self, labels: np.ndarray, strength: list[float], rng: np.random.Generator) -> list[np.ndarray]:
        """Gates of which so large a part of the variance is by the class."""
        classes = rng.normal(size=(labels.max() + 1, 20))
        return [
            1 + 0.1 * (np.sqrt(s) * classes[labels] + np.sqrt(1 - s) * rng.normal(size=(len(labels), 20)))
            for s in strength
        ]

    def test_late_blocks_that_know_the_class_are_told_from_early_ones(self) -> None:
        rng = np.random.default_rng(0)
        labels = rng.integers(0, 10, 400)
        shares, trend = class_shares(self.blocks(labels, [0.0, 0.05, 0.6, 0.8], rng), labels)
        found = [share.adjusted for share in shares if share is not None]
        assert found == pytest.approx([0.0, 0.05, 0.6, 0.8], abs=0.05)
        assert [share.family_p < 0.05 for share in shares if share is not None] == [False, True, True, True]
        assert all(share.low < share.adjusted < share.high for share in shares if share is not None)
        assert trend is not None
        assert trend.low > 0.5
        _, back = class_shares(self.blocks(labels, [0.8, 0.6, 0.05, 0.0], rng), labels)
        assert back is not None
        assert back.high < -0.5

    def test_equal_blocks_have_no_trend_and_intervals_hold(self) -> None:
        """90 % intervals over images, of a difference that is 0 and of the share that was put in."""
        rng = np.random.default_rng(1)
        held, none = [], []
        monkey = pytest.MonkeyPatch()
        monkey.setattr(class_share, "PERMUTATIONS", 1)
        try:
            for _ in range(200):
                labels = np.arange(300) % 5
                centres = rng.normal(size=(5, 8))
                gates = [1 + 0.1 * (centres[labels] + rng.normal(size=(300, 8))) for _ in range(2)]
                shares, trend = class_shares(gates, labels)
                assert trend is not None
                none.append(trend.low <= 0 <= trend.high)
                true = np.mean(np.var(centres, axis=0)) / (np.mean(np.var(centres, axis=0)) + 1)
                held += [share.low <= true <= share.high for share in shares if share is not None]
        finally:
            monkey.undo()
        assert 0.84 < np.mean(none) < 0.96
        assert 0.84 < np.mean(held) < 0.97

    def test_constant_blocks_have_no_share_and_still_ones_no_trend(self) -> None:
        labels = np.arange(60) % 3
        rng = np.random.default_rng(2)
        still = 1 + 1e-3 * rng.normal(size=(60, 4))
        shares, trend = class_shares([np.ones((60, 4)), still, still + labels[:, None]], labels)
        assert shares[0] is None
        assert shares[1] is not None
        assert trend is None

    @given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
    def test_holm_is_monotone_and_between_p_and_bonferroni(self, p: list[float]) -> None:
        corrected = holm(p)
        order: Callable[[int], float] = lambda k: p[k]  # noqa: E731
        ranked = sorted(range(len(p)), key=order)
        assert [corrected[k] for k in ranked] == sorted(corrected)
        assert all(p[k] <= corrected[k] <= min(1.0, len(p) * p[k]) + 1e-12 for k in range(len(p)))
