"""How many trainings share a device: from memory, utilisation and cores, and as the configuration says."""

from __future__ import annotations

import math
import time
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pytorch_lightning.strategies import SingleDeviceStrategy

from se_nas.core.config import SearchConfig
from se_nas.core.errors import ConfigError
from se_nas.data import accelerators as kinds
from se_nas.data.accelerators import (
    accelerators,
    free_memory,
    name_of,
    random_states,
    set_random_states,
    synchronize,
)
from se_nas.training import devices as slots
from se_nas.training.any_accelerator import AnyAccelerator, on_one_device
from se_nas.training.devices import CONTEXT_BYTES, Need, choose_devices, measure_need, trainings_at_once

GIB = 2**30


class TestHowMany:
    @pytest.mark.parametrize(
        ("memory", "utilisation", "free", "cores", "expected"),
        [
            (2, 0.3, 140, 16, 4),  # by time
            (2, 0.96, 140, 16, 1),  # busy already
            (2, 0.5, 140, 16, 2),
            (2, 0.0, 140, 16, 16),  # by cores
            (2, 0.1, 140, 3, 3),
            (40, 0.1, 140, 16, 3),  # by memory: 90 % of it
            (200, 0.1, 140, 16, 1),  # it may halve its batch
            (2, None, 140, 16, 2),  # nothing is known
            (2, None, 2, 16, 1),
        ],
    )
    def test_by_hand(self, memory: int, utilisation: float | None, free: int, cores: int, expected: int) -> None:
        need = Need(memory=memory * GIB, utilisation=utilisation)
        assert trainings_at_once(need, free=free * GIB, cores=cores) == expected

    @given(
        memory=st.integers(GIB, 200 * GIB),
        utilisation=st.none() | st.floats(0, 1),
        free=st.integers(GIB, 200 * GIB),
        cores=st.integers(1, 256),
    )
    def test_never_more_than_there_is(self, memory: int, utilisation: float | None, free: int, cores: int) -> None:
        number = trainings_at_once(Need(memory=memory, utilisation=utilisation), free=free, cores=cores)
        assert 1 <= number <= cores
        assert number == 1 or number * memory <= free
        if utilisation:
            assert number <= math.ceil(1 / utilisation)


