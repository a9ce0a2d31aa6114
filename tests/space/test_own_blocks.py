"""Blocks of the user's own: what a space says of them, what they must hold, and who may run their code."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import own_block
import pytest
import torch
from helpers import backbone_of, units_of

from se_nas.core import trust
from se_nas.core.blocks import BLOCKS
from se_nas.core.errors import ConfigError, PluginError, SeNasError, SpaceError
from se_nas.core.own_blocks import named_blocks, own_blocks
from se_nas.core.placement import Choice, Placement, Site
from se_nas.core.serialization import from_json, to_json
from se_nas.core.trial import Target
from se_nas.core.words import in_words
from se_nas.exports.plain_call import check_apart
from se_nas.insertion.attention.build import build_block
from se_nas.insertion.attention.own import OwnBlock, OwnGate
from se_nas.report.diagram import draw_network
from se_nas.space import exact_cost
from se_nas.space.contract import BlockContract
from se_nas.space.exact_cost import CostModel, cost
from se_nas.space.search_space import SearchSpace, insert
from se_nas.space.space import Space
from se_nas.space.spec import blocks_named, read_space

FILE = own_block.__file__
SHAPE = (1, 8, 8)
GATE = {"target": f"{FILE}:Bottleneck", "args": {"slope": 0.5}, "name": "bottle"}
TWO = {"reductions": ["none", 8, 4], "blocks": ["se", f"{FILE}:scaled", GATE]}


def space_of(spec: dict[str, Any] | None = None) -> Space:
    return Space(read_space(TWO if spec is None else spec), units_of("resnet8"))


@pytest.fixture
def next_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """What this process was given is forgotten, as in the next one."""
    monkeypatch.setattr(trust, "_KNOWN", set())
    monkeypatch.setattr(trust, "_FOLLOWED", set())


class TestBottleneckContract(BlockContract):
    block = {"target": f"{FILE}:Bottleneck", "args": {"slope": 0.5}}


class TestFunctionContract(BlockContract):
    block = f"{FILE}:scaled"


class TestFreeContract(BlockContract):
    block = f"{FILE}:Free"


@pytest.mark.parametrize("test", [name for name in dir(BlockContract) if name.startswith("test_")])
@pytest.mark.parametrize("name", BLOCKS)
def test_built_in_blocks_hold_the_contract(name: str, test: str) -> None:
    contract = BlockContract()
    contract.block = name
    torch.manual_seed(0)
    getattr(contract, test)()


@pytest.mark.parametrize(
    ("name", "test"),
    [("WrongCounts", "closed_form"), ("Doubles", "identity"), ("Shrinks", "equal_shape"), ("OtherGates", "multiplies")],
)
def test_the_contract_fails_for_wrong_blocks(name: str, test: str) -> None:
    contract = BlockContract()
    contract.block = f"{FILE}:{name}"
    (method,) = (m for m in dir(contract) if test in m)
    with pytest.raises((AssertionError, PluginError)):
        getattr(contract, method)()


class TestSpace:
    def test_levels_labels_and_words(self) -> None:
        space = space_of()
        assert space.parameters["stage1.block"] == ("se", "scaled", "bottle")
        assert [len(space.parts(decision)) for decision in space.decisions] == [6, 6, 6]
        for placement in list(space.placements())[::17]:
            assert space.parse(placement.label).key == placement.key
            assert space.find(placement) is not None
        text = "stage1=scaled,stage2=8:bottle"
        assert in_words(text) == "scaled in stage 1 and bottle with r=8 in stage 2"
        assert [c.block for c in space.parse(text).choices.values()] == ["scaled", "bottle", "se"]

    def test_blocks_of_one_stage(self) -> None:
        space = space_of({"reductions": ["none", 8], "stages": {"stage3": {"blocks": [f"{FILE}:scaled"]}}})
        assert {p.choices["layer3.0"].label for p in space.placements()} == {"none", "scaled"}
        assert {p.choices["layer2.0"].label for p in space.placements()} == {"none", "8"}

    def test_a_space_without_them_says_nothing_of_them(self) -> None:
        assert "own" not in space_of({}).to_plain()["spec"]
        assert b'"own"' not in to_json(Choice.se(16, 4, block="eca"))

    def test_keys_do_not_know_the_folder_nor_the_name(self, tmp_path: Path) -> None:
        shutil.copy(FILE, tmp_path / "own_block.py")
        there = {"target": f"{tmp_path}/own_block.py:Bottleneck", "args": {"slope": 0.5}, "name": "other"}
        one, other = space_of(), space_of({**TWO, "blocks": ["se", there]})
        assert one.parse("all:8:bottle").key == other.parse("all:8:other").key
        assert one.parse("all:8:bottle").key != one.parse("all:4:bottle").key
        assert one.find(other.parse("all:8:other")) is not None
        plain = space_of({**TWO, "blocks": [f"{FILE}:Bottleneck"]})
        assert plain.parse("all:8:Bottleneck").key != one.parse("all:8:bottle").key, "its slope is another one"

    def test_a_key_stays(self) -> None:
        assert space_of().parse("stage1=scaled,stage2=8:bottle").key == "e8841614961c5281"

    def test_a_record_comes_back(self) -> None:
        placement = space_of().parse("stage1=scaled,stage2=8:bottle")
        assert from_json(to_json(placement), Placement) == placement

    def test_paths_are_those_of_the_current_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        shutil.copy(FILE, tmp_path / "mine.py")
        monkeypatch.chdir(tmp_path)
        (kind,) = read_space({"blocks": ["mine.py:scaled"]}).own.values()
        assert kind.made == f"{tmp_path}/mine.py:scaled"

    def test_an_installed_plug_in(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("se_nas.core.own_blocks.entry_points", lambda kind: {"free": None})
        monkeypatch.setattr("se_nas.core.own_blocks.resolve", lambda *_: (own_block.Free, None))
        monkeypatch.setattr("se_nas.core.trust.entry_points", lambda kind: {"free": None})
        kind = read_space({"blocks": ["free"]}).own["free"]
        assert kind.made == "free"
        assert not named_blocks([kind])[0].runs_code

    def test_files_of_one_name_do_not_mix(self, tmp_path: Path) -> None:
        for folder, text in (("one", "x = 1"), ("two", "x = 2"), ("three", "x = 1")):
            (tmp_path / folder).mkdir()
            (tmp_path / folder / "net.py").write_text(text)
        one, two, three = (Target(target=f"{tmp_path}/{name}/net.py:x") for name in ("one", "two", "three"))
        check_apart([one, three])
        with pytest.raises(ConfigError, match=r"two files are called 'net\.py'"):
            check_apart([one, two])

    def test_what_a_placement_is_called(self) -> None:
        space = space_of()
        texts = {text: repr(space.parse(text)) for text in ("all:8", "all:scaled", "stage1=8,stage2=scaled", "none")}
        assert [text.partition("units with ")[2].partition(",")[0] for text in texts.values()] == [
            "SE", "scaled", "a block", "SE",
        ]  # fmt: skip


class TestNetworks:
    def test_costs_are_those_of_the_network(self) -> None:
        space, model = space_of(), backbone_of("resnet8")
        costs = CostModel(model, units_of("resnet8"), SHAPE)
        for text in ("all:scaled", "stage1=8:bottle,stage3=4:bottle"):
            placement = space.parse(text)
            network = insert(model, placement, input_shape=SHAPE)
            assert costs(placement) == cost(network, input_shape=SHAPE)
            kinds = {type(module) for module in network.modules()}
            assert (OwnBlock if "scaled" in text else OwnGate) in kinds

    def test_a_name_of_the_space_in_text(self) -> None:
        space = SearchSpace.from_model(backbone_of("resnet8"), input_shape=SHAPE, space=TWO)
        network = insert(backbone_of("resnet8"), space.parse("all:8:bottle"), input_shape=SHAPE).eval()
        images = torch.randn(2, *SHAPE)
        torch.testing.assert_close(network(images), backbone_of("resnet8").eval()(images))
        same = insert(backbone_of("resnet8"), "all:8:bottle", input_shape=SHAPE, blocks=[GATE]).eval()
        assert torch.equal(same(images), network(images))

    def test_weights_come_from_the_stream_of_the_unit(self) -> None:
        placement = space_of().parse("all:8:bottle")
        one, two = (insert(backbone_of("resnet8"), placement, input_shape=SHAPE, seed=3) for _ in range(2))
        for mine, theirs in zip(one.state_dict().values(), two.state_dict().values(), strict=True):
            assert torch.equal(mine, theirs)

    def test_a_gate_alone(self) -> None:
        choice = next(iter(space_of().parse("all:8:bottle").choices.values()))
        site = Site(unit="u", position="standard", module="m", channels=16, size=(4, 4), edge="gate")
        block = build_block(site, choice)
        assert block(torch.randn(2, 16, 4, 4)).shape == (2, 16, 1, 1)
        other = next(iter(space_of().parse("all:scaled").choices.values()))
        with pytest.raises(SpaceError, match="scaled does not give one gate for each channel"):
            build_block(site, other)


class TestWrong:
    @pytest.mark.parametrize(
        ("value", "words"),
        [
            (f"{FILE}:Costless", ["does not say what it costs", "write counts(channels, size)"]),
            (f"{FILE}:number", ["is int, not a function or a class"]),
            (f"{FILE}:nothing", ["has no attribute 'nothing'"]),
            (f"{FILE}:TooManyAxes", ["sizes of block", "(2, 4)"]),
            (f"{FILE}:WrongFact", ["width of block", "'yes'", "true or false"]),
            (FILE, ["does not say what in the file is meant", f"{FILE}:Bottleneck"]),
            ("no_such_file.py:x", ["there is no file"]),
            ("no_such_module:x", ["cannot import 'no_such_module'"]),
            ({"target": f"{FILE}:Free", "args": {"a": [1]}}, ["args of block", "numbers, words"]),
            ({"target": f"{FILE}:Free", "arg": {}}, ["unknown key 'arg'", "did you mean 'args'"]),
            ({"target": f"{FILE}:Free", "name": "avg"}, ["cannot be called 'avg'", "give it a name"]),
            ({"target": f"{FILE}:Free", "name": "a:b"}, ["cannot be called 'a:b'"]),
            ({"name": "a"}, ["None is not a block"]),
        ],
        ids=str,
    )  # fmt: skip
    def test_what_a_space_says(self, value: Any, words: list[str]) -> None:
        with pytest.raises(SeNasError) as caught:
            read_space({"blocks": [value]})
        assert [word for word in words if word not in str(caught.value)] == []

    @pytest.mark.parametrize(
        ("name", "args", "words"),
        [
            ("WrongCounts", {}, ["WrongCounts", "params 16 instead of 0, macs 7 instead of 0", "16 channels of size"]),
            ("NoNumbers", {}, ["returned (1.5, 2, 3)", "three whole numbers"]),
            ("Fails", {}, ["cannot be built", "RuntimeError: out of ideas"]),
            ("FailsLater", {}, ["fails on a tensor of shape (2, 16, 8, 8)", "out of ideas"]),
            ("Shrinks", {}, ["gives shape (2, 16, 4, 8)", "a tensor of equal shape"]),
            ("Doubles", {}, ["starts as the identity, and changes numbers"]),
            ("NoGates", {}, ["has no method gates"]),
            ("OtherGates", {}, ["differs from u * gates(u)"]),
            ("WideGates", {}, ["gives shape (2, 16, 8, 8)", "(2, 16, 1, 1)"]),
            ("Greedy", {}, ["missing a required argument: 'what'"]),
            ("Free", {"colour": 3}, ["unexpected keyword argument 'colour'"]),
            ("gives_none", {}, ["returned NoneType, not an nn.Module"]),
            ("gives_class", {}, ["returned the class Free", "return Free(...)"]),
        ],
    )
    def test_what_a_block_does(self, name: str, args: dict[str, Any], words: list[str]) -> None:
        value = {"target": f"{FILE}:{name}", "args": args}
        space = space_of({"reductions": ["none", 8], "blocks": [value]})
        costs = CostModel(backbone_of("resnet8"), units_of("resnet8"), SHAPE)
        with pytest.raises(PluginError) as caught:
            costs(space.parse(f"all:{name}"))
        assert [word for word in words if word not in str(caught.value)] == []

    def test_two_of_one_name(self, tmp_path: Path) -> None:
        other = {"target": f"{FILE}:Bottleneck", "args": {"slope": 2.0}, "name": "bottle"}
        with pytest.raises(SpaceError, match="two blocks are called 'bottle'"):
            read_space({"blocks": [GATE], "stages": {"stage1": {"blocks": [other]}}})
        shutil.copy(FILE, tmp_path / "own_block.py")
        there = {**GATE, "target": f"{tmp_path}/own_block.py:Bottleneck", "name": "other"}
        with pytest.raises(SpaceError, match="of different folders"):
            read_space({"blocks": [GATE, there]})

    def test_wrong_number_of_axes(self) -> None:
        choice = next(iter(space_of().parse("all:scaled").choices.values()))
        site = Site(unit="u", position="standard", module="m", channels=16, size=(9,))
        with pytest.raises(SpaceError, match="scaled needs 2 spatial axes, and unit 'u' has 1"):
            build_block(site, choice)

    def test_a_misspelt_name_in_a_placement(self) -> None:
        with pytest.raises(SpaceError, match="'scalde' is neither a reduction nor a block") as caught:
            space_of().parse("stage1=scalde")
        assert "scaled" in str(caught.value)


@pytest.mark.usefixtures("next_process")
class TestTrust:
    def test_a_record_runs_nothing_until_it_is_trusted(self) -> None:
        text = to_json(space_of().parse("stage1=scaled,stage2=8:bottle"))
        trust._FOLLOWED.clear()
        placement = from_json(text, Placement)
        with pytest.raises(PluginError, match="code that you have not given on this machine") as caught:
            insert(backbone_of("resnet8"), placement, input_shape=SHAPE)
        assert f"{FILE}:scaled" in str(caught.value)
        named = named_blocks(own_blocks(placement.choices.values()))
        with pytest.raises(PluginError, match=r"own_block\.py:Bottleneck' with {'slope': 0\.5}"):
            trust.check_trust(named, where=Path("run"), trust=False)
        trust.check_trust(named, where=Path("run"), trust=True)
        insert(backbone_of("resnet8"), placement, input_shape=SHAPE)
        with pytest.raises(PluginError):  # of another folder, it is asked again
            trust.check_trust(named, where=Path("run"), trust=False)

    def test_reading_names_runs_nothing(self, tmp_path: Path) -> None:
        (tmp_path / "theirs.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
        space = {"blocks": [f"{tmp_path}/theirs.py:f"], "stages": {"a": {"blocks": f"{tmp_path}/theirs.py:g"}}}
        found = blocks_named(str(space))
        assert [kind.made.rpartition(":")[2] for kind in found] == ["f", "g"]
        assert not (tmp_path / "ran").exists()

    def test_a_diagram_leaves_out_what_only_the_code_knows(self) -> None:
        placement = from_json(to_json(space_of().parse("stage1=scaled,stage2=8:bottle")), Placement)
        texts = [_texts(draw_network(units_of("resnet8"), placement, title="t"))]
        trust._FOLLOWED.clear()
        exact_cost._proved.cache_clear()
        texts.append(_texts(draw_network(units_of("resnet8"), placement, title="t")))
        assert all("bottle: r=8, 4 ch" in text for text in texts)
        assert ["params" in text for text in texts] == [True, False]


def _texts(figure: Any) -> str:
    return "\n".join(text.get_text() for axes in figure.axes for text in axes.texts)
