"""The block as a dimension of the space: files, levels, labels, keys, and what nobody asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers import backbone_of, unit, units_of

from se_nas.core.blocks import BLOCKS
from se_nas.core.errors import SpaceError
from se_nas.core.placement import Choice, Placement
from se_nas.core.serialization import from_json, to_json, to_plain
from se_nas.core.words import in_words
from se_nas.space.exact_cost import CostModel
from se_nas.space.fixed_rules import fixed_rules
from se_nas.space.latency_model import Terms
from se_nas.space.space import Space
from se_nas.space.spec import SpaceSpec, read_space
from se_nas.training.supernet import SharedNetwork, widest_choices

SHAPE = (1, 8, 8)
THREE = {"reductions": ["none", 8, 4], "blocks": ["se", "eca", "cbam"]}


def space_of(spec: dict[str, Any] | None = None) -> Space:
    return Space(read_space(THREE if spec is None else spec), units_of("resnet8"))


class TestNobodyAsked:
    def test_the_space_is_as_before(self) -> None:
        asked, plain = space_of({"blocks": "se"}), space_of({})
        assert asked.to_plain() == plain.to_plain()
        assert asked.checksum == plain.checksum
        assert not {"block", "stage_blocks", "blocks"} & plain.to_plain()["spec"].keys()
        assert list(plain.parameters) == ["stage1.reduction", "stage2.reduction", "stage3.reduction"]

    def test_a_record_of_before_is_an_se_block(self) -> None:
        record = {name: value for name, value in to_plain(Choice.se(16, 4)).items() if name != "block"}
        assert from_json(to_json(record), Choice) == Choice.se(16, 4)
        assert "block" not in dict(Choice.se(16, 4).built)


class TestLevels:
    def test_each_stage_has_a_block(self) -> None:
        space = space_of()
        assert space.parameters["stage1.block"] == ("se", "eca", "cbam")
        # none; SE and CBAM at two widths; ECA once, since a reduction means nothing to it.
        assert [len(space.parts(decision)) for decision in space.decisions] == [6, 6, 6]
        assert len({placement.key for placement in space.placements()}) == 6**3

    def test_one_key_for_all_reductions_of_a_block_without_a_width(self) -> None:
        space = space_of()
        levels = dict.fromkeys(space.parameters, 0)
        keys = set()
        for reduction in (1, 2):
            placement = space.placement({**levels, "stage2.reduction": reduction, "stage2.block": 1})
            keys.add(placement.key)
            assert placement.label == "stage1=none,stage2=eca,stage3=none"
            assert space.find(placement) == {**levels, "stage2.reduction": 1, "stage2.block": 1}
        assert len(keys) == 1

    def test_a_space_without_se_has_it_for_the_reference_alone(self) -> None:
        space = space_of({"reductions": ["none", 8], "blocks": ["eca", "simam"]})
        assert space.parameters["stage1.block"] == ("se", "eca", "simam")
        assert space.searched("stage1.block") == [1, 2]
        assert {c.block for c in space.reference.choices.values()} == {"se"}
        assert not space.contains(space.reference)
        assert space.contains(space.baseline)
        assert fixed_rules(space) == ()
        assert [len(space.parts(decision)) for decision in space.decisions] == [3, 3, 3]

    def test_blocks_of_one_stage(self) -> None:
        space = space_of({"reductions": ["none", 8], "stages": {"stage3": {"blocks": ["gct"]}, "stage2": [4]}})
        assert list(space.parameters) == ["stage1.reduction", "stage2.reduction", "stage3.reduction", "stage3.block"]
        assert space.searched("stage3.block") == [1]
        assert {p.choices["layer3.0"].label for p in space.placements()} == {"none", "gct"}
        assert {p.choices["layer2.0"].label for p in space.placements()} == {"4"}

    def test_costs_of_all_levels_at_once(self) -> None:
        space, model = space_of(), CostModel(backbone_of("resnet8"), units_of("resnet8"), SHAPE)
        table = model.table(space)
        for levels in list(space.levels())[::97]:
            cost = model(space.placement(levels))
            assert table["params"][tuple(levels.values())] == cost.params
            assert table["macs"][tuple(levels.values())] == cost.macs


class TestLabels:
    @pytest.mark.parametrize("index", range(0, 6**3, 13))
    def test_a_label_gives_its_placement(self, index: int) -> None:
        space = space_of()
        placement = list(space.placements())[index]
        assert space.parse(placement.label).key == placement.key

    @pytest.mark.parametrize(
        ("text", "blocks", "words"),
        [
            ("all:eca", ["eca"] * 3, "ECA everywhere"),
            ("stage1=16:eca", ["eca", "", ""], "ECA with r=16 in stage 1"),
            ("stage1=simam,stage3=4:cbam", ["simam", "", "cbam"], "SimAM in stage 1 and CBAM with r=4 in stage 3"),
            ("stage2=8:coord:pre", ["", "coord", ""], "coordinate attention with r=8 (pre) in stage 2"),
            ("stage2=ge:post", ["", "ge", ""], "GE (post) in stage 2"),
            ("all:4", ["se"] * 3, "SE with r=4 everywhere"),
        ],
    )
    def test_text(self, text: str, blocks: list[str], words: str) -> None:
        placement = space_of().parse(text)
        assert [c.block if c.kind == "se" else "" for c in placement.choices.values()] == blocks
        assert in_words(text) == words

    def test_a_width_is_asked_for(self) -> None:
        with pytest.raises(SpaceError, match="CBAM has a hidden width, and 'cbam' says none") as caught:
            space_of().parse("stage1=cbam")
        assert "give a reduction: 16:cbam" in str(caught.value)

    def test_a_placement_file(self, tmp_path: Any) -> None:
        space = space_of()
        placement = space.parse("stage1=eca,stage2=4:cbam")
        file = tmp_path / "placement.json"
        file.write_bytes(to_json(placement))
        assert space.parse(str(file)) == placement
        wrong = placement.choices | {"layer1.0": Choice.se(16, 4, block="gct")}
        file.write_bytes(to_json(Placement(choices=wrong, label=placement.label)))
        assert space.parse(str(file)).label == "", "the label is of another block"


class TestFiles:
    @pytest.mark.parametrize("value", [["se", "eac"], "eac", [["se"]], [1]])
    def test_unknown_blocks(self, value: Any) -> None:
        with pytest.raises(SpaceError, match="is not a block") as caught:
            read_space({"blocks": value})
        assert "allowed: " + ", ".join(BLOCKS) in str(caught.value)

    def test_a_misspelt_block_has_its_nearest(self) -> None:
        with pytest.raises(SpaceError, match=r"under stages\.late, under blocks") as caught:
            read_space({"stages": {"late": {"blocks": ["simm"]}}})
        assert "simam" in str(caught.value)

    def test_none_at_all(self) -> None:
        with pytest.raises(SpaceError, match="not at least one block"):
            read_space({"blocks": []})

    def test_the_key_is_blocks(self) -> None:
        with pytest.raises(SpaceError, match="block"):
            read_space({"block": ["se", "eca"]})
        assert read_space({"blocks": ["eca", "se", "eca"]}).block == ("eca", "se")
        assert SpaceSpec().block == ("se",)

    def test_a_stage_that_is_not_there(self) -> None:
        with pytest.raises(SpaceError, match="stage9"):
            space_of({"stages": {"stage9": {"blocks": ["eca"]}}})


class TestWhoKnowsBlocks:
    def test_latency_has_terms_of_each_block(self) -> None:
        terms = Terms(space_of())
        # Three sites (their channels and sizes differ), and at each SE, ECA and CBAM; SE and CBAM at two widths, and SE
        # at the reference's where that is another one.
        assert len(terms.classes) == 9
        row, foreign = terms.row(space_of().parse("stage1=eca"))
        assert foreign == 0
        assert np.count_nonzero(row) == 4 + 1
        assert terms.row(space_of().parse("stage1=gct"))[1] == 1

    def test_a_shared_network_leaves_other_blocks_to_networks_of_their_own(self) -> None:
        space = space_of()
        shared = SharedNetwork(backbone_of("resnet8"), units_of("resnet8"), widest_choices(space))
        assert shared.fits(space.parse("stage1=8,stage3=4"))
        assert not shared.fits(space.parse("stage1=eca"))
        assert not shared.fits(space.parse("stage1=4:cbam,stage2=8"))

    def test_a_unit_of_eight_channels(self) -> None:
        """SE at r = 16 leaves no hidden channel there, and is not offered; a block without a width is."""
        narrow = Space(read_space({"blocks": ["se", "eca"]}), (unit(channels=8),))
        assert {part.label[0] for part in narrow.parts(narrow.decisions[0]).values()} == {"none", 8.0, 4.0, "eca"}
