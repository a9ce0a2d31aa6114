"""The search space: what it lists and counts, what it reads, and that it needs neither torch nor Optuna."""

from __future__ import annotations

import itertools
import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import run_python, unit
from hypothesis import given
from hypothesis import strategies as st

from se_nas.core.errors import SpaceError
from se_nas.core.placement import KEEP, NONE, Choice, Placement, Site, Unit
from se_nas.core.serialization import from_plain, to_json
from se_nas.space.space import Space
from se_nas.space.spec import SpaceSpec, builtin_spaces, read_space

UNITS = (
    unit("a.0", "stage1", 16),
    unit("a.1", "stage1", 16),
    unit("b.0", "stage2", 32),
    unit("c.0", "stage3", 64, existing="c.0.se"),
)
_reductions = st.lists(st.sampled_from(["none", 16, 8, 4, 2]), min_size=1, max_size=3, unique=True)


def brute_force(spec: SpaceSpec, units: tuple[Unit, ...]) -> set[str]:
    """Keys of all networks that a specification allows, by trying every choice for every unit."""
    options = {}
    for one in units:
        wished = spec.stages.get(one.stage if spec.decide == "stage" else one.name, spec.reductions)
        options[one.name] = [
            (r, p, g, s) for r in wished for p in spec.position for g in spec.gate for s in spec.squeeze
        ]
    keys = set()
    for combination in itertools.product(*options.values()):
        choices, groups = {}, {}
        for one, option in zip(units, combination, strict=True):
            groups.setdefault(one.stage if spec.decide == "stage" else one.name, set()).add(option)
            reduction, position, gate, squeeze = option
            if reduction == "none":
                choices[one.name] = NONE
            elif reduction == "keep":
                choices[one.name] = KEEP
            else:
                site = one.site(position)
                choices[one.name] = Choice.se(
                    site.channels, reduction, position=site.position, gate=gate, squeeze=squeeze,
                    rounding=spec.rounding, bias=spec.bias, init=spec.init,
                )  # fmt: skip
        if all(len(given) == 1 for given in groups.values()):
            keys.add(Placement(choices=choices).key)
    return keys


class TestListing:
    @given(
        decide=st.sampled_from(["stage", "unit"]),
        reductions=_reductions,
        own=st.none() | _reductions,
        gates=st.sampled_from(["sigmoid", ["sigmoid", "tanh"]]),
        squeezes=st.sampled_from(["avg", ["max", "avg"]]),
        rounding=st.sampled_from(["floor", "multiple_of_8"]),
        bias=st.booleans(),
    )
    def test_lists_what_brute_force_finds(
        self, decide: str, reductions: list, own: list | None, gates: object, squeezes: object, rounding: str,
        bias: bool,
    ) -> None:  # fmt: skip
        units = UNITS[1:] if decide == "unit" else UNITS
        raw = {
            "decide": decide, "reductions": reductions, "gate": gates, "squeeze": squeezes, "rounding": rounding,
            "bias": bias, "stages": {"stage2" if decide == "stage" else "b.0": own} if own else {},
        }  # fmt: skip
        if decide == "unit" and len(reductions) * (len(gates) if isinstance(gates, list) else 1) > 4:
            units = units[:2]
        spec = read_space(raw)
        space = Space(spec, units)
        listed = list(space.placements())
        assert len({p.key for p in listed}) == len(listed)
        assert {p.key for p in listed} == brute_force(spec, units)
        assert sum(1 for _ in space.levels()) == space.size >= len(listed)
        for placement in listed:
            assert space.contains(placement)
            levels = space.find(placement)
            assert levels is not None
            assert space.placement(levels).key == placement.key

    def test_default_space_of_three_stages(self, space8: Space) -> None:
        assert space8.size == 64
        assert len(list(space8.placements())) == 64
        assert list(space8.parameters) == ["stage1.reduction", "stage2.reduction", "stage3.reduction"]
        assert space8.parameters["stage1.reduction"] == ("none", 16.0, 8.0, 4.0)
        assert next(space8.placements()).label == "none"

    def test_levels_rise_with_the_width(self) -> None:
        space = Space(read_space({"reductions": [2, "none", 16, "keep", 4]}), UNITS[3:])
        assert space.parameters["stage3.reduction"] == ("none", 16.0, 4.0, 2.0, "keep")

    def test_random_levels_are_of_the_space(self, space8: Space) -> None:
        generator = random.Random(0)
        drawn = [space8.random_levels(generator) for _ in range(300)]
        every = list(space8.levels())
        assert all(levels in every for levels in drawn)
        assert len({tuple(levels.values()) for levels in drawn}) > 55

    def test_a_placement_that_is_asked_for_again_is_not_built_again(self) -> None:
        space = Space(read_space({"reductions": ["none", 8, 4]}), UNITS)
        levels = list(space.levels())
        built = [space.placement(assignment) for assignment in levels]
        assert all(space.placement(a) is placement for a, placement in zip(levels, built, strict=True))

    def test_what_is_kept_of_a_large_space_is_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("se_nas.space.space.KEPT", 5)
        space = Space(read_space({"reductions": ["none", 8, 4]}), UNITS)
        keys = [space.placement(levels).key for levels in space.levels()]
        assert len(set(keys)) == len(keys) == 27
        assert keys == [space.placement(levels).key for levels in space.levels()]
        assert len(space._placements) <= 5


