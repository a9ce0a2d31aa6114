"""Tests that may be made after any of several numbers of seeds, with one chance of being wrong for all of them.

A confirm that adds seeds until the answer is settled may end at any look ``k`` of a planned set, for any reason. Its
claims hold all the same if the critical values are those of the largest statistic over all looks that were planned,

    max over networks f and looks k of  z_fk w_k,    w_k = (k / last) ^ (1/2 - SHAPE),

which is a group-sequential test with a boundary of the power family (Wang and Tsiatis, "Approximately optimal one
parameter boundaries for group sequential trials", Biometrics 43, 1987; `SHAPE` 0.5 is Pocock's, 0 that of O'Brien and
Fleming), and its intervals are repeated confidence intervals (Jennison and Turnbull, "Interim analyses: the repeated
confidence interval approach", JRSS B 51, 1989). Since every look and every network counts, whether it was used or
not, neither the rule that ends the confirm nor the one by which networks leave it needs to be known.

Under "nothing differs" the statistics are normal with a known covariance: of two differences from the same backbone
after k and l seeds, that of the seeds is shared by ``1 / max(k, l)``, that of the finite set of images whole. It is
simulated with the variances that were estimated. Estimated errors are taken into account by equal tail probabilities
of t and z (Jennison and Turnbull, "Group Sequential Methods", 2000, sec. 4.4).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import ndtr, ndtri, stdtr, stdtrit

from se_nas.samplers.features import Array

SHAPE = 0.3
"""Between few trainings where the effect is large (0.5) and power where it is small (0)."""

FIRST = 3
"""Fewer seeds tell too little of their own noise."""

GROWTH = 1.5
"""From look to look."""

DRAWS = 20_000
"""Simulated confirms."""


@dataclass(frozen=True, kw_only=True)
class Looks:
    """After which numbers of seeds a confirm may end: ``last``, and before it each by `GROWTH` fewer, from `FIRST` on.

    More looks end some confirms sooner, and make each of them more expensive.
    """

    last: int

    @property
    def seeds(self) -> tuple[int, ...]:
        """All looks, rising.

        >>> Looks(last=20).seeds, Looks(last=5).seeds, Looks(last=2).seeds
        ((3, 4, 6, 9, 13, 20), (3, 5), (2,))
        """
        found = [self.last]
        while (before := round(self.last / GROWTH ** len(found))) >= FIRST and before < found[-1]:
            found.append(before)
        return tuple(reversed(found))

    def weight(self, seeds: Array | int) -> Array:
        """``w`` of looks."""
        return np.asarray((np.asarray(seeds) / self.last) ** (0.5 - SHAPE))


@dataclass(frozen=True, kw_only=True)
class Boundary:
    """The largest weighted z over all looks if nothing differs.

    ``family`` (sorted draws): of all comparisons; ``each`` (``F x draws``, sorted along the rows): of one by itself.
    ``size`` comparisons are in the family.
    """

    looks: Looks
    family: Array
    each: Array
    size: int

    def only(self, rows: Sequence[int]) -> Boundary:
        """For some of the comparisons, which stay members of the whole family."""
        return replace(self, each=self.each[list(rows)])

    def p(self, t: Array, degrees: Array, seeds: int) -> tuple[Array, Array]:
        """One-sided p values of ``F`` t values after so many seeds: of each by itself, and for the whole family."""
        nominal = stdtr(degrees, -t)
        reached = -ndtri(nominal) * self.looks.weight(seeds)
        # By Bonferroni's bound far out in the tail, where hardly a draw falls.
        bound = ndtr(-reached[:, None] / self.looks.weight(np.array(self.looks.seeds))).sum(axis=1)
        each = np.array([_above(row, value) for row, value in zip(self.each, reached, strict=True)])
        own = np.clip(np.minimum(each, bound), nominal, 1.0)
        family = np.array([_above(self.family, value) for value in reached])
        return own, np.clip(np.minimum(family, self.size * bound), own, 1.0)

    def reach(self, degrees: Array, seeds: int, error: float) -> tuple[Array, Array]:
        """How many standard errors an interval reaches with this one-sided error: each by itself, and the family."""
        weight = self.looks.weight(seeds)
        own, family = np.quantile(self.each, 1 - error, axis=1), np.quantile(self.family, 1 - error)
        return stdtrit(degrees, ndtr(own / weight)), stdtrit(degrees, ndtr(family / weight))


def boundary(
    looks: Looks, *, training: float, images: Array, pairs: Sequence[tuple[int, int]], draws: int = DRAWS
) -> Boundary:
    """Simulate confirms in which nothing differs.

    Parameters
    ----------
    training:
        Variance of one training at equal seeds, around its network's mean (network x seed).
    images:
        Covariance (``n x n``) of the networks' means by the finite set of images.
    pairs:
        ``F`` comparisons: rows of the network and of what it is compared with.
    """
    n, seeds = len(images), np.array(looks.seeds)
    walks, normal = _walks(n, looks, draws)
    values, vectors = np.linalg.eigh(images)
    shifts = normal @ (vectors * np.sqrt(np.clip(values, 0.0, None))).T
    each = np.empty((len(pairs), draws))
    for f, (one, other) in enumerate(pairs):
        by_images = images[one, one] + images[other, other] - 2 * images[one, other]
        error = np.sqrt(2 * training / seeds + max(by_images, 0.0))
        noise = np.sqrt(training) * (walks[:, one] - walks[:, other]) + (shifts[:, one] - shifts[:, other])[:, None]
        each[f] = (noise / np.where(error > 0, error, 1.0) * looks.weight(seeds)).max(axis=1)
    return Boundary(looks=looks, family=np.sort(each.max(axis=0)), each=np.sort(each, axis=1), size=len(pairs))


@functools.lru_cache(maxsize=8)
def _walks(n: int, looks: Looks, draws: int) -> tuple[Array, Array]:
    """Means of ``n`` networks over 1, 2, ... seeds at each look (``draws x n x K``), and a normal number for each.

    The same draws each time, so that the same data give the same p values.
    """
    rng = np.random.default_rng(0)
    steps = rng.standard_normal((draws, n, looks.last))
    seeds = np.array(looks.seeds)
    means = np.cumsum(steps, axis=2)[:, :, seeds - 1] / seeds
    return means, rng.standard_normal((draws, n))


def _above(draws: Array, value: float) -> float:
    """Share of sorted draws that are as large, never 0."""
    return float((len(draws) - np.searchsorted(draws, value, side="left") + 1) / (len(draws) + 1))
