"""What several tests need. Functions here are importable by worker processes too."""

from __future__ import annotations

import ctypes
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from se_nas.analysis.findings import Findings
from se_nas.analysis.summary import summarize
from se_nas.backbones.build import build_backbone
from se_nas.core.config import SearchConfig
from se_nas.core.errors import ConfigError
from se_nas.core.placement import Choice, Placement, Site, Unit
from se_nas.core.protocols import Channel
from se_nas.core.trial import Metric, Objective, Recipe, Request, Result, RunIdentity, Target, Trial
from se_nas.data.base import DataInfo
from se_nas.insertion.discover import find_units
from se_nas.report.reading import RunFacts, RunReading
from se_nas.space.exact_cost import Cost
from se_nas.space.space import Space

REPOSITORY = Path(__file__).resolve().parents[1]
DIGITS = (1, 8, 8)


def unit(name: str = "a", stage: str = "stage1", channels: int = 16, **more: Any) -> Unit:
    """A unit with one site."""
    site = Site(unit=name, position="standard", module=name, channels=channels, size=(4, 4))
    return Unit(name=name, stage=stage, sites=(site,), **more)


def backbone_of(name: str, input_shape: tuple[int, ...] = DIGITS, seed: int = 0) -> torch.nn.Module:
    return build_backbone(Target(target=name), num_classes=10, input_shape=input_shape, seed=seed)


def units_of(name: str, input_shape: tuple[int, ...] = DIGITS) -> tuple[Unit, ...]:
    return find_units(backbone_of(name, input_shape), input_shape)


def write_space(folder: Path, text: str = "reductions: [none, 16]\n", name: str = "space.yaml") -> str:
    """A search-space file; the default has eight placements for resnet8."""
    file = folder / name
    file.write_text(text)
    return str(file)


def tiny(folder: Path, **changes: Any) -> SearchConfig:
    """A search that takes seconds: resnet8, digits, one epoch, in this process, into ``folder/run``."""
    settings: dict[str, Any] = {
        "backbone": Target(target="resnet8"),
        "space": write_space(folder) if "space" not in changes else changes["space"],
        "executor": Target(target="inline"),
        "device": "cpu",
        "train": Recipe(epochs=1, batch_size=256, precision="32"),
        "budget": 3,
        "keep_weights": "front",
        "out": str(folder / "run"),
    }
    return SearchConfig(**{**settings, **changes})


def exhausted_run(folder: Path) -> Path:
    from se_nas.commands.search import search

    result = search(tiny(folder, budget=20))
    assert result.trials["counts"].sum() == 8
    return result.folder


def identity(placement: Placement, **changes: Any) -> RunIdentity:
    facts: dict[str, Any] = {
        "key": placement.key,
        "seed": 0,
        "epochs": 1,
        "recipe": Recipe(epochs=1),
        "task": Target(target="classification"),
        "data": "d",
        "split": "s",
        "precision": "32",
    }
    return RunIdentity(**{**facts, **changes})


def request(placement: Placement | None = None, **changes: Any) -> Request:
    placement = placement or Placement(choices={})
    facts: dict[str, Any] = {
        "trial": 0,
        "placement": placement,
        "units": (unit(),),
        "identity": identity(placement),
        "backbone": Target(target="resnet8"),
        "folder": ".",
    }
    return Request(**{**facts, **changes})


def trial(placement: Placement, number: int = -1, **changes: Any) -> Trial:
    facts: dict[str, Any] = {"number": number, "identity": identity(placement), "state": "running"}
    return Trial(placement=placement, **{**facts, **changes})


def result_of(state: str = "complete", value: float = 0.5, **changes: Any) -> dict[str, Any]:
    """The fields that a finished training gives its trial."""
    metrics = {"val_accuracy": Metric(value=value)} if state in ("complete", "stopped") else {}
    return {"state": state, "counts": state in ("complete", "stopped"), "metrics": metrics, **changes}