class TestMembership:
    def test_other_widths_units_and_settings_are_no_members(self, space8: Space) -> None:
        inside = space8.parse("stage1=16,stage2=none,stage3=4")
        assert space8.contains(inside)
        assert not space8.contains(space8.parse("all:2"))
        one = inside.choices["layer1.0"]
        for change in ({"bias": True}, {"gate": "tanh"}, {"squeeze": "max"}, {"position": "post"}):
            other = Choice.se(16, 16, **change)
            assert other != one
            assert not space8.contains(Placement(choices={**inside.choices, "layer1.0": other}))

    def test_placements_are_known_by_width_not_by_words(self, space8: Space) -> None:
        renamed = Placement(choices={"layer1.0": Choice.se(16, 4, init="identity")})
        renamed = Placement(choices={"layer1.0": replace(renamed.choices["layer1.0"], reduction=None)})
        assert space8.contains(renamed)
        assert space8.find(renamed) == {"stage1.reduction": 3, "stage2.reduction": 0, "stage3.reduction": 0}

    def test_placements_of_other_backbones_are_no_members(self, space8: Space) -> None:
        foreign = Placement(choices={"elsewhere": Choice.se(16, 16)})
        both = Placement(choices={**space8.reference.choices, **foreign.choices})
        for placement in (foreign, both):
            assert not space8.contains(placement)
            assert space8.find(placement) is None
        assert space8.contains(Placement(choices={**space8.reference.choices, "elsewhere": NONE}))

    def test_of_levels_that_build_the_same_the_first_are_found(self) -> None:
        space = Space(read_space({"reductions": ["none", 8, 4], "gate": ["sigmoid", "tanh"]}), UNITS[:1])
        assert space.find(space.baseline) == {"stage1.reduction": 0, "stage1.gate": 0}
        rounded = Space(read_space({"reductions": ["none", 8, 4], "rounding": "multiple_of_8"}), UNITS[:1])
        levels = {placement.key: rounded.find(placement) for placement in rounded.placements()}
        assert [found["stage1.reduction"] for found in levels.values() if found] == [0, 1]

    def test_to_keep_is_for_the_units_that_have_something(self) -> None:
        units = (unit("b.0", "stage2", 32, existing="b.0.se"), unit("b.1", "stage2", 32))
        space = Space(read_space({"reductions": ["none", "keep"]}), units)
        kept = space.placement({"stage2.reduction": space.parameters["stage2.reduction"].index("keep")})
        assert kept.choices == {"b.0": KEEP, "b.1": NONE}
        assert kept.key == space.given.key

    def test_a_reduction_must_fit_the_narrowest_unit_of_a_stage(self) -> None:
        units = (unit("a", "stage1", 64), unit("b", "stage1", 8), unit("c", "stage2", 64))
        space = Space(read_space({"reductions": ["none", 32, 8, 4]}), units)
        assert [space.parameters["stage1.reduction"][i] for i in space.searched("stage1.reduction")] == ["none", 8, 4]
        assert len(space.searched("stage2.reduction")) == 4
        assert space.reference.choices["b"].reduction == 8
        assert space.reference.choices["c"].reduction == 16

    def test_the_reference_need_not_be_a_member(self) -> None:
        space = Space(read_space({"reductions": ["none", 4]}), UNITS)
        assert space.reference.label == "all:16"
        assert not space.contains(space.reference)
        assert space.find(space.reference) is not None
        assert space.contains(space.baseline)
        assert space.size == 8

    @pytest.mark.parametrize("levels", [{}, {"stage1.reduction": 0}, {f"stage{i}.reduction": 9 for i in (1, 2, 3)}])
    def test_wrong_levels_are_refused(self, space8: Space, levels: dict[str, int]) -> None:
        with pytest.raises(SpaceError, match=r"parameter 'stage\d\.reduction' has level") as caught:
            space8.placement(levels)
        assert "allowed: 0 to 3" in str(caught.value)


