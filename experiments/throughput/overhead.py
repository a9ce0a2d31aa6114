"""What Lightning costs: se-nas's own training against a bare loop over the same batches, optimizer and schedule."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from pathlib import Path

import torch
from common import Job
from torch import nn
from torch.nn import functional

from se_nas.core.trial import Target
from se_nas.data.batches import Batches, Shuffle
from se_nas.data.store import open_part, read_info
from se_nas.executors.memory import settle
from se_nas.training.classification import make_optimizer, make_schedule
from se_nas.training.tasks import open_task
from se_nas.training.trainer import (
    DeviceSettings,
    choose_precision,
    train,
    validation_batch,
    wants_channels_last,
)
from se_nas.training.trainer import (
    Job as Training,
)


class _Nobody:
    def report(self, epoch, metrics):
        return "continue"


def measure(job: Job, rounds: int) -> list[dict]:
    """Processor seconds and accuracy of both, once each in every round, in turns first."""
    torch.set_num_threads(1)
    settle()  # as every worker does
    _timed(lightning, job)
    _timed(bare, job)
    rows = []
    for number in range(rounds):
        order = [lightning, bare] if number % 2 else [bare, lightning]
        found = {way: _timed(way, job) for way in order}
        (first, a), (second, b) = found[lightning], found[bare]
        rows.append({"round": number, "lightning": first, "bare": second, "accuracy": a, "bare_accuracy": b})
    return rows


def _timed(way: Callable[[Job, nn.Module], float], job: Job) -> tuple[float, float]:
    network = job.network(0)
    gc.collect()
    start = time.process_time()
    accuracy = way(job, network)
    return time.process_time() - start, accuracy


def lightning(job: Job, network: nn.Module) -> float:
    device = torch.device(job.device)
    precision = choose_precision("auto", device)
    task, data = open_task(Target(target="classification")), read_info(Path(job.folder))
    curve, _ = train(
        network,
        Training(task=task, recipe=job.recipe, data=data, folder=Path(job.folder)),
        DeviceSettings(device=device, precision=precision, channels_last=wants_channels_last(precision, device)),
        channel=_Nobody(),
    )
    return curve[-1].metrics["val_accuracy"]


def bare(job: Job, network: nn.Module) -> float:
    device, recipe, info = torch.device(job.device), job.recipe, read_info(Path(job.folder))
    precision = choose_precision("auto", device)
    last = wants_channels_last(precision, device)
    network.to(device, memory_format=torch.channels_last if last else torch.contiguous_format)
    facts = {"mean": info.mean, "std": info.std, "device": device, "channels_last": last}
    train_part, val_part = (open_part(Path(job.folder), part) for part in ("train", "val"))
    batches = Batches(
        train_part, batch_size=recipe.batch_size, shuffle=Shuffle(seed=0, augment=recipe.augment), **facts
    )
    val = Batches(val_part, batch_size=validation_batch(device), **facts)
    optimizer = make_optimizer(network, recipe, fused=True)
    schedule = make_schedule(optimizer, recipe, len(batches) * recipe.epochs)
    cast = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
    right = torch.zeros(())
    for _ in range(recipe.epochs):
        network.train()
        for images, labels in batches:
            with cast:
                loss = functional.cross_entropy(network(images), labels, label_smoothing=recipe.label_smoothing)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        network.eval()
        right = torch.zeros((), device=device)
        with torch.inference_mode(), cast:
            for images, labels in val:
                right += (network(images).argmax(1) == labels).sum()
    return float(right) / info.val
