"""The configuration of a search: one dataclass for the command line, YAML and Python."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

from se_nas.core.costs import COSTS, MEASURED
from se_nas.core.documents import UnreadableError, from_yaml
from se_nas.core.errors import ConfigError
from se_nas.core.latency_names import canonical, check_latency, is_latency, table_files
from se_nas.core.ranges import MAX_VALUES, check_whole, is_finite
from se_nas.core.trial import Direction, Graph, Recipe, Target

LIGHTNING = "lightning"
"""The built-in trainer."""

OWN_DATA = "own"
"""Name of the data set of a trainer that brings its own."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Hard limits: no placement above one of them is ever trained, the two reference points excepted.

    Args:
        params: Learnable parameters.
        gflops: 10^9 multiply-adds for one image.
        macs: Multiply-adds for one image.
        activations: Output elements of convolutions and linear layers.
        latency: Milliseconds for one batch in torch; the upper end of the 90 % interval counts.
        memory: MiB at the worst moment of one inference.
        own: Own costs, and latencies of other runtimes, by name.
    """

    params: float | None = None
    gflops: float | None = None
    macs: float | None = None
    activations: float | None = None
    latency: float | None = None
    memory: float | None = None
    own: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """A search.

    Args:
        backbone: The CNN: resnet8, resnet14, resnet20, resnet32, resnet56, timm:NAME, torchvision:NAME, pytorchcv:NAME,
            hf:NAME, ultralytics:NAME, package.module:factory or file.py:factory.
        data: The data set: digits, folder:PATH, npz:FILE, torchvision:NAME, hf:NAME, or a LightningDataModule by import
            path.
        task: What is trained for: classification, or the user's own by import path, such as a LightningModule class
            that takes the network.
        trainer: Who trains: lightning, or a training loop of the user's own by import path, a function
            train(network, *, seed, epochs, device, folder, report) that returns metrics.
        input_shape: Of a trainer that brings its own data: channels,height,width of an image.
        num_classes: Of a trainer that brings its own data; default what its backbone has.
        metric: The logged value that is compared; default the task's own, for a LightningModule its attribute metric.
        direction: maximize or minimize the metric; default as the task says.
        margin: The smallest gain over the plain backbone that is worth its cost: in points (hundredths) where the
            metric is a share, default 0.3; else in the metric's unit, default 1 % of the value without SE. It only
            judges: a search may go on with another.
        weights: Start from the weights in this file (safetensors, a state dict of torch, a Lightning checkpoint); SE
            blocks then always start as the identity.
        space: The search space: stagewise, blockwise, on-off, or a YAML file.
        sampler: Who proposes: known-cost, tpe, gp, nsga2, random, exhaustive, or the user's own by import path.
        executor: Where trainings run: local, inline, ray, ray:HOST:PORT, or the user's own by import path.
        train: How every candidate is trained.
        max: Hard limits on costs.
        cost: The cost axis of the front: gflops, macs, params, activations, latency, latency@RUNTIME, memory, or an own
            cost by name; several, with commas between, form the front together. RUNTIME is torch, torch-compile,
            onnxruntime, onnxruntime-int8, tensorrt, or the name of a table of latencies.
        measure: Costs to record beside the exact ones: latency, latency@RUNTIME, memory, or the user's own by import
            path.
        latency_batch: Images at a time when latency and memory are measured.
        latency_threads: Threads on a CPU when latency is measured.
        latency_table: JSON file that the script of se-nas bench wrote on another device; NAME.json gives the cost
            latency@NAME. Several with commas between.
        budget: Number of trainings; failed and rejected ones are free.
        early_stopping: Whether to end a training once its learning curve says that it cannot reach the front at its
            own cost; the reference points are never stopped.
        max_time: Propose nothing after this long, such as 90s, 10m or 2h; what then runs has a tenth of it (at least a
            minute) to end, and is ended then, to go on with the next call.
        trial_timeout: End a training that has given no sign of life for this long, such as 10m or 2h, and go on with
            others; each batch is a sign of life. auto: 10 times the slowest training so far, at least 10 minutes, and
            12 hours before the first has ended; off: never. The executor inline cannot end a training.
        workers: Trainings at a time; default one for each core, or one for each GPU.
        device: auto, cpu, an accelerator of torch (cuda, mps, xpu, ...), or one of several such as cuda:1.
        trials_per_device: Trainings at a time on each device; default as many as memory, utilisation and cores of the
            machine allow on a GPU, and one for each core on a CPU.
        checkpoint_minutes: A long training leaves a checkpoint when the last is so old, and goes on from it after a
            crash; 0 for never.
        devices_per_trial: Devices that train one candidate together, each a share of every batch (Lightning DDP).
        graph: How networks run: plain, each as it is; shared, one network with masks for all placements, on a GPU
            captured once as a CUDA graph; compiled, the same through torch.compile.
        seed: Seed of everything random.
        vary_seed: Whether each network is trained with a seed of its own, drawn from `seed`. With one seed for all, its
            luck is common to similar networks, and the posterior takes it for an effect.
        out: The run folder; default runs/BACKBONE-DATA. An existing run goes on where it stopped.
        storage: Optuna storage URL, such as postgresql://USER@HOST/DATABASE, that several drivers may share; default an
            SQLite file in the run folder.
        keep_weights: all, front (of networks on the front only), or auto: all while they take less than 1 GiB.
        logs: Logs of each training, one or several with commas between: csv and tensorboard (in RUN/logs), wandb,
            mlflow (in RUN/logs/mlflow.db, or where MLFLOW_TRACKING_URI says); default none.
    """

    backbone: Target = field(default_factory=lambda: Target(target="resnet20"))
    data: Target = field(default_factory=lambda: Target(target="digits"))
    task: Target = field(default_factory=lambda: Target(target="classification"))
    trainer: Target = field(default_factory=lambda: Target(target=LIGHTNING))
    input_shape: str | None = None
    num_classes: int | None = None
    metric: str | None = None
    direction: Direction | None = None
    margin: float | None = None
    weights: str | None = None
    space: str = "stagewise"
    sampler: Target = field(default_factory=lambda: Target(target="known-cost"))
    executor: Target = field(default_factory=lambda: Target(target="local"))
    train: Recipe = field(default_factory=Recipe)
    max: Limits = field(default_factory=Limits)
    cost: str = "gflops"
    measure: list[str] = field(default_factory=list)
    latency_batch: int = 1
    latency_threads: int = 1
    latency_table: str | None = None
    budget: int = 50
    early_stopping: bool = False
    max_time: str | None = None
    trial_timeout: str = "auto"
    workers: int | None = None
    device: str = "auto"
    trials_per_device: int | None = None
    checkpoint_minutes: float = 5.0
    devices_per_trial: int = 1
    graph: Graph = "plain"
    seed: int = 0
    vary_seed: bool = True
    out: str | None = None
    storage: str | None = None
    keep_weights: str = "auto"
    logs: str = ""

    def __post_init__(self) -> None:
        for name in ("budget", "workers", "trials_per_device", "devices_per_trial", "latency_batch",
                     "latency_threads", "num_classes", "seed"):  # fmt: skip
            check_whole(name, getattr(self, name))
        for name in ("margin", "checkpoint_minutes"):
            _check(name, getattr(self, name), is_finite(getattr(self, name)), "a number")
        _check("margin", self.margin, self.margin is None or self.margin > 0, "a number above 0")
        _check("checkpoint_minutes", self.checkpoint_minutes, self.checkpoint_minutes >= 0, "a number from 0")
        together = self.devices_per_trial
        shared_out = f"{self.train.batch_size}, which {together} devices cannot share out evenly"
        _check("batch_size", shared_out, self.train.batch_size % together == 0, "a multiple of devices_per_trial")
        tables = table_files(self.latency_table)
        own = [name for name in self.measure if ":" in name]
        object.__setattr__(self, "measure", [canonical(name) for name in self.measure])
        object.__setattr__(self, "cost", ",".join(map(canonical, self.cost.split(","))))
        for where, names in (("measure", self.measure), ("cost", self.cost.split(",")), ("max_own", self.max.own)):
            for name in names:
                check_latency(name, tables, where=where)
        for name in self.measure:
            good = name in own or name in MEASURED or is_latency(name)
            _check("measure", name, good, *MEASURED, "latency@RUNTIME", "package.module:Cost")
        for name in self.cost.split(","):
            _check("cost", name, name in COSTS or is_latency(name) or bool(own), *COSTS, "latency@RUNTIME")
        for name, given in (("cost", self.cost.split(",")), ("measure", self.measure)):
            twice = next((one for one in given if given.count(one) > 1), None)
            _check(name, f"{','.join(given)}, with {twice} twice", twice is None, "each name once")
        _check("keep_weights", self.keep_weights, self.keep_weights in ("auto", "front", "all"), "auto", "front", "all")
        good = re.fullmatch(r"auto|cpu|(?!auto|cpu|gpu)[a-z]\w*(:\d+)?", self.device) is not None
        _check("device", self.device, good, "auto", "cpu", "cuda", "cuda:N", "mps", "xpu")
        for name in COSTS:
            limit = getattr(self.max, name)
            _check(f"max_{name}", limit, limit is None or (limit > 0 and is_finite(limit)), "a number above 0")
        _check("max_own", self.max.own, is_finite(self.max.own), "names with numbers")
        for name in filter(is_latency, self.max.own):
            _check(f"max_{name}", self.max.own[name], self.max.own[name] > 0, "a number above 0")
        check_recipe(self.train)
        if self.input_shape is not None:
            shape_of(self.input_shape)
        if self.max_time is not None:
            seconds(self.max_time)
        if self.trial_timeout not in ("auto", "off"):
            seconds(self.trial_timeout, "trial_timeout", "auto", "off")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One long training of a chosen placement.

    Args:
        placement: A placement.json that se-nas wrote, or none, keep, all:R, STAGE=R,... . Settings that are not given
            are those of the run that the file lies in, or at least its backbone.
        backbone: The CNN, as for a search.
        data: The data set.
        task: What is trained for.
        trainer: Who trains, as for a search.
        input_shape: Of a trainer that brings its own data: channels,height,width of an image.
        num_classes: Of a trainer that brings its own data.
        metric: The logged value that is shown; default the task's own.
        direction: maximize or minimize the metric.
        weights: Start from the weights in this file.
        space: The search space, which names the units that a placement speaks of.
        train: How it is trained.
        include_val: Train on the validation set, too; its values are then those of images that were trained on.
        executor: Where it is trained.
        trial_timeout: End the training when it has given no sign of life for this long, as in a search; it is then
            tried again, three times in all.
        device: auto, cpu, an accelerator of torch (cuda, mps, xpu, ...), or one of several such as cuda:1.
        seed: Seed of everything random.
        out: The folder; an existing training goes on where it stopped.
        logs: Logs of the training, as for a search.
    """

    placement: str
    backbone: Target = field(default_factory=lambda: Target(target="resnet20"))
    data: Target = field(default_factory=lambda: Target(target="digits"))
    task: Target = field(default_factory=lambda: Target(target="classification"))
    trainer: Target = field(default_factory=lambda: Target(target=LIGHTNING))
    input_shape: str | None = None
    num_classes: int | None = None
    metric: str | None = None
    direction: Direction | None = None
    weights: str | None = None
    space: str = "stagewise"
    train: Recipe = field(default_factory=Recipe)
    include_val: bool = False
    executor: Target = field(default_factory=lambda: Target(target="local"))
    trial_timeout: str = "auto"
    device: str = "auto"
    seed: int = 0
    out: str = "runs/train"
    logs: str = ""

    def search(self) -> SearchConfig:
        """The same as a search of one training."""
        shared = {name: getattr(self, name) for name in SHARED}
        return SearchConfig(**shared, vary_seed=False, workers=1, budget=1, keep_weights="all")

    def __post_init__(self) -> None:
        self.search()


