"""Latencies that another device measured: the file that the script of `se-nas bench` wrote there."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import PurePath

from se_nas.core.documents import LARGEST_JSON, UnreadableError, text_of
from se_nas.core.errors import ConfigError, RunError
from se_nas.core.files import user_path
from se_nas.core.placement import Placement
from se_nas.core.serialization import SCHEMA_VERSION, from_json
from se_nas.core.trial import CostValue, Target
from se_nas.space.latency_model import Planned
from se_nas.space.measured_cost import Measured
from se_nas.space.space import Space
from se_nas.space.stopwatch import conditions

MANIFEST, RESULT = "se-nas bench", "se-nas latencies"
"""Kinds of the two files."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A network of a benchmark. `held_out` ones test the model of latency; ``files`` are by format."""

    key: str
    placement: Placement
    held_out: bool = False
    files: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a folder to be measured holds; the result repeats it."""

    schema: int = SCHEMA_VERSION
    kind: str = MANIFEST
    backbone: Target
    input_shape: tuple[int, ...]
    batch: int
    params: int
    """Of the plain backbone, as are the multiply-adds."""
    macs: int
    baseline: str
    networks: tuple[Entry, ...]
    formats: tuple[str, ...]
    made_by: str = ""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """Median and its 90 % interval."""

    median: float
    interval: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Table(Manifest):
    """What a device measured: ratios to the backbone by key of the placement, and the backbone's seconds."""

    kind: str = RESULT
    format: str
    runtime: str
    device: str
    threads: int
    base: Seen
    measured: dict[str, Seen]
    seconds: float = 0.0
    versions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class BenchFacts:
    """What a table must have been made for; ``params`` and ``macs`` of the plain backbone."""

    backbone: Target
    input_shape: tuple[int, ...]
    batch: int
    params: int
    macs: int


def read_table(file: str, space: Space, facts: BenchFacts) -> Measured:
    """The latencies of a table.

    Raises
    ------
    ConfigError
        If the file cannot be read, or was made for another backbone, space, image or batch.
    """
    try:
        table = from_json(text_of(user_path(file), largest=LARGEST_JSON), Table, where=file)
    except (OSError, UnreadableError) as error:
        raise _wrong(file, f"cannot be read: {getattr(error, 'strerror', None) or error}") from error
    except RunError as error:
        raise _wrong(file, f"is not what the script of se-nas bench writes: {error.what}") from error
    if table.kind != RESULT:
        raise _wrong(file, f"is of the kind {table.kind!r}, not {RESULT!r}")
    _check(file, table, space, facts)
    place = conditions(table.runtime, batch=table.batch, threads=table.threads, device=table.device)

    def value(seen: Seen, scale: float) -> CostValue:
        low, high = seen.interval
        return CostValue(
            value=scale * seen.median,
            unit="ms",
            kind="measured",
            interval=(scale * low, scale * high),
            conditions=place,
        )

    base = value(table.base, 1000.0)
    networks = [n for n in table.networks if n.key in table.measured and n.key != table.baseline]
    return Measured(
        base=base,
        values={n.key: value(table.measured[n.key], base.value) for n in networks},
        planned=[Planned(placement=n.placement, held_out=n.held_out) for n in networks],
    )


def _check(file: str, table: Table, space: Space, facts: BenchFacts) -> None:
    """ConfigError for the first thing that a table was made for and that is not so here."""
    for what, there, here in (
        ("the backbone", _backbone(table.backbone), _backbone(facts.backbone)),
        ("the image", " x ".join(map(str, table.input_shape)), " x ".join(map(str, facts.input_shape))),
        ("the batch", table.batch, facts.batch),
        ("the backbone's parameters", f"{table.params:,}", f"{facts.params:,}"),
        ("the backbone's multiply-adds", f"{table.macs:,}", f"{facts.macs:,}"),
        ("the key of no SE", table.baseline, space.baseline.key),
    ):
        if there != here:
            hint = f"give --latency-batch {there}" if what == "the batch" else None
            raise _wrong(file, f"is of something else: {what} is {there} there and {here} here", hint)
    units = {unit.name: {site.position for site in unit.sites} for unit in space.units}
    for network in table.networks:
        if network.placement.key != network.key:
            raise _wrong(file, f"has the key {network.key} for a placement whose key is {network.placement.key}")
        for name, choice in network.placement.choices.items():
            if choice.kind != "none" and (
                name not in units or (choice.kind == "se" and choice.position not in units[name])
            ):
                raise _wrong(file, f"has an SE block at {name!r} ({choice.position}), where this backbone has no site")
    if not any(n.key in table.measured and not n.held_out for n in table.networks if n.key != table.baseline):
        raise _wrong(file, "has no measured network but that without SE", "let the script run to its end")


def _backbone(target: Target) -> str:
    """A backbone by name and arguments, without the folder of a file."""
    arguments = ", ".join(f"{name}={value}" for name, value in sorted(target.args.items()))
    name = target.target if ":" not in target.target else f"{PurePath(target.target).name}"
    return f"{name}({arguments})" if arguments else name


def _wrong(file: str, what: str, hint: str | None = None) -> ConfigError:
    usual = "export the networks of this search with se-nas bench export, and run its script on the device"
    return ConfigError(f"the latency table {file!r} {what}", hint=hint or usual)
