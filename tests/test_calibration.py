"""The experiments on calibration and on the limit of the sampler: their arithmetic against slower ways."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from landscapes import REDUCTIONS4, RESNET20, additive, make
from limit import Fixed, landscape_of

from se_nas.samplers.features import Features
from se_nas.samplers.posterior import Posterior, fit

ROOT = Path(__file__).parents[1] / "experiments"


@pytest.fixture(scope="module")
def run() -> ModuleType:
    spec = importlib.util.spec_from_file_location("calibration_run", ROOT / "calibration" / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def posterior() -> Posterior:
    table = np.outer([0.3, -0.1, 0.5], [0.0, 0.7, 0.9, 1.0])
    landscape = make("test", list(RESNET20), REDUCTIONS4, additive(table), 0.3)
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 4, size=(20, 3))
    values = 70 + landscape.gain(codes) + rng.normal(0, 0.3, 20)
    return fit(Features(landscape.level_space.meanings), codes, values)


class TestDrawn:
    def test_what_is_not_seen_is_the_truth(self, run: ModuleType) -> None:
        finals = np.random.default_rng(0).normal(size=(64, 8))
        for way in ("own", "one"):
            seen, others = run.drawn(finals, way, 3)
            np.testing.assert_array_equal(np.sort(np.column_stack([seen, others]), axis=1), np.sort(finals, axis=1))

    def test_seeds_are_the_networks_own_or_one(self, run: ModuleType) -> None:
        finals = np.tile(np.arange(8.0), (64, 1))
        assert len(set(run.drawn(finals, "own", 0)[0])) == 8
        assert [set(run.drawn(finals, "one", number)[0]) for number in (0, 5, 8)] == [{0.0}, {5.0}, {0.0}]


def test_an_interval_holds_the_truth_as_its_ends_say(run: ModuleType, posterior: Posterior) -> None:
    believed = posterior.marginals(posterior.features(np.zeros((400, 3), dtype=np.int64)))
    low, high = believed.interval(0.9)
    truth = np.linspace(low[0] - 0.2, high[0] + 0.2, 400)
    np.testing.assert_array_equal(run.inside(believed, truth), (low <= truth) & (truth <= high))


def test_a_new_training_has_the_noise_of_one(run: ModuleType, posterior: Posterior) -> None:
    """Quantiles of the prediction against draws of the component, its noise, its coefficients and the training."""
    rng = np.random.default_rng(1)
    phi = posterior.features(np.array([[1, 2, 3]]))
    which = rng.choice(len(posterior.weight), size=400_000, p=posterior.weight)
    inflation = posterior.degrees / rng.chisquare(posterior.degrees, size=len(which))
    spread = np.einsum("p,kpq,q->k", phi[0], posterior.cov, phi[0]) + posterior.noise_variance / 4
    draws = (posterior.mean @ phi[0])[which] + rng.normal(size=len(which)) * np.sqrt(spread[which] * inflation)
    low, high = run.predictive(posterior, phi, 1 / 4).interval(0.9)
    np.testing.assert_allclose(np.quantile(draws, [0.05, 0.95]), [low[0], high[0]], atol=0.01)


def test_worlds_without_effect_have_none(run: ModuleType) -> None:
    landscape = run.world(0.0, 3)
    assert (landscape.gain(landscape.level_space.all()) == 0).all()
    sizes = [run.world(2.0, n).gain(np.full((1, run.world(2.0, n).decisions), 3))[0] for n in range(400)]
    assert np.sqrt(np.mean(np.square(sizes))) == pytest.approx(2.0 * run.NOISE, rel=0.1)


def test_the_digits_have_eight_seeds_of_each_placement(run: ModuleType) -> None:
    table = run.digits()
    assert table.shape == (4, 4, 4)
    assert len(table.complete()) >= 8
    assert (table.params[1:] > table.params[0]).all()


def test_claims_of_many_draws_at_once_are_those_of_one_fit_each() -> None:
    landscape = landscape_of(1)
    fixed = Fixed(landscape, 5, 0, 20)
    design = fixed.every[np.random.default_rng(0).integers(len(fixed.every), size=20)]
    values = 70 + landscape.gain(design)[:, None] + fixed.noise
    means = [fixed.phi @ fit(fixed.features, design, column).moments()[0] for column in values.T]
    claims = fixed.claims(design, values)
    for mean, claim in zip(means, claims.T, strict=True):
        np.testing.assert_allclose(claim - claim[0], mean - mean[0], atol=0.01)  # a fit drops negligible weights
