"""Latency of a whole space from few measurements: against additive latencies that are known by construction."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest

from se_nas.core.placement import Placement, Site, Unit
from se_nas.core.trial import CostValue
from se_nas.space import stopwatch
from se_nas.space.latency_fit import HeldOut, LatencyFit
from se_nas.space.latency_model import MOST, LatencyModel, Terms, Z, plan_measurements
from se_nas.space.space import Space
from se_nas.space.spec import read_space
from se_nas.space.stopwatch import compare, conditions

SIZES = {16: (8, 8), 32: (4, 4), 64: (2, 2)}


def unit(name: str, stage: str, channels: int) -> Unit:
    site = Site(unit=name, position="standard", module=name, channels=channels, size=SIZES[channels])
    return Unit(name=name, stage=stage, sites=(site,))


UNITS = tuple(unit(f"{stage}.{i}", stage, c) for stage, c in (("a", 16), ("b", 32), ("c", 64)) for i in range(3))
SPACE = Space(read_space({"decide": "unit", "reductions": ["none", 16, 8, 4]}), UNITS)


def truth(seed: int) -> Callable[[Placement], float]:
    """A ratio for each placement: 1, and a term for each kind of block, whatever unit it is in."""
    generator = np.random.default_rng(seed)
    terms = {(c, width): 0.02 + 0.02 * generator.random() for c in SIZES for width in range(1, 17)}
    channels = {u.name: u.sites[0].channels for u in UNITS}

    def ratio(placement: Placement) -> float:
        return 1 + sum(terms[channels[n], c.squeeze_channels] for n, c in placement.choices.items() if c.kind == "se")

    return ratio


def fitted(ratio: Callable[[Placement], float], noise: float, seed: int = 0) -> tuple[LatencyModel, set[str]]:
    generator = np.random.default_rng(seed)
    plan = plan_measurements(SPACE, terms := Terms(SPACE))
    placements = [p.placement for p in plan if not p.held_out]
    model = LatencyModel(terms, placements, [ratio(p) * (1 + noise * generator.normal()) for p in placements])
    return model, {p.placement.key for p in plan}


def others(known: set[str], number: int = 100) -> list[Placement]:
    draw = random.Random(7)
    drawn = (SPACE.placement(SPACE.random_levels(draw)) for _ in range(2 * number))
    return [p for p in drawn if p.key not in known][:number]


class TestModel:
    def test_additive_latencies_are_recovered(self) -> None:
        ratio = truth(0)
        model, known = fitted(ratio, noise=0.0)
        for placement in others(known):
            assert model.predict(placement)[0] == pytest.approx(ratio(placement), rel=0.005)

    def test_equal_sites_share_their_terms(self) -> None:
        assert len(Terms(SPACE).classes) == 3
        assert len(Terms(SPACE).terms) == 9
        model, _ = fitted(truth(0), noise=0.01)
        one, two = (model.predict(SPACE.parse(f"b.{i}=8"))[0] for i in (0, 2))
        assert one == two

    def test_no_block_takes_no_time(self) -> None:
        model, _ = fitted(truth(1), noise=0.01)
        assert model.predict(SPACE.baseline)[0] == 1.0

    def test_intervals_cover(self) -> None:
        """Of placements that were not measured, 90 % of what would be measured lies in the interval."""
        hits, generator = [], np.random.default_rng(1)
        for seed in range(8):
            ratio = truth(seed)
            model, known = fitted(ratio, noise=0.01, seed=seed)
            for placement in others(known, 50):
                value, sd = model.predict(placement)
                hits.append(abs(ratio(placement) * (1 + 0.01 * generator.normal()) - value) <= Z * sd)
        assert 0.83 <= np.mean(hits) <= 0.99

    def test_noise_widens_the_interval(self) -> None:
        quiet, loud = (fitted(truth(0), noise=noise)[0].predict(SPACE.reference)[1] for noise in (0.001, 0.05))
        assert loud > 3 * quiet

    def test_an_uncertain_measurement_counts_less(self) -> None:
        """One of the ratios was measured while the machine did something else, and says so."""
        ratio, plan = truth(0), plan_measurements(SPACE, terms := Terms(SPACE))
        placements = [p.placement for p in plan if not p.held_out]
        ratios = [ratio(p) for p in placements]
        ratios[3] = 3.0
        noises = [0.001] * len(ratios)
        blind = LatencyModel(terms, placements, ratios, noises)
        told = LatencyModel(terms, placements, ratios, [*noises[:3], 1.0, *noises[4:]])
        wrong = [max(abs(m.predict(p)[0] / ratio(p) - 1) for p in others(set())) for m in (told, blind)]
        assert wrong[0] < 0.01 < wrong[1]

    def test_a_block_of_no_known_kind_is_less_certain(self) -> None:
        model, _ = fitted(truth(0), noise=0.001)
        foreign, known = SPACE.parse("b.0=5"), SPACE.parse("b.0=4")
        assert model.predict(foreign)[1] > 2 * model.predict(known)[1]
        assert model.predict(foreign)[0] == pytest.approx(1.03, abs=0.02)


class TestPlan:
    def test_what_tests_the_model_does_not_enter_it(self) -> None:
        plan = plan_measurements(SPACE, Terms(SPACE))
        keys = [p.placement.key for p in plan]
        assert len(set(keys)) == len(keys) <= MOST + 10
        assert SPACE.baseline.key not in keys
        assert plan[0].placement.key == SPACE.reference.key
        assert 3 <= sum(p.held_out for p in plan) <= len(plan) / 3
        assert [p.placement.key for p in plan_measurements(SPACE, Terms(SPACE))] == keys

    def test_every_beginning_sees_every_stage(self) -> None:
        first = [p.placement for p in plan_measurements(SPACE, Terms(SPACE)) if not p.held_out][:4]
        rows = np.array([Terms(SPACE).row(p)[0][3:6] for p in first])
        assert np.linalg.matrix_rank(rows) == 3

    def test_a_small_space_keeps_some_out(self) -> None:
        space = Space(read_space({"reductions": ["none", 8]}), UNITS)
        plan = plan_measurements(space, Terms(space))
        assert {p.placement.key for p in plan} <= {p.key for p in (*space.placements(), space.reference)}
        assert 1 <= sum(p.held_out for p in plan) < len(plan) / 2


class TestFit:
    def held(self, predicted: float, value: float, low: float, high: float) -> HeldOut:
        measured = CostValue(value=value, unit="ms", kind="measured", interval=(low, high))
        return HeldOut(key="k", placement="p", predicted=predicted, interval=(0.0, 9.0), measured=measured)

    def test_good_is_within_three_percent_or_the_noise(self) -> None:
        assert self.held(1.029, 1.0, 0.99, 1.01).good
        assert not self.held(1.031, 1.0, 0.99, 1.01).good
        assert self.held(1.2, 1.0, 0.7, 1.3).good

    def test_text_has_the_errors(self) -> None:
        fit = LatencyFit(
            name="latency@onnxruntime", conditions="onnxruntime 1.32.0 (CPU), batch 1, 1 thread, cpu", terms=9,
            base=CostValue(value=2.0, unit="ms", kind="measured", interval=(1.9, 2.1)), fitted=("a", "b"),
            held_out=(self.held(1.01, 1.0, 0.99, 1.01), self.held(1.1, 1.0, 0.99, 1.01)), seconds=65.0,
        )  # fmt: skip
        assert fit.text == (
            "latency@onnxruntime (onnxruntime 1.32.0 (CPU), batch 1, 1 thread, cpu): the backbone takes 2 ms "
            "(90 % interval 1.9 to 2.1). Other placements are predicted: 9 kinds of SE block, fitted on 2 "
            "placements in 1 min 05 s. Tested on other placements that were measured: 1 of 2 within 3 % or the "
            "noise of the measurement; median error 5.5 %, largest 10.0 %."
        )


class Machine:
    """A clock, and networks that take so many seconds of it on a machine that gets slower and slower."""

    def __init__(self, slower: float) -> None:
        self.now, self.slower = 0.0, slower

    def network(self, seconds: float) -> Callable[[], object]:
        def call() -> None:
            self.now += seconds * (1 + self.slower * self.now)

        return call


class TestCompare:
    def test_a_machine_that_slows_down_changes_no_ratio(self) -> None:
        machine = Machine(slower=0.5)
        seen = compare(machine.network(0.01), machine.network(0.013), clock=lambda: machine.now, rounds=(40, 40))
        assert seen.ratio == pytest.approx(1.3, rel=0.005)
        assert seen.interval[0] <= seen.ratio <= seen.interval[1]
        assert seen.rounds == 40
        assert machine.now > 1.2  # it is slower by half at the end
        assert seen.seconds > 0.012

    @pytest.mark.parametrize(("seconds", "rounds"), [(0.05, 31), (0.01, 50), (0.0001, 101)])
    def test_how_often(self, seconds: float, rounds: int) -> None:
        machine = Machine(slower=0.0)
        call = machine.network(seconds)
        assert compare(call, call, clock=lambda: machine.now).rounds == rounds
        assert stopwatch.ROUNDS == (31, 101)


def test_conditions_have_batch_and_threads() -> None:
    assert conditions("torch 2.14.1", batch=8, threads=2) == "torch 2.14.1, batch 8, 2 threads, cpu"
    assert conditions("torch 2.14.1", batch=1, threads=None, device="cuda") == "torch 2.14.1, batch 1, cuda"
