"""A few real training steps, timed: what a training will take in time, memory and disk."""

from __future__ import annotations

import math
import statistics
import sys
import time
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from se_nas.core.protocols import Channel
from se_nas.core.trial import Metric, Request, Result
from se_nas.data.shards import devices_of
from se_nas.data.store import read_info
from se_nas.training.answer import answer
from se_nas.training.devices import CONTEXT_BYTES
from se_nas.training.evaluate import candidate_of
from se_nas.training.tasks import open_task
from se_nas.training.trainer import DeviceSettings, Job, loaders_of, make_trainer, quiet, validation_batch

FIRST = 8
"""Images in the batches of the first, untimed steps."""

SECONDS = 3.0
"""The timed steps take about as long, at most."""

FEWEST, MOST = 3, 12
"""Steps that are timed."""


@dataclass(frozen=True, kw_only=True)
class Steps:
    """What steps of one training took. `memory` is in bytes at the worst moment; `weights` are bytes of its file."""

    start_seconds: float
    """Before the first step: the network is built and the data are opened."""
    epoch_seconds: float
    """Training and validation of one epoch; NaN where the data do not say how long one is."""
    memory: float
    weights: float
    images: float
    """In a timed batch: fewer than the recipe's where a whole one would take too long."""

    @classmethod
    def of(cls, result: Result) -> Steps | None:
        """What `time_steps` found; None if it failed, or somebody else answered."""
        names = [field.name for field in fields(cls)]
        if result.state != "complete" or not all(name in result.metrics for name in names):
            return None
        return cls(**{name: result.metrics[name].value for name in names})


def time_steps(request: Request, channel: Channel) -> Result:
    """Time some steps of the training that a request asks for; nothing of it is kept.

    The first steps, with small batches, are for the libraries and to learn what a whole batch would take; the timed
    ones have whole batches where these take less than `SECONDS`, else as large ones as fit, and count by images. The
    module is told that this is a rehearsal (``fast_dev_run``). A failure is a result with its reason.
    """

    def work(result: Result) -> Result:
        with torch.random.fork_rng(devices=[]):
            found = _timed(request)
        values = {field.name: getattr(found, field.name) for field in fields(found)}
        metrics = {n: Metric(value=value, direction="minimize", unit="") for n, value in values.items()}
        return replace(result, metrics=metrics)

    return answer(request, work)


def _timed(request: Request) -> Steps:
    device = torch.device(devices_of(request.device)[0])
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    batch = min(request.identity.recipe.batch_size, read_info(Path(request.folder)).train)
    run = _fit(request, device, batch=min(FIRST, batch), steps=FEWEST)
    images = SECONDS / max(run.each, 1e-9)
    if images >= FEWEST * run.batch:  # else what is known must do
        size = max(run.batch, min(batch, int(images / FEWEST)))
        run = _fit(request, device, batch=size, steps=max(FEWEST, min(MOST, int(images / size))))
    return Steps(
        start_seconds=run.start,
        epoch_seconds=run.epoch,
        memory=_peak(device),
        weights=run.weights,
        images=run.batch,
    )


@dataclass(frozen=True, kw_only=True)
class _Run:
    """What a short training took: seconds before it, for each image of training and validation, of a whole epoch."""

    start: float
    each: float
    epoch: float
    batch: int
    """Images in a training batch; 1 where it is not known."""
    weights: float


def _fit(request: Request, device: torch.device, *, batch: int, steps: int) -> _Run:
    """Train for some steps with batches of so many images, and validate on as many batches."""
    begun = time.perf_counter()
    identity, folder = request.identity, Path(request.folder)
    data = read_info(folder)
    candidate = candidate_of(request, data, identity.seed)
    if request.channels_last:
        candidate.to(memory_format=torch.channels_last)
    weights = sum(value.numel() * value.element_size() for value in candidate.state_dict().values())
    torch.manual_seed(0)
    recipe = replace(identity.recipe, batch_size=batch)
    task = open_task(identity.task, metric=request.metric, direction=request.direction)
    settings = DeviceSettings(device=device, precision=identity.precision, channels_last=request.channels_last)
    loaders, facts = loaders_of(Job(task=task, recipe=recipe, data=data, folder=folder), settings)
    module = task.module(candidate, recipe, **facts)
    own = data.kind == "module"  # its batches are as its loaders make them
    if not own:
        loaders["val_dataloaders"].batch_size = min(validation_batch(device), 2 * batch, data.val)
    clock = _Clock(device)
    trainer = make_trainer(recipe, settings, clock, rehearsal=steps)
    with quiet():
        trainer.fit(module, **loaders)
    training, validation = _usual(clock.training), _usual(clock.validation)
    numbers = clock.lengths
    if not own:  # of the images that the recipe's whole batches hold
        full = min(identity.recipe.batch_size, data.train)
        numbers = (data.train // full * full / batch, data.val / loaders["val_dataloaders"].batch_size)
    return _Run(
        start=max(clock.begun - begun, 0.0),
        each=(training + validation) / (1 if own else batch),
        epoch=numbers[0] * training + numbers[1] * validation + clock.beside,
        batch=1 if own else batch,
        weights=weights,
    )


def _usual(seconds: list[float]) -> float:
    """The median without the first, which pays for what comes once."""
    return statistics.median(seconds[1:] or seconds or [0.0])


class _Clock(pl.Callback):
    """Times batches: from the end of one to the end of the next, loading included."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.training: list[float] = []
        self.validation: list[float] = []
        self.begun = self._last = 0.0
        self.beside = 0.0
        """Seconds of the epoch in which no batch runs."""
        self.lengths = (math.nan, math.nan)
        """Batches of a whole epoch, in training and in validation."""

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        val = trainer.val_dataloaders
        loaders = (trainer.train_dataloader, val[0] if isinstance(val, list | tuple) else val)
        self.lengths = (_length(loaders[0]), _length(loaders[1]))
        self.begun = self._last = self._now()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        self.training.append(self._lap())
        if sum(self.training) > SECONDS and len(self.training) > 1:
            trainer.should_stop = True

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.beside += self._lap()

    def on_validation_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        self.validation.append(self._lap())

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.beside += self._lap()

    def _lap(self) -> float:
        now = self._now()
        lap, self._last = now - self._last, now
        return lap

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def _length(loader: Any) -> float:
    """Batches in a loader; NaN if it does not say, 0 if there is none."""
    try:
        return 0.0 if loader is None else float(len(loader))
    except (TypeError, NotImplementedError):
        return math.nan


def _peak(device: torch.device) -> float:
    """Bytes that this training has taken at the worst moment: of the GPU, or else of this process; NaN if unknown."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_reserved(device) + CONTEXT_BYTES)
    try:
        import resource  # which Windows does not have
    except ImportError:
        return math.nan
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * (1 if sys.platform == "darwin" else 1024)
