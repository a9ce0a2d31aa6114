"""What a person sees of a command that trains: its first word at once, then where it is; in a terminal and in a log."""

from __future__ import annotations

import os
import re
import select
import struct
import sys
import time
from pathlib import Path

import pytest
from helpers import environment, run_python, tiny

from se_nas.cli import main
from se_nas.commands.search import search

WATCHED = """
import sys
class Watched:
    def write(self, text):
        if text.strip():
            print(sorted({'torch', 'optuna', 'numpy', 'pandas'} & set(sys.modules)), text)
            raise SystemExit(0)
    def flush(self): pass
    def isatty(self): return False
sys.stderr = Watched()
from se_nas.cli import main
"""


class TestFirstWord:
    """It comes before libraries are loaded, which takes seconds."""

    @pytest.mark.parametrize(
        ("arguments", "word"),
        [
            (["search", "--budget", "8", "--epochs", "3"], "Plan: resnet20 on digits, at most 8 trainings of 3 epochs"),
            (["search", "--plan"], "Plan: resnet20 on digits"),
            (["confirm", "runs/x"], "Confirm: the finalists of runs/x, trained again with fresh seeds"),
            (["train", "--placement", "all:16", "--epochs", "3"], "Train: all:16 of resnet20, 3 epochs, in runs/train"),
        ],
    )
    def test_comes_before_torch_is_loaded(self, arguments: list[str], word: str, tmp_path: Path) -> None:
        done = run_python("-c", f"{WATCHED}\nmain({arguments!r})\n", cwd=tmp_path)
        assert done.stdout.startswith(f"[] {word}"), done.stderr


FAST = ["--backbone", "resnet8", "--executor", "inline", "--batch-size", "256"]


class TestLog:
    """Standard error is not a terminal."""

    def test_a_training_says_each_epoch(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        out = str(tmp_path / "run")
        assert main(["train", "--placement", "all:16", "--epochs", "3", *FAST, "--out", out]) == 0
        said = capsys.readouterr().err.splitlines()
        steps = [
            "Train: all:16 of resnet8, 3 epochs", "loading PyTorch and Lightning ...", "reading the data ...",
            "building the backbone resnet8 ...", "finding the sites of SE blocks ...", "pricing 64 placements ...",
            "starting 1 worker ...", "[0/1] trial 0 all:16: epoch 1/3", "[0/1] trial 0 all:16: epoch 2/3",
            "[1/1] trial 0 all:16: val_accuracy", "writing the report ...", "test set evaluated",
            "evaluating the network on the test set ...",
        ]  # fmt: skip
        missing = [step for step in steps if not any(line.startswith(step) for line in said)]
        assert missing == []
        places = [next(i for i, line in enumerate(said) if line.startswith(step)) for step in steps]
        assert places == sorted(places)

    @pytest.mark.parametrize(
        "silent", [["--quiet"], ["--json"], ["--progress", "none"], ["--json", "--progress", "live"]]
    )
    def test_nothing_where_nothing_is_wanted(
        self, silent: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = str(tmp_path / "run")
        assert main(["train", "--placement", "none", "--epochs", "1", *FAST, "--out", out, *silent]) == 0
        assert capsys.readouterr().err == ""

    def test_another_way_is_refused(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["search", "--progress", "lots"]) == 2
        message = capsys.readouterr().err
        assert "progress is 'lots'" in message
        assert "live" in message
        assert "plain" in message


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
class TestTerminal:
    def test_a_search_is_drawn_within_the_width(self, tmp_path: Path) -> None:
        arguments = ["search", "--budget", "2", "--epochs", "2", "--workers", "1", "--batch-size", "16"]
        text = in_terminal([sys.executable, "-m", "se_nas.cli", *arguments, "--out", "run"], tmp_path, columns=80)
        plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)
        for step in ("loading PyTorch and Lightning ...", "0/2 trained", "about", "front so far", "Ended: the budget"):
            assert step in plain, step
        assert re.search(r"0 +none +[12]/2 +\d+/67 +\d\.\d", plain), "epoch, batch and loss of a training"
        tables = [line for line in plain.splitlines() if line.startswith(("┏", "│"))]
        assert max(map(len, tables)) <= 80
        assert "optuna-dashboard sqlite:" in plain
        assert "\x1b[?25h" in text, "the cursor is there again"


def in_terminal(command: list[str], folder: Path, *, columns: int) -> str:
    """What a command writes to a terminal of its own."""
    import fcntl
    import pty
    import termios

    process, terminal = pty.fork()
    if process == 0:
        os.chdir(folder)
        variables = {**environment(), "TERM": "xterm-256color"}
        variables.pop("COLUMNS", None)
        os.execve(command[0], command, variables)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    written, end = b"", time.monotonic() + 180
    while time.monotonic() < end:
        if not select.select([terminal], [], [], 1)[0]:
            continue
        try:
            data = os.read(terminal, 2**16)
        except OSError:  # it is closed
            break
        if not data:
            break
        written += data
    _, code = os.waitpid(process, 0)
    assert code == 0, written.decode(errors="replace")
    return written.decode(errors="replace").replace("\r\n", "\n")


class TestDashboard:
    def test_the_command_is_quoted(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        result = search(tiny(tmp_path, budget=1, out=str(tmp_path / "a run")))
        assert result.dashboard == f"optuna-dashboard 'sqlite:///{tmp_path}/a run/study.db'"
        assert main(["report", str(tmp_path / "a run")]) == 0
        lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Dashboard")]
        assert [line.partition(": ")[2] for line in lines] == [result.dashboard]
