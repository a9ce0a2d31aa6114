"""Everything that travels or is stored: frozen, valid once built, JSON in and out.

``SCHEMA_VERSION`` names the meaning of these fields. Later versions add fields with defaults and never change
what a field means; unknown fields of a newer writer are ignored on reading.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeVar

import msgspec

from se_nas.errors import RunError, SpaceError, did_you_mean

SCHEMA_VERSION = 1

Phase = Literal["search", "confirm", "train"]
State = Literal["running", "complete", "failed", "stopped", "rejected"]
Direction = Literal["maximize", "minimize"]
Verdict = Literal["continue", "stop"]
Precision = Literal["auto", "32", "bf16"]
Graph = Literal["auto", "plain", "shared", "compiled"]

POSITIONS = ("standard", "pre", "post", "identity", "inner")
GATES = ("sigmoid", "hard_sigmoid", "tanh", "relu")
SQUEEZES = ("avg", "max")
ROUNDINGS = ("floor", "multiple_of_8")
INITS = ("default", "identity")

# (scale, offset) that make a gate exactly 1 when the last layer starts at zero (relu: at a bias of 1).
IDENTITY_GATES: dict[str, tuple[float, float]] = {
    "sigmoid": (2.0, 0.0),
    "hard_sigmoid": (2.0, 0.0),
    "tanh": (1.0, 1.0),
    "relu": (1.0, 0.0),
}

T = TypeVar("T")


def squeeze_channels(channels: int, reduction: float, rounding: str = "floor") -> int:
    """Hidden width of an SE block: ``channels / reduction``, rounded.

    ``floor`` is the paper's rule (Hu et al., arXiv 1709.01507, section 3); ``multiple_of_8`` is timm's: the
    nearest multiple of 8, at least 8. May return 0, which no block can have: `Choice` refuses it.

    >>> squeeze_channels(64, 16), squeeze_channels(64, 16, "multiple_of_8"), squeeze_channels(8, 16)
    (4, 8, 0)
    """
    if rounding == "floor":
        return int(channels // reduction)
    return max(8, int(channels / reduction + 4) // 8 * 8)


@dataclass(frozen=True, kw_only=True)
class Site:
    """A unit and a position in it: the very tensor that is rescaled.

    `module` is the dotted path of the module whose first input or whose output (`edge`) is that tensor; with the edge
    ``expression`` it is an expression in a method of that module, at `place`. With ``block`` and ``gate`` the module is
    the network's own SE block, or the part of it that computes the gate; ``inline`` is one that has no module of its
    own: its multiplication is at `place`, its weights are in `layers`, and without a place it can only be kept.
    `channels` is the tensor's size along dimension 1, `size` its spatial shape, `uses` how often it is rescaled in one
    forward pass (more than once in a block that the network uses several times).
    """

    unit: str
    position: str
    module: str
    channels: int
    size: tuple[int, ...]
    edge: Literal["input", "output", "expression", "block", "gate", "inline"] = "output"
    place: str = ""
    uses: int = 1
    layers: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Unit:
    """A part of the backbone that can carry one SE block, with its sites, the standard one first."""

    name: str
    stage: str
    sites: tuple[Site, ...]
    kind: str = "declared"
    existing: str | None = None
    """Path of the SE block that the network had already (then `keep` is a choice), or None."""

    def site(self, position: str) -> Site:
        """The site at a position; SpaceError if the unit has none there."""
        for site in self.sites:
            if site.position == position:
                return site
        raise SpaceError(
            f"unit {self.name!r} has no site at position {position!r}",
            allowed=[site.position for site in self.sites],
        )


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What one unit gets: no SE block, the one that it had already, or an SE block with all its settings.

    The gate is ``gate_offset + gate_scale * gate(logit)``. `init` says how the block starts: ``identity`` makes
    the gate exactly 1 at the start.
    """

    kind: Literal["none", "keep", "se"] = "none"
    reduction: float | None = None
    squeeze_channels: int | None = None
    position: str = "standard"
    gate: str = "sigmoid"
    gate_scale: float = 1.0
    gate_offset: float = 0.0
    squeeze: str = "avg"
    rounding: str = "floor"
    bias: bool = False
    init: str = "default"

    def __post_init__(self) -> None:
        for name, allowed in (
            ("position", POSITIONS),
            ("gate", GATES),
            ("squeeze", SQUEEZES),
            ("rounding", ROUNDINGS),
            ("init", INITS),
        ):
            if getattr(self, name) not in allowed:
                raise SpaceError(f"{name} is {getattr(self, name)!r}", allowed=allowed)
        if self.kind != "se":
            return
        if self.squeeze_channels is None or self.squeeze_channels < 1:
            raise SpaceError(
                f"an SE block with reduction {self.reduction} would have a hidden width of {self.squeeze_channels}",
                hint="choose a smaller reduction, or the rounding rule multiple_of_8",
            )
        if self.init == "identity" and self.gate == "relu" and not self.bias:
            raise SpaceError("init: identity with the relu gate needs bias: true, since the gate starts at its bias")

    @property
    def label(self) -> str:
        """Short form: ``none``, ``keep`` or the reduction."""
        if self.kind != "se":
            return self.kind
        return str(self.squeeze_channels) + "ch" if self.reduction is None else f"{self.reduction:g}"

    @classmethod
    def se(cls, channels: int, reduction: float, **settings: Any) -> Choice:  # settings are this class's own fields
        """An SE block for a site with so many channels; SpaceError when the hidden width would be 0."""
        rounding = settings.get("rounding", "floor")
        if settings.get("init") == "identity" and "gate_scale" not in settings:
            scale, offset = IDENTITY_GATES[settings.get("gate", "sigmoid")]
            settings = {**settings, "gate_scale": scale, "gate_offset": offset}
        width = squeeze_channels(channels, reduction, rounding)
        if width < 1:
            raise SpaceError(
                f"reduction {reduction:g} leaves a hidden width of 0 at {channels} channels",
                hint=f"choose a reduction of at most {channels}, or the rounding rule multiple_of_8",
            )
        return cls(kind="se", reduction=float(reduction), squeeze_channels=width, **settings)


