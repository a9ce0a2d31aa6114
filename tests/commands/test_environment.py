"""What a bug report needs to know of a machine."""

from __future__ import annotations

import importlib.metadata
import json
import platform

import pytest
import torch
from helpers import REPOSITORY

from se_nas.cli import main
from se_nas.commands import environment as module
from se_nas.commands.environment import Extra, environment
from se_nas.core.version import __version__
from se_nas.training.provenance import commit_of


def test_as_json_it_is_what_is_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["version"] == __version__
    assert found["python"] == platform.python_version()
    assert found["libraries"]["torch"] == importlib.metadata.version("torch")
    assert found["libraries"]["optuna"] == importlib.metadata.version("optuna")
    assert found["devices"][0].startswith("cpu (")
    assert len(found["devices"]) == 1 + (torch.accelerator.device_count() if torch.accelerator.is_available() else 0)
    assert found["runtimes"]["torch"] == ""
    assert found["folder"] == str(REPOSITORY / "se_nas")


def test_for_people_each_extra_is_there_or_has_its_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env"]) == 0
    text = capsys.readouterr().out
    found = environment()
    assert set(found.extras) >= {"timm", "torchvision", "export", "cuda", "ray"}
    assert not {"dev", "test", "docs"} & set(found.extras)
    for name, extra in found.extras.items():
        line = next(line for line in text.splitlines() if line.startswith(f"[{name}]"))
        assert (f"pip install 'se-nas[{name}]'" in line) == (not extra.installed)
    assert f"torch              {torch.__version__.partition('+')[0]}" in text


def test_a_package_that_is_too_old_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"shtab": "0.1", "timm": None}
    monkeypatch.setattr(module, "_version", lambda package: versions.get(package, "99.0"))
    extras = environment().extras
    assert extras["timm"] == Extra(packages={"timm": None}, installed=False, install="pip install 'se-nas[timm]'")
    assert extras["ray"].installed is False  # 99 is not below 3
    assert extras["torchvision"].installed


def test_the_commit_is_that_of_the_package_and_not_of_where_it_lies(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert len(commit_of(REPOSITORY / "se_nas").removesuffix("+")) in (0, 12)
    ignored = REPOSITORY / ".mypy_cache"  # lies in the checkout, and is no part of it
    ignored.mkdir(exist_ok=True)
    assert commit_of(ignored) == ""
