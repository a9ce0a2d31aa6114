"""se-nas init: a commented configuration, true to what it looked at, and run as it is."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from helpers import REPOSITORY, write_npz
from PIL import Image

from se_nas.cli import main
from se_nas.core.config import SearchConfig
from se_nas.core.overrides import build, read_config
from se_nas.data.sizes import one_size, sizes_in


def images(root: Path, sizes: list[tuple[int, int]], classes: tuple[str, ...] = ("dark", "light")) -> Path:
    generator = np.random.default_rng(0)
    for label, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for index in range(12):
            width, height = sizes[index % len(sizes)]
            pixels = generator.integers(0, 100, (height, width, 3)) + 100 * (label % 2)
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{index}.png")
    return root


def config_of(file: Path) -> SearchConfig:
    return build(read_config(str(file), SearchConfig), SearchConfig)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


class TestWritten:
    def test_the_search_runs_it_unchanged(self, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
        images(here / "photos", [(20, 24), (40, 30)])
        words = ["--backbone", "resnet8", "--data", "folder:photos", "--budget", "2", "--epochs", "1"]
        assert main(["init", *words]) == 0
        said = capsys.readouterr().out
        assert "3 places for an SE block in 3 stages" in said
        assert "2 classes (with their images): dark (12), light (12)." in said
        assert "Chosen: size 32 (images have 2 sizes, 20 x 24 to 40 x 30 pixels" in said
        assert main(["search", "--config", "search.yaml", "--json"]) == 0
        content = json.loads(capsys.readouterr().out)
        assert content["trained"] == 2
        assert (here / "runs" / "resnet8-folder-photos" / "best" / "model.safetensors").is_file()
        stored = yaml.safe_load((here / "runs" / "resnet8-folder-photos" / "config.yaml").read_text())
        assert stored["data"]["args"] == {"size": 32}
        assert (stored["budget"], stored["train"]["epochs"], stored["train"]["batch_size"]) == (2, 1, 8)

    def test_without_options_it_is_the_default_search(self, here: Path) -> None:
        assert main(["init", "--to", "digits.yaml"]) == 0
        assert config_of(here / "digits.yaml") == SearchConfig()

    @pytest.mark.parametrize(
        "words",
        [
            [],
            ["--backbone", "timm:resnet18", "--data", "folder:photos"],
            ["--data", "folder:photos", "--data.args.size", "24"],
        ],
        ids=["digits", "library", "size"],
    )
    def test_every_setting_that_is_commented_out_can_be_taken_in(self, here: Path, words: list[str]) -> None:
        if "timm:resnet18" in words:
            pytest.importorskip("timm", reason="needs the extra timm")
        images(here / "photos", [(32, 32)])
        assert main(["init", *words]) == 0
        text = (here / "search.yaml").read_text()
        commented = re.findall(r"^ *# (\w+): .*$", text, re.MULTILINE)
        settings = [line for line in text.splitlines() if re.match(r" *# (?!stage)\w+: \S", line)]
        assert len(settings) >= 9, commented
        every = text
        for line in settings:
            alone = line.replace("# ", "", 1)
            every = every.replace(line, alone)
            (here / "one.yaml").write_text(text.replace(line, alone))
            assert config_of(here / "one.yaml") != config_of(here / "search.yaml") or "the default" in line, line
        (here / "every.yaml").write_text(every)
        assert config_of(here / "every.yaml").margin == 0.3
        width = max(map(len, text.splitlines()))
        assert width <= 130

    def test_names_are_what_they_were_and_comments_one_line(self, here: Path) -> None:
        """A path with what YAML reads as something else, a class with a line break."""
        root = images(here / "a #b: 'c'", [(16, 16)], classes=("one\nbudget: 7", "[two"))
        assert main(["init", "--data", f"folder:{root.name}", "--backbone", "resnet8"]) == 0
        config = config_of(here / "search.yaml")
        assert config.data.target == f"folder:{root.name}"
        assert config.budget == 50

    def test_arguments_stay(self, here: Path) -> None:
        write_npz(here / "a.npz")
        words = ["--backbone", f"{REPOSITORY / 'tests' / 'commands' / 'test_api.py'}:factory", "--data", "npz:a.npz"]
        assert main(["init", *words, "--data.args.val_fraction", "0.3"]) == 0
        config = config_of(here / "search.yaml")
        assert config.data.args == {"val_fraction": 0.3}
        assert config.backbone.target == words[1]

    def test_a_data_module(self, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
        module = f"{REPOSITORY / 'tests' / 'commands' / 'test_api.py'}:Module"
        assert main(["init", "--backbone", "resnet8", "--data", module, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["file"] == "search.yaml"
        assert config_of(here / "search.yaml").data.target == module


class TestRefused:
    def test_a_file_that_is_there(self, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (here / "search.yaml").write_text("mine")
        assert main(["init"]) == 2
        error = capsys.readouterr().err
        assert "'search.yaml' is there already" in error
        assert "--force" in error
        assert (here / "search.yaml").read_text() == "mine"
        assert main(["init", "--force"]) == 0
        assert config_of(here / "search.yaml") == SearchConfig()

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["--data", "folder:nowhere"], "there is no folder 'nowhere'"),
            (["--data", "photo"], "unknown data 'photo'"),
            (["--backbone", "resnet21"], "unknown backbone 'resnet21'"),
            (["--to", "search.txt"], "is not a YAML file"),
            (["--to", "file/search.yaml"], "cannot write 'file/search.yaml'"),
            (["--budget", "0"], "budget is 0"),
            (["--data", "folder:broken"], "is broken"),
        ],
    )
    def test_what_cannot_be(self, here: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str) -> None:
        (here / "file").write_text("")
        images(here / "broken", [(16, 16)])
        for name in ("dark", "light"):
            for file in sorted((here / "broken" / name).iterdir())[1:]:
                file.write_bytes(file.read_bytes()[:60])
        assert main(["init", *words]) == 2
        captured = capsys.readouterr()
        assert said in captured.err
        assert captured.out == ""
        assert not (here / "search.yaml").exists()


def test_sizes_are_those_of_the_files_outside_of_the_test_part(tmp_path: Path) -> None:
    for part, size in (("train", (20, 30)), ("val", (40, 50)), ("test", (60, 70))):
        images(tmp_path / part, [size])
    assert sizes_in(tmp_path) == Counter({(20, 30): 24, (40, 50): 24})


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [({(640, 480): 1, (300, 500): 1}, 224), ({(100, 90): 3, (200, 300): 2}, 64), ({(8, 9): 4, (28, 28): 1}, 32)],
)
def test_the_size_is_one_that_half_of_the_images_have(sizes: dict[tuple[int, int], int], expected: int) -> None:
    assert one_size(Counter(sizes)) == expected
