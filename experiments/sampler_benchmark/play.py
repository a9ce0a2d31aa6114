"""Searches on landscapes: what a sampler proposes, and the front that the posterior makes of its trials."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import optuna
from landscapes import Landscape

from se_nas.samplers.features import Features
from se_nas.samplers.pareto import rising_front
from se_nas.samplers.pool import Candidates, Pool, SpaceCosts
from se_nas.samplers.posterior import Posterior, fit

ACCURACY = 70.0


class Judge:
    """The posterior of one landscape's trials, and the front that it recommends."""

    def __init__(self, landscape: Landscape) -> None:
        self.landscape = landscape
        space = landscape.level_space
        self.features = Features(space.meanings)
        self._pool = Pool(SpaceCosts(space, landscape.cost), space, self.features, rng=np.random.default_rng(0))

    def __call__(self, codes: np.ndarray, values: np.ndarray) -> tuple[Posterior, Candidates, np.ndarray, np.ndarray]:
        """Posterior, candidates, members of the front (indices) and their claims."""
        posterior = fit(self.features, codes, values)
        coefficients = posterior.moments()[0]
        candidates = self._pool.candidates(coefficients, codes)
        mean = candidates.phi @ coefficients
        members = rising_front(candidates.cost, mean)
        return posterior, candidates, members, mean[members]


def play(
    landscape: Landscape,
    sampler: optuna.samplers.BaseSampler,
    trials: int,
    train: Callable[[int, np.ndarray], float],
    workers: int = 1,
    first: Sequence[tuple[int, ...]] = (),
) -> tuple[np.ndarray, np.ndarray]:
    """Codes and accuracies of one search, where ``train(i, code)`` is the accuracy of trial ``i``.

    With several workers a trial is told when ``workers - 1`` younger ones are running. The codes of ``first`` come
    before what the sampler proposes.
    """
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    space, distributions = landscape.level_space, landscape.space
    for code in first:
        study.enqueue_trial(space.decode(np.array(code)))
    running: list[optuna.Trial] = []
    codes, values = np.zeros((trials, landscape.decisions), dtype=np.int64), np.zeros(trials)
    for i in range(trials):
        trial = study.ask(distributions)
        codes[i] = space.encode(trial.params)
        values[i] = train(i, codes[i])
        running.append(trial)
        if len(running) >= workers:
            done = running.pop(0)
            study.tell(done, [values[done.number], landscape.cost(done.params)])
    return codes, values


def simulate(
    landscape: Landscape, sampler: optuna.samplers.BaseSampler, trials: int, seed: int, workers: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """A search with Gaussian noise: trial ``i`` of a seed has the same noise whatever the sampler."""
    noise = np.random.default_rng([seed, 2026]).normal(0.0, landscape.noise, trials)

    def train(i: int, code: np.ndarray) -> float:
        return float(ACCURACY + landscape.gain(code[None])[0] + noise[i])

    return play(landscape, sampler, trials, train, workers)
