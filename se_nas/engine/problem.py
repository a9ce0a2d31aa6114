"""A configuration with everything that follows from it before any training."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from msgspec import UNSET
from torch import nn

from se_nas.backbones.adapt import logits_of
from se_nas.backbones.build import build_backbone, is_pretrained
from se_nas.backbones.forward import run_once
from se_nas.backbones.weights import Weights, fit_weights, read_checkpoint, weights_checksum
from se_nas.core.config import LIGHTNING, OWN_DATA, SearchConfig, measured_costs
from se_nas.core.costs import MEASURED
from se_nas.core.errors import ConfigError
from se_nas.core.files import user_path
from se_nas.core.latency_names import LATENCY, table_files
from se_nas.core.own_blocks import named_blocks
from se_nas.core.placement import IDENTITY, PLAIN, Choice, Placement
from se_nas.core.plugins import absolute
from se_nas.core.protocols import Judged
from se_nas.core.serialization import random_stream, to_plain
from se_nas.core.trial import Objective, Phase, Precision, Recipe, Request, RunIdentity, Target, Trial
from se_nas.data.base import DataInfo
from se_nas.data.shards import devices_of
from se_nas.data.store import cut_note, prepare_data
from se_nas.engine.own_trainer import brings_data, check_trainer, own_data, trainer_note
from se_nas.executors.build import ask_elsewhere, slots_elsewhere
from se_nas.exports.plain_call import check_apart
from se_nas.insertion.discover import units_of
from se_nas.insertion.insert import insert_choices
from se_nas.runtimes.latency_table import BenchFacts, read_table
from se_nas.runtimes.table import open_runtimes
from se_nas.space.exact_cost import Cost, CostModel
from se_nas.space.measured_cost import Measurer
from se_nas.space.pricing import CACHE, Pricing, open_costs
from se_nas.space.space import Space
from se_nas.space.spec import read_space
from se_nas.training.devices import choose_devices, cores, gpu_need, trainings_at_once
from se_nas.training.evaluate import save_state, start_file, train_steps
from se_nas.training.loggers import check_logs, log_names
from se_nas.training.own_loop import OwnLoop
from se_nas.training.rehearsal import rehearse
from se_nas.training.supernet import widest_choices
from se_nas.training.tasks import TASKS, open_task
from se_nas.training.trainer import choose_precision, wants_channels_last
from se_nas.training.trainers import open_loop


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A configuration with everything that follows from it before any training."""

    config: SearchConfig
    data: DataInfo
    task: Judged
    """What says which value is compared: the task, or the user's own training loop."""
    space: Space
    costs: Pricing
    devices: tuple[str, ...]
    precision: Precision
    start_weights: str
    notes: tuple[str, ...] = ()
    """What the user should know of how the network was prepared."""

    @property
    def objective(self) -> Objective:
        first, *more = self.config.cost.split(",")
        return Objective(metric=self.task.metric, direction=self.task.direction, cost=first, more=tuple(more))

    @property
    def loop(self) -> OwnLoop | None:
        """The user's own training loop, if it trains."""
        return self.task if isinstance(self.task, OwnLoop) else None

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
            "trainer": to_plain(self.config.trainer),
            "objective": to_plain(self.objective),
            "train": {**to_plain(self.recipe), "precision": self.precision},
            "seed": self.config.seed,
            "vary_seed": self.config.vary_seed,
            "space": self.space.to_plain(),
        }

    def trial(
        self, placement: Placement, *, owner: str, role: str, attempts: int, replicate: int = 0,
        seed: int | None = None, phase: Phase = "search",
    ) -> Trial:  # fmt: skip
        """The record of a training that is about to run; its number is not known yet."""
        if seed is None:
            own = self.config.vary_seed and phase == "search"
            seed = random_stream(self.config.seed, "search", placement.key) % 2**31 if own else self.config.seed
        identity = RunIdentity(
            key=placement.key,
            seed=seed,
            replicate=replicate,
            phase=phase,
            epochs=self.recipe.epochs,
            recipe=self.recipe,
            task=self.config.task,
            initialisation=initialisation(self.config),
            start_weights=self.start_weights,
            data=self.data.checksum,
            split=self.data.split,
            precision=self.precision,
            trainer=UNSET if self.loop is None else self.config.trainer,
        )
        return Trial(
            number=-1, identity=identity, placement=placement, state="running", role=role, attempts=attempts,
            owner=owner, costs=self.costs(placement),
        )  # fmt: skip

    @functools.cached_property
    def offered(self) -> dict[str, tuple[Choice, ...]]:
        """Unit -> the widest blocks of the space, for a network that all candidates share."""
        return widest_choices(self.space)

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
            search=folder.name,
            costs={name: cost.value for name, cost in trial.costs.items()} if self.config.logs else {},
            channels_last=wants_channels_last(self.precision, torch.device(devices_of(self.devices[0])[0])),
            checkpoint_minutes=self.config.checkpoint_minutes,
            graph=self.config.graph,
            offered={} if self.config.graph == "plain" else self.offered,
        )