SHARED = ("backbone", "data", "task", "trainer", "input_shape", "num_classes", "metric", "direction", "weights",
          "space", "train", "executor", "trial_timeout", "device", "seed", "out", "logs")  # fmt: skip
"""Settings that a training has in common with a search."""


def measured_costs(config: SearchConfig) -> set[str]:
    """Which latencies, and whether memory, a search needs: to record, as a limit, or as a cost axis."""
    limits = {name for name in MEASURED if getattr(config.max, name) is not None}
    named = {*config.measure, *config.cost.split(","), *config.max.own}
    return limits | {name for name in named if name in MEASURED or is_latency(name)}


def check_recipe(recipe: Recipe) -> None:
    """ConfigError for a recipe that cannot train anything."""
    check_whole("epochs", recipe.epochs)
    check_whole("batch_size", recipe.batch_size)
    _check("lr", recipe.lr, recipe.lr > 0 and is_finite(recipe.lr), "a number above 0")
    _check("momentum", recipe.momentum, 0 <= recipe.momentum < 1, "0 to 1")
    _check("weight_decay", recipe.weight_decay, 0 <= recipe.weight_decay < math.inf, "a number from 0")
    _check("warmup", recipe.warmup, 0 <= recipe.warmup <= 1, "0 to 1")
    _check("label_smoothing", recipe.label_smoothing, 0 <= recipe.label_smoothing < 1, "0 to 1")
    good = recipe.optimizer in ("sgd", "adamw") or ":" in recipe.optimizer
    _check("optimizer", recipe.optimizer, good, "sgd", "adamw", "package.module:Optimizer")


