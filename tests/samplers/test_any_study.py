"""The sampler and the front in anybody's study: how it ends and goes on, and which of its objectives is the metric."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.trial import TrialState

from se_nas.core.errors import ExhaustedError, RunError
from se_nas.samplers.front import recommend_front
from se_nas.samplers.known_cost import KnownCostSampler

SPACE: dict[str, BaseDistribution] = {"a": IntDistribution(0, 2), "b": IntDistribution(0, 1)}


def cost(params: dict[str, Any]) -> float:
    return 10.0 + params["a"] + 5 * params["b"]


def gain(params: dict[str, Any]) -> float:
    return 0.5 + 0.1 * params["b"] + 0.001 * params["a"] ** 2


def objective(*values: Callable[[dict[str, Any]], float]) -> Callable[[optuna.Trial], Any]:
    def train(trial: optuna.Trial) -> Any:
        params = {name: trial.suggest_int(name, 0, SPACE[name].high) for name in SPACE}  # type: ignore[attr-defined]
        found = tuple(value(params) for value in values)
        return found if len(found) > 1 else found[0]

    return train


def study_of(*directions: str, **settings: Any) -> optuna.Study:
    return optuna.create_study(directions=directions, sampler=KnownCostSampler(SPACE, cost, seed=0, **settings))


class TestExhausted:
    @pytest.mark.parametrize("directions", [("maximize",), ("maximize", "minimize")])
    def test_a_loop_ends_cleanly(self, directions: tuple[str, ...]) -> None:
        study = study_of(*directions)
        study.optimize(objective(gain, cost) if len(directions) > 1 else objective(gain), n_trials=20)
        states = [trial.state for trial in study.trials]
        assert states == [TrialState.COMPLETE] * 6 + [TrialState.PRUNED]
        assert len({tuple(trial.params.values()) for trial in study.trials[:6]}) == 6
        study.optimize(objective(gain, cost) if len(directions) > 1 else objective(gain), n_trials=20)
        assert [trial.state for trial in study.trials[6:]] == [TrialState.PRUNED] * 2

    def test_who_asks_is_told(self) -> None:
        study = study_of("maximize")
        study.optimize(objective(gain), n_trials=6)
        with pytest.raises(ExhaustedError, match="all 6 allowed placements are known or running"):
            study.ask(SPACE)
        assert study.trials[-1].state == TrialState.FAIL


class TestMetric:
    @pytest.mark.parametrize("settings", [{}, {"metric_index": 1}], ids=["by direction", "as said"])
    def test_the_cost_may_be_first(self, settings: dict[str, Any]) -> None:
        fronts = []
        for order in ((gain, cost), (cost, gain)):
            first = order[0] is gain
            study = study_of(
                *(("maximize", "minimize") if first else ("minimize", "maximize")), **({} if first else settings)
            )
            study.optimize(objective(*order), n_trials=6)
            fronts.append(recommend_front(study, space=SPACE, cost=cost, **({} if first else settings)))
        assert len(fronts[1]) > 1
        assert fronts[0]["observed"].tolist() == fronts[1]["observed"].tolist()
        np.testing.assert_allclose(fronts[1]["cost"], [cost(row) for row in fronts[1].to_dict("records")])

    def test_a_metric_that_is_the_cost_is_refused(self) -> None:
        """Both are minimised, so nothing but the values tells: the cost stands first, in other units."""
        study = optuna.create_study(directions=["minimize", "minimize"], sampler=optuna.samplers.RandomSampler(seed=0))
        study.optimize(objective(lambda p: cost(p) / 1e3, lambda p: -gain(p)), n_trials=8)
        with pytest.raises(RunError, match="objective 0 of the study is the cost itself, not the metric"):
            recommend_front(study, space=SPACE, cost=cost)
        assert len(recommend_front(study, space=SPACE, cost=cost, metric_index=1)) > 1
        study.sampler = KnownCostSampler(SPACE, cost)
        with pytest.raises(RunError, match="objective 0 of the study is the cost itself, not the metric"):
            study.ask(SPACE)

    def test_objectives_that_are_no_minimised_costs_are_refused(self) -> None:
        study = study_of("maximize", "maximize")
        with pytest.raises(RunError, match="objective 1 of the study is maximised, as is objective 0") as caught:
            study.ask(SPACE)
        assert "hint: make each other objective a known cost that is minimised" in str(caught.value)
        other = study_of("minimize", "maximize", metric_index=0)
        with pytest.raises(
            RunError, match="metric_index is 0, but objective 1 of the study is maximised: it is not a cost"
        ):
            other.ask(SPACE)
        with pytest.raises(RunError, match="as is objective 0"):
            recommend_front(study, space=SPACE, cost=cost)


def rates(study: optuna.Study, number: int) -> list[float]:
    """What is drawn for a parameter that is not in the space."""
    wide = {**SPACE, "rate": optuna.distributions.FloatDistribution(0, 1)}
    found = []
    for _ in range(number):
        trial = study.ask(wide)
        study.tell(trial, gain(trial.params))
        found.append(trial.params["rate"])
    return found


def test_a_study_that_goes_on_with_a_seed_goes_on_with_its_draws() -> None:
    whole, study = rates(study_of("maximize"), 4), study_of("maximize")
    assert rates(study, 2) == whole[:2]
    study.sampler = KnownCostSampler(SPACE, cost, seed=0)  # as in another process
    again = rates(study, 2)
    assert not set(again) & set(whole[:2])
