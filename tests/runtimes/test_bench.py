"""Networks for another device: written, timed by a script without se-nas, and used as a cost of a search."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from helpers import tiny

from se_nas.analysis.selection import select
from se_nas.cli import main
from se_nas.commands.describe import Catalogue, describe
from se_nas.commands.results import existing_run
from se_nas.commands.search import search
from se_nas.core.config import Limits
from se_nas.core.errors import ConfigError, RunError
from se_nas.core.placement import Choice, Placement
from se_nas.core.trial import Target
from se_nas.runtimes.bench import entries_of
from se_nas.runtimes.latency_table import BenchFacts, Seen, Table, read_table

BLOCK = {16: 0.1, 32: 0.2, 64: 0.3}
"""Share of the backbone's time that a block takes on a device that never was, by channels."""


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return describe(Target(target="resnet8"))


def facts_of(catalogue: Catalogue, **changes: Any) -> BenchFacts:
    base = catalogue.costs.backbone  # type: ignore[union-attr]
    known = BenchFacts(
        backbone=catalogue.backbone, input_shape=catalogue.input_shape, batch=1, params=base.params, macs=base.macs
    )
    return dataclasses.replace(known, **changes)


def ratio_of(catalogue: Catalogue, placement: Placement) -> float:
    channels = {u.name: u.chosen.channels for u in catalogue.space.units}
    return 1 + sum(BLOCK[channels[n]] for n, choice in placement.choices.items() if choice.kind == "se")


def table_of(catalogue: Catalogue, **changes: Any) -> Table:
    """What a device would have written on which each block adds its share exactly, and no SE takes 2 ms."""
    entries = tuple(entries_of(catalogue.space))
    facts = facts_of(catalogue)
    ratios = {entry.key: ratio_of(catalogue, entry.placement) for entry in entries}
    known = Table(
        backbone=facts.backbone, input_shape=facts.input_shape, batch=1, params=facts.params, macs=facts.macs,
        baseline=entries[0].key, networks=entries, formats=("onnx",), format="onnx", runtime="onnxruntime 1.32.0 (CPU)",
        device="Pixel 8", threads=4, base=Seen(median=0.002, interval=(0.0019, 0.0021)),
        measured={key: Seen(median=r, interval=(r - 0.001, r + 0.001)) for key, r in ratios.items()},
    )  # fmt: skip
    return dataclasses.replace(known, **changes)


def written(table: Table, folder: Path, name: str = "pixel8.json") -> str:
    file = folder / name
    file.write_bytes(msgspec.json.encode(table))
    return str(file)


class TestTable:
    def test_measured_and_predicted(self, catalogue: Catalogue, tmp_path: Path) -> None:
        table = table_of(catalogue)
        found = read_table(written(table, tmp_path), catalogue.space, facts_of(catalogue))
        assert found.base.value == pytest.approx(2.0)
        assert found.base.conditions == "onnxruntime 1.32.0 (CPU), batch 1, 4 threads, Pixel 8"
        assert {key: value.value for key, value in found.values.items()} == pytest.approx(
            {key: 2.0 * seen.median for key, seen in table.measured.items() if key != table.baseline}
        )
        assert {p.placement.key for p in found.planned if p.held_out} == {n.key for n in table.networks if n.held_out}

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"batch": 8}, "the batch is 8 there and 1 here"),
            ({"input_shape": (3, 8, 8)}, "the image is 3 x 8 x 8 there and 1 x 8 x 8 here"),
            ({"backbone": Target(target="resnet20")}, "the backbone is resnet20 there and resnet8 here"),
            ({"params": 5}, "the backbone's parameters is 5 there"),
            ({"macs": 5}, "the backbone's multiply-adds is 5 there"),
            ({"baseline": "0" * 16}, "the key of no SE"),
            ({"measured": {}}, "has no measured network but that without SE"),
            ({"kind": "se-nas bench"}, "is of the kind 'se-nas bench', not 'se-nas latencies'"),
        ],
    )
    def test_of_something_else(
        self, catalogue: Catalogue, tmp_path: Path, changes: dict[str, Any], message: str
    ) -> None:
        file = written(table_of(catalogue, **changes), tmp_path)
        with pytest.raises(ConfigError, match=message) as error:
            read_table(file, catalogue.space, facts_of(catalogue))
        assert "pixel8.json" in error.value.what
        assert error.value.hint

    def test_keys_that_are_not_those_of_their_placements(self, catalogue: Catalogue, tmp_path: Path) -> None:
        table = table_of(catalogue)
        other = dataclasses.replace(table.networks[2], placement=table.networks[1].placement)
        file = written(table_of(catalogue, networks=(*table.networks[:2], other, *table.networks[3:])), tmp_path)
        with pytest.raises(ConfigError, match=f"has the key {other.key} for a placement whose key is"):
            read_table(file, catalogue.space, facts_of(catalogue))

    def test_blocks_where_there_is_no_site(self, catalogue: Catalogue, tmp_path: Path) -> None:
        foreign = Placement(choices={"layer9.0": Choice.se(16, 4)})
        table = table_of(catalogue)
        other = dataclasses.replace(table.networks[1], key=foreign.key, placement=foreign)
        file = written(table_of(catalogue, networks=(table.networks[0], other)), tmp_path)
        with pytest.raises(
            ConfigError, match=r"an SE block at 'layer9.0' \(standard\), where this backbone has no site"
        ):
            read_table(file, catalogue.space, facts_of(catalogue))

    @pytest.mark.parametrize("content", ["", "{}", '{"schema": 99}', "[1]", '{"kind": 3}'])
    def test_no_table_at_all(self, catalogue: Catalogue, tmp_path: Path, content: str) -> None:
        (tmp_path / "x.json").write_text(content)
        with pytest.raises(ConfigError, match="is not what the script of se-nas bench writes"):
            read_table(str(tmp_path / "x.json"), catalogue.space, facts_of(catalogue))
        with pytest.raises(ConfigError, match="cannot be read: No such file"):
            read_table(str(tmp_path / "y.json"), catalogue.space, facts_of(catalogue))


