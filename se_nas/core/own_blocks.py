"""Blocks of the user's own: from what a search space says of one to what is known of it, and to its code.

A block is a class or a function that returns an `nn.Module`; what it says of itself stands in the class, or beside the
function (`se_nas.core.protocols.Block`). Its code is run where the user gave it, where its name was given on this
machine before, or with ``trust`` (`se_nas.core.trust`).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from se_nas.core.blocks import BLOCKS, BlockKind
from se_nas.core.errors import PluginError, SeNasError, SpaceError, check_names, did_you_mean
from se_nas.core.placement import IDENTITY, Choice, check_block_name
from se_nas.core.plugins import absolute, accepted, check_arguments, entry_points, known_names, resolve
from se_nas.core.trial import Target
from se_nas.core.trust import Named, follow, may_run

GIVEN = ("channels", "size", "hidden", "reduction", "identity")
"""What a block is given if it has parameters of these names."""

COUNTED = (*GIVEN, "positions")
"""What its `counts` is given if it has parameters of these names."""

TABLE = {name: kind.made for name, kind in BLOCKS.items()}
"""The built-in blocks as other plug-ins have theirs."""


def read_block(value: Any, *, where: str) -> tuple[str, BlockKind | None]:
    """What a search space calls a block, and what is known of it; None for one that is built in.

    The user gives the name now: its code is run.

    Raises
    ------
    SpaceError
        If it is no name of a block, and no mapping of target, args and name.
    PluginError
        If its code cannot be loaded, or does not say what it must.
    """
    if isinstance(value, str) and value in BLOCKS:
        return value, None
    target, name = _target(value, where=where)
    target = absolute(target)
    follow([_named(target)])
    kind = _kind(name, target)
    check_block_name(name)
    return name, kind


def named_block(value: Any) -> BlockKind | None:
    """The name and arguments of a block of the user's own in a search space, without running its code."""
    try:
        target, name = _target(value, where="")
    except SeNasError:  # said where the space is read
        return None
    target = absolute(target)
    return BlockKind(title=name, made=target.target, args=tuple(target.args.items()))


def _target(value: Any, *, where: str) -> tuple[Target, str]:
    """The target of a value of a search space, and the name that it gives, or the last one of its path."""
    args: Any = {}
    name = None
    if isinstance(value, Mapping):
        check_names(value, ("target", "args", "name"), what="key", where=where)
        value, args, name = value.get("target"), value.get("args") or {}, value.get("name")
    if not isinstance(value, str) or not (":" in value or value.endswith(".py") or value in entry_points("block")):
        known = known_names("block", TABLE)
        raise SpaceError(
            f"{value!r} is not a block",
            where=where,
            allowed=[*known, "package.module:attribute", "path/to/file.py:attribute"],
            hint=did_you_mean(str(value), known),
        )
    if not isinstance(args, Mapping) or not all(isinstance(key, str) and _is_scalar(args[key]) for key in args):
        raise SpaceError(
            f"args of block {value!r} are {args!r}", where=where,
            allowed=["a mapping of names to numbers, words, true, false or null"],
        )  # fmt: skip
    return Target(target=value, args=dict(args)), str(value.rpartition(":")[2] if name is None else name)


def _is_scalar(value: Any) -> bool:
    return value is None or isinstance(value, str | bool | int) or (isinstance(value, float) and math.isfinite(value))


def _kind(name: str, target: Target) -> BlockKind:
    """What a block says of itself."""
    found, _ = resolve("block", target.target, TABLE)
    if not callable(found):
        raise PluginError(f"block {target.target!r} is {type(found).__name__}, not a function or a class")
    says = {fact: _fact(target, found, fact, bool) or False for fact in ("width", "gate", "identity")}
    sizes = _fact(target, found, "sizes", tuple, list)
    sizes = (2,) if sizes is None else tuple(sizes)
    if not sizes or not set(sizes) <= {1, 2, 3}:
        raise PluginError(f"sizes of block {target.target!r} is {sizes!r}", allowed=["some of 1, 2 and 3, as (2,)"])
    asked = "identity" in accepted(found, dict.fromkeys(GIVEN))
    kind = BlockKind(
        title=name, made=target.target, args=tuple(target.args.items()), sizes=sizes, width=says["width"],
        gate=says["gate"], identity=says["identity"] and asked, own_identity=says["identity"] and not asked,
    )  # fmt: skip
    if _fact(target, found, "counts", Callable) is None:  # type: ignore[arg-type]  # isinstance works with it
        raise PluginError(
            f"block {target.target!r} does not say what it costs",
            hint="write counts(channels, size), which returns its parameters, multiply-adds and activations, in the "
            "class or beside the function",
        )
    return kind


