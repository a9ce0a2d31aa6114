"""Blocks of the user's own from the search to the exported file, and in folders that somebody else wrote."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import own_block
import pytest
import torch
from helpers import tiny
from torch import nn

import se_nas
from se_nas import cli
from se_nas.commands.confirm import confirm
from se_nas.commands.explain import explain_run
from se_nas.commands.results import report_again
from se_nas.core import trust
from se_nas.core.errors import PluginError
from se_nas.core.files import weights_file
from se_nas.core.trial import Target
from se_nas.insertion.attention.own import OwnGate

SPACE = """
reductions: [none, 8]
blocks: [{{target: "{file}:Bottleneck", args: {{slope: 0.5}}, name: bottle}}, "{file}:scaled"]
"""


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the code of two blocks, a space of them, and a run, trained in a worker process."""
    folder = tmp_path_factory.mktemp("own")
    shutil.copy(own_block.__file__, folder / "theirs.py")
    (folder / "space.yaml").write_text(SPACE.format(file=folder / "theirs.py"))
    config = tiny(
        folder, space=str(folder / "space.yaml"), budget=4, keep_weights="all", executor=Target(target="local"),
        sampler=Target(target="exhaustive"), workers=1,
    )  # fmt: skip
    result = se_nas.search(config)
    assert (result.trials["state"] == "complete").sum() == 4
    return folder


@pytest.fixture
def foreign(searched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the run on a machine where nobody gave the names; the code lies where it was."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(trust, "_KNOWN", set())
    monkeypatch.setattr(trust, "_FOLLOWED", set())
    return Path(shutil.copytree(searched / "run", tmp_path / "run"))


def own_trial(run: Path, block: str = "bottle") -> int:
    """The number of a trial that has a block."""
    (*_, number) = (
        t.number for t in report_again(run).found.trials
        if any(choice.block == block and choice.kind == "se" for choice in t.placement.choices.values())
    )  # fmt: skip
    return int(number)


class TestRun:
    def test_it_goes_on(self, searched: Path, tmp_path: Path) -> None:
        shutil.copytree(searched / "run", tmp_path / "run")
        config = tiny(
            tmp_path, space=str(searched / "space.yaml"), budget=5, keep_weights="all",
            sampler=Target(target="exhaustive"), workers=1,
        )  # fmt: skip
        assert se_nas.search(config).trials["counts"].sum() == 5

    def test_its_networks_leave(self, searched: Path, tmp_path: Path) -> None:
        number = own_trial(searched / "run")
        folder = se_nas.export(searched / "run", select=f"trial={number}", to=tmp_path / "out", formats="python").folder
        assert {"network.py", "theirs.py", "placement.json"} <= {file.name for file in folder.iterdir()}
        network = se_nas.load(folder)
        assert any(isinstance(module, OwnGate) for module in network.modules())
        images = torch.randn(2, 1, 8, 8)
        torch.save(images, tmp_path / "images.pt")
        code = "import torch, network; torch.save(network.load()(torch.load('../images.pt')), '../output.pt')"
        subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, env={**os.environ, "PYTHONPATH": ""})
        torch.testing.assert_close(torch.load(tmp_path / "output.pt"), network(images))

    def test_gates_are_explained_and_folded(self, searched: Path, tmp_path: Path) -> None:
        run = shutil.copytree(searched / "run", tmp_path / "run")
        number = own_trial(run)
        found = explain_run(run, select=f"trial={number}", images=64).found
        assert found.blocks
        assert weights_file(run, number).is_file()
        folder = se_nas.export(run, select=f"trial={number}", to=tmp_path / "out", fold=True, fold_margin=100).folder
        assert not any(isinstance(module, OwnGate) for module in se_nas.load(folder).modules())


class TestForeignFolders:
    def test_it_is_read(self, foreign: Path) -> None:
        assert own_trial(foreign) > 0

    def test_nothing_is_run(self, foreign: Path, tmp_path: Path) -> None:
        number = own_trial(foreign)
        calls = [
            lambda: se_nas.export(foreign, select=f"trial={number}", to=tmp_path / "out"),
            lambda: explain_run(foreign, select=f"trial={number}"),
            lambda: confirm(foreign, seeds=2),
            lambda: se_nas.predict(foreign, torch.zeros(1, 1, 8, 8).numpy(), select=f"trial={number}"),
        ]
        for call in calls:
            with pytest.raises(PluginError, match=r"not run: .*block '.*theirs\.py:Bottleneck' with {'slope': 0\.5}"):
                call()

    def test_with_trust(self, foreign: Path, tmp_path: Path) -> None:
        number = own_trial(foreign)
        folder = se_nas.export(foreign, select=f"trial={number}", to=tmp_path / "out", trust=True).folder
        trust._FOLLOWED.clear()
        with pytest.raises(PluginError, match=r"block '.*theirs\.py:Bottleneck'"):
            se_nas.load(folder)
        assert isinstance(se_nas.load(folder, trust=True), nn.Module)

    def test_the_copy_is_taken_where_the_file_is_gone(self, foreign: Path, searched: Path, tmp_path: Path) -> None:
        number = own_trial(foreign)
        folder = se_nas.export(foreign, select=f"trial={number}", to=tmp_path / "out", trust=True).folder
        record = folder / "placement.json"
        record.write_text(record.read_text().replace(str(searched), "/gone"))
        with pytest.raises(PluginError, match=rf"block '{tmp_path}/out/theirs\.py:Bottleneck'"):
            se_nas.load(folder)
        assert isinstance(se_nas.load(folder, trust=True), nn.Module)

    def test_a_placement_file(self, foreign: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        folder = se_nas.export(foreign, select=f"trial={own_trial(foreign)}", to=tmp_path / "out", trust=True).folder
        trust._FOLLOWED.clear()
        line = ["train", "--placement", str(folder / "placement.json"), "--epochs", "1", "--executor", "inline",
                "--out", str(tmp_path / "train"), "--quiet"]  # fmt: skip
        assert cli.main(line) == 2
        assert "theirs.py:Bottleneck" in capsys.readouterr().err
        assert cli.main([*line, "--trust"]) == 0


def test_a_wrong_closed_form_ends_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "space.yaml").write_text(f"reductions: [none, 8]\nblocks: ['{own_block.__file__}:WrongCounts']\n")
    line = ["cost", "--backbone", "resnet8", "--space", str(tmp_path / "space.yaml"), "--placement", "all:WrongCounts"]
    assert cli.main(line) == 2
    error = capsys.readouterr().err
    assert "PluginError: counts of block 'WrongCounts'" in error
    assert "instead of" in error
