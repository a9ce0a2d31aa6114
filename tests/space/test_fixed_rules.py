"""Rules that need no search: the placement of each, written out by hand, in spaces of several shapes."""

from __future__ import annotations

from typing import Any

import pytest
from helpers import unit, units_of

from se_nas.core.placement import Unit
from se_nas.space.fixed_rules import RULES, fixed_rules
from se_nas.space.space import Space
from se_nas.space.spec import read_space

EVERYWHERE, PAPER, EARLY, LATE, COMPOSER = RULES
#: A bottleneck ResNet by its units: two in each of four stages, and widths of ResNet-50.
BOTTLENECKS = tuple(unit(f"layer{s}.{i}", f"stage{s}", 128 * 2**s) for s in (1, 2, 3, 4) for i in (0, 1))


def placed(units: tuple[Unit, ...], space: str | dict[str, Any] = "stagewise") -> dict[str, tuple[str, ...]]:
    """Label of the placement -> names of the rules that give it."""
    return {rule.placement.label: rule.names for rule in fixed_rules(Space(read_space(space), units))}


def widths(units: tuple[Unit, ...], name: str, space: str | dict[str, Any] = "stagewise") -> dict[str, int | None]:
    """Hidden width of each unit's block, by a rule."""
    rules = {name: rule for rule in fixed_rules(Space(read_space(space), units)) for name in rule.names}
    return {u: choice.squeeze_channels for u, choice in rules[name].placement.choices.items()}


def test_a_small_resnet_of_three_stages(units8: tuple[Unit, ...]) -> None:
    assert placed(units8) == {
        "all:16": (EVERYWHERE,),
        "stage1=16,stage2=16,stage3=none": (PAPER,),
        "stage1=16,stage2=none,stage3=none": (EARLY,),
        "stage1=none,stage2=16,stage3=16": (LATE,),
        "stage1=none,stage2=none,stage3=16": (COMPOSER,),
    }
    assert widths(units8, EVERYWHERE) == {"layer1.0": 1, "layer2.0": 2, "layer3.0": 4}
    assert widths(units8, COMPOSER) == {"layer1.0": None, "layer2.0": None, "layer3.0": 4}


def test_a_bottleneck_resnet_of_four_stages() -> None:
    assert placed(BOTTLENECKS) == {
        "all:16": (EVERYWHERE,),
        "stage1=16,stage2=16,stage3=16,stage4=none": (PAPER,),
        "stage1=16,stage2=16,stage3=none,stage4=none": (EARLY,),
        "stage1=none,stage2=none,stage3=16,stage4=16": (LATE,),
        "stage1=none,stage2=none,stage3=none,stage4=16": (COMPOSER,),
    }


@pytest.mark.parametrize("name", RULES)
def test_units_get_by_themselves_what_their_stages_get(name: str) -> None:
    """Rules are of stages and widths, whatever is decided together."""
    for units in (BOTTLENECKS, units_of("resnet20")):
        assert widths(units, name, "blockwise") == widths(units, name)


def test_the_widest_layers_need_not_be_the_last() -> None:
    units = (unit("a", "stage1", 16), unit("b", "stage2", 64), unit("c", "stage2", 32), unit("d", "stage3", 32))
    assert widths(units, COMPOSER, "blockwise") == {"a": None, "b": 4, "c": None, "d": None}
    assert widths(units, COMPOSER) == {"a": None, "b": 4, "c": 2, "d": None}, "a stage decides for its widest"


def test_rules_that_give_the_same_network_are_one() -> None:
    two = (unit("a", "stage1", 32), unit("b", "stage2", 64))
    assert placed(two) == {
        "all:16": (EVERYWHERE,),
        "stage1=16,stage2=none": (PAPER, EARLY),
        "stage1=none,stage2=16": (LATE, COMPOSER),
    }


def test_a_network_of_one_stage_has_no_early_one() -> None:
    assert placed((unit("a"), unit("b"))) == {"all:16": (EVERYWHERE, LATE, COMPOSER)}


@pytest.mark.parametrize(
    ("reductions", "expected"),
    [
        (["none", 16, 8, 4], "all:16"),
        (["none", 4, 2], "all:4"),
        (["none", 24, 12], "all:12"),  # 0.58 and 0.42 octaves away
        (["none", 32, 8], "all:32"),  # as near as 8, and cheaper
        (["none", 8, "keep"], "all:8"),
    ],
)
def test_the_reduction_is_that_of_the_space_nearest_to_16(reductions: list[Any], expected: str) -> None:
    """In octaves, and never the 16 that only the reference point has."""
    assert placed((unit("a", channels=64),), {"reductions": reductions}) == {expected: (EVERYWHERE, LATE, COMPOSER)}


def test_what_the_space_cannot_propose_is_left_out(units8: tuple[Unit, ...]) -> None:
    """Without `none` in the first stage and without SE in the third, two rules remain, and one is both."""
    space = {"reductions": ["none", 16], "stages": {"stage1": [16], "stage3": ["none"]}}
    assert placed(units8, space) == {
        "stage1=16,stage2=16,stage3=none": (PAPER,),
        "stage1=16,stage2=none,stage3=none": (EARLY,),
    }


def test_settings_that_are_searched_over_have_their_first_value() -> None:
    space = Space(read_space({"gate": ["hard_sigmoid", "sigmoid"]}), BOTTLENECKS)
    assert {c.gate for rule in fixed_rules(space) for c in rule.placement.choices.values() if c.kind == "se"} == {
        "hard_sigmoid"
    }


def test_every_rule_is_in_the_space_and_is_not_the_backbone_alone(space8: Space) -> None:
    rules = fixed_rules(space8)
    assert all(space8.contains(rule.placement) and rule.placement.blocks for rule in rules)
    assert len({rule.placement.key for rule in rules}) == len(rules)
