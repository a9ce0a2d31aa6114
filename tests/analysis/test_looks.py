"""Looks after each round: published boundaries, closed forms, and a stranger who may end a confirm where he likes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from scipy.stats import norm, t

from se_nas.analysis import looks as module
from se_nas.analysis.looks import Boundary, Looks, boundary
from se_nas.analysis.statistics import differences, seed_noise, variances

ONE = [(1, 0)]


@dataclass(frozen=True, kw_only=True)
class Equal(Looks):
    """Looks at equal distances, as in the tables."""

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(range(1, self.last + 1))


@dataclass(frozen=True, kw_only=True)
class Once(Looks):
    """A number of seeds that is fixed beforehand."""

    @property
    def seeds(self) -> tuple[int, ...]:
        return (self.last,)


def by_seeds(looks: Looks, n: int = 2, images: float = 0.0) -> Boundary:
    pairs = [(row, 0) for row in range(1, n)]
    return boundary(looks, training=1.0, images=images * np.eye(n), pairs=pairs)


@pytest.mark.parametrize(("shape", "critical"), [(0.5, 2.413), (0.0, 2.040)])
def test_boundaries_are_those_of_the_tables(monkeypatch: pytest.MonkeyPatch, shape: float, critical: float) -> None:
    """Pocock's and O'Brien and Fleming's, five equal looks, 5 % on two sides (Jennison and Turnbull, 2000, ch. 2)."""
    monkeypatch.setattr(module, "SHAPE", shape)
    assert np.quantile(by_seeds(Equal(last=5)).each[0], 0.975) == pytest.approx(critical, abs=0.04)


def test_looks_are_planned_backwards_from_the_most_seeds() -> None:
    assert Looks(last=20).seeds == (3, 4, 6, 9, 13, 20)
    assert Looks(last=30).seeds[-2:] == (20, 30)
    for last in range(2, 60):
        seeds = Looks(last=last).seeds
        assert seeds[-1] == last
        assert list(seeds) == sorted(set(seeds))
        assert len(seeds) == 1 or seeds[0] >= 3


def test_one_look_is_the_fixed_design() -> None:
    """A single comparison: the t test itself; several: Dunnett's, which the fixed design uses."""
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(4, 5, 1)) + rng.normal(size=(4, 5, 300))
    noise, pairs = variances(scores), [(1, 0), (2, 0), (3, 0)]
    planned = boundary(Once(last=5), training=noise.by_seeds.interaction, images=noise.images, pairs=pairs)
    fixed, looked = differences(scores, noise, pairs), differences(scores, noise, pairs, planned)
    np.testing.assert_allclose(looked.p, fixed.p, atol=0.01)
    np.testing.assert_allclose(looked.low, fixed.low, rtol=0.02, atol=0.02)
    np.testing.assert_allclose(looked.family_p, fixed.family_p, atol=0.02)
    np.testing.assert_allclose(looked.family_low, fixed.family_low, rtol=0.06, atol=0.06)


@pytest.mark.parametrize("seeds", [3, 6, 20])
def test_intervals_and_p_values_agree(seeds: int) -> None:
    found = by_seeds(Looks(last=20), n=4, images=0.1)
    degrees = np.full(3, 12.0)
    own, family = found.reach(degrees, seeds, 0.05)
    for sign in (-1, 1):
        p, _ = found.p(own + sign * 0.05, degrees, seeds)
        assert (np.asarray(p) < 0.05).all() == (sign > 0)
        _, family_p = found.p(family + sign * 0.05, degrees, seeds)
        assert (np.asarray(family_p) < 0.05).all() == (sign > 0)


def test_looking_costs_and_never_less_than_the_test_itself() -> None:
    found, degrees = by_seeds(Looks(last=20), n=5), np.full(4, 30.0)
    for value in (-1.0, 0.5, 2.0, 4.0, 9.0, 40.0):
        p, family = found.p(np.full(4, value), degrees, 6)
        assert (t.sf(value, 30) <= p).all()
        assert (p <= family).all()
    p, family = found.p(np.full(4, 12.0), degrees, 20)
    assert (family < 1e-8).all(), "where no draw falls, Bonferroni's bound holds"
    assert (
        found.only([1]).p(np.array([2.4]), np.array([30.0]), 20)[1] == found.p(np.full(4, 2.4), degrees, 20)[1][0]
    ).all()


def test_without_any_noise_the_sign_decides() -> None:
    found = boundary(Looks(last=6), training=0.0, images=np.zeros((2, 2)), pairs=ONE)
    p, family = found.p(np.array([np.inf]), np.array([4.0]), 6)
    assert (p[0], family[0]) == (0.0, 0.0)


@pytest.mark.parametrize("images", [0.0, 0.05])
def test_a_stranger_who_ends_where_he_likes_is_right_as_often_as_promised(images: float) -> None:
    """He sees the test set after each look and stops at the first claim; nothing differs."""
    looks, rng, n, wrong, tries = Looks(last=9), np.random.default_rng(3), 4, 0, 1500
    for _ in range(tries):
        values = rng.normal(size=(n, looks.last)) + np.sqrt(images) * rng.normal(size=(n, 1))
        for k in looks.seeds:
            noise = seed_noise(values[:, :k])
            error = np.sqrt(2 * noise.interaction / k + 2 * images)
            means = values[:, :k].mean(axis=1)
            found = known(looks, images, n)
            _, family = found.p((means[1:] - means[0]) / error, np.full(n - 1, noise.degrees), k)
            if family.min() <= 0.05:
                wrong += 1
                break
    assert norm.ppf(0.99) * np.sqrt(0.05 * 0.95 / tries) + 0.055 > wrong / tries > 0.02


KNOWN: dict[float, Boundary] = {}


def known(looks: Looks, images: float, n: int) -> Boundary:
    if images not in KNOWN:
        KNOWN[images] = by_seeds(looks, n=n, images=images)
    return KNOWN[images]


class TestMissingTrainings:
    def test_two_networks_leave_their_differences(self) -> None:
        """Seeds that one network lacks say nothing of network x seed, and something of the whole."""
        values = np.random.default_rng(5).normal(size=(2, 9))
        values[1, 6:] = np.nan
        noise, difference = seed_noise(values), values[0, :6] - values[1, :6]
        assert noise.interaction == pytest.approx(difference.var(ddof=1) / 2)
        assert noise.degrees == 5
        within = 8 * values[0].var(ddof=1) + 5 * values[1, :6].var(ddof=1)
        assert noise.total == pytest.approx(within / 13)

    def test_the_truth_is_found(self) -> None:
        rng = np.random.default_rng(6)
        found = []
        for _ in range(600):
            values = 2.0 * rng.normal(size=(1, 8)) + rng.normal(size=(5, 8))
            values[2:, 4:] = np.nan
            found.append(seed_noise(values))
        assert np.mean([f.interaction for f in found]) == pytest.approx(1.0, rel=0.05)
        assert np.mean([f.total for f in found]) == pytest.approx(5.0, rel=0.08)
        assert {f.degrees for f in found} == {5 * 8 - 12 - 5 - 8 + 1}
