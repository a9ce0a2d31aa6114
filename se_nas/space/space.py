"""The search space: plain data that can be listed, counted and validated without torch and without Optuna."""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from msgspec import UNSET

from se_nas.core.blocks import SE, BlockKind, check_site
from se_nas.core.errors import SpaceError, check_names
from se_nas.core.placement import DEFAULT, KEEP, NONE, Choice, Placement, Unit
from se_nas.core.serialization import checksum, to_plain
from se_nas.space.notation import Notation, as_given, short_label, without_se
from se_nas.space.spec import REFERENCE_REDUCTION, SETTINGS, Reduction, SpaceSpec

KEPT = 4096
"""So many placements are kept, since drivers and reports ask for the same ones again."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The units that share one choice, and the reductions they may have, ordered by rising width."""

    name: str
    units: tuple[Unit, ...]
    reductions: tuple[Reduction, ...]
    parameters: dict[str, tuple[Reduction, ...]]
    """Parameter -> values by level: the reduction, then the settings that are searched over."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """What the units of one decision get at some levels: the beginning of a placement."""

    levels: dict[str, int]
    choices: dict[str, Choice]
    label: tuple[Reduction, ...]

    @property
    def built(self) -> tuple[Any, ...]:
        """Equal for parts that build the same."""
        return tuple(choice.built for choice in self.choices.values())


class Space:
    """All placements of a backbone's units that a specification allows.

    A *level* is an index into the values of one parameter: ``<stage>.reduction`` has level 0 for `none`, then
    reductions with rising width (r = 16, 8, 4), then `keep`; ``<stage>.position`` and the like follow the file.
    A placement is given by the levels of all parameters, by name. The studies of a search store just these numbers,
    and `se_nas.space.levels.LevelSpace` has them as rows of arrays.

    Raises
    ------
    SpaceError
        If a stage is unknown or nothing can be chosen.
    """

    def __init__(self, spec: SpaceSpec, units: Sequence[Unit]) -> None:
        self.units = tuple(units)
        self.spec = spec = _resolved(spec, self.units)
        groups: dict[str, list[Unit]] = {}
        for unit in self.units:
            groups.setdefault(unit.stage if spec.decide == "stage" else unit.name, []).append(unit)
        named = {**spec.stages, **spec.stage_blocks}
        check_names(named, groups, what="stage", where="the search space, under stages")
        self._defaults: dict[str, str] = {s: SE if s == "block" else getattr(spec, s)[0] for s in SETTINGS}
        self._searched: dict[str, list[int]] = {}
        self._parts: dict[tuple[Any, ...], Part] = {}
        self._options: dict[tuple[str, bool], dict[tuple[Any, ...], Part]] = {}
        self._placements: dict[tuple[int, ...], Placement] = {}
        self.decisions = tuple(self._decision(name, tuple(members)) for name, members in groups.items())
        self.parameters = {name: values for d in self.decisions for name, values in d.parameters.items()}
        """Parameter -> values by level, those that only the reference needs included."""
        self._check_blocks()
        self._check_reductions()

    def _wished(self, name: str, units: tuple[Unit, ...]) -> tuple[Reduction, ...]:
        """What the specification says for a stage.

        Of the list for all stages those are left out that the stage is too narrow for, if any other remains.
        """
        if name in self.spec.stages or self.spec.rounding != "floor":
            return self.spec.stages.get(name, self.spec.reductions)
        narrowest = self._narrowest(units)
        fitting = tuple(r for r in self.spec.reductions if isinstance(r, str) or r <= narrowest)
        return fitting if any(not isinstance(r, str) for r in fitting) else self.spec.reductions

    def _narrowest(self, units: tuple[Unit, ...]) -> int:
        """Channels that a reduction is applied to, at the narrowest site that the specification allows."""
        return min(unit.site(position).width for unit in units for position in self.spec.position)

    def _decision(self, name: str, units: tuple[Unit, ...]) -> Decision:
        wished = self._wished(name, units)
        offered = {*wished, "none", self._reference_reduction(units)} - {"keep"}
        if any(unit.existing is not None for unit in units):
            offered.add("keep")  # the network as given is a reference point
        reductions = tuple(sorted(offered, key=_width_order))
        parameters = {f"{name}.reduction": reductions}
        for setting in SETTINGS:
            if len(values := self.values(name, setting)) > 1:
                parameters[f"{name}.{setting}"] = values
        self._searched |= {parameter: list(range(len(values))) for parameter, values in parameters.items()}
        if (blocks := f"{name}.block") in parameters:
            wanted = self.spec.blocks_of(name)
            self._searched[blocks] = [i for i, value in enumerate(parameters[blocks]) if value in wanted]
        self._searched[f"{name}.reduction"] = [i for i, value in enumerate(reductions) if value in wished]
        if not self._searched[f"{name}.reduction"]:
            raise SpaceError(
                f"nothing can be chosen: {', '.join(map(str, wished))} is all that it may have, and the network has "
                "no SE block there that could be kept",
                where=f"the search space, {self.spec.decide} {name!r}",
                allowed=["none", "reductions"],
            )
        return Decision(name=name, units=units, reductions=reductions, parameters=parameters)

    def values(self, decision: str, setting: str) -> tuple[str, ...]:
        """What a setting may be in a decision, SE among the blocks: the reference needs it."""
        if setting != "block":
            allowed: tuple[str, ...] = getattr(self.spec, setting)
            return allowed
        blocks = self.spec.blocks_of(decision)
        return (SE, *(block for block in blocks if block != SE))

    def _check_blocks(self) -> None:
        for decision in self.decisions:
            blocks = self.spec.blocks_of(decision.name)
            for unit, position, block in itertools.product(decision.units, self.spec.position, blocks):
                try:
                    check_site(self.spec.kinds[block], unit.site(position))
                except SpaceError as error:
                    raise SpaceError(
                        error.what,
                        where=f"the search space, {self.spec.decide} {decision.name!r}",
                        allowed=error.allowed,
                        hint=f"give it its own blocks: stages: {{{decision.name}: {{blocks: [se]}}}}",
                    ) from error

    def _check_reductions(self) -> None:
        for decision in self.decisions:
            for level, reduction in enumerate(decision.reductions):
                if isinstance(reduction, str) or level not in self.searched(f"{decision.name}.reduction"):
                    continue
                allowed = itertools.product(*(self.values(decision.name, setting) for setting in SETTINGS))
                for unit, values in itertools.product(decision.units, list(allowed)):
                    try:
                        self.choice(unit, reduction, dict(zip(SETTINGS, values, strict=True)))
                    except SpaceError as error:
                        raise SpaceError(
                            error.what,
                            where=f"the search space, {self.spec.decide} {decision.name!r}",
                            allowed=error.allowed,
                            hint=f"give this {self.spec.decide} its own reductions under `stages`; {error.hint}",
                        ) from error

    def _reference_reduction(self, units: tuple[Unit, ...]) -> Reduction:
        """16, or where that would leave no hidden channel the largest power of two that does not."""
        if self.spec.rounding != "floor":
            return REFERENCE_REDUCTION
        return float(min(REFERENCE_REDUCTION, 2 ** int(math.log2(self._narrowest(units)))))

    @property
    def size(self) -> int:
        """How many assignments of levels the space has, without the reference-only ones."""
        return math.prod(len(self.searched(name)) for name in self.parameters)

    def searched(self, parameter: str) -> list[int]:
        """The levels of a parameter that may be proposed."""
        return self._searched[parameter]

    def levels(self) -> Iterator[dict[str, int]]:
        """All assignments of levels, level 0 of everything first."""
        return _assignments(self._searched)

    def random_levels(self, generator: random.Random) -> dict[str, int]:
        """One assignment, each level equally likely."""
        return {name: generator.choice(self.searched(name)) for name in self.parameters}

    def placements(self) -> Iterator[Placement]:
        """All placements that build different networks, in the order of `levels`."""
        seen = set()
        for levels in self.levels():
            placement = self.placement(levels)
            if placement.key not in seen:
                seen.add(placement.key)
                yield placement

    def placement(self, levels: Mapping[str, int]) -> Placement:
        """The placement of an assignment of levels.

        SpaceError if a parameter is missing or a level is out of range.
        """
        asked = tuple(levels.get(name, -1) for name in self.parameters)
        if (known := self._placements.get(asked)) is not None:
            return known
        parts = {decision.name: self.part(decision, levels) for decision in self.decisions}
        placement = Placement(
            choices={name: choice for part in parts.values() for name, choice in part.choices.items()},
            label=short_label({name: part.label for name, part in parts.items()}),
        )
        if len(self._placements) >= KEPT:
            self._placements = {}
        self._placements[asked] = placement
        return placement

    def part(self, decision: Decision, levels: Mapping[str, int]) -> Part:
        """What the units of one decision get; SpaceError if a level is missing, out of range or cannot be built."""
        own = tuple(levels.get(name) for name in decision.parameters)
        if (known := self._parts.get((decision.name, *own))) is not None:
            return known
        settings: dict[str, Any] = {}
        for (name, values), level in zip(decision.parameters.items(), own, strict=True):
            if level is None or not 0 <= level < len(values):
                raise SpaceError(f"parameter {name!r} has level {level}", allowed=[f"0 to {len(values) - 1}"])
            settings[name.rpartition(".")[2]] = values[level]
        reduction = settings.pop("reduction")
        if reduction == "keep":
            choices = {unit.name: NONE if unit.existing is None else KEEP for unit in decision.units}
        else:
            choices = {unit.name: self.choice(unit, reduction, settings) for unit in decision.units}
        label = _label(reduction, settings, self.spec.kinds)
        part = Part(levels={name: int(levels[name]) for name in decision.parameters}, choices=choices, label=label)
        self._parts[decision.name, *own] = part
        return part

    def parts(self, decision: Decision, *, searched: bool = True) -> dict[tuple[Any, ...], Part]:
        """The different networks that a decision can make of its units, by `Part.built`: the first part that does so.

        Of the levels that may be proposed; of all with ``searched=False``, without those that cannot be built.
        """
        if (known := self._options.get((decision.name, searched))) is not None:
            return known
        every = {name: list(range(len(values))) for name, values in decision.parameters.items()}
        found: dict[tuple[Any, ...], Part] = {}
        for levels in _assignments({name: self._searched[name] for name in every} if searched else every):
            with contextlib.suppress(SpaceError):  # a width of 0 at a reduction that only the reference has
                part = self.part(decision, levels)
                found.setdefault(part.built, part)
        self._options[decision.name, searched] = found
        return found

    def choice(self, unit: Unit, reduction: Reduction, settings: Mapping[str, str] | None = None) -> Choice:
        """The choice that a reduction means for a unit; settings that are not given are the first of the space.

        SpaceError if `keep` is asked of a unit without an SE block, or the hidden width would be 0.
        """
        if reduction == "none":
            return NONE
        if reduction == "keep":
            if unit.existing is None:
                raise SpaceError(f"unit {unit.name!r} has no SE block to keep")
            return KEEP
        settings = {**self._defaults, **(settings or {})}
        site = unit.site(settings["position"])
        settings["position"] = site.position
        check_site(self.kind(settings["block"]), site)
        try:
            return Choice.se(
                site.width,
                float(reduction),
                rounding=self.spec.rounding,
                bias=self.spec.bias,
                init=self.spec.init,
                own=self.spec.own.get(settings["block"], UNSET),
                **settings,
            )
        except SpaceError as error:
            raise SpaceError(f"unit {unit.name!r} ({unit.stage}): {error.what}", hint=error.hint) from error

    def kind(self, block: str) -> BlockKind:
        """What is known of a block; SpaceError if there is none of this name."""
        if block not in self.spec.kinds:
            raise SpaceError(f"block is {block!r}", allowed=self.spec.kinds)
        return self.spec.kinds[block]

    def contains(self, placement: Placement) -> bool:
        """Whether the space can propose this network."""
        return self._find(placement, searched=True) is not None

    def find(self, placement: Placement) -> dict[str, int] | None:
        """Levels that build the same network, or None. The first of several."""
        return self._find(placement, searched=False)

    def _find(self, placement: Placement, *, searched: bool) -> dict[str, int] | None:
        choices = {name: choice for name, choice in placement.choices.items() if choice.kind != "none"}
        if choices.keys() - {unit.name for unit in self.units}:
            return None
        levels: dict[str, int] = {}
        for decision in self.decisions:
            built = tuple(choices.get(unit.name, NONE).built for unit in decision.units)
            if (part := self.parts(decision, searched=searched).get(built)) is None:
                return None
            levels |= part.levels
        return levels

    @functools.cached_property
    def baseline(self) -> Placement:
        """The plain backbone."""
        return without_se(self.units)

    @functools.cached_property
    def given(self) -> Placement:
        """The backbone as it was given, with the SE blocks that it had."""
        return as_given(self.units)

    @functools.cached_property
    def reference(self) -> Placement:
        """SE everywhere at r = 16, the paper's default; at a smaller r where 16 leaves no hidden channel."""
        levels = dict.fromkeys(self.parameters, 0)
        for decision in self.decisions:
            level = decision.reductions.index(self._reference_reduction(decision.units))
            levels[f"{decision.name}.reduction"] = level
        return self.placement(levels)

    def share_with_se(self, placement: Placement) -> float:
        """The share of decisions in which some unit has an SE block, 0 to 1."""
        chosen = placement.choices
        on = [any(chosen[u.name].kind != "none" for u in d.units if u.name in chosen) for d in self.decisions]
        return sum(on) / len(on)

    def parse(self, text: str) -> Placement:
        """A placement as people write it: ``none``, ``keep``, ``all:16``, ``stage1=16,stage3=4``, or a JSON file.

        Stages, units and modules around units may be named; what is not named has no SE. The reductions need not be
        among those of the space. SpaceError for anything else.
        """
        return Notation(units=self.units, choose=self.choice, blocks=self.spec.kinds).parse(text)

    def to_plain(self) -> dict[str, Any]:
        """The space as plain data: what a study stores and a resumed one is compared with."""
        spec = {**to_plain(self.spec), "init": self.spec.start}
        for name, default in (("block", [SE]), ("stage_blocks", {}), ("own", {})):  # spaces of before have no such key
            if spec[name] == default:
                del spec[name]
        return {"spec": spec, "parameters": to_plain(self.parameters), "units": to_plain(self.units)}

    @property
    def checksum(self) -> str:
        """Checksum of `to_plain`."""
        return checksum(self.to_plain())


