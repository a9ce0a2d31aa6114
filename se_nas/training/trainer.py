"""One training with Lightning: candidate, data and recipe in, curve and metrics out."""

from __future__ import annotations

import contextlib
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.utilities.warnings import PossibleUserWarning
from pytorch_lightning.loggers import Logger
from pytorch_lightning.loggers.logger import DummyLogger
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.utilities.memory import is_oom_error
from torch import nn

from se_nas.core.errors import TrainingError
from se_nas.core.protocols import Channel, Task
from se_nas.core.serialization import random_stream
from se_nas.core.trial import Epoch, Precision, Recipe
from se_nas.data.base import DataInfo
from se_nas.data.batches import Batches, Shuffle
from se_nas.data.datamodule import AnyDataModule
from se_nas.data.shards import Rank, Share
from se_nas.data.store import open_part, open_source
from se_nas.training.any_accelerator import on_one_device
from se_nas.training.checkpoint import Checkpoints
from se_nas.training.pulse import Pulse, Seen

CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a candidate is trained for, and on which data: the train and validation set that lie in `folder`."""

    task: Task
    recipe: Recipe
    data: DataInfo
    folder: Path
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class DeviceSettings:
    """How a training runs on its device.

    Parameters
    ----------
    precision:
        ``32`` or ``bf16``.
    pieces:
        Into how many equal pieces each batch is cut, whose gradients are added up, to save memory. The gradient is
        that of the whole batch, but BatchNorm sees the statistics of a piece.
    limit:
        End after so many batches, with one batch in each validation; 0: train to the end.
    rank:
        This process's part in a training on several devices, whose process group is there already.
    """

    device: torch.device = CPU
    precision: str = "32"
    channels_last: bool = False
    pieces: int = 1
    limit: int = 0
    rank: Rank | None = None


class Watch(pl.Callback):
    """Reports every epoch, keeps the curve, and ends a training that is stopped or no longer finite.

    Each batch, of training or of validation, is a sign of life, which says how far the epoch is.
    """

    def __init__(self, channel: Channel, metric: str, pulse: Pulse | None = None) -> None:
        self.channel = channel
        self.pulse = pulse or Pulse(channel)
        self.metric = metric
        self.curve: list[Epoch] = []
        self.stopped = False

    def state_dict(self) -> dict[str, Any]:
        return {"curve": [[e.epoch, e.metrics] for e in self.curve]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.curve = [Epoch(epoch=epoch, metrics=dict(metrics)) for epoch, metrics in state_dict["curve"]]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Tell again what was seen before the checkpoint: the driver may be another one."""
        verdicts = [trainer.strategy.broadcast(self.channel.report(epoch.epoch, epoch.metrics)) for epoch in self.curve]
        if "stop" in verdicts:
            self.stopped = trainer.should_stop = True

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        def seen() -> Seen:
            place = _place(trainer, batch_idx, trainer.num_training_batches)
            loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
            # Lightning has divided it by the number of pieces that a batch is cut into.
            if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
                return place
            return place | {"loss": float(loss) * trainer.accumulate_grad_batches}

        self.pulse(seen)

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        self.pulse(lambda: _place(trainer, batch_idx, sum(trainer.num_val_batches)) | {"validating": 1.0})

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        epoch = trainer.current_epoch + 1
        needed = [name for name in metrics if name == self.metric or name.endswith("loss")]
        if wrong := [name for name in needed if not math.isfinite(metrics[name])]:
            raise TrainingError(f"non-finite {wrong[0]} in epoch {epoch}")
        if self.metric not in metrics:
            raise TrainingError(f"the task did not log {self.metric!r}", allowed=sorted(metrics))
        # Others may have no value, such as that of a class which is not in the validation set.
        metrics = {name: value for name, value in metrics.items() if math.isfinite(value)}
        self.curve.append(Epoch(epoch=epoch, metrics=metrics))
        verdict = trainer.strategy.broadcast(self.channel.report(epoch, metrics))
        if verdict == "stop" and epoch < (trainer.max_epochs or 0):
            self.stopped = True
            trainer.should_stop = True


def _place(trainer: pl.Trainer, index: int, number: float) -> dict[str, float]:
    """Epoch and batch, counted from 1; how many batches there are only where that is known."""
    known = {"batches": float(number)} if math.isfinite(number) else {}
    return {"epoch": trainer.current_epoch + 1.0, "batch": index + 1.0, **known}


