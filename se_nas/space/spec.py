"""What a search-space file says, before it meets a backbone."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from se_nas.core.blocks import BLOCKS, SE, BlockKind
from se_nas.core.documents import UnreadableError, from_yaml, text_of
from se_nas.core.errors import SpaceError, check_names, did_you_mean
from se_nas.core.files import user_path
from se_nas.core.own_blocks import named_block, read_block
from se_nas.core.placement import ALLOWED, DEFAULT, REDUCTIONS, start_named, usual_start

Reduction = float | str
"""A reduction ratio, ``none`` or ``keep``."""

REFERENCE_REDUCTION = 16.0
MOST = 64
"""Reductions that a stage may choose from."""
SETTINGS = ("block", "position", "gate", "squeeze")
"""What may be searched over beside the reduction."""
BLOCKS_KEY = "blocks"
"""The key of a file for the setting `block`."""


@dataclass(frozen=True, kw_only=True)
class SpaceSpec:
    """What a search-space file says, before it meets a backbone.

    `units` names the units by patterns of module paths, stage by stage; without it they are found.
    `reductions` holds for every stage that `stages` does not name; `keep` in it means nothing where the network had no
    SE block. `block` are the blocks to choose from (`blocks` in a file), `stage_blocks` those of single stages, `own`
    what is known of those that are the user's own. Each of `position`, `gate` and `squeeze` is one value, or several to
    search over. The position `default` is `family` for units whose kind of network has SE blocks of its own
    (`se_nas.insertion.family`), else `standard`.
    `init` None, the default, lets new blocks start as the identity, but for gates that cannot: relu without biases.
    """

    decide: str = "stage"
    units: dict[str, tuple[str, ...]] = field(default_factory=dict)
    reductions: tuple[Reduction, ...] = ("none", 16.0, 8.0, 4.0, "keep")
    stages: dict[str, tuple[Reduction, ...]] = field(default_factory=dict)
    position: tuple[str, ...] = (DEFAULT,)
    gate: tuple[str, ...] = ("sigmoid",)
    squeeze: tuple[str, ...] = ("avg",)
    rounding: str = "floor"
    bias: bool = False
    init: str | None = None
    block: tuple[str, ...] = (SE,)
    stage_blocks: dict[str, tuple[str, ...]] = field(default_factory=dict)
    own: dict[str, BlockKind] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.init is not None:
            object.__setattr__(self, "init", start_named(self.init))

    def blocks_of(self, decision: str) -> tuple[str, ...]:
        """The blocks that a stage or a unit may have."""
        return self.stage_blocks.get(decision, self.block)

    @functools.cached_property
    def kinds(self) -> dict[str, BlockKind]:
        """What is known of each block that the space may name."""
        return {**BLOCKS, **self.own}

    @property
    def start(self) -> str | None:
        """How all new blocks start; None where `init` is not given and not all gates of the space can do the same."""
        usual = {usual_start(gate, bias=self.bias) for gate in self.gate}
        return usual.pop() if self.init is None and len(usual) == 1 else self.init


def read_space(source: str | Path | Mapping[str, Any]) -> SpaceSpec:
    """A search space from a YAML file, the name of a built-in one, or a mapping, also as text in braces.

    SpaceError names a misspelt key or a wrong value. Blocks of the user's own are loaded: who reads a space that
    lies in a folder asks `se_nas.engine.trusted` before.

    >>> read_space("stagewise").reductions
    ('none', 16.0, 8.0, 4.0, 'keep')
    """
    if isinstance(source, Mapping):
        return _specify(source, where="the search space")
    where = str(source)
    try:
        raw = from_yaml(where if where.startswith("{") else _find_file(where))
    except UnreadableError as error:
        raise SpaceError(str(error), where=where) from error
    if not isinstance(raw, Mapping):
        raise SpaceError("a search space is a mapping of keys to values", where=where)
    return _specify(raw, where=where)


def blocks_named(source: str) -> list[BlockKind]:
    """Names and arguments of the blocks of the user's own that a search space asks for, without running their code.

    Nothing of a space that cannot be read, which is said where it is.
    """
    try:
        raw = from_yaml(source if source.startswith("{") else _find_file(source))
    except (UnreadableError, SpaceError):
        return []
    if not isinstance(raw, Mapping):
        return []
    stages = raw.get("stages")
    parts = [raw, *(stages.values() if isinstance(stages, Mapping) else ())]
    given = [part[BLOCKS_KEY] for part in parts if isinstance(part, Mapping) and BLOCKS_KEY in part]
    values = itertools.chain.from_iterable(value if isinstance(value, list) else [value] for value in given)
    return [kind for value in values if (kind := named_block(value)) is not None]


def builtin_spaces() -> dict[str, str]:
    """Name -> text of the search spaces that come with the package."""
    folder = resources.files("se_nas") / "search_spaces"
    if not folder.is_dir():  # a checkout has them beside the package; a wheel has them inside
        folder = resources.files("se_nas") / ".." / "search_spaces"
    return {Path(f.name).stem: f.read_text() for f in folder.iterdir() if f.name.endswith(".yaml")}


def _find_file(name: str) -> str:
    builtins = builtin_spaces()
    if name in builtins:
        return builtins[name]
    try:
        return text_of(user_path(name))
    except (OSError, UnreadableError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise SpaceError(
            f"there is no search space {name!r} ({reason})",
            allowed=[*sorted(builtins), "a path to a YAML file"],
            hint=did_you_mean(name, list(builtins)),
        ) from error


def _specify(raw: Mapping[str, Any], *, where: str) -> SpaceSpec:
    hidden = ("stage_blocks", "own")
    keys = [BLOCKS_KEY if name == "block" else name for name in SpaceSpec.__dataclass_fields__ if name not in hidden]
    check_names(raw, keys, what="key", where=where)
    values: dict[str, Any] = dict(raw)
    if values.get("decide", "stage") not in ("stage", "unit"):
        raise SpaceError(f"decide is {values['decide']!r}", where=where, allowed=("stage", "unit"))
    if "reductions" in values:
        values["reductions"] = read_reductions(values["reductions"], where=f"{where}, under reductions")
    values["units"] = _patterns(values.get("units") or {}, where=where)
    stages = values.get("stages") or {}
    if not isinstance(stages, Mapping):
        raise SpaceError("stages is a mapping of stage names to reductions", where=where)
    values["stages"] = {
        str(stage): read_reductions(
            value.get("reductions") if isinstance(value, Mapping) else value, where=f"{where}, under stages.{stage}"
        )
        for stage, value in stages.items()
        if not isinstance(value, Mapping) or "reductions" in value or BLOCKS_KEY not in value
    }
    values["own"] = {}
    values["stage_blocks"] = {
        str(stage): read_blocks(value[BLOCKS_KEY], values["own"], where=f"{where}, under stages.{stage}")
        for stage, value in stages.items()
        if isinstance(value, Mapping) and BLOCKS_KEY in value
    }
    if BLOCKS_KEY in values:
        values["block"] = read_blocks(values.pop(BLOCKS_KEY), values["own"], where=where)
    for name, allowed in ALLOWED.items():
        if name not in values or name == "block":
            continue
        allowed = (DEFAULT, *allowed) if name == "position" else allowed
        given = values[name] if isinstance(values[name], list) else [values[name]]
        if not given or (len(given) > 1 and name not in SETTINGS):
            number = "at least one value" if name in SETTINGS else "one value"
            raise SpaceError(f"{name} is {given!r}, not {number}", where=where, allowed=allowed)
        if name == "init":
            given = [start_named(value) for value in given]
        for value in given:
            if value not in allowed:
                raise SpaceError(f"{name} is {value!r}", where=where, allowed=allowed)
        values[name] = tuple(dict.fromkeys(given)) if name in SETTINGS else given[0]
    if not isinstance(values.get("bias", False), bool):
        raise SpaceError(f"bias is {values['bias']!r}", where=where, allowed=("true", "false"))
    return SpaceSpec(**values)


def _patterns(units: Any, *, where: str) -> dict[str, tuple[str, ...]]:
    if not isinstance(units, Mapping):
        raise SpaceError("units is a mapping of stage names to patterns of module paths", where=where)
    found = {}
    for stage, patterns in units.items():
        given = (patterns,) if isinstance(patterns, str) else patterns
        if not isinstance(given, Sequence) or not given or not all(isinstance(p, str) for p in given):
            raise SpaceError(
                f"{patterns!r} is not a list of patterns",
                where=f"{where}, under units.{stage}",
                hint="write ['layer1.*.bn3']",
            )
        found[str(stage)] = tuple(given)
    return found


def read_blocks(values: Any, own: dict[str, BlockKind], *, where: str) -> tuple[str, ...]:
    """Names of blocks; what is known of the user's own is added to `own`."""
    where = f"{where}, under {BLOCKS_KEY}"
    found: dict[str, None] = {}
    for value in values if isinstance(values, list | tuple) else [values]:
        name, kind = read_block(value, where=where)
        if kind is not None:
            _check_own(name, kind, own, where=where)
            own[name] = kind
        found[name] = None
    if not found:
        raise SpaceError(f"{BLOCKS_KEY} is {values!r}, not at least one block", where=where, allowed=ALLOWED["block"])
    return tuple(found)


