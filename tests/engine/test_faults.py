"""Power cuts, kills between two steps, files that vanish: nothing is lost, or it is said."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from helpers import environment, tiny

from se_nas.cli import main
from se_nas.commands.search import search
from se_nas.core.errors import RunError
from se_nas.core.trial import Trial
from se_nas.engine.run_folder import STUDY, RunFolder
from se_nas.engine.study import Study
from se_nas.exports.bundle import folder_whole


class Killed(BaseException):
    """What a kill is to a process: nothing after it runs but the end."""


def trials_of(folder: Path) -> list[Trial]:
    study = Study.latest(RunFolder(folder).storage, STUDY, read_only=True)
    assert study is not None
    return study.trials()


def test_a_result_is_removed_once_the_study_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What SQLite has synced is in the file itself, without its log: when a result goes, the trial is there."""
    run = tmp_path / "run"
    removed = []
    unlink = Path.unlink

    def gone(file: Path, missing_ok: bool = False) -> None:
        if file.parent.name == "results" and not file.name.startswith("."):
            after = tmp_path / f"after-{file.name}"
            after.mkdir()
            # Copied by another process: a file that this one closes loses the locks that SQLite has on it.
            subprocess.run([sys.executable, "-c", COPY, str(run / "study.db"), str(after / "study.db")], check=True)
            number = int(file.name.partition(".")[0].partition("-")[0])
            told = {t.number: t.state for t in trials_of(after)}
            removed.append((number, told.get(number)))
        unlink(file, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", gone)
    search(tiny(tmp_path))
    assert removed == [(number, "complete") for number in range(3)]
    assert not list((run / "results").iterdir())


COPY = "import shutil, sys; shutil.copyfile(*sys.argv[1:])"
COUNT = """
import sqlite3, sys
with sqlite3.connect(sys.argv[1]) as study:
    print(study.execute("select count(*) from trials where state = 'COMPLETE'").fetchone()[0])
study.close()
"""


def test_other_programs_may_look_into_the_study_at_any_time(tmp_path: Path) -> None:
    """A dashboard that opens and closes the file sees all trials, and takes none of them away."""
    seen: list[int] = []

    def look(trial: Trial) -> None:
        for _ in range(2):  # the second would not see what the first has taken away
            done = subprocess.run(
                [sys.executable, "-c", COUNT, str(tmp_path / "run" / "study.db")],
                check=True, capture_output=True, text=True,
            )  # fmt: skip
            seen.append(int(done.stdout))

    search(tiny(tmp_path, budget=4), on_trial=look)
    assert seen == [1, 1, 2, 2, 3, 3, 4, 4]


class TestKills:
    @pytest.mark.parametrize("file_too", [False, True], ids=["the result is there", "the result is gone"])
    @pytest.mark.parametrize("which", [0, 1, 2])
    def test_between_keeping_a_record_and_telling_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: int, file_too: bool
    ) -> None:
        tell, told = optuna.Study.tell, []

        def killed(self: optuna.Study, trial: Any, *args: Any, **settings: Any) -> Any:
            told.append(trial)
            if len(told) == which + 1:
                raise Killed
            return tell(self, trial, *args, **settings)

        trained: list[str] = []
        with monkeypatch.context() as patch:
            patch.setattr(optuna.Study, "tell", killed)
            with pytest.raises(Killed):
                search(tiny(tmp_path), on_trial=lambda trial: trained.append(trial.placement.key))
        run = tmp_path / "run"
        if file_too:
            shutil.rmtree(run / "results")
        between = trials_of(run)
        assert [t.state for t in between].count("running") == 1
        assert sum(t.counts for t in between) == which, "what was not told is not paid for"
        again: list[str] = []
        result = search(tiny(tmp_path), on_trial=lambda trial: again.append(trial.placement.key))
        trials = trials_of(run)
        assert result.ended == "the budget of 3 trainings is spent"
        assert [t.state for t in trials] == ["complete"] * 3
        assert sum(t.counts for t in trials) == 3
        assert max(Counter(t.placement.key for t in trials).values()) == 1, "nothing was trained twice"
        assert len(trained) == which

    def test_between_telling_a_result_and_removing_its_file(self, tmp_path: Path) -> None:
        search(tiny(tmp_path, budget=2))
        results = tmp_path / "run" / "results"
        (results / "0-1.json").write_text("{}")
        search(tiny(tmp_path, budget=2))  # nothing is left to train
        assert not list(results.iterdir())
        (results / "1-1.json").write_text("{}")
        search(tiny(tmp_path, budget=3))
        assert not list(results.iterdir())
        assert sum(t.counts for t in trials_of(tmp_path / "run")) == 3

    def test_leftovers_of_an_export_are_removed_by_the_next(self, tmp_path: Path) -> None:
        code = (
            "import os, signal, sys\nfrom pathlib import Path\nfrom se_nas.exports import bundle\n"
            "target, when = Path(sys.argv[1]), sys.argv[2]\n"
            "replace = Path.replace\n"
            "def killed(self, to):\n"
            "    done = replace(self, to)\n"
            "    if when == 'between': os.kill(os.getpid(), signal.SIGKILL)\n"
            "    return done\n"
            "Path.replace = killed\n"
            "with bundle.folder_whole(target) as folder:\n"
            "    (folder / 'x').write_text('new')\n"
            "    if when == 'early': os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        target = tmp_path / "export.1"
        neighbour = tmp_path / "export"
        for when, left in (("early", {"part", "lock"}), ("between", {"part", "old", "lock"})):
            with folder_whole(target) as folder:
                (folder / "x").write_text("old")
            done = subprocess.run([sys.executable, "-c", code, target, when], env=environment(), capture_output=True)
            assert done.returncode == -9, done.stderr
            assert {file.name.rpartition(".")[2] for file in tmp_path.iterdir() if file != target} == left
            assert target.exists() == (when == "early")
            with folder_whole(neighbour):  # a name that begins the same is none of its business
                assert {f.name.rpartition(".")[2] for f in tmp_path.glob(".export.1.*")} == left
            shutil.rmtree(neighbour)
            with pytest.raises(FileNotFoundError), folder_whole(target) as folder:
                (folder / (target / "x").read_text() / "missing").touch()  # what a killed call had moved away is back
            assert [file.name for file in tmp_path.iterdir()] == ["export.1"]
            assert (target / "x").read_text() == "old"

    def test_an_export_that_is_being_written_is_no_leftover(self, tmp_path: Path) -> None:
        target = tmp_path / "best"
        with folder_whole(target) as first:
            (first / "x").write_text("first")
            with folder_whole(target) as second:
                (second / "x").write_text("second")
            assert (first / "x").read_text() == "first"
        assert (target / "x").read_text() == "first"
        assert [file.name for file in tmp_path.iterdir()] == ["best"]


def removed(run: Path) -> None:
    for file in run.glob("study.db*"):
        file.unlink()


def replaced(run: Path) -> None:
    shutil.copyfile(run / "study.db", run / "copy")
    (run / "copy").replace(run / "study.db")


class TestVanished:
    @pytest.mark.parametrize("fault", [removed, replaced, shutil.rmtree])
    def test_a_study_that_vanishes_ends_the_search_at_once(
        self, tmp_path: Path, fault: Callable[[Path], object]
    ) -> None:
        seen = []

        def on_trial(trial: Trial) -> None:
            seen.append(trial.number)
            if trial.number == 1:
                fault(tmp_path / "run")

        with pytest.raises(RunError, match="was removed or replaced while it was in use") as caught:
            search(tiny(tmp_path, budget=8), on_trial=on_trial)
        assert seen == [0, 1], "nothing more is trained"
        assert "--out" in str(caught.value)
        assert not (tmp_path / "run" / "report.html").exists(), "nothing is claimed that is not there"

    def test_the_command_ends_with_code_2(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        finish = Study.finish

        def vanishing(self: Study, record: Trial) -> bool:
            done = finish(self, record)
            removed(tmp_path / "run")
            return done

        monkeypatch.setattr(Study, "finish", vanishing)
        monkeypatch.chdir(tmp_path)
        code = main(["search", "--backbone", "resnet8", "--epochs", "1", "--batch-size", "256", "--budget", "2",
                     "--executor", "inline", "--device", "cpu", "--out", "run", "--quiet"])  # fmt: skip
        assert code == 2
        assert "was removed or replaced" in capsys.readouterr().err
