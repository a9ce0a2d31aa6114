"""The picture of a network says what its placement is, in both themes."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from se_nas.cli import main
from se_nas.commands.describe import describe
from se_nas.core.placement import Placement
from se_nas.core.trial import Target
from se_nas.report.diagram import BlockFacts, draw_network, network_file, network_svg
from se_nas.report.page import DARK, LIGHT
from se_nas.space.exact_cost import block_cost


def texts(svg: str | bytes) -> list[str]:
    """The texts of a picture, in order."""
    found = ElementTree.fromstring(svg)  # our own
    return ["".join(node.itertext()).strip() for node in found.iter("{http://www.w3.org/2000/svg}text")]


@pytest.mark.parametrize(("backbone", "units"), [("resnet14", 6), ("resnet56", 27)])
def test_every_unit_is_there_and_says_its_block(backbone: str, units: int) -> None:
    space = describe(Target(target=backbone)).space
    placement = space.parse("stage2=8")
    shown = texts(network_svg(draw_network(space.units, placement, title="A <title> & $x$")))
    assert shown[0] == "A <title> & $x$"
    assert {"stage1", "stage2", "stage3"} <= set(shown)
    assert {unit.name for unit in space.units} <= set(shown)
    assert len(space.units) == units
    assert shown.count("SE: r=8, 4 ch") == placement.blocks == units // 3
    unit = next(u for u in space.units if u.stage == "stage2")
    cost = block_cost(unit, placement.choices[unit.name])
    assert shown.count(f"+{cost.params} params") == units // 3
    assert sum(text.startswith("SE") for text in shown) == placement.blocks


def test_what_is_known_of_a_block_stands_in_its_box() -> None:
    space = describe(Target(target="resnet14")).space
    name = space.units[-1].name
    facts = {name: BlockFacts(milliseconds=0.4213, gate="gate constant")}
    shown = texts(network_svg(draw_network(space.units, space.parse("stage3=4"), facts=facts)))
    assert "+0.42 ms" in shown
    assert "gate constant" in shown


def test_sixty_units_fit_on_a_page() -> None:
    units = describe(Target(target="se_nas.backbones.resnet:resnet", args={"depth": 122})).space.units
    assert len(units) == 60
    figure = draw_network(units, Placement(choices={}))
    width, height = figure.get_size_inches()
    assert width < 13
    assert height < 5


def test_the_colours_are_those_of_the_theme() -> None:
    space = describe(Target(target="resnet14")).space
    figure = draw_network(space.units, space.parse("stage3=4"))
    svg = network_svg(figure)
    assert "var(--ink)" in svg
    assert not set(re.findall(r"(?:fill|stroke): (#[0-9a-f]{6})", svg)) & set(LIGHT.values())
    file = network_file(figure).decode()
    assert f"--ink: {LIGHT['ink']}" in file
    assert f"--ink: {DARK['ink']}" in file
    assert network_file(draw_network(space.units, space.parse("stage3=4"))).decode() == file  # nothing of the clock


class TestCommand:
    def test_a_file_is_written(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        file = tmp_path / "network.svg"
        assert main(["sites", "--backbone", "resnet14", "--placement", "stage3=16", "--diagram", str(file)]) == 0
        assert "SE: r=16, 4 ch" in texts(file.read_bytes())
        assert "resnet14: SE with r=16 in stage 3" in texts(file.read_bytes())
        assert "6 units" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("name", "message"),
        [("network.png", "is not an SVG file"), ("missing/network.svg", "cannot write the diagram")],
    )
    def test_a_wrong_file_is_one_error(
        self, name: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "missing").write_text("a file in place of a folder")
        assert main(["sites", "--backbone", "resnet14", "--diagram", str(tmp_path / name)]) == 2
        assert message in capsys.readouterr().err
