"""A configuration with everything that follows from it before any training."""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from se_nas.backbones import build_backbone
from se_nas.backbones.adapt import logits_of
from se_nas.config import SearchConfig, measured_costs
from se_nas.cost import CostModel
from se_nas.data import prepare_data
from se_nas.data.base import DataInfo
from se_nas.errors import ConfigError
from se_nas.logs import check_logs, log_names
from se_nas.measure import Measurer
from se_nas.patterns import units_of
from se_nas.plugins import Task, absolute
from se_nas.pricing import Pricing, open_costs
from se_nas.recorder import run_once
from se_nas.records import Phase, Placement, Precision, Recipe, Request, RunIdentity, Trial, to_plain
from se_nas.se import insert_choices
from se_nas.space import Space
from se_nas.space_file import read_space
from se_nas.study import Objective
from se_nas.tasks import TASKS, open_task
from se_nas.train import choose_precision, rehearse, wants_channels_last


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A configuration with everything that follows from it before any training."""

    config: SearchConfig
    data: DataInfo
    task: Task
    space: Space
    costs: Pricing
    devices: tuple[str, ...]
    precision: Precision
    start_weights: str

    @property
    def objective(self) -> Objective:
        first, *more = self.config.cost.split(",")
        return Objective(metric=self.task.metric, direction=self.task.direction, cost=first, more=tuple(more))

    @property
    def recipe(self) -> Recipe:
        return self.config.train

    @property
    def facts(self) -> dict[str, Any]:
        """What must be equal for a study to go on."""
        return {
            "backbone": to_plain(self.config.backbone),
            "start_weights": self.start_weights,
            "data": {"checksum": self.data.checksum, "split": self.data.split, "classes": list(self.data.classes)},
            "task": to_plain(self.config.task),
            "objective": to_plain(self.objective),
            "train": {**to_plain(self.recipe), "precision": self.precision},
            "seed": self.config.seed,
            "space": self.space.to_plain(),
        }

    def trial(
        self, placement: Placement, *, owner: str, role: str, attempts: int, replicate: int = 0,
        seed: int | None = None, phase: Phase = "search",
    ) -> Trial:  # fmt: skip
        """The record of a training that is about to run; its number is not known yet."""
        identity = RunIdentity(
            key=placement.key,
            seed=self.config.seed if seed is None else seed,
            replicate=replicate,
            phase=phase,
            epochs=self.recipe.epochs,
            recipe=self.recipe,
            task=self.config.task,
            start_weights=self.start_weights,
            data=self.data.checksum,
            split=self.data.split,
            precision=self.precision,
        )
        return Trial(
            number=-1, identity=identity, placement=placement, state="running", role=role, attempts=attempts,
            owner=owner, costs=self.costs(placement),
        )  # fmt: skip

    def request(self, trial: Trial, folder: Path) -> Request:
        """What a worker is sent for a trial."""
        return Request(
            trial=trial.number,
            attempt=trial.attempts,
            placement=trial.placement,
            units=self.space.units,
            identity=trial.identity,
            backbone=self.config.backbone,
            folder=str(folder),
            metric=self.config.metric,
            direction=self.config.direction,
            device=self.devices[0],
            logs=log_names(self.config.logs),
            channels_last=wants_channels_last(self.precision, torch.device(self.devices[0])),
        )


def prepare(config: SearchConfig, folder: Path) -> Problem:
    """Data (cached in the folder), backbone, units, space and exact costs of a configuration."""
    config = replace(
        config,
        backbone=absolute(config.backbone),
        data=absolute(config.data),
        task=absolute(config.task),
        sampler=absolute(config.sampler),
        executor=absolute(config.executor),
    )
    check_logs(log_names(config.logs))
    devices = choose_devices(config)
    task = open_task(config.task, metric=config.metric, direction=config.direction)
    data = prepare_data(config.data, folder)
    getattr(task, "check", lambda _: None)(data)
    backbone = build_backbone(
        config.backbone, num_classes=len(data.classes) or None, input_shape=data.input_shape, seed=config.seed
    )
    spec = read_space(config.space)
    units = units_of(backbone, data.input_shape, spec)
    space = Space(spec, units)
    if (
        config.metric is not None
        or config.task.target not in TASKS
        or logits_of(run_once(backbone, data.input_shape)) is None
    ):
        rehearse(copy.deepcopy(backbone), task=task, recipe=config.train, data=data, folder=folder)
    return Problem(
        config=config,
        data=data,
        task=task,
        space=space,
        costs=_pricing(config, data, backbone, space, torch.device(devices[0]), folder / "measured.json"),
        devices=devices,
        precision=choose_precision(config.train.precision, torch.device(devices[0])),
        start_weights=_weights_checksum(backbone),
    )


def _pricing(
    config: SearchConfig, data: DataInfo, backbone: nn.Module, space: Space, device: torch.device, cache: Path
) -> Pricing:
    def build(placement: Placement) -> nn.Module:
        network = copy.deepcopy(backbone)
        insert_choices(network, space.units, placement.choices, seed=config.seed)
        return network

    shape = data.input_shape
    measurer = None
    if measured_costs(config):
        measurer = Measurer(build, space, input_shape=shape, device=device, batch=config.latency_batch)
    return Pricing(
        CostModel(backbone, space.units, shape),
        measurer=measurer,
        own=open_costs(name for name in config.measure if ":" in name),
        build=build,
        input_shape=shape,
        cache=cache,
    )


def choose_devices(config: SearchConfig) -> tuple[str, ...]:
    """The device of each slot: one slot for each GPU or each core, or as many as `workers` says."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if config.device.startswith("cuda"):
        wanted = [config.device] if ":" in config.device else [f"cuda:{i}" for i in range(gpus)]
        if not gpus or int(wanted[0][5:]) >= gpus:
            raise ConfigError(f"device is {config.device!r}, but there are {gpus} GPUs", hint="give --device cpu")
    else:
        wanted = [f"cuda:{i}" for i in range(gpus)] if config.device == "auto" else []
    if wanted:
        return tuple(wanted[i % len(wanted)] for i in range(config.workers or len(wanted)))
    return ("cpu",) * (config.workers or _cores())


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _more(old: list[Any], new: list[Any]) -> bool:
    return set(old) <= set(new)


def is_wider(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether the new facts differ only in more reductions to choose from."""
    before, after = old["space"], new["space"]
    same = {k: v for k, v in old.items() if k != "space"} == {k: v for k, v in new.items() if k != "space"}
    spec = [{k: v for k, v in s["spec"].items() if k not in ("reductions", "stages")} for s in (before, after)]
    return (
        same
        and spec[0] == spec[1]
        and before["units"] == after["units"]
        and before["parameters"].keys() == after["parameters"].keys()
        and _more(before["spec"]["reductions"], after["spec"]["reductions"])
        and all(
            _more(before["spec"]["stages"].get(d, before["spec"]["reductions"]), values)
            for d, values in after["spec"]["stages"].items()
        )
        and all(
            _more(values, after["spec"]["stages"].get(d, after["spec"]["reductions"]))
            for d, values in before["spec"]["stages"].items()
        )
        and all(set(values) <= set(after["parameters"][name]) for name, values in before["parameters"].items())
    )


def _weights_checksum(network: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, value in network.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
