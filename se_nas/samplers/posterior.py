"""What the finished trials say about the accuracy of every placement.

A Bayesian linear model over :class:`se_nas.samplers.features.Features`,

    y_i = phi(x_i)' w + e_i,   w_k ~ N(0, s^2 a_k(theta)),   e_i ~ N(0, s^2 c_i),

where ``theta = (signal, width, interaction)`` says how large the effects are against the noise, how much
widths differ and how far stages interact. The noise variance ``s^2`` is integrated out in closed form (scaled inverse
chi-square prior, so that all predictions are Student t; Gelman et al., Bayesian Data Analysis, 3rd ed., sec. 14.2 and
14.8), and ``theta`` is summed over a fixed grid with its marginal likelihood as weight, never maximised: with ten
trials the likelihood cannot tell the signal from the noise, and intervals that ignore this are too short. One
point of the grid is "no effect at all": where that is the truth it gains weight, and a claim that something
beats no SE needs more evidence than the luckiest of many placements gives. How rarely such a claim is false was
measured, not proved (experiments/sampler_benchmark).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from scipy.linalg import solve_triangular

from se_nas.core.errors import DataError
from se_nas.samplers.features import GROUPS, Array, Features
from se_nas.samplers.marginals import Marginals
from se_nas.space.levels import Codes

#: Standard deviation of the effect of SE everywhere over that of the noise, with a half-Cauchy prior of scale 1 (Gelman
#: 2006, Bayesian Analysis 1, 515-534): effects smaller than the noise are as likely as larger ones. 0 is "no effect".
SIGNAL = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
NO_EFFECT_WEIGHT = 0.1
#: Size of the differences between widths, and of interactions, against the on/off effects. An effect mostly keeps its
#: sign over the widths (SE paper, table of reductions), and is mostly that of its own stage.
WIDTH = (0.1, 0.3, 1.0)
WIDTH_WEIGHT = (0.5, 0.4, 0.1)
INTERACTION = (0.0, 0.25, 0.8)
INTERACTION_WEIGHT = (0.4, 0.45, 0.15)
#: Size of the differences between names (blocks, gates, positions) against the on/off effects: from little to as large
#: (SE paper, table of gates: with a ReLU nothing is left of the gain).
NAME = (0.3, 1.0)
NAME_WEIGHT = (0.6, 0.4)
#: Prior standard deviation of the intercept around the mean of the data, in noise standard deviations.
INTERCEPT = 100.0
#: Weight of the prior guess of the noise, in trials.
PRIOR_TRIALS = 1.0
#: Grid points with less than this share of the weight are dropped.
NEGLIGIBLE = 1e-3
#: Placements are predicted in blocks of this many rows, which fit into the cache.
BLOCK = 2048


@dataclass(frozen=True, kw_only=True)
class Posterior:
    """Weighted mixture of Student t posteriors over the coefficients.

    Attributes
    ----------
    features:
        The feature map, ``p`` features.
    weight, mean, cov:
        ``k`` mixture weights, ``k x p`` locations and ``k x p x p`` scale matrices (in squared units of the metric).
    noise_variance:
        ``k`` scales of the noise variance.
    degrees:
        Degrees of freedom of every component.
    """

    features: Features
    weight: Array
    mean: Array
    cov: Array
    noise_variance: Array
    degrees: float

    @property
    def noise(self) -> float:
        """Standard deviation of one training around the placement's mean, in units of the metric."""
        return float(np.sqrt(self.weight @ self.noise_variance))

    def moments(self) -> tuple[Array, Array]:
        """Mean (``p``) and covariance (``p x p``) of the coefficients, all components together.

        The scale matrices stand for the covariances: a Student t with few degrees of freedom has no finite one.
        """
        mean = self.weight @ self.mean
        spread = self.mean - mean
        cov = np.tensordot(self.weight, self.cov, axes=1) + (spread * self.weight[:, None]).T @ spread
        return mean, cov

    def predict(self, codes: Codes, *, minus: Codes | None = None) -> tuple[Array, Array]:
        """Mean and standard deviation of the accuracy of ``n x d`` codes: two arrays of ``n``.

        With ``minus`` (``1 x d`` or ``n x d``) of the difference from those placements. Noise of a
        training is not included. Fast: 10^5 placements in well under a second.
        """
        mean, cov = self.moments()
        centre, variance = np.empty(len(codes)), np.empty(len(codes))
        for start in range(0, len(codes), BLOCK):
            rows = slice(start, start + BLOCK)
            phi = self._contrast(codes[rows], minus if minus is None or len(minus) == 1 else minus[rows])
            centre[rows], variance[rows] = phi @ mean, quadratic(phi, cov)
        return centre, np.sqrt(variance)

    def marginals(self, phi: Array) -> Marginals:
        """What is believed of the products of the coefficients with each row of ``phi`` (``n x p``)."""
        scale = np.sqrt(np.stack([quadratic(phi, cov) for cov in self.cov]))
        return Marginals(weight=self.weight, centre=self.mean @ phi.T, scale=scale, degrees=self.degrees)

    def differences(self, codes: Codes, *, minus: Codes) -> Marginals:
        """What is believed of the differences of ``n x d`` codes from those of ``minus`` (``1 x d`` or ``n x d``)."""
        return self.marginals(self._contrast(codes, minus))

    def interval(self, codes: Codes, *, level: float = 0.9, minus: Codes | None = None) -> tuple[Array, Array]:
        """Equal-tailed credible interval, two arrays of ``n``; see `Marginals.interval`."""
        return self.marginals(self._contrast(codes, minus)).interval(level)

    def probability_above(self, codes: Codes, *, minus: Codes) -> Array:
        """Probability that each placement is truly better than ``minus`` (``1 x d`` or ``n x d``): ``n`` numbers."""
        return self.differences(codes, minus=minus).above(0.0)

    def samples(self, codes: Codes, *, size: int, rng: np.random.Generator) -> Array:
        """Joint draws of the accuracies: ``size x n``."""
        return self.coefficient_samples(size=size, rng=rng) @ self.features(codes).T

    def coefficient_samples(self, *, size: int, rng: np.random.Generator) -> Array:
        """Joint draws of the coefficients: ``size x p``."""
        counts = rng.multinomial(size, self.weight / self.weight.sum())
        draws = []
        for count, mean, cov in zip(counts, self.mean, self.cov, strict=True):
            values, vectors = np.linalg.eigh(cov)
            root = vectors * np.sqrt(np.clip(values, 0.0, None))
            normal = rng.standard_normal((count, len(mean))) @ root.T
            draws.append(mean + normal * np.sqrt(self.degrees / rng.chisquare(self.degrees, size=(count, 1))))
        return rng.permutation(np.concatenate(draws))

    def _contrast(self, codes: Codes, minus: Codes | None) -> Array:
        phi = self.features(codes)
        return phi if minus is None else phi - self.features(minus)


