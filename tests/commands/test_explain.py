"""`se-nas explain`: which network is meant, what is written, and what a report says of it."""

from __future__ import annotations

import csv
import json
import re
import shutil
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from helpers import REPOSITORY, tiny
from torch import Tensor, nn

import se_nas
from se_nas.analysis.explanation import read_explanation
from se_nas.analysis.summary import Summary
from se_nas.cli import main
from se_nas.commands import explain as command
from se_nas.commands.explain import explain_run
from se_nas.commands.results import existing_run, report_again
from se_nas.core.trial import Recipe, Target
from se_nas.report.gates_figure import evenly, panels, subset_text
from se_nas.report.gates_section import gates_section

FILES = {"blocks.csv", "channels.csv", "explanation.json", "gates.pdf", "gates.png", "gates.svg"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight trainings of the digits, all weights kept: no SE, SE everywhere, and others."""
    config = tiny(
        tmp_path_factory.mktemp("explain"), budget=8, keep_weights="all",
        train=Recipe(epochs=2, batch_size=128, precision="32"),
    )  # fmt: skip
    return se_nas.search(config).folder


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(run, tmp_path / "run")


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["explain", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    return captured.err


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def with_se(run: Path) -> list[int]:
    return [t.number for t in existing_run(run)[1].trials() if t.placement.blocks]


class TestCommand:
    def test_says_it_in_80_columns_and_writes_everything(self, copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
        for file in (copy / "data").glob("test_*"):
            file.unlink()  # the test set is not for this
        assert main(["explain", str(copy), "--trial", "1"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == "Explained: SE with r=16 everywhere (trial 1)."
        head = next(i for i, line in enumerate(lines) if "frozen" in line and "params" in line)
        table = lines[head : head + 5]
        assert [line.split()[0] for line in table[2:]] == ["layer1.0.bn2", "layer2.0.bn2", "layer3.0.bn2"]
        assert max(map(len, table)) <= 80
        assert {file.name for file in (copy / "explain").iterdir()} == FILES
        found = read_explanation(copy)
        assert found is not None
        assert all(sentence in lines for sentence in found.sentences)
        rows = rows_of(copy / "explain" / "blocks.csv")
        assert [row["block"] for row in rows] == ["layer1.0.bn2", "layer2.0.bn2", "layer3.0.bn2"]
        assert [row["unit"] for row in rows] == [u.name for u in existing_run(copy)[1].space.units]
        assert [int(row["params"]) for row in rows] == [2 * c * c // 16 for c in (16, 32, 64)]
        assert len(rows_of(copy / "explain" / "channels.csv")) == 16 + 32 + 64
        assert not (copy / "test_openings.jsonl").exists()

    def test_json_is_the_record(self, copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["explain", str(copy), "--select", "reference", "--images", "100", "--json"]) == 0
        printed = json.loads(capsys.readouterr().out)
        found = read_explanation(copy)
        assert found is not None
        assert printed == json.loads(json.dumps(found.as_json()))
        assert (printed["trial"], printed["images"], printed["phase"]) == (1, 100, "search")

    def test_is_of_the_trained_network_on_its_validation_images(self, copy: Path) -> None:
        done = explain_run(copy, select="trial=1")
        trial = existing_run(copy)[1].trials()[1]
        assert done.found.value == pytest.approx(trial.metrics["val_accuracy"].value, abs=0.003)
        assert (done.found.metric, done.found.unit, done.found.images) == ("val_accuracy", "share", 357)
        assert done.found.key == trial.placement.key
        network = report_again(copy).network("trial=1")
        images, labels = np.load(copy / "data" / "val_images.npy"), np.load(copy / "data" / "val_labels.npy")
        data = existing_run(copy)[1].findings().data
        assert data is not None
        pixels = (torch.from_numpy(images).float() - data.mean[0]) / data.std[0]
        by_hand = se_nas.explain(network, pixels, torch.from_numpy(labels), classes=data.classes)
        for ours, theirs in zip(done.found.blocks, by_hand.blocks, strict=True):
            assert ours.mean == pytest.approx(theirs.mean)
            assert ours.frozen == theirs.frozen
        shares = [(o.between, t.between) for o, t in zip(done.found.blocks, by_hand.blocks, strict=True)]
        known = [(ours.share, theirs.share) for ours, theirs in shares if ours is not None and theirs is not None]
        assert known
        assert all(ours == pytest.approx(theirs, rel=1e-4) for ours, theirs in known)

    def test_the_recommended_network_or_the_best_with_se(self, copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        trials = {t.number: t for t in existing_run(copy)[1].trials()}
        chosen: list[int] = []
        monkeypatch.setattr(command, "select_trial", lambda *_: trials[chosen[-1]])
        chosen.append(1)
        assert (explain_run(copy, images=40).found.trial, explain_run(copy, images=40).found.note) == (1, "")
        chosen.append(0)
        other = explain_run(copy, images=40).found
        assert other.trial in with_se(copy)
        assert other.note.startswith("The recommended network, no SE (trial 0), has no SE: this is ")
        chosen.append(1)
        (copy / "weights" / "1.safetensors").unlink()
        other = explain_run(copy, images=40).found
        assert other.trial in set(with_se(copy)) - {1}
        assert "(trial 1), has its weights elsewhere or nowhere: this is" in other.note

    def test_mistakes(self, copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert "trial 0 has no SE block to explain\n  hint: trials with SE and weights: " in refused(
            capsys, str(copy), "--trial", "0"
        )
        assert "the run has no trial '99'\n  allowed: 0 to 7" in refused(capsys, str(copy), "--trial", "99")
        assert "give one of the two" in refused(capsys, str(copy), "--trial", "1", "--select", "knee")
        assert "select is 'besst'" in refused(capsys, str(copy), "--select", "besst")
        assert "images is 1\n  allowed: a whole number of at least 2" in refused(capsys, str(copy), "--images", "1")
        assert "is not a run folder" in refused(capsys, str(tmp_path))
        if not torch.cuda.is_available():
            assert "device is 'cuda'" in refused(capsys, str(copy), "--device", "cuda")
        (copy / "weights" / "1.safetensors").unlink()
        assert "the weights of trial 1 were not kept" in refused(capsys, str(copy), "--trial", "1")
        shutil.rmtree(copy / "weights")
        assert (
            "no network with SE has its weights in the run folder\n  hint: search with --keep_weights all"
            in refused(capsys, str(copy))
        )
        assert not (copy / "explain").exists()

    def test_weights_of_another_network(self, copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
        shutil.copy(copy / "weights" / "0.safetensors", copy / "weights" / "1.safetensors")
        assert "weights/1.safetensors does not fit the network" in refused(capsys, str(copy), "--trial", "1")


def page_of(run: Path) -> str:
    return unescape((run / "report.html").read_text())


class TestReport:
    def test_shows_what_was_explained_and_measures_nothing_twice(
        self, copy: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found = explain_run(copy, images=80).found
        page = page_of(copy)
        assert "What the gates do" in page
        assert all(sentence in page for sentence in found.sentences)
        assert f"{copy}/" not in page
        table = page[page.index("SE blocks of ") :]
        for block in found.blocks:
            assert block.frozen is not None
            assert block.frozen.paired is not None
            assert re.search(rf">{block.block}<.*?>{block.mean_gate:.3f}<.*?>{block.params:,}<", table, re.DOTALL)

        def never(*_: Any, **__: Any) -> None:
            raise AssertionError("measured again")

        monkeypatch.setattr("se_nas.commands.diagnosis.explain_trial", never)
        result = report_again(copy)
        assert result.summary.gates == found
        check = next(check for check in result.summary.reasons if check.name == "gates")
        assert found.all_frozen is not None
        assert check.numbers["changed"] == found.all_frozen.changed
        assert check.numbers["images"] == found.images

    def test_without_explain_it_shows_the_gates_that_it_looked_at(self, copy: Path) -> None:
        result = report_again(copy)
        gates, page = result.summary.gates, page_of(copy)
        assert gates is not None
        assert not gates.measured
        assert all(block.frozen is None and block.between is not None for block in gates.blocks)
        assert "For the effect of each single block, run se-nas explain run" in page
        assert not (copy / "explain").exists()

    def test_has_no_section_where_nothing_was_looked_at(self, copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("se_nas.commands.results.explained", lambda summary, *_: summary)
        summary = report_again(copy).summary
        assert isinstance(summary, Summary)
        assert "What the gates do" not in page_of(copy)

    def test_other_weights_than_those_that_were_explained_are_looked_at(self, copy: Path) -> None:
        best = explain_run(copy, images=80).found
        other = next(number for number in with_se(copy) if number != best.trial)
        explain_run(copy, select=f"trial={other}", images=80)
        gates = report_again(copy).summary.gates
        assert gates is not None
        assert (gates.trial, gates.measured) == (best.trial, False)
        assert f"(trial {other}), on 80 validation images." in page_of(copy), "the section is of what was asked for"

    def test_a_readable_part_is_drawn_and_it_says_so(self, copy: Path) -> None:
        found = explain_run(copy, select="trial=1", images=60).found
        assert subset_text(found, 3) == "Drawn are 5 of 10 classes, evenly spaced by their numbers."
        many = replace(found, blocks=tuple(found.blocks[k % 3] for k in range(30)))
        assert [panel.block for panel in panels(many)] == [many.blocks[k] for k in evenly(30, 12)]
        wide = replace(found.blocks[2], mean=(0.5,) * 200, sd=(0.0,) * 200, class_means=((0.5,) * 200,) * 5)
        section = gates_section(many, "run")
        assert section is not None
        assert section.blocks[0].title == "All 30 blocks in words"
        assert section.blocks[0].closed
        assert section.text[-1] == many.of_network[-1], "thirty paragraphs would hide the chart"
        (only,) = panels(replace(found, blocks=(wide,)))
        assert (len(only.channels), only.channels[0], only.channels[-1]) == (64, 0, 199)
        assert "64 channels of blocks that have more" in subset_text(replace(found, blocks=(wide,)), 1)


class Brightness(pl.LightningModule):
    """Tells how bright an image is; the metric is the squared error, the mean over images."""

    metric, direction = "val_mse", "minimize"

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def errors(self, batch: Any) -> Tensor:
        return (self.network(batch[0]).mean(1) - batch[1].float()) ** 2

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.errors(batch).mean()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_mse", self.errors(batch).mean())

    def image_scores(self, batch: Any) -> dict[str, Tensor]:
        return {"val_mse": self.errors(batch)}

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.01)


class Silent(Brightness):
    """The same, but it does not say what an image contributes."""

    image_scores = None  # type: ignore[assignment]


def bright(file: Path) -> Target:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (120, 8, 8)).astype(np.uint8)
    np.savez(file, x=images, y=images.mean((1, 2)).astype(np.float32) / 255)
    return Target(target=f"npz:{file}")


class TestOtherTasks:
    def run(self, tmp_path: Path, name: str) -> Path:
        task = Target(target=f"{__file__}:{name}")
        config = tiny(tmp_path, data=bright(tmp_path / "data.npz"), task=task, budget=2, keep_weights="all")
        return se_nas.search(config).folder

    def test_images_are_scored_by_the_task_itself(self, tmp_path: Path) -> None:
        run = self.run(tmp_path, "Brightness")
        found = explain_run(run, select="trial=1").found
        trial = existing_run(run)[1].trials()[1]
        assert (found.metric, found.direction, found.classes) == ("val_mse", "minimize", False)
        assert found.value == pytest.approx(trial.metrics["val_mse"].value, rel=0.01)
        out = found.all_removed
        assert out is not None
        assert out.paired is not None
        assert out.paired.difference == pytest.approx(found.value - out.paired.value), "more is better, or less here"
        assert all(block.between is None for block in found.blocks)

    def test_without_such_scores_the_output_tells(self, tmp_path: Path) -> None:
        found = explain_run(self.run(tmp_path, "Silent"), select="trial=1").found
        assert (found.value, found.metric) == (None, "")
        assert all(block.frozen is not None and block.frozen.paired is None for block in found.blocks)

    def test_a_loop_of_ones_own(self, tmp_path: Path) -> None:
        loop = Target(target=f"{REPOSITORY / 'tests' / 'loops.py'}:Plain")
        run = se_nas.search(tiny(tmp_path, trainer=loop, train=Recipe(epochs=1), budget=2, keep_weights="all")).folder
        found = explain_run(run, select="trial=1").found
        assert (found.value, found.real, found.classes) == (None, False, True)
        assert found.all_frozen is not None
        assert found.all_frozen.changed is not None
        assert "images of noise (the trainer shows none)" in page_of(run)
