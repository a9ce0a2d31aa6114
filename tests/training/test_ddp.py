"""One candidate on several devices: the same result as on one, errors told, nothing left running."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import Recording, alive, descendants, identity, request, tiny, until
from safetensors.torch import load_file
from torch import nn

from se_nas.backbones.build import build_backbone
from se_nas.core.errors import ConfigError
from se_nas.core.files import weights_file
from se_nas.core.placement import Choice, Placement
from se_nas.core.trial import Recipe, Request, Target
from se_nas.data.shards import Rank, Share, devices_of
from se_nas.data.store import prepare_data, read_info
from se_nas.executors.local import LocalExecutor
from se_nas.insertion.discover import find_units
from se_nas.training.devices import choose_devices
from se_nas.training.evaluate import evaluate

PLAIN_NETWORK = '''
import time

from torch import nn
from torch.nn import functional


class Block(nn.Module):
    """Without BatchNorm, whose statistics would be those of a rank's share."""

    def __init__(self, channels):
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        return functional.relu(x + self.second(functional.relu(self.first(x))))


class Network(nn.Module):
    def __init__(self, num_classes, in_channels):
        super().__init__()
        self.stem = nn.Conv2d(in_channels, 8, 3, padding=1)
        self.blocks = nn.Sequential(Block(8), Block(8))
        self.head = nn.Linear(8, num_classes)
        self.unused = nn.Linear(3, 3)

    def forward(self, x):
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


class Hungry(Network):
    def forward(self, x):
        if self.training and len(x) > 16:
            raise MemoryError("too many images")
        return super().forward(x)


class Slow(Network):
    def forward(self, x):
        if self.training and len(x) > 1:
            time.sleep(0.4)
        return super().forward(x)


class Broken(Network):
    def forward(self, x):
        if self.training and len(x) == 32:
            raise ValueError("no such luck")
        return super().forward(x)
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    (folder / "plain_network.py").write_text(PLAIN_NETWORK)
    prepare_data(Target(target="digits"), folder)
    return folder


def running_ranks() -> list[int]:
    """Process numbers of the ranks that run now, rank 0 first."""
    commands = {pid: Path(f"/proc/{pid}/cmdline") for pid in sorted(descendants(os.getpid())) if alive(pid)}
    return [pid for pid, file in commands.items() if b"se_nas.training.ddp_worker" in file.read_bytes()]


def asking(folder: Path, device: str, *, name: str = "Network", trial: int = 0, **recipe: Any) -> Request:
    backbone = Target(target=f"{folder / 'plain_network.py'}:{name}")
    shape = read_info(folder).input_shape
    units = find_units(build_backbone(backbone, num_classes=10, input_shape=shape, seed=0), shape)
    placement = Placement(choices={units[0].name: Choice.se(8, 2.0)})
    how = Recipe(**{"epochs": 3, "batch_size": 64, "augment": "shift", **recipe})
    facts = identity(placement, recipe=how, epochs=how.epochs)
    return request(
        placement, trial=trial, units=units, identity=facts, backbone=backbone, folder=str(folder), device=device
    )


class TestShares:
    def test_together_are_the_batch(self) -> None:
        batches = [(torch.arange(12).reshape(6, 2), torch.arange(6)), (torch.arange(14).reshape(7, 2), torch.arange(7))]
        shares = [list(Share(batches, Rank(index=i, devices=("cpu",) * 3))) for i in range(3)]
        for number, (images, labels) in enumerate(batches):
            mine = [share[number] for share in shares]
            assert [len(part[1]) for part in mine] == [2, 2, 2]
            together = torch.cat([part[1] for part in mine]).sort()
            assert together.values.tolist() == labels[:6].tolist()
            assert torch.equal(torch.cat([part[0] for part in mine])[together.indices], images[:6])
        assert len(Share(batches, Rank(index=0, devices=("cpu", "cpu")))) == 2

    def test_of_a_batch_with_too_few_images_there_are_none(self) -> None:
        batches = [
            {"x": torch.zeros(1, 2), "more": [torch.zeros(1)]},
            {"x": torch.zeros(2, 2), "more": [torch.ones(2)]},
        ]
        share = list(Share(batches, Rank(index=1, devices=("cpu", "cpu"))))
        assert len(share) == 1
        assert share[0]["more"][0].tolist() == [1]


