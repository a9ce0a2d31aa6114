"""How much of the spread of gates over images lies between the classes of the images.

With gates ``g[i, c]`` of image i in channel c, the spread is that around the channel means, summed over channels,

    T = sum_ic (g[i, c] - mean_c)^2,    B = sum_kc n_k (mean_kc - mean_c)^2,

and the share between classes is B / T: 1 where gates depend on the class alone. Where labels say nothing it is not 0
but ``(classes - 1) / (images - 1)`` on average over all permutations of the labels, whatever the gates are. What is
beyond that, ``(share - expected) / (1 - expected)``, is the adjusted share (Ezekiel's adjusted R squared, summed over
channels): 0 by chance, 1 at most. The p value is that of a permutation test with B (Anderson, "A new method for
non-parametric multivariate analysis of variance", Austral Ecology 26, 2001); intervals are by the delete-a-group
jackknife (Kott, Journal of Official Statistics 17, 2001), since images drawn twice would look like a class of their
own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

from se_nas.analysis.statistics import LEVEL
from se_nas.core.serialization import random_stream
from se_nas.samplers.features import Array

Numbers = npt.NDArray[np.int64]
"""Of classes (images,)."""

PERMUTATIONS = 999
"""The smallest p value is 1 in so many and one."""

HELD = 0.99
"""Share of the spread that the test of it looks at."""

GROUPS = 20
"""Of images, each left out once."""

STILL = 0.01
"""Variation of gates up to which a block says nothing of early and late blocks: it hardly looks at its images."""

CONSTANT = 1e-6
"""Gates whose spread is so small a part of their size are constant but for rounding."""


@dataclass(frozen=True, kw_only=True)
class ClassShare:
    """The share of the spread of a block's gates that lies between classes.

    ``expected`` is its mean under permuted labels, ``p`` the share of permutations with as large a value; ``adjusted``
    is what is beyond chance, with its 90 % interval over images (``low``, ``high``). ``family_p`` is ``p`` corrected
    for all blocks of the network (Holm).
    """

    share: float
    expected: float
    adjusted: float
    low: float
    high: float
    p: float
    family_p: float


@dataclass(frozen=True, kw_only=True)
class Trend:
    """Adjusted shares of the late half of the blocks over those of the early half, with the 90 % interval."""

    early: float
    late: float
    difference: float
    low: float
    high: float


def adjusted_share(gates: Array, labels: Numbers) -> float:
    """The share beyond chance of gates (images, channels) with class numbers (images,)."""
    share, expected = share_between(gates, labels), expected_share(labels)
    return (share - expected) / (1 - expected)


def expected_share(labels: Numbers) -> float:
    """The mean share under permuted labels: ``(classes - 1) / (images - 1)``, with the classes that there are."""
    return (len(np.unique(labels)) - 1) / (len(labels) - 1)


def share_between(gates: Array, labels: Numbers) -> float:
    """B / T of gates (images, channels) or of one channel (images,)."""
    gates = gates.reshape(len(gates), -1)
    centred = gates - gates.mean(axis=0)
    return _between(centred, *_order(labels)) / float((centred**2).sum())


def is_constant(gates: Array, *, but_for: float = CONSTANT) -> bool:
    """Whether the spread over images of gates (images, channels) is at most that part of their size."""
    return float(np.sqrt(gates.var(axis=0).mean())) <= but_for * float(np.sqrt((gates**2).mean()))


def can_be_shared(labels: Numbers) -> bool:
    """Whether labels (images,) say anything: two classes or more, and more images than classes."""
    return 2 <= len(np.unique(labels)) < len(labels)


def class_shares(blocks: Sequence[Array], labels: Numbers) -> tuple[list[ClassShare | None], Trend | None]:
    """The shares of blocks in running order, each with gates (images, channels), and how they change with depth.

    None for a block with constant gates, and for a trend over fewer than two that vary by more than `STILL`.
    """
    moving = [block for block in blocks if not is_constant(block)]
    groups = np.random.default_rng(random_stream(0, "groups")).permutation(len(labels)) % GROUPS
    kept = [groups != group for group in range(GROUPS)]
    kept = [rows for rows in kept if can_be_shared(labels[rows])]
    adjusted = np.array([adjusted_share(block, labels) for block in moving])
    left = np.array([[_jackknifed(block[rows], labels[rows]) for block in moving] for rows in kept])
    p = [permutation_p(block, labels) for block in moving]
    found = []
    for k, family_p in enumerate(holm(p)):
        low, high = _interval(adjusted[k], left[:, k])
        found.append(
            ClassShare(
                share=share_between(moving[k], labels),
                expected=expected_share(labels),
                adjusted=float(adjusted[k]),
                low=low,
                high=high,
                p=p[k],
                family_p=family_p,
            )
        )
    rest = iter(found)
    lively = [k for k, block in enumerate(moving) if not is_constant(block, but_for=STILL)]
    return [None if is_constant(block) else next(rest) for block in blocks], _trend(adjusted[lively], left[:, lively])


def _trend(adjusted: Array, left: Array) -> Trend | None:
    half = len(adjusted) // 2
    if not half:
        return None
    early, late = float(adjusted[:half].mean()), float(adjusted[-half:].mean())
    low, high = _interval(late - early, left[:, -half:].mean(axis=1) - left[:, :half].mean(axis=1))
    return Trend(early=early, late=late, difference=late - early, low=low, high=high)


def _jackknifed(gates: Array, labels: Numbers) -> float:
    """As `adjusted_share`; 0 for gates that are constant without the group that is left out."""
    return 0.0 if is_constant(gates) else adjusted_share(gates, labels)


def _interval(value: float, left: Array) -> tuple[float, float]:
    """By the values without a group each."""
    count = len(left)
    if count < 2:
        return -1.0, 1.0
    error = np.sqrt((count - 1) / count * ((left - left.mean()) ** 2).sum())
    reach = float(error * stdtrit(count - 1, (1 + LEVEL) / 2))
    return max(float(value) - reach, -1.0), min(float(value) + reach, 1.0)


def permutation_p(gates: Array, labels: Numbers, draws: int = PERMUTATIONS) -> float:
    """Share of permutations of the labels, these included, under which B is as large; the same for the same data.

    B is that of the principal components which hold `HELD` of the spread: few, where channels go together.
    """
    rng = np.random.default_rng(random_stream(0, "permutations"))
    centred = gates - gates.mean(axis=0)
    spread, components = np.linalg.eigh(centred.T @ centred)
    held = np.cumsum(spread[::-1]) / spread.sum()
    centred = centred @ components[:, ::-1][:, : int(np.searchsorted(held, HELD)) + 1]
    order, starts, counts = _order(labels)
    seen = _between(centred, order, starts, counts) * (1 - 1e-9)  # sums of the same numbers differ by rounding
    above = sum(_between(centred, rng.permutation(len(labels)), starts, counts) >= seen for _ in range(draws))
    return (1 + int(above)) / (1 + draws)


def holm(p: Sequence[float]) -> list[float]:
    """P values of a family, corrected so that one false claim or more has their probability (Holm, 1979).

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    corrected, largest = [0.0] * len(p), 0.0
    for rank, k in enumerate(sorted(range(len(p)), key=lambda k: p[k])):
        largest = max(largest, min(1.0, (len(p) - rank) * p[k]))
        corrected[k] = largest
    return corrected


def _order(labels: Numbers) -> tuple[Numbers, Numbers, Numbers]:
    """Images sorted by class, where each class starts, and how many it has."""
    order = np.argsort(labels, kind="stable")
    _, starts, counts = np.unique(labels[order], return_index=True, return_counts=True)
    return order.astype(np.int64), starts.astype(np.int64), counts.astype(np.int64)


def _between(centred: Array, order: Numbers, starts: Numbers, counts: Numbers) -> float:
    """B of gates whose channel means are 0."""
    sums = np.add.reduceat(centred[order], starts, axis=0)
    return float((sums.astype(np.float64) ** 2 / counts[:, None]).sum())
