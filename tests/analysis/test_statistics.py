"""Statistics of a confirm, against closed forms and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from se_nas.analysis.statistics import (
    _largest_of_family,
    differences,
    mean_reach,
    seed_noise,
    seed_reach,
    variances,
)
from se_nas.core.errors import DataError


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
    @pytest.mark.parametrize("images", [10, 1])
    def test_one_pair_without_image_noise_is_the_paired_t_test(self, images):
        # Scores that do not depend on the image leave the seeds alone, and so does one score for all images.
        values = np.random.default_rng(0).normal(size=(2, 6))
        scores = np.repeat(values[:, :, None], images, axis=2)
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

    def test_seed_noise_of_one_network_is_the_variance_of_its_trainings(self):
        values = np.random.default_rng(4).normal(size=(1, 5))
        noise, variance = seed_noise(values), pytest.approx(values.var(ddof=1))
        assert (noise.total, noise.interaction, noise.correlation) == (variance, variance, 0.0)
        assert (noise.total_degrees, noise.degrees) == (4, 4)

    def test_seed_noise_of_trainings_that_agree(self):
        noise = seed_noise(np.repeat([[1.0], [2.0], [4.0]], 5, axis=1))
        assert (noise.total, noise.interaction, noise.correlation) == (0, 0, 0)
        assert (noise.total_degrees, noise.degrees) == (12, 8)

    def test_error_and_degrees_by_hand(self):
        """Three mean squares with their signs: network x seed, images, and what both contain (Satterthwaite)."""
        n, s, m = 3, 4, 6
        scores = normal_scores(np.random.default_rng(8), n=n, s=s, m=m, network_image=2.0, training=0.5)
        found = differences(scores, variances(scores), [(1, 0), (2, 0)])
        values = scores.mean(axis=2)
        rest = values - values.mean(axis=1, keepdims=True) - values.mean(axis=0) + values.mean()
        seeds = 2 * (rest**2).sum() / ((n - 1) * (s - 1)) / s
        for k, one in enumerate((1, 2)):
            difference = scores[one] - scores[0]
            images = difference.mean(axis=0).var(ddof=1) / m
            left = difference - difference.mean(axis=0) - difference.mean(axis=1, keepdims=True) + difference.mean()
            both = (left**2).sum() / ((s - 1) * (m - 1)) / (s * m)
            assert found.mean[k] == pytest.approx(difference.mean())
            assert found.error[k] ** 2 == pytest.approx(seeds + images - both)
            assert found.image_error[k] ** 2 == pytest.approx(images - both)
            bottom = seeds**2 / ((n - 1) * (s - 1)) + images**2 / (m - 1) + both**2 / ((s - 1) * (m - 1))
            assert found.degrees[k] == pytest.approx((seeds + images - both) ** 2 / bottom)
            assert found.p[k] == pytest.approx(stats.t.sf(found.mean[k] / found.error[k], found.degrees[k]))
            reach = found.error[k] * stats.t.ppf(0.95, found.degrees[k])
            assert (found.low[k], found.high[k]) == pytest.approx(
                (difference.mean() - reach, difference.mean() + reach)
            )

    def test_interval_of_a_mean_by_hand(self):
        n, s, m = 3, 4, 6
        scores = normal_scores(np.random.default_rng(9), n=n, s=s, m=m, network_image=2.0, seed=0.3, training=0.5)
        values, noise = scores.mean(axis=2), variances(scores)
        common = n * values.mean(axis=0).var(ddof=1)
        rest = values - values.mean(axis=1, keepdims=True) - values.mean(axis=0) + values.mean()
        interaction = (rest**2).sum() / ((n - 1) * (s - 1))
        total = (common + (n - 1) * interaction) / n
        squares = common**2 / (s - 1) + ((n - 1) * interaction) ** 2 / ((n - 1) * (s - 1))
        degrees = (n * total) ** 2 / squares
        assert noise.by_seeds.total_degrees == pytest.approx(degrees)
        assert noise.by_seeds.correlation == pytest.approx((common - interaction) / n / total)
        assert seed_reach(noise.by_seeds, s) == pytest.approx(np.sqrt(total / s) * stats.t.ppf(0.95, degrees))
        images = scores[1].mean(axis=0).var(ddof=1) / m
        left = scores[1] - scores[1].mean(axis=0) - scores[1].mean(axis=1, keepdims=True) + scores[1].mean()
        both = (left**2).sum() / ((s - 1) * (m - 1)) / (s * m)
        variance = total / s + images - both
        bottom = (total / s) ** 2 / degrees + images**2 / (m - 1) + both**2 / ((s - 1) * (m - 1))
        reach = np.sqrt(variance) * stats.t.ppf(0.95, variance**2 / bottom)
        assert mean_reach(noise, 1) == pytest.approx(reach)

    @pytest.mark.parametrize("shape", [(1, 5, 9), (3, 1, 9), (3, 5, 0)])
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

    def test_one_comparison_is_its_own_family(self):
        scores = normal_scores(np.random.default_rng(10), n=2)
        found = differences(scores, variances(scores), [(1, 0)])
        assert found.family_p[0] == pytest.approx(found.p[0], abs=0.01)
        assert found.family_low[0] == pytest.approx(found.low[0], abs=0.03 * (found.high[0] - found.low[0]))

    def test_the_simulation_never_makes_a_p_value_smaller(self):
        rng = np.random.default_rng(14)
        for _ in range(20):
            scores = normal_scores(rng, n=2, m=50)
            found = differences(scores, variances(scores), [(1, 0)])
            assert found.p[0] <= found.family_p[0] <= 1

    def test_intervals_and_claims_of_a_family_agree(self):
        """The family's interval ends above 0 exactly where its p value is below 5 %."""
        rng, claims = np.random.default_rng(11), 0
        pairs = [(k, 0) for k in range(1, 5)]
        for _ in range(60):
            scores = normal_scores(rng, n=5, m=60) + 0.1 * np.arange(5)[:, None, None]
            found = differences(scores, variances(scores), pairs)
            clear = np.abs(found.family_p - 0.05) > 0.002
            np.testing.assert_array_equal((found.family_low > 0)[clear], (found.family_p < 0.05)[clear])
            claims += int((found.family_p < 0.05).sum())
        assert 20 < claims < 220

    def test_far_out_the_bound_is_bonferronis(self):
        scores = normal_scores(np.random.default_rng(12), n=4, s=8)
        scores[1] += 1.0
        found = differences(scores, variances(scores), [(k, 0) for k in range(1, 4)])
        assert found.p[0] < 1e-7
        assert found.family_p[0] / found.p[0] == pytest.approx(3)

    def test_the_fewest_degrees_of_freedom_hold_for_all(self):
        """One comparison is noisy by a few images, the other by many seeds and images: the careful value is taken."""
        scores = normal_scores(np.random.default_rng(13), n=3, s=3, m=4, network_image=0.0, training=0.01, rest=0.01)
        scores[2] += np.array([0.0, 0.0, 0.0, 3.0])
        found = differences(scores, variances(scores), [(1, 0), (2, 0)])
        assert found.degrees.max() > found.degrees.min() + 1
        noise, contrast = variances(scores), np.array([[-1, 1, 0], [-1, 0, 1]])
        cov = contrast @ (noise.by_seeds.interaction / 3 * np.eye(3) + noise.images) @ contrast.T
        correlation = cov / np.outer(found.error, found.error)
        careful = np.quantile(_largest_of_family(correlation, found.degrees.min()), 0.95)
        assert (found.family_high - found.family_low) / 2 / found.error == pytest.approx([careful, careful])


def test_networks_that_agree_on_every_image_are_compared() -> None:
    """As blocks that have not left the identity do: no difference, no noise, and no error."""
    one = np.random.default_rng(0).integers(0, 2, size=(2, 40)).astype(float)
    scores = np.stack([one, one, 1 - one])
    told = differences(scores, variances(scores), [(0, 1), (2, 1)])
    assert told.mean[0] == 0
    assert told.low[0] <= 0 <= told.high[0]
    assert (told.degrees > 0).all()
    same = np.stack([one, one, one])
    assert differences(same, variances(same), [(0, 1), (2, 1)]).family_p.min() > 0.05
