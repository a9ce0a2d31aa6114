"""Measured costs: against networks whose latency and memory are known by construction."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from se_nas.core.config import Limits
from se_nas.core.errors import CostError
from se_nas.core.placement import Placement, Site, Unit
from se_nas.core.trial import CostValue
from se_nas.space import measured_cost, stopwatch
from se_nas.space.exact_cost import CostModel
from se_nas.space.measured_cost import Measurer
from se_nas.space.peak_memory import peak_memory
from se_nas.space.pricing import Pricing, open_costs
from se_nas.space.space import Space
from se_nas.space.spec import read_space
from se_nas.space.stopwatch import Call, Runtime, median_interval

SHAPE = (8, 4, 4)
SLOW = 0.004
"""Seconds that each SE block takes in these networks."""


def unit(name: str, stage: str) -> Unit:
    return Unit(
        name=name, stage=stage, sites=(Site(unit=name, position="standard", module=name, channels=8, size=(4, 4)),)
    )


UNITS = (unit("a", "stage1"), unit("b", "stage1"), unit("c", "stage2"))


class Sleeper(nn.Module):
    """Takes 4 ms, and `SLOW` more for each SE block."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.seconds = 0.004 + SLOW * blocks

    def forward(self, images: Tensor) -> Tensor:
        time.sleep(self.seconds)
        return images


def build(placement: Placement) -> nn.Module:
    return Sleeper(sum(choice.kind == "se" for choice in placement.choices.values()))


@pytest.fixture(scope="module", autouse=True)
def few_rounds() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stopwatch, "ROUNDS", (9, 9))
        yield


@pytest.fixture(scope="module")
def space() -> Space:
    return Space(read_space({"reductions": ["none", 8, 4, 2, 1]}), UNITS)


@pytest.fixture(scope="module")
def measurer(space: Space) -> Measurer:
    made = Measurer(build, space, input_shape=SHAPE, device=torch.device("cpu"))
    made.calibrate()
    return made


class TestLatency:
    def test_measured_beside_the_backbone(self, space: Space, measurer: Measurer) -> None:
        base = measurer.measure(space.baseline)["latency"]
        full = measurer.measure(space.reference)["latency"]
        assert base.kind == full.kind == "measured"
        assert base.unit == full.unit == "ms"
        assert full.value - base.value == pytest.approx(3 * 1000 * SLOW, rel=0.25)
        for cost in (base, full):
            assert cost.interval is not None
            assert cost.interval[0] <= cost.value <= cost.interval[1]

    def test_what_was_not_measured_is_predicted(self, space: Space, measurer: Measurer) -> None:
        placement = next(p for p in space.placements() if p.key not in measurer.known)
        blocks = sum(choice.kind == "se" for choice in placement.choices.values())
        predicted = measurer.predict(placement)["latency"]
        assert predicted.kind == "predicted"
        assert predicted.interval is not None
        assert predicted.interval[0] < predicted.value < predicted.interval[1]
        assert predicted.value == pytest.approx(4 + blocks * 1000 * SLOW, rel=0.25)

    def test_measured_once_per_key(self, space: Space, measurer: Measurer) -> None:
        first = measurer.measure(space.reference)
        assert measurer.measure(space.reference) is first
        assert measurer.predict(space.reference) is first


class Counting:
    """A runtime that counts the networks that it opens."""

    def __init__(self, description: str = "counter 1") -> None:
        self.opened = 0
        self.runtime = Runtime(name="counter", description=description, open=self._open)

    def _open(self, network: nn.Module, images: Tensor) -> Call:
        self.opened += 1
        return lambda: network(images)