def _check(name: str, value: object, good: bool, *allowed: str) -> None:
    if not good:
        raise ConfigError(f"{name} is {value}", allowed=allowed)


def seconds(text: str, name: str = "max_time", *words: str) -> float:
    """A duration in seconds.

    >>> seconds("90"), seconds("10m"), seconds("1.5h")
    (90.0, 600.0, 5400.0)
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smh]?)\s*", str(text))
    if match is None or not 0 < float(match[1]) < math.inf:
        raise ConfigError(f"{name} is {text!r}", allowed=[*words, "90s", "10m", "2h"])
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


def shape_of(text: str) -> tuple[int, ...]:
    """The shape of an image as people write it.

    >>> shape_of("3,64,64"), shape_of("1x8x8")
    ((3, 64, 64), (1, 8, 8))
    """
    try:
        shape = tuple(int(part) for part in text.replace("x", ",").split(","))
    except ValueError:
        shape = ()
    if len(shape) < 2 or min(shape) < 1 or math.prod(shape) > MAX_VALUES:
        allowed = f"channels,height,width such as 3,224,224, of at most {MAX_VALUES:,} values"
        raise ConfigError(f"input_shape is {text!r}", allowed=[allowed])
    return shape


def of_before(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that an earlier version wrote, as this one has them: version 0.1 could measure which `graph` pays."""
    return {**settings, "graph": "plain"} if settings.get("graph") == "auto" else dict(settings)


