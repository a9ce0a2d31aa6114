"""What a search costs beside its trainings when there is much of it: many placements, many trials, many units.

Usage: python experiments/many/run.py [--trials N] [--only WORD]

The trainings are answered at once, from effects that are drawn for each unit, so that what is left is what se-nas does
itself: proposals, posterior, study, records. Each search runs in a process of its own; a row is one block of trials.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

HERE = Path(__file__).parent
FILE = HERE / "results.csv"
EPOCHS = 10
BLOCKS = (0, 16, 64, 100, 200, 500, 1000, 1500, 2000)
"""Trial numbers between which times are summed up."""

SPACES: dict[str, dict[str, Any]] = {
    "4^6": {
        "backbone": {"target": "resnet14", "args": {}},
        "space": {"decide": "unit", "reductions": ["none", 16, 8, 4]},
    },
    "5^51": {
        "backbone": {"target": "se_nas.backbones.resnet:resnet", "args": {"depth": 104}},
        "space": {"decide": "unit", "reductions": ["none", 16, 8, 4, 2]},
    },
}
SAMPLERS = ("known-cost", "random", "tpe")


class Landscape:
    """An executor that answers at once: effects of units add up, and each training has noise of its own."""

    def __init__(self, devices: tuple[str, ...]) -> None:
        self.slots = 1

    def submit(self, evaluate: object, request: Any, report: Callable[[int, Mapping[str, float]], str]) -> Future[Any]:
        """The result of a training whose curve rises to its accuracy."""
        from se_nas.core.trial import Epoch, Metric, Result

        noise = np.random.default_rng([request.trial, 1])
        chosen = [name for name, choice in request.placement.choices.items() if choice.kind == "se"]
        effects = [np.random.default_rng(list(name.encode())).normal(0, 0.004) for name in chosen]
        end = 0.9 + float(np.tanh(10 * sum(effects)) / 20) + noise.normal(0, 0.004)
        curve = []
        for epoch in range(1, EPOCHS + 1):
            metrics = {"val_accuracy": end * (1 - 0.5**epoch)}
            curve.append(Epoch(epoch=epoch, metrics=metrics))
            report(epoch, metrics)
        future: Future[Any] = Future()
        result = {"val_accuracy": Metric(value=end)}
        future.set_result(
            Result(trial=request.trial, attempt=request.attempt, state="complete", metrics=result, curve=tuple(curve))
        )
        return future

    def shutdown(self, *, wait: bool = True) -> None:
        """Nothing to end."""


def search(space: str, sampler: str, trials: int, out: Path) -> list[dict[str, Any]]:
    """Rows of one search, in this process; the report is made twice: at the end of the search, and by its command."""
    from se_nas import search as run_search
    from se_nas.commands.results import report_again

    times = [time.perf_counter()]
    processor = [time.process_time()]

    def told(_: object) -> None:
        times.append(time.perf_counter())
        processor.append(time.process_time())

    start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    with contextlib.redirect_stdout(io.StringIO()):
        run_search(
            budget=trials, out=str(out), sampler=sampler, epochs=EPOCHS, on_trial=told,
            executor=f"{Path(__file__).resolve()}:Landscape", **SPACES[space],
        )  # fmt: skip
    end = time.perf_counter() - times[-1]
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    began = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        report_again(out)
    again = time.perf_counter() - began
    rows = []
    for low, high in itertools.pairwise(BLOCKS):
        spent, work = np.diff(times)[low:high], np.diff(processor)[low:high]
        if len(spent):
            rows.append({
                "space": space, "sampler": sampler, "first": low + 1, "last": low + len(spent),
                "ms a trial": 1000 * float(np.mean(spent)), "median ms": 1000 * statistics.median(spent),
                "processor ms": 1000 * float(np.mean(work)), "slowest ms": 1000 * float(max(spent)),
                "peak MiB": memory, "of it before MiB": start, "end s": end, "report s": again, "trials": trials,
            })  # fmt: skip
    return rows


def main() -> None:
    """Run every search in a process of its own, print its rows and keep them all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--only", default="", help="searches whose name (SPACE SAMPLER) holds this word")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(search(*args.one, args.trials, Path(folder) / "run")))
        return
    rows: list[dict[str, Any]] = []
    for space in SPACES:
        for sampler in SAMPLERS:
            if args.only not in f"{space} {sampler}":
                continue
            command = [sys.executable, __file__, "--one", space, sampler, "--trials", str(args.trials)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            rows += json.loads(done.stdout.splitlines()[-1])
            print(pd.DataFrame(rows).round(1).to_string(index=False), flush=True)
    import optuna
    import torch

    import se_nas
    from se_nas.training.provenance import commit

    facts = {"se_nas": se_nas.__version__, "torch": torch.__version__, "optuna": optuna.__version__,
             "commit": commit(), "machine": platform.processor() or platform.machine()}  # fmt: skip
    found = pd.DataFrame(rows).assign(**facts)
    if FILE.is_file():  # searches that did not run now keep their rows
        known = pd.read_csv(FILE)
        again = known.set_index(["space", "sampler"]).index.isin(found.set_index(["space", "sampler"]).index)
        found = pd.concat([known[~again], found])
    found.to_csv(FILE, index=False, float_format="%.6g")


if __name__ == "__main__":
    main()
