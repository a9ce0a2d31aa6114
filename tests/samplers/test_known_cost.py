"""KnownCostSampler in ordinary Optuna studies."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.samplers import BaseSampler, PartialFixedSampler
from optuna.testing.pytest_samplers import BasicSamplerTestCase, MultiObjectiveSamplerTestCase
from optuna.trial import TrialState

from se_nas.core.errors import CostError, RunError, SpaceError
from se_nas.samplers.known_cost import KnownCostSampler, _Belief, first_trials
from se_nas.space.levels import LevelSpace

SPACE: dict[str, BaseDistribution] = {f"s{j}": IntDistribution(0, 3) for j in range(3)}
LEVELS = (None, 16, 8, 4)


def cost(params: dict[str, Any]) -> float:
    return float(sum(4**j * params[f"s{j}"] for j in range(3)))


def sampler(**kwargs: Any) -> KnownCostSampler:
    return KnownCostSampler(SPACE, cost, levels=LEVELS, **{"seed": 0, **kwargs})


def search(sampler: BaseSampler, trials: int, direction: str = "maximize", workers: int = 1) -> list[tuple[int, ...]]:
    study = optuna.create_study(directions=[direction, "minimize"], sampler=sampler)
    rng, running = np.random.default_rng(0), []
    for _ in range(trials):
        running.append(study.ask(SPACE))
        if len(running) == workers:
            done = running.pop(0)
            gain = sum(done.params[f"s{j}"] > 0 for j in range(3)) + rng.normal(0, 0.2)
            study.tell(done, [gain if direction == "maximize" else -gain, cost(done.params)])
    return [tuple(t.params.values()) for t in study.trials]


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
class TestContract(BasicSamplerTestCase, MultiObjectiveSamplerTestCase):
    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return sampler


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
@pytest.mark.parametrize("workers", [1, 4])
def test_no_placement_is_proposed_twice(direction: str, workers: int) -> None:
    proposed = search(sampler(), 40, direction, workers)
    assert len(set(proposed)) == 40


def test_parameters_that_are_not_yet_suggested_count_as_running() -> None:
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler())
    asked = [study.ask() for _ in range(12)]
    params = {tuple(t.suggest_int(name, 0, 3) for name in SPACE) for t in asked}
    assert len(params) == 12


def test_the_same_seed_proposes_the_same_and_direction_is_only_a_sign() -> None:
    assert search(sampler(), 15) == search(sampler(), 15) == search(sampler(), 15, "minimize")


def test_nothing_over_a_limit_is_proposed() -> None:
    proposed = search(sampler(limits=20.0), 20)
    assert max(cost(dict(zip(SPACE, p, strict=True))) for p in proposed) <= 20


def test_an_infinite_cost_forbids_a_placement() -> None:
    odd = KnownCostSampler(SPACE, lambda p: cost(p) if p["s1"] != 2 else float("inf"), levels=LEVELS, seed=0)
    proposed = search(odd, 40)
    assert len(set(proposed)) == 40
    assert all(s1 != 2 for _, s1, _ in proposed)


def test_an_exhausted_space_says_so_and_leaves_no_running_trial() -> None:
    small = KnownCostSampler({"a": IntDistribution(0, 2)}, lambda p: float(p["a"]))
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=small)
    for _ in range(3):
        trial = study.ask({"a": IntDistribution(0, 2)})
        study.tell(trial, [1.0, float(trial.params["a"])])
    with pytest.raises(SpaceError, match="nothing is left to propose"):
        study.ask({"a": IntDistribution(0, 2)})
    assert study.trials[-1].state == TrialState.FAIL


def test_with_repeats_an_exhausted_space_goes_on() -> None:
    small = KnownCostSampler({"a": IntDistribution(0, 2)}, lambda p: float(p["a"]), repeats=True, seed=0)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=small)
    study.optimize(lambda t: (float(t.suggest_int("a", 0, 2) > 0), float(t.params["a"])), n_trials=12)
    assert len(study.trials) == 12


def test_a_rejected_or_stopped_placement_is_never_proposed_again() -> None:
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler(repeats=True))
    seen = set()
    for _ in range(30):
        trial = study.ask(SPACE)
        placement = tuple(trial.params.values())
        assert placement not in seen
        seen.add(placement)
        trial.set_constraint("rejected", 1.0)
        study.tell(trial, state=TrialState.PRUNED)


def test_failed_trials_are_tried_again_but_not_for_ever() -> None:
    study = optuna.create_study(
        directions=["maximize", "minimize"], sampler=KnownCostSampler({"a": IntDistribution(0, 1)}, lambda p: 1.0)
    )
    for _ in range(6):
        study.tell(study.ask({"a": IntDistribution(0, 1)}), state=TrialState.FAIL)
    with pytest.raises(SpaceError, match="nothing is left"):
        study.ask({"a": IntDistribution(0, 1)})


def test_enqueued_trials_are_honoured_and_not_doubled() -> None:
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler())
    study.enqueue_trial({"s0": 1, "s1": 2, "s2": 3})
    first = study.ask(SPACE)
    assert tuple(first.params.values()) == (1, 2, 3)
    others = [tuple(study.ask(SPACE).params.values()) for _ in range(20)]
    assert (1, 2, 3) not in others


def test_partial_fixing_and_copying_work() -> None:
    with pytest.warns(optuna.exceptions.ExperimentalWarning):
        fixed = PartialFixedSampler({"s0": 2}, copy.deepcopy(sampler()))
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=fixed)
    assert study.ask(SPACE).params["s0"] == 2


def test_parameters_outside_the_space_are_random() -> None:
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler())
    trial = study.ask({**SPACE, "rate": optuna.distributions.FloatDistribution(0, 1)})
    assert set(trial.params) == {*SPACE, "rate"}


def test_threads_do_not_propose_the_same() -> None:
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler())
    study.optimize(lambda t: (float(sum(t.suggest_int(n, 0, 3) for n in SPACE)), cost(t.params)), n_trials=24, n_jobs=3)
    assert len({tuple(t.params.values()) for t in study.trials}) == 24


def test_one_objective_with_a_limit() -> None:
    study = optuna.create_study(direction="maximize", sampler=sampler(limits=30.0))
    study.optimize(lambda t: float(sum(t.suggest_int(n, 0, 3) for n in SPACE)), n_trials=25)
    assert all(cost(t.params) <= 30 for t in study.trials)
    assert study.best_value >= 6


def test_two_costs_and_the_metric_in_the_middle() -> None:
    two = KnownCostSampler(SPACE, lambda p: (cost(p), float(p["s0"])), metric_index=1, limits=(None, 2.0), seed=0)
    study = optuna.create_study(directions=["minimize", "maximize", "minimize"], sampler=two)
    for _ in range(12):
        trial = study.ask(SPACE)
        study.tell(trial, [cost(trial.params), float(trial.params["s1"] > 0), float(trial.params["s0"])])
    assert len({tuple(t.params.values()) for t in study.trials}) == 12
    assert max(t.params["s0"] for t in study.trials) <= 2


def test_a_study_may_leave_a_known_cost_out() -> None:
    two = KnownCostSampler(SPACE, lambda p: (cost(p), float(p["s0"])), levels=LEVELS, seed=0)
    assert len(set(search(two, 12))) == 12


@pytest.mark.parametrize(("value", "message"), [(float("nan"), r"must be 1 number"), ((), "number")])
def test_a_cost_must_be_numbers(value: Any, message: str) -> None:
    with pytest.raises(CostError, match=message):
        KnownCostSampler(SPACE, lambda p: value)


def test_wrong_limits_and_objectives_are_named() -> None:
    with pytest.raises(SpaceError, match="as many limits"):
        sampler(limits=(1.0, 2.0))
    with pytest.raises(SpaceError, match="no placement is within the limits"):
        optuna.create_study(directions=["maximize", "minimize"], sampler=sampler(limits=-1.0)).ask(SPACE)
    with pytest.raises(RunError, match="has 3 objectives"):
        optuna.create_study(directions=["maximize"] * 3, sampler=sampler()).ask(SPACE)


def test_a_huge_space_takes_less_than_a_second() -> None:
    space: dict[str, BaseDistribution] = {f"s{j:02d}": CategoricalDistribution((None, 32, 16, 8, 4)) for j in range(16)}

    def weights(params: dict[str, Any]) -> float:
        return sum(0.0 if r is None else 1 / r for r in params.values())

    study = optuna.create_study(
        directions=["maximize", "minimize"], sampler=KnownCostSampler(space, weights, limits=2.0, seed=0)
    )
    rng = np.random.default_rng(0)
    for _ in range(50):
        params = {name: (None, 32, 16, 8, 4)[rng.integers(5)] for name in space}
        values = [rng.normal(), weights(params)]
        study.add_trial(optuna.create_trial(params=params, distributions=space, values=values))
    start = time.process_time()
    trial = study.ask(space)
    assert time.process_time() - start < 1.5
    assert weights(trial.params) <= 2.0


class Spied:
    """What a proposal is made with: beliefs and costs of the candidates, one entry for each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.beliefs: list[_Belief] = []
        self.costs: list[np.ndarray] = []
        worth = KnownCostSampler._worth

        def spy(itself: KnownCostSampler, belief: _Belief, phi: np.ndarray, cost: np.ndarray, open_: Any) -> Any:
            self.beliefs.append(belief)
            self.costs.append(cost)
            return worth(itself, belief, phi, cost, open_)

        monkeypatch.setattr(KnownCostSampler, "_worth", spy)


