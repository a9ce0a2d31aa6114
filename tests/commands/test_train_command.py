"""One long training of a chosen placement: what it starts from, goes on with, tests and leaves behind."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import write_npz

import se_nas
from se_nas.cli import main
from se_nas.commands.train import train_placement
from se_nas.core.config import TrainConfig
from se_nas.core.errors import ConfigError, DataError, RunError, SpaceError
from se_nas.core.trial import Recipe, Target
from se_nas.data.sealed import openings
from se_nas.data.store import open_part, prepare_data, read_info

QUICK = Recipe(epochs=2, batch_size=256, precision="32")


def config(folder: Path, **changes: Any) -> TrainConfig:
    settings: dict[str, Any] = {
        "placement": "all:8", "backbone": Target(target="resnet8"), "executor": Target(target="inline"),
        "device": "cpu", "train": QUICK, "out": str(folder / "train"),
    }  # fmt: skip
    return TrainConfig(**{**settings, **changes})


class TestTraining:
    @pytest.fixture
    def trained(self, tmp_path: Path) -> Any:
        return train_placement(config(tmp_path))

    def test_what_it_leaves_behind(self, trained: Any, capsys: pytest.CaptureFixture[str]) -> None:
        assert trained.trial.identity.phase == "train"
        assert set(trained.test) >= {"test_accuracy", "test_loss"}
        content = json.loads((trained.folder / "test.json").read_text())
        assert content["metrics"] == trained.test
        assert content["images"] == read_info(trained.folder).test > 0
        network = se_nas.load(trained.folder / "best")
        info = read_info(trained.folder)
        part = open_part(trained.folder, "test")
        images = (torch.from_numpy(np.array(part.images)).float() - info.mean[0]) / info.std[0]
        with torch.no_grad():
            found = network(images).argmax(1).numpy()
        assert trained.test["test_accuracy"] == pytest.approx((found == part.labels).mean())
        assert main(["export", str(trained.folder), "--to", str(trained.folder / "out")]) == 0
        assert main(["report", str(trained.folder)]) == 0
        # The same again trains nothing, and opens the test set no second time.
        again = train_placement(config(trained.folder.parent))
        assert (again.test, again.openings, again.trial) == (trained.test, 1, trained.trial)
        assert len(openings(trained.folder)) == 1
        with pytest.raises(RunError, match="a training with other settings"):
            train_placement(config(trained.folder.parent, placement="none"))
        with pytest.raises(RunError, match=r"train\.epochs: 2 -> 3"):
            train_placement(config(trained.folder.parent, train=replace(QUICK, epochs=3)))

    def test_settings_of_the_run_that_the_placement_is_of(
        self, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        file = str(finished / "best" / "placement.json")
        code = main(["train", "--placement", file, "--lr", "0.05", "--out", str(tmp_path / "t"), "--json"])
        captured = capsys.readouterr()
        assert code == 0, captured.err
        assert json.loads(captured.out)["key"] == json.loads(Path(file).read_text())["key"]
        used = (tmp_path / "t" / "config.yaml").read_text()
        assert "target: resnet8" in used
        assert "lr: 0.05" in used
        assert "batch_size: 256" in used

    def test_backbone_of_an_export_elsewhere(self, finished: Path, tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        file = tmp_path / "out" / "placement.json"
        file.write_bytes((finished / "best" / "placement.json").read_bytes())
        options = ["--epochs", "1", "--batch-size", "512", "--executor", "inline", "--out", str(tmp_path / "t")]
        assert main(["train", "--placement", str(file), *options, "--quiet"]) == 0
        assert se_nas.load(tmp_path / "t" / "best")(torch.zeros(1, 1, 8, 8)).shape == (1, 10)

    def test_validation_part_in_training(self, tmp_path: Path) -> None:
        target = Target(target=f"npz:{write_npz(tmp_path / 'a.npz', n=100)}")
        apart, together = (prepare_data(target, tmp_path / str(flag), include_val=flag) for flag in (False, True))
        assert (together.train, together.val, together.test) == (apart.train + apart.val, apart.val, apart.test)
        assert together.includes_val
        assert together.checksum != apart.checksum
        images = open_part(tmp_path / "True", "train").images
        expected = [open_part(tmp_path / "False", part).images for part in ("train", "val")]
        np.testing.assert_array_equal(images, np.concatenate(expected))
        val = [open_part(tmp_path / flag, "val").images for flag in ("False", "True")]
        np.testing.assert_array_equal(*val)
        result = train_placement(config(tmp_path, data=target, include_val=True))
        assert "of images that it was trained on" in result.sentences[1]
        assert result.trial.identity.data == together.checksum

    def test_a_training_that_fails(self, tmp_path: Path) -> None:
        with pytest.raises(RunError, match="the training failed 3 times: non-finite"):
            train_placement(config(tmp_path, train=replace(QUICK, lr=1e30)))


class TestWrongInput:
    @pytest.mark.parametrize(
        ("changes", "kind", "words"),
        [
            ({"placement": "stage9=4"}, SpaceError, "no stage or unit 'stage9'"),
            ({"placement": "nowhere.json"}, SpaceError, "cannot read the placement file 'nowhere.json'"),
            ({"placement": "all:1000"}, SpaceError, "hidden width of 0"),
            ({"train": Recipe(epochs=0)}, ConfigError, "epochs is 0"),
        ],
    )
    def test_placements_and_recipes(
        self, tmp_path: Path, changes: dict[str, Any], kind: type[Exception], words: str
    ) -> None:
        with pytest.raises(kind, match=words):
            train_placement(config(tmp_path, **changes))

    def test_a_placement_of_another_backbone(
        self, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        file = str(finished / "best" / "placement.json")
        code = main(["train", "--placement", file, "--backbone", "resnet14", "--out", str(tmp_path / "t")])
        error = capsys.readouterr().err
        assert code == 2
        assert "the placement is of another backbone: unit" in error

    def test_no_placement(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["train", "--epochs", "1"]) == 2
        assert "placement" in capsys.readouterr().err

    def test_a_data_module_says_itself_what_is_trained_on(self, tmp_path: Path) -> None:
        blobs = f"{Path(__file__).parents[1] / 'data' / 'test_data.py'}:Blobs"
        with pytest.raises(DataError, match="says itself what is trained on"):
            train_placement(config(tmp_path, data=Target(target=blobs), include_val=True))