def train(
    candidate: nn.Module,
    job: Job,
    settings: DeviceSettings,
    *,
    channel: Channel,
    checkpoints: Checkpoints | None = None,
    loggers: Sequence[Logger] = (),
) -> tuple[tuple[Epoch, ...], bool]:
    """Train a candidate in place, on train and validation set only.

    Returns the curve, one entry per epoch, and whether the channel stopped the training before its last epoch.
    Sets the seed of torch's global stream, which dropout and users' modules draw from.

    Parameters
    ----------
    checkpoints:
        Where the training leaves its state, and goes on from if a state was read.

    Raises
    ------
    TrainingError
        If the loss or a metric is not finite, or the task does not log its metric.
    """
    if settings.channels_last:
        candidate.to(memory_format=torch.channels_last)
    torch.manual_seed(random_stream(job.seed, "training"))
    if settings.rank is not None and settings.device.type == "cuda":
        # Dropout differs between ranks, the order of images does not.
        torch.cuda.manual_seed(random_stream(job.seed, "training", settings.rank.index))
    pulse = Pulse(channel)
    loaders, facts = loaders_of(job, settings, ready=checkpoints.restore_random if checkpoints else None, seen=pulse)
    module = job.task.module(candidate, job.recipe, **{**facts, "steps": max(facts["steps"], settings.limit)})
    watch = Watch(channel, job.task.metric, pulse)
    callbacks: list[pl.Callback] = [watch]
    if checkpoints is not None:
        checkpoints.pieces = settings.pieces
        if checkpoints.fits(module):
            loaders["ckpt_path"] = checkpoints.file
            if job.data.kind == "arrays":
                _train_batches(loaders).epoch = checkpoints.epochs
        callbacks.append(checkpoints)
    trainer = make_trainer(job.recipe, settings, *callbacks, loggers=loggers)
    with quiet():
        trainer.fit(module, weights_only=True, **loaders)
    return tuple(watch.curve), watch.stopped


def loaders_of(
    job: Job,
    settings: DeviceSettings,
    *,
    ready: Callable[[], None] | None = None,
    seen: Callable[[], object] = lambda: None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What `Trainer.fit` is given, and the facts that a task may use.

    `ready` is called before the first batch, `seen` at each batch of a stream whose batches have to be counted.
    """
    data, recipe, rank = job.data, job.recipe, settings.rank
    facts: dict[str, Any] = {
        "classes": data.classes, "num_classes": len(data.classes) or None, "input_shape": data.input_shape,
        "class_counts": None,
    }  # fmt: skip
    if data.kind == "module":
        module, _ = open_source(data.target)
        wrapped = AnyDataModule(module, ready=ready, rank=rank)
        return {"datamodule": wrapped}, {**facts, "steps": _steps_of(module, recipe, seen)}
    train, val = array_batches(data, job.folder, recipe, settings, seed=job.seed)
    if not data.target_shape and data.target_type == "integer":
        facts["class_counts"] = torch.bincount(train.labels.cpu(), minlength=len(data.classes)).float()
    loaders = {"train_dataloaders": Share(train, rank) if rank else train, "val_dataloaders": val}
    return loaders, {**facts, "steps": len(train) // settings.pieces * recipe.epochs}


def array_batches(
    data: DataInfo, folder: Path, recipe: Recipe, settings: DeviceSettings, *, seed: int
) -> tuple[Batches, Batches]:
    """Training and validation batches of data that lie in the folder as arrays."""
    pieces = settings.pieces
    common: dict[str, Any] = {
        "mean": data.mean, "std": data.std, "device": settings.device, "channels_last": settings.channels_last
    }  # fmt: skip
    train = Batches(
        open_part(folder, "train"), batch_size=recipe.batch_size,
        shuffle=Shuffle(seed=seed, augment=recipe.augment, pieces=pieces), **common,
    )  # fmt: skip
    size = max(1, validation_batch(settings.device) // pieces)
    return train, Batches(open_part(folder, "val"), batch_size=size, **common)


def _train_batches(loaders: Mapping[str, Any]) -> Batches:
    """The training batches themselves, not a rank's share of them."""
    found = loaders["train_dataloaders"]
    batches: Batches = found.batches if isinstance(found, Share) else found
    return batches


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without Lightning's news, and without advice that does not concern the user."""
    logger = logging.getLogger("pytorch_lightning")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # Advice on DataLoader workers: data modules are the user's business, and our batches have no workers.
            warnings.filterwarnings("ignore", message=r".*does not have many workers.*")
            # Lightning's own use of torch's trees.
            warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\).*")
            # Advice to a user's module that is used here with another trainer than its own.
            warnings.filterwarnings("ignore", category=PossibleUserWarning)
            warnings.filterwarnings("ignore", message=r".*is an instance of `nn.Module` and is already saved.*")
            yield
    finally:
        logger.setLevel(level)


