"""One training with Lightning: candidate, data and recipe in, curve and metrics out."""

from __future__ import annotations

import contextlib
import logging
import math
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.utilities.warnings import PossibleUserWarning
from pytorch_lightning.loggers import Logger
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.utilities.memory import is_oom_error
from torch import nn

from se_nas.checkpoint import Checkpoints
from se_nas.data import open_part, open_source
from se_nas.data.base import DataInfo
from se_nas.data.batches import Batches
from se_nas.data.module import AnyDataModule
from se_nas.errors import SeNasError, TrainingError, did_you_mean
from se_nas.plugins import Channel, Task
from se_nas.ranks import Rank, Share
from se_nas.records import Epoch, Precision, Recipe, random_stream

REHEARSAL_BATCH = 8


class Watch(pl.Callback):
    """Reports every epoch, keeps the curve, and ends a training that is stopped or no longer finite."""

    def __init__(self, channel: Channel, metric: str) -> None:
        self.channel = channel
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

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        epoch = trainer.current_epoch + 1
        needed = [name for name in metrics if name == self.metric or name.endswith("loss")]
        if wrong := [name for name in needed if not math.isfinite(metrics[name])]:
            raise TrainingError(f"non-finite {wrong[0]} in epoch {epoch}")
        if self.metric not in metrics:
            raise TrainingError(f"the task did not log {self.metric!r}", allowed=sorted(metrics))
        # Others may have no value, such as that of a class which is not in the validation part.
        metrics = {name: value for name, value in metrics.items() if math.isfinite(value)}
        self.curve.append(Epoch(epoch=epoch, metrics=metrics))
        verdict = trainer.strategy.broadcast(self.channel.report(epoch, metrics))
        if verdict == "stop" and epoch < (trainer.max_epochs or 0):
            self.stopped = True
            trainer.should_stop = True


def train(
    candidate: nn.Module,
    *,
    task: Task,
    recipe: Recipe,
    data: DataInfo,
    folder: Path,
    seed: int,
    device: torch.device,
    precision: str,
    channels_last: bool,
    channel: Channel,
    checkpoints: Checkpoints | None = None,
    pieces: int = 1,
    limit: int = 0,
    rank: Rank | None = None,
    loggers: Sequence[Logger] = (),
) -> tuple[tuple[Epoch, ...], bool]:
    """Train a candidate in place, on train and validation part only.

    Returns the curve, one entry per epoch, and whether the channel stopped the training before its last epoch.

    Parameters
    ----------
    checkpoints:
        Where the training leaves its state, and goes on from if a state was read.
    pieces:
        Into how many equal pieces each batch is cut, whose gradients are added up, to save memory. The gradient is
        that of the whole batch, but BatchNorm sees the statistics of a piece.
    limit:
        End after so many batches, with one batch in each validation; 0: train to the end.
    rank:
        This process's part in a training on several devices, whose process group is there already.

    Raises
    ------
    TrainingError
        If the loss or a metric is not finite, or the task does not log its metric.
    """
    if channels_last:
        candidate.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs
    torch.manual_seed(random_stream(seed, "training"))
    if rank is not None and device.type == "cuda":  # dropout differs between ranks, the order of images does not
        torch.cuda.manual_seed(random_stream(seed, "training", rank.index))
    loaders, facts = _loaders(
        data, folder, recipe, seed=seed, device=device, channels_last=channels_last, pieces=pieces, rank=rank,
        ready=checkpoints.restore_random if checkpoints else None,
    )  # fmt: skip
    module = task.module(candidate, recipe, **{**facts, "steps": max(facts["steps"], limit)})
    watch = Watch(channel, task.metric)
    callbacks: list[pl.Callback] = [watch]
    if checkpoints is not None:
        checkpoints.pieces = pieces
        if checkpoints.fits(module):
            loaders["ckpt_path"] = checkpoints.file
            if data.kind == "arrays":
                _train_batches(loaders).epoch = checkpoints.epochs
        callbacks.append(checkpoints)
    trainer = make_trainer(
        recipe, device, precision, *callbacks, pieces=pieces, limit=limit, rank=rank, loggers=loggers
    )
    with quiet():
        trainer.fit(module, weights_only=True, **loaders)
    return tuple(watch.curve), watch.stopped


def rehearse(candidate: nn.Module, *, task: Task, recipe: Recipe, data: DataInfo, folder: Path) -> None:
    """Two training and two validation batches on the CPU, so that a task that cannot work is known before a search.

    Batches are small, and the trainer says that this is a rehearsal (``fast_dev_run``). TrainingError with what
    went wrong, or if the task does not log its metric.
    """
    device = torch.device("cpu")
    recipe = replace(recipe, batch_size=min(recipe.batch_size, REHEARSAL_BATCH))
    loaders, facts = _loaders(data, folder, recipe, seed=0, device=device, channels_last=False)
    if data.kind == "arrays":
        loaders["val_dataloaders"].batch_size = REHEARSAL_BATCH
    try:
        with torch.random.fork_rng(devices=[]), quiet():
            torch.manual_seed(0)
            module = task.module(candidate, recipe, **facts)
            trainer = make_trainer(recipe, device, "32", rehearsal=2)
            trainer.fit(module, **loaders)
    except SeNasError:
        raise
    except Exception as error:  # whatever a user's module or network raises
        reason = str(error).strip().splitlines() or [""]
        raise TrainingError(
            f"a first training step with this task and network fails: {type(error).__name__}: {reason[0]}",
            where=_place(error),
            hint="try the module with its network and a batch of the data by hand",
        ) from error
    logged = set(trainer.callback_metrics)
    if task.metric not in logged:
        raise TrainingError(
            f"the task does not log {task.metric!r} in validation",
            allowed=sorted(logged),
            hint=did_you_mean(task.metric, logged) or f"self.log({task.metric!r}, ...) in validation_step",
        )