class TestReferences:
    def test_baseline_and_reference(self, space8: Space) -> None:
        assert all(choice == NONE for choice in space8.baseline.choices.values())
        assert space8.baseline.key == Placement(choices={}).key
        assert [c.squeeze_channels for c in space8.reference.choices.values()] == [1, 2, 4]
        assert space8.reference.label == "all:16"

    def test_narrow_units_get_the_largest_power_of_two(self) -> None:
        space = Space(read_space({"reductions": ["none", 2]}), (unit("a", "stage1", 11), unit("b", "stage2", 32)))
        assert {n: c.reduction for n, c in space.reference.choices.items()} == {"a": 8.0, "b": 16.0}
        assert space.reference.choices["a"].squeeze_channels == 1

    def test_given_keeps_what_was_there(self) -> None:
        space = Space(read_space("stagewise"), UNITS)
        assert space.given.choices["c.0"] == KEEP
        assert space.given.choices["a.0"] == NONE
        assert space.given.label == "keep"
        assert space.parse("keep").key == space.given.key


class TestParsing:
    @pytest.mark.parametrize(
        ("text", "widths"),
        [
            ("none", {}),
            (" none ", {}),
            ("all:16", {"layer1.0": 1, "layer2.0": 2, "layer3.0": 4}),
            ("all:none", {}),
            ("stage1=16,stage3=4", {"layer1.0": 1, "layer3.0": 16}),
            (" stage1 = 2 , stage2=none", {"layer1.0": 8}),
            ("layer2.0=8", {"layer2.0": 4}),
            ("layer2=8", {"layer2.0": 4}),
            ("stage2=16,layer2.0=8", {"layer2.0": 4}),
            ("all:2.5", {"layer1.0": 6, "layer2.0": 12, "layer3.0": 25}),
        ],
    )
    def test_what_people_write(self, space8: Space, text: str, widths: dict[str, int]) -> None:
        placement = space8.parse(text)
        found = {n: c.squeeze_channels for n, c in placement.choices.items() if c.kind == "se"}
        assert found == widths

    def test_labels_read_back(self, space8: Space) -> None:
        for placement in space8.placements():
            assert space8.parse(placement.label).key == placement.key, placement.label

    def test_labels_with_settings_read_back(self, units8: tuple[Unit, ...]) -> None:
        space = Space(read_space({"reductions": ["none", 16], "gate": ["sigmoid", "tanh"]}), units8)
        for placement in space.placements():
            assert space.parse(placement.label).key == placement.key, placement.label

    def test_labels_tell_placements_apart(self, units8: tuple[Unit, ...]) -> None:
        space = Space(read_space({"reductions": ["none", 16], "gate": ["sigmoid", "tanh"]}), units8)
        labels = [placement.label for placement in space.placements()]
        assert len(set(labels)) == len(labels) == 27

    @pytest.mark.parametrize("content", ["record", "stages", "text", "wrapped"])
    def test_files(self, space8: Space, tmp_path: Path, content: str) -> None:
        wanted = space8.parse("stage1=16,stage3=4")
        file = tmp_path / "placement.json"
        file.write_text(
            {
                "record": to_json(wanted).decode(),
                "stages": json.dumps({"stage1": 16, "stage3": "4"}),
                "text": json.dumps("stage1=16,stage3=4"),
                "wrapped": json.dumps({"placement": json.loads(to_json(wanted)), "key": wanted.key}),
            }[content]
        )
        assert space8.parse(str(file)).key == wanted.key

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("stage4=16", ["the backbone has no stage or unit 'stage4'", "stage1, stage2, stage3", "did you mean"]),
            ("layer1.1=16", ["no stage or unit 'layer1.1'", "did you mean 'layer1.0'?"]),
            ("stage1:16", ["cannot read the placement 'stage1:16'", "STAGE=R,..."]),
            ("stage1=sixteen", ["'sixteen' is neither a reduction nor a block", "none, keep, a number, se, ese, eca"]),
            ("all:-4", ["'-4' is not a reduction"]),
            ("all:nan", ["'nan' is neither a reduction nor a block"]),
            ("all:32", ["unit 'layer1.0' (stage1): reduction 32 leaves a hidden width of 0 at 16 channels"]),
            ("stage1=keep", ["'stage1' has no SE block to keep"]),
            ("", ["cannot read the placement ''"]),
            ("nowhere.json", ["cannot read the placement file 'nowhere.json'", "No such file"]),
        ],
    )
    def test_what_cannot_be_read_is_named(self, space8: Space, text: str, words: list[str]) -> None:
        with pytest.raises(SpaceError) as caught:
            space8.parse(text)
        for word in words:
            assert word in str(caught.value)

    def test_a_file_of_another_backbone(self, space8: Space, tmp_path: Path) -> None:
        file = tmp_path / "placement.json"
        file.write_bytes(to_json(Placement(choices={"layer9.0": Choice.se(16, 16)})))
        with pytest.raises(SpaceError, match=r"unknown unit 'layer9\.0'") as caught:
            space8.parse(str(file))
        assert "is it of another backbone?" in str(caught.value)
        file.write_text("{")
        with pytest.raises(SpaceError, match="not valid JSON"):
            space8.parse(str(file))