def _resolved(spec: SpaceSpec, units: tuple[Unit, ...]) -> SpaceSpec:
    """The specification without the position `default` where that is `standard` for all units, as it once was."""
    if any(unit.position != "standard" for unit in units):
        return spec
    return replace(spec, position=tuple(dict.fromkeys("standard" if p == DEFAULT else p for p in spec.position)))


def _label(reduction: Reduction, settings: Mapping[str, str], kinds: Mapping[str, BlockKind]) -> tuple[Reduction, ...]:
    """What the short form of a placement says of a decision: SE goes without saying, and so does a width where none is.

    >>> from se_nas.core.blocks import BLOCKS
    >>> _label(16.0, {"block": "eca", "position": "pre"}, BLOCKS), _label(16.0, {"block": "se"}, BLOCKS)
    (('eca', 'pre'), (16.0,))
    >>> _label("none", {}, BLOCKS)
    ('none',)
    """
    if reduction == "none":
        return (reduction,)
    block = settings.get("block", SE)
    others = tuple(value for name, value in settings.items() if name != "block")
    if reduction == "keep" or block == SE:
        return (reduction, *others)
    return (reduction, block, *others) if kinds[block].width else (block, *others)


def _width_order(reduction: Reduction) -> tuple[int, float]:
    """`none`, then falling r (rising width), then `keep`."""
    if isinstance(reduction, str):
        return (0 if reduction == "none" else 2), 0.0
    return 1, -reduction


def _assignments(allowed: Mapping[str, Sequence[int]]) -> Iterator[dict[str, int]]:
    """Every assignment of the allowed levels, the last parameter running fastest."""
    for combination in itertools.product(*allowed.values()):
        yield dict(zip(allowed, combination, strict=True))
