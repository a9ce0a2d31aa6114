"""Networks compared on the same images, one training each: only the finite set of images is noise.

What follows holds for these very trainings. Claims are one-sided and hold for a whole family at once, as in
`se_nas.analysis.statistics`, whose machinery this is.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.optimize import brentq

from se_nas.analysis.statistics import Differences, SeedNoise, Variances, differences
from se_nas.core.errors import DataError
from se_nas.samplers.features import Array


def losses_of(scores: Array) -> Differences:
    """The first of several networks compared with each of the others, from scores ``networks x images``.

    Larger scores are better; DataError with fewer than two networks or images. Where all scores are 0 or 1 (right or
    wrong), few images or none may tell two networks apart, and a standard error by these few is too small or 0: p
    values are then as if in two more images one of each pair were right, once the one and once the other (Bonett and
    Price, "Adjusted Wald confidence interval for a difference of binomial proportions based on paired data", Journal of
    Educational and Behavioral Statistics 37, 2012), and intervals are score intervals (Tango, "Equivalence test and
    confidence interval for the difference in proportions for the paired-sample design", Statistics in Medicine 17,
    1998).
    """
    n, m = scores.shape
    if min(n, m) < 2:
        raise DataError(f"noise cannot be estimated from {n} networks and {m} images")
    shares = bool(((scores == 0) | (scores == 1)).all())
    images = np.cov(scores) / m
    if shares:
        images = images + np.diag(more_noise(scores, images))
    none = SeedNoise(total=0.0, total_degrees=m - 1, interaction=0.0, degrees=m - 1, correlation=0.0)
    noise = Variances(by_seeds=none, images=images, image_terms=(images, np.zeros((n, n))), shape=(n, 1, m))
    found = differences(scores[:, None], noise, [(0, k) for k in range(1, n)])
    return _with_score_intervals(found, scores) if shares else found


def more_noise(scores: Array, images: Array) -> Array:
    """What two more images add to the variance of the difference from the first network: ``n``, 0 for the first."""
    m = scores.shape[1]
    apart = scores[0] - scores
    mean, square = apart.sum(axis=1) / (m + 2), ((apart**2).sum(axis=1) + 2) / (m + 2)
    found = np.diag(images) + images[0, 0] - 2 * images[0]
    added = np.clip((square - mean**2) / (m + 2) - found, 0.0, None)
    added[0] = 0.0
    return np.asarray(added)


def _with_score_intervals(found: Differences, scores: Array) -> Differences:
    """Intervals as wide, in standard errors, as those that were found."""
    m = scores.shape[1]
    won, lost = ((scores[0] > scores[1:]).sum(axis=1), (scores[0] < scores[1:]).sum(axis=1))
    ends = {}
    for name in ("", "family_"):
        low, high = f"{name}low", f"{name}high"
        reach = (getattr(found, high) - found.mean) / found.error
        both = [score_interval(int(w), int(x), m, z) for w, x, z in zip(won, lost, reach, strict=True)]
        ends[low], ends[high] = (np.array(side) for side in zip(*both, strict=True))
    return replace(found, **ends)


def score_interval(won: int, lost: int, images: int, z: float) -> tuple[float, float]:
    """Interval of the difference of two shares of images: in `won` the first alone is right, in `lost` the other alone.

    The ends are the differences that lie `z` standard errors from what was seen, by the error that they themselves
    imply (Tango 1998, equations 9 to 11).
    """

    def away(difference: float) -> float:
        a, b = 2 * images, -won - lost + (2 * images - won + lost) * difference
        c = -lost * difference * (1 - difference)
        other = (np.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
        variance = images * (2 * other + difference * (1 - difference))
        return float((won - lost - images * difference) / np.sqrt(max(variance, 1e-12)))

    seen, edge = (won - lost) / images, 1 - 1e-9
    low = brentq(lambda d: away(d) - z, -edge, seen) if away(-edge) > z else -1.0
    high = brentq(lambda d: away(d) + z, seen, edge) if away(edge) < -z else 1.0
    return low, high
