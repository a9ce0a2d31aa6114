"""A training and what comes of it, as records that travel and are stored: frozen, valid once built."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from msgspec import UNSET, UnsetType

from se_nas.core.placement import Choice, Placement, Unit
from se_nas.core.serialization import SCHEMA_VERSION

Phase = Literal["search", "confirm", "train"]
State = Literal["running", "complete", "failed", "stopped", "rejected"]
Direction = Literal["maximize", "minimize"]
Verdict = Literal["continue", "stop"]
Precision = Literal["auto", "32", "bf16"]


Graph = Literal["plain", "shared", "compiled"]


@dataclass(frozen=True, kw_only=True)
class Target:
    """A plug-in by name or import path, with its arguments.

    Args:
        target: A built-in name, an entry point, ``package.module:attribute`` or ``path/to/file.py:attribute``.
        args: Keyword arguments for it.
    """

    target: str
    args: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How every candidate of a study is trained.

    Args:
        epochs: Passes over the training set.
        batch_size: Images per step.
        optimizer: ``sgd`` (Nesterov momentum), ``adamw``, or the import path of an optimizer class.
        lr: Peak learning rate.
        momentum: Momentum of sgd.
        weight_decay: L2 penalty on weights; not on biases and norms.
        schedule: ``onecycle``, ``cosine`` or ``constant``.
        warmup: Share of the steps in which onecycle rises to the peak.
        label_smoothing: Between 0 and 1.
        augment: ``none``, ``shift`` (random shift by an eighth of the image) or ``shift-flip``.
        class_weights: ``none``, or ``balanced`` for inverse class frequency in the loss.
        precision: ``auto`` (bf16 where the hardware has it), ``32`` or ``bf16``.
    """

    epochs: int = 10
    batch_size: int = 128
    optimizer: str = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: Literal["onecycle", "cosine", "constant"] = "onecycle"
    warmup: float = 0.25
    label_smoothing: float = 0.1
    augment: Literal["none", "shift", "shift-flip"] = "shift"
    class_weights: Literal["none", "balanced"] = "none"
    precision: Precision = "auto"


@dataclass(frozen=True, kw_only=True)
class RunIdentity:
    """What makes two trainings the same training."""

    key: str
    seed: int
    replicate: int = 0
    phase: Phase = "search"
    epochs: int
    recipe: Recipe
    task: Target
    initialisation: str = "scratch"
    start_weights: str | None = None
    data: str
    split: str
    precision: str
    trainer: Target | UnsetType = UNSET
    """The user's own training loop; of Lightning's trainings neither records nor checksums have it."""

    @property
    def classifies(self) -> bool:
        """Whether it is the built-in training of a classification, whose recipe and metrics are known."""
        return self.trainer is UNSET and self.task.target == "classification"

    @property
    def duplicate_of(self) -> tuple[str, str]:
        """Trials with equal values here are duplicates: the same key in the same phase, whatever the seed."""
        return self.key, self.phase


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A measured quality of a candidate; `unit` is ``share`` for numbers between 0 and 1."""

    value: float
    direction: Direction = "maximize"
    unit: str = "share"


@dataclass(frozen=True, kw_only=True)
class CostValue:
    """One cost of a candidate. `interval` is its 90 % interval where it is not exact.

    `conditions` of a latency say what ran the network, the images at a time, threads and device.
    """

    value: float
    unit: str
    kind: Literal["exact", "measured", "predicted"] = "exact"
    interval: tuple[float, float] | None = None
    conditions: str | UnsetType = UNSET


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """What was seen after an epoch, counted from 1."""

    epoch: int
    metrics: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Request:
    """One placement to evaluate: plain data and import strings, so that any executor can carry it."""

    trial: int
    attempt: int = 1
    placement: Placement
    units: tuple[Unit, ...]
    identity: RunIdentity
    backbone: Target
    folder: str
    """The run folder as the worker sees it: data cache, results and weights."""
    device: str = "cpu"
    threads: int = 1
    channels_last: bool = False
    logs: tuple[str, ...] = ()
    """Which logs the training writes, see `se_nas.training.loggers`."""
    search: str = ""
    """The search that it is of, by which logs are grouped."""
    costs: dict[str, float] = field(default_factory=dict)
    """Costs of the placement, for logs."""
    metric: str | None = None
    """What is compared instead of the task's own metric."""
    direction: Direction | None = None
    checkpoint_minutes: float = 5.0
    """Age from which a checkpoint inside the training is replaced; 0: none is written."""
    graph: Graph = "plain"
    offered: dict[str, tuple[Choice, ...]] = field(default_factory=dict)
    """Unit -> the widest SE block for each combination of settings of the space, for a network that all share."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What comes of a training, as its worker tells it and as the study keeps it."""

    state: State
    reason: str = ""
    metrics: dict[str, Metric] = field(default_factory=dict)
    curve: tuple[Epoch, ...] = ()
    seconds: float = 0.0
    device: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    commit: str = ""
    graph: str = ""
    """How the network ran: ``plain``, ``shared`` or ``compiled``; equal within rounding."""
    notes: tuple[str, ...] = ()
    """What happened on the way, in words: a batch cut for lack of memory, a training that went on."""


@dataclass(frozen=True, kw_only=True)
class Result(Outcome):
    """What came out of one evaluation."""

    trial: int
    attempt: int = 1


@dataclass(frozen=True, kw_only=True)
class Trial(Outcome):
    """One proposal and its one training, as the study keeps it."""

    number: int
    identity: RunIdentity
    placement: Placement
    counts: bool = False
    """Whether it is paid for from the budget."""
    costs: dict[str, CostValue] = field(default_factory=dict)
    owner: str = ""
    lease: float = 0.0
    """Seconds since the epoch; a running trial whose lease is over may be taken from its owner."""
    attempts: int = 1
    role: str = ""
    """``baseline`` (no SE), ``reference`` (SE everywhere at r=16), or empty."""
    repeats: tuple[float, ...] = ()
    """The metric in confirmed trainings of the same network, with fresh seeds and the same schedule."""
    schema: int = SCHEMA_VERSION


INTERRUPTED = "interrupted"
"""Reason of a trial whose driver ended."""

LOST = "its machine went away"
"""Reason of a trial whose worker's machine was lost."""

OUT_OF_TIME = "ended by max_time"
"""Reason of a trial that ran when the time of its search, and the grace after it, were over."""

BLAMELESS = (INTERRUPTED, LOST, OUT_OF_TIME)
"""Reasons that say nothing about the placement; it is tried again however often."""


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What a study compares: a metric with its direction, and a cost to keep low."""

    metric: str
    direction: Direction
    cost: str
    """The first cost axis, which is a value of the study."""
    more: tuple[str, ...] = ()
    """Further cost axes of the front."""
