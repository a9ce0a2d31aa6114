"""Kill the driver with SIGKILL at random moments, go on each time, and count what was lost or trained twice.

Usage: python experiments/resume/run.py [KILLS]
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import optuna

COMMAND = [sys.executable, "-m", "se_nas.cli", "search", "--budget", "30", "--backbone", "resnet14", "--quiet"]


def finished(folder: Path) -> dict[int, str]:
    """Number -> key of the trials that are complete."""
    try:
        study = optuna.load_study(study_name="search", storage=f"sqlite:///{folder / 'study.db'}")
    except Exception:  # killed before the study was there
        return {}
    return {t.number: t.user_attrs["key"] for t in study.trials if t.state.name == "COMPLETE"}


def main(kills: int) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    generator = random.Random(0)
    lost = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        before: dict[int, str] = {}
        for kill in range(kills):
            process = subprocess.Popen([*COMMAND, "--out", name])
            wait = generator.uniform(5, 20)
            time.sleep(wait)
            alive = process.poll() is None
            process.send_signal(signal.SIGKILL)
            process.wait()
            after = finished(folder)
            lost += sum(after.get(number) != key for number, key in before.items())
            print(
                f"kill {kill + 1} after {wait:.1f} s (search was {'running' if alive else 'over'}): "
                f"{len(before)} trials finished before, {len(after)} now"
            )
            before = after
        subprocess.run([*COMMAND, "--out", name], check=True, stdout=subprocess.DEVNULL)
        keys = list(finished(folder).values())
        lost += sum(finished(folder).get(number) != key for number, key in before.items())
        twice = len(keys) - len(set(keys))
        print(f"to the end: {len(before)} before, {len(keys)} after; trained twice: {twice}; lost: {lost}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
