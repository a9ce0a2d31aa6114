"""``se-nas export --fold``: the folded network of a run, proven as every export, and what is said of it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from helpers import tiny, write_space

import se_nas
from se_nas.analysis.folded_points import FILE, read_folded
from se_nas.cli import main
from se_nas.commands.results import SearchResult, existing_run, stored
from se_nas.core.errors import ConfigError, RunError
from se_nas.data.base import DataInfo
from se_nas.exports.images import part_images
from se_nas.insertion.block import SEBlock


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> SearchResult:
    folder = tmp_path_factory.mktemp("run")
    space = write_space(folder, "reductions: [none, 4]\ninit: plain\n")  # gates that vary
    return se_nas.search(tiny(folder, budget=3, keep_weights="all", space=space))


def reference(run: SearchResult) -> int:
    """The trial with SE everywhere."""
    return next(trial.number for trial in run.found.trials if trial.role == "reference")


def test_the_folded_network_is_the_trained_one_without_its_blocks(run: SearchResult, tmp_path: Path) -> None:
    select = f"trial={reference(run)}"
    whole = se_nas.export(run, select=select, to=tmp_path / "whole")
    done = se_nas.export(run, select=select, to=tmp_path / "folded", fold=True, fold_margin=100, formats="onnx,python")
    facts = done.record.folded
    assert facts is not None
    assert facts.key == whole.record.key
    assert facts.apart < 1e-5
    assert len(facts.taken) == len(facts.blocks) == whole.record.placement.blocks
    assert done.record.placement.blocks == 0
    assert done.record.placement.label == "none"
    networks = [se_nas.load(export.folder) for export in (whole, done)]
    assert not any(isinstance(module, SEBlock) for module in networks[1].modules())
    counts = [sum(p.numel() for p in network.parameters()) for network in networks]
    assert counts[0] - counts[1] == facts.params_saved == whole.record.costs["params"].value - counts[1]
    assert done.record.costs["params"].value == counts[1]
    folder, study = existing_run(run.folder)
    images = part_images(folder.path, stored(study, "data", DataInfo), "val").images
    with torch.no_grad():
        right = [network(images).argmax(1) for network in networks]
    assert float((right[0] != right[1]).double().mean()) == pytest.approx(facts.changed)
    assert [before.conditions for before, _ in facts.milliseconds] == [
        after.conditions for _, after in facts.milliseconds
    ]
    assert [str(after.conditions).split()[0] for _, after in facts.milliseconds] == ["torch", "onnxruntime"]
    for before, after in facts.milliseconds:
        assert before.conditions == after.conditions
        assert before.value > 0
        assert after.interval is not None
        assert after.interval[0] <= after.value <= after.interval[1]
    card = (done.folder / "README.md").read_text()
    assert "## SE blocks that are folded" in card
    assert f"Trained with `{facts.placement}`" in card
    assert all(f"| `{block.block}` | `{block.into[0]}` |" in card for block in facts.taken)
    assert "SE: " not in (done.folder / "network.svg").read_text()


def test_within_the_default_margin_few_images_fold_nothing_that_varies(run: SearchResult) -> None:
    with pytest.raises(RunError, match="can be folded away within the margin") as caught:
        se_nas.export(run, select=f"trial={reference(run)}", fold=True)
    assert "cannot be ruled out" in str(caught.value)
    assert "--fold-margin X allows a larger loss" in str(caught.value)
    assert not list(run.folder.glob("export-*"))


def test_the_command_selects_and_says_it(run: SearchResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(run.folder, folder := tmp_path / "run")
    assert main(["export", str(folder), "--select", "folded", "--fold-margin", "100"]) == 0
    out = capsys.readouterr().out
    assert "SE blocks are folded into the neighbouring weights" in out
    assert "paired on" in out
    made = Path(out.splitlines()[-1])
    assert made.parent == folder
    assert made.name.endswith("-folded")
    assert main(["export", str(folder), "--select", "folded", "--fold-margin", "100", "--json", "--force"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert Path(said["folder"]) == made
    assert said["folded"]["margin"] == 1.0


@pytest.mark.parametrize("margin", [-1.0, float("nan"), float("inf")])
def test_a_margin_that_is_none_is_an_error(run: SearchResult, margin: float) -> None:
    with pytest.raises(ConfigError, match="fold_margin is"):
        se_nas.export(run, fold_margin=margin)


def test_no_se_is_an_error(run: SearchResult) -> None:
    with pytest.raises(RunError, match="has no SE block to fold"):
        se_nas.export(run, select="baseline", fold=True)


def test_the_report_shows_the_folded_network(run: SearchResult, tmp_path: Path) -> None:
    shutil.copytree(run.folder, folder := tmp_path / "run")
    number = reference(run)
    before = re.findall(r'<section id="(\w+)"', (folder / "report.html").read_text())
    for _ in range(2):  # the last export of a network counts
        done = se_nas.export(folder, select=f"trial={number}", fold_margin=100, to=tmp_path / "out", force=True)
    (point,) = read_folded(folder)
    assert done.record.folded is not None
    assert point.trial == number
    assert point.free
    assert point.costs["params"] == done.record.costs["params"].value
    page = (folder / "report.html").read_text()
    assert re.findall(r'<section id="(\w+)"', page) == before  # nothing else of the report is lost
    assert "Train with SE, ship without: all" in page
    assert "SE blocks folded away" in page
    (folder / FILE).write_text("[{")
    with pytest.raises(RunError, match=r"folded.json is broken"):
        read_folded(folder)