def told(study: optuna.Study, n: int, *values: Callable[[dict[str, Any]], float]) -> optuna.Study:
    """So many trials of different placements, with these values by objective."""
    for i in np.random.default_rng(0).permutation(64)[:n]:
        params = {f"s{j}": int(i) // 4**j % 4 for j in range(3)}
        study.add_trial(
            optuna.create_trial(params=params, distributions=SPACE, values=[value(params) for value in values])
        )
    return study


def gain(params: dict[str, Any]) -> float:
    return float(sum(params[name] > 0 for name in SPACE)) + 0.01 * cost(params)


def test_the_known_cost_counts_where_it_is_an_objective_and_not_where_it_is_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    every = sorted(map(float, range(64)))  # 4^j weights make every placement's cost another number
    for directions, values, expected in (
        (["maximize", "minimize"], (gain, cost), every), (["maximize"], (gain,), [0.0] * 64),
    ):  # fmt: skip
        spied = Spied(monkeypatch)
        told(optuna.create_study(directions=directions, sampler=sampler()), 12, *values).ask(SPACE)
        assert sorted(spied.costs[0][:, 0]) == expected


def test_of_two_decisions_that_gain_the_same_the_cheaper_one_is_in_more_proposals() -> None:
    """Each gains 1; the first costs 1 to 3, the last 16 to 48."""
    study = told(optuna.create_study(directions=["maximize", "minimize"], sampler=sampler()), 14, gain, cost)
    for _ in range(12):
        trial = study.ask(SPACE)
        study.tell(trial, [gain(trial.params), cost(trial.params)])
    proposed = [t.params for t in study.trials[14:]]
    assert sum(p["s0"] > 0 for p in proposed) > sum(p["s2"] > 0 for p in proposed)
    assert np.mean([cost(p) for p in proposed]) < 31.5  # the mean of all


def test_the_metric_is_where_it_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    means = []
    for index, directions in enumerate((["maximize", "minimize"], ["minimize", "maximize"])):
        spied, values = Spied(monkeypatch), (gain, cost) if index == 0 else (cost, gain)
        told(optuna.create_study(directions=directions, sampler=sampler(metric_index=index)), 14, *values).ask(SPACE)
        means.append(spied.beliefs[0].mean)
    np.testing.assert_allclose(*means)


@pytest.mark.parametrize(("shape", "first"), [((3,), 3), ((2,), 2), ((4,) * 3, 6), ((4,) * 9, 8)])
def test_the_first_trials_are_three_more_than_decisions_but_no_more_than_eight_or_all(
    shape: tuple[int, ...], first: int
) -> None:
    assert first_trials(LevelSpace.of({f"s{j}": IntDistribution(0, n - 1) for j, n in enumerate(shape)})) == first


def test_in_a_space_too_large_to_list_proposals_follow_what_was_learned() -> None:
    """4^9 placements, of which a pool is looked at: what is proposed is far better than what is drawn at random."""
    space: dict[str, BaseDistribution] = {f"s{j}": IntDistribution(0, 3) for j in range(9)}

    def worth(params: dict[str, Any]) -> float:
        return float(sum((1 if j % 2 else -1) * (params[f"s{j}"] > 0) for j in range(9)))

    def weight(params: dict[str, Any]) -> float:
        return 1.0 + sum(params.values())

    proposed = []
    for _ in range(2):
        study = optuna.create_study(
            directions=["maximize", "minimize"], sampler=KnownCostSampler(space, weight, levels=LEVELS, seed=0)
        )
        rng = np.random.default_rng(0)
        for row in rng.integers(0, 4, (40, 9)):
            params = dict(zip(space, row.tolist(), strict=True))
            values = [worth(params) + rng.normal(0, 0.1), weight(params)]
            study.add_trial(optuna.create_trial(params=params, distributions=space, values=values))
        proposed.append([study.ask(space).params for _ in range(3)])
    assert proposed[0] == proposed[1]
    known = [worth(t.params) for t in study.trials[:40]]
    assert np.mean([worth(p) for p in proposed[0]]) > np.mean(known) + np.std(known)
