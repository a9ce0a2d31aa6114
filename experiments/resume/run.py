"""Kill the driver in each phase of its work, and workers in training, by SIGKILL; count what was lost. See README.md.

python experiments/resume/run.py            # 200 kills of the driver, 100 of workers; goes on where it stopped
python experiments/resume/run.py --kills 4  # a quick look
python experiments/resume/run.py --table    # only the table, from the rows that are there
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from product import (
    Command,
    ended_twice,
    learn_libraries,
    leftovers,
    load_libraries,
    log_lines,
    trained,
    trials,
    workers,
)

from se_nas.training.provenance import commit, versions

HERE = Path(__file__).parent
KILLS, RUNS = HERE / "kills.csv", HERE / "runs.csv"
BUDGET, SPACE = 12, "reductions: [none, 8, 4]\n"
EVERY = 28
"""Networks of the space, SE everywhere at r=16 among them: the reference search trains them all."""
SEEDS = 3
FROM_START = 0.25
"""Share of the kills in a search or a confirm that come while it starts; the others once it has a worker."""
TURN = 10
"""Kills of one folder at most, and of each phase before the next has its turn."""
HIT = 0.5
"""Chance of a training to have its worker killed."""


@dataclass(frozen=True)
class Phase:
    """`words` make the command of a folder; `window` is the longest wait for a kill, as a share of the whole time."""

    name: str
    words: Callable[[Path], list[str]]
    study: str
    window: float
    check: Callable[[Path, Path], list[str]]
    copies: str = ""


def search_words(folder: Path, budget: int = BUDGET) -> list[str]:
    return ["search", "--backbone", "resnet8", "--task", f"{HERE / 'logged.py'}:Logged", "--budget", str(budget),
            "--space", str(folder.parent / "space.yaml"), "--epochs", "1", "--batch-size", "256", "--device", "cpu",
            "--workers", "1", "--keep-weights", "all", "--early-stopping", "false", "--quiet",
            "--out", str(folder)]  # fmt: skip


def confirm_words(folder: Path) -> list[str]:
    return ["confirm", str(folder), "--top", "1", "--seeds", str(SEEDS), "--quiet", "--trust"]


def export_words(folder: Path) -> list[str]:
    return ["export", str(folder), "--select", "reference", "--format", "safetensors", "--force", "--trust",
            "--to", str(folder / "exported")]  # fmt: skip


def report_words(folder: Path) -> list[str]:
    return ["report", str(folder), "--trust"]


def same_trainings(folder: Path, reference: Path, study: str) -> list[str]:
    """What differs in the trainings: each must have the value that it has where nothing was killed."""
    right = {t.training: t.value for t in trained(reference, study).values()}
    return [f"{t.training} is {t.value}" for t in trained(folder, study).values() if right.get(t.training) != t.value]


def search_differs(folder: Path, reference: Path) -> list[str]:
    rows = pd.read_csv(folder / "trials.csv")
    told = {n: t.key for n, t in trained(folder, "search").items()}
    paid = rows[rows["counts"]]
    wrong = [] if dict(zip(paid["trial"], paid["key"], strict=True)) == told else ["trials.csv has other rows"]
    return wrong + same_trainings(folder, reference, "search") + best_differs(folder)


def best_differs(folder: Path) -> list[str]:
    """Whether ``best/`` is whole, and the weights those of its trial."""
    record = json.loads((folder / "best" / "placement.json").read_text())
    weights = (folder / "best" / "model.safetensors").read_bytes()
    kept = (folder / "weights" / f"{record['trial']}.safetensors").read_bytes()
    told = trained(folder, "search").get(record["trial"])
    right = told is not None and told.key == record["key"] and weights == kept
    return [] if right and (folder / "report.html").read_text().rstrip().endswith("</html>") else ["best/ is broken"]


def confirm_differs(folder: Path, reference: Path) -> list[str]:
    one, other = (confirmed(path) for path in (folder, reference))
    wrong = [f"confirm.json: {name}" for name in other if one.get(name) != other[name]]
    return wrong + same_trainings(folder, reference, "confirm") + best_differs(folder)


def confirmed(folder: Path) -> dict[str, Any]:
    """What a confirm says, without what a time or the order of trainings decides."""
    said = json.loads(re.sub(r"\(trial \d+\)", "", (folder / "confirm.json").read_text()))
    for name in ("seconds", "seed_seconds", "started", "command"):
        said.pop(name)
    for network in said["networks"]:
        network.pop("trials")
    return said


def export_differs(folder: Path, reference: Path) -> list[str]:
    timed = ["proof.json", "README.md"]
    return [f"exported/{name}" for name in differing(folder / "exported", reference / "exported", timed)]


def report_differs(folder: Path, reference: Path) -> list[str]:
    whole = (folder / "front.svg").read_text().rstrip().endswith("</svg>")
    wrong = [] if whole else ["front.svg"]
    return wrong + differing(folder, reference, ["report.html"], kinds=("*.csv", "*.png")) + best_differs(folder)


def differing(one: Path, other: Path, times: list[str], kinds: tuple[str, ...] = ("*",)) -> list[str]:
    """Names of files that are not equal; those with times in them need only be there."""
    a, b = ({f.name: f for kind in kinds for f in path.glob(kind) if f.is_file()} for path in (one, other))
    missing = [name for name in times if not (one / name).is_file()]
    return missing + sorted(
        name for name in {*a, *b} - {*times}
        if name not in a or name not in b or _content(a[name]) != _content(b[name])
    )  # fmt: skip


def _content(file: Path) -> bytes:
    """Its content, but for the name of the run's folder."""
    return re.sub(rb"\b(unkilled-)?(export|report)(-\d+)?\b", b"", file.read_bytes())


