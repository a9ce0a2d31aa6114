"""The posterior against scikit-learn, densities and simulated truth."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import PairwiseKernel

import se_nas.samplers.posterior as module
from se_nas.core.errors import DataError
from se_nas.samplers.features import GROUPS, Features
from se_nas.samplers.posterior import conditioned, fit

MEANINGS = [(None, 16.0, 8.0, 4.0)] * 3


@pytest.fixture
def features() -> Features:
    return Features(MEANINGS)


def trials(n: int, seed: int = 0, noise: float = 0.2) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 4, (n, 3))
    return codes, 70 + 0.5 * (codes[:, 0] > 0) + 0.1 * codes[:, 1] + rng.normal(0, noise, n)


def one_point(monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """Reduce the grid to one point and return its group variances."""
    variances = module._variances(2.0, 0.3, 0.35)
    monkeypatch.setattr(module, "_grid", lambda **_: (np.array([variances]), np.zeros(1)))
    return np.array(variances)


@pytest.mark.parametrize("n", [1, 6, 40, 300])
def test_one_grid_point_is_gaussian_process_regression(
    n: int, features: Features, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = one_point(monkeypatch)
    codes, y = trials(n)
    posterior = fit(features, codes, y)
    root = features.scale * np.sqrt(group[features.group])
    # Noise variance 1: the oracle's mean does not depend on the common scale.
    oracle = GaussianProcessRegressor(PairwiseKernel(metric="linear"), alpha=1.0, optimizer=None)
    oracle.fit(features(codes) * root, y - y.mean())
    at = np.array([[0, 0, 0], [3, 3, 3], [1, 0, 2]])
    mean, sd = oracle.predict(features(at) * root, return_std=True)
    ours, our_sd = posterior.predict(at)
    np.testing.assert_allclose(ours, mean + y.mean(), rtol=0, atol=1e-6)
    np.testing.assert_allclose(our_sd / posterior.noise, sd, rtol=1e-5)


@pytest.mark.parametrize("n", [9, 40])
def test_stopped_trials_are_weighted_by_their_variance(
    n: int, features: Features, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against regression with a noise of its own for each trial, and against the normal equations."""
    group = one_point(monkeypatch)
    codes, y = trials(n)
    extra = np.where(np.arange(n) % 3 == 1, 0.02 + 0.1 * np.arange(n), 0.0)
    posterior = fit(features, codes, y, extra_variance=extra)
    prior = group[features.group] * features.scale**2
    full = features(codes[extra == 0])
    kernel = np.eye(len(full)) + (full * prior) @ full.T  # in units of the noise variance of a full training
    z = y[extra == 0] - y[extra == 0].mean()
    noise_variance = (z.var() / 4 + z @ np.linalg.solve(kernel, z)) / (1 + len(z))
    alpha = 1 + extra / noise_variance
    centre = float((y / alpha).sum() / (1 / alpha).sum())

    root = np.sqrt(prior)
    oracle = GaussianProcessRegressor(PairwiseKernel(metric="linear"), alpha=alpha, optimizer=None)
    oracle.fit(features(codes) * root, y - centre)
    at = np.array([[0, 0, 0], [3, 3, 3], [1, 0, 2]])
    mean, sd = oracle.predict(features(at) * root, return_std=True)
    ours, our_sd = posterior.predict(at)
    np.testing.assert_allclose(ours, mean + centre, rtol=0, atol=1e-6)
    np.testing.assert_allclose(our_sd / posterior.noise, sd, rtol=1e-5)

    phi = features(codes)
    precision = np.diag(1 / prior) + phi.T @ (phi / alpha[:, None])
    coefficients = np.linalg.solve(precision, phi.T @ ((y - centre) / alpha))
    np.testing.assert_allclose(ours, features(at) @ coefficients + centre, rtol=0, atol=1e-6)


def test_marginal_likelihood_weights_are_those_of_the_student_t_density(features: Features) -> None:
    from scipy.stats import multivariate_t

    codes, y = trials(12)
    grid, log_prior = module._grid()
    guess = module.PRIOR_TRIALS * float(np.var(y)) / 4
    rows = features(codes) * features.scale
    log_weight = []
    for variances, prior in zip(grid, log_prior, strict=True):
        kernel = np.eye(12) + (rows * variances[features.group]) @ rows.T
        density = multivariate_t(np.full(12, y.mean()), kernel * guess / module.PRIOR_TRIALS, df=module.PRIOR_TRIALS)
        log_weight.append(prior + density.logpdf(y))
    weight = np.exp(np.array(log_weight) - max(log_weight))
    weight /= weight.sum()
    kept = weight[weight > module.NEGLIGIBLE]
    np.testing.assert_allclose(fit(features, codes, y).weight, kept / kept.sum(), rtol=1e-6)