def make_trainer(
    recipe: Recipe,
    settings: DeviceSettings,
    *callbacks: pl.Callback,
    rehearsal: int = 0,
    loggers: Sequence[Logger] = (),
) -> pl.Trainer:
    """A trainer that does nothing beside the work; `rehearsal` is the number of batches of a mere trial."""
    device, rank = settings.device, settings.rank
    together: dict[str, Any] = on_one_device(device)
    if rank is not None:
        cards = [torch.device(name).index or 0 for name in rank.devices]
        together |= {
            "devices": cards if device.type == "cuda" else rank.number,
            # Networks may have parts that only some of their outputs need.
            "strategy": DDPStrategy(find_unused_parameters=True),
            "use_distributed_sampler": False,  # `Share` does that, and validation is not shared out
        }
    with quiet():
        trainer = pl.Trainer(
            max_epochs=None if settings.limit else recipe.epochs,
            max_steps=settings.limit or -1,
            limit_val_batches=1 if settings.limit else 1.0,
            fast_dev_run=rehearsal,
            **together,
            precision="bf16-mixed" if settings.precision == "bf16" else "32-true",
            accumulate_grad_batches=settings.pieces,
            callbacks=list(callbacks),
            plugins=[LightningEnvironment()],  # else Lightning obeys SLURM variables of the shell
            logger=list(loggers) or [DummyLogger()],  # a user's module may use `self.logger` without asking
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
    if rehearsal:
        # It would end after so many steps of optimizers, too, of which a module may have several for each batch.
        trainer.fit_loop.epoch_loop.max_steps = -1
    return trainer


def validation_batch(device: torch.device) -> int:
    """Images in a batch without gradients: many on a GPU, on a CPU as many as its caches hold.

    Measured with ResNet-8 on a CPU: 512 images of 16 or 32 pixels take 1.3 times as long as twice 256.
    """
    return 256 if device.type == "cpu" else 512


def more_pieces(batch: int, pieces: int) -> int | None:
    """At least twice as many pieces as before that a batch can be cut into equally; None if there are none.

    >>> more_pieces(128, 1), more_pieces(100, 5), more_pieces(6, 6)
    (2, 10, None)
    """
    return next((n for n in range(2 * pieces, batch + 1) if batch % n == 0), None)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the memory of a GPU or of the machine was too small."""
    return isinstance(error, MemoryError) or bool(is_oom_error(error))


def _steps_of(module: Any, recipe: Recipe, seen: Callable[[], object]) -> int:
    """Batches of a whole training with the user's data module; streams that do not know their length are counted."""
    module.prepare_data()
    module.setup("fit")
    loader = module.train_dataloader()
    try:
        number = len(loader)
    except TypeError:  # of an IterableDataset
        number = 0
        for number, _ in enumerate(loader, start=1):  # noqa: B007  # the last one is their number
            seen()
    return number * recipe.epochs


def choose_precision(wanted: Precision, device: torch.device) -> Precision:
    """``bf16`` or ``32``; for ``auto`` bf16 where the hardware multiplies in it."""
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "32"
    if device.type == "cpu":
        flags = torch.cpu.get_capabilities()
        return "bf16" if flags.get("avx512_bf16") or flags.get("amx_bf16") else "32"
    return "32"


def wants_channels_last(precision: str, device: torch.device) -> bool:
    """Channels-last is faster where convolutions run in bf16 (measured on CPU; tensor cores want it)."""
    return precision == "bf16" and device.type in ("cpu", "cuda")
