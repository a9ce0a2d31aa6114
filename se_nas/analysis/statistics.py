"""Networks trained with the same fresh seeds and tested on the same images: which differences are more than noise.

The score of network n with seed s on image i is a crossed design with two random factors,

    x_nsi = mu_n + seed_s + (network x seed)_ns + image_i + (network x image)_ni + rest_nsi,

so that a difference of means is noisy by the seeds and by the finite set of images. Its variance is

    2 MS_ns / S + V_images - V_rest,

MS_ns: mean square of network x seed of the values per training, pooled over networks, with (N - 1)(S - 1) degrees of
freedom; what equal seeds have in common cancels, whatever its size. V_images: variance over images of the difference
of the seed means, divided by the number of images: what a paired bootstrap over images gives in the limit of many
draws. V_rest: the part that the two before both contain; left in, it would be counted twice (Owen, "The pigeonhole
bootstrap", Annals of Applied Statistics 1, 2007, sec. 3; Gallas, "One-shot estimate of MRMC variance: AUC", Academic
Radiology 13, 2006, for readers x cases). Degrees of freedom of the sum are those of Satterthwaite (Biometrics Bulletin
2, 1946).

Claims are one-sided and hold for a whole family at once: the largest of the family's t values is compared with its own
distribution (Dunnett, JASA 50, 1955; Hothorn, Bretz and Westfall, "Simultaneous inference in general parametric
models", Biometrical Journal 50, 2008), with the covariance that was estimated, by simulation.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr, stdtrit

from se_nas.analysis.looks import Boundary
from se_nas.core.errors import DataError
from se_nas.samplers.features import Array

LEVEL = 0.9
"""Of two-sided intervals; each side is missed in 5 % of cases, as a one-sided test at 5 % is."""

FAMILY_ERROR = 0.05
"""Probability, at most, of one false claim or more in a family."""

DRAWS = 20_000
"""Simulated maxima: the 5 % point is exact to 0.15 percentage points (one standard error)."""


@dataclass(frozen=True, kw_only=True)
class SeedNoise:
    """How trainings differ by their seeds, with the images held fixed, pooled over networks.

    ``total``: variance of one training around its network's mean, with ``total_degrees`` of freedom (Satterthwaite's);
    ``interaction``: the part of it that differs between networks at equal seeds, with ``degrees``; ``correlation``: of
    two networks at equal seeds.
    """

    total: float
    total_degrees: float
    interaction: float
    degrees: float
    correlation: float


@dataclass(frozen=True, kw_only=True)
class Variances:
    """Where the noise comes from. ``images``: covariance (``n x n``) of the means by the finite set of images.

    It is zero where there is one score for each training, which says nothing about it.
    """

    by_seeds: SeedNoise
    images: Array
    image_terms: tuple[Array, Array]
    """The two mean-square matrices whose difference is ``images``, for the degrees of freedom."""
    shape: tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Differences:
    """Of ``k`` pairs: ``mean``, its standard ``error`` and the part of that by the finite set of images; 90 % intervals

    of each pair by itself (``low``, ``high``) and of all at once (``family_low``, ``family_high``); ``p`` and
    ``family_p``, one-sided, for "the first is not better". Each is ``k`` numbers.
    """

    mean: Array
    error: Array
    image_error: Array
    degrees: Array
    low: Array
    high: Array
    family_low: Array
    family_high: Array
    p: Array
    family_p: Array


def seed_noise(values: Array) -> SeedNoise:
    """From values ``networks x seeds``, at least 1 and 2: the mean squares of a two-way layout.

    With network x seed as the residual, the mean squares of seed and residual are ``seed n + rest`` and ``rest``.
    Values are NaN where a network was not trained with a seed; networks of which no two share seeds are taken for
    independent.
    """
    n = len(values)
    there = np.isfinite(values)
    count = int(there.sum())
    within = float(np.nansum((values - np.nanmean(values, axis=1, keepdims=True)) ** 2))
    total, free = within / (count - n), float(count - n)
    rest, effects = _rest(values, there)
    degrees = float(count - effects)
    if n == 1 or degrees < 1:
        return SeedNoise(total=total, total_degrees=free, interaction=total, degrees=free, correlation=0.0)
    interaction = float((rest**2).sum() / degrees)
    common = max(n * total - (n - 1) * interaction, 0.0)
    squares = (common**2 + (n - 1) * interaction**2) / (count / n - 1)
    return SeedNoise(
        total=total,
        total_degrees=(n * total) ** 2 / squares if squares > 0 else free,
        interaction=interaction,
        degrees=degrees,
        correlation=(common - interaction) / (n * total) if total > 0 else 0.0,
    )


def _rest(values: Array, there: Array) -> tuple[Array, int]:
    """What the best effects of networks and seeds leave of the values that are there, and how many effects that are."""
    n, s = values.shape
    if there.all():
        return np.asarray(values - values.mean(axis=1, keepdims=True) - values.mean(axis=0) + values.mean()), n + s - 1
    network, seed = np.nonzero(there)
    design = np.hstack([np.eye(n)[network], np.eye(s)[seed]])
    known = values[there] - values[there].mean()
    effects, _, rank, _ = np.linalg.lstsq(design, known, rcond=None)
    return np.asarray(known - design @ effects), int(rank)


def variances(scores: Array, by_seeds: SeedNoise | None = None) -> Variances:
    """Estimate the noise from scores ``networks x seeds x images``: at least 2, 2 and 1; DataError otherwise.

    What is known of the seeds from further trainings may be given.

    The mean over images is the value of a training. Where a metric is no mean over images, the last axis holds
    jackknife pseudo-values of groups of images instead. With one score for each training the noise is that of the seeds
    alone: what follows from it holds for these very images.
    """
    n, s, m = scores.shape
    if min(n, s) < 2 or m < 1:
        raise DataError(f"noise cannot be estimated from {n} networks, {s} seeds and {m} images")
    values = scores.mean(axis=2)
    by_seeds = by_seeds or seed_noise(values)
    if m == 1:
        nothing = np.zeros((n, n))
        return Variances(by_seeds=by_seeds, images=nothing, image_terms=(nothing, nothing), shape=(n, s, m))
    per_image = scores.mean(axis=1)
    centred = per_image - per_image.mean(axis=1, keepdims=True)
    between = centred @ centred.T / (m - 1) / m
    left = scores - values[:, :, None] - per_image[:, None, :] + per_image.mean(axis=1)[:, None, None]
    flat = left.reshape(n, -1)
    within = flat @ flat.T / ((s - 1) * (m - 1)) / (s * m)
    return Variances(
        by_seeds=by_seeds,
        images=_positive(between - within),
        image_terms=(between, within),
        shape=(n, s, m),
    )


def seed_reach(noise: SeedNoise, seeds: int) -> float:
    """Half the 90 % interval of a mean over so many seeds, on these images."""
    return float(np.sqrt(noise.total / seeds) * stdtrit(noise.total_degrees, (1 + LEVEL) / 2))


def mean_reach(noise: Variances, row: int) -> float:
    """Half the 90 % interval of a network's mean, by seeds and images together."""
    s, by_seeds = noise.shape[1], noise.by_seeds
    parts = [by_seeds.total / s, *(term[row, row] for term in noise.image_terms)]
    variance = by_seeds.total / s + noise.images[row, row]
    degrees = _satterthwaite(variance, parts, noise, by_seeds.total_degrees)
    return float(np.sqrt(variance) * stdtrit(degrees, (1 + LEVEL) / 2))


