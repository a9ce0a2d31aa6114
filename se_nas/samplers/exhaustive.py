"""All placements of a space, one after the other."""

from __future__ import annotations

from typing import Any

from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial

from se_nas.space.space import Space


class ExhaustiveSampler(BaseSampler):
    """Proposes the first assignment of levels that no trial of the study has; the last one again when all are done."""

    def __init__(self, space: Space) -> None:
        self._remaining = space.levels()
        self._levels: dict[str, int] = {}

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Nothing is inferred: every parameter is sampled on its own, from the assignment at hand."""
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Choose the assignment that `sample_independent` then reads."""
        tried = [other.params for other in study.get_trials(deepcopy=False) if other.number != trial.number]
        self._levels = next((levels for levels in self._remaining if levels not in tried), self._levels)
        return {}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """The level of one parameter in the assignment."""
        return self._levels[param_name]
