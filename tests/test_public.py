"""The public face: complete for completion and type checkers, nothing hidden, representations that fit on a screen."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import types
from pathlib import Path

import pytest
from helpers import run_python

import se_nas
from se_nas.analysis.confirmation import read_confirmed
from se_nas.commands.results import report_again
from se_nas.core.placement import Choice, Placement

ROOMS = sorted(m.name for m in pkgutil.iter_modules(se_nas.__path__) if m.ispkg)


def test_all_and_dir_agree_and_each_name_is_there() -> None:
    assert set(se_nas.__all__) <= set(dir(se_nas))
    names = (
        "search plan confirm explain export fold load insert_se cost SearchSpace SearchConfig SearchResult "
        "Confirmation Placement CostModel SeNasError list_backbones KnownCostSampler recommend_front __version__"
    )
    for name in names.split():
        assert name in se_nas.__all__, name
        assert getattr(se_nas, name) is not None


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_says_what_it_is_for_and_shows_what_it_has(room: str) -> None:
    module = importlib.import_module(f"se_nas.{room}")
    assert module.__doc__
    assert 2 <= len(module.__doc__.strip().splitlines()) <= 8
    assert module.__all__
    for name in module.__all__:
        assert not isinstance(getattr(module, name), types.ModuleType), f"{room}.{name} is hidden by a module"


def test_no_function_is_hidden_by_a_module() -> None:
    """However deep the imports go: what is called stays what can be called."""
    done = run_python(
        "-c",
        "import importlib, pkgutil, se_nas\n"
        "for m in pkgutil.walk_packages(se_nas.__path__, 'se_nas.'):\n"
        "    importlib.import_module(m.name)\n"
        "print([n for n in se_nas.__all__ if type(getattr(se_nas, n)).__name__ == 'module'])\n",
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_importing_the_package_is_quick() -> None:
    done = run_python(
        "-c", "import sys, se_nas; print(sorted({'torch', 'optuna', 'pandas', 'numpy'} & set(sys.modules)))"
    )
    assert done.stdout.strip() == "[]"


def test_a_mistyped_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="serach"):
        getattr(se_nas, "serach")  # noqa: B009


def test_search_is_typed() -> None:
    signature = inspect.signature(se_nas.search)
    assert "SearchSettings" in str(signature.parameters["settings"].annotation)
    assert (Path(str(se_nas.__file__)).parent / "py.typed").is_file()


def test_representations_fit_on_a_screen(finished: Path) -> None:
    many = Placement(choices={f"layer{n}": Choice.se(64, 16) for n in range(200)}, label="all:16")
    found = report_again(finished)
    for value in (many, found):
        lines = repr(value).splitlines()
        assert len(lines) <= 24
        assert all(len(line) < 400 for line in lines)
        assert sum(-(-len(line) // 80) for line in lines) <= 24, "of a terminal with 80 columns"
    assert found.summary.recommendation in repr(found)
    assert all(sentence.text in repr(found) for sentence in found.summary.verdict.sentences)
    assert "report.html" in repr(found)
    assert many.key in repr(many)
    assert str(finished) in repr(found)
    confirmed = read_confirmed(Path(__file__).parent / "golden" / "run-0.1")
    assert "ship it without" in repr(confirmed)
    assert len(repr(confirmed).splitlines()) <= 24