def differences(
    scores: Array, noise: Variances, pairs: Sequence[tuple[int, int]], boundary: Boundary | None = None
) -> Differences:
    """Compare pairs ``(network, other)`` of rows of ``scores`` (larger is better), which together are one family.

    Where the number of seeds was not fixed beforehand, `boundary` holds the looks that were planned, and the family.
    """
    n, s, _ = scores.shape
    contrast = np.zeros((len(pairs), n))
    for k, (one, other) in enumerate(pairs):
        contrast[k, one], contrast[k, other] = 1.0, -1.0
    mean = contrast @ scores.mean(axis=(1, 2))
    by_seeds = noise.by_seeds.interaction / s
    cov = contrast @ (by_seeds * np.eye(n) + noise.images) @ contrast.T
    error = np.sqrt(np.diag(cov))
    terms = [np.einsum("kn,nm,km->k", contrast, term, contrast) for term in noise.image_terms]
    count = noise.by_seeds.degrees
    degrees = np.array(
        [_satterthwaite(error[k] ** 2, [2 * by_seeds, *(t[k] for t in terms)], noise, count) for k in range(len(pairs))]
    )
    t = _ratio(mean, error)
    if boundary is None:
        largest = _largest_of_family(_correlation(cov, error), float(degrees.min()))
        p = stdtr(degrees, -t)
        above = len(largest) - np.searchsorted(largest, t, side="left")
        # By Bonferroni's bound far out in the tail, where hardly a draw falls.
        family_p = np.clip(np.minimum((above + 1) / (len(largest) + 1), len(pairs) * p), p, 1.0)
        own, family = stdtrit(degrees, (1 + LEVEL) / 2), np.full(len(pairs), np.quantile(largest, 1 - FAMILY_ERROR))
    else:
        p, family_p = boundary.p(t, degrees, s)
        own, family = boundary.reach(degrees, s, FAMILY_ERROR)
    reach, family_reach = error * own, error * family
    return Differences(
        mean=mean, error=error, image_error=np.sqrt(np.clip(error**2 - 2 * by_seeds, 0.0, None)),
        degrees=degrees, low=mean - reach, high=mean + reach,
        family_low=mean - family_reach, family_high=mean + family_reach, p=p, family_p=family_p,
    )  # fmt: skip


