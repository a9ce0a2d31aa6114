"""Where learning curves end, and what may stop."""

from __future__ import annotations

import numpy as np
import pytest

from se_nas.core.errors import DataError
from se_nas.samplers.learning_curves import MIN_CURVES, extrapolate, judge


def curves(k: int, seed: int = 0, epochs: int = 20) -> np.ndarray:
    """Saturating curves that end between 60 and 80, with noise that shrinks."""
    rng = np.random.default_rng(seed)
    ends = rng.uniform(60, 80, (k, 1))
    t = np.arange(1, epochs + 1)
    return ends * (1 - np.exp(-t / 5)) + rng.normal(0, 3, (k, epochs)) / np.sqrt(t)


def test_the_interval_of_the_extrapolation_holds_the_end() -> None:
    inside = 0
    for seed in range(200):
        data = curves(13, seed)
        prediction = extrapolate(list(data[:12]), data[:12, -1], data[12, :8])
        assert prediction is not None
        inside += abs(data[12, -1] - prediction.mean) < 1.81 * prediction.scale  # 5 % per tail, 10 degrees
    assert 0.84 <= inside / 200 <= 0.95


def test_a_later_epoch_says_more() -> None:
    data = curves(31)
    early, late = (extrapolate(list(data[:30]), data[:30, -1], data[30, :t]) for t in (1, 15))
    assert early is not None
    assert late is not None
    assert late.scale < 0.5 * early.scale


def test_few_curves_or_no_epoch_say_nothing() -> None:
    data = curves(MIN_CURVES)
    assert extrapolate(list(data[:-1]), data[:-1, -1], data[-1, :5]) is None
    assert extrapolate(list(data), data[:, -1], np.array([])) is None


def test_curves_of_different_length_are_refused() -> None:
    with pytest.raises(DataError, match="different length"):
        extrapolate([np.zeros(3), np.zeros(4)], np.zeros(2), np.zeros(1))


def test_what_is_stopped_and_what_never_is() -> None:
    data = curves(13)
    hopeless = extrapolate(list(data[:12]), data[:12, -1], data[12, :10] - 30)
    assert judge(hopeless, 75.0, seen=0.5).stop
    assert not judge(hopeless, 75.0, seen=0.1).stop, "never on the first epochs"
    assert not judge(hopeless, None, seen=0.5).stop, "the cheapest placement is never stopped"
    assert not judge(None, 75.0, seen=0.5).stop
    assert not judge(extrapolate(list(data[:12]), data[:12, -1], data[12, :10] + 10), 75.0, seen=0.5).stop


def test_a_trial_that_would_reach_the_front_is_stopped_no_more_often_than_the_risk() -> None:
    stopped, reaching = 0, 0
    for seed in range(400):
        data = curves(21, seed)
        front = float(np.quantile(data[:20, -1], 0.7))
        if data[20, -1] >= front:
            reaching += 1
            verdict = judge(extrapolate(list(data[:20]), data[:20, -1], data[20, :8]), front, seen=0.4)
            stopped += verdict.stop
    assert reaching > 80
    assert stopped / reaching <= 0.05
