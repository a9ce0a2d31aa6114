"""The samplers that are compared, all through Optuna's ask and tell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
from landscapes import Landscape
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler

from se_nas.samplers.known_cost import KnownCostSampler


class NoisyEhviSampler(BaseSampler):
    """BoTorch's qLogNEHVI (Ament et al. 2023) with one SingleTaskGP per objective; ten random trials first.

    The acquisition is optimised over 512 random placements: exact enough in spaces of a few hundred.
    """

    def __init__(self, landscape: Landscape, seed: int) -> None:
        self._landscape = landscape
        self._seed = seed
        self._random = RandomSampler(seed=seed)

    def infer_relative_search_space(self, study: optuna.Study, trial: Any) -> dict[str, BaseDistribution]:
        return self._landscape.space

    def sample_independent(self, study: optuna.Study, trial: Any, param_name: str, param_distribution: Any) -> Any:
        return self._random.sample_independent(study, trial, param_name, param_distribution)

    def sample_relative(self, study: optuna.Study, trial: Any, search_space: Any) -> dict[str, Any]:
        done = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
        if len(done) < 10:
            return {}
        space = self._landscape.level_space
        codes = np.array([space.encode(t.params) for t in done])
        values = np.array([[t.values[0], -t.values[1]] for t in done])
        options = np.random.default_rng([self._seed, len(done)]).integers(0, space.shape, (512, len(space.names)))
        return space.decode(options[_best_option(codes, values, options, np.array(space.shape), self._seed)])


def _best_option(codes: np.ndarray, values: np.ndarray, options: np.ndarray, shape: np.ndarray, seed: int) -> int:
    # Imported here: BoTorch is no dependency of the project.
    import torch
    from botorch.acquisition.multi_objective.logei import qLogNoisyExpectedHypervolumeImprovement
    from botorch.fit import fit_gpytorch_mll
    from botorch.models import ModelListGP, SingleTaskGP
    from botorch.sampling import SobolQMCNormalSampler
    from gpytorch.mlls import SumMarginalLogLikelihood

    torch.manual_seed(seed)
    x = torch.tensor(codes / (shape - 1), dtype=torch.double)
    y = torch.tensor((values - values.mean(axis=0)) / (values.std(axis=0) + 1e-9), dtype=torch.double)
    exact = torch.full_like(y[:, 1:], 1e-6)
    model = ModelListGP(SingleTaskGP(x, y[:, :1]), SingleTaskGP(x, y[:, 1:], train_Yvar=exact))
    fit_gpytorch_mll(SumMarginalLogLikelihood(model.likelihood, model))
    acquisition = qLogNoisyExpectedHypervolumeImprovement(
        model=model,
        ref_point=(y.min(dim=0).values - 0.1).tolist(),
        X_baseline=x,
        sampler=SobolQMCNormalSampler(torch.Size([64]), seed=seed),
        prune_baseline=True,
    )
    with torch.no_grad():
        worth = acquisition(torch.tensor(options / (shape - 1), dtype=torch.double)[:, None, :])
    return int(worth.argmax())


def known_cost(landscape: Landscape, seed: int) -> BaseSampler:
    return KnownCostSampler(landscape.space, landscape.cost, levels=landscape.reductions, seed=seed)


PEERS: dict[str, Callable[[Landscape, int], BaseSampler]] = {
    "known-cost": known_cost,
    "random": lambda landscape, seed: RandomSampler(seed=seed),
    "tpe": lambda landscape, seed: TPESampler(seed=seed),
    "tpe-multivariate": lambda landscape, seed: TPESampler(seed=seed, multivariate=True),
    "nsga2-10": lambda landscape, seed: NSGAIISampler(seed=seed, population_size=10),
    "nsga2-50": lambda landscape, seed: NSGAIISampler(seed=seed, population_size=50),
    "gp": lambda landscape, seed: GPSampler(seed=seed, deterministic_objective=False),
    "botorch-qlognehvi": NoisyEhviSampler,
}
