"""The accuracy-versus-cost Pareto front."""

from __future__ import annotations

import numpy as np


def non_dominated(values: np.ndarray) -> np.ndarray:
    """Mask of the rows that no other row dominates; every column is better when smaller.

    A row dominates another if it is nowhere worse and somewhere better, so equal rows stay together.

    Parameters
    ----------
    values:
        Shape (n, objectives), finite.

    >>> non_dominated(np.array([[1.0, 2.0], [2.0, 1.0], [2.0, 2.0]])).tolist()
    [True, True, False]
    """
    no_worse = (values[:, None, :] <= values[None, :, :]).all(-1)
    better = (values[:, None, :] < values[None, :, :]).any(-1)
    mask: np.ndarray = np.logical_not(np.any(no_worse & better, axis=0))
    return mask
