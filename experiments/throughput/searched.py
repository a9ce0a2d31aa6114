"""(c) se-nas: a whole search with its default sampler, storage, executor and settings, on the listed networks."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import ClassVar

import torch
from common import Clock, Job, listed, memory

from se_nas.commands.search import search
from se_nas.core.config import SearchConfig
from se_nas.core.placement import Placement
from se_nas.core.trial import Recipe, Request, Result, RunIdentity, Target
from se_nas.data.store import read_info
from se_nas.executors.local import LocalExecutor
from se_nas.samplers.known_cost import KnownCostSampler
from se_nas.space.levels import distributions
from se_nas.training.evaluate import evaluate
from se_nas.training.trainer import choose_precision, wants_channels_last


class Replay(KnownCostSampler):
    """The default sampler with all its work; what it proposes is then replaced by the next listed network."""

    def __init__(self, space, seed, cost, budget):
        super().__init__(distributions(space.parameters), cost, levels=space.parameters, seed=seed)
        self.listed = iter(listed(space, budget)[2:])  # the two reference points come by themselves

    def _propose(self, study, trial):
        super()._propose(study, trial)
        return self._space.encode(next(self.listed))


class Timed(LocalExecutor):
    """The default executor, with a clock from the first submission to the end of the last.

    It waits until the workers have loaded their libraries, since the other ways' imports are not counted either.
    """

    clock = Clock(os.getpid())
    memory: ClassVar[list] = []

    def __init__(self, devices):
        super().__init__(devices)
        ready = [super(Timed, self).submit(_ready, _request(), None) for _ in devices]
        for future in ready:
            future.result()
        Timed.clock.start()

    def shutdown(self, *, wait: bool = True) -> None:
        Timed.clock.stop()
        Timed.memory = [memory(worker.process.pid) for worker in self._workers.values()]
        super().shutdown(wait=wait)


def _ready(request: Request, channel) -> Result:
    time.sleep(0.5)  # so that each worker gets one
    return Result(trial=-1, state="complete")


def _request() -> Request:
    nothing, nobody = Placement(choices={}), Target(target="")
    identity = RunIdentity(
        key="", seed=0, epochs=1, recipe=Recipe(), task=nobody, data="", split="", precision="32"
    )  # fmt: skip
    return Request(trial=-1, placement=nothing, units=(), identity=identity, backbone=nobody, folder="")


def run(job: Job) -> dict:
    with tempfile.TemporaryDirectory() as out:
        Path(out, "data").symlink_to(Path(job.folder) / "data")
        result = search(
            SearchConfig(
                backbone=Target(target=job.backbone),
                data=read_info(Path(job.folder)).target,
                sampler=Target(target="searched:Replay"),
                executor=Target(target="searched:Timed"),
                train=job.recipe,
                budget=job.candidates,
                workers=job.workers,
                device=job.device,
                out=out,
            )
        )
    return {
        "seconds": Timed.clock.seconds,
        "cpu": Timed.clock.cpu,
        "accuracies": result.trials["metric"].tolist(),
        "memory": Timed.memory,
    }


class _Nobody:
    def report(self, epoch, metrics):
        return "continue"


def accuracies(job: Job, seeds: int) -> list[float]:
    """Final validation accuracies of SE everywhere at r=16, one for each seed."""
    space, device = job.space(), torch.device(job.device)
    precision = choose_precision("auto", device)
    placement, recipe = space.reference, job.recipe
    found = []
    for seed in range(seeds):
        identity = RunIdentity(
            key=placement.key, seed=seed, epochs=recipe.epochs, recipe=recipe, task=Target(target="classification"),
            data="", split="", precision=precision,
        )  # fmt: skip
        request = Request(
            trial=seed, placement=placement, units=space.units, identity=identity,
            backbone=Target(target=job.backbone), folder=job.folder, device=job.device,
            channels_last=wants_channels_last(precision, device),
        )  # fmt: skip
        found.append(evaluate(request, _Nobody()).metrics["val_accuracy"].value)
    return found
