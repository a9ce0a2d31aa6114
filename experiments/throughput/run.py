"""Candidates per minute of three ways to train the same networks, their accuracy, and memory per worker.

Usage::

    python experiments/throughput/run.py rates [--data digits] [--backbone resnet20] [--epochs 10] [--candidates 12]
        [--rounds 3] [--workers 1 2] [--device cpu] [--only KIND ...]
    python experiments/throughput/run.py accuracy [--seeds 20] ...
    python experiments/throughput/run.py overhead [--rounds 5] ...
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import math
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from common import Job

HERE = Path(__file__).resolve().parent
MODULES = {"tutorial": "tutorial", "handwritten": "handwritten", "se-nas": "searched"}


def one(kind: str, job: Job, seeds: int) -> dict:
    """Run one way, in a process of its own; its imports are not counted."""
    command = [sys.executable, str(HERE / "run.py"), "one", kind, json.dumps(dataclasses.asdict(job)), str(seeds)]
    # The tutorial script takes the threads that torch gives it; the others set their own.
    env = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    with tempfile.NamedTemporaryFile() as answer, GpuUtilisation(job.device) as busy:
        start = time.perf_counter()
        done = subprocess.run(
            [*command, answer.name], env=env, check=False, capture_output=True, text=True, cwd=tempfile.gettempdir()
        )
        if done.returncode:
            sys.exit(done.stderr[-3000:])
        found = json.loads(Path(answer.name).read_text())
    whole = time.perf_counter() - start
    return {**found, "whole": whole, "gpu": busy.mean}


def side_by_side(kind: str, job: Job, number: int) -> dict:
    """The same way in so many processes at once, each with all candidates: what the machine can do."""
    with ThreadPoolExecutor(number) as threads:
        found = list(threads.map(lambda _: one(kind, job, 0), range(number)))
    return {
        **found[0],
        "seconds": 1 / sum(1 / f["seconds"] for f in found),
        "cpu": statistics.mean(f["cpu"] for f in found),
        "whole": max(f["whole"] for f in found),
    }


class GpuUtilisation:
    """Mean utilisation of a GPU while something runs; NaN without one."""

    def __init__(self, device: str) -> None:
        self.device, self.samples, self._over = device, [], threading.Event()

    @property
    def mean(self) -> float:
        return statistics.mean(self.samples) if self.samples else math.nan

    def __enter__(self) -> GpuUtilisation:
        self._thread = threading.Thread(target=self._watch, daemon=True)
        if self.device.startswith("cuda"):
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def _watch(self) -> None:
        import torch

        from se_nas.training.devices import gpu_utilisation

        while not self._over.wait(0.5):
            if (share := gpu_utilisation(torch.device(self.device))) is not None:
                self.samples.append(share)


def prepared(options: argparse.Namespace, folder: str) -> Job:
    from se_nas.core.plugins import absolute
    from se_nas.core.trial import Target
    from se_nas.data.store import prepare_data

    prepare_data(absolute(Target(target=options.data)), Path(folder))
    augment = options.augment or ("shift" if options.data == "digits" else "shift-flip")
    return Job(
        folder=folder, backbone=options.backbone, epochs=options.epochs, candidates=options.candidates,
        augment=augment, device=options.device,
    )  # fmt: skip


def rates(options: argparse.Namespace, job: Job) -> None:
    side = [("handwritten", n) for n in options.workers if n > 1]
    kinds = [("tutorial", 1), ("handwritten", 1), *side, *(("se-nas", n) for n in options.workers)]
    kinds = [k for k in kinds if not options.only or k[0] in options.only]
    rows = []
    for number in range(options.rounds):
        for kind, workers in random.Random(number).sample(kinds, len(kinds)):
            several = kind == "handwritten" and workers > 1
            asked = dataclasses.replace(job, workers=1 if several else workers)
            found = side_by_side(kind, asked, workers) if several else one(kind, asked, 0)
            rows.append({
                "round": number, "kind": kind, "workers": workers, "candidates": job.candidates,
                "per_minute": 60 * job.candidates / found["seconds"], "seconds": found["seconds"],
                "cpu_seconds_each": found["cpu"] / job.candidates, "command_seconds": found["whole"],
                "accuracy": statistics.mean(found["accuracies"]), "gpu_utilisation": found["gpu"],
                "worker_mib": json.dumps(found.get("memory", [])), **about(options),
            })  # fmt: skip
            print({k: v for k, v in rows[-1].items() if k in ("round", "kind", "workers", "per_minute", "accuracy")})
            write(options, "rates", rows)
    summarise(rows, options.rounds)


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f}, n={len(values)})"


def summarise(rows: list[dict], rounds: int) -> None:
    """Ratios within each round: median, smallest and largest."""

    def ratio(value, top, bottom, factor: float = 1.0) -> str:
        pairs = []
        for n in range(rounds):
            found = {(r["kind"], r["workers"]): r[value] for r in rows if r["round"] == n}
            if top in found and bottom in found:
                pairs.append(found[top] / found[bottom] / factor)
        return spread(pairs) if pairs else "-"

    for kind in dict.fromkeys((r["kind"], r["workers"]) for r in rows):
        own = [r for r in rows if (r["kind"], r["workers"]) == kind]
        speed, each = ([r[name] for r in own] for name in ("per_minute", "cpu_seconds_each"))
        print(
            f"{kind[0]} x {kind[1]}: {statistics.median(speed):.2f} candidates/min ({min(speed):.2f} to "
            f"{max(speed):.2f}), {statistics.median(each):.2f} CPU s each, accuracy {own[0]['accuracy']:.4f}"
        )
    for n in sorted({r["workers"] for r in rows if r["kind"] == "se-nas"}):
        key = ("se-nas", n)
        print(f"se-nas x {n} / tutorial: {ratio('per_minute', key, ('tutorial', 1))}")
        print(f"se-nas x {n} / ({n} x handwritten): {ratio('per_minute', key, ('handwritten', 1), n)}")
        if n > 1:
            print(f"se-nas x {n} / handwritten side by side x {n}: {ratio('per_minute', key, ('handwritten', n))}")
        print(f"CPU seconds, se-nas x {n} / handwritten: {ratio('cpu_seconds_each', key, ('handwritten', 1))}")
        print(f"memory of the workers x {n}: {next(r['worker_mib'] for r in rows if (r['kind'], r['workers']) == key)}")


def accuracy(options: argparse.Namespace, job: Job) -> None:
    from scipy.stats import ttest_ind

    found = {kind: one(kind, job, options.seeds)["accuracies"] for kind in MODULES}
    rows = [
        {"kind": kind, "seed": seed, "accuracy": value, **about(options)}
        for kind, values in found.items()
        for seed, value in enumerate(values)
    ]
    write(options, "accuracy", rows)
    for kind, values in found.items():
        print(f"{kind}: mean {statistics.mean(values):.4f}, sd {statistics.stdev(values):.4f}, n={len(values)}")
    for kind in ("tutorial", "handwritten"):
        low, high = ttest_ind(found["se-nas"], found[kind], equal_var=False).confidence_interval(0.95)
        difference = statistics.mean(found["se-nas"]) - statistics.mean(found[kind])
        print(f"se-nas - {kind}: {100 * difference:+.2f} points, 95 % interval {100 * low:+.2f} to {100 * high:+.2f}")


def overhead(options: argparse.Namespace, job: Job) -> None:
    """Lightning in se-nas against a bare loop over the very same batches: processor time, alternating, one process."""
    from overhead import measure

    rows = measure(job, options.rounds)
    write(options, "overhead", [{**row, **about(options)} for row in rows])
    ratios = sorted(row["lightning"] / row["bare"] for row in rows)
    print(f"lightning / bare loop: {spread(ratios)}")
    print("same final accuracy:", all(abs(row["accuracy"] - row["bare_accuracy"]) < 1e-6 for row in rows))


def about(options: argparse.Namespace) -> dict:
    import torch

    from se_nas.training.provenance import commit, device_name

    data = options.data if options.data == "digits" else Path(options.data.partition(":")[2]).name
    return {
        "data": data, "backbone": options.backbone, "epochs": options.epochs, "device": device_name(options.device),
        "torch": torch.__version__, "python": platform.python_version(), "commit": commit(),
    }  # fmt: skip


def write(options: argparse.Namespace, name: str, rows: list[dict]) -> None:
    data = rows[0]["data"]
    out = Path(options.out) if options.out else HERE
    with (out / f"{name}-{data}.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0], lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


def main() -> None:
    if sys.argv[1:2] == ["one"]:
        _, _, kind, job, seeds, answer = sys.argv
        module = __import__(MODULES[kind])
        task = Job(**json.loads(job))
        found = {"accuracies": module.accuracies(task, int(seeds))} if int(seeds) else module.run(task)
        Path(answer).write_text(json.dumps(found))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["rates", "accuracy", "overhead"])
    parser.add_argument("--data", default="digits")
    parser.add_argument("--backbone", default="resnet20")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--augment", default=None)
    parser.add_argument("--candidates", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", nargs="+", default=[])
    parser.add_argument("--out", default=None, help="folder for the tables; default beside this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        globals()[options.what](options, prepared(options, folder))


if __name__ == "__main__":
    main()
