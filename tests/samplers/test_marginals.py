"""Chances and intervals of mixtures with point masses, against draws and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t as student

from se_nas.core.errors import DataError
from se_nas.samplers.features import Features
from se_nas.samplers.marginals import Marginals
from se_nas.samplers.posterior import fit

EVERY = np.indices((4, 4, 4)).reshape(3, -1).T
NONE = EVERY[:1]
MARGINS = (0.0, 0.02, 0.1, 0.3, 5.0)


def searched(effect: float, n: int = 15) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    codes = rng.integers(0, 4, (n, 3))
    return codes, 70 + effect * (codes[:, 0] > 0) + rng.normal(0, 0.2, n)


@pytest.fixture(params=[0.0, 0.3, -1.0], ids=["none", "gain", "loss"])
def believed(request: pytest.FixtureRequest) -> tuple[Marginals, np.ndarray]:
    """The differences of six placements from no SE, and joint draws of them."""
    features = Features([(None, 16.0, 8.0, 4.0)] * 3)
    posterior = fit(features, *searched(request.param))
    some = EVERY[[1, 5, 21, 42, 60, 63]]
    draws = posterior.coefficient_samples(size=100_000, rng=np.random.default_rng(0)) @ features(some).T
    weights = posterior.coefficient_samples(size=100_000, rng=np.random.default_rng(0)) @ features(NONE).T
    return posterior.differences(some, minus=NONE), draws - weights


@pytest.mark.parametrize("margin", MARGINS)
def test_chances_are_those_of_joint_draws(believed: tuple[Marginals, np.ndarray], margin: float) -> None:
    marginals, draws = believed
    chances = marginals.chances(margin)
    tiny = 1e-9  # the draws of the point mass are 0 up to rounding
    np.testing.assert_allclose(chances.better, (draws > margin + tiny).mean(axis=0), atol=0.006)
    np.testing.assert_allclose(chances.worse, (draws < -margin - tiny).mean(axis=0), atol=0.006)
    np.testing.assert_allclose(chances.same, (np.abs(draws) <= margin + tiny).mean(axis=0), atol=0.006)
    np.testing.assert_allclose(chances.better + chances.same + chances.worse, 1.0, atol=1e-12)


def test_without_a_margin_no_difference_is_the_weight_of_no_effect(believed: tuple[Marginals, np.ndarray]) -> None:
    marginals, _ = believed
    nothing = (marginals.scale[:, 0] < 1e-12) & (marginals.centre[:, 0] == 0)
    np.testing.assert_allclose(marginals.chances(0.0).same, marginals.weight[nothing].sum(), atol=1e-12)


def test_turned_round_better_is_worse(believed: tuple[Marginals, np.ndarray]) -> None:
    marginals, _ = believed
    turned = Marginals(
        weight=marginals.weight, centre=-marginals.centre, scale=marginals.scale, degrees=marginals.degrees
    )
    for margin in MARGINS:
        np.testing.assert_allclose(turned.chances(margin).worse, marginals.chances(margin).better, atol=1e-12)
        np.testing.assert_allclose(turned.chances(margin).same, marginals.chances(margin).same, atol=1e-12)


def mixture(spike: float, centre: float = 1.0, scale: float = 0.5) -> Marginals:
    """A point mass at 0 and a Student t with 7 degrees of freedom."""
    return Marginals(
        weight=np.array([spike, 1 - spike]), centre=np.array([[0.0], [centre]]), scale=np.array([[0.0], [scale]]),
        degrees=7.0,
    )  # fmt: skip


@given(spike=st.floats(0.0, 0.99), centre=st.floats(-3, 3), scale=st.floats(0.01, 2), level=st.floats(0.5, 0.99))
def test_an_interval_leaves_out_as_much_on_either_side_or_ends_at_the_mass(
    spike: float, centre: float, scale: float, level: float
) -> None:
    marginals, tail = mixture(spike, centre, scale), (1 - level) / 2
    low, high = (float(end[0]) for end in marginals.interval(level))
    assert low <= high
    for end, beyond, upto in ((low, marginals.below, 1 - marginals.above(low)[0]),
                              (high, marginals.above, 1 - marginals.below(high)[0])):  # fmt: skip
        assert beyond(end)[0] <= tail + 1e-6
        assert upto >= tail - 1e-6
        if beyond(end)[0] < tail - 1e-6:
            assert end == 0, "less is only left out where a point mass is"


def test_an_end_on_the_point_mass_is_exactly_there() -> None:
    low, high = mixture(0.3).interval()
    # 0.05 of the weight is reached inside the mass: to the left of 0 the t has 0.7 * P(T < -2) = 0.030.
    assert 0.7 * student.cdf(-2, 7) < 0.05 < 0.7 * student.cdf(-2, 7) + 0.3
    assert low[0] == 0.0
    assert high[0] == pytest.approx(1 + 0.5 * student.ppf(1 - 0.05 / 0.7, 7), rel=1e-9)
    low, high = mixture(0.97).interval()
    assert (low[0], high[0]) == (0.0, 0.0)


def test_wrong_numbers() -> None:
    for margin in (-0.1, float("nan")):
        with pytest.raises(DataError, match=f"a margin is 0 or more, not {margin}"):
            mixture(0.3).chances(margin)
    with pytest.raises(DataError, match="an interval has a level between 0 and 1, not 1"):
        mixture(0.3).interval(1.0)
