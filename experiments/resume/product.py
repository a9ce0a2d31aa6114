"""The product's commands as processes that can be killed, and what a run folder says afterwards.

A command is a fork of this process, which has the libraries loaded: killing 300 would take hours if each loaded them
anew. The child runs `se_nas.cli.main`; for the same reason its workers come from one fork server of this process,
but for those commands that are killed while they start, which start their own, as always. This process only reads the
folder, by SQLite and as files.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import sqlite3
import sys
import time
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path
from typing import Any, NoReturn

from logged import LOG

LIBRARIES = ["torch", "pytorch_lightning", "matplotlib.pyplot", "se_nas.cli"]
PATIENCE = 60.0
COMMANDS = ["search", "confirm", "export", "report", "results", "train", "plan"]


def load_libraries(log: Path) -> None:
    """Have everything loaded that commands load, here and in the fork server; no thread may run when they are forked.

    Trainings are written down in the log.
    """
    names = [*LIBRARIES, *(f"se_nas.commands.{name}" for name in COMMANDS)]
    for name in [*names, "se_nas.training.evaluate", "se_nas.training.classification", "se_nas.executors.local"]:
        importlib.import_module(name)
    os.environ[LOG] = str(log)
    sys.modules["se_nas.executors.local"].warm_up()


def learn_libraries(loaded: Path) -> None:
    """Have everything loaded that the first command had loaded when it ended."""
    for name in loaded.read_text().split():
        if name not in sys.modules and not name.startswith("__"):
            with contextlib.suppress(Exception):  # what is no module of its own
                importlib.import_module(name)


def workers() -> set[int]:
    """The processes of the fork server."""
    return descendants(forkserver._forkserver._forkserver_pid)


class Command:
    """A command that runs; what it prints goes to the end of a file."""

    def __init__(self, words: list[str], *, output: Path, own_server: bool = False, loaded: Path | None = None) -> None:
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            _become(words, output, own_server, loaded)
        self.code: int | None = None

    @property
    def running(self) -> bool:
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code is None

    def kill(self) -> int:
        """SIGKILL; how many of its processes are still there `PATIENCE` seconds later."""
        below = descendants(self.pid) | workers()
        os.kill(self.pid, signal.SIGKILL)
        self.wait()
        end = time.monotonic() + PATIENCE
        while (left := sum(map(alive, below))) and time.monotonic() < end:
            time.sleep(0.05)
        return left

    def wait(self) -> int:
        while self.running:
            time.sleep(0.02)
        assert self.code is not None
        return self.code


def _become(words: list[str], output: Path, own_server: bool, loaded: Path | None) -> NoReturn:
    """Be the command, in a fork."""
    code = 1
    try:
        descriptor = os.open(output, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        if own_server:
            forkserver._forkserver.__init__()
        else:  # it would look after a child that is its parent's
            forkserver._forkserver.ensure_running = forkserver.ensure_running = lambda: None
        os.write(1, f"$ {' '.join(words)}\n".encode())
        sys.argv = ["se-nas", *words]
        code = sys.modules["se_nas.cli"].main(words)
        sys.stdout.flush()
        if loaded is not None:
            loaded.write_text("\n".join(sys.modules))
    except BaseException:
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
    finally:
        from multiprocessing import util

        util._exit_function()
        os._exit(code)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in ("Z", "X")


def descendants(pid: int) -> set[int]:
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


@dataclass(frozen=True)
class Told:
    """A trial as the study has it: `value` is the metric."""

    state: str
    key: str
    seed: int
    attempts: int
    reason: str
    value: float | None

    @property
    def training(self) -> tuple[str, int]:
        return self.key, self.seed


def trials(folder: Path, study: str) -> dict[int, Told]:
    """Number -> trial of a study ("search", "confirm"); without those that were never started."""
    file = folder / "study.db"
    query = (
        "select t.number, t.state, a.value_json from trials t join studies s using (study_id) "
        "join trial_user_attributes a using (trial_id) where s.study_name = ? and a.key = 'record'"
    )
    if not file.is_file():
        return {}
    try:
        with contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=30)) as connection:
            rows = connection.execute(query, (study,)).fetchall()
    except sqlite3.OperationalError:  # killed while the tables were made
        return {}
    return {number: _told(state, json.loads(record)) for number, state, record in rows}


def _told(state: str, record: dict[str, Any]) -> Told:
    metric = record.get("metrics", {}).get("val_accuracy")
    identity = record["identity"]
    return Told(
        state="running" if state == "RUNNING" else record["state"],
        key=identity["key"],
        seed=identity["seed"],
        attempts=record.get("attempts", 1),
        reason=record.get("reason", ""),
        value=None if metric is None else metric["value"],
    )


def trained(folder: Path, study: str) -> dict[int, Told]:
    """Those that were paid for."""
    return {number: t for number, t in trials(folder, study).items() if t.state in ("complete", "stopped")}


def log_lines(log: Path) -> list[list[str]]:
    """(what, pid, network, seed) each."""
    return [line.split() for line in log.read_text().splitlines()] if log.is_file() else []


def ended_twice(log: Path) -> int:
    """Trainings that came to their end more than once."""
    ends = [(network, seed) for what, _, network, seed in log_lines(log) if what == "end"]
    return len(ends) - len(set(ends))


def leftovers(folder: Path) -> list[str]:
    """Files and folders that a call which ended leaves nowhere: parts of files, locks of exports."""
    hidden = {str(f.relative_to(folder)) for f in folder.rglob(".*")}
    return sorted(hidden | {f"results/{f.name}" for f in (folder / "results").glob("*")})
