"""Proposals: the references first, nothing twice, nothing over a limit, and an end."""

from __future__ import annotations

import itertools
import random
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import optuna
import pytest
from helpers import backbone_of, result_of, trial, units_of
from optuna.samplers import BaseSampler

from se_nas.core.config import Limits
from se_nas.core.errors import PluginError
from se_nas.core.placement import Placement
from se_nas.core.trial import INTERRUPTED, CostValue, Objective, Target, Trial
from se_nas.engine.proposer import ATTEMPTS, Proposer
from se_nas.engine.study import Study
from se_nas.samplers.build import open_sampler
from se_nas.space.exact_cost import CostModel
from se_nas.space.pricing import Pricing
from se_nas.space.space import Space
from se_nas.space.spec import read_space

SAMPLERS = ("known-cost", "tpe", "gp", "nsga2", "random", "exhaustive")
UNITS = units_of("resnet8")
COSTS = Pricing(CostModel(backbone_of("resnet8"), UNITS, (1, 8, 8)))
OBJECTIVE = Objective(metric="val_accuracy", direction="maximize", cost="gflops")


def opened(target: Target, space: Space, *, budget: int = 5, limits: Limits | None = None) -> BaseSampler:
    cost = COSTS.of_levels(space, ["gflops"], limits or Limits())
    return open_sampler(target, space=space, seed=0, budget=budget, cost=cost)


def proposer_in(
    folder: Path, raw: dict[str, Any] | None = None, *, sampler: str = "random", limits: Limits | None = None
) -> Proposer:
    space = Space(read_space(raw or {"reductions": ["none", 16]}), UNITS)
    study = Study(f"sqlite:///{folder / 'study.db'}", "search", OBJECTIVE, {"space": space.to_plain()})
    study.optuna.sampler = opened(Target(target=sampler), space, budget=20, limits=limits)

    def record(placement: Placement, *, role: str, attempts: int, replicate: int) -> Trial:
        made = trial(placement, role=role, attempts=attempts, costs=COSTS(placement))
        return replace(made, identity=replace(made.identity, replicate=replicate))

    return Proposer(study, space, COSTS, limits or Limits(), seed=0, record=record)


def accuracy(placement: Placement) -> float:
    return sum(1 / (choice.reduction or 100) for choice in placement.choices.values())


def tell(proposer: Proposer, started: Trial, state: str = "complete", reason: str = "") -> Trial:
    finished = replace(started, **result_of(state, accuracy(started.placement), reason=reason))
    assert proposer.study.finish(finished)
    if state == "failed":
        proposer.retry(finished)
    return finished


def run_out(proposer: Proposer, most: int = 200) -> list[Trial]:
    """All proposals until there are no more."""
    told = []
    while (started := proposer.next(proposer.study.trials())) is not None:
        told.append(tell(proposer, started))
        assert len(told) < most
    return told


