"""One training with Lightning: candidate, data and recipe in, curve and metrics out."""

from __future__ import annotations

import logging
import math
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from pytorch_lightning.strategies import DDPStrategy
from torch import nn

from se_nas.data import open_part, open_source
from se_nas.data.base import DataInfo
from se_nas.data.batches import Batches
from se_nas.data.module import AnyDataModule
from se_nas.errors import TrainingError
from se_nas.plugins import Channel, Task
from se_nas.ranks import Rank, Share
from se_nas.records import Epoch, Precision, Recipe, random_stream

VALIDATION_BATCH = 512


class Watch(pl.Callback):
    """Reports every epoch, keeps the curve, and ends a training that is stopped or no longer finite."""

    def __init__(self, channel: Channel, metric: str) -> None:
        self.channel = channel
        self.metric = metric
        self.curve: list[Epoch] = []
        self.stopped = False

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        epoch = trainer.current_epoch + 1
        if wrong := [name for name, value in metrics.items() if not math.isfinite(value)]:
            raise TrainingError(f"non-finite {wrong[0]} in epoch {epoch}")
        if self.metric not in metrics:
            raise TrainingError(f"the task did not log {self.metric!r}", allowed=sorted(metrics))
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
    rank: Rank | None = None,
) -> tuple[tuple[Epoch, ...], bool]:
    """Train a candidate in place, on train and validation part only.

    Returns the curve, one entry per epoch, and whether the channel stopped the training before its last epoch.

    Parameters
    ----------
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
    loaders: dict[str, Any]
    if data.kind == "module":
        module_source, _ = open_source(data.target)
        loaders = {"datamodule": AnyDataModule(module_source, rank=rank)}
        steps, class_counts = _steps_of(module_source, recipe), None
    else:
        batches = _batches(data, folder, recipe, seed=seed, device=device, channels_last=channels_last)
        loaders = {"train_dataloaders": Share(batches[0], rank) if rank else batches[0], "val_dataloaders": batches[1]}
        steps = len(batches[0]) * recipe.epochs
        class_counts = torch.bincount(batches[0].labels.cpu(), minlength=len(data.classes)).float()
    module = task.module(candidate, recipe, steps=steps, class_counts=class_counts)
    watch = Watch(channel, task.metric)
    trainer = _trainer(recipe, device, precision, watch, rank)
    with warnings.catch_warnings():
        # Advice on DataLoader workers: data modules are the user's business, and our batches have no workers.
        warnings.filterwarnings("ignore", message=r".*does not have many workers.*")
        # Lightning's own use of torch's trees.
        warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\).*")
        trainer.fit(module, **loaders)
    return tuple(watch.curve), watch.stopped


def _trainer(
    recipe: Recipe, device: torch.device, precision: str, watch: Watch, rank: Rank | None = None
) -> pl.Trainer:
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
        max_epochs=recipe.epochs,
        accelerator="gpu" if device.type == "cuda" else device.type,
        **together,
        precision="bf16-mixed" if precision == "bf16" else "32-true",
        callbacks=[watch],
        plugins=[LightningEnvironment()],  # else Lightning obeys SLURM variables of the shell
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )


def _batches(
    data: DataInfo, folder: Path, recipe: Recipe, *, seed: int, device: torch.device, channels_last: bool
) -> tuple[Batches, Batches]:
    common: dict[str, Any] = {"mean": data.mean, "std": data.std, "device": device, "channels_last": channels_last}
    return (
        Batches(open_part(folder, "train"), batch_size=recipe.batch_size, seed=seed, augment=recipe.augment, **common),
        Batches(open_part(folder, "val"), batch_size=VALIDATION_BATCH, **common),
    )


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