def _check_own(name: str, kind: BlockKind, own: Mapping[str, BlockKind], *, where: str) -> None:
    """SpaceError if records could not tell a block from another one of the space."""
    for other, known in own.items():
        if other == name and known != kind:
            raise SpaceError(
                f"two blocks are called {name!r}: {known.made} and {kind.made}", where=where,
                hint="give one of them another name: {target: my_block.py:function, name: mine}",
            )  # fmt: skip
        if known.portable == kind.portable and known.made != kind.made:
            raise SpaceError(
                f"two blocks are {kind.portable[0]!r} of different folders: {known.made} and {kind.made}", where=where,
                hint="give one of the files another name",
            )  # fmt: skip


def read_reductions(values: Any, *, where: str) -> tuple[Reduction, ...]:
    if not isinstance(values, Sequence) or isinstance(values, str) or not values:
        raise SpaceError(f"{values!r} is not a list of reductions", where=where, hint="write [none, 16, 8, 4]")
    if len(values) > MOST:
        raise SpaceError(f"{len(values):,} reductions", where=where, allowed=[f"at most {MOST}"])
    return tuple(dict.fromkeys(read_reduction(value, where=where) for value in values))


def read_reduction(value: Any, *, where: str) -> Reduction:
    if value is None or (isinstance(value, str) and value.strip() in ("none", "keep")):
        return "none" if value is None else value.strip()
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    low, high = REDUCTIONS
    if not low <= number <= high:
        allowed = ("none", "keep", f"a number from {low} to {high:,.0f}")
        raise SpaceError(f"{value!r} is not a reduction", where=where, allowed=allowed)
    return number
