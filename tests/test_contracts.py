"""What holds for the package as a whole: imports look down, and its examples run."""

from __future__ import annotations

import doctest
import importlib
import os
import pkgutil
from pathlib import Path

import pytest
from helpers import REPOSITORY

import se_nas
from se_nas.core.plugins import load

MODULES = sorted(m.name for m in pkgutil.walk_packages(se_nas.__path__, "se_nas."))


def test_imports_look_down(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    lint = pytest.importorskip("importlinter.application.use_cases", reason="a tool of developers")
    cli = importlib.import_module("importlinter.cli")
    monkeypatch.chdir(REPOSITORY)
    code = cli.lint_imports(no_cache=True)
    assert code == 0, capsys.readouterr().out
    assert lint is not None


@pytest.mark.parametrize("name", MODULES)
def test_every_module_imports_and_its_examples_run(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__, f"{name} does not say what it is for"
    result = doctest.testmod(module, extraglobs=None)
    assert result.failed == 0
    sources = Path(str(module.__file__)).read_text().count(">>> ")
    assert result.attempted == sources, "an example is not found by doctest"


def test_there_are_examples() -> None:
    found = sum(Path(str(importlib.import_module(name).__file__)).read_text().count(">>> ") for name in MODULES)
    assert found >= 5


def test_the_package_says_nothing_about_this_machine() -> None:
    words = ("/tmp/", f"{os.sep}root{os.sep}", f"{Path.home()}{os.sep}")
    files = [*(REPOSITORY / "se_nas").rglob("*.py"), *(REPOSITORY / "search_spaces").glob("*.yaml")]
    assert len(files) > 30
    guilty = [str(f) for f in files for word in words if word in f.read_text()]
    assert guilty == []


def test_files_with_neighbours_of_equal_names_have_their_own(tmp_path: Path) -> None:
    for name, width in (("one", 1), ("two", 2)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "beside_it.py").write_text(f"WIDTH = {width}\n")
        (tmp_path / name / "net.py").write_text("from beside_it import WIDTH\n")
    assert [load(f"{tmp_path / name / 'net.py'}:WIDTH") for name in ("one", "two")] == [1, 2]
