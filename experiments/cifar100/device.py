"""What one GPU can tell in 25 minutes: marked tests, throughput, a search of 50 candidates and its confirm.

    python experiments/cifar100/device.py --data folder:PATH                     # CIFAR-100 in class folders
    python experiments/cifar100/device.py --data folder:PATH --device cpu --minutes 3 --args --data.args.size 8

Each part has a share of the time and ends when that is over; what it has by then stays in the folder of ``--out``. The
part that was not reached is said. Given again, the search goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from se_nas.core.files import write_atomically

SHARES = {"tests": 0.16, "throughput": 0.34, "search": 0.36, "confirm": 0.14}
"""Of the whole time."""
GRAPHS, AT_ONCE = ("plain", "shared", "compiled"), (1, 2, 4, 8)
BUDGET, EPOCHS = 50, 30


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part of the plan: until when it may run."""

    given: argparse.Namespace
    end: float

    def se_nas(self, *arguments: str) -> tuple[int, str]:
        """Exit code and standard output of a command, interrupted when the time of the part is over."""
        return self.run([sys.executable, "-m", "se_nas.cli", *arguments])

    def run(self, command: Sequence[str]) -> tuple[int, str]:
        if self.left <= 0:
            return 130, ""
        print(*command[1:], flush=True)
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            output, _ = process.communicate(timeout=self.left)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)  # a search ends in order and can go on
            try:
                output, _ = process.communicate(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                output, _ = process.communicate()
        return process.returncode, output

    @property
    def left(self) -> float:
        return self.end - time.monotonic()


def options(given: argparse.Namespace) -> list[str]:
    """What all commands have in common."""
    return [
        "--backbone", "resnet20", "--data", given.data, *given.args, "--device", given.device, "--space", "stagewise",
        "--augment", "shift-flip", "--quiet",
    ]  # fmt: skip


def tests(part: Part) -> str:
    """The tests that are marked for a GPU; a line of what came out."""
    if part.given.device == "cpu":
        return "skipped: they need a GPU"
    code, output = part.run([sys.executable, "-m", "pytest", "-m", "gpu", "-n", "0", "-q"])
    lines = output.strip().splitlines() or ["nothing"]
    return f"exit code {code}: {lines[-1]}"


def throughput(part: Part) -> str:
    """Candidates per minute by way of running and trainings at a time, in turns: throughput.csv."""
    rows = []
    for number in AT_ONCE:
        for graph in GRAPHS:
            out = part.given.out / "throughput" / f"{graph}-{number}"
            shutil.rmtree(out, ignore_errors=True)  # a search that goes on would not be timed from its beginning
            wish = ["--graph", graph, "--trials-per-device", str(number), "--sampler", "random"]
            if part.given.device == "cpu":
                wish = ["--graph", graph, "--workers", str(number), "--sampler", "random"]
            budget = max(4, 2 * number)
            start = time.monotonic()
            code, _ = part.se_nas(
                "search", *options(part.given), *wish, "--budget", str(budget), "--epochs", "1", "--out", str(out),
                "--keep-weights", "front",
            )  # fmt: skip
            if code:
                break
            seconds, table = time.monotonic() - start, pd.read_csv(out / "trials.csv")
            done = table[table["state"] == "complete"]
            rows.append({
                "graph": graph, "at_once": number, "candidates": len(done), "seconds": round(seconds, 1),
                "seconds_each": round(done["seconds"].median(), 2), "per_minute": round(60 * len(done) / seconds, 2),
                "ran_as": "/".join(sorted(done["graph"].unique())), "device": done["device"].iloc[0],
                "commit": done["commit"].iloc[0],
            })  # fmt: skip
            pd.DataFrame(rows).to_csv(part.given.out / "throughput.csv", index=False)
    return f"{len(rows)} of {len(GRAPHS) * len(AT_ONCE)} rows in throughput.csv"


def search(part: Part) -> str:
    """Fifty candidates with the default sampler; as many as fit into the time."""
    _, output = part.se_nas(
        "search", *options(part.given), "--budget", str(BUDGET), "--epochs", str(part.given.epochs), "--out",
        str(part.given.out / "search"), "--max-time", f"{max(1, int(0.9 * part.left))}s",
        "--measure", "latency", "--json",
    )  # fmt: skip
    if not output.strip():
        return "no result"
    found = json.loads(output)
    return " ".join(sentence["text"] for sentence in found["verdict"]["sentences"])


def confirm(part: Part) -> str:
    """The best of the search with three fresh seeds; then its report."""
    run = str(part.given.out / "search")
    code, output = part.se_nas("confirm", run, "--top", "1", "--seeds", "3", "--json")
    subprocess.run([sys.executable, "-m", "se_nas.cli", "report", run], check=False)
    if code:
        return f"not finished (exit code {code}); se-nas confirm {run} goes on"
    return " ".join(sentence["text"] for sentence in json.loads(output)["verdict"]["sentences"])


PARTS = {"tests": tests, "throughput": throughput, "search": search, "confirm": confirm}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="such as folder:PATH")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--minutes", type=float, default=25)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--out", type=Path, default=Path("runs/cifar100-device"))
    parser.add_argument("--args", nargs=argparse.REMAINDER, default=[], help="more options for every search; last")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    end, said = time.monotonic(), {}
    for name, work in PARTS.items():
        end += 60 * given.minutes * SHARES[name]  # time that a part leaves is for the next
        said[name] = work(Part(given=given, end=end))
        print(f"{name}: {said[name]}", flush=True)
        write_atomically(given.out / "parts.json", json.dumps(said, indent=2).encode())


if __name__ == "__main__":
    main()
