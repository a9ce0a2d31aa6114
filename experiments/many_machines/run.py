"""Ray beside local workers, and what the loss of a worker or of a machine costs. See README.md.

python run.py compare --repeats 5
python run.py kill-worker
python run.py kill-machine
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import optuna
import pandas as pd
from optuna.trial import TrialState

WORKERS = 2


def command(executor: str, out: Path, arguments: argparse.Namespace) -> list[str]:
    return [
        sys.executable, "-m", "se_nas.cli", "search", "--executor", executor, "--workers", str(WORKERS),
        "--backbone", arguments.backbone, "--data", arguments.data, "--epochs", str(arguments.epochs),
        "--budget", str(arguments.budget), "--out", str(out), "--quiet",
    ]  # fmt: skip


def finished(out: Path) -> list[float]:
    """When the complete trials of a run ended, in seconds, ascending."""
    if not (out / "study.db").is_file():
        return []
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        studies = optuna.get_all_study_summaries(f"sqlite:///{out / 'study.db'}")
        trials = optuna.load_study(study_name=studies[0].study_name, storage=f"sqlite:///{out / 'study.db'}").trials
    except Exception:  # it is being made
        return []
    return sorted(t.datetime_complete.timestamp() for t in trials if t.state == TrialState.COMPLETE)


def compare(arguments: argparse.Namespace) -> None:
    """Candidates per minute between the first and the last one that ended, interleaved; and the whole time."""
    rates: dict[str, list[float]] = {"local": [], "ray": []}
    walls: dict[str, list[float]] = {"local": [], "ray": []}
    for repeat in range(arguments.repeats):
        for executor in ("local", "ray") if repeat % 2 else ("ray", "local"):
            with tempfile.TemporaryDirectory() as folder:
                began = time.monotonic()
                subprocess.run(command(executor, Path(folder) / "run", arguments), check=True)
                walls[executor].append(time.monotonic() - began)
                ends = finished(Path(folder) / "run")
            rates[executor].append(60 * (len(ends) - 1) / (ends[-1] - ends[0]))
            print(f"{executor}: {rates[executor][-1]:.1f} candidates/min, {walls[executor][-1]:.1f} s", flush=True)
    ratios = [ray / local for ray, local in zip(rates["ray"], rates["local"], strict=True)]
    for name in rates:
        print(f"{name}: median {statistics.median(rates[name]):.1f}/min, whole {statistics.median(walls[name]):.1f} s")
    print(f"ray/local: median {statistics.median(ratios):.3f}, {min(ratios):.3f} to {max(ratios):.3f}, n={len(ratios)}")
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")


def workers_below(pid: int) -> list[int]:
    """Ray's workers among the processes below one."""
    found, todo = [], [pid]
    while todo:
        for file in Path(f"/proc/{todo.pop()}/task").glob("*/children"):
            for child in map(int, file.read_text().split()):
                todo.append(child)
                if Path(f"/proc/{child}/cmdline").read_bytes().startswith(b"ray::Worker"):
                    found.append(child)
    return found


def report(out: Path, arguments: argparse.Namespace) -> None:
    table = pd.read_csv(out / "trials.csv")
    counted = table[table["counts"]]
    print(f"{len(counted)} of {arguments.budget} trained, {counted['key'].nunique()} different networks")
    print(table[table["state"] == "failed"][["trial", "placement", "reason"]].to_string(index=False))
    whole = len(counted) == arguments.budget == counted["key"].nunique()
    print("nothing lost, nothing twice" if whole else "WRONG")


def kill_worker(arguments: argparse.Namespace) -> None:
    """Kill one of Ray's workers in the middle of a training."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        process = subprocess.Popen(command("ray", out, arguments))
        while process.poll() is None and len(finished(out)) < arguments.budget // 3:
            time.sleep(0.2)
        victim = random.choice(workers_below(process.pid))
        os.kill(victim, signal.SIGKILL)
        print(f"killed worker {victim} after {len(finished(out))} trainings", flush=True)
        process.wait()
        report(out, arguments)


def kill_machine(arguments: argparse.Namespace) -> None:
    """A cluster of a head and two machines, which share no folder with the driver's run; one goes away."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    machines = [cluster.add_node(num_cpus=1) for _ in range(WORKERS)]
    try:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "run"
            process = subprocess.Popen(command(f"ray:{cluster.address}", out, arguments))
            while process.poll() is None and len(finished(out)) < arguments.budget // 3:
                time.sleep(0.2)
            cluster.remove_node(machines[0], allow_graceful=False)
            print(f"one machine of two gone after {len(finished(out))} trainings", flush=True)
            process.wait()
            report(out, arguments)
    finally:
        cluster.shutdown()


TASKS = {"compare": compare, "kill-worker": kill_worker, "kill-machine": kill_machine}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--backbone", default="resnet20")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--budget", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    TASKS[arguments.task](arguments)


if __name__ == "__main__":
    main()
