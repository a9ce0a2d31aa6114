"""How far is the sampler from the best design known in hindsight, at high noise?

    python experiments/sampler_benchmark/limit.py --landscapes 24 --searches 12
    python experiments/sampler_benchmark/limit.py --variants --landscapes 24 --offset 100 --searches 6

For each landscape, the design of so many trainings that gives the posterior's front the highest mean score is looked
for by exchange: one training after the other moves to another placement, or becomes a repeat, if that raises the mean
score over `TUNING` draws of the noise. Whoever looks knows the true gains, but not the noise that the found design is
then judged by, nor may the design depend on outcomes. That is the limit of a design fixed in hindsight; a
sampler, which sees outcomes as it goes, is held against it. Appends to limit.csv. ``--variants`` tries known-cost in
other ways instead (`VARIANTS`), and appends to variants.csv. Both have the true gain, in points, that the
recommended networks have on average over all costs, and the largest there is; the score is the sum of the one over the
sum of the other.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import optuna
import pandas as pd
from landscapes import REDUCTIONS4, RESNET20, RESNET50, Landscape, additive, best_score, interacting, make, score
from optuna.samplers import BaseSampler
from peers import PEERS
from play import ACCURACY, simulate

from se_nas.samplers import known_cost, posterior
from se_nas.samplers.features import Features
from se_nas.samplers.known_cost import KnownCostSampler

HERE = Path(__file__).parent
SAMPLERS = ("random", "known-cost")
NOISE = 0.3
TUNING, JUDGING = 64, 200
SWEEPS, TRIED = 2, 12


def landscape_of(number: int) -> Landscape:
    """Landscapes of their own, neither the benchmark's nor the development ones: noise as large as the effects."""
    rng = np.random.default_rng([9000, number])
    stages = list((RESNET20, RESNET50)[number % 2])
    d = len(stages)
    curve = [0.0, *np.sort(1 - 0.5 * rng.random(3) ** 2)]
    table = np.outer(rng.normal(0.1, 0.2, d), curve)
    pair = rng.normal(0, 0.08, (d, d)) * (number % 3 == 0)
    gain = interacting(table, pair, 0.0) if pair.any() else additive(table)
    return make(f"apart-{number}", stages, REDUCTIONS4, gain, NOISE)


