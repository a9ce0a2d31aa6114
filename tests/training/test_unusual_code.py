"""Code of users that is unusual, or fails in its own way: it trains, or its trial fails with its own words."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
from helpers import Recording, identity, in_time, request, units_of

from se_nas.backbones.build import build_backbone
from se_nas.core.errors import RunError
from se_nas.core.placement import Placement
from se_nas.core.trial import Recipe, Request, Target
from se_nas.data.store import prepare_data, read_info
from se_nas.engine.run_folder import clear_errors
from se_nas.executors.local import LocalExecutor
from se_nas.training.evaluate import evaluate
from se_nas.training.rehearsal import rehearse
from se_nas.training.tasks import open_task
from se_nas.training.trainer import DeviceSettings, Job, loaders_of

OWN = """
import pytorch_lightning as pl
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, TensorDataset, default_collate


def tensors(n, seed):
    labels = torch.arange(n) % 3
    noise = torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    return noise + labels[:, None, None, None], labels


class Rows(pl.LightningDataModule):
    num_classes = 3

    def __init__(self, workers=0):
        super().__init__()
        self.workers = workers

    def train_dataloader(self):
        loaded = dict(num_workers=self.workers, collate_fn=lambda rows: default_collate(rows))  # no pickle takes it
        return DataLoader(TensorDataset(*tensors(50, 0)), batch_size=16, **loaded)

    def val_dataloader(self):
        return DataLoader(TensorDataset(*tensors(24, 1)), batch_size=8, num_workers=self.workers)


class Stream(IterableDataset):
    def __init__(self, n, seed):
        self.rows = list(zip(*tensors(n, seed)))

    def __iter__(self):
        return iter(self.rows)


class Streamed(Rows):
    def train_dataloader(self):
        return DataLoader(Stream(50, 0), batch_size=16)

    def val_dataloader(self):
        return DataLoader(Stream(24, 1), batch_size=8)


class Lost(Stream):
    def __iter__(self):
        yield from self.rows[:20]
        raise ConnectionResetError(104, "the image server went away")


class Losing(Rows):
    def train_dataloader(self):
        return DataLoader(Lost(50, 0), batch_size=16, num_workers=self.workers)


class Base(pl.LightningModule):
    metric, direction = "val_accuracy", "maximize"

    def __init__(self, network):
        super().__init__()
        self.network = network

    def validation_step(self, batch, index):
        self.log("val_accuracy", (self.network(batch[0]).argmax(1) == batch[1]).float().mean())


class Manual(Base):
    def __init__(self, network):
        super().__init__(network)
        self.aux, self.automatic_optimization = torch.nn.Linear(3, 3), False

    def training_step(self, batch, index):
        images, labels = batch
        first, second = self.optimizers()
        for optimizer, logits in ((first, self.network(images)), (second, self.aux(self.network(images).detach()))):
            optimizer.zero_grad()
            self.manual_backward(F.cross_entropy(logits, labels))
            optimizer.step()
        self.log("moved", float(self.aux.weight.detach().abs().sum()))

    def configure_optimizers(self):
        return [torch.optim.SGD(part.parameters(), 0.1) for part in (self.network, self.aux)]


