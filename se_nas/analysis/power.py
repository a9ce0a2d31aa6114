"""How many seeds would decide what a confirm could not."""

from __future__ import annotations

import numpy as np
from scipy.special import ndtr

from se_nas.analysis.confirmation import Difference

PROBABILITY = 0.8
"""With which the named number of seeds decides."""

MOST = 1000
"""More seeds than this count as never."""


def seeds_to_decide(
    difference: Difference, *, seeds: int, margin: float, sign: float, after: int | None = None
) -> int | None:
    """The least number of seeds that decides with `PROBABILITY` if the true gain is what was seen; None if none does.

    Decided is that the network beats the other one (the lower end of its family interval above 0), or that it gains
    less than the margin (the upper end of its own interval below it). Of the variance of a difference the part by the
    seeds falls as 1 / seeds, that by the finite set of test images stays (`se_nas.analysis.statistics`); the widths of
    the intervals in standard errors are taken from the confirm.

    Parameters
    ----------
    seeds:
        That the difference is from.
    margin:
        The smallest gain that is worth its cost, in the unit of the metric.
    sign:
        1 where a larger metric is better, else -1.
    after:
        More seeds than this, if more than `seeds` are there already.
    """
    if not difference.error or difference.interval is None or difference.family_interval is None:
        return None
    images = difference.image_error or 0.0
    by_seeds = max(difference.error**2 - images**2, 0.0) * seeds
    own, family = (np.ptp(ends) / 2 / difference.error for ends in (difference.interval, difference.family_interval))
    gain, number = sign * difference.mean, np.arange((after or seeds) + 1, MOST + 1)
    error = np.sqrt(by_seeds / number + images**2)
    error = np.maximum(error, 1e-12)
    decided = ndtr(gain / error - family) + ndtr((margin - gain) / error - own)
    enough = np.flatnonzero(decided >= PROBABILITY)
    return int(number[enough[0]]) if len(enough) else None