PHASES = [
    Phase("search", search_words, "search", 1 / 3, search_differs),
    Phase("confirm", confirm_words, "confirm", 1 / 3, confirm_differs, copies="searched"),
    Phase("export", export_words, "search", 1.0, export_differs, copies="searched"),
    Phase("report", report_words, "search", 1.0, report_differs, copies="searched"),
]


@dataclass
class Work:
    """Where it is done, with the rows so far."""

    root: Path
    took: dict[str, float]

    def finish(self, words: list[str], folder: Path) -> None:
        """A command that nobody kills."""
        loaded = self.root / f"loaded-{words[0]}.txt"
        first = not loaded.is_file()
        command = Command(words, output=self.output(folder), loaded=loaded if first else None)
        if command.wait() != 0:
            sys.exit(self.output(folder).read_text()[-3000:])
        if first:
            learn_libraries(loaded)

    def output(self, folder: Path) -> Path:
        return self.root / f"{folder.name}.txt"

    @property
    def log(self) -> Path:
        return self.root / "log.txt"

    def prepare(self) -> None:
        """The references: a search of the whole space, and one of the budget with its confirm, export and report."""
        (self.root / "space.yaml").write_text(SPACE)
        self.finish(search_words(self.root / "whole", EVERY), self.root / "whole")
        if len(trained(self.root / "whole", "search")) != EVERY:
            sys.exit("the reference search has not trained the whole space")
        self.finish(report_words(self.root / "whole"), self.root / "whole")  # so that all is loaded when it is timed
        for phase in PHASES:
            folder = self.root / f"unkilled-{phase.name}"
            if phase.copies:
                shutil.copytree(self.root / phase.copies, folder)
            began = time.monotonic()
            self.finish(phase.words(folder), folder)
            self.took[phase.name] = time.monotonic() - began
            if phase.name == "search":
                folder.rename(self.root / "searched")
        print("unkilled, seconds:", {name: round(seconds, 1) for name, seconds in self.took.items()}, flush=True)


def kill_driver(work: Work, phase: Phase, index: int, most: int) -> list[dict[str, Any]]:
    """A folder whose driver is killed until the command ends before its kill comes; at most so many times."""
    random_numbers = random.Random(f"{phase.name} {index}")
    folder, rows = work.root / f"{phase.name}-{index}", []
    if phase.copies:
        shutil.copytree(work.root / phase.copies, folder)
    before = trained(folder, phase.study)
    while len(rows) < most:
        starting = phase.window == 1 or random_numbers.random() < FROM_START
        wait = random_numbers.uniform(0, phase.window * work.took[phase.name])
        command = Command(phase.words(folder), output=work.output(folder), own_server=starting)
        while not starting and command.running and not workers():
            time.sleep(0.02)
        end = time.monotonic() + wait
        while command.running and time.monotonic() < end:
            time.sleep(0.005)
        if not command.running:
            if command.code != 0:
                sys.exit(f"{folder.name} failed:\n{work.output(folder).read_text()[-3000:]}")
            if phase.window < 1:
                break
            continue  # an export or a report is done again as often as it takes
        orphans = command.kill()
        after = trained(folder, phase.study)
        lost = sum(after.get(number) != told for number, told in before.items())
        rows.append({"phase": phase.name, "folder": index, "kill": len(rows), "from": "start" if starting else "worker",
                     "wait": round(wait, 3), "before": len(before), "after": len(after), "lost": lost,
                     "orphans": orphans})  # fmt: skip
        before = after
    work.finish(phase.words(folder), folder)
    return rows