@given(st.floats(-50, 50), st.floats(0.01, 100))
@settings(max_examples=15, deadline=None)
def test_units_do_not_matter(shift: float, scale: float) -> None:
    features = Features(MEANINGS)
    codes, y = trials(20)
    a, b = fit(features, codes, y - 70), fit(features, codes, shift + scale * (y - 70))
    np.testing.assert_allclose(b.predict(codes)[0], shift + scale * a.predict(codes)[0], rtol=1e-3, atol=1e-3 * scale)
    assert b.noise == pytest.approx(scale * a.noise, rel=1e-3)


def test_moments_are_those_of_the_mixture(features: Features) -> None:
    posterior = fit(features, *trials(8))
    weight = posterior.weight
    assert len(weight) > 3
    mean = sum(w * m for w, m in zip(weight, posterior.mean, strict=True))
    second = sum(w * (c + np.outer(m, m)) for w, m, c in zip(weight, posterior.mean, posterior.cov, strict=True))
    np.testing.assert_allclose(posterior.moments()[0], mean)
    np.testing.assert_allclose(posterior.moments()[1], second - np.outer(mean, mean), atol=1e-9)
    assert posterior.noise == pytest.approx(np.sqrt(weight @ posterior.noise_variance))
    assert np.ptp(posterior.noise_variance) > 0.1 * posterior.noise**2
    at, other = np.array([[0, 0, 0], [3, 1, 2]]), np.array([[1, 1, 1]])
    phi = features(at) - features(other)
    centre, sd = posterior.predict(at, minus=other)
    np.testing.assert_allclose(centre, phi @ mean)
    np.testing.assert_allclose(sd**2, np.diag(phi @ (second - np.outer(mean, mean)) @ phi.T), rtol=1e-6)


def test_interval_is_the_quantile_of_the_joint_draws(features: Features) -> None:
    codes, y = trials(15)
    posterior = fit(features, codes, y)
    draws = posterior.samples(codes[:4], size=40_000, rng=np.random.default_rng(0))
    low, high = posterior.interval(codes[:4])
    inside = ((low <= draws) & (draws <= high)).mean(axis=0)
    np.testing.assert_allclose(inside, 0.9, atol=0.01)


def test_probability_above_agrees_with_the_joint_draws(features: Features) -> None:
    codes, y = trials(15)
    posterior = fit(features, codes, y)
    at, none = np.array([[3, 0, 0], [0, 3, 0]]), np.zeros((1, 3), dtype=np.int64)
    draws = posterior.samples(np.concatenate([at, none]), size=40_000, rng=np.random.default_rng(0))
    above = (draws[:, :2] > draws[:, 2:] + 1e-6).mean(axis=0)
    np.testing.assert_allclose(posterior.probability_above(at, minus=none), above, atol=0.015)


def test_a_placement_is_never_better_than_itself(features: Features) -> None:
    codes, y = trials(10)
    assert fit(features, codes, y).probability_above(codes[:2], minus=codes[:2]) == pytest.approx([0, 0])


def test_repeats_teach_the_noise(features: Features) -> None:
    rng = np.random.default_rng(0)
    codes = np.repeat(trials(5)[0], 20, axis=0)
    y = 70 + 0.4 * (codes[:, 0] > 0) + rng.normal(0, 0.3, 100)
    assert fit(features, codes, y).noise == pytest.approx(0.3, rel=0.15)


def test_a_stopped_trial_counts_less_than_a_finished_one(features: Features) -> None:
    codes, y = trials(12)
    extra = np.zeros(12)
    extra[0] = 4.0
    odd = y.copy()
    odd[0] += 3.0
    plain, stopped, finished = (
        fit(features, codes, y),
        fit(features, codes, odd, extra_variance=extra),
        fit(features, codes, odd),
    )
    move = [abs(p.predict(codes[:1])[0][0] - plain.predict(codes[:1])[0][0]) for p in (stopped, finished)]
    assert move[0] < 0.3 * move[1]


def test_one_prior_weight_is_that_of_no_effect_and_all_are_one(features: Features) -> None:
    grid, log_prior = module._grid()
    assert np.exp(log_prior).sum() == pytest.approx(1)
    (nothing,) = np.flatnonzero((grid[:, 1:] == 0).all(axis=1))
    assert np.exp(log_prior[nothing]) == pytest.approx(module.NO_EFFECT_WEIGHT)
    middling = grid[[np.allclose(point, module._variances(2.0, 0.3, 0.25)[:-1]) for point in grid]][0]
    np.testing.assert_allclose(module.prior_covariance(features), np.diag(middling[features.group] * features.scale**2))


