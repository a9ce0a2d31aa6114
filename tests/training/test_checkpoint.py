"""Checkpoints inside a training: bit-equal continuation, what is ignored, and kills of worker and driver."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import Recording, environment, identity, in_time, request, tiny, until
from safetensors.torch import load_file

from se_nas.commands.search import search
from se_nas.core.files import weights_file
from se_nas.core.placement import Placement
from se_nas.core.trial import Recipe, Request, Target, Verdict
from se_nas.data.store import prepare_data
from se_nas.engine.run_folder import RunFolder
from se_nas.engine.study import Study
from se_nas.executors.local import LocalExecutor
from se_nas.executors.slots import WorkerDiedError
from se_nas.training.evaluate import evaluate

PLACEMENT = Placement(choices={})
RECIPE = Recipe(epochs=4, batch_size=128, augment="shift-flip")

# A network with dropout, whose masks come from torch's global stream.
NETWORK = """
from torch import nn

def net(num_classes, in_channels=1):
    return nn.Sequential(nn.Conv2d(in_channels, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5),
                         nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, num_classes))
"""

# Batches in an order from torch's global stream.
MODULE = """
import numpy as np
import pytorch_lightning as pl
import torch
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, Subset, TensorDataset

class Data(pl.LightningDataModule):
    num_classes = 10

    def setup(self, stage):
        x, y = load_digits(return_X_y=True)
        x = torch.tensor(x.reshape(-1, 1, 8, 8) / 16, dtype=torch.float32)
        whole = TensorDataset(x, torch.tensor(y))
        self.parts = [Subset(whole, range(400)), Subset(whole, range(400, 600))]

    def train_dataloader(self):
        return DataLoader(self.parts[0], batch_size=50, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.parts[1], batch_size=100)