class TestGoingOn:
    """What was measured before is not measured again, as long as it was measured in the same way."""

    NAME = "latency@counter"

    def pricing(self, space: Space, folder: Path, counting: Counting, **more: object) -> Pricing:
        model = nn.Sequential()
        for one in UNITS:
            model.add_module(one.name, nn.Conv2d(8, 8, 1))
        measurer = Measurer(
            build, space, input_shape=SHAPE, device=torch.device("cpu"), memory=False,
            runtimes={self.NAME: counting.runtime}, **more,
        )  # fmt: skip
        return Pricing(CostModel(model, UNITS, SHAPE), measurer=measurer, cache=folder / "measured.json")

    def test_nothing_is_measured_twice(self, space: Space, tmp_path: Path) -> None:
        counting = Counting()
        first = self.pricing(space, tmp_path, counting)
        first.prepare()
        assert counting.opened > 8
        assert first.measurer.plans == []
        again = Counting()
        second = self.pricing(space, tmp_path, again)
        second.prepare()
        assert again.opened == 0
        assert {p.key: second(p)[self.NAME] for p in space.placements()} == {
            p.key: first(p)[self.NAME] for p in space.placements()
        }
        assert second.fits == first.fits

    @pytest.mark.parametrize(("description", "more"), [("counter 2", {}), ("counter 1", {"threads": 2}), ("counter 1",
                             {"batch": 2})])  # fmt: skip
    def test_another_way_of_measuring_starts_anew(
        self, space: Space, tmp_path: Path, description: str, more: dict[str, int]
    ) -> None:
        self.pricing(space, tmp_path, Counting()).settle([space.baseline])
        again = Counting(description)
        second = self.pricing(space, tmp_path, again, **more)
        assert self.NAME not in second(space.baseline)
        found = second.settle([space.baseline])
        assert again.opened == 1
        threads = more.get("threads", 1)
        assert found[space.baseline.key][self.NAME].conditions == (
            f"{description}, batch {more.get('batch', 1)}, {threads} thread{'s' * (threads > 1)}, cpu"
        )

    def test_values_of_version_0_1_hold(self, space: Space, tmp_path: Path) -> None:
        """They do not say how they were measured, and may be of placements that nobody measures now."""
        old = b'{"value": 5.0, "unit": "ms", "kind": "measured", "interval": [4.0, 6.0]}'
        (tmp_path / "measured.json").write_bytes(b'{"%s": {"latency": %s}}' % (space.baseline.key.encode(), old))
        measurer = Measurer(build, space, input_shape=SHAPE, device=torch.device("cpu"), memory=False)
        pricing = Pricing(TestPricing().pricing(space).exact, measurer=measurer, cache=tmp_path / "measured.json")
        assert pricing(space.baseline)["latency"].value == 5.0
        pricing.settle([space.reference])
        ratio = pricing(space.reference)["latency"].value / 5.0
        assert ratio == pytest.approx((0.004 + 3 * SLOW) / 0.004, rel=0.25)
        pricing.prepare()
        assert pricing.fits["latency"].text.startswith("latency (torch ")
        again = Measurer(build, space, input_shape=SHAPE, device=torch.device("cpu"), memory=False)
        assert Pricing(pricing.exact, measurer=again, cache=tmp_path / "measured.json").to_measure == []

    def test_the_time_is_bounded(self, space: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(measured_cost, "TIME", 0.0)
        counting = Counting()
        pricing = self.pricing(space, tmp_path, counting)
        assert "0 s at most" in pricing.to_measure[0]
        pricing.prepare()
        assert counting.opened == 1 + measured_cost.AT_LEAST
        fit = pricing.fits[self.NAME]
        assert len(fit.fitted) + len(fit.held_out) == measured_cost.AT_LEAST
        low, high = pricing(space.placement(dict.fromkeys(space.parameters, 3)))[self.NAME].interval
        assert low < high


class TestMedianInterval:
    def test_covers_the_median(self) -> None:
        generator = np.random.default_rng(0)
        hits = 0
        for _ in range(400):
            low, high = median_interval(generator.exponential(size=31).tolist())
            hits += low <= np.log(2) <= high
        assert 0.86 <= hits / 400 <= 0.98

    @given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60))
    def test_holds_the_sample_median(self, values: list[float]) -> None:
        low, high = median_interval(values)
        assert low <= np.median(values) <= high


class TestMemory:
    def test_weights_input_and_the_largest_moment(self) -> None:
        network = nn.Sequential(nn.Linear(16, 64, bias=False), nn.Linear(64, 4, bias=False))
        images = torch.zeros(2, 16)
        weights = 4 * (16 * 64 + 64 * 4)
        assert peak_memory(network, images) == weights + 4 * (2 * 16) + 4 * (2 * 64 + 2 * 4)

    def test_what_is_freed_does_not_count(self) -> None:
        network = nn.Sequential(*(nn.ReLU() for _ in range(10)))
        images = torch.zeros(1, 1000)
        assert peak_memory(network, images) == 4 * 1000 * 3


class Energy:
    name, unit, exact = "energy", "J", True

    def measure(self, candidate: nn.Module, input_shape: tuple[int, ...]) -> CostValue:
        return CostValue(value=1000 * candidate.seconds, unit=self.unit)


class Guess(Energy):
    exact = False


class TestPricing:
    def pricing(self, space: Space, cache: Path | None = None, **more: object) -> Pricing:
        model = nn.Sequential()
        for one in UNITS:
            model.add_module(one.name, nn.Conv2d(8, 8, 1))
        measurer = Measurer(build, space, input_shape=SHAPE, device=torch.device("cpu"))
        return Pricing(
            CostModel(model, UNITS, SHAPE), measurer=measurer, build=build, input_shape=SHAPE, cache=cache, **more
        )

    def test_an_interval_counts_with_its_upper_end(self, space: Space) -> None:
        pricing = self.pricing(space)
        cost = CostValue(value=5.0, unit="ms", kind="predicted", interval=(4.0, 6.0))
        pricing.measurer.known[space.baseline.key] = {"latency": cost, "memory": replace(cost, unit="MiB")}
        assert pricing.over_limit(space.baseline, Limits(latency=5.5)) == "latency 6 is over the limit 5.5 ms"
        assert pricing.over_limit(space.baseline, Limits(latency=6.5)) is None

    def test_exact_limits_need_no_measurement(self, space: Space) -> None:
        pricing = self.pricing(space)
        params = pricing.exact(space.baseline).params
        assert pricing.over_limit(space.baseline, Limits(params=params)) is None
        assert "params" in str(pricing.over_limit(space.reference, Limits(params=params)))

    def test_own_costs_are_values_and_limits(self, space: Space) -> None:
        pricing = self.pricing(space, own=(Energy(),))
        pricing.prepare()
        assert pricing(space.baseline)["energy"].value == 4.0
        assert (
            pricing.over_limit(space.reference, Limits(own={"energy": 5.0}))
            == f"energy {4 + 3 * 1000 * SLOW:g} is over the limit 5"
        )

    def test_measurements_are_kept(self, space: Space, tmp_path: Path) -> None:
        first = self.pricing(space, tmp_path / "measured.json")
        first.settle([space.baseline])
        second = self.pricing(space, tmp_path / "measured.json")
        assert second.measurer.known == first.measurer.known
        assert space.baseline.key in second.measurer.known

    def test_own_measured_costs_are_refused(self) -> None:
        assert [cost.name for cost in open_costs([f"{__file__}:Energy"])] == ["energy"]
        with pytest.raises(CostError, match="is measured, not exact"):
            open_costs([f"{__file__}:Guess"])
