"""Before the libraries are loaded, which takes seconds: wrong names and paths are answered, and work is announced."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import REPOSITORY

from se_nas.exports.formats import FORMATS
from se_nas.exports.names import NEEDS

HEAVY = ("torch", "pytorch_lightning", "pandas", "matplotlib", "timm")

CODE = f"""
import sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name in {HEAVY}:
            print("LOADS", name, file=sys.stderr, flush=True)
sys.meta_path.insert(0, Finder())
from se_nas.cli import main
sys.exit(main(sys.argv[1:]))
"""


def ran(folder: Path, *command: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command, with a line for each heavy library it loads."""
    (folder / "run").mkdir(exist_ok=True)
    (folder / "run" / "study.db").touch()
    done = subprocess.run(
        [sys.executable, "-c", CODE, *command], cwd=folder, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("export nowhere", "nowhere' is not a run folder"),
        ("explain nowhere", "nowhere' is not a run folder"),
        ("confirm nowhere", "nowhere' is not a run folder"),
        ("predict nowhere x.png", "nowhere' is not a run folder"),
        ("predict run x.png", "there is no file 'x.png'"),
        ("evaluate run --data folder:nowhere", "there is no folder 'nowhere'"),
        ("export run --format onxx", "did you mean 'onnx'?"),
        ("export run --select recomended", "did you mean 'recommended'?"),
        ("predict run x.png --select recomended", "did you mean 'recommended'?"),
        ("search --progress loud", "--progress"),
        ("search --epoch 3", "did you mean '--epochs'?"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_answered_before_anything_heavy_is_loaded(tmp_path: Path, command: str, words: str) -> None:
    code, out, error = ran(tmp_path, *command.split())
    assert (code, out) == (2, "")
    assert words in error
    assert "LOADS" not in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    "command",
    [
        "search --sampler knwn", "train --placement all:16 --backbone resnt20", "search --backbone nowhere.py:net",
    ],
)  # fmt: skip
def test_an_unknown_name_is_answered_before_lightning_is_loaded(tmp_path: Path, command: str) -> None:
    code, out, error = ran(tmp_path, *command.split())
    assert (code, out) == (2, "")
    assert "PluginError: unknown" in error or "there is no file" in error
    assert "LOADS pytorch_lightning" not in error


@pytest.mark.parametrize(
    "command",
    ["cost", "init", "explain run", "export run", "predict run run", "evaluate run --data digits"],
)
def test_a_command_says_what_it_does_before_it_loads_its_libraries(tmp_path: Path, command: str) -> None:
    _, _, error = ran(tmp_path, *command.split())
    assert "loading PyTorch" in error
    assert error.index("loading PyTorch") < error.index("LOADS torch")


def test_nothing_but_the_result_is_said_for_a_program(tmp_path: Path) -> None:
    code, out, error = ran(tmp_path, "cost", "--json")
    assert (code, out[0], out.count("\n")) == (0, "{", 1)
    assert {line.split()[0] for line in error.splitlines()} == {"LOADS"}


def test_each_format_is_known_by_name() -> None:
    assert list(FORMATS) == list(NEEDS)
