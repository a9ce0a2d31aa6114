"""`se-nas cost --measure`: a placement beside the backbone; and a search that measures its front at its end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import tiny

from se_nas.cli import main
from se_nas.commands.search import search
from se_nas.space import stopwatch


@pytest.fixture(autouse=True)
def few_rounds() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stopwatch, "ROUNDS", (9, 9))
        yield


# The blocks of this network sleep for 20 ms for each SE block in them, so that its latency is known.
SLEEPS = """
import time

from torch import nn


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)

    def forward(self, images):
        if any("SE" in type(module).__name__ for module in self.modules()):
            time.sleep(0.02)
        return (images + self.bn(self.conv(images))).relu()


class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.stem, self.first, self.second = nn.Conv2d(3, 8, 3), Block(), Block()
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes))

    def forward(self, images):
        time.sleep(0.02)
        return self.head(self.second(self.first(self.stem(images))))


def net(num_classes=3):
    return Net(num_classes)
"""


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    (tmp_path / "sleeps.py").write_text(SLEEPS)
    return ["cost", "--backbone", f"{tmp_path}/sleeps.py:net", "--input-shape", "3,8,8", "--device", "cpu"]


def test_beside_the_backbone(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "--placement", "first=4", "--measure", "latency", "--latency-batch", "2", "--json"]) == 0
    seen = json.loads(capsys.readouterr().out)["latency"]["latency"]
    assert seen["without_se"] >= 20
    assert 1.5 < seen["ratio"] < 2.5
    assert seen["ratio_interval"][0] <= seen["ratio"] <= seen["ratio_interval"][1]
    assert seen["kind"] == "measured"
    assert seen["conditions"].endswith("batch 2, 1 thread, cpu")
    assert 0 < seen["gflops_percent"] < 10


def test_no_se_is_as_fast_as_itself(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "--placement", "none", "--measure", "latency@torch"]) == 0
    assert "+0.0 % (90 % interval +0.0 to +0.0 %; GFLOPs +0.00 %)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--measure", "params"], "measure is params"),
        (["--measure", "memory"], "measure is memory\n  allowed: latency, latency@RUNTIME"),
        (["--measure", "latency@onnx"], "there is no runtime or table 'onnx'"),
        (["--measure", "latency@tensorrt"], "latency@tensorrt"),
        (["--measure", "latency", "--latency-threads", "0"], "latency_threads is 0"),
        (["--latency-table", "nowhere.json"], "the latency table 'nowhere.json' cannot be read: No such file"),
    ],
)
def test_what_is_wrong_is_said(
    words: list[str], more: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--placement", "first=4", *more]) == 2
    assert message in capsys.readouterr().err


def test_the_front_is_measured_and_the_rest_predicted(tmp_path: Path) -> None:
    config = tiny(tmp_path, space="stagewise", cost="gflops", measure=["latency"], latency_threads=1, budget=5)
    result = search(config)
    front = result.front
    assert set(front["latency_kind"]) == {"measured"}
    references = result.trials[result.trials["role"] != ""]
    assert set(references["latency_kind"]) == {"measured"}
    assert set(result.trials["latency_conditions"].str.endswith("batch 1, 1 thread, cpu")) == {True}
    assert {"latency.json", "measured.json"} <= {file.name for file in result.folder.iterdir()}
    fit = result.found.fits["latency"]
    assert fit.text in " ".join(result.summary.lines)
    assert "trained networks" in result.summary.latency[0]