class TestDevices:
    def test_a_slot_has_several(self, tmp_path: Path) -> None:
        config = tiny(tmp_path, devices_per_trial=2, workers=3)
        assert choose_devices(config) == ("cpu,cpu",) * 3
        assert devices_of("cpu,cpu") == ("cpu", "cpu")
        cores = len(choose_devices(tiny(tmp_path)))
        assert len(choose_devices(tiny(tmp_path, devices_per_trial=2))) == max(1, cores // 2)

    def test_groups_of_gpus(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 5)
        config = tiny(tmp_path, device="cuda", devices_per_trial=2)
        assert choose_devices(config) == ("cuda:0,cuda:1", "cuda:2,cuda:3")
        with pytest.raises(ConfigError, match="devices_per_trial is 8, but there are 5 GPUs to use"):
            choose_devices(replace(config, devices_per_trial=8))

    def test_a_batch_must_come_out_even(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="batch_size is 63, which 2 devices cannot share out evenly"):
            tiny(tmp_path, devices_per_trial=2, train=Recipe(batch_size=63))
        with pytest.raises(ConfigError, match="devices_per_trial is 0"):
            tiny(tmp_path, devices_per_trial=0)


def test_two_ranks_equal_one_device(folder: Path) -> None:
    """The recipe augments and decays."""
    channel = Recording()
    alone = evaluate(asking(folder, "cpu", trial=1), Recording())
    together = evaluate(asking(folder, "cpu,cpu", trial=2), channel)
    assert not running_ranks()
    assert together.state == "complete", together.reason
    assert together.device.startswith("cpu,cpu (")
    assert [e.epoch for e in together.curve] == [1, 2, 3]
    assert channel.reports == [(e.epoch, e.metrics) for e in together.curve]
    for mine, theirs in zip(together.curve, alone.curve, strict=True):
        assert mine.metrics == pytest.approx(theirs.metrics, abs=2e-4)
    a, b = (load_file(weights_file(folder, trial)) for trial in (1, 2))
    assert a.keys() == b.keys()
    assert max(float((a[name] - b[name]).abs().max()) for name in a) < 1e-4


@pytest.mark.slow
class TestTrouble:
    def test_a_worker_process_may_have_ranks(self, folder: Path) -> None:
        """It is a daemon, and may have no children of its own kind."""
        executor = LocalExecutor(("cpu,cpu",))
        try:
            result = executor.submit(evaluate, asking(folder, "cpu", trial=6), Recording().report).result(timeout=300)
        finally:
            executor.shutdown()
        assert result.state == "complete", result.reason

    def test_memory_that_does_not_do_cuts_the_batch(self, folder: Path) -> None:
        """The network has memory for 16 images only: two ranks with 32 images each cut their batch in two."""
        result = evaluate(asking(folder, "cpu,cpu", name="Hungry", trial=7), Recording())
        assert result.state == "complete", result.reason
        assert len(result.notes) == 1
        assert "out of memory: batches of 32 with gradients of 2 added up" in result.notes[0]

    def test_stop_stops_all_ranks(self, folder: Path) -> None:
        result = evaluate(asking(folder, "cpu,cpu", trial=3), Recording(stop_after=2))
        assert (result.state, len(result.curve)) == ("stopped", 2)

    def test_signs_of_life_between_epochs(self, folder: Path) -> None:
        class Lively(Recording):
            def __init__(self) -> None:
                super().__init__()
                self.signs: list[Mapping[str, float]] = []

            def alive(self, seen: Mapping[str, float]) -> None:
                self.signs.append(seen)

        channel = Lively()
        result = evaluate(asking(folder, "cpu,cpu", name="Slow", trial=8, epochs=1, batch_size=128), channel)
        assert result.state == "complete", result.reason
        assert 2 <= len(channel.signs) <= result.seconds  # nine batches take 3.6 s at least
        assert all(seen["epoch"] == 1 and 1 <= seen["batch"] <= seen["batches"] for seen in channel.signs)
        assert [epoch for epoch, _ in channel.reports] == [1]

    def test_an_error_of_the_network_is_the_reason(self, folder: Path) -> None:
        result = evaluate(asking(folder, "cpu,cpu", name="Broken", trial=4), Recording())
        assert result.state == "failed"
        assert result.reason == "ValueError: no such luck"
        assert not running_ranks()

    def test_a_rank_that_dies_ends_the_others(self, folder: Path) -> None:
        class Killing(Recording):
            def report(self, epoch: int, metrics: Any) -> Any:
                self.killed = running_ranks()
                os.kill(self.killed[1], 9)
                return super().report(epoch, metrics)

        channel = Killing()
        result = evaluate(asking(folder, "cpu,cpu", trial=5), channel)
        assert result.state == "failed"
        assert result.reason.startswith("rank 1 of 2 ended with exit code -9")
        until(lambda: not any(alive(pid) for pid in channel.killed), timeout=20, what="the ranks' end")


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_batchnorm_sees_the_whole_batch(folder: Path) -> None:
    """Not run so far: no machine with two GPUs was at hand."""
    backbone = Target(target="resnet8")
    units = find_units(build_backbone(backbone, num_classes=10, input_shape=(1, 8, 8), seed=0), (1, 8, 8))
    placement = Placement(choices={unit.name: Choice.se(unit.sites[0].channels, 4.0) for unit in units})
    how = Recipe(epochs=1, batch_size=64, precision="32")
    results = []
    for device in ("cuda:0", "cuda:0,cuda:1"):
        facts = identity(placement, recipe=how, epochs=1)
        asked = request(placement, units=units, identity=facts, backbone=backbone, folder=str(folder), device=device)
        results.append(evaluate(asked, Recording()))
    assert results[1].state == "complete", results[1].reason
    assert results[1].curve[0].metrics["val_loss"] == pytest.approx(results[0].curve[0].metrics["val_loss"], rel=0.02)


def test_synchronized_batchnorm_keeps_the_se_blocks() -> None:
    from se_nas.insertion.insert import build_candidate
    from se_nas.training.ddp import synchronized

    backbone = Target(target="resnet8")
    units = find_units(build_backbone(backbone, num_classes=10, input_shape=(1, 8, 8), seed=0), (1, 8, 8))
    placement = Placement(choices={unit.name: Choice.se(unit.sites[0].channels, 4.0) for unit in units})
    networks = [
        build_candidate(backbone, units, placement, num_classes=10, input_shape=(1, 8, 8), seed=0, prepare=prepare)
        for prepare in (lambda backbone: backbone, synchronized)
    ]
    images = torch.randn(4, 1, 8, 8)
    a, b = (network.eval()(images) for network in networks)
    assert torch.equal(a, b)
    assert any(isinstance(m, nn.SyncBatchNorm) for m in networks[1].modules())
    assert networks[0].state_dict().keys() == networks[1].state_dict().keys()
