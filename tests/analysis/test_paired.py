"""Networks on the same images, one training each: against the t test, McNemar's numbers, and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from se_nas.analysis.paired import losses_of, score_interval
from se_nas.core.errors import DataError


def test_of_numbers_it_is_the_paired_t_test_over_images() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(3, 80)) + rng.normal(size=80)
    found = losses_of(scores)
    for k in (1, 2):
        known = stats.ttest_rel(scores[0], scores[k], alternative="greater")
        assert found.mean[k - 1] == pytest.approx(scores[0].mean() - scores[k].mean())
        assert found.p[k - 1] == pytest.approx(known.pvalue)
        low, high = stats.ttest_rel(scores[0], scores[k]).confidence_interval(0.9)
        assert (found.low[k - 1], found.high[k - 1]) == (pytest.approx(low), pytest.approx(high))
        assert found.family_high[k - 1] > found.high[k - 1]


def test_of_right_and_wrong_the_error_is_that_of_bonett_and_price() -> None:
    rng = np.random.default_rng(1)
    whole = rng.random(500) < 0.8
    scores = np.stack([whole, whole ^ (rng.random(500) < 0.05), whole & (rng.random(500) < 0.97)]).astype(float)
    found = losses_of(scores)
    for k in (1, 2):
        alone = ((scores[0] == 1) & (scores[k] == 0)).sum()
        other = ((scores[0] == 0) & (scores[k] == 1)).sum()
        assert found.mean[k - 1] == pytest.approx((alone - other) / 500)
        p21, p12 = (alone + 1) / 502, (other + 1) / 502
        assert found.error[k - 1] == pytest.approx(np.sqrt((p21 + p12 - (p21 - p12) ** 2) / 502))


@pytest.mark.parametrize(("won", "lost", "images"), [(12, 5, 100), (0, 0, 50), (3, 0, 357), (40, 41, 90), (90, 0, 90)])
def test_ends_of_a_score_interval_are_as_likely_as_asked(won: int, lost: int, images: int) -> None:
    """By brute force: the error that a difference implies is that of the likeliest shares with this difference."""
    low, high = score_interval(won, lost, images, 1.645)
    assert -1 <= low <= (won - lost) / images <= high <= 1
    for end, side in ((low, 1), (high, -1)):
        if abs(end) == 1:
            continue
        lost_shares = np.linspace(max(0.0, -end), (1 - end) / 2, 400_001)[1:-1]
        won_shares = lost_shares + end
        with np.errstate(divide="ignore"):
            rest = (images - won - lost) * np.log(1 - won_shares - lost_shares)
            likelihood = rest + (won * np.log(won_shares) if won else 0) + (lost * np.log(lost_shares) if lost else 0)
        best = int(np.nanargmax(likelihood))
        variance = (won_shares[best] + lost_shares[best] - end**2) / images
        assert ((won - lost) / images - end) / np.sqrt(variance) == pytest.approx(side * 1.645, rel=0.01)


def test_networks_that_agree_on_every_image_are_not_known_to_be_equal() -> None:
    found = losses_of(np.stack([np.arange(100) % 2] * 2).astype(float))
    assert found.mean[0] == 0
    assert found.high[0] == pytest.approx(1.66**2 / (100 + 1.66**2), rel=0.01)
    assert found.low[0] == pytest.approx(-found.high[0])
    assert found.p[0] == pytest.approx(0.5)


@pytest.mark.parametrize("lose", [0.002, 0.02, 0.2])
def test_intervals_hold_also_where_few_images_tell(lose: float) -> None:
    rng = np.random.default_rng(2)
    held, family = [], []
    for _ in range(500):
        scores = np.stack([np.ones(300), rng.random(300) >= lose, rng.random(300) >= lose]).astype(float)
        found = losses_of(scores)
        held += list((found.low <= lose) & (lose <= found.high))
        family.append(bool((found.family_high >= lose).all()))
    assert np.mean(held) > 0.87
    assert np.mean(family) > 0.93


def test_false_claims_are_rare_in_a_family() -> None:
    rng = np.random.default_rng(3)
    false = []
    for _ in range(400):
        whole = rng.random(400) < 0.7
        others = [whole ^ (rng.random(400) < 0.03 * (1 + whole * (0.3 / 0.7 - 1))) for _ in range(5)]
        false.append(losses_of(np.stack([whole, *others]).astype(float)).family_p.min() < 0.05)
    assert np.mean(false) < 0.08


def test_one_network_or_one_image_is_refused() -> None:
    for shape in ((1, 9), (2, 1)):
        with pytest.raises(DataError, match="noise cannot be estimated"):
            losses_of(np.zeros(shape))
