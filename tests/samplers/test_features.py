"""Features of interactions: pairs of switches, and of runs of switches where there are many."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from se_nas.samplers.features import GROUPS, MAX_RUNS, Features
from se_nas.samplers.posterior import fit


def pair_columns(features: Features, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values and prior standard deviations of the interactions; the first is the one that all pairs share."""
    chosen = features.group == GROUPS.index("pair")
    return features(codes)[:, chosen], features.scale[chosen]


@pytest.mark.parametrize("count", [2, 5, MAX_RUNS])
def test_few_switches_have_one_feature_for_each_pair(count: int) -> None:
    codes = np.random.default_rng(0).integers(0, 2, (20, count))
    values, scale = pair_columns(Features([(None, 16.0)] * count), codes)
    sign = 2.0 * codes - 1
    products = np.stack([sign[:, a] * sign[:, b] for a, b in itertools.combinations(range(count), 2)], axis=1)
    np.testing.assert_allclose(values[:, 0], products.sum(axis=1))
    np.testing.assert_allclose(values[:, 1:], products)
    np.testing.assert_allclose(scale[1:], products.shape[1] ** -0.5)


@pytest.mark.parametrize("count", [MAX_RUNS + 1, 51, 100])
def test_many_switches_have_features_for_pairs_of_neighbouring_runs(count: int) -> None:
    codes = np.random.default_rng(0).integers(0, 2, (20, count))
    values, _ = pair_columns(Features([(None, 16.0)] * count), codes)
    sign = 2.0 * codes - 1
    size = -(-count // MAX_RUNS)
    run_of = np.arange(count) // size
    sums: dict[tuple[int, int], list[np.ndarray]] = {}
    for a, b in itertools.combinations(range(count), 2):
        sums.setdefault((int(run_of[a]), int(run_of[b])), []).append(sign[:, a] * sign[:, b])
    expected = {key: np.sum(products, axis=0) / len(products) ** 0.5 for key, products in sums.items()}
    order = sorted(expected, key=lambda key: (key[0] == key[1], key))
    np.testing.assert_allclose(values[:, 1:], np.stack([expected[key] for key in order], axis=1), atol=1e-12)
    assert len(order) <= MAX_RUNS * (MAX_RUNS + 1) // 2


@pytest.mark.parametrize("count", [3, 20, MAX_RUNS, 51, 100])
def test_the_prior_of_all_interactions_together_is_the_same_however_many_switches_there_are(count: int) -> None:
    """With SE everywhere the shared feature and the others have variance 1 each."""
    values, scale = pair_columns(Features([(None, 16.0)] * count), np.ones((1, count), dtype=np.int64))
    np.testing.assert_allclose((values[0, 0] * scale[0]) ** 2, 1.0)
    np.testing.assert_allclose(((values[0, 1:] * scale[1:]) ** 2).sum(), 1.0)


NAMES = ("se", "eca", "cbam")


def _columns_of(features: Features, group: str) -> np.ndarray:
    """The columns of a group for every placement of three stages with a width and a name each."""
    codes = np.indices((4, 3) * 3).reshape(6, -1).T
    return features(codes)[:, features.group == GROUPS.index(group)]


def test_names_have_a_group_of_their_own_which_stages_share() -> None:
    """Two deviations of three names, common to the stages and in each; widths are as they were without names."""
    widths = (None, 16.0, 8.0, 4.0)
    features = Features([widths, NAMES] * 3)
    assert features.named
    assert not Features([widths] * 3).named
    names = _columns_of(features, "name")
    assert names.shape[1] == 2 * (1 + 3)
    np.testing.assert_allclose(names[:, :2], names[:, 2:4] + names[:, 4:6] + names[:, 6:])
    assert _columns_of(features, "width").shape[1] == (Features([widths] * 3).group == GROUPS.index("width")).sum()


def test_names_are_shared_by_those_that_offer_the_same() -> None:
    widths = (None, 16.0)
    features = Features([widths, NAMES, widths, ("pre", "post"), widths, NAMES])
    shared, own = 2, 2 + 1 + 2
    assert (features.group == GROUPS.index("name")).sum() == shared + own
    alone = Features([widths, NAMES, widths, ("pre", "post")])
    assert (alone.group == GROUPS.index("name")).sum() == 2 + 1


def test_what_a_name_is_worth_in_two_stages_is_expected_in_the_third() -> None:
    """The third stage never had the better block, nor the worse one: both are predicted from the others."""
    widths = (None, 16.0)
    features = Features([widths, ("se", "eca")] * 3)
    codes = np.array([c for c in np.indices((2, 2) * 3).reshape(6, -1).T if c[4] == 0 and c[5] == 0])
    codes = codes[(codes[:, 0] == 1) & (codes[:, 2] == 1)].repeat(4, axis=0)
    values = 70.0 + 1.0 * (codes[:, 1] + codes[:, 3]) + 0.05 * np.random.default_rng(0).normal(size=len(codes))
    third = np.array([[1, 0, 1, 0, 1, 1]]), np.array([[1, 0, 1, 0, 1, 0]])
    mean, sd = fit(features, codes, values).predict(third[0], minus=third[1])
    assert 0.3 < mean[0] < 1.1
    assert sd[0] > 0.1
