"""A run folder may have any path: its study lies in it, whatever characters the path has."""

from __future__ import annotations

import os
from pathlib import Path

import optuna
import pytest

from se_nas.cli import main
from se_nas.core.errors import RunError
from se_nas.engine.run_folder import RunFolder
from se_nas.engine.storage import open_storage, study_names, turn
from se_nas.engine.study import Study


@pytest.mark.parametrize(
    "name", ["plain", "a b", "what?x=1", "a%20b", "100%", "{}", "{0}", "{a", "a#b", "a+b@x:y", "ä", "x\ny", "caf\udce9"]
)
def test_a_study_lies_in_its_folder(tmp_path: Path, name: str) -> None:
    run = RunFolder(tmp_path / name)
    run.lock()
    try:
        storage = open_storage(run.storage)
        optuna.create_study(storage=storage, study_name="search")
        with turn(run.storage):
            assert study_names(run.find_storage()) == ["search"]
        storage.remove_session()
        storage.engine.dispose()
    finally:
        run.unlock()
    assert (run.path / "study.db").is_file()
    assert os.listdir(tmp_path) == [name]  # noqa: PTH208  # of names, not of paths
    assert run.owner.encode()


def test_paths_that_differ_in_what_a_url_reads_have_studies_of_their_own(tmp_path: Path) -> None:
    for name in ("a%20b", "a b", "a?b", "a"):
        RunFolder(tmp_path / name).path.mkdir()
        storage = open_storage(RunFolder(tmp_path / name).storage)
        optuna.create_study(storage=storage, study_name=f"study of {name}")
        storage.engine.dispose()
    assert study_names(RunFolder(tmp_path / "a b").storage) == ["study of a b"]


def test_a_usual_path_has_the_usual_url(tmp_path: Path) -> None:
    assert RunFolder(tmp_path).storage == f"sqlite:///{tmp_path / 'study.db'}"


def test_an_argument_that_is_not_utf8_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", "--out", "caf\udce9"]) == 2
    assert capsys.readouterr().err.startswith("ConfigError: 'caf\\\\xe9' is not UTF-8\n  hint: give a link to it")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("oracle://x", "install the driver of this database"),
        ("foo://x", "foo"),
        ("sqlite:///a\0b", "the character NUL"),
        ("postgresql://127.0.0.1:x/y", "cannot use the study storage"),
        ("no url", "cannot use the study storage"),
    ],
)
def test_a_storage_that_cannot_be_opened_is_an_error_in_words(url: str, words: str) -> None:
    for opening in (lambda: Study.latest(url, "search", read_only=True), lambda: open_storage(url)):
        with pytest.raises(RunError) as caught:
            opening()
        assert words in str(caught.value)