def prepare(
    config: SearchConfig, folder: Path, *, include_val: bool = False, init: str | None = None,
    stage: Callable[[str], object] = lambda _: None,
) -> Problem:  # fmt: skip
    """Data (cached in the folder), backbone, units, space and exact costs of a configuration.

    With `include_val` the training set has the images of the validation set, too. `init` is how the SE blocks of the
    run that goes on started when it began (`se_nas.engine.kept_start`). `stage` is told what is being done.
    """
    config = replace(
        config,
        backbone=absolute(config.backbone),
        data=absolute(config.data),
        task=absolute(config.task),
        trainer=absolute(config.trainer),
        sampler=absolute(config.sampler),
        executor=absolute(config.executor),
        weights=None if config.weights is None else str(user_path(config.weights).resolve()),
        latency_table=",".join(str(user_path(f).resolve()) for f in table_files(config.latency_table).values()) or None,
    )
    loop = open_loop(config.trainer, metric=config.metric, direction=config.direction)
    check_trainer(config, loop)
    if config.executor.target not in ("local", "inline"):
        stage(f"connecting to the executor {config.executor.target}")
    elsewhere = slots_elsewhere(config.executor, device=config.device, workers=config.workers)
    check_logs(log_names(config.logs), elsewhere=elsewhere is not None)
    if elsewhere and config.devices_per_trial > 1:
        raise ConfigError(
            f"devices_per_trial is {config.devices_per_trial}, but the executor {config.executor.target!r} gives one "
            "device to each training",
            hint="leave it out, or search with --executor local",
        )
    if elsewhere and config.trials_per_device:
        raise ConfigError(
            f"trials_per_device is {config.trials_per_device}, but the executor {config.executor.target!r} shares out "
            "the devices of other machines itself",
            hint=f"give --executor.args.gpus_per_trial {1 / config.trials_per_device:.2g}",
        )
    devices = elsewhere or choose_devices(config)
    here = torch.device(devices_of((choose_devices(replace(config, device="auto")) if elsewhere else devices)[0])[0])
    task = loop or open_task(config.task, metric=config.metric, direction=config.direction)
    stage("reading the data")
    if loop is not None and brings_data(config, loop):
        config = replace(config, data=Target(target=OWN_DATA))
        data = own_data(config, loop, folder, include_val=include_val)
    else:
        data = prepare_data(config.data, folder, include_val=include_val)
    getattr(task, "check", lambda _: None)(data)
    stage(f"building the backbone {config.backbone.target}")
    backbone = build_backbone(
        config.backbone, num_classes=len(data.classes) or None, input_shape=data.input_shape, seed=config.seed
    )
    said = [cut_note(data), *data.notes, "" if loop is None else trainer_note(config, loop, data)]
    notes = tuple(filter(None, said))
    weights: Weights = {}
    if config.weights is not None:
        read = read_checkpoint(config.weights)
        fitted = fit_weights(backbone, read.weights, num_classes=len(data.classes) or None, where=config.weights)
        backbone.load_state_dict(fitted.weights, strict=False)
        weights = fitted.weights
        notes += tuple(f"weights: {note}" for note in (*read.notes, *fitted.notes))
    start = weights_checksum(backbone)
    if weights:
        save_state(weights, start_file(folder, start))
    spec = read_space(config.space)
    check_apart([config.backbone, *(named.target for named in named_blocks(spec.own.values()))])
    if initialisation(config) != "scratch":
        if spec.init == PLAIN:
            notes += ("SE blocks start as the identity despite init: plain, since the network is pretrained",)
        spec = replace(spec, init=IDENTITY)
    elif init == PLAIN and spec.start != PLAIN and spec.init is None:
        spec = replace(spec, init=PLAIN)
        notes += ("SE blocks start as in the SE paper (init: plain), as they did when this run began",)
    stage("finding the sites of SE blocks")
    units = units_of(backbone, data.input_shape, spec.units)
    space = Space(spec, units)
    if loop is None and (
        config.metric is not None
        or config.task.target not in TASKS
        or logits_of(run_once(backbone, data.input_shape)) is None
    ):
        own = open_task(config.task, metric=config.metric, direction=config.direction)
        stage("trying out a step of training")
        rehearse(copy.deepcopy(backbone), task=own, recipe=config.train, data=data, folder=folder)
    precision = _precision(config, elsewhere[0] if elsewhere else None, here)
    if not elsewhere and config.executor.target != "inline" and loop is None:
        devices = choose_devices(config, _trainings_at_once(config, data, space, folder, precision, stage))
    stage(f"pricing {space.size:,} placements")
    return Problem(
        config=config,
        data=data,
        task=task,
        space=space,
        costs=_pricing(config, data, backbone, space, here, folder / CACHE),
        devices=devices,
        precision=precision,
        start_weights=start,
        notes=notes,
    )