class TestReading:
    @pytest.mark.parametrize("name", ["stagewise", "blockwise"])
    def test_built_in_spaces(self, name: str, units8: tuple[Unit, ...]) -> None:
        assert name in builtin_spaces()
        assert Space(read_space(name), units8).size == 64

    def test_a_file(self, tmp_path: Path) -> None:
        file = tmp_path / "mine.yaml"
        file.write_text("reductions: [null, 8]\nstages:\n  stage3: [none]\ngate: [sigmoid, tanh]\nbias: true\n")
        spec = read_space(str(file))
        assert spec.reductions == ("none", 8.0)
        assert spec.stages == {"stage3": ("none",)}
        assert spec.gate == ("sigmoid", "tanh")
        assert spec.bias is True

    @pytest.mark.parametrize(
        ("raw", "words"),
        [
            (
                {"reduction": [4]},
                ["unknown key 'reduction'", "did you mean 'reductions'?", "allowed: decide, "],
            ),
            ({"decide": "layer"}, ["decide is 'layer'", "stage, unit"]),
            ({"reductions": 4}, ["4 is not a list of reductions", "write [none, 16, 8, 4]"]),
            ({"reductions": []}, ["[] is not a list of reductions"]),
            ({"reductions": "none"}, ["'none' is not a list"]),
            ({"reductions": ["some"]}, ["'some' is not a reduction", "under reductions"]),
            ({"reductions": [0]}, ["0 is not a reduction", "a number from 0.0625"]),
            ({"reductions": [True]}, ["True is not a reduction"]),
            ({"reductions": [["none", 16]]}, ["['none', 16] is not a reduction"]),
            ({"position": []}, ["position is [], not at least one value", "standard, pre"]),
            ({"rounding": ["floor", "multiple_of_8"]}, ["rounding is ['floor', 'multiple_of_8'], not one value"]),
            ({"stages": [1]}, ["stages is a mapping"]),
            ({"stages": {"stage1": 4}}, ["4 is not a list of reductions", "under stages.stage1"]),
            ({"gate": "soft"}, ["gate is 'soft'", "sigmoid, hard_sigmoid, tanh, relu"]),
            ({"position": ["standard", "last"]}, ["position is 'last'", "standard, pre, post, identity, inner"]),
            ({"squeeze": "std"}, ["squeeze is 'std'", "avg, max"]),
            ({"rounding": "ceil"}, ["rounding is 'ceil'", "floor, multiple_of_8"]),
            ({"init": "zero"}, ["init is 'zero'", "identity, plain"]),
            ({"bias": "yes"}, ["bias is 'yes'", "true, false"]),
        ],
        ids=str,
    )
    def test_wrong_keys_and_values_are_named(self, raw: dict, words: list[str]) -> None:
        with pytest.raises(SpaceError) as caught:
            read_space(raw)
        for word in words:
            assert word in str(caught.value)

    def test_wrong_files_are_named(self, tmp_path: Path) -> None:
        file = tmp_path / "mine.yaml"
        file.write_text("reductions: [none\n")
        with pytest.raises(SpaceError, match="not valid YAML") as caught:
            read_space(str(file))
        assert f"in {file}" in str(caught.value)
        file.write_text("- 4\n")
        with pytest.raises(SpaceError, match="a search space is a mapping of keys to values"):
            read_space(str(file))
        with pytest.raises(SpaceError, match="there is no search space 'stagewize'") as caught:
            read_space("stagewize")
        assert "did you mean 'stagewise'?" in str(caught.value)
        assert "blockwise, on-off, stagewise, a path to a YAML file" in str(caught.value)

    def test_unknown_stages_are_named_when_the_backbone_is_known(self) -> None:
        with pytest.raises(SpaceError, match="unknown stage 'stage9'") as caught:
            Space(read_space({"stages": {"stage9": ["none"]}}), UNITS)
        assert "allowed: stage1, stage2, stage3" in str(caught.value)

    def test_a_hidden_width_of_zero_is_refused_before_any_search(self) -> None:
        with pytest.raises(SpaceError) as caught:
            Space(read_space({"reductions": ["none", 32]}), UNITS)
        text = str(caught.value)
        assert "unit 'a.0' (stage1): reduction 32 leaves a hidden width of 0 at 16 channels" in text
        assert "the search space, stage 'stage1'" in text
        assert "give this stage its own reductions under `stages`" in text
        raw = {"reductions": ["none", 32], "stages": {"stage1": ["none", 16]}}
        assert Space(read_space(raw), UNITS).size == 8
        assert Space(read_space({"reductions": ["none", 32], "rounding": "multiple_of_8"}), UNITS).size == 8

    def test_a_position_that_units_lack_is_refused(self) -> None:
        with pytest.raises(SpaceError, match="has no site at position 'post'"):
            Space(read_space({"position": "post"}), UNITS)

    def test_keep_means_nothing_without_a_block(self) -> None:
        without = tuple(replace(unit, existing=None) for unit in UNITS)
        assert Space(read_space({"reductions": ["none", 4, "keep"]}), without).size == 8
        raw = {"reductions": ["none", 4], "stages": {"stage3": ["none", "keep", 4]}}
        assert Space(read_space(raw), UNITS).size == 12


