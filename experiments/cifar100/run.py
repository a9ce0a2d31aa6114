"""All trainings of this experiment, by the product's own commands, which are printed as they are given.

    python experiments/cifar100/run.py --data folder:PATH --version cpu
    python experiments/cifar100/run.py --data folder:PATH --version gpu

Everything goes on where it stopped when the same command is given again. Runs that another process works on are passed
over, so that two may share the work. `--minutes` ends it after so long, `--dry` prints the commands only.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

HERE = Path(os.path.relpath(Path(__file__).parent))
NARROW = "{init: plain, reductions: [none, 16]}"
"""The space ``on-off``, with the start of the SE paper."""
ON_OFF = f"--space={NARROW}"
BUSY = "another search is running"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a version trains beside the whole table with the first seeds."""

    seeds: int = 2
    """Seeds of the whole table."""
    rows: int = 3
    """Seeds of the stage and the reduction table."""
    larger: tuple[str, ...] = ()
    """Networks that are searched with the default sampler and confirmed, too."""
    confirm_epochs: int | None = None
    """Of the performance table; None: as in the search."""


VERSIONS = {"cpu": Plan(larger=("resnet20",)), "gpu": Plan(larger=("resnet56",), confirm_epochs=200)}


def commands(version: str, data: str, out: Path, workers: int | None = None) -> Iterator[list[str]]:
    """The commands, the most important first; later ones go on with the runs of earlier ones."""
    plan = VERSIONS[version]
    config = [f"--config={HERE / version}.yaml", f"--data={data}"]
    at_once = [f"--workers={workers}"] if workers else []

    def search(seed: int, *more: str) -> list[str]:
        return ["search", *config, f"--seed={seed}", f"--out={out / f'seed-{seed}'}", *at_once, *more, "--quiet"]

    def train(reduction: int, seed: int) -> list[str]:
        run = out / f"all-{reduction}-seed-{seed}"
        return ["train", *config, f"--placement=all:{reduction}", f"--seed={seed}", f"--out={run}", "--quiet"]

    def confirm(run: Path) -> list[str]:
        epochs = [f"--epochs={plan.confirm_epochs}"] if plan.confirm_epochs else []
        return ["confirm", str(run), "--top=1", "--seeds=5", *epochs, *at_once, "--quiet"]

    # With and without SE in each stage first: the stage table needs no more. The whole space then takes them in.
    for seed in range(plan.rows):
        yield search(seed, ON_OFF, "--budget=8")
    yield search(0)
    yield confirm(out / "seed-0")
    for seed in range(plan.rows):
        for reduction in (2,) if seed < plan.seeds else (2, 4, 8):  # the others are in the whole table
            yield train(reduction, seed)
    for seed in range(1, plan.seeds):
        yield search(seed)
    for backbone in plan.larger:
        run = out / f"{backbone}-seed-0"
        yield [
            "search", *config, f"--backbone={backbone}", "--sampler=known-cost", "--budget=20", "--vary-seed=true",
            f"--out={run}", *at_once, "--quiet",
        ]  # fmt: skip
        yield confirm(run)


def run_of(command: list[str]) -> Path:
    """The run folder of a command."""
    return Path(next((word[6:] for word in command if word.startswith("--out=")), command[1]))


def widened(run: Path) -> bool:
    """Whether the run has gone on with the whole space, which it cannot leave again."""
    file = run / "config.yaml"
    return file.is_file() and yaml.safe_load(file.read_text())["space"] not in ("on-off", NARROW)


def main() -> int:
    """0 when all is trained, 1 when something was passed over or the time is up, 2 for an error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="such as folder:PATH")
    parser.add_argument("--version", choices=VERSIONS, default="cpu")
    parser.add_argument("--out", type=Path, help="default runs/cifar100-VERSION")
    parser.add_argument("--workers", type=int, help="trainings at a time; default as se-nas chooses")
    parser.add_argument("--minutes", type=float, help="end after so long")
    parser.add_argument("--dry", action="store_true", help="print the commands only")
    given = parser.parse_args()
    out = given.out or Path("runs") / f"cifar100-{given.version}"
    end = time.monotonic() + 60 * given.minutes if given.minutes else None
    unfinished: set[str] = set()
    for command in commands(given.version, given.data, out, given.workers):
        run = run_of(command)
        if ON_OFF in command and widened(run):
            continue
        if command[0] == "confirm" and str(run) in unfinished:  # its search goes on elsewhere
            continue
        print("se-nas", *command, flush=True)
        if given.dry:
            continue
        left = None if end is None else max(0.0, end - time.monotonic())
        process = subprocess.Popen([sys.executable, "-m", "se_nas.cli", *command], stderr=subprocess.PIPE, text=True)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
        try:
            _, errors = process.communicate(timeout=left)
        except subprocess.TimeoutExpired:
            print("the time is up")
            return 1
        finally:
            process.terminate()  # nothing happens where it has ended
            process.wait()
        if process.returncode and BUSY in errors:
            unfinished.add(str(run))
        elif process.returncode:
            print(errors, file=sys.stderr)
            return 2
    return int(bool(unfinished))


if __name__ == "__main__":
    raise SystemExit(main())