def environment(**more: str) -> dict[str, str]:
    """For processes that run the package of this checkout, one thread each."""
    path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **more}


def run_python(*arguments: str, cwd: Path | None = None, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=200,
        cwd=cwd,
        env=environment(),
        check=False,
        **more,
    )


def until(condition: Callable[[], Any], *, timeout: float, what: str) -> Any:
    """The first true value of a condition; AssertionError when it does not come in time."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.05)
    raise AssertionError(f"waited {timeout} s in vain for {what}")


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in ("Z", "X")


def descendants(pid: int) -> set[int]:
    """All processes below a process."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            parents[int(entry.name)] = int(stat[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


def complete_trials(run: Path) -> set[int]:
    """Numbers of the complete trials in the study file of a run, read beside Optuna."""
    file = run / "study.db"
    if not file.is_file():
        return set()
    connection = sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=30)
    try:
        rows = connection.execute("select number from trials where state = 'COMPLETE'").fetchall()
    except sqlite3.OperationalError:
        return set()
    finally:
        connection.close()
    return {number for (number,) in rows}


# Evaluations for the executors' tests: workers import them from here.


def evaluate_reporting(request: Request, channel: Channel) -> Result:
    """Five epochs, or fewer if the driver says stop."""
    for epoch in range(1, 6):
        if channel.report(epoch, {"value": epoch / 10}) == "stop":
            return Result(trial=request.trial, state="stopped", reason=f"after epoch {epoch}", device=request.device)
    return Result(trial=request.trial, state="complete", device=request.device)


def evaluate_pid(request: Request, channel: Channel) -> Result:
    return Result(trial=request.trial, state="complete", reason=str(os.getpid()))


def evaluate_suicide(request: Request, channel: Channel) -> Result:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


def evaluate_mistake(request: Request, channel: Channel) -> Result:
    raise ConfigError("no such thing", allowed=["this", "that"], where="here", hint="look there")


def evaluate_full_disk(request: Request, channel: Channel) -> Result:
    raise OSError(28, "No space left on device")


_circle: weakref.ref[Any] | None = None


def evaluate_circle(request: Request, channel: Channel) -> Result:
    """Leaves objects that hold each other, and tells whether those of the evaluation before are still there."""
    global _circle
    before = "nothing" if _circle is None else "gone" if _circle() is None else "there"
    network = torch.nn.Linear(2, 2)
    network.holder = [network]
    _circle = weakref.ref(network)
    return Result(trial=request.trial, state="complete", reason=before)


def evaluate_threads(request: Request, channel: Channel) -> Result:
    return Result(trial=request.trial, state="complete", reason=str(torch.get_num_threads()))


def evaluate_after_sigint(request: Request, channel: Channel) -> Result:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.2)
    return Result(trial=request.trial, state="complete", reason="still here")


def evaluate_endless(request: Request, channel: Channel) -> Result:
    Path(request.folder, f"{request.trial}.pid").write_text(str(os.getpid()))
    time.sleep(300)
    raise AssertionError("unreachable")


def evaluate_pulsing(request: Request, channel: Channel) -> Result:
    """One epoch between signs of life."""
    for batch in range(1, 4):
        channel.alive({"epoch": 1.0, "batch": batch, "loss": 0.1})  # type: ignore[attr-defined]  # ours all have it
    channel.report(1, {"value": 0.5})
    channel.alive({})  # type: ignore[attr-defined]
    return Result(trial=request.trial, state="complete")