def as_command(config: SearchConfig, *, out: str) -> list[str]:
    """The command line that gives this configuration, with another run folder; what has its default is left out."""
    words = ["se-nas", "search"]
    for name, value in _changed("", replace(config, out=None, storage=None), SearchConfig()):
        if value is not None:
            words += [f"--{name}", yaml_word(value)]
    return [*words, "--out", out]


def first_line(config: SearchConfig) -> str:
    """What a search is, from its settings alone.

    >>> first_line(SearchConfig(budget=8))
    'Plan: resnet20 on digits, at most 8 trainings of 10 epochs (batch 128, sgd, lr 0.1), space stagewise'
    """
    own = config.trainer.target != LIGHTNING
    epochs = f"{config.train.epochs:,} epoch{'s' * (config.train.epochs != 1)}"
    recipe = f"trained by {config.trainer.target}" if own else (
        f"batch {config.train.batch_size}, {config.train.optimizer}, lr {config.train.lr:g}"
    )  # fmt: skip
    data = "" if own and config.data == SearchConfig().data else f" on {config.data.target}"
    space = "given as a mapping" if config.space.startswith("{") else config.space
    return (
        f"Plan: {config.backbone.target}{data}, at most {config.budget:,} training{'s' * (config.budget != 1)} of "
        f"{epochs} ({recipe}), space {space}"
    )


def _changed(prefix: str, given: object, default: object) -> Iterator[tuple[str, object]]:
    """Option and value of each field that differs from its default, nested ones with a point."""
    for item in fields(given):  # type: ignore[arg-type]  # every caller has a dataclass
        value, usual = getattr(given, item.name), getattr(default, item.name)
        if value == usual:
            continue
        if isinstance(value, Target):
            yield f"{prefix}{item.name}", value.target
            yield from ((f"{prefix}{item.name}.args.{name}", v) for name, v in value.args.items())
        elif is_dataclass(value):
            yield from _changed(f"{prefix}{item.name}.", value, usual)
        else:
            yield f"{prefix}{item.name}", value


def yaml_word(value: object) -> str:
    """A value as YAML reads it back, on the command line or behind a key."""
    try:
        return value if isinstance(value, str) and from_yaml(value) == value else json.dumps(value)
    except UnreadableError:
        return json.dumps(value)