def kill_workers(work: Work, phase: Phase, index: int, most: int) -> list[dict[str, Any]]:
    """A search whose workers are killed in training, each training with a chance of `HIT`; at most so many."""
    random_numbers = random.Random(f"workers {index}")
    folder, rows, seen = work.root / f"worker-{index}", [], 0
    usual = 0.4
    command = Command(search_words(folder), output=work.output(folder))
    while command.running:
        lines = log_lines(work.log)
        begun = [line for line in lines if line[0] == "begin"]
        if len(begun) == seen:
            time.sleep(0.005)
            continue
        seen += 1
        pid = int(begun[seen - 1][1])
        if len(rows) == most or random_numbers.random() >= HIT:
            continue
        wait = random_numbers.uniform(0, usual)
        time.sleep(wait)
        ended = sum(line[0] == "end" for line in log_lines(work.log))
        if not command.running or not _killed(pid):
            continue
        rows.append({"phase": "worker", "folder": index, "kill": len(rows), "from": "training", "wait": round(wait, 3),
                     "before": len(trained(folder, "search")), "after": ended, "lost": 0, "orphans": 0})  # fmt: skip
    if command.code != 0:
        sys.exit(f"{folder.name} failed:\n{work.output(folder).read_text()[-3000:]}")
    return rows


def _killed(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def outcome(work: Work, phase: Phase, name: str, index: int, kills: int) -> dict[str, Any]:
    """What the folder is, compared with one in which nothing was killed."""
    folder = work.root / f"{name}-{index}"
    reference = work.root / ("whole" if phase.name == "search" else f"unkilled-{phase.name}")
    paid = trained(folder, phase.study)
    planned = len(trained(reference, phase.study)) if phase.name == "confirm" else BUDGET
    counts = Counter(t.training for t in paid.values())
    told = trials(folder, phase.study).values()
    wrong = phase.check(folder, reference)
    left = leftovers(folder)
    return {
        "phase": name, "folder": index, "kills": kills, "planned": planned, "trained": len(paid),
        "missing": planned - len(paid), "twice": sum(n - 1 for n in counts.values()),
        "ended_twice": ended_twice(work.log),
        "interrupted": sum(t.state == "failed" and t.reason == "interrupted" for t in told),
        "failed": sum(t.state == "failed" and "SIGKILL" in t.reason for t in told),
        "unfinished": sum(t.state == "running" for t in told), "wrong": "; ".join(wrong), "left": " ".join(left),
        "commit": commit(), "versions": " ".join(f"{k}-{v}" for k, v in versions().items()),
    }  # fmt: skip


def rows_of(file: Path) -> pd.DataFrame:
    return pd.read_csv(file, keep_default_na=False) if file.is_file() else pd.DataFrame({"phase": [], "folder": []})


def work_through(kills: int, root: Path) -> None:
    """Kill until each phase has its number, by turns; the rows of a folder are written when it is done."""
    work = Work(root, {})
    load_libraries(work.log)
    work.prepare()
    search, *others = PHASES
    for goal in [*range(TURN, kills, TURN), kills]:
        fill(work, search, "worker", 2 * goal)
        for phase in (*others, search):
            fill(work, phase, phase.name, goal)


def fill(work: Work, phase: Phase, name: str, goal: int) -> None:
    """Kill until there are so many rows of this name."""
    for index in itertools.count():
        runs = rows_of(RUNS)
        runs = runs[runs["phase"] == name]
        left = goal - (int(runs["kills"].sum()) if len(runs) else 0)
        if left <= 0:
            return
        if index in set(runs["folder"]):
            continue
        work.log.unlink(missing_ok=True)
        rows = (kill_workers if name == "worker" else kill_driver)(work, phase, index, min(left, TURN))
        row = outcome(work, phase, name, index, len(rows))
        for file, new in ((KILLS, rows), (RUNS, [row])):
            pd.DataFrame(new).to_csv(file, mode="a", header=not file.is_file(), index=False)
        print({k: v for k, v in row.items() if k not in ("versions", "commit")}, flush=True)
        if not row["wrong"] and not row["left"]:
            shutil.rmtree(work.root / f"{name}-{index}")


def table() -> str:
    """One line for each phase, in Markdown."""
    kills, runs = rows_of(KILLS), rows_of(RUNS)
    lines = ["| killed in | kills | folders | lost | trained twice | missing from the budget | begun again | "
             "other than unkilled | leftovers | processes left |", "|---" * 10 + "|"]  # fmt: skip
    for name in dict.fromkeys(runs["phase"]):
        own, done = kills[kills["phase"] == name], runs[(runs["phase"] == name) & (runs["kills"] > 0)]
        again = int(done["failed" if name == "worker" else "interrupted"].sum())
        cells = [name, len(own), len(done), own["lost"].sum(), done["twice"].sum(), done["missing"].abs().sum(), again,
                 (done["wrong"] != "").sum(), (done["left"] != "").sum(), own["orphans"].sum()]  # fmt: skip
        lines.append(f"| {' | '.join(str(cell) for cell in cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="in each of the four phases; of workers twice as many")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--keep", help="folder to work in; those with a fault stay there")
    arguments = parser.parse_args()
    if not arguments.table:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(arguments.keep or folder)
            root.mkdir(parents=True, exist_ok=True)
            work_through(arguments.kills, root)
    print(table())


if __name__ == "__main__":
    main()
