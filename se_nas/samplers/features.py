"""Placements as rows of features, in groups that share one prior variance.

The model of accuracy is linear in these features: an intercept (no SE), an on/off effect of every parameter, a smooth
deviation between its widths, one for each of its names (a block, a position), which stages share in part, and
products of the two for interactions, in which on and off count as 1 and -1: an interaction then averages out over the
other decisions, and does not compete with the main effects.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from se_nas.space.levels import Codes, Meaning, pairs_of

Array = npt.NDArray[np.float64]

#: Groups of features, in the order in which :meth:`Features.group_of` counts them.
GROUPS = ("intercept", "on", "width", "pair", "pair_width", "higher", "name")
#: Larger products are left out above this number of features: a fit must stay well under a second.
MAX_FEATURES = 320
#: With more switches, neighbouring ones form runs of equal length, at most so many, and interactions are those of runs.
MAX_RUNS = 32


class Features:
    """The feature map of one space.

    Parameters
    ----------
    meanings:
        Per parameter, the meaning of every level (see :class:`se_nas.space.levels.LevelSpace`).
    share_names:
        Whether parameters that offer the same names share a part of what these do.

    Attributes
    ----------
    group:
        ``p`` integers: the position in ``GROUPS`` of every feature.
    scale:
        ``p`` numbers: prior standard deviation of each coefficient when its group has variance 1. They are chosen
        so that the group contributes variance of about 1 to a placement with SE everywhere, whatever ``d`` is.
    named:
        Whether there are names, such as blocks or positions, beside widths.
    """

    def __init__(self, meanings: Sequence[Sequence[Meaning]], *, share_names: bool = True) -> None:
        self._on = [np.array([float(m is not None) for m in levels]) for levels in meanings]
        self._width = [_width_table(levels) for levels in meanings]
        # A parameter without an absent level has no on/off effect: it would be the intercept again.
        self._switches = [j for j, on in enumerate(self._on) if on.min() == 0 and on.max() == 1]
        self._pairs = pairs_of(len(self._switches))
        size = -(-len(self._switches) // MAX_RUNS)
        self._trends = [j for j, levels in enumerate(meanings) if _numeric(levels)]
        self._alike = _alike(meanings) if share_names else []
        self.named = any(
            not _numeric(levels) and table.shape[1] for levels, table in zip(meanings, self._width, strict=True)
        )
        self._runs = [range(i, min(i + size, len(self._switches))) for i in range(0, len(self._switches), max(1, size))]
        widths = [t.shape[1] for t in self._width]
        shared = sum(widths[group[0]] for group in self._alike)
        mains = 3 + len(self._switches) + sum(widths) + shared + len(pairs_of(len(self._runs)))
        full = sum((1 + widths[a]) * (1 + widths[b]) - 1 for a, b in pairs_of(len(widths)))
        self._with_widths = mains + full <= MAX_FEATURES
        higher = 2 ** len(self._switches) if len(self._switches) <= 8 else MAX_FEATURES
        self._with_higher = mains + full * self._with_widths + higher <= MAX_FEATURES
        columns = self._columns(np.zeros((1, len(meanings)), dtype=np.int64))
        self.group = np.concatenate([np.full(block.shape[1], GROUPS.index(name)) for name, _, block in columns])
        self.scale = np.concatenate([np.full(block.shape[1], scale) for _, scale, block in columns])

    def __call__(self, codes: Codes) -> Array:
        """Features of ``n x d`` codes: ``n x p``."""
        return np.concatenate([block for _, _, block in self._columns(codes)], axis=1)

    def _columns(self, codes: Codes) -> list[tuple[str, float, Array]]:
        """Blocks of (group, prior standard deviation, ``n x k`` values)."""
        n, d = codes.shape
        on = np.stack([self._on[j][codes[:, j]] for j in self._switches], axis=1) if self._switches else np.ones((n, 0))
        width = [table[codes[:, j]] for j, table in enumerate(self._width)]
        sign = 2 * on - 1  # in products: an interaction must not be a main effect in disguise
        q = max(1, len(self._switches))
        count = on.sum(axis=1, keepdims=True)
        slope = np.sum([width[j][:, :1] for j in self._trends] or [np.zeros((n, 1))], axis=0)
        blocks = [
            ("intercept", 1.0, np.ones((n, 1))),
            ("on", 1 / q, count),  # the part that all stages share
            ("on", 1 / math.sqrt(q), on),  # what is peculiar to each
            ("width", 1 / d, slope),
            ("width", 1 / math.sqrt(d), np.concatenate([width[j] for j in self._trends] or [np.zeros((n, 0))], axis=1)),
        ]
        if self._pairs:
            m = len(self._pairs)
            shared = (sign.sum(axis=1, keepdims=True) ** 2 - q) / 2
            blocks += [("pair", 1 / m, shared), ("pair", 1 / math.sqrt(m), self._products(sign))]
        if self._with_widths and d > 1:
            blocks.append(("pair_width", 1 / math.sqrt(len(pairs_of(d))), self._width_products(codes, width)))
        if self._with_higher and len(self._switches) > 2:
            orders = range(3, len(self._switches) + 1)
            subsets = [s for order in orders for s in itertools.combinations(range(len(self._switches)), order)]
            products = np.stack([sign[:, s].prod(axis=1) for s in subsets], axis=1)
            blocks.append(("higher", 1 / math.sqrt(len(subsets)), products))
        # What a name means in all stages that offer the same ones, and what in one.
        blocks += [("name", 1 / len(group), np.sum([width[j] for j in group], axis=0)) for group in self._alike]
        if named := [width[j] for j in range(d) if j not in self._trends and width[j].shape[1]]:
            blocks.append(("name", 1 / math.sqrt(len(named)), np.concatenate(named, axis=1)))
        return blocks

    def _products(self, sign: Array) -> Array:
        """Products of the signs of two switches; with many, those between two runs (and within one) are added up.

        A sum of ``k`` products is divided by the root of ``k``, so that each has the variance of ``k`` pairs.
        """
        sums = np.stack([sign[:, run].sum(axis=1) for run in self._runs], axis=1)
        size = np.array([len(run) for run in self._runs])
        a, b = np.array(pairs_of(len(self._runs)), dtype=np.int64).reshape(-1, 2).T
        between = sums[:, a] * sums[:, b] / np.sqrt(size[a] * size[b])
        long = np.flatnonzero(size > 1)
        inside = size[long] * (size[long] - 1) / 2
        within = (sums[:, long] ** 2 - size[long]) / 2 / np.sqrt(inside)
        return np.concatenate([between, within], axis=1)

    def _width_products(self, codes: Codes, width: list[Array]) -> Array:
        """Width by switch, switch by width and width by width, for every pair of parameters."""
        blocks = [np.zeros((len(codes), 0))]
        for a, b in pairs_of(codes.shape[1]):
            sign_a, sign_b = self._sign(a, codes), self._sign(b, codes)
            both = (width[a][:, :, None] * width[b][:, None, :]).reshape(
                len(codes), width[a].shape[1] * width[b].shape[1]
            )
            blocks += [sign_a * width[b], width[a] * sign_b, both]
        return np.concatenate(blocks, axis=1)

    def _sign(self, j: int, codes: Codes) -> Array:
        """1 with SE, -1 without, 0 where a parameter cannot be absent: ``n x 1``."""
        return (2 * self._on[j][codes[:, [j]]] - 1) * (j in self._switches)


def _numeric(levels: Sequence[Meaning]) -> bool:
    """Whether a parameter has a trend: two widths or more, and no names."""
    present = [m for m in levels if m is not None]
    return len(present) > 1 and all(isinstance(m, float) for m in present)


def _alike(meanings: Sequence[Sequence[Meaning]]) -> list[list[int]]:
    """The parameters that offer the same names, where there are several; none of those that are numeric."""
    groups: dict[tuple[Meaning, ...], list[int]] = {}
    for j, levels in enumerate(meanings):
        if sum(m is not None for m in levels) > 1 and not _numeric(levels):
            groups.setdefault(tuple(levels), []).append(j)
    return [group for group in groups.values() if len(group) > 1]


def _width_table(meanings: Sequence[Meaning]) -> Array:
    """Deviations of the levels of one parameter from their mean: ``levels x (present levels - 1 or more)``.

    Numbers form a random walk in log2 of the width (variance proportional to the distance between neighbours);
    names are exchangeable. The columns are centred over the levels that are present, and scaled to mean variance 1.
    The first column of a numeric parameter is its trend over the whole range, so that the trend can be shared.
    """
    present = [i for i, m in enumerate(meanings) if m is not None]
    if len(present) < 2:
        return np.zeros((len(meanings), 0))
    numbers = {i: -math.log2(m) for i in present if isinstance(m := meanings[i], float)}
    basis = np.eye(len(present)) if len(numbers) < len(present) else _walk([numbers[i] for i in present])
    basis = basis - basis.mean(axis=0)
    basis /= math.sqrt(float((basis**2).sum(axis=1).mean())) or 1.0
    left, size, _ = np.linalg.svd(basis, full_matrices=False)
    keep = size > 1e-9 * size[0]
    loads = left[:, keep] * size[keep]
    loads *= np.where(loads[-1] < 0, -1.0, 1.0)
    if len(numbers) == len(present) and loads[np.argmax([numbers[i] for i in present]), 0] < 0:
        loads[:, 0] *= -1.0
    table: Array = np.zeros((len(meanings), loads.shape[1]))
    table[present] = loads
    return table


def _walk(widths: list[float]) -> Array:
    """Random walk over log2 widths: ``levels x steps``."""
    order = np.argsort(widths)
    steps = np.diff(np.array(widths)[order])
    ranks = np.empty(len(order), dtype=np.int64)
    ranks[order] = np.arange(len(order))
    later = ranks[:, None] > np.arange(len(steps))[None, :]
    return np.asarray(later * np.sqrt(steps), dtype=np.float64)
