"""Steps that are timed and forgotten, and trainings of which only the metrics are kept."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import Recording, identity, request, units_of

from se_nas.core.placement import Placement
from se_nas.core.trial import Recipe, Request, Result, Target
from se_nas.data.store import prepare_data
from se_nas.insertion.insert import build_candidate
from se_nas.training.evaluate import evaluate
from se_nas.training.timed_steps import FIRST, Steps, time_steps
from se_nas.training.tryout import try_out


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    prepare_data(Target(target="digits"), folder)
    return folder


def asking(folder: Path, recipe: Recipe | None = None, **changes: Any) -> Request:
    placement, recipe = Placement(choices={}), recipe or Recipe(epochs=1, batch_size=128, precision="32")
    known = identity(placement, recipe=recipe, epochs=recipe.epochs)
    return request(placement, units=units_of("resnet8"), identity=known, folder=str(folder), **changes)


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


class TestTimedSteps:
    def test_tell_what_an_epoch_takes(self, digits: Path) -> None:
        time_steps(asking(digits), Recording())  # libraries
        steps = Steps.of(time_steps(asking(digits), Recording()))
        assert steps is not None
        took = evaluate(asking(digits, Recipe(epochs=3, batch_size=128, precision="32")), Recording()).seconds
        assert took / 6 < steps.start_seconds + 3 * steps.epoch_seconds < 6 * took
        assert FIRST <= steps.images <= 128
        network = build_candidate(
            Target(target="resnet8"), (), Placement(choices={}), num_classes=10, input_shape=(1, 8, 8), seed=0
        )
        assert steps.weights == sum(v.numel() * v.element_size() for v in network.state_dict().values())
        assert steps.memory > 50e6

    def test_leave_nothing_behind(self, digits: Path) -> None:
        before, state = files(digits), torch.random.get_rng_state()
        channel = Recording()
        time_steps(asking(digits), channel)
        assert files(digits) == before
        assert torch.equal(torch.random.get_rng_state(), state)
        assert channel.reports == []

    def test_where_a_batch_takes_too_long_smaller_ones_are_timed(
        self, digits: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = Steps.of(time_steps(asking(digits), Recording()))
        monkeypatch.setattr("se_nas.training.timed_steps.SECONDS", 1e-4)
        small = Steps.of(time_steps(asking(digits), Recording()))
        assert whole is not None
        assert small is not None
        assert small.images == FIRST
        # As many images in an epoch, each in a smaller and so a dearer batch.
        assert whole.epoch_seconds / 2 < small.epoch_seconds < 60 * whole.epoch_seconds

    def test_a_network_that_fails_is_a_result(self, digits: Path) -> None:
        task = replace(asking(digits).identity, task=Target(target="no.such:Task"))
        result = time_steps(replace(asking(digits), identity=task), Recording())
        assert (result.state, Steps.of(result)) == ("failed", None)
        assert "no.such" in result.reason

    def test_somebody_elses_result_is_no_timing(self) -> None:
        assert Steps.of(Result(trial=0, state="complete")) is None

    def test_loaders_of_a_module_say_how_long_an_epoch_is(self, tmp_path: Path) -> None:
        module = tmp_path / "own.py"
        module.write_text(
            "import pytorch_lightning as pl, torch\n"
            "from torch.utils.data import DataLoader, TensorDataset\n"
            "class Data(pl.LightningDataModule):\n"
            "    num_classes = 3\n"
            "    def __init__(self, n=90):\n"
            "        super().__init__(); self.n = n\n"
            "    def loader(self, n):\n"
            "        return DataLoader(TensorDataset(torch.randn(n, 1, 8, 8), torch.arange(n) % 3), batch_size=10)\n"
            "    def train_dataloader(self): return self.loader(self.n)\n"
            "    def val_dataloader(self): return self.loader(30)\n"
        )
        seconds = []
        for n in (90, 900):
            folder = tmp_path / str(n)
            prepare_data(Target(target=f"{module}:Data", args={"n": n}), folder)
            time_steps(asking(folder), Recording())
            steps = Steps.of(time_steps(asking(folder), Recording()))
            assert steps is not None
            seconds.append(steps.epoch_seconds)
        assert all(map(math.isfinite, seconds))
        assert seconds[1] > 3 * seconds[0], "ten times the batches"


class TestTryOut:
    def test_reaches_what_a_training_reaches_and_writes_nothing(self, digits: Path, tmp_path: Path) -> None:
        wanted = evaluate(asking(digits, trial=7), Recording())
        before = files(digits)
        found = try_out(asking(digits), Recording())
        assert files(digits) == before
        assert found.state == "complete", found.reason
        assert found.metrics == wanted.metrics
        assert found.curve == wanted.curve

    def test_a_rate_that_diverges_is_a_result(self, digits: Path) -> None:
        found = try_out(asking(digits, Recipe(epochs=2, batch_size=64, lr=1e12, precision="32")), Recording())
        assert (found.state, "non-finite" in found.reason) == ("failed", True)