def fit(features: Features, codes: Codes, y: Array, *, extra_variance: Array | None = None) -> Posterior:
    """Condition the model on finished trials.

    Parameters
    ----------
    features:
        The feature map of the space.
    codes:
        ``n x d`` level codes, one row per training; a repeated placement is a repeated row. ``n`` may be 1.
    y:
        ``n`` finite values, larger is better.
    extra_variance:
        ``n`` variances, in squared units of ``y``, on top of the noise of a full training: 0 for a finished trial,
        the variance of the extrapolation for a stopped one. At least one entry must be 0.

    Raises
    ------
    DataError
        For no trials, lengths that differ, or values that are not finite.
    """
    y = np.asarray(y, dtype=np.float64)
    if len(y) == 0 or len(codes) != len(y) or not np.isfinite(y).all():
        raise DataError(f"the posterior needs one finite value per trial; got {len(codes)} trials and {len(y)} values.")
    if extra_variance is None or not np.any(extra_variance):
        return _fit(features, features(codes), y, np.ones(len(y)))
    full = np.asarray(extra_variance) == 0
    if not full.any():
        raise DataError("every trial was stopped early; the noise of a full training is unknown.")
    noise = fit(features, codes[full], y[full]).noise
    return _fit(features, features(codes), y, 1.0 + np.asarray(extra_variance) / max(noise**2, 1e-300))


def _fit(features: Features, phi: Array, y: Array, relative: Array) -> Posterior:
    """``relative`` is the noise variance of each row over that of a full training."""
    n, p = phi.shape
    centre = float(np.average(y, weights=1 / relative))
    root = np.sqrt(relative)
    rows, z = phi / root[:, None], (y - centre) / root
    lost = 0.0
    if n > p:  # an orthogonal rotation leaves p rows that say the same, and a rest that is pure noise
        both = np.asarray(np.linalg.qr(np.column_stack([rows, z]), mode="r"))
        rows, z, lost = both[:p, :p], both[:p, p], float(both[p, p]) ** 2
    # Without any spread (one trial) the data say nothing about noise: 1 % of the value is a wide guess.
    guess = PRIOR_TRIALS * (float(np.var(y)) / 4 or (0.01 * centre) ** 2 or 1.0)
    degrees = PRIOR_TRIALS + n
    grid, log_prior = _grid(named=features.named)
    gram = np.stack([_gram(rows, features, g) for g in range(grid.shape[1])])
    kernel = np.eye(len(z)) + np.tensordot(grid, gram, axes=1)
    chol = np.linalg.cholesky(kernel)
    white = np.stack([_solve(c, z) for c in chol])
    squares = guess + lost + (white**2).sum(axis=1)
    log_det = np.log(np.diagonal(chol, axis1=1, axis2=2)).sum(axis=1)
    weight = _normalised(log_prior - log_det - degrees / 2 * np.log(squares))
    keep = np.flatnonzero(weight > NEGLIGIBLE)
    scale = squares[keep] / degrees
    mean, cov = np.empty((len(keep), p)), np.empty((len(keep), p, p))
    for i, k in enumerate(keep):
        variances = grid[k, features.group] * features.scale**2
        mean[i] = _coefficients(rows, variances, chol[k], white[k], cov[i])
        cov[i] *= scale[i]
    return Posterior(
        features=features,
        weight=weight[keep] / weight[keep].sum(),
        mean=mean + centre * (features.group == GROUPS.index("intercept")),
        cov=cov,
        noise_variance=scale,
        degrees=degrees,
    )


