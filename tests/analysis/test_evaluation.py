"""Intervals of a metric on new images, against independent ones."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest, bootstrap

from se_nas.analysis.evaluation import by_class, measure, wilson


@pytest.mark.parametrize(("found", "number"), [(0, 1), (1, 1), (0, 20), (9, 10), (357, 360), (50, 100)])
def test_wilson_is_that_of_scipy(found: int, number: int) -> None:
    expected = binomtest(found, number).proportion_ci(0.9, method="wilson")
    assert wilson(found, number) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_scores_of_zero_and_one_have_wilsons_interval() -> None:
    measured = measure(np.array([1.0, 1, 0, 1]), metric="accuracy", unit="share")
    assert (measured.value, measured.how, measured.images) == (0.75, "Wilson", 4)
    assert (measured.low, measured.high) == wilson(3, 4)
    assert measured.text == f"75.00 % ({100 * measured.low:.2f} % to {100 * measured.high:.2f} %)"


def test_other_scores_have_the_percentile_bootstrap() -> None:
    scores = np.random.default_rng(3).exponential(size=200)
    measured = measure(scores, metric="loss", unit="nats")
    expected = bootstrap(
        (scores,), np.mean, confidence_level=0.9, method="percentile", n_resamples=9999, rng=np.random.default_rng(1)
    ).confidence_interval
    assert measured.how == "bootstrap"
    assert measured.value == scores.mean()
    assert (measured.low, measured.high) == pytest.approx((expected.low, expected.high), rel=0.02)


def test_pseudo_values_have_students_interval_around_the_value() -> None:
    """That of 20 numbers of mean 0.5 and deviation 0.1: 1.729 standard errors either way."""
    values = 0.5 + 0.1 * np.sqrt(19 / 20) * np.tile([-1.0, 1.0], 10)
    measured = measure(values, metric="f1", unit="share", value=0.6)
    assert measured.how == "jackknife"
    assert measured.value == 0.6
    assert measured.high - 0.6 == pytest.approx(1.7291328 * 0.1 / np.sqrt(20), rel=1e-6)
    assert 0.6 - measured.low == pytest.approx(measured.high - 0.6)


def test_classes_are_apart() -> None:
    scores, labels = np.array([1.0, 0, 0, 1]), np.array([0, 0, 2, 2])
    one, two, three = by_class(scores, labels, ("a", "b", "c"), metric="accuracy", unit="share")
    assert (one.images, two.images, three.images) == (2, 0, 2)
    assert two.score is None
    assert one.score == three.score == measure(np.array([1.0, 0]), metric="accuracy", unit="share")
