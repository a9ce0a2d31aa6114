"""A first training step before a search, so that a task that cannot work is known at once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from se_nas.core.errors import SeNasError, TrainingError, did_you_mean
from se_nas.core.protocols import Task
from se_nas.core.trial import Recipe
from se_nas.data.base import DataInfo
from se_nas.training.own_loop import place_of
from se_nas.training.trainer import DeviceSettings, Job, loaders_of, make_trainer, quiet

BATCH = 8


def rehearse(candidate: nn.Module, *, task: Task, recipe: Recipe, data: DataInfo, folder: Path) -> None:
    """Two training and two validation batches on the CPU.

    Batches are small, and the trainer says that this is a rehearsal (``fast_dev_run``). TrainingError with what
    went wrong, or if the task does not log its metric.
    """
    recipe = replace(recipe, batch_size=min(recipe.batch_size, BATCH))
    loaders, facts = loaders_of(Job(task=task, recipe=recipe, data=data, folder=folder), DeviceSettings())
    if data.kind == "arrays":
        loaders["val_dataloaders"].batch_size = BATCH
    try:
        with torch.random.fork_rng(devices=[]), quiet():
            torch.manual_seed(0)
            module = task.module(candidate, recipe, **facts)
            trainer = make_trainer(recipe, DeviceSettings(), rehearsal=2)
            trainer.fit(module, **loaders)
    except SeNasError:
        raise
    except Exception as error:  # whatever a user's module or network raises
        reason = str(error).strip().splitlines() or [""]
        raise TrainingError(
            f"a first training step with this task and network fails: {type(error).__name__}: {reason[0]}",
            where=place_of(error),
            hint="try the module with its network and a batch of the data by hand",
        ) from error
    logged = set(trainer.callback_metrics)
    if task.metric not in logged:
        raise TrainingError(
            f"the task does not log {task.metric!r} in validation",
            allowed=sorted(logged),
            hint=did_you_mean(task.metric, logged) or f"self.log({task.metric!r}, ...) in validation_step",
        )