def _coefficients(rows: Array, variances: Array, chol: Array, white: Array, cov: Array) -> Array:
    """Posterior location (``p``) of the coefficients at one grid point; their scale (``p x p``) is written to ``cov``.

    With A the prior variances and K = I + R A R' = L L': mean = A R' K^-1 z, cov = A - A R' K^-1 R A, over the noise
    variance (Rasmussen and Williams, Gaussian Processes for Machine Learning, eq. 2.11 and 2.12); ``white`` is L^-1 z.
    """
    loads = _solve(chol, rows * variances)
    np.negative(np.matmul(loads.T, loads, out=cov), out=cov)
    cov[np.diag_indices(len(cov))] += variances
    return np.asarray(loads.T @ white)


def _solve(chol: Array, right: Array) -> Array:
    return np.asarray(solve_triangular(chol, right, lower=True, check_finite=False))


def _gram(rows: Array, features: Features, group: int) -> Array:
    scaled = (rows * features.scale)[:, features.group == group]
    return np.asarray(scaled @ scaled.T)


def _grid(*, named: bool = False) -> tuple[Array, Array]:
    """Group variances over the noise variance (``k x groups``) and log prior weights (``k``).

    Without names their group, the last one, is left out, and so are the points for their size.
    """
    points, weights = [_variances(0.0, 0.0, 0.0)], [NO_EFFECT_WEIGHT]
    half_cauchy = np.array(SIGNAL) / (1 + np.array(SIGNAL) ** 2)  # its density times the step of the grid of logarithms
    signals = zip(SIGNAL, (1 - NO_EFFECT_WEIGHT) * half_cauchy / half_cauchy.sum(), strict=True)
    names = zip(NAME, NAME_WEIGHT, strict=True) if named else [(0.0, 1.0)]
    axes = signals, zip(WIDTH, WIDTH_WEIGHT, strict=True), zip(INTERACTION, INTERACTION_WEIGHT, strict=True), names
    for (signal, a), (width, b), (interaction, c), (name, e) in itertools.product(*axes):
        points.append(_variances(signal, width, interaction, name))
        weights.append(a * b * c * e)
    return np.array(points)[:, : len(GROUPS) if named else -1], np.log(weights)


def _variances(signal: float, width: float, interaction: float, name: float = 0.5) -> tuple[float, ...]:
    """Variance of every group of ``GROUPS`` over the noise variance."""
    s, w, i = signal**2, width**2, interaction**2
    return INTERCEPT**2, s, s * w, s * i, s * i * w, s * i / 2, s * name**2


def _normalised(log_weight: Array) -> Array:
    weight = np.exp(log_weight - log_weight.max())
    return np.asarray(weight / weight.sum())


def quadratic(phi: Array, cov: Array) -> Array:
    """``phi_i' cov phi_i`` for every row, never negative."""
    return np.asarray(np.clip(np.einsum("np,np->n", phi @ cov, phi), 0.0, None))


def prior_covariance(features: Features) -> Array:
    """Covariance (``p x p``) of the coefficients before any trial, at a middling grid point, in noise variances."""
    variances = np.array(_variances(signal=2.0, width=0.3, interaction=0.25))
    return np.asarray(np.diag(variances[features.group] * features.scale**2))


def conditioned(cov: Array, phi: Array, noise_variance: float) -> Array:
    """Covariance of the coefficients once the rows of ``phi`` (``n x p``) are observed, whatever their outcome."""
    loads = phi @ cov
    kernel = loads @ phi.T + noise_variance * np.eye(len(phi))
    return np.asarray(cov - loads.T @ np.linalg.solve(kernel, loads))