class TestMeasured:
    def test_peak_with_context_and_the_later_samples(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(slots, "SAMPLE_SECONDS", 0.01)
        monkeypatch.setattr(slots, "MEASURED_SECONDS", 0.3)
        called: list[int] = []
        start = time.perf_counter()

        def steps(number: int) -> None:
            called.append(number)
            time.sleep(number * 0.01)

        def utilisation() -> float:
            return 0.0 if time.perf_counter() - start < 0.25 else 0.4

        need = measure_need(steps, peak=lambda: 3 * GIB, utilisation=utilisation)
        assert need.memory == 3 * GIB + CONTEXT_BYTES
        assert need.utilisation == pytest.approx(0.4)
        assert called[:2] == [10, 10]
        assert 20 <= called[2] <= 30

    def test_utilisation_that_cannot_be_read(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(slots, "MEASURED_SECONDS", 0.01)
        need = measure_need(
            lambda number: None, peak=lambda: GIB, utilisation=lambda: None, clock=iter([0, 1]).__next__
        )
        assert need.utilisation is None

    def test_no_nvml(self) -> None:
        if torch.cuda.is_available():
            pytest.skip("there is a GPU")
        assert slots.gpu_utilisation(torch.device("cuda:0")) is None


class TestDevices:
    @pytest.fixture
    def two_gpus(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)

    def devices(self, at_once: int = 3, **settings: Any) -> tuple[str, ...]:
        return choose_devices(SearchConfig(**settings), lambda gpu: at_once)

    def test_gpus_take_as_many_as_they_can(self, two_gpus: None) -> None:
        assert self.devices() == ("cuda:0", "cuda:1") * 3
        assert self.devices(device="cuda:1") == ("cuda:1",) * 3
        assert choose_devices(SearchConfig()) == ("cuda:0", "cuda:1")

    def test_as_the_configuration_says(self, two_gpus: None) -> None:
        def unasked(gpu: str) -> int:
            raise AssertionError("nothing needs to be measured")

        assert choose_devices(SearchConfig(trials_per_device=2), unasked) == ("cuda:0", "cuda:1") * 2
        assert choose_devices(SearchConfig(workers=3), unasked) == ("cuda:0", "cuda:1", "cuda:0")
        assert choose_devices(SearchConfig(workers=3, trials_per_device=2), unasked) == ("cuda:0", "cuda:1", "cuda:0")

    def test_contradictions_are_refused(self, two_gpus: None) -> None:
        with pytest.raises(ConfigError, match="workers is 5, but trials_per_device is 2 on 2 devices"):
            self.devices(workers=5, trials_per_device=2)

    @pytest.fixture(params=["mps", "xpu", "npu"])
    def other(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
        """A machine with two devices of another kind."""
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        device = SimpleNamespace(type=request.param)
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: device)
        monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
        kind: str = request.param
        return kind

    def test_accelerators_of_any_kind(self, other: str) -> None:
        assert accelerators() == (f"{other}:0", f"{other}:1")
        assert self.devices(at_once=1) == (f"{other}:0", f"{other}:1")
        assert self.devices(at_once=1, device=other) == (f"{other}:0", f"{other}:1")
        assert self.devices(at_once=1, device=f"{other}:1", workers=2) == (f"{other}:1",) * 2
        assert set(self.devices(device="cpu")) == {"cpu"}

    def test_one_that_is_not_there(self, other: str) -> None:
        with pytest.raises(ConfigError, match=f"device is 'cuda', but there are 2 accelerators: {other}:0, {other}:1"):
            self.devices(device="cuda")
        with pytest.raises(ConfigError, match=f"device is '{other}:2', but there are 2 accelerators"):
            self.devices(device=f"{other}:2")

    def test_several_devices_for_one_candidate_are_cuda_gpus_or_cpus(self, other: str) -> None:
        with pytest.raises(ConfigError, match=f"devices_per_trial is 2, but '{other}:0' cannot share out a training"):
            self.devices(devices_per_trial=2)

    def test_no_accelerator(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: None)
        assert accelerators() == ()
        assert set(self.devices()) == {"cpu"}
        with pytest.raises(ConfigError, match="device is 'mps', but there are 0 GPUs or other accelerators") as caught:
            self.devices(device="mps")
        assert caught.value.allowed == ("auto", "cpu")

    def test_a_cpu_has_one_for_each_core(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(slots, "cores", lambda: 4)
        assert self.devices(device="cpu") == ("cpu",) * 4
        assert self.devices(device="cpu", trials_per_device=2) == ("cpu",) * 2
        assert self.devices(device="cpu", workers=3) == ("cpu",) * 3

    @pytest.mark.parametrize("wrong", [{"trials_per_device": 0}, {"checkpoint_minutes": -1.0}])
    def test_wrong_settings(self, wrong: dict[str, Any]) -> None:
        (name,) = wrong
        with pytest.raises(ConfigError, match=f"{name} is "):
            SearchConfig(**wrong)


class TestAnyKind:
    """What is asked of a device that may not know the answer; a CPU stands for one that knows nothing."""

    def test_what_a_device_does_not_tell_is_none(self) -> None:
        meta = torch.device("meta")
        assert free_memory(meta) is None
        assert name_of(meta) is None
        synchronize(torch.device("cpu"))

    def test_random_states_are_put_back_device_by_device(self, monkeypatch: pytest.MonkeyPatch) -> None:
        states = {0: torch.tensor([1]), 1: torch.tensor([2])}
        module = SimpleNamespace(
            get_rng_state_all=lambda: list(states.values()),
            set_rng_state_all=None,
            set_rng_state=lambda state, index: states.__setitem__(index, state),
        )
        monkeypatch.setattr(kinds, "accelerators", lambda: ("xpu:0", "xpu:1"))
        monkeypatch.setattr(torch, "get_device_module", lambda device: module)
        kind, kept = random_states()
        assert (kind, [state.item() for state in kept]) == ("xpu", [1, 2])
        set_random_states("xpu", [torch.tensor([8]), torch.tensor([9]), torch.tensor([10])])
        assert [state.item() for state in states.values()] == [8, 9]
        set_random_states("cuda", [torch.tensor([7])])  # of another machine
        assert [state.item() for state in states.values()] == [8, 9]

    def test_lightning_trains_on_kinds_that_it_does_not_know(self) -> None:
        assert on_one_device(torch.device("mps:0")) == {"accelerator": "mps", "devices": 1}
        assert on_one_device(torch.device("cuda:1")) == {"accelerator": "gpu", "devices": [1]}
        strategy = on_one_device(torch.device("xpu:1"))["strategy"]
        assert (strategy.root_device, type(strategy.accelerator)) == (torch.device("xpu:1"), AnyAccelerator)

    def test_a_training_with_such_an_accelerator(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
        """The same weights as by Lightning's own way to the same device."""
        from helpers import tiny

        from se_nas.commands.search import search
        from se_nas.training import trainer

        for name in "ab":
            (tmp_path / name).mkdir()
        plain = search(tiny(tmp_path / "a", budget=2))
        as_any = lambda device: {"strategy": SingleDeviceStrategy(device, accelerator=AnyAccelerator())}  # noqa: E731
        monkeypatch.setattr(trainer, "on_one_device", as_any)
        monkeypatch.setattr(AnyAccelerator, "is_available", staticmethod(lambda: True))
        other = search(tiny(tmp_path / "b", budget=2))
        first, second = (pd.read_csv(found.folder / "trials.csv")["val_accuracy"] for found in (plain, other))
        assert len(first) == 2
        assert first.equals(second)


@pytest.mark.gpu
def test_a_search_shares_a_gpu(tmp_path: Any) -> None:
    from helpers import tiny

    from se_nas.core.trial import Target
    from se_nas.engine.problem import prepare

    config = tiny(tmp_path, device="cuda:0", executor=Target(target="local"))
    assert set(prepare(config, tmp_path / "run").devices) == {"cuda:0"}