def initialisation(config: SearchConfig) -> str:
    """Where the backbone's weights come from: ``weights`` (a file), ``pretrained`` (its library) or ``scratch``."""
    if config.weights is not None:
        return "weights"
    return "pretrained" if is_pretrained(config.backbone) else "scratch"


def _trainings_at_once(
    config: SearchConfig, data: DataInfo, space: Space, folder: Path, precision: Precision,
    stage: Callable[[str], object],
) -> Callable[[str], int]:  # fmt: skip
    """How many trainings a GPU takes, measured with the reference placement, which has SE everywhere."""

    def at_once(gpu: str) -> int:
        device = torch.device(gpu)
        if device.type != "cuda":  # others do not tell what a training needs
            return 1
        stage(f"measuring what a training needs on {gpu}")
        placement = space.reference
        request = Request(
            trial=-1, placement=placement, units=space.units, backbone=config.backbone, folder=str(folder), device=gpu,
            metric=config.metric, direction=config.direction, channels_last=wants_channels_last(precision, device),
            identity=RunIdentity(
                key=placement.key, seed=config.seed, epochs=1, recipe=config.train, task=config.task,
                data=data.checksum, split=data.split, precision=precision,
            ),
        )  # fmt: skip
        try:
            need = gpu_need(lambda number: train_steps(request, number), device)
        except Exception:  # memory is too small, or the user's code fails: the first training will say so
            return 1
        free, _ = torch.cuda.mem_get_info(device)
        return trainings_at_once(need, free=free, cores=max(1, cores() // torch.cuda.device_count()))

    return at_once


def _precision(config: SearchConfig, elsewhere: str | None, here: torch.device) -> Precision:
    """One precision for all trainings: that of this machine, or what all the others have."""
    wanted = config.train.precision
    if config.trainer.target != LIGHTNING:
        return "32"
    if elsewhere is None or wanted != "auto":
        return choose_precision(wanted, here)
    found = set(ask_elsewhere(config.executor, probe_precision, elsewhere))
    return "bf16" if found == {"bf16"} else "32"


def probe_precision(device: str) -> Precision:
    """The precision that the machine which runs this would choose for a device."""
    return choose_precision("auto", torch.device(device))


def _pricing(
    config: SearchConfig, data: DataInfo, backbone: nn.Module, space: Space, device: torch.device, cache: Path
) -> Pricing:
    def build(placement: Placement) -> nn.Module:
        network = copy.deepcopy(backbone)
        insert_choices(network, space.units, placement.choices, seed=config.seed)
        return network

    shape = data.input_shape
    exact = CostModel(backbone, space.units, shape)
    return Pricing(
        exact,
        measurer=_measurer(config, build, space, shape, device, exact.backbone),
        own=open_costs(name for name in config.measure if ":" in name),
        build=build,
        input_shape=shape,
        cache=cache,
    )


def _measurer(
    config: SearchConfig, build: Callable[[Placement], nn.Module], space: Space, shape: tuple[int, ...],
    device: torch.device, without: Cost,
) -> Measurer | None:  # fmt: skip
    """What measures latency and memory where the search asks for them; the tables are checked in any case."""
    wanted, files = measured_costs(config), table_files(config.latency_table)
    facts = BenchFacts(
        backbone=config.backbone,
        input_shape=shape,
        batch=config.latency_batch,
        params=without.params,
        macs=without.macs,
    )
    tables = {name: read_table(file, space, facts) for name, file in files.items()}
    if not wanted:
        return None
    memory = bool(wanted & set(MEASURED))  # both are recorded where one is asked for, as they always were
    names = [*([LATENCY] if memory else []), *sorted(n for n in wanted - {*files} if n not in MEASURED)]
    return Measurer(
        build, space, input_shape=shape, device=device, batch=config.latency_batch, threads=config.latency_threads,
        runtimes=open_runtimes(names, device=device, threads=config.latency_threads), memory=memory,
        tables={name: table for name, table in tables.items() if name in wanted},
    )  # fmt: skip


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


def unit_of(problem: Problem, trials: Sequence[Trial]) -> str:
    """The unit of the metric, by trainings that are there, else as the task says; empty if neither does."""
    name = problem.objective.metric
    known: dict[str, str] = dict(getattr(problem.task, "units", {}))
    return next((t.metrics[name].unit for t in trials if name in t.metrics), known.get(name, ""))
