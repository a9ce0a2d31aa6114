"""Statistics of a confirm, against closed forms and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from se_nas.comparison import _largest_of_family, differences, mean_reach, seed_noise, seed_reach, variances
from se_nas.errors import DataError


def normal_scores(rng, *, n=4, s=5, m=400, network_image=0.3, seed=0.0, training=0.02, rest=0.5):
    """Scores with true means 0 and the given standard deviations of their parts."""
    image = rng.standard_normal((1, 1, m))
    return (
        image
        + network_image * rng.standard_normal((n, 1, m))
        + seed * rng.standard_normal((1, s, 1))
        + training * rng.standard_normal((n, s, 1))
        + rest * rng.standard_normal((n, s, m))
    )


class TestNoise:
    def test_one_pair_without_image_noise_is_the_paired_t_test(self):
        # Scores that do not depend on the image leave the seeds alone.
        values = np.random.default_rng(0).normal(size=(2, 6))
        scores = np.repeat(values[:, :, None], 10, axis=2)
        found = differences(scores, variances(scores), [(1, 0)])
        known = stats.ttest_rel(values[1], values[0], alternative="greater")
        assert found.p[0] == pytest.approx(known.pvalue)
        assert found.degrees[0] == pytest.approx(5)
        low, high = stats.ttest_rel(values[1], values[0]).confidence_interval(0.9)
        assert (found.low[0], found.high[0]) == (pytest.approx(low), pytest.approx(high))

    def test_equal_trainings_leave_the_images_alone(self):
        # With the same right and wrong images for every seed, only a paired test over images is left.
        rng = np.random.default_rng(1)
        images = rng.random((2, 300)) < [[0.8], [0.85]]
        scores = np.repeat(images[:, None, :].astype(float), 4, axis=1)
        found = differences(scores, variances(scores), [(1, 0)])
        per_image = images[1].astype(float) - images[0]
        assert found.error[0] == pytest.approx(per_image.std(ddof=1) / np.sqrt(300))
        draws = rng.integers(0, 300, (4000, 300))
        assert found.error[0] == pytest.approx(per_image[draws].mean(axis=1).std(), rel=0.05)  # a paired bootstrap

    def test_variances_are_those_that_were_put_in(self):
        rng = np.random.default_rng(2)
        seed, training, rest, m = 0.05, 0.04, 0.5, 200
        noise = [variances(normal_scores(rng, m=m, seed=seed, training=training, rest=rest)) for _ in range(400)]
        within = training**2 + rest**2 / m
        assert np.mean([v.by_seeds.interaction for v in noise]) == pytest.approx(within, rel=0.07)
        assert np.mean([v.by_seeds.total for v in noise]) == pytest.approx(seed**2 + within, rel=0.1)
        assert np.mean([v.by_seeds.correlation for v in noise]) == pytest.approx(seed**2 / (seed**2 + within), abs=0.08)
        contrast = np.array([1, -1, 0, 0])
        assert np.mean([contrast @ v.images @ contrast for v in noise]) == pytest.approx(2 * 0.3**2 / m, rel=0.1)

    def test_error_is_the_spread_of_the_difference(self):
        rng = np.random.default_rng(3)
        tables = [normal_scores(rng, n=3, m=150) for _ in range(250)]
        found = [differences(t, variances(t), [(1, 0)]) for t in tables]
        assert np.mean([f.error[0] ** 2 for f in found]) == pytest.approx(np.var([f.mean[0] for f in found]), rel=0.3)

    def test_seed_noise_pools_networks(self):
        values = np.random.default_rng(4).normal(size=(3, 5))
        noise = seed_noise(values)
        assert noise.total == pytest.approx(values.var(axis=1, ddof=1).mean())
        assert noise.degrees == 8
        assert seed_reach(noise, 5) > 0

    @pytest.mark.parametrize("shape", [(1, 5, 9), (3, 1, 9), (3, 5, 1)])
    def test_too_little_to_estimate_noise(self, shape):
        with pytest.raises(DataError, match="noise cannot be estimated"):
            variances(np.zeros(shape))

    def test_no_noise_at_all(self):
        scores = np.zeros((3, 3, 5))
        scores[1] = 1.0
        found = differences(scores, variances(scores), [(1, 0), (2, 0)])
        assert found.family_p[0] == 0.0
        assert found.family_p[1] > 0.05
        assert mean_reach(variances(scores), 0) == 0.0


class TestFamily:
    def test_critical_value_is_dunnetts(self):
        # Table 1a of Dunnett (1955): 4 treatments, 20 degrees of freedom, one-sided 5 %: 2.30.
        correlation = np.full((4, 4), 0.5) + 0.5 * np.eye(4)
        largest = _largest_of_family(correlation, 20.0)
        assert np.quantile(largest, 0.95) == pytest.approx(2.30, abs=0.05)

    def test_one_comparison_is_a_t_test(self):
        largest = _largest_of_family(np.eye(1), 7.0)
        assert np.quantile(largest, 0.95) == pytest.approx(stats.t.ppf(0.95, 7), abs=0.05)

    def test_rarely_a_false_claim_in_a_family(self):
        rng = np.random.default_rng(5)
        pairs = [(k, 0) for k in range(1, 4)]
        false = 0
        for _ in range(150):
            scores = normal_scores(rng, m=120)
            false += bool((differences(scores, variances(scores), pairs).family_p <= 0.05).any())
        assert false <= stats.binom.ppf(0.999, 150, 0.05)

    def test_adjusted_p_is_never_below_the_plain_one(self):
        scores = normal_scores(np.random.default_rng(6), n=6)
        found = differences(scores, variances(scores), [(k, 0) for k in range(1, 6)])
        assert (found.family_p >= found.p).all()
        assert (found.family_low <= found.low).all()
