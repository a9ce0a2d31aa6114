"""What se-nas itself costs: start to first trial, and milliseconds per trial without the training.

Usage: python experiments/overhead/run.py
"""

from __future__ import annotations

import contextlib
import random
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import Future
from pathlib import Path

TRIALS = 50
REPEATS = 5


class InstantExecutor:
    """Answers at once with a random accuracy: what is left is Optuna, storage, cost and the driver."""

    slots = 1

    def __init__(self, devices: tuple[str, ...]) -> None:
        self.devices = devices

    def submit(self, evaluate: object, request: object, report: object) -> Future:
        from se_nas.core.trial import Metric, Result

        future: Future = Future()
        metrics = {"val_accuracy": Metric(value=random.random())}
        future.set_result(Result(trial=request.trial, attempt=request.attempt, state="complete", metrics=metrics))
        return future

    def shutdown(self, *, wait: bool = True) -> None:
        pass


def per_trial(sampler: str) -> float:
    """Milliseconds per trial."""
    from se_nas.commands.search import open_study, proposals
    from se_nas.core.config import SearchConfig
    from se_nas.core.trial import Target
    from se_nas.engine.driver import Driver
    from se_nas.engine.problem import prepare
    from se_nas.engine.run_folder import RunFolder
    from se_nas.report.view import View

    with tempfile.TemporaryDirectory() as folder:
        config = SearchConfig(
            budget=TRIALS,
            out=folder,
            sampler=Target(target=sampler),
            executor=Target(target=f"{Path(__file__).resolve()}:InstantExecutor"),
        )
        run = RunFolder(Path(folder))
        run.lock()
        view = View(quiet=True)
        problem = prepare(config, run.path)
        study = open_study(problem, run, view)
        start = time.perf_counter()
        Driver(problem, run, study, view, proposals(problem, run, study)).drive()
        return 1000 * (time.perf_counter() - start) / TRIALS


def _started(file: Path) -> bool:
    """Whether a trial is running, read without Optuna, which would make the tables itself."""
    if not file.is_file():
        return False
    try:
        with contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:
            rows = connection.execute("SELECT COUNT(*) FROM trial_user_attributes WHERE key = 'record'")
            return bool(rows.fetchone()[0])
    except sqlite3.OperationalError:  # the tables are not there yet
        return False


def first_trial() -> float:
    """Seconds from the command to the first epoch of a training, the import of all libraries included."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "se_nas.cli", "search", "--budget", "2", "--out", folder, "--quiet"]
        )
        while not _started(Path(folder) / "study.db"):
            time.sleep(0.02)
        seconds = time.perf_counter() - start
        process.kill()
        process.wait()
        return seconds


def help_seconds() -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "se_nas.cli", "--help"], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def show(name: str, values: list[float], unit: str) -> None:
    spread = f"{min(values):.3g} to {max(values):.3g}, n={len(values)}"
    print(f"{name}: median {statistics.median(values):.3g} {unit} ({spread})")


if __name__ == "__main__":
    show("--help", [help_seconds() for _ in range(REPEATS)], "s")
    show("start to first trial running", [first_trial() for _ in range(REPEATS)], "s")
    for name in ("known-cost", "random", "exhaustive", "tpe", "nsga2", "gp"):
        show(f"per trial without training, {name}", [per_trial(name) for _ in range(REPEATS)], "ms")
