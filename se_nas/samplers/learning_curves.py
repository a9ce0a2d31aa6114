"""Where a learning curve will end, and whether a training may stop because it cannot reach the front.

Both are judged from the curves of finished trials of the same length: how the value at this epoch told the
final value so far, errors included. An early epoch that says little has a wide prediction and stops nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import stdtr

from se_nas.core.errors import DataError
from se_nas.samplers.features import Array

#: Fewer finished curves than this say nothing about a partial one.
MIN_CURVES = 6


@dataclass(frozen=True, kw_only=True)
class Extrapolation:
    """Student t prediction of the final value: centre, scale and degrees of freedom."""

    mean: float
    scale: float
    degrees: float

    @property
    def variance(self) -> float:
        """Variance of the prediction, in squared units of the metric; above 0: a stopped trial is no full one."""
        return max(self.scale**2 * self.degrees / (self.degrees - 2), 1e-300)


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """``stop`` or go on; ``probability`` that the final value reaches the front at this cost; why, in words."""

    stop: bool
    probability: float
    reason: str


def extrapolate(curves: Sequence[Array], finals: Array, partial: Array) -> Extrapolation | None:
    """Predict the final value of a partial curve by regression on what finished curves had at the same epoch.

    Parameters
    ----------
    curves, finals:
        ``k`` finished curves of one length (one value per epoch) and the ``k`` values that were told for them.
    partial:
        The ``t`` values seen so far. The regressor is the mean of its last fifth.

    Returns
    -------
    Extrapolation or None
        The predictive distribution of simple linear regression with ``k - 2`` degrees of freedom (Gelman et al.,
        Bayesian Data Analysis, 3rd ed., sec. 14.2); None with fewer than ``MIN_CURVES`` curves or no epoch.

    Raises
    ------
    DataError
        When the curves have different lengths: trials of different length are not comparable.
    """
    lengths = {len(c) for c in curves}
    if len(lengths) > 1:
        raise DataError(f"learning curves of different length cannot be mixed: {sorted(lengths)} epochs.")
    t = len(partial)
    if len(curves) < MIN_CURVES or t == 0 or not np.isfinite(partial).all():
        return None
    window = slice(max(0, t - -(-t // 5)), t)
    x = np.array([np.mean(c[window]) for c in curves])
    y = np.asarray(finals, dtype=np.float64)
    k, dx = len(y), x - x.mean()
    spread = float(dx @ dx)
    slope = float(dx @ y) / spread if spread > 0 else 0.0
    rest = y - y.mean() - slope * dx
    at = float(np.mean(partial[window])) - float(x.mean())
    inflate = 1 + 1 / k + (at**2 / spread if spread > 0 else 0.0)
    return Extrapolation(
        mean=float(y.mean()) + slope * at,
        scale=float(np.sqrt(rest @ rest / (k - 2) * inflate)),
        degrees=float(k - 2),
    )


def judge(
    prediction: Extrapolation | None,
    front_value: float | None,
    *,
    seen: float,
    min_seen: float = 1 / 3,
    risk: float = 0.05,
) -> Judgement:
    """Decide on a running trial.

    Parameters
    ----------
    prediction:
        From :func:`extrapolate`, larger is better.
    front_value:
        The best posterior mean among placements that cost no more than this one, from the other trials; None where
        none is cheaper: the cheapest placement is never stopped.
    seen:
        Share of the epochs that are done, 0 to 1. Nothing stops before ``min_seen``.
    risk:
        Stop when the probability to reach ``front_value`` is below this.
    """
    if front_value is None:
        return Judgement(stop=False, probability=1.0, reason="no placement is cheaper")
    if prediction is None:
        return Judgement(stop=False, probability=1.0, reason=f"fewer than {MIN_CURVES} finished curves")
    z = (prediction.mean - front_value) / max(prediction.scale, 1e-300)
    probability = float(stdtr(prediction.degrees, z))
    if seen < min_seen:
        return Judgement(stop=False, probability=probability, reason=f"only {seen:.0%} of the epochs are done")
    stop = probability < risk
    reason = f"{probability:.1%} chance to reach {front_value:.4g}, the front at its cost"
    return Judgement(stop=stop, probability=probability, reason=reason)


@dataclass(frozen=True, kw_only=True)
class Standing:
    """What the ``k`` finished trials say: curves, final values, costs (``k x a``) and posterior means."""

    curves: Sequence[Array]
    finals: Array
    cost: Array
    mean: Array

    def judge(self, partial: Array, *, cost: Array, others: npt.NDArray[np.bool_], seen: float) -> Judgement:
        """Judge a trial of known costs (``a``) by its curve so far; ``others`` (``k``): not of its own placement."""
        cheaper = self.mean[others & (self.cost <= cost).all(axis=1)]
        front_value = float(cheaper.max()) if len(cheaper) else None
        return judge(extrapolate(self.curves, self.finals, partial), front_value, seen=seen)