def _satterthwaite(variance: float, parts: Sequence[float], noise: Variances, seed_degrees: float) -> float:
    """Degrees of freedom of ``parts[0] + parts[1] - parts[2]``: seeds, images, rest."""
    _, s, m = noise.shape
    counts = (seed_degrees, m - 1, (s - 1) * (m - 1))
    bottom = sum(part**2 / count for part, count in zip(parts, counts, strict=True) if count)
    return float(variance**2 / bottom) if variance > 0 and bottom > 0 else seed_degrees


def _ratio(mean: Array, error: Array) -> Array:
    """t values; without any noise (networks that agree on every image with every seed) the sign decides."""
    safe = np.where(error > 0, error, 1.0)
    return np.where(error > 0, mean / safe, np.where(mean == 0, 0.0, np.copysign(np.inf, mean)))


def _correlation(cov: Array, error: Array) -> Array:
    safe = np.where(error > 0, error, 1.0)
    correlation: Array = cov / np.outer(safe, safe)
    np.fill_diagonal(correlation, 1.0)
    return correlation


def _positive(matrix: Array) -> Array:
    """The nearest covariance matrix: an estimate as the difference of two may have negative eigenvalues."""
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    return np.asarray((vectors * np.clip(values, 0.0, None)) @ vectors.T)


def _largest_of_family(correlation: Array, degrees: float) -> Array:
    """Sorted draws of the largest of ``k`` t values with this correlation, if nothing differs."""
    values, vectors = np.linalg.eigh(correlation)
    root = vectors * np.sqrt(np.clip(values, 0.0, None))
    spread = np.sqrt(np.random.default_rng(1).chisquare(degrees, DRAWS) / degrees)
    largest = (_normal(len(correlation)) @ root.T).max(axis=1) / spread
    return np.asarray(np.sort(largest))


@functools.lru_cache(maxsize=8)
def _normal(k: int) -> Array:
    """The same draws each time, so that the same data give the same p values."""
    return np.random.default_rng(0).standard_normal((DRAWS, k))