class Logging(Base):
    def training_step(self, batch, index):
        self.logger.log_metrics({"lr": 0.1}, step=index)
        self.logger.experiment.add_scalar("lr", 0.1, index)
        return F.cross_entropy(self.network(batch[0]), batch[1])

    def validation_step(self, batch, index):
        super().validation_step(batch, index)
        self.logger.log_metrics({"seen": index})

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)
"""
RECIPE = Recipe(epochs=2, batch_size=16, precision="32")


@pytest.fixture
def own(tmp_path: Path) -> str:
    (tmp_path / "own.py").write_text(OWN)
    return f"{tmp_path / 'own.py'}:"


def asking(folder: Path, task: str = "classification") -> Request:
    placement = Placement(choices={})
    known = identity(placement, recipe=RECIPE, epochs=RECIPE.epochs, task=Target(target=task))
    return request(placement, units=units_of("resnet8"), identity=known, folder=str(folder))


def prepared(own: str, folder: Path, name: str, **args: Any) -> Path:
    prepare_data(Target(target=own + name, args=args), folder / "run")
    return folder / "run"


class TestTrains:
    def test_streams_whose_length_is_counted(self, own: str, tmp_path: Path) -> None:
        """50 images in batches of 16 are four steps."""
        folder = prepared(own, tmp_path, "Streamed")
        task = open_task(Target(target="classification"))
        job = Job(task=task, recipe=RECIPE, data=read_info(folder), folder=folder)
        assert loaders_of(job, DeviceSettings())[1]["steps"] == 4 * RECIPE.epochs
        result = evaluate(asking(folder), Recording())
        assert (result.state, result.reason, len(result.curve)) == ("complete", "", 2)

    @pytest.mark.parametrize("name", ["Manual", "Logging"])
    def test_modules_with_several_optimizers_or_a_logger(self, own: str, tmp_path: Path, name: str) -> None:
        folder = prepared(own, tmp_path, "Rows")
        task = open_task(Target(target=own + name))
        network = build_backbone(Target(target="resnet8"), num_classes=3, input_shape=(1, 8, 8), seed=0)
        rehearse(network, task=task, recipe=RECIPE, data=read_info(folder), folder=folder)
        result = evaluate(asking(folder, own + name), Recording())
        assert (result.state, result.reason, len(result.curve)) == ("complete", "", 2)
        if name == "Manual":  # the second optimizer works, too
            assert result.metrics["moved"].value != pytest.approx(result.curve[0].metrics["moved"])

    def test_loaders_with_workers_in_a_worker(self, own: str, tmp_path: Path) -> None:
        folder = prepared(own, tmp_path, "Rows", workers=1)
        executor = LocalExecutor(("cpu",))
        try:
            result = executor.submit(evaluate, asking(folder), lambda *_: "continue").result(300)
        finally:
            in_time(executor.shutdown, 60, "the end of the executor")
        assert (result.state, result.reason, len(result.curve)) == ("complete", "", 2)


class TestErrors:
    @pytest.mark.parametrize("workers", [0, 1])
    def test_of_a_users_loader_fail_the_trial_with_their_words(self, own: str, tmp_path: Path, workers: int) -> None:
        result = evaluate(asking(prepared(own, tmp_path, "Losing", workers=workers)), Recording())
        place = " (in DataLoader worker process 0)" if workers else ""
        words = f"ConnectionResetError: [Errno 104] the image server went away{place}"
        assert (result.state, result.reason) == ("failed", words)

    def test_of_our_own_files_end_the_search(self, own: str, tmp_path: Path) -> None:
        folder = prepared(own, tmp_path, "Rows")
        (folder / "weights").write_text("in the way")
        with pytest.raises(RunError) as caught, clear_errors(folder):
            evaluate(asking(folder), Recording())
        assert str(caught.value).startswith(f"cannot write to '{folder}': ")
        assert "free some space, or fix what is in the way" in str(caught.value)


class TestClearErrors:
    """What the driver says of an error of the system."""

    @staticmethod
    def said(folder: Path, error: OSError) -> str:
        with pytest.raises(RunError) as caught, clear_errors(folder):
            raise error
        return str(caught.value)

    def test_of_others(self, tmp_path: Path) -> None:
        text = self.said(tmp_path, ConnectionResetError(errno.ECONNRESET, "the image server went away"))
        assert text.startswith("ConnectionResetError: [Errno 104] the image server went away\n")
        assert "free some space" not in text
        other = self.said(tmp_path, FileNotFoundError(errno.ENOENT, "No such file or directory", "/data/labels.csv"))
        assert "/data/labels.csv" in other
        assert "free some space" not in other

    @pytest.mark.parametrize("where", ["inside", "nowhere"])
    def test_of_a_full_disk(self, tmp_path: Path, where: str) -> None:
        name = [str(tmp_path / "report.html")] if where == "inside" else []
        text = self.said(tmp_path, OSError(errno.ENOSPC, "No space left on device", *name))
        assert text.startswith(f"cannot write to '{tmp_path}': No space left on device")
        assert "free some space" in text
