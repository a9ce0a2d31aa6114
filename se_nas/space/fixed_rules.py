"""Rules that say where SE goes without a search, as others ship or recommend them, as placements of any space.

Sources: *SE everywhere* and *all stages but the last* are the SE paper's (Hu et al., arXiv 1709.01507v4): section 4
removes "this comparatively costly final stage of SE blocks" at less than 0.1 % top-5 error, section 7.2 repeats it;
section 6.4 and table 13 measure stages 2, 3 and 4 (conv2_x to conv4_x) one at a time, and each of them gains.
*Only the late stages* is EfficientNetV2-S (Tan and Le, arXiv 2104.00298, table 4), which has no SE in the first three
of its six stages. *Only the widest layers* is MosaicML Composer's `SqueezeExcite`: it puts a block after each
`Conv2d` whose input and output both have `min_channels`, and its method card recommends the largest output channel
count of the network for that (512 for networks of ImageNet's scale); here the widest units, each with one block. Its
hidden width is 64 whatever the width of the layer (`latent_channels`), which is left out: rules differ in where, not
in how much. *Only the early stages* is nobody's default; it is the opposite of the two before.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from se_nas.core.placement import Placement
from se_nas.space.space import Decision, Space
from se_nas.space.spec import REFERENCE_REDUCTION


@dataclass(frozen=True, kw_only=True)
class FixedRule:
    """The placement of a rule, with the names of all rules that give it."""

    names: tuple[str, ...]
    placement: Placement


def _widest(space: Space) -> set[str]:
    width = {d.name: max(unit.chosen.channels for unit in d.units) for d in space.decisions}
    return {name for name, channels in width.items() if channels == max(width.values())}


def _in_stages(part: Callable[[int], slice]) -> Callable[[Space], set[str]]:
    """Decisions whose stage is in a part of the stages, which a function of their number gives."""

    def chosen(space: Space) -> set[str]:
        stages = list(dict.fromkeys(unit.stage for unit in space.units))
        inside = stages[part(len(stages))]
        return {d.name for d in space.decisions if d.units[0].stage in inside}

    return chosen


RULES: dict[str, Callable[[Space], set[str]]] = {
    "SE everywhere": _in_stages(lambda n: slice(0, n)),
    "all stages but the last (SE paper)": _in_stages(lambda n: slice(0, n - 1)),
    "only the early stages": _in_stages(lambda n: slice(0, n // 2)),
    "only the late stages (EfficientNetV2)": _in_stages(lambda n: slice(n // 2, n)),
    "only the widest layers (Composer)": _widest,
}
"""Name -> the decisions of a space that have SE. The early stages are the first half, rounded down."""


def fixed_rules(space: Space) -> tuple[FixedRule, ...]:
    """The placements of `RULES`, in their order.

    Each block has the reduction of the space that is nearest to the paper's 16 in octaves, of two equally near the
    cheaper one; settings that are searched over have their first value. Rules that give the same network are one;
    those that give none, or what the space cannot propose, are left out.
    """
    found: dict[str, FixedRule] = {}
    for name, chosen in RULES.items():
        levels = _levels(space, chosen(space))
        if levels is None:
            continue
        placement = space.placement(levels)
        if placement.key == space.baseline.key or not space.contains(placement):
            continue
        known = found.get(placement.key, FixedRule(names=(), placement=placement))
        found[placement.key] = replace(known, names=(*known.names, name))
    return tuple(found.values())


def _levels(space: Space, chosen: set[str]) -> dict[str, int] | None:
    """Levels with SE in the chosen decisions and nowhere else; None where a decision cannot have that."""
    levels = dict.fromkeys(space.parameters, 0)
    for decision in space.decisions:
        level = _level(space, decision, with_se=decision.name in chosen)
        if level is None:
            return None
        levels[f"{decision.name}.reduction"] = level
    return levels


def _level(space: Space, decision: Decision, *, with_se: bool) -> int | None:
    allowed = {level: decision.reductions[level] for level in space.searched(f"{decision.name}.reduction")}
    if not with_se:
        return next((level for level, value in allowed.items() if value == "none"), None)
    ratios = {level: float(value) for level, value in allowed.items() if not isinstance(value, str)}
    octaves = {level: (abs(math.log2(r / REFERENCE_REDUCTION)), -r) for level, r in ratios.items()}
    return min(octaves, key=lambda level: octaves[level], default=None)