class TestNothingTwice:
    @pytest.mark.parametrize("sampler", SAMPLERS)
    def test_every_sampler_exhausts_a_space_without_a_repetition(self, tmp_path: Path, sampler: str) -> None:
        proposer = proposer_in(tmp_path, sampler=sampler)
        proposer.begin(proposer.study.trials())
        told = run_out(proposer)
        assert [t.role for t in told[:2]] == ["baseline", "reference"]
        assert [t.placement.label for t in told[:2]] == ["none", "all:16"]
        keys = [t.placement.key for t in told]
        assert len(keys) == len(set(keys)) == 8
        assert set(keys) == {p.key for p in proposer.space.placements()}
        assert proposer.next(proposer.study.trials()) is None

    def test_what_runs_is_not_proposed(self, tmp_path: Path) -> None:
        proposer = proposer_in(tmp_path)
        running = [proposer.next(proposer.study.trials()) for _ in range(8)]
        assert len({t.placement.key for t in running if t}) == 8
        assert proposer.next(proposer.study.trials()) is None

    def test_rejected_proposals_cost_nothing(self, tmp_path: Path) -> None:
        proposer = proposer_in(tmp_path, sampler="random")
        run_out(proposer)
        rejected = [t for t in proposer.study.trials() if t.state == "rejected"]
        assert rejected
        assert {t.reason for t in rejected} == {"known already"}
        assert not any(t.counts for t in rejected)
        assert all(t.number >= 0 for t in rejected)

    def test_a_second_proposer_knows_what_the_first_did(self, tmp_path: Path) -> None:
        first = proposer_in(tmp_path)
        told = [tell(first, t) for _ in range(5) if (t := first.next(first.study.trials()))]
        rest = run_out(proposer_in(tmp_path))
        assert len({t.placement.key for t in told + rest}) == 8
        assert len(rest) == 3

    def test_references_are_enqueued_once(self, tmp_path: Path) -> None:
        proposer = proposer_in(tmp_path)
        for _ in range(3):
            proposer.begin(proposer.study.trials())
        assert proposer.study.waiting() == 2
        run_out(proposer)
        proposer.begin(proposer.study.trials())
        assert proposer.study.waiting() == 0

    def test_the_reference_is_trained_where_the_space_lacks_it(self, tmp_path: Path) -> None:
        proposer = proposer_in(tmp_path, {"reductions": ["none", 4]})
        proposer.begin(proposer.study.trials())
        told = run_out(proposer)
        assert told[1].placement.label == "all:16"
        assert len(told) == 8 + 1
        assert all(proposer.space.contains(t.placement) for t in told[2:])

    def test_a_rounding_rule_that_makes_reductions_equal(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        proposer = proposer_in(tmp_path, {"reductions": ["none", 8], "rounding": "multiple_of_8"})
        proposer.begin(proposer.study.trials())
        asks = itertools.count()
        ask = proposer.study.ask

        def counted(space: Space) -> Any:
            assert next(asks) < 120, "a space of eight placements asked for more than 120"
            return ask(space)

        monkeypatch.setattr(proposer.study, "ask", counted)
        told = run_out(proposer)
        assert {t.placement.key for t in told} == {p.key for p in proposer.space.placements()}


class TestLimits:
    @pytest.mark.parametrize(
        ("limits", "added"),
        [
            (Limits(params=77_754 + 160), {0, 32, 128, 160}),
            (Limits(macs=1), set()),
            (Limits(params=1e9, gflops=1.0), {0, 32, 128, 160, 512, 544, 640, 672}),
        ],
    )
    def test_nothing_over_a_limit_is_proposed(self, tmp_path: Path, limits: Limits, added: set[int]) -> None:
        proposer = proposer_in(tmp_path, limits=limits)
        told = run_out(proposer)
        assert {int(t.costs["params"].value) - 77_754 for t in told} == added

    def test_references_are_excepted(self, tmp_path: Path) -> None:
        proposer = proposer_in(tmp_path, limits=Limits(macs=1))
        proposer.begin(proposer.study.trials())
        assert [t.role for t in run_out(proposer)] == ["baseline", "reference"]

    def test_a_limit_is_named(self, tmp_path: Path) -> None:
        proposer = proposer_in(tmp_path, limits=Limits(params=77_754))
        assert proposer.over_limit(proposer.space.baseline) is None
        assert proposer.over_limit(proposer.space.reference) == "params 78426 is over the limit 77754"

    def test_a_large_space_ends_too(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("se_nas.engine.proposer.ENUMERABLE", 3)
        monkeypatch.setattr("se_nas.engine.proposer.DRAWS", 300)
        told = run_out(proposer_in(tmp_path))
        assert len({t.placement.key for t in told}) == 8 == len(told)


class TestFailures:
    @pytest.mark.parametrize("reason", ["RuntimeError: no", "non-finite val_loss in epoch 1"])
    def test_a_placement_is_tried_three_times_at_most(self, tmp_path: Path, reason: str) -> None:
        proposer = proposer_in(tmp_path)
        proposer.begin(proposer.study.trials())
        told = []
        while (started := proposer.next(proposer.study.trials())) is not None:
            told.append(tell(proposer, started, "failed", reason))
            assert len(told) < 100
        times = {key: sum(t.placement.key == key for t in told) for key in {t.placement.key for t in told}}
        assert set(times.values()) == {ATTEMPTS} == {3}
        assert len(times) == 8
        for key in times:
            own = [t for t in told if t.placement.key == key]
            assert [t.attempts for t in own] == [1, 2, 3]
            # The same training again would fail again: a loss that is not finite gets other random numbers.
            assert [t.identity.replicate for t in own] == ([0, 1, 2] if "non-finite" in reason else [0, 0, 0])
            assert len({t.role for t in own}) == 1
        proposer.begin(proposer.study.trials())
        assert proposer.next(proposer.study.trials()) is None

    def test_an_interruption_is_no_failure(self, tmp_path: Path) -> None:
        proposer = proposer_in(tmp_path)
        proposer.begin(proposer.study.trials())
        for _ in range(6):
            started = proposer.next(proposer.study.trials())
            assert started is not None
            assert started.role == "baseline"
            assert started.attempts == 1
            tell(proposer, started, "failed", INTERRUPTED)
            # The other reference waits behind: it is asked for and finished, so that the first comes again.
            other = proposer.next(proposer.study.trials())
            if other is not None and other.role != "baseline":
                tell(proposer, other)
            elif other is not None:
                tell(proposer, other, "failed", INTERRUPTED)
        assert sum(t.role == "baseline" for t in proposer.study.trials()) >= 6

    def test_a_failed_one_that_works_at_last_is_known(self, tmp_path: Path) -> None:
        proposer = proposer_in(tmp_path)
        first = proposer.next(proposer.study.trials())
        assert first is not None
        tell(proposer, first, "failed", "RuntimeError: no")
        again = proposer.next(proposer.study.trials())
        assert again is not None
        assert again.placement.key == first.placement.key
        tell(proposer, again)
        rest = run_out(proposer)
        assert first.placement.key not in {t.placement.key for t in rest}
        assert len(rest) == 7


class TestKnownCost:
    """The default sampler proposes nothing that has to be rejected."""

    @pytest.mark.parametrize(
        ("raw", "limits", "size"),
        [
            ({"reductions": ["none", 16]}, Limits(), 8),
            ({"reductions": ["none", 16, 4]}, Limits(params=77_754 + 300), 10),
            ({"reductions": ["none", 4]}, Limits(), 8),  # 16 is for the reference only
            ({"reductions": ["none", 16], "position": ["standard", "pre"]}, Limits(), 27),  # no SE has no position
        ],
    )
    def test_to_the_end(self, tmp_path: Path, raw: dict[str, Any], limits: Limits, size: int) -> None:
        proposer = proposer_in(tmp_path, raw, sampler="known-cost", limits=limits)
        proposer.begin(proposer.study.trials())
        told = run_out(proposer)
        allowed = {p.key for p in proposer.space.placements() if proposer.over_limit(p) is None}
        others = {t.placement.key for t in told if t.role != "reference"}
        assert others <= allowed <= {t.placement.key for t in told}
        assert len(allowed) == size or limits != Limits()
        assert not [t for t in proposer.study.trials() if t.state == "rejected"]

    def test_two_at_a_time(self, tmp_path: Path) -> None:
        proposer = proposer_in(tmp_path, {"reductions": ["none", 16, 4]}, sampler="known-cost")
        running = [proposer.next(proposer.study.trials()), proposer.next(proposer.study.trials())]
        for _ in range(25):
            tell(proposer, running.pop(0))  # type: ignore[arg-type]
            running.append(proposer.next(proposer.study.trials()))
        assert len({t.placement.key for t in proposer.study.trials()}) == 27
        assert proposer.next(proposer.study.trials()) is None

    def test_of_four_to_the_ninth(self, tmp_path: Path) -> None:
        space = Space(read_space("blockwise"), units_of("resnet20"))
        costs = Pricing(CostModel(backbone_of("resnet20"), space.units, (1, 8, 8)))
        cost = costs.of_levels(space, ["gflops", "params"], Limits())
        table = costs.exact.table(space)
        levels = space.random_levels(random.Random(0))
        at = tuple(levels.values())
        assert cost(levels) == pytest.approx((table["gflops"][at], table["params"][at]))
        assert space.size == 4**9

    def test_measured_axes_are_as_predicted(self) -> None:
        class Predicted:
            known: ClassVar[dict[str, Any]] = {}

            def predict(self, placement: Placement) -> dict[str, CostValue]:
                slow = 0.0 if placement.label == "none" else 2.0
                return {"latency": CostValue(value=slow, unit="ms", kind="predicted", interval=(slow, slow + 1))}

        space = Space(read_space({"reductions": ["none", 16]}), UNITS)
        costs = Pricing(COSTS.exact, measurer=Predicted())  # type: ignore[arg-type]
        none, some = dict.fromkeys(space.parameters, 0), dict.fromkeys(space.parameters, 1)
        assert costs.of_levels(space, ["latency"], Limits())(some) == (2.0,)
        assert costs.of_levels(space, ["latency"], Limits(latency=2.5))(some) == (float("inf"),)
        assert costs.of_levels(space, ["latency"], Limits(latency=2.5))(none) == (0.0,)


class TestSamplers:
    @pytest.mark.parametrize("name", SAMPLERS)
    def test_same_seed_same_proposals(self, tmp_path: Path, name: str) -> None:
        runs = []
        for i in range(2):
            (tmp_path / str(i)).mkdir()
            proposer = proposer_in(tmp_path / str(i), {"reductions": ["none", 16, 8, 4]}, sampler=name)
            runs.append(
                [tell(proposer, t).placement.key for _ in range(8) if (t := proposer.next(proposer.study.trials()))]
            )
        assert runs[0] == runs[1]

    def test_exhaustive_goes_in_order(self, tmp_path: Path) -> None:
        proposer = proposer_in(tmp_path, sampler="exhaustive")
        assert [t.placement.key for t in run_out(proposer)] == [p.key for p in proposer.space.placements()]

    def test_population_leaves_room_for_generations(self) -> None:
        space = Space(read_space("stagewise"), UNITS)
        sampler = opened(Target(target="nsga2"), space, budget=50)
        assert isinstance(sampler, optuna.samplers.NSGAIISampler)
        assert sampler._population_size == 10

    def test_by_import_path_with_arguments(self) -> None:
        space = Space(read_space("stagewise"), UNITS)
        target = Target(target="optuna.samplers:TPESampler", args={"n_startup_trials": 3})
        sampler = opened(target, space, budget=50)
        assert isinstance(sampler, optuna.samplers.TPESampler)

    def test_wrong_ones_are_named(self) -> None:
        space = Space(read_space("stagewise"), UNITS)
        with pytest.raises(PluginError, match="unknown sampler 'nsga'") as caught:
            opened(Target(target="nsga"), space)
        assert "did you mean 'nsga2'?" in str(caught.value)
        with pytest.raises(PluginError, match="unexpected keyword argument 'sed'") as caught:
            opened(Target(target="tpe", args={"sed": 1}), space)
        assert "did you mean 'seed'?" in str(caught.value)


def test_a_sampler_that_repeats_itself_does_not_stop_the_search(tmp_path: Path) -> None:
    proposer = proposer_in(tmp_path, {"reductions": ["none", 16, 8, 4]})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        fixed = optuna.samplers.PartialFixedSampler(
            dict.fromkeys(proposer.space.parameters, 0), proposer.study.optuna.sampler
        )
    proposer.study.optuna.sampler = fixed
    told = [tell(proposer, t) for _ in range(6) if (t := proposer.next(proposer.study.trials()))]
    assert len({t.placement.key for t in told}) == 6
    rejected = [t for t in proposer.study.trials() if t.state == "rejected"]
    assert len(rejected) >= 5