NONE = Choice()
KEEP = Choice(kind="keep")

# Not part of what the network is: how its width was asked for.
_NOT_IN_KEY = frozenset({"reduction", "rounding"})
_CHOICE_DEFAULTS = {f.name: f.default for f in fields(Choice)}


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Unit -> choice. Units without an entry get `none`."""

    choices: dict[str, Choice]
    label: str = ""
    """Short form for people, such as ``stage1=16, stage2=none``."""

    @property
    def key(self) -> str:
        """16 hexadecimal digits; equal for placements that build the same network.

        A SHA-256 of the sorted (unit, choice) pairs without `none`, without fields that have their default,
        and without how the hidden width was asked for.
        """
        pairs = [
            (
                unit,
                {
                    name: value
                    for name, default in _CHOICE_DEFAULTS.items()
                    if name not in _NOT_IN_KEY and (value := getattr(choice, name)) != default
                },
            )
            for unit, choice in sorted(self.choices.items())
            if choice.kind != "none"
        ]
        return checksum(pairs)


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
        epochs: Passes over the training part.
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
    """One cost of a candidate. `interval` is its 90 % interval where it is not exact."""

    value: float
    unit: str
    kind: Literal["exact", "measured", "predicted"] = "exact"
    interval: tuple[float, float] | None = None


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
    """Which logs the training writes, see `se_nas.logs`."""
    metric: str | None = None
    """What is compared instead of the task's own metric."""
    direction: Direction | None = None
    checkpoint_minutes: float = 5.0
    """Age from which a checkpoint inside the training is replaced; 0: none is written."""
    graph: Graph = "plain"
    offered: dict[str, tuple[Choice, ...]] = field(default_factory=dict)
    """Unit -> the widest SE block for each combination of settings of the space, for a network that all share."""
    trainings_left: float = 1.0
    """How many trainings, this one included, the worker may expect."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What came out of one evaluation."""

    trial: int
    attempt: int = 1
    state: State
    reason: str = ""
    metrics: dict[str, Metric] = field(default_factory=dict)
    curve: tuple[Epoch, ...] = ()
    seconds: float = 0.0
    device: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    commit: str = ""
    notes: tuple[str, ...] = ()
    """What happened on the way, in words: a batch cut for lack of memory, a training that went on."""
    graph: str = ""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One proposal and its one training, as the study keeps it."""

    number: int
    identity: RunIdentity
    placement: Placement
    state: State
    reason: str = ""
    counts: bool = False
    """Whether it is paid for from the budget."""
    metrics: dict[str, Metric] = field(default_factory=dict)
    costs: dict[str, CostValue] = field(default_factory=dict)
    curve: tuple[Epoch, ...] = ()
    owner: str = ""
    lease: float = 0.0
    """Seconds since the epoch; a running trial whose lease is over may be taken from its owner."""
    attempts: int = 1
    seconds: float = 0.0
    device: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    commit: str = ""
    graph: str = ""
    """How the network ran: ``plain``, ``shared`` or ``compiled``; equal within rounding."""
    role: str = ""
    """``baseline`` (no SE), ``reference`` (SE everywhere at r=16), or empty."""
    repeats: tuple[float, ...] = ()
    """The metric in confirmed trainings of the same network, with fresh seeds and the same schedule."""
    notes: tuple[str, ...] = ()
    """What happened on the way; see `Result`."""
    schema: int = SCHEMA_VERSION


def to_plain(record: Any) -> Any:
    """A record as dictionaries, lists, strings and numbers, just as JSON reads it back."""
    return msgspec.json.decode(msgspec.json.encode(record))


def from_plain(data: Any, kind: type[T], *, where: str = "a stored record") -> T:
    """A record from plain data; RunError that names the wrong field, RunError for a newer schema."""
    if isinstance(data, Mapping) and isinstance(schema := data.get("schema"), int) and schema > SCHEMA_VERSION:
        raise RunError(
            f"schema version {schema} is newer than this se-nas ({SCHEMA_VERSION})", where=where, hint="update se-nas"
        )
    try:
        return msgspec.convert(data, kind, strict=False)
    except msgspec.ValidationError as error:
        raise RunError(f"{kind.__name__}: {error}", where=where) from error


def to_json(record: Any, *, indent: int = 0) -> bytes:
    """A record as UTF-8 JSON; `indent` spaces per level, or one line."""
    raw = msgspec.json.encode(record)
    return msgspec.json.format(raw, indent=indent) + b"\n" if indent else raw


def from_json(text: bytes | str, kind: type[T], *, where: str = "a stored record") -> T:
    """A record from JSON; RunError when it is no JSON or not this record."""
    try:
        data = msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise RunError(f"not valid JSON: {error}", where=where) from error
    return from_plain(data, kind, where=where)


def checksum(record: Any) -> str:
    """First 16 hexadecimal digits of the SHA-256 of the record's canonical JSON."""
    return hashlib.sha256(msgspec.json.encode(record, order="deterministic")).hexdigest()[:16]


def random_stream(seed: int, *names: str | int) -> int:
    """Seed of a separate random stream, 63 bits, from a seed and the names of the stream.

    Backbone initialisation, each SE block, batch order and augmentation have a stream each, so that inserting
    an SE block shifts no other random number.
    """
    digest = hashlib.sha256(msgspec.json.encode([seed, *names])).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def check_names(given: Mapping[str, Any], known: Mapping[str, Any] | tuple[str, ...], *, what: str, where: str) -> None:
    """SpaceError with the nearest known name if a mapping has a key that is not known."""
    for name in given:
        if name not in known:
            raise SpaceError(
                f"unknown {what} {name!r}", where=where, allowed=known, hint=did_you_mean(str(name), list(known))
            )