def _fact(target: Target, found: Any, name: str, *kinds: type) -> Any:
    """What a block says of itself: in the class, at the function, or beside them in the file; None if nothing."""
    value = getattr(found, name, None)
    if value is None:
        module = getattr(found, "__module__", None) or ""
        # What a script or a notebook has under such a name need not be meant for its block.
        value = None if module == "__main__" else getattr(sys.modules.get(module), name, None)
    if value is not None and not isinstance(value, kinds):
        allowed = [{bool: "true or false", tuple: "a tuple", list: "a list"}.get(kind, "a function") for kind in kinds]
        raise PluginError(f"{name} of block {target.target!r} is {value!r}", allowed=allowed)
    return value


def named_blocks(kinds: Iterable[BlockKind]) -> list[Named]:
    """Blocks of the user's own as names that lead to code."""
    return [_named(Target(target=kind.made, args=dict(kind.args))) for kind in kinds]


def _named(target: Target) -> Named:
    return Named(kind="block", target=target, builtins=TABLE)


def own_blocks(choices: Iterable[Choice]) -> list[BlockKind]:
    """The blocks of the user's own among choices, each once."""
    return list(dict.fromkeys(c.own for c in choices if isinstance(c.own, BlockKind)))


def code_of(kind: BlockKind) -> Callable[..., Any]:
    """The class or function of a block; PluginError if it may not be run, or is not there."""
    (named,) = named_blocks([kind])
    if not may_run(named):
        raise PluginError(
            f"the block {kind.title!r} is code that you have not given on this machine, and it is not run: "
            f"{kind.made!r}",
            hint="if you know who wrote it and have read it, name it in a search space, or give --trust "
            "(in Python trust=True)",
        )
    found: Callable[..., Any] = resolve("block", kind.made, TABLE)[0]
    return found


def call(kind: BlockKind, channels: int, size: tuple[int, ...], choice: Choice) -> Any:
    """What the class or function of a block returns for a tensor of so many channels and such a spatial size.

    PluginError if it does not take its arguments, or raises.
    """
    return _called(kind, code_of(kind), _offered(channels, size, choice), "cannot be built")


def source_of(
    kind: BlockKind, channels: int, size: tuple[int, ...], choice: Choice
) -> tuple[str, str, dict[str, object]]:
    """How source calls it: module, attribute in it, and arguments by name."""
    points = entry_points("block")
    head, _, attribute = (points[kind.made].value if kind.made in points else kind.made).rpartition(":")
    code = code_of(kind)
    module = str(code.__module__) if head.endswith(".py") else head
    return module, attribute, {**accepted(code, _offered(channels, size, choice)), **dict(kind.args)}


def counts_by(kind: BlockKind, channels: int, size: tuple[int, ...], choice: Choice) -> tuple[int, int, int]:
    """Parameters, multiply-adds and activations by the closed form of a block; PluginError if it gives no three."""
    target = Target(target=kind.made)
    counts = _fact(target, code_of(kind), "counts", Callable)  # type: ignore[arg-type]  # isinstance works with it
    offered = {**_offered(channels, size, choice), "positions": math.prod(size)}
    asked = replace(kind, args=tuple(accepted(counts, dict(kind.args)).items()))
    told = _called(asked, counts, offered, "cannot be counted")
    if not isinstance(told, tuple | list) or len(told) != 3 or not all(isinstance(n, int) and n >= 0 for n in told):
        raise PluginError(
            f"counts of block {kind.title!r} ({kind.made}) returned {told!r}",
            allowed=["three whole numbers: parameters, multiply-adds, activations"],
        )
    return told[0], told[1], told[2]


def _offered(channels: int, size: tuple[int, ...], choice: Choice) -> dict[str, Any]:
    hidden = choice.squeeze_channels or 0
    reduction = choice.reduction or (channels / hidden if hidden else None)
    identity = choice.init == IDENTITY
    return {"channels": channels, "size": size, "hidden": hidden, "reduction": reduction, "identity": identity}


def _called(kind: BlockKind, function: Callable[..., Any], offered: Mapping[str, Any], what: str) -> Any:
    args = {**accepted(function, offered), **dict(kind.args)}
    check_arguments("block", Target(target=kind.made), function, args)
    try:
        return function(**args)
    except Exception as error:  # a user's code may raise anything
        raise PluginError(
            f"block {kind.title!r} ({kind.made}) {what} with {_shown(args)}: {type(error).__name__}: {error}"
        ) from error


def _shown(args: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in args.items()) or "no arguments"
