"""The search space: plain data that can be listed, counted and validated without torch and without Optuna."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from se_nas.errors import SpaceError, did_you_mean
from se_nas.records import (
    KEEP,
    NONE,
    Choice,
    Placement,
    Unit,
    check_names,
    checksum,
    from_plain,
    to_plain,
)
from se_nas.space_file import ALLOWED, REFERENCE_REDUCTION, SETTINGS, Reduction, SpaceSpec, read_reduction


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The units that share one choice, and the reductions they may have, ordered by rising width."""

    name: str
    units: tuple[Unit, ...]
    reductions: tuple[Reduction, ...]


class Space:
    """All placements of a backbone's units that a specification allows.

    A *level* is an index into the values of one parameter: ``<stage>.reduction`` has level 0 for `none`, then
    reductions with rising width (r = 16, 8, 4), then `keep`; ``<stage>.position`` and the like follow the file.

    Parameters
    ----------
    extra:
        Reductions that belong to the parameters, though only a reference placement uses them.

    Raises
    ------
    SpaceError
        If a stage is unknown or nothing can be chosen.
    """

    def __init__(self, spec: SpaceSpec, units: Sequence[Unit]) -> None:
        self.spec = spec
        self.units = tuple(units)
        self._names = {unit.name for unit in self.units}
        groups: dict[str, list[Unit]] = {}
        for unit in self.units:
            groups.setdefault(unit.stage if spec.decide == "stage" else unit.name, []).append(unit)
        check_names(spec.stages, tuple(groups), what="stage", where="the search space, under stages")
        self._wishes: dict[str, tuple[Reduction, ...]] = {}
        self.decisions = tuple(self._decision(name, tuple(members)) for name, members in groups.items())
        self.parameters: dict[str, tuple[Reduction, ...]] = {}
        """Parameter -> values by level, those that only the reference needs included."""
        for decision in self.decisions:
            self.parameters[f"{decision.name}.reduction"] = decision.reductions
            for setting in SETTINGS:
                if len(values := getattr(spec, setting)) > 1:
                    self.parameters[f"{decision.name}.{setting}"] = values
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
        """Channels of the narrowest site that the specification allows."""
        return min(unit.site(position).channels for unit in units for position in self.spec.position)

    def _decision(self, name: str, units: tuple[Unit, ...]) -> Decision:
        self._wishes[name] = self._wished(name, units)
        wished = {*self._wishes[name], "none", self._reference_reduction(units)} - {"keep"}
        if any(unit.existing is not None for unit in units):
            wished.add("keep")  # the network as given is a reference point
        return Decision(name=name, units=units, reductions=tuple(sorted(wished, key=_width_order)))

    def _check_reductions(self) -> None:
        for decision in self.decisions:
            for level, reduction in enumerate(decision.reductions):
                if isinstance(reduction, str) or level not in self.searched(f"{decision.name}.reduction"):
                    continue
                for unit, *values in itertools.product(decision.units, *(getattr(self.spec, s) for s in SETTINGS)):
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
        values = self.parameters[parameter]
        name, _, kind = parameter.rpartition(".")
        if kind != "reduction":
            return list(range(len(values)))
        return [i for i, value in enumerate(values) if value in self._wishes[name]]

    def levels(self) -> Iterator[dict[str, int]]:
        """All assignments of levels, level 0 of everything first."""
        names = list(self.parameters)
        for combination in itertools.product(*(self.searched(name) for name in names)):
            yield dict(zip(names, combination, strict=True))

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
        choices: dict[str, Choice] = {}
        for decision in self.decisions:
            choices |= self.choices(decision, levels)
        return Placement(choices=choices, label=self._short([self._label(d, levels) for d in self.decisions]))

    def choices(self, decision: Decision, levels: Mapping[str, int]) -> dict[str, Choice]:
        """Unit -> choice for the units of one decision; SpaceError if a level is missing or out of range."""
        reduction = self._value(levels, f"{decision.name}.reduction")
        settings = {s: self._value(levels, f"{decision.name}.{s}") for s in SETTINGS}
        if reduction == "keep":
            return {unit.name: KEEP if unit.existing is not None else NONE for unit in decision.units}
        return {unit.name: self.choice(unit, reduction, settings) for unit in decision.units}

    def _label(self, decision: Decision, levels: Mapping[str, int]) -> str:
        reduction = self._value(levels, f"{decision.name}.reduction")
        searched = [s for s in SETTINGS if len(getattr(self.spec, s)) > 1 and reduction != "none"]
        return ":".join(
            [
                f"{decision.name}={_text(reduction)}",
                *(str(self._value(levels, f"{decision.name}.{s}")) for s in searched),
            ]
        )

    def _value(self, levels: Mapping[str, int], parameter: str) -> Any:
        if parameter not in self.parameters:
            return getattr(self.spec, parameter.rpartition(".")[2])[0]
        values = self.parameters[parameter]
        if parameter not in levels or not 0 <= levels[parameter] < len(values):
            raise SpaceError(
                f"parameter {parameter!r} has level {levels.get(parameter)}", allowed=[f"0 to {len(values) - 1}"]
            )
        return values[levels[parameter]]

    @staticmethod
    def _short(labels: list[str]) -> str:
        values = {label.partition("=")[2] for label in labels}
        if values == {"none"}:
            return "none"
        return f"all:{values.pop()}" if len(values) == 1 else ",".join(labels)

    def choice(self, unit: Unit, reduction: Reduction, settings: Mapping[str, str] | None = None) -> Choice:
        """The choice that a reduction means for a unit, with the space's settings.

        SpaceError if `keep` is asked of a unit without an SE block, or the hidden width would be 0.
        """
        if reduction == "none":
            return NONE
        if reduction == "keep":
            if unit.existing is None:
                raise SpaceError(f"unit {unit.name!r} has no SE block to keep")
            return KEEP
        settings = settings or {s: getattr(self.spec, s)[0] for s in SETTINGS}
        site = unit.site(settings["position"])
        try:
            return Choice.se(
                site.channels,
                float(reduction),
                rounding=self.spec.rounding,
                bias=self.spec.bias,
                init=self.spec.init,
                **settings,
            )
        except SpaceError as error:
            raise SpaceError(f"unit {unit.name!r} ({unit.stage}): {error.what}", hint=error.hint) from error

    def contains(self, placement: Placement) -> bool:
        """Whether the space can propose this network."""
        return self._find(placement, self._searched_parts) is not None

    def find(self, placement: Placement) -> dict[str, int] | None:
        """Levels that build the same network, or None. The first of several."""
        return self._find(placement, self._all_parts)

    @functools.cached_property
    def _searched_parts(self) -> dict[str, dict[str, dict[str, int]]]:
        return self._parts({name: self.searched(name) for name in self.parameters})

    @functools.cached_property
    def _all_parts(self) -> dict[str, dict[str, dict[str, int]]]:
        return self._parts({name: list(range(len(values))) for name, values in self.parameters.items()})

    def _parts(self, allowed: Mapping[str, Sequence[int]]) -> dict[str, dict[str, dict[str, int]]]:
        """Decision -> key of what its units get -> the first levels that give it."""
        parts: dict[str, dict[str, dict[str, int]]] = {}
        for decision in self.decisions:
            names = [n for n in self.parameters if n.rpartition(".")[0] == decision.name]
            found = parts.setdefault(decision.name, {})
            for combination in itertools.product(*(allowed[name] for name in names)):
                levels = dict(zip(names, combination, strict=True))
                with contextlib.suppress(SpaceError):  # a width of 0, or `keep` where there is nothing to keep
                    found.setdefault(Placement(choices=self.choices(decision, levels)).key, levels)
        return parts

    def _find(self, placement: Placement, parts: Mapping[str, Mapping[str, dict[str, int]]]) -> dict[str, int] | None:
        if any(c.kind != "none" and name not in self._names for name, c in placement.choices.items()):
            return None
        levels: dict[str, int] = {}
        for decision in self.decisions:
            found = parts[decision.name].get(_part(placement, decision))
            if found is None:
                return None
            levels |= found
        return levels

    @property
    def baseline(self) -> Placement:
        """The backbone without SE."""
        return Placement(choices={unit.name: NONE for unit in self.units}, label="none")

    @property
    def given(self) -> Placement:
        """The backbone as it was given, with the SE blocks that it had."""
        choices = {unit.name: NONE if unit.existing is None else KEEP for unit in self.units}
        return Placement(choices=choices, label="none" if not any(u.existing for u in self.units) else "keep")

    @property
    def reference(self) -> Placement:
        """SE everywhere at r = 16, the paper's default; at a smaller r where 16 leaves no hidden channel."""
        return self.placement({
            name: self.parameters[name].index(self._reference_reduction(decision.units))
            if name.endswith(".reduction") else 0
            for decision in self.decisions
            for name in self.parameters if name.rpartition(".")[0] == decision.name
        })  # fmt: skip

    def parse(self, text: str) -> Placement:
        """A placement as people write it: ``none``, ``keep``, ``all:16``, ``stage1=16,stage3=4``, or a JSON file.

        Stages and units may be named; what is not named has no SE. The reductions need not be among those of the
        space. SpaceError for anything else.
        """
        if text.strip().endswith(".json"):
            return self._read(Path(text.strip()))
        if text.strip() == "none":
            return self.baseline
        if text.strip() in ("keep", "all:keep"):
            return self.given
        if text.startswith("all:"):
            choices = {u.name: self._read_choice(u, text[4:], where=text) for u in self.units}
            return Placement(choices=choices, label=text.strip())
        stages: dict[str, list[Unit]] = {}
        for unit in self.units:
            stages.setdefault(unit.stage, []).append(unit)
            stages.setdefault(unit.name, []).append(unit)
        choices = dict(self.baseline.choices)
        for part in text.split(","):
            name, equals, value = (piece.strip() for piece in part.partition("="))
            if not equals:
                raise SpaceError(
                    f"cannot read the placement {text!r}",
                    allowed=["none", "all:R", "STAGE=R,...", "a .json file"],
                )
            if name not in stages:
                known = list(dict.fromkeys(unit.stage for unit in self.units))
                raise SpaceError(
                    f"the backbone has no stage or unit {name!r}",
                    where=f"placement {text!r}",
                    allowed=known,
                    hint=did_you_mean(name, list(stages)),
                )
            if value == "keep" and not any(unit.existing for unit in stages[name]):
                raise SpaceError(f"{name!r} has no SE block to keep", where=f"placement {text!r}")
            for unit in stages[name]:
                kept = value == "keep" and name != unit.name  # of a stage, where there is something to keep
                choices[unit.name] = (
                    (KEEP if unit.existing else NONE) if kept else self._read_choice(unit, value, where=text)
                )
        return Placement(choices=choices, label=text.strip())

    def _read_choice(self, unit: Unit, text: str, *, where: str) -> Choice:
        """A choice as labels have it: a reduction, and after colons the settings that are searched over."""
        reduction, *named = (part.strip() for part in text.split(":"))
        settings = {s: getattr(self.spec, s)[0] for s in SETTINGS}
        for value in named:
            setting = next((s for s in SETTINGS if value in ALLOWED[s]), None)
            if setting is None:
                raise SpaceError(
                    f"{value!r} is no setting", where=where, allowed=[v for s in SETTINGS for v in ALLOWED[s]]
                )
            settings[setting] = value
        return self.choice(unit, read_reduction(reduction, where=where), settings)

    def _read(self, file: Path) -> Placement:
        try:
            raw = json.loads(file.read_text())
        except OSError as error:
            raise SpaceError(f"cannot read the placement file {str(file)!r}: {error.strerror}") from error
        except ValueError as error:
            raise SpaceError(f"{str(file)!r} is not valid JSON: {error}") from error
        if isinstance(raw, dict) and "units" in raw:
            self._check_backbone(from_plain(raw["units"], tuple[Unit, ...], where=str(file)), file)
        raw = raw.get("placement", raw) if isinstance(raw, dict) else raw
        if isinstance(raw, str):
            return self.parse(raw)
        if isinstance(raw, dict) and "choices" not in raw:
            return self.parse(",".join(f"{stage}={value}" for stage, value in raw.items()))
        placement = from_plain(raw, Placement, where=str(file))
        names = {unit.name for unit in self.units}
        check_names(placement.choices, tuple(names), what="unit", where=f"{file}; is it of another backbone?")
        return placement

    def _check_backbone(self, units: Sequence[Unit], file: Path) -> None:
        theirs, ours = ({u.name: u.sites[0].channels for u in among} for among in (units, self.units))
        if theirs != ours:
            first = next(name for name in {**theirs, **ours} if theirs.get(name) != ours.get(name))
            raise SpaceError(
                f"the placement is of another backbone: unit {first!r} has {theirs.get(first, 'no')} channels there, "
                f"{ours.get(first, 'no')} here",
                where=str(file),
                hint="give the backbone that it was made for",
            )

    def to_plain(self) -> dict[str, Any]:
        """The space as plain data: what a study stores and a resumed one is compared with."""
        return {"spec": to_plain(self.spec), "parameters": to_plain(self.parameters), "units": to_plain(self.units)}

    @property
    def checksum(self) -> str:
        """Checksum of `to_plain`."""
        return checksum(self.to_plain())


def _width_order(reduction: Reduction) -> tuple[int, float]:
    """`none`, then falling r (rising width), then `keep`."""
    if isinstance(reduction, str):
        return (0 if reduction == "none" else 2), 0.0
    return 1, -reduction


def _text(reduction: Reduction) -> str:
    return reduction if isinstance(reduction, str) else f"{reduction:g}"


def _part(placement: Placement, decision: Decision) -> str:
    names = {unit.name for unit in decision.units}
    return Placement(choices={n: c for n, c in placement.choices.items() if n in names}).key
