"""Units and sites of a backbone, what each gets, and the placements that this makes: frozen, valid once built.

``SCHEMA_VERSION`` (`se_nas.core.serialization`) names the meaning of the fields. Later versions add fields with
defaults and never change what a field means; unknown fields of a newer writer are ignored on reading.
"""

from __future__ import annotations

import functools
import math
import re
from dataclasses import dataclass, fields
from typing import Any, Literal

from msgspec import UNSET, UnsetType

from se_nas.core.blocks import BLOCKS, SE, BlockKind
from se_nas.core.errors import SpaceError
from se_nas.core.serialization import checksum

POSITIONS = ("standard", "pre", "post", "identity", "inner", "family")
"""Where in a unit a block may be: the SE paper's positions (section 6.5), and `family`: where networks of its kind
have their own, after the activation of the depthwise or grouped convolution."""
DEFAULT = "default"
"""In a search space, for the position: the one that each unit says."""
GATES = ("sigmoid", "hard_sigmoid", "tanh", "relu")
SQUEEZES = ("avg", "max")
ROUNDINGS = ("floor", "multiple_of_8", "mobilenet")
PLAIN = "plain"
IDENTITY = "identity"
INITS = (IDENTITY, PLAIN)
"""How a new block starts: at a gate of exactly 1, or as in the SE paper (a sigmoid then begins near 0.5)."""
ALLOWED: dict[str, tuple[str, ...]] = {
    "block": tuple(BLOCKS), "position": POSITIONS, "gate": GATES, "squeeze": SQUEEZES, "rounding": ROUNDINGS,
    "init": INITS,
}  # fmt: skip
"""Settings of a block that are one of several words, by name."""

# (scale, offset) that make a gate exactly 1 when the last layer starts at zero (relu: at a bias of 1).
IDENTITY_GATES: dict[str, tuple[float, float]] = {
    "sigmoid": (2.0, 0.0),
    "hard_sigmoid": (2.0, 0.0),
    "tanh": (1.0, 1.0),
    "relu": (1.0, 0.0),
}

REDUCTIONS = (1 / 16, 65_536.0)
"""Smallest and largest reduction ratio: below 1 the hidden layer is wider than what it squeezes."""

WIDEST = 2**20
"""Hidden channels, at most."""


def check_block_name(name: str) -> None:
    """SpaceError for what no block of the user's own can be called, since labels would say something else by it."""
    taken = {"none", "keep", "all", DEFAULT, *(word for words in ALLOWED.values() for word in words)}
    if not re.fullmatch(r"[^\W\d]\w*", name) or name in taken:
        raise SpaceError(
            f"a block of your own cannot be called {name!r}",
            allowed=["a word of letters, digits and _ that no other block or setting has"],
            hint="give it a name: {target: my_block.py:function, name: mine}",
        )


def start_named(word: str) -> str:
    """The start of a block by the word of now: `plain` was called ``default`` while it was the default."""
    return PLAIN if word == "default" else word


def usual_start(gate: str, *, bias: bool) -> str:
    """How a new block starts where nothing else is said: as the identity, unless its gate cannot.

    >>> usual_start("sigmoid", bias=False), usual_start("relu", bias=False)
    ('identity', 'plain')
    """
    return PLAIN if gate == "relu" and not bias else IDENTITY