class TestSearch:
    def test_a_table_is_an_axis_and_a_limit(self, catalogue: Catalogue, tmp_path: Path) -> None:
        """2 ms without SE, +0.2, +0.4 and +0.6 ms for a block in stage 1, 2 and 3: at most 2.7 ms is a block in 3."""
        file = written(table_of(catalogue), tmp_path)
        name = "latency@pixel8"
        config = tiny(
            tmp_path,
            space="stagewise",
            latency_table=file,
            cost=f"gflops,{name}",
            max=Limits(own={name: 2.7}),
            budget=6,
        )
        result = search(config)
        table = result.trials
        trained = table[table["state"] == "complete"]
        assert len(trained) == 6
        for placement, value in zip(result.found.trials, table[name], strict=True):
            assert value == pytest.approx(2.0 * ratio_of(catalogue, placement.placement), rel=0.01)
        assert (trained[trained["role"] == ""][f"{name}_high"] <= 2.7).all()
        assert trained[trained["role"] == "reference"][name].iloc[0] == pytest.approx(3.2)
        assert set(table[f"{name}_conditions"]) == {"onnxruntime 1.32.0 (CPU), batch 1, 4 threads, Pixel 8"}
        fit = result.found.fits[name]
        assert max(abs(test.error) for test in fit.held_out) < 0.01
        for text in (" ".join(result.summary.lines), (result.folder / "report.html").read_text()):
            assert "batch 1, 4 threads, Pixel 8" in text

        _, study = existing_run(result.folder)
        chosen = select(study.findings(), "max-latency@pixel8=2.7ms")
        assert chosen.costs[name].value <= 2.7
        assert select(study.findings(), "max-latency@pixel8=0.0021s").placement.blocks == 0
        with pytest.raises(RunError, match=r"no trained network has latency@pixel8 of at most 1"):
            select(study.findings(), "max-latency@pixel8=1")
        with pytest.raises(RunError, match=r"the limit of latency@pixel8 is .fast.\n  allowed: a number, 5ms, 0\.005s"):
            select(study.findings(), "max-latency@pixel8=fast")

        again = search(dataclasses.replace(config, budget=7))  # from the study and the table alone
        assert again.trials["counts"].sum() == 7
        assert json.loads(json.dumps(again.as_json()))["latency"][name]["terms"] == fit.terms

    def test_a_table_of_another_batch_is_refused(self, catalogue: Catalogue, tmp_path: Path) -> None:
        file = written(table_of(catalogue), tmp_path)
        config = tiny(tmp_path, space="stagewise", latency_table=file, cost="latency@pixel8", latency_batch=4)
        with pytest.raises(ConfigError, match="the batch is 1 there and 4 here\n  hint: give --latency-batch 1"):
            search(config)

    def test_the_cost_of_one_placement(
        self, catalogue: Catalogue, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        file = written(table_of(catalogue), tmp_path)
        words = ["cost", "--backbone", "resnet8", "--placement", "stage1=8,stage3=4", "--latency-table", file]
        assert main([*words, "--json"]) == 0
        seen = json.loads(capsys.readouterr().out)["latency"]["latency@pixel8"]
        assert seen["ratio"] == pytest.approx(1.4, rel=0.01)
        assert seen["without_se"] == pytest.approx(2.0)
        assert seen["ratio_interval"][0] <= seen["ratio"] <= seen["ratio_interval"][1]
        assert main(words) == 0
        text = capsys.readouterr().out
        assert "latency@pixel8: 2.8" in text
        assert "no SE with 2 ms: +40." in text
        assert "GFLOPs +" in text


TINY = """
from torch import nn


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)

    def forward(self, images):
        return (images + self.bn(self.conv(images))).relu()


def tiny(num_classes=3):
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), Block(), Block(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes)
    )
"""

BARE = (
    "import runpy, sys\nsys.modules['se_nas'] = None\nsys.modules['torch'] = None\n"
    "sys.argv = sys.argv[1:]\nrunpy.run_path(sys.argv[0], run_name='__main__')"
)
"""Runs a script where neither se-nas nor torch can be imported, as on a phone."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `se-nas bench export` wrote of a network of two units, in ``out``."""
    folder = tmp_path_factory.mktemp("bench")
    (folder / "tiny.py").write_text(TINY)
    (folder / "space.yaml").write_text(json.dumps({"decide": "unit", "reductions": ["none", 4, 2]}))
    assert main(["bench", "export", str(folder / "out"), *options(folder), "--placements", "4"]) == 0
    return folder


def options(folder: Path) -> list[str]:
    return ["--backbone", f"{folder}/tiny.py:tiny", "--space", f"{folder}/space.yaml", "--input-shape", "3,12,12"]


class TestScript:
    def measure(self, folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", BARE, str(folder / "out" / "measure.py"), "--out", str(folder / "here.json"), *more],
            capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": ""}, cwd=folder,
        )  # fmt: skip

    def test_there_and_back(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        manifest = json.loads((folder / "out" / "bench.json").read_text())
        assert len(manifest["networks"]) == 5
        assert sum(n["held_out"] for n in manifest["networks"]) == 1
        done = self.measure(folder, "--rounds", "9", "--device", "a test")
        assert done.returncode == 0, done.stderr
        assert "Wrote" in done.stdout
        table = json.loads((folder / "here.json").read_text())
        assert {n["key"] for n in manifest["networks"]} == table["measured"].keys()
        for seen in table["measured"].values():
            assert len(seen["ratios"]) == 9
            assert seen["interval"][0] <= seen["median"] <= seen["interval"][1]
        assert table["device"] == "a test"
        assert (table["batch"], table["threads"], table["format"]) == (1, 1, "onnx")

        again = self.measure(folder, "--rounds", "9", "--device", "a test")
        assert again.returncode == 0, again.stderr
        assert json.loads((folder / "here.json").read_text())["measured"] == table["measured"]
        other = self.measure(folder, "--rounds", "9", "--device", "a test", "--threads", "2")
        assert other.returncode == 1
        assert "was measured in another way (threads); give another --out" in other.stderr

        capsys.readouterr()
        words = ["cost", *options(folder), "--placement", "all:2", "--latency-table", str(folder / "here.json")]
        assert main([*words, "--json"]) == 0
        seen = json.loads(capsys.readouterr().out)["latency"]["latency@here"]
        assert seen["without_se"] == pytest.approx(1000 * table["base"]["median"])
        assert seen["conditions"].endswith("(CPU), batch 1, 1 thread, a test")

    def test_a_folder_that_is_there_is_kept(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["bench", "export", str(folder / "out"), *options(folder)]) == 2
        assert "is there already" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["import", "x"], "ACTION is 'import'"),
            (["export", "x", "--format", "onxx"], "unknown format 'onxx'"),
            (["export", "x", "--latency-batch", "0"], "latency_batch is 0"),
            (["export", "x", "--placements", "1"], "placements is 1"),
            (["export", "x", "--run", "nowhere"], "nowhere"),
        ],
    )
    def test_what_is_wrong_is_said(self, words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["bench", *words]) == 2
        assert message in capsys.readouterr().err