"""


@pytest.fixture(params=["arrays", "module"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    (tmp_path / "net.py").write_text(NETWORK)
    (tmp_path / "data.py").write_text(MODULE)
    target = "digits" if request.param == "arrays" else f"{tmp_path / 'data.py'}:Data"
    prepare_data(Target(target=target), tmp_path)
    return tmp_path


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    (tmp_path / "net.py").write_text(NETWORK)
    prepare_data(Target(target="digits"), tmp_path)
    return tmp_path


def asking(folder: Path, **changes: Any) -> Request:
    recipe = changes.pop("recipe", RECIPE)
    return request(
        PLACEMENT,
        units=(),
        identity=identity(PLACEMENT, recipe=recipe, epochs=recipe.epochs, seed=changes.pop("seed", 0)),
        backbone=Target(target=f"{folder / 'net.py'}:net"),
        folder=str(folder),
        checkpoint_minutes=changes.pop("minutes", 1e-9),
        **changes,
    )


class Killed(BaseException):
    """Nothing handles it."""


class Broken(Recording):
    """A channel whose driver is gone after an epoch: the training ends there as by a kill."""

    def report(self, epoch: int, metrics: Mapping[str, float]) -> Any:
        super().report(epoch, metrics)
        if epoch == 3:
            raise Killed
        return "continue"


def break_off(asked: Request) -> Path:
    """A training that ends in its third epoch; returns the checkpoint of its second."""
    with pytest.raises(Killed):
        evaluate(asked, Broken())
    (file,) = (Path(asked.folder) / "checkpoints").iterdir()
    return file


def weights(folder: Path, trial: int) -> dict[str, torch.Tensor]:
    return load_file(weights_file(folder, trial))


class TestContinuation:
    def test_ends_with_the_very_numbers_of_a_whole_training(self, folder: Path) -> None:
        whole = evaluate(asking(folder, trial=1, minutes=0), Recording())
        assert whole.state == "complete", whole.reason
        assert not (folder / "checkpoints").exists()
        break_off(asking(folder, trial=2))
        channel = Recording()
        resumed = evaluate(asking(folder, trial=3, attempt=2), channel)
        assert resumed.notes == ("continued after epoch 2 of an interrupted attempt",)
        assert resumed.curve == whole.curve
        assert [epoch for epoch, _ in channel.reports] == [1, 2, 3, 4]
        before, after = weights(folder, 1), weights(folder, 3)
        assert all(torch.equal(before[name], after[name]) for name in before)
        assert list((folder / "checkpoints").iterdir()) == []

    def test_writing_changes_nothing(self, folder: Path) -> None:
        one, two = (evaluate(asking(folder, minutes=minutes), Recording()) for minutes in (0, 1e-9))
        assert one.curve == two.curve
        assert one.notes == two.notes == ()

    def test_seconds_are_those_of_all_attempts(self, digits: Path) -> None:
        file = break_off(asking(digits))
        state = torch.load(file, weights_only=True)
        state["se_nas"]["seconds"] = 1000.0
        torch.save(state, file)
        assert 1000 < evaluate(asking(digits), Recording()).seconds < 1100

    def test_a_stop_that_was_answered_meanwhile(self, digits: Path) -> None:
        break_off(asking(digits))
        result = evaluate(asking(digits), Recording(stop_after=2))
        assert (result.state, len(result.curve)) == ("stopped", 2)

    def test_young_checkpoints_are_not_replaced(self, digits: Path) -> None:
        with pytest.raises(Killed):
            evaluate(asking(digits, minutes=5), Broken())
        assert not (digits / "checkpoints").exists()


class TestIgnored:
    @pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04"])
    def test_broken_files(self, digits: Path, content: bytes) -> None:
        break_off(asking(digits)).write_bytes(content)
        result = evaluate(asking(digits), Recording())
        assert result.state == "complete", result.reason
        (note,) = result.notes
        assert note.startswith("the checkpoint is broken and was ignored (")
        assert result.curve == evaluate(asking(digits, minutes=0), Recording()).curve

    def test_no_code_is_run_from_a_file(self, digits: Path) -> None:
        class Evil:
            def __reduce__(self) -> Any:
                return (Path.touch, (digits / "evil",))

        file = break_off(asking(digits))
        torch.save({"se_nas": Evil()}, file)
        result = evaluate(asking(digits), Recording())
        assert result.state == "complete"
        assert "broken" in result.notes[0]
        assert not (digits / "evil").exists()

    def test_other_versions(self, digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        break_off(asking(digits))
        monkeypatch.setattr("se_nas.training.evaluate.versions", lambda: {"torch": "9.9"})
        result = evaluate(asking(digits), Recording())
        assert result.notes == ("the checkpoint is of another training and was ignored",)
        assert result.state == "complete"

    @pytest.mark.parametrize("change", [{"seed": 1}, {"recipe": replace(RECIPE, lr=0.05)}])
    def test_another_identity_has_another_file(self, digits: Path, change: dict[str, Any]) -> None:
        file = break_off(asking(digits))
        result = evaluate(asking(digits, **change), Recording())
        assert result.notes == ()
        assert file.is_file()

    def test_a_network_that_changed(self, digits: Path) -> None:
        file = break_off(asking(digits))
        state = torch.load(file, weights_only=True)
        state["state_dict"]["candidate.9.weight"] = torch.zeros(1)
        torch.save(state, file)
        result = evaluate(asking(digits), Recording())
        assert result.state == "complete"
        assert result.notes == ("the checkpoint is of another network and was ignored",)

    def test_a_failed_training_leaves_none(self, digits: Path) -> None:
        recipe = replace(RECIPE, lr=1e30)
        assert evaluate(asking(digits, recipe=recipe), Recording()).state == "failed"
        assert not list((digits / "checkpoints").glob("*"))


def test_a_killed_worker_costs_no_finished_epoch(digits: Path) -> None:
    """The retry in a fresh worker goes on, and ends as an undisturbed training does."""
    executor = LocalExecutor(("cpu",))
    seen: list[int] = []

    def kill(epoch: int, metrics: Mapping[str, float]) -> Verdict:
        if epoch == 3:
            (worker,) = executor._workers.values()
            os.kill(worker.process.pid, signal.SIGKILL)
        return "continue"

    def note(epoch: int, metrics: Mapping[str, float]) -> Verdict:
        seen.append(epoch)
        return "continue"

    try:
        assert isinstance(executor.submit(evaluate, asking(digits), kill).exception(60), WorkerDiedError)
        resumed = executor.submit(evaluate, asking(digits, attempt=2), note).result(60)
        whole = executor.submit(evaluate, asking(digits, trial=1, minutes=0), note).result(60)
    finally:
        in_time(executor.shutdown, 60, "the end of the executor")
    assert resumed.notes == ("continued after epoch 2 of an interrupted attempt",)
    assert resumed.curve == whole.curve
    assert seen == [1, 2, 3, 4] * 2


@pytest.mark.slow
def test_a_killed_driver_costs_no_finished_epoch(tmp_path: Path) -> None:
    """The next driver's training goes on, and the search has the results of an undisturbed one."""
    (tmp_path / "task.py").write_text(
        "import time\nfrom pathlib import Path\n"
        "from se_nas.training.classification import Classification, ClassificationModule\n"
        "class Slow(Classification):\n"
        "    def module(self, candidate, recipe, **facts):\n"
        "        return SlowModule(candidate, recipe, steps=facts['steps'], class_counts=facts['class_counts'])\n"
        "class SlowModule(ClassificationModule):\n"
        "    def on_train_epoch_start(self):\n"
        "        super().on_train_epoch_start()\n"
        "        time.sleep(float(Path(__file__).with_name('pause').read_text()))\n"
    )
    options = {
        "task": Target(target=f"{tmp_path / 'task.py'}:Slow"),
        "train": Recipe(epochs=6, batch_size=256, precision="32"),
        "budget": 2,
        "checkpoint_minutes": 1e-9,
    }
    (tmp_path / "pause").write_text("0.4")
    script = (
        "import sys; from pathlib import Path; from helpers import tiny; from se_nas import search\n"
        "from se_nas.core.trial import Recipe, Target\n"
        f"search(tiny(Path({str(tmp_path)!r}), **{ {**options, 'executor': Target(target='local'), 'workers': 1}!r}))\n"
    )
    env = environment()
    env["PYTHONPATH"] = os.pathsep.join([env["PYTHONPATH"], str(Path(__file__).parents[1])])
    driver = subprocess.Popen([sys.executable, "-c", script], env=env)
    folder = tmp_path / "run" / "checkpoints"
    try:
        until(lambda: any(f.suffix == ".pt" for f in folder.glob("[!.]*")), timeout=100, what="a checkpoint")
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait(timeout=20)
    (tmp_path / "pause").write_text("0")
    search(tiny(tmp_path, **options))
    trials = Study.latest(RunFolder(tmp_path / "run").storage, "search").trials()
    assert (trials[0].state, trials[0].role) == ("failed", "baseline")
    (resumed,) = (t for t in trials[1:] if t.role == "baseline")
    assert resumed.notes[0].startswith("continued after epoch")
    assert not folder.exists()
    whole = search(tiny(tmp_path, **{**options, "out": str(tmp_path / "whole"), "checkpoint_minutes": 0}))
    undisturbed = Study.latest(RunFolder(whole.folder).storage, "search").trials()[0]
    assert resumed.curve == undisturbed.curve
    assert undisturbed.notes == ()