def _place(error: Exception) -> str | None:
    """File and line of the user's code that an error came from: the last one that is in no installed package."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "-packages" not in frame.filename and "/se_nas/" not in frame.filename]
    return f"{own[-1].filename}, line {own[-1].lineno}" if own else None


def _loaders(
    data: DataInfo,
    folder: Path,
    recipe: Recipe,
    *,
    seed: int,
    device: torch.device,
    channels_last: bool,
    pieces: int = 1,
    rank: Rank | None = None,
    ready: Callable[[], None] | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What `Trainer.fit` is given, and the facts that a task may use. `ready` is called before the first batch."""
    facts: dict[str, Any] = {
        "classes": data.classes, "num_classes": len(data.classes) or None, "input_shape": data.input_shape,
        "class_counts": None,
    }  # fmt: skip
    if data.kind == "module":
        module, _ = open_source(data.target)
        wrapped = AnyDataModule(module, ready=ready, rank=rank)
        return {"datamodule": wrapped}, {**facts, "steps": _steps_of(module, recipe)}
    train, val = _batches(data, folder, recipe, seed=seed, device=device, channels_last=channels_last, pieces=pieces)
    if not data.target_shape and data.target_type == "integer":
        facts["class_counts"] = torch.bincount(train.labels.cpu(), minlength=len(data.classes)).float()
    loaders = {"train_dataloaders": Share(train, rank) if rank else train, "val_dataloaders": val}
    return loaders, {**facts, "steps": len(train) // pieces * recipe.epochs}


def _train_batches(loaders: Mapping[str, Any]) -> Batches:
    """The training batches themselves, not a rank's share of them."""
    found = loaders["train_dataloaders"]
    batches: Batches = found.batches if isinstance(found, Share) else found
    return batches


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without advice that does not concern the user."""
    with warnings.catch_warnings():
        # Advice on DataLoader workers: data modules are the user's business, and our batches have no workers.
        warnings.filterwarnings("ignore", message=r".*does not have many workers.*")
        # Lightning's own use of torch's trees.
        warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\).*")
        # Advice to a user's module that is used here with another trainer than its own.
        warnings.filterwarnings("ignore", category=PossibleUserWarning)
        warnings.filterwarnings("ignore", message=r".*is an instance of `nn.Module` and is already saved.*")
        yield


def make_trainer(
    recipe: Recipe,
    device: torch.device,
    precision: str,
    *callbacks: pl.Callback,
    pieces: int = 1,
    limit: int = 0,
    rehearsal: int = 0,
    rank: Rank | None = None,
    loggers: Sequence[Logger] = (),
) -> pl.Trainer:
    """A trainer that does nothing beside the work; see `train` for `pieces`, `limit` and `rank`."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    together: dict[str, Any] = {"devices": [device.index or 0] if device.type == "cuda" else 1}
    if rank is not None:
        cards = [torch.device(name).index or 0 for name in rank.devices]
        together = {
            "devices": cards if device.type == "cuda" else rank.number,
            # Networks may have parts that only some of their outputs need.
            "strategy": DDPStrategy(find_unused_parameters=True),
            "use_distributed_sampler": False,  # `Share` does that, and validation is not shared out
        }
    return pl.Trainer(
        max_epochs=None if limit else recipe.epochs,
        max_steps=limit or -1,
        limit_val_batches=1 if limit else 1.0,
        fast_dev_run=rehearsal,
        accelerator="gpu" if device.type == "cuda" else device.type,
        **together,
        precision="bf16-mixed" if precision == "bf16" else "32-true",
        accumulate_grad_batches=pieces,
        callbacks=list(callbacks),
        plugins=[LightningEnvironment()],  # else Lightning obeys SLURM variables of the shell
        logger=list(loggers) or False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )


def _batches(
    data: DataInfo,
    folder: Path,
    recipe: Recipe,
    *,
    seed: int,
    device: torch.device,
    channels_last: bool,
    pieces: int = 1,
) -> tuple[Batches, Batches]:
    common: dict[str, Any] = {"mean": data.mean, "std": data.std, "device": device, "channels_last": channels_last}
    training: dict[str, Any] = {"batch_size": recipe.batch_size, "augment": recipe.augment, "pieces": pieces}
    return (
        Batches(open_part(folder, "train"), seed=seed, **training, **common),
        Batches(open_part(folder, "val"), batch_size=max(1, validation_batch(device) // pieces), **common),
    )


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


def _steps_of(module: Any, recipe: Recipe) -> int:
    """Optimizer steps of a whole training with the user's data module."""
    module.prepare_data()
    module.setup("fit")
    return len(module.train_dataloader()) * recipe.epochs


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
