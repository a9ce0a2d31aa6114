"""Pareto arithmetic for one uncertain value (larger is better) and exactly known costs (smaller is better).

Plain numpy. The only random thing about a placement is its value, so that expected hypervolume improvement is a sum of
ordinary expected improvements, one per cell of the cost plane.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

from se_nas.core.errors import DataError
from se_nas.samplers.features import Array

Mask = npt.NDArray[np.bool_]
Index = npt.NDArray[np.int64]

#: Above two costs the cost space is sampled with this many points instead of cut into exact cells.
SAMPLED_CELLS = 512
#: Means of the standard normal over ten equally likely slices.
NODES = (-1.755, -1.045, -0.677, -0.386, -0.126, 0.126, 0.386, 0.677, 1.045, 1.755)


def non_dominated(losses: Array) -> Mask:
    """Which rows of ``n x k`` losses (all minimised) no other row dominates; equal rows all stay.

    Sorted by the first loss, ties by the next, so that a row can only be dominated by one before it
    (Kung, Luccio and Preparata 1975); every row is then compared with the front so far.

    >>> non_dominated(np.array([[1.0, 2.0], [2.0, 1.0], [2.0, 2.0]])).tolist()
    [True, True, False]
    """
    losses = np.asarray(losses, dtype=np.float64)
    order = np.lexsort(losses.T[::-1])
    mask = np.zeros(len(losses), dtype=bool)
    front = np.empty((0, losses.shape[1]))
    for i in order:
        row = losses[i]
        if not np.any((front <= row).all(axis=1) & (front < row).any(axis=1)):
            mask[i] = True
            front = np.vstack([front, row])
    return mask


def rising_front(cost: Array, value: Array) -> Index:
    """The front of ``n`` values over ``n x a`` costs, as indices ordered by cost; of exact ties one stays.

    With one cost the values rise strictly along the front.
    """
    order = np.lexsort((-value, *cost.T[::-1]))
    if cost.shape[1] == 1:
        best = np.maximum.accumulate(value[order])
        rises = np.concatenate([[True], best[1:] > best[:-1]])
        return np.asarray(order[rises])
    losses = np.column_stack([cost, -value])[order]
    _, first = np.unique(losses, axis=0, return_index=True)
    first = np.sort(first)
    return np.asarray(order[first[non_dominated(losses[first])]])


def hypervolume(losses: Array, reference: Array) -> float:
    """Volume that ``n x k`` losses dominate below ``reference`` (``k``); rows beyond the reference add nothing.

    Two losses by a sweep, more by slices along the last loss (Fonseca, Paquete and Lopez-Ibanez 2006).
    """
    losses, reference = np.asarray(losses, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    if losses.ndim != 2 or losses.shape[1] != len(reference):
        raise DataError(f"losses of shape {losses.shape} do not fit a reference of {len(reference)} numbers.")
    losses = losses[(losses < reference).all(axis=1)]
    if not len(losses):
        return 0.0
    if len(reference) == 1:
        return float(reference[0] - losses.min())
    losses = losses[np.argsort(losses[:, -1])]
    ends = np.append(losses[1:, -1], reference[-1])
    if len(reference) == 2:
        return float(((reference[0] - np.minimum.accumulate(losses[:, 0])) * (ends - losses[:, 1])).sum())
    depths = ends - losses[:, -1]
    slices = (hypervolume(losses[: i + 1, :-1], reference[:-1]) * depth for i, depth in enumerate(depths) if depth > 0)
    return float(sum(slices))


@dataclass(frozen=True, kw_only=True)
class Cells:
    """Boxes of the cost space, ``k x a`` lower and upper corners, and the best value that is available in each."""

    lower: Array
    upper: Array
    height: Array


def cells(cost: Array, value: Array, reference: Array, *, floor: float, seed: int = 0) -> Cells:
    """Cut the cost space up to ``reference`` (``a``) into boxes of constant best value.

    Parameters
    ----------
    cost, value:
        The front, ``m x a`` and ``m``. May be empty.
    floor:
        The value where no member is affordable: the reference point of the uncertain objective.
    seed:
        Above two costs the boxes are points drawn evenly between the cheapest member and the reference, each standing
        for its share of the volume.
    """
    a = len(reference)
    origin = cost.min(axis=0) if len(cost) else np.zeros(a)
    if a <= 2:
        edges = [np.unique(np.append(np.minimum(cost[:, i], reference[i]), reference[i])) for i in range(a)]
        lower = np.array(list(itertools.product(*(e[:-1] for e in edges)))).reshape(-1, a)
        upper = np.array(list(itertools.product(*(e[1:] for e in edges)))).reshape(-1, a)
    else:
        points = origin + np.random.default_rng(seed).random((SAMPLED_CELLS, a)) * (reference - origin)
        lower = upper = points
    affordable = (cost[None, :, :] <= lower[:, None, :]).all(axis=2)
    height = np.where(affordable, value[None, :], floor).max(axis=1, initial=floor)
    return Cells(lower=lower, upper=upper, height=height)


def expected_hypervolume_improvement(mean: Array, sd: Array, cost: Array, cells: Cells) -> Array:
    """Expected hypervolume improvement of ``n`` placements with value N(mean, sd^2) and ``n x a`` known costs.

    A placement raises the best value Y over every cell that it can afford, from the height h_k to max(h_k, Y), so

        EHVI = sum_k |cell_k with cost >= c| * E[(Y - h_k)^+],
        E[(Y - h)^+] = (mean - h) Phi(u) + sd phi(u),   u = (mean - h) / sd.

    It is the strip formula of Emmerich, Deutz and Klinkenberg (2011, CEC, eq. 6 to 8) with one deterministic objective;
    the expectation in one cell is the expected improvement of Jones, Schonlau and Welch (1998, eq. 15).
    """
    total = np.zeros(len(mean))
    safe = np.maximum(sd, 1e-300)
    sampled = bool(np.all(cells.lower == cells.upper)) and len(cells.height) > 0
    for lower, upper, height in zip(cells.lower, cells.upper, cells.height, strict=True):
        if sampled:
            share = (cost <= lower).all(axis=1) / len(cells.height)
        else:
            share = np.clip(upper - np.maximum(lower, cost), 0.0, None).prod(axis=1)
        gain = mean - height
        u = np.clip(gain / safe, -38.0, 38.0)
        total += share * np.where(sd > 0, gain * ndtr(u) + sd * np.exp(-u * u / 2) / np.sqrt(2 * np.pi), gain.clip(0.0))
    return np.asarray(total.clip(0.0))


def expected_front_gain(mean: Array, slopes: Array, cost: Array, reference: float) -> Array:
    """Expected gain in hypervolume of the front of the posterior mean when one trial moves many means at once.

    After trial ``i`` the means of the ``n`` placements are ``mean + slopes[i] * z``, z standard normal (Frazier, Powell
    and Dayanik 2009, eq. 8); the front is taken anew for each of ten values of z and the volumes are averaged.

    Parameters
    ----------
    mean, slopes, cost:
        ``n`` means, ``m x n`` slopes of ``m`` possible trials, ``n`` values of the one cost.
    reference:
        Cost up to which volume counts.
    """
    order = np.lexsort((-mean, cost))
    widths = np.diff(np.append(cost[order], reference))
    before = float(np.maximum.accumulate(mean[order]) @ widths)
    after = [np.maximum.accumulate(mean[order] + z * slopes[:, order], axis=1) @ widths for z in NODES]
    return np.asarray(np.mean(after, axis=0) - before)