def test_differences_of_many_placements_are_of_their_own_partners(features: Features) -> None:
    posterior, rng = fit(features, *trials(12)), np.random.default_rng(0)
    one, two = (rng.integers(0, 4, (module.BLOCK + 50, 3)) for _ in range(2))
    centre, sd = posterior.predict(one, minus=two)
    for i in (0, module.BLOCK - 1, module.BLOCK, module.BLOCK + 49):
        alone = posterior.predict(one[[i]], minus=two[[i]])
        assert (centre[i], sd[i]) == (pytest.approx(alone[0][0], abs=1e-9), pytest.approx(alone[1][0], abs=1e-6))


def test_conditioning_on_a_running_trial_is_the_covariance_after_it(features: Features) -> None:
    cov = module.prior_covariance(features)
    phi = features(trials(5)[0])
    at_once = conditioned(cov, phi, 0.5)
    one_by_one = conditioned(conditioned(cov, phi[:2], 0.5), phi[2:], 0.5)
    np.testing.assert_allclose(at_once, one_by_one, atol=1e-6)


@pytest.mark.parametrize("y", [[], [1.0, np.nan], [1.0]])
def test_bad_values_are_refused(y: list[float], features: Features) -> None:
    with pytest.raises(DataError, match="one finite value per trial"):
        fit(features, np.zeros((2 if y else 0, 3), dtype=np.int64), np.array(y))


def test_only_stopped_trials_are_refused(features: Features) -> None:
    codes, y = trials(3)
    with pytest.raises(DataError, match="every trial was stopped"):
        fit(features, codes, y, extra_variance=np.ones(3))


def test_500_trials_and_100000_placements_take_less_than_a_second_each() -> None:
    features = Features([(None, 32.0, 16.0, 8.0, 4.0)] * 16)
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 5, (500, 16))
    many = rng.integers(0, 5, (100_000, 16))
    start = time.process_time()
    posterior = fit(features, codes, rng.normal(size=500))
    fitted = time.process_time() - start
    start = time.process_time()
    mean, sd = posterior.predict(many)
    predicted = time.process_time() - start
    assert fitted < 1.0
    assert predicted < 1.0
    assert np.isfinite(mean).all()
    assert (sd > 0).all()


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """A small version of the coverage figure: 60 searches of a kind that the benchmark does not have."""
    features, inside = Features(MEANINGS), []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        effect = rng.normal(0, 0.3, 3)
        codes = rng.integers(0, 4, (20, 3))
        y = 70 + (codes > 0) @ effect + rng.normal(0, 0.3, 20)
        low, high = fit(features, codes, y).interval(codes[:8])
        truth = 70 + (codes[:8] > 0) @ effect
        inside.append(((low <= truth) & (truth <= high)).mean())
    assert 0.85 <= np.mean(inside) <= 0.97


def test_without_effect_a_gain_is_rarely_claimed() -> None:
    """A small version of the false-claims figure."""
    features, claims = Features(MEANINGS), 0
    every = np.indices((4, 4, 4)).reshape(3, -1).T
    for seed in range(100):
        rng = np.random.default_rng(seed)
        posterior = fit(features, rng.integers(0, 4, (50, 3)), 70 + rng.normal(0, 0.3, 50))
        claims += bool(posterior.probability_above(every, minus=every[:1]).max() > 0.95)
    assert claims <= 5


def test_groups_are_in_the_order_that_the_grid_expects() -> None:
    assert len(module._variances(1.0, 1.0, 1.0)) == len(GROUPS)


@pytest.mark.parametrize(("value", "noise"), [(70.0, 0.7), (-3.0, 0.03), (0.0, 1.0)])
def test_one_trial_guesses_a_noise_of_one_percent(value: float, noise: float, features: Features) -> None:
    """With one degree of freedom of the prior and one of the trial; of a value of 0 a percent says nothing."""
    posterior = fit(features, np.array([[1, 0, 2]]), np.array([value]))
    assert posterior.degrees == 2
    assert posterior.noise == pytest.approx(noise / np.sqrt(2))


def test_draws_of_coefficients_that_move_together_stay_on_their_line(features: Features) -> None:
    """A singular covariance, whose eigenvalues are 0 but for rounding."""
    p, rng = len(features.scale), np.random.default_rng(0)
    way, mean = rng.normal(size=(2, p))
    posterior = module.Posterior(
        features=features, weight=np.ones(1), mean=mean[None], cov=np.outer(way, way)[None],
        noise_variance=np.ones(1), degrees=50.0,
    )  # fmt: skip
    assert np.linalg.eigvalsh(posterior.cov[0]).min() < 0
    draws = posterior.coefficient_samples(size=4000, rng=rng) - mean
    along = draws @ way / (way @ way)
    np.testing.assert_allclose(draws, np.outer(along, way), atol=1e-6)
    assert along.std() == pytest.approx(np.sqrt(50 / 48), rel=0.05)  # of a Student t with 50 degrees of freedom