def test_positions_may_differ_in_width() -> None:
    sites = tuple(
        Site(unit="a", position=position, module="a", channels=channels, size=(4, 4))
        for position, channels in (("standard", 64), ("inner", 16))
    )
    space = Space(
        read_space({"reductions": ["none", 8], "position": ["standard", "inner"]}),
        (Unit(name="a", stage="stage1", sites=sites),),
    )
    found = [p.choices["a"].squeeze_channels for p in space.placements()]
    assert found == [None, 8, 2]


def test_timm_s_rounding_makes_fewer_networks_than_assignments() -> None:
    space = Space(read_space({"reductions": ["none", 16, 8, 4], "rounding": "multiple_of_8"}), UNITS)
    # 16 channels: always 8; 32: always 8; 64: 8, 8, 16.
    assert space.size == 64
    assert len(list(space.placements())) == 2 * 2 * 3


def test_plain_data_and_checksum(space8: Space, units8: tuple[Unit, ...]) -> None:
    assert json.loads(json.dumps(space8.to_plain())) == space8.to_plain()
    assert Space(read_space("stagewise"), units8).checksum == space8.checksum
    assert Space(read_space("blockwise"), units8).checksum != space8.checksum


def test_neither_torch_nor_optuna_is_needed() -> None:
    code = (
        "import sys\n"
        "from se_nas.core.placement import Site, Unit\n"
        "from se_nas.space.space import Space\n"
        "from se_nas.space.spec import read_space\n"
        "site = Site(unit='a', position='standard', module='a', channels=16, size=(4, 4))\n"
        "space = Space(read_space('stagewise'), (Unit(name='a', stage='stage1', sites=(site,)),))\n"
        "print([p.label for p in space.placements()])\n"
        "print(sorted({'torch', 'optuna', 'pytorch_lightning', 'numpy'} & set(sys.modules)))\n"
    )
    done = run_python("-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["['none', 'all:16', 'all:8', 'all:4']", "[]"]


def test_a_narrow_stage_leaves_out_what_it_is_too_narrow_for() -> None:
    space = Space(read_space({"reductions": ["none", 16, 8, 4]}), (unit("a", "stage1", 8), unit("b", "stage2", 32)))
    assert space.parameters["stage1.reduction"] == ("none", 8.0, 4.0)
    assert space.size == 3 * 4
    assert [choice.squeeze_channels for choice in space.reference.choices.values()] == [1, 2]


@pytest.mark.parametrize("raw", [{"bias": True}, {"rounding": "multiple_of_8"}, {"gate": "tanh"}, {"decide": "unit"}])
def test_plain_data_know_what_the_levels_do_not_show(raw: dict[str, object], units8: tuple[Unit, ...]) -> None:
    """Settings that are the same everywhere have no levels, and yet they build other networks."""
    plain, other = (Space(read_space({"reductions": ["none", 16], **more}), units8) for more in ({}, raw))
    assert other.to_plain() != plain.to_plain()
    assert other.checksum != plain.checksum


def test_every_position_of_the_space_must_leave_a_hidden_channel() -> None:
    """Not only the first: here the second is narrower."""
    sites = (*unit("a", channels=32).sites, Site(unit="a", position="inner", module="a.b", channels=8, size=(4, 4)))
    narrow = Unit(name="a", stage="stage1", sites=sites)
    raw = {"position": ["standard", "inner"], "stages": {"stage1": ["none", 16]}}
    with pytest.raises(SpaceError, match="reduction 16 leaves a hidden width of 0 at 8 channels") as caught:
        Space(read_space(raw), (narrow,))
    assert "the search space, stage 'stage1'" in str(caught.value)
    assert Space(read_space({**raw, "stages": {"stage1": ["none", 8]}}), (narrow,)).size == 4
    assert Space(read_space({**raw, "position": "standard"}), (narrow,)).size == 2


@pytest.mark.parametrize("gate", ["sigmoid", "hard_sigmoid", "tanh", "relu"])
def test_an_identity_block_has_a_gate_that_is_1_where_its_last_layer_says_nothing(gate: str) -> None:
    """By the gate's own formula, for the default gate too; a scale that is given stays."""
    at_rest = {"sigmoid": 0.5, "hard_sigmoid": 0.5, "tanh": 0.0, "relu": 1.0}[gate]  # relu starts at its bias of 1
    choice = Choice.se(64, 16, gate=gate, init="identity", bias=gate == "relu")
    assert choice.gate_offset + choice.gate_scale * at_rest == 1.0
    given = Choice.se(64, 16, gate=gate, init="identity", bias=gate == "relu", gate_scale=3.0)
    assert (given.gate_scale, given.gate_offset) == (3.0, 0.0)
    assert Choice.se(64, 16, gate=gate, bias=gate == "relu") == choice, "the default"
    plain = Choice.se(64, 16, gate=gate, bias=True, init="plain")
    assert (plain.gate_scale, plain.gate_offset, plain.squeeze_channels, plain.reduction) == (1.0, 0.0, 4, 16.0)


def test_parts_are_the_networks_of_a_decision_that_may_be_proposed(units8: tuple[Unit, ...]) -> None:
    """No SE has no position; that of the reference is one of them only when all are asked for."""
    space = Space(read_space({"reductions": ["none", 4], "position": ["standard", "pre"]}), units8)
    decision = space.decisions[0]
    built = [("none",), (4.0, "standard"), (4.0, "pre")]
    found, every = space.parts(decision), space.parts(decision, searched=False)
    assert [part.label for part in found.values()] == built
    assert {part.label for part in every.values()} == {*built, (16.0, "standard"), (16.0, "pre")}
    assert all(part.built == key for key, part in every.items())
    assert space.parts(decision) == found
    assert space.parts(decision, searched=False) == every


def test_a_choice_has_what_the_specification_says_of_all_blocks(units8: tuple[Unit, ...]) -> None:
    raw = {"reductions": ["none", 16], "init": "identity", "bias": True, "rounding": "multiple_of_8", "gate": "tanh"}
    choice = Space(read_space(raw), units8).choice(units8[0], 16)
    assert (choice.init, choice.bias, choice.rounding, choice.gate) == ("identity", True, "multiple_of_8", "tanh")
    assert (choice.squeeze_channels, choice.position, choice.squeeze) == (8, "standard", "avg")
    given = Space(read_space(raw), units8).choice(units8[0], 16, {"gate": "relu", "squeeze": "max"})
    assert (given.gate, given.squeeze, given.init) == ("relu", "max", "identity")


class TestStart:
    """How new SE blocks start: in a space that does not say, in one that does, and in files of before."""

    def test_is_the_identity_where_nothing_is_said(self, units8: tuple[Unit, ...]) -> None:
        silent, asked = (Space(read_space(raw), units8) for raw in ({}, {"init": "identity"}))
        assert {choice.init for choice in silent.reference.choices.values()} == {"identity"}
        assert silent.reference.key == asked.reference.key == silent.parse("all:16").key
        assert silent.to_plain() == asked.to_plain(), "a run may be gone on with in either way"

    def test_the_word_of_before_means_plain(self, units8: tuple[Unit, ...]) -> None:
        old, plain = (Space(read_space(raw), units8) for raw in ({"init": "default"}, {"init": "plain"}))
        assert old.to_plain() == plain.to_plain()
        assert old.to_plain()["spec"]["init"] == "plain"
        assert old.reference == plain.reference
        assert {(c.init, c.gate_scale) for c in old.reference.choices.values()} == {("plain", 1.0)}
        assert SpaceSpec(init="default") == SpaceSpec(init="plain")

    def test_a_gate_that_cannot_be_1_starts_plain_unless_that_was_asked_for(self, units8: tuple[Unit, ...]) -> None:
        """A relu gate starts at its bias."""
        mixed = Space(read_space({"gate": ["sigmoid", "relu"]}), units8)
        starts = {(c.gate, c.init) for p in mixed.placements() for c in p.choices.values() if c.kind == "se"}
        assert starts == {("sigmoid", "identity"), ("relu", "plain")}
        assert mixed.to_plain()["spec"]["init"] is None
        assert Space(from_plain(mixed.to_plain()["spec"], SpaceSpec), units8).reference == mixed.reference
        assert Space(read_space({"gate": "relu"}), units8).to_plain()["spec"]["init"] == "plain"
        biased = Space(read_space({"gate": "relu", "bias": True}), units8)
        assert {c.init for c in biased.reference.choices.values()} == {"identity"}
        assert next(iter(Space(read_space({}), units8).parse("all:16:relu").choices.values())).init == "plain"
        with pytest.raises(SpaceError, match="init: identity with the relu gate needs bias: true"):
            Space(read_space({"gate": "relu", "init": "identity"}), units8)

    def test_a_scale_that_is_given_is_of_a_plain_block(self) -> None:
        assert Choice.se(16, 4, gate_scale=2.0) == Choice.se(16, 4, gate_scale=2.0, init="plain")


def test_a_stage_in_which_nothing_can_be_chosen_is_an_error() -> None:
    spec = SpaceSpec(stages={"stage1": ("keep",)})
    with pytest.raises(SpaceError, match="nothing can be chosen: keep is all that it may have") as caught:
        Space(spec, UNITS)
    assert "stage 'stage1'" in str(caught.value)
    assert Space(SpaceSpec(stages={"stage3": ("keep",)}), UNITS).size > 0  # there the network has one
