"""Placements as people write them: ``none``, ``keep``, ``all:16``, ``stage1=16,stage3=4``, or a JSON file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from se_nas.core.blocks import BLOCKS, BlockKind, check_site
from se_nas.core.documents import LARGEST_JSON, UnreadableError, from_json_text, text_of
from se_nas.core.errors import SeNasError, SpaceError, check_names, did_you_mean
from se_nas.core.placement import ALLOWED, KEEP, NONE, REDUCTIONS, Choice, Placement, Unit
from se_nas.core.serialization import from_plain
from se_nas.space.spec import SETTINGS, Reduction, read_reduction


def without_se(units: Sequence[Unit]) -> Placement:
    """The plain backbone."""
    return Placement(choices={unit.name: NONE for unit in units}, label="none")


def as_given(units: Sequence[Unit]) -> Placement:
    """The backbone as it was given, with the SE blocks that it had."""
    choices = {unit.name: NONE if unit.existing is None else KEEP for unit in units}
    return Placement(choices=choices, label="keep" if any(unit.existing for unit in units) else "none")


def short_label(values: Mapping[str, Sequence[Reduction]]) -> str:
    """The label of a placement from what each decision has: its reduction, and the settings that are searched over.

    >>> short_label({"stage1": [16.0, "pre"], "stage2": ["none"]}), short_label({"stage1": [8.0], "stage2": [8.0]})
    ('stage1=16:pre,stage2=none', 'all:8')
    """
    texts = {name: ":".join(v if isinstance(v, str) else f"{v:g}" for v in chosen) for name, chosen in values.items()}
    different = set(texts.values())
    if different == {"none"}:
        return "none"
    return f"all:{different.pop()}" if len(different) == 1 else ",".join(f"{n}={text}" for n, text in texts.items())


@dataclass(frozen=True, kw_only=True)
class Notation:
    """Reads placements of some units; `choose` gives the choice of a unit from a reduction and settings by name.

    `blocks` are those that may be named.
    """

    units: tuple[Unit, ...]
    choose: Callable[[Unit, Reduction, Mapping[str, str]], Choice]
    blocks: Mapping[str, BlockKind] = field(default_factory=lambda: BLOCKS)

    def parse(self, text: str) -> Placement:
        """The placement that a text means, or that is in the file of this name; SpaceError for anything else."""
        label = text.strip()
        if label.endswith(".json"):
            return self._read(Path(label))
        if label == "none":
            return without_se(self.units)
        if label in ("keep", "all:keep"):
            return as_given(self.units)
        if text.startswith("all:"):
            return Placement(choices={u.name: self._choice(u, text[4:], where=text) for u in self.units}, label=label)
        choices = dict(without_se(self.units).choices)
        before: dict[str, set[str]] = {}
        for part in text.split(","):
            found = self._part(part, text)
            name = part.partition("=")[0].strip()
            lost = next((n for n, units in before.items() if n == name or units < found.keys()), None)
            if lost is not None:
                raise SpaceError(
                    f"{part.strip()!r} leaves nothing of what is said of {lost!r} before it",
                    where=f"placement {text!r}",
                    hint="give each name once, and what has more units first",
                )
            before[name] = set(found)
            choices |= found
        return Placement(choices=choices, label=label)

    def _part(self, part: str, text: str) -> dict[str, Choice]:
        """Unit -> choice by ``NAME=R`` in a text: the name of a stage, a unit, or a module around units."""
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals:
            raise SpaceError(
                f"cannot read the placement {text!r}", allowed=["none", "all:R", "STAGE=R,...", "a .json file"]
            )
        named = [unit for unit in self.units if name == unit.stage] or [
            unit for unit in self.units if f"{unit.name}.".startswith(f"{name}.")
        ]
        if not named:
            stages = dict.fromkeys(unit.stage for unit in self.units)
            raise SpaceError(
                f"the backbone has no stage or unit {name!r}",
                where=f"placement {text!r}",
                allowed=stages,
                hint=did_you_mean(name, [*stages, *(unit.name for unit in self.units)]),
            )
        if value == "keep" and not any(unit.existing for unit in named):
            raise SpaceError(f"{name!r} has no SE block to keep", where=f"placement {text!r}")
        if value == "keep":  # of a stage, where there is something to keep
            return {u.name: KEEP if u.existing else NONE for u in named}
        return {unit.name: self._choice(unit, value, where=text) for unit in named}

    def _choice(self, unit: Unit, text: str, *, where: str) -> Choice:
        """A choice as labels have it: a reduction, and after colons the settings that are searched over.

        A block without a hidden width stands alone: its reduction would mean nothing.
        """
        reduction, *values = (part.strip() for part in text.split(":"))
        settings: dict[str, str] = {}
        if reduction in self.blocks:
            if (kind := self.blocks[reduction]).width:
                raise SpaceError(
                    f"{kind.title} has a hidden width, and {text!r} says none",
                    where=where,
                    hint=f"give a reduction: 16:{reduction}",
                )
            reduction, settings = "1", {"block": reduction}
        elif reduction.isidentifier() and reduction not in ("none", "keep"):
            raise SpaceError(
                f"{reduction!r} is neither a reduction nor a block",
                where=where,
                allowed=["none", "keep", "a number", *self.blocks],
                hint=did_you_mean(reduction, list(self.blocks)),
            )
        words = {**{setting: ALLOWED[setting] for setting in SETTINGS}, "block": tuple(self.blocks)}
        for value in values:
            setting = next((s for s in SETTINGS if value in words[s]), None)
            if setting is None:
                known = [v for s in SETTINGS for v in words[s]]
                raise SpaceError(
                    f"{value!r} is not a setting", where=where, allowed=known, hint=did_you_mean(value, known)
                )
            if setting in settings:
                raise SpaceError(f"two values for {setting}: {settings[setting]} and {value}", where=where)
            settings[setting] = value
        return self.choose(unit, read_reduction(reduction, where=where), settings)

    def _read(self, file: Path) -> Placement:
        try:
            text = text_of(file, largest=LARGEST_JSON)
        except (OSError, UnreadableError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise SpaceError(f"cannot read the placement file {str(file)!r}: {reason}") from error
        try:
            raw = from_json_text(text)
        except UnreadableError as error:
            raise SpaceError(f"{str(file)!r}: {error}") from error
        if isinstance(raw, dict) and "units" in raw:
            self._check_backbone(from_plain(raw["units"], tuple[Unit, ...], where=str(file)), file)
        raw = raw.get("placement", raw) if isinstance(raw, dict) else raw
        if isinstance(raw, str):
            if raw.strip().endswith(".json"):
                raise SpaceError(f"the placement file {str(file)!r} names another file, {raw!r}")
            return self.parse(raw)
        if isinstance(raw, dict) and "choices" not in raw:
            return self.parse(",".join(f"{stage}={value}" for stage, value in raw.items()))
        placement = from_plain(raw, Placement, where=str(file))
        names = tuple(unit.name for unit in self.units)
        check_names(placement.choices, names, what="unit", where=f"{file}; is it of another backbone?")
        for unit in self.units:
            _check_choice(unit, placement.choices.get(unit.name, NONE), where=str(file))
        return placement if self._says(placement) else replace(placement, label="")

    def _says(self, placement: Placement) -> bool:
        """Whether the label of a placement from elsewhere is one of it: it has its reductions, at the same units."""
        try:
            named = self.parse(placement.label).choices
        except SeNasError:
            return False
        pairs = ((named[unit.name], placement.choices.get(unit.name, NONE)) for unit in self.units)
        return all(
            (one.kind, one.block, one.reduction) == (other.kind, other.block, other.reduction) for one, other in pairs
        )

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


def _check_choice(unit: Unit, choice: Choice, *, where: str) -> None:
    """SpaceError for a choice that the unit cannot have."""
    if choice.kind == "keep" and unit.existing is None:
        raise SpaceError(f"unit {unit.name!r} has no SE block to keep", where=where)
    if choice.kind == "se":
        check_site(choice.of, unit.site(choice.position))
        most = int(unit.site(choice.position).width / REDUCTIONS[0])
        if (choice.squeeze_channels or 0) > most:
            raise SpaceError(
                f"unit {unit.name!r} would have a hidden width of {choice.squeeze_channels:,}",
                where=where,
                allowed=[f"at most {most:,}"],
            )