class Fixed:
    """Mean score of the posterior's front over draws of the noise, for any design on one landscape.

    A design is the same for all draws, so that they share its decompositions: the claims are those of
    `se_nas.samplers.posterior.fit`, all draws at once (checked in tests/test_sampler_benchmark.py).
    """

    def __init__(self, landscape: Landscape, draws: int, seed: int, trials: int) -> None:
        self.landscape = landscape
        self.every = landscape.level_space.all()
        self.features = Features(landscape.level_space.meanings)
        self.phi = self.features(self.every)
        self.noise = np.random.default_rng([seed, 2028]).normal(0, NOISE, (trials, draws))
        self.grid, self.log_prior = posterior._grid()

    def __call__(self, design: np.ndarray) -> float:
        claims = self.claims(design, ACCURACY + self.landscape.gain(design)[:, None] + self.noise)
        return float(np.mean([score(self.landscape, self.every, claim) for claim in claims.T]))

    def claims(self, design: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Posterior means of all ``N`` placements for each of ``k`` columns of ``values`` (``n x k``): ``N x k``."""
        rows, z = self.features(design), values - values.mean(axis=0)
        gram = np.stack([posterior._gram(rows, self.features, g) for g in range(self.grid.shape[1])])
        kernel = np.eye(len(z)) + np.tensordot(self.grid, gram, axes=1)
        inverse = np.linalg.inv(kernel)
        solved = inverse @ z  # grid x n x k
        guess = posterior.PRIOR_TRIALS * z.var(axis=0) / 4
        squares = guess + np.einsum("nk,gnk->gk", z, solved)
        log_weight = self.log_prior[:, None] - np.linalg.slogdet(kernel)[1][:, None] / 2
        log_weight = log_weight - (posterior.PRIOR_TRIALS + len(z)) / 2 * np.log(squares)
        weight = np.exp(log_weight - log_weight.max(axis=0))
        weight /= weight.sum(axis=0)
        variances = self.grid[:, self.features.group] * self.features.scale**2
        mean = np.zeros((rows.shape[1], z.shape[1]))
        for g in range(len(self.grid)):
            mean += variances[g][:, None] * (rows.T @ (solved[g] * weight[g]))
        return np.asarray(self.phi @ mean)


def exchanged(tuning: Fixed, design: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The design after `SWEEPS` sweeps of exchange."""
    best = tuning(design)
    for _ in range(SWEEPS):
        for i in range(len(design)):
            for _ in range(TRIED):
                other = design.copy()
                other[i] = tuning.every[rng.integers(len(tuning.every))]
                if (value := tuning(other)) > best:
                    best, design = value, other
    return design


class Teaching(KnownCostSampler):
    """To the end the training that teaches most about all placements."""

    def _worth(self, belief: Any, phi: np.ndarray, cost: np.ndarray, open_: np.ndarray) -> np.ndarray:
        return self._teaches(belief, phi)


VARIANTS: dict[str, tuple[type[KnownCostSampler], dict[str, bool], int]] = {
    "as it is": (KnownCostSampler, {}, known_cost.OPENING),
    "with repeats": (KnownCostSampler, {"repeats": True}, known_cost.OPENING),
    "opening of 4": (KnownCostSampler, {}, 4),
    "teaching": (Teaching, {}, known_cost.OPENING),
}
"""Name -> the class, its settings, and the most trainings of its opening."""


def area_of(judging: Fixed, samplers: Iterable[BaseSampler], trials: int) -> float:
    """Mean score of searches, each with a sampler and noise of its own."""
    areas = []
    for seed, sampler in enumerate(samplers):
        codes, values = simulate(judging.landscape, sampler, trials, 10_000 + seed)
        areas.append(score(judging.landscape, judging.every, judging.claims(codes, values[:, None])[:, 0]))
    return float(np.mean(areas))


def limits(number: int, trials: int, searches: int) -> dict[str, float]:
    """Scores on one landscape: of a random design, of the best one in hindsight, and of the samplers."""
    landscape = landscape_of(number)
    tuning = Fixed(landscape, TUNING, number, trials)
    judging = Fixed(landscape, JUDGING, 10_000 + number, trials)
    rng = np.random.default_rng([number, 3])
    start = tuning.every[rng.integers(len(tuning.every), size=trials)]
    ways = {"random, fixed": judging(start), "hindsight": judging(exchanged(tuning, start, rng))}
    for name in SAMPLERS:
        ways[name] = area_of(judging, (PEERS[name](landscape, seed) for seed in range(searches)), trials)
    return ways


def variants(number: int, trials: int, searches: int) -> dict[str, float]:
    """Scores on one landscape of known-cost in the ways of `VARIANTS`."""
    landscape = landscape_of(number)
    judging = Fixed(landscape, 1, 0, trials)
    ways = {}
    for name, (kind, settings, opening) in VARIANTS.items():
        samplers = (
            kind(landscape.space, landscape.cost, levels=landscape.reductions, seed=seed, **settings)
            for seed in range(searches)
        )
        with patch.object(known_cost, "OPENING", opening):
            ways[name] = area_of(judging, samplers, trials)
    return ways


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--landscapes", type=int, default=24)
    parser.add_argument("--offset", type=int, default=0, help="number of the first landscape")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--searches", type=int, default=12, help="of each sampler on each landscape")
    parser.add_argument("--variants", action="store_true")
    given = parser.parse_args()
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    rows = []
    for number in range(given.offset, given.offset + given.landscapes):
        landscape = landscape_of(number)
        top = float(landscape.params.max(axis=1).sum()) / 1e3  # so that networks of all sizes weigh the same
        ways = (variants if given.variants else limits)(number, given.trials, given.searches)
        ways, best = {way: area / top for way, area in ways.items()}, best_score(landscape) / top
        rows += [{"landscape": number, "trials": given.trials, "way": way, "gain": gain, "best": best}
                 for way, gain in ways.items()]  # fmt: skip
        print(number, *(f"{way} {gain:.3f}" for way, gain in ways.items()), f"of {best:.3f}", flush=True)
    new, file = pd.DataFrame(rows), HERE / ("variants.csv" if given.variants else "limit.csv")
    new.to_csv(file, mode="a", header=not file.exists(), index=False, float_format="%.5f", lineterminator="\n")
    total = new.groupby("way", sort=False)[["gain", "best"]].sum()
    print((total["gain"] / total["best"]).round(3).to_string())


if __name__ == "__main__":
    main()
