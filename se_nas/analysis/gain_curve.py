"""What SE gains after each epoch, and whether the gain still rises at the end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from se_nas.core.trial import Trial
from se_nas.samplers.features import Array
from se_nas.space.space import Space

END = 4
"""The end of a schedule: the last of so many equal parts."""

FEWEST = 5
"""Trainings without pairs that a regression needs."""


@dataclass(frozen=True, kw_only=True)
class GainRise:
    """By how much the gain of SE rises in an epoch at the end of the trainings, in the metric's unit; larger is better.

    ``low`` and ``high``: 90 % interval; ``gain``: at the end; ``epochs``: that the rise was seen over; ``number``: of
    seeds (``paired``: the same for the networks that are compared) or else of trainings.
    """

    rise: float
    low: float
    high: float
    gain: float
    epochs: int
    number: int
    paired: bool


def paired_rise(trials: Sequence[Trial], metric: str, sign: float) -> GainRise | None:
    """Of trainings with the same seeds: mean over the networks with SE minus no SE, seed by seed (t interval).

    None with fewer than two seeds, or without two points in the curves.
    """
    base = {t.identity.seed: t for t in trials if not t.placement.blocks}
    rises, gains, spans = [], [], []
    for seed, none in base.items():
        others = [t for t in trials if t.identity.seed == seed and t.placement.blocks]
        ends = [e for t in (none, *others) if (e := _end(t, metric)) is not None]
        if others and len(ends) == len(others) + 1:
            before, after = (np.array([e[k] for e in ends]) for k in (0, 1))
            gain = [sign * float(v[1:].mean() - v[0]) for v in (before, after)]
            rises.append(gain[1] - gain[0])
            gains.append(gain[1])
            spans.append(ends[0][2])
    if len(rises) < 2:
        return None
    span = float(np.mean(spans))
    return _rise(np.array(rises) / span, float(np.mean(gains)), round(span), paired=True)


def searched_rise(trials: Sequence[Trial], space: Space, metric: str, sign: float) -> GainRise | None:
    """Of a search: slope of the rise of each curve at its end over the share of decisions that have SE (least squares).

    None with fewer than `FEWEST` trainings, without curves, or if all have the same share.
    """
    ends = [(t, e) for t in trials if (e := _end(t, metric)) is not None]
    if len(ends) < FEWEST:
        return None
    share = np.array([space.share_with_se(t.placement) for t, _ in ends])
    before, after, spans = (np.array([e[k] for _, e in ends]) for k in (0, 1, 2))
    if np.ptp(share) < 0.5:
        return None
    centred = share - share.mean()
    squares = float(centred @ centred)

    def slope(values: Array) -> tuple[float, float]:
        found = float(centred @ values) / squares
        rest = values - values.mean() - found * centred
        return found, math.sqrt(float(rest @ rest) / (len(values) - 2) / squares)

    rise, error = slope(sign * (after - before) / spans)
    reach = float(stdtrit(len(ends) - 2, 0.95)) * error
    gain, _ = slope(sign * after)
    return GainRise(
        rise=rise, low=rise - reach, high=rise + reach, gain=gain, epochs=round(float(spans.mean())),
        number=len(ends), paired=False,
    )  # fmt: skip


def _rise(values: Array, gain: float, epochs: int, *, paired: bool) -> GainRise:
    mean, error = float(values.mean()), float(values.std(ddof=1)) / math.sqrt(len(values))
    reach = float(stdtrit(len(values) - 1, 0.95)) * error
    return GainRise(
        rise=mean, low=mean - reach, high=mean + reach, gain=gain, epochs=epochs, number=len(values), paired=paired
    )


def _end(trial: Trial, metric: str) -> tuple[float, float, int] | None:
    """The metric before the last part of a training and after it, and how many epochs lie between."""
    seen = [(e.epoch, e.metrics[metric]) for e in trial.curve if metric in e.metrics]
    if len(seen) < 2:
        return None
    span = max(1, round(trial.identity.epochs / END))
    before = [point for point in seen if point[0] <= seen[-1][0] - span]
    first = before[-1] if before else seen[0]
    return first[1], seen[-1][1], seen[-1][0] - first[0]