def squeeze_channels(channels: int, reduction: float, rounding: str = "floor") -> int:
    """Hidden width of an SE block: ``channels / reduction``, rounded.

    ``floor`` is the paper's rule (Hu et al., arXiv 1709.01507, section 3); ``multiple_of_8`` is timm's: the
    nearest multiple of 8, at least 8; ``mobilenet`` is the same, but at most 10 % less than C / r (`make_divisible` of
    MobileNet, in timm and torchvision). May return 0, which no block can have: `Choice` refuses it.

    >>> squeeze_channels(64, 16), squeeze_channels(64, 16, "multiple_of_8"), squeeze_channels(8, 16)
    (4, 8, 0)
    >>> squeeze_channels(72, 4, "multiple_of_8"), squeeze_channels(72, 4, "mobilenet")
    (16, 24)
    """
    if rounding == "floor":
        return int(channels // reduction)
    nearest = max(8, int(channels / reduction + 4) // 8 * 8)
    return nearest + 8 if rounding == "mobilenet" and nearest < 0.9 * channels / reduction else nearest


def _hidden_width(channels: int, reduction: float, rounding: str) -> int:
    if (width := squeeze_channels(channels, reduction, rounding)) < 1:
        raise SpaceError(
            f"reduction {reduction:g} leaves a hidden width of 0 at {channels} channels",
            hint=f"choose a reduction of at most {channels}, or the rounding rule multiple_of_8",
        )
    return width


@dataclass(frozen=True, kw_only=True)
class Site:
    """A unit and a position in it: the very tensor that is rescaled.

    `module` is the dotted path of the module whose first input or whose output (`edge`) is that tensor; with the edge
    ``expression`` it is an expression in a method of that module, at `place`. With ``block`` and ``gate`` the module is
    the network's own SE block, or the part of it that computes the gate; ``inline`` is one that has no module of its
    own: its multiplication is at `place`, its weights are in `layers`, and without a place it can only be kept.
    `squeezed_from` is the number of channels that a reduction is applied to, where that is not the tensor's own.
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
    squeezed_from: int | None = None

    @property
    def width(self) -> int:
        """Channels that a reduction is applied to."""
        return self.channels if self.squeezed_from is None else self.squeezed_from


@dataclass(frozen=True, kw_only=True)
class Unit:
    """A part of the backbone that can carry one block, with its sites, the standard one first."""

    name: str
    stage: str
    sites: tuple[Site, ...]
    kind: str = "declared"
    existing: str | None = None
    """Path of the SE block that the network had already (then `keep` is a choice), or None."""
    default: str | None = None
    """The position that is taken where none is asked for, if it is not `standard`."""
    why: str | None = None
    """Why it is that one."""

    @property
    def position(self) -> str:
        """The position that is taken where none is asked for."""
        return self.default or "standard"

    @property
    def chosen(self) -> Site:
        """The site there."""
        return self.site(self.position)

    def site(self, position: str) -> Site:
        """The site at a position, or at the unit's own for `default`; SpaceError if the unit has none there."""
        position = self.position if position == DEFAULT else position
        for site in self.sites:
            if site.position == position:
                return site
        raise SpaceError(
            f"unit {self.name!r} has no site at position {position!r}",
            allowed=[site.position for site in self.sites],
        )


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What one unit gets: no block, the SE block that it had already, or a new block (kind ``se``) with its settings.

    `block` says which block a new one is. One without a hidden width has no `reduction` and no `squeeze_channels`, and
    `gate`, `gate_scale`, `gate_offset`, `squeeze` and `bias` are settings of SE alone: what a block has none of keeps
    its default, so that choices which build the same are equal. Of a block of the user's own, `block` is what the space
    calls it, and `own` what is known of it. The gate of an SE block is
    ``gate_offset + gate_scale * gate(logit)``. `init` says how the block starts: ``identity`` makes its gate exactly 1
    at the start, with the scale and offset of `IDENTITY_GATES`.

    The defaults of the fields are the paper's block, whatever is the default of a search: they are what a record means
    that does not say. New blocks are made by `Choice.se`, which lets them start as the identity.
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
    init: str = PLAIN
    block: str = SE
    own: BlockKind | UnsetType = UNSET

    def __post_init__(self) -> None:
        object.__setattr__(self, "init", start_named(self.init))
        for name, allowed in ALLOWED.items():
            if getattr(self, name) not in allowed and (name != "block" or self.own is UNSET):
                raise SpaceError(f"{name} is {getattr(self, name)!r}", allowed=allowed)
        if self.own is not UNSET:
            check_block_name(self.block)
        if self.kind != "se":
            return
        if not (math.isfinite(self.gate_scale) and math.isfinite(self.gate_offset)):
            raise SpaceError(f"the gate is {self.gate_offset} + {self.gate_scale} * {self.gate}", allowed=["numbers"])
        if not self.of.width:
            if self.squeeze_channels is not None:
                raise SpaceError(f"{self.of.title} has no hidden width, and is given {self.squeeze_channels} channels")
            return
        if self.reduction is not None and not self.reduction > 0:
            raise SpaceError(f"the reduction is {self.reduction}", allowed=["a number above 0"])
        if self.squeeze_channels is not None and self.squeeze_channels > WIDEST:
            raise SpaceError(f"a hidden width of {self.squeeze_channels:,}", allowed=[f"at most {WIDEST:,}"])
        if self.squeeze_channels is None or self.squeeze_channels < 1:
            raise SpaceError(
                f"{self.of.title} with reduction {self.reduction} would have a hidden width of {self.squeeze_channels}",
                hint="choose a smaller reduction, or the rounding rule multiple_of_8",
            )
        if self.block == SE and self.init == IDENTITY and usual_start(self.gate, bias=self.bias) != IDENTITY:
            raise SpaceError("init: identity with the relu gate needs bias: true, since the gate starts at its bias")

    @property
    def of(self) -> BlockKind:
        """What is known of its kind of block."""
        return BLOCKS[self.block] if self.own is UNSET else self.own

    @property
    def label(self) -> str:
        """Short form: ``none``, ``keep``, the reduction, or the block if it has no width."""
        if self.kind != "se":
            return self.kind
        if not self.of.width:
            return self.block
        return str(self.squeeze_channels) + "ch" if self.reduction is None else f"{self.reduction:g}"

    @functools.cached_property
    def built(self) -> tuple[tuple[str, Any], ...]:
        """(field, value) of what the block is where that differs from the default; nothing for `none`.

        It is equal for choices that build the same: how the hidden width was asked for is left out, unless a block of
        the user's own may be told; so are the name of such a block and the folder of its code.
        """
        if self.kind == "none":
            return ()
        found = {name: value for name, default in _BUILT.items() if (value := getattr(self, name)) != default}
        if self.own is not UNSET:
            del found["block"]
            found |= {"own": self.own.portable, **({"reduction": self.reduction} if self.own.width else {})}
        return tuple(found.items())

    @classmethod
    def se(cls, channels: int, reduction: float, **settings: Any) -> Choice:  # settings are this class's own fields
        """A block for a site with so many channels, SE if not named; SpaceError when the hidden width would be 0.

        Settings that its kind does not have are left out. Where `init` is not given, it starts as the identity if it
        can (`usual_start`); with a scale or an offset of the gate that are given, it is plain.
        """
        name, kind = settings.get("block", SE), settings.get("own", UNSET)
        if kind is UNSET and name not in BLOCKS:
            raise SpaceError(f"block is {name!r}", allowed=BLOCKS)
        kind = BLOCKS[name] if kind is UNSET else kind
        if name != SE:
            return cls._other(channels, reduction, kind, settings)
        rounding, gate, bias = (settings.get(name, getattr(cls, name)) for name in ("rounding", "gate", "bias"))
        scaled = not settings.keys().isdisjoint(("gate_scale", "gate_offset"))
        if settings.get("init") is None:
            settings = {**settings, "init": PLAIN if scaled else usual_start(gate, bias=bias)}
        if settings["init"] == IDENTITY and "gate_scale" not in settings and gate in IDENTITY_GATES:
            scale, offset = IDENTITY_GATES[gate]
            settings = {**settings, "gate_scale": scale, "gate_offset": offset}
        width = _hidden_width(channels, reduction, rounding)
        return cls(kind="se", reduction=float(reduction), squeeze_channels=width, **settings)

    @classmethod
    def _other(cls, channels: int, reduction: float, kind: BlockKind, settings: dict[str, Any]) -> Choice:
        """A block that is not SE, with those of the settings that it has."""
        own = {
            name: value for name, value in settings.items() if name in ("block", "own", "position") or kind.takes(name)
        }
        if kind.identity and own.get("init") is None:
            own["init"] = IDENTITY
        if not kind.width:
            return cls(kind="se", **own)
        width = _hidden_width(channels, reduction, own.get("rounding", cls.rounding))
        return cls(kind="se", reduction=float(reduction), squeeze_channels=width, **own)


NONE = Choice()
KEEP = Choice(kind="keep")

_BUILT = {f.name: f.default for f in fields(Choice) if f.name not in ("reduction", "rounding")}
"""Fields of a choice that say what is built, with their defaults."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Unit -> choice. Units without an entry get `none`."""

    choices: dict[str, Choice]
    label: str = ""
    """Short form for people, such as ``stage1=16, stage2=none``."""

    @property
    def blocks(self) -> int:
        """How many units have an SE block."""
        return sum(choice.kind != "none" for choice in self.choices.values())

    @property
    def _with(self) -> str:
        kinds = {choice.of.title if choice.kind == "se" else "SE" for choice in self.choices.values() if choice.built}
        return kinds.pop() if len(kinds) == 1 else "a block" if kinds else "SE"

    def __repr__(self) -> str:
        """The short form and the key: all choices of a large network would fill screens."""
        return (
            f"Placement({self.label!r}, {self.blocks} of {len(self.choices)} units with {self._with}, key={self.key!r})"
        )

    @functools.cached_property
    def key(self) -> str:
        """16 hexadecimal digits; equal for placements that build the same network.

        A SHA-256 of the sorted (unit, choice) pairs without `none`, without fields that have their default,
        and without how the hidden width was asked for.
        """
        return checksum([(unit, dict(choice.built)) for unit, choice in sorted(self.choices.items()) if choice.built])