class Recording:
    """A channel that keeps what it is told, and stops after an epoch if asked to."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.reports: list[tuple[int, dict[str, float]]] = []
        self.stop_after = stop_after

    def report(self, epoch: int, metrics: Mapping[str, float]) -> Any:
        self.reports.append((epoch, dict(metrics)))
        return "stop" if epoch == self.stop_after else "continue"


def in_time(call: Callable[[], Any], seconds: float, what: str) -> Any:
    """What a call returns or raises; AssertionError if it takes too long."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append((True, call()))
        except BaseException as error:
            outcome.append((False, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert outcome, f"{what} took more than {seconds} s"
    good, value = outcome[0]
    if good:
        return value
    raise value


def write_npz(file: Path, *, n: int = 60, classes: int = 3, shape: Sequence[int] = (8, 8), **more: Any) -> Path:
    """A data set of random grey images whose brightness tells the class."""
    generator = np.random.default_rng(0)
    labels = np.arange(n) % classes
    images = generator.integers(0, 60, (n, *shape)) + (labels * 60).reshape(-1, *[1] * len(shape))
    np.savez(file, **{"x": images.astype(np.uint8), "y": labels.astype(np.int64), **more})
    return file


OBJECTIVE = Objective(metric="val_accuracy", direction="maximize", cost="gflops")


def trials_of(*rows: tuple[float, int, str], role: str = "") -> list[Trial]:
    """Trials with a metric, multiply-adds and a state."""
    return [
        trial(
            Placement(choices={"a": Choice.se(64, n + 1)}, label=f"p{n}"),
            n,
            costs=Cost(params=1000 + macs, macs=macs, activations=5).values(),
            role="baseline" if n == 0 else "",
            **result_of(state, value),
        )
        for n, (value, macs, state) in enumerate(rows)
    ]


def searched(space: Space, n: int, *, sign: int = 1, effect: float = 0.03) -> list[Trial]:
    """Complete trials of different placements, no SE first; SE in the first stage gains, the noise is 0.005."""
    generator = np.random.default_rng(0)
    placements = list(space.placements())
    chosen = [0, *(1 + generator.permutation(len(placements) - 1)[: n - 1])]
    first = space.units[0].name
    rows = []
    for number, i in enumerate(chosen):
        value = 0.7 + effect * (placements[i].choices[first].kind != "none") + generator.normal(0, 0.005)
        macs = 1000 + sum(c.squeeze_channels or 0 for c in placements[i].choices.values()) * 10 + int(i)
        rows.append(
            trial(
                placements[i],
                number,
                costs=Cost(params=1000 + macs, macs=macs, activations=5).values(),
                role="" if number else "baseline",
                **result_of("complete", sign * value),
            )
        )
    return rows


def findings(trials: Sequence[Trial], objective: Objective = OBJECTIVE, space: Space | None = None) -> Findings:
    return Findings(trials=trials, objective=objective, space=space)


INFO = DataInfo(
    target=Target(target="digits"), classes=("0", "1"), input_shape=(1, 8, 8), train=10, val=5, test=5,
    fingerprint="f", checksum="c", split="s",
)  # fmt: skip


def reading_of(found: Findings, **facts: Any) -> RunReading:
    """What a page of these findings is made of; `facts` are those of `RunFacts`."""
    known = {"folder": Path("runs/x"), "config": SearchConfig(), "data": INFO, "times": ("", ""), **facts}
    summary = summarize(found, folder="runs/x", budget=50, ended="the budget is spent",
                        confirmation=known.get("confirmation"))  # fmt: skip
    return RunReading.of(found, summary, RunFacts(**known))


# Evaluations that end their process, or try to.


def evaluate_exit(request: Request, channel: Channel) -> Result:
    print("reading the images")  # what a user's code prints
    print("the licence server says no")
    os._exit(7)


def evaluate_crash(request: Request, channel: Channel) -> Result:
    ctypes.string_at(0)
    raise AssertionError("unreachable")


def evaluate_ending(request: Request, channel: Channel) -> Result:
    """Raises what the seed says, after a line on the standard error; the first one tells its process only."""
    print(f"usage: train.py [-h] ({os.getpid()})", file=sys.stderr)
    raise (SystemExit(3), GeneratorExit("enough"), KeyboardInterrupt("now"))[request.identity.seed]
