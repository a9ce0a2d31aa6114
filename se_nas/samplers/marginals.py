"""What the posterior says of single numbers: mixtures of Student t distributions and point masses.

Where the model holds "no effect at all" for possible, a difference has a point mass at exactly 0. So chances are told
in three numbers that add up to 1: better by more than a margin, no relevant difference, worse by more than the margin.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr, stdtrit

from se_nas.core.errors import DataError
from se_nas.samplers.features import Array


@dataclass(frozen=True, kw_only=True)
class Chances:
    """Probabilities, ``n`` each, that add up to 1: above the margin, within it, below minus the margin."""

    better: Array
    same: Array
    worse: Array


@dataclass(frozen=True, kw_only=True)
class Marginals:
    """The distributions of ``n`` numbers, each on its own, as mixtures of ``k`` components.

    Attributes
    ----------
    weight:
        ``k`` mixture weights that add up to 1.
    centre, scale:
        ``k x n`` locations and scales. A component of scale 0 is a point mass.
    degrees:
        Degrees of freedom of every component.
    """

    weight: Array
    centre: Array
    scale: Array
    degrees: float

    def above(self, at: float) -> Array:
        """Probability to be truly larger than ``at``; a point mass there does not count: ``n`` numbers."""
        return np.asarray(1.0 - self._cdf(np.full(self.centre.shape[1], at), strict=False))

    def below(self, at: float) -> Array:
        """Probability to be truly smaller than ``at``; a point mass there does not count: ``n`` numbers."""
        return self._cdf(np.full(self.centre.shape[1], at), strict=True)

    def chances(self, margin: float) -> Chances:
        """Chances to be larger than ``margin`` (0 or more), within it (both ends included), and below minus it."""
        if not margin >= 0:
            raise DataError(f"a margin is 0 or more, not {margin}.")
        better, worse = self.above(margin), self.below(-margin)
        return Chances(better=better, same=np.clip(1.0 - better - worse, 0.0, 1.0), worse=worse)

    def interval(self, level: float = 0.9) -> tuple[Array, Array]:
        """Equal-tailed credible intervals, two arrays of ``n``: exact quantiles of the mixture, by bisection.

        An end that falls on a point mass is exactly where the mass is.
        """
        if not 0 < level < 1:
            raise DataError(f"an interval has a level between 0 and 1, not {level}.")
        low, high = (self._quantile(q, level) for q in ((1 - level) / 2, (1 + level) / 2))
        return low, high

    @property
    def _wide(self) -> np.ndarray:
        """Which components are not point masses: ``k x n``."""
        return np.asarray(self.scale > 1e-9 * max(float(self.scale.max()), 1e-300))

    def _cdf(self, at: Array, *, strict: bool) -> Array:
        """Probability of less than ``at`` (``n`` points), or of no more than that where it is not ``strict``."""
        z = np.where(at > self.centre, np.inf, np.where(at < self.centre, -np.inf, -np.inf if strict else np.inf))
        wide = self._wide
        z[wide] = ((at - self.centre) / np.where(wide, self.scale, 1.0))[wide]
        return np.asarray(self.weight @ stdtr(self.degrees, z))

    def _quantile(self, q: float, level: float) -> Array:
        reach = self.scale * stdtrit(self.degrees, 0.5 + level / 2)
        low, high = (self.centre - 3 * reach).min(axis=0), (self.centre + 3 * reach).max(axis=0)
        width = high - low
        for _ in range(40):
            middle = (low + high) / 2
            below = self._cdf(middle, strict=False) < q
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        found = (low + high) / 2
        for centre, wide in zip(self.centre, self._wide, strict=True):
            found = np.where(~wide & (np.abs(found - centre) <= 1e-9 * width), centre, found)
        return np.asarray(found)
