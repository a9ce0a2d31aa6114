"""All trainings of this experiment, in the real training function of se-nas, one after the other in one process.

    python experiments/gate_start/run.py rates PATH          # which peak rate each network gets: rates.csv
    python experiments/gate_start/run.py trainings PATH      # the design of the README: trainings.csv

`PATH` holds CIFAR-10 as images in class folders below ``train/``. Every training is a row that is written when it ends;
repeat the command to continue where it stopped. `--minutes` ends it after so much processor time.
"""

from __future__ import annotations

import argparse
import csv
import functools
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from se_nas.core.config import SearchConfig
from se_nas.core.files import weights_file
from se_nas.core.serialization import to_json
from se_nas.core.trial import Precision, Recipe, Result, Target, Verdict
from se_nas.engine.problem import Problem, prepare
from se_nas.training.evaluate import evaluate

HERE = Path(__file__).parent
METRIC = "val_accuracy"


@dataclass(frozen=True, kw_only=True)
class Network:
    """A backbone, and the number that its first seed is above those of the network before."""

    backbone: str
    first_seed: int
    precision: Precision = "bf16"
    """bf16 where it is faster on the processor that this ran on."""
    lr: float = 0.1
    """Chosen by `rates` without SE."""


NETWORKS = {
    "resnet8": Network(backbone="resnet8", first_seed=100, lr=0.3),
    "bagnet8": Network(backbone="bagnet8", first_seed=200),
    "mobilenet": Network(backbone=f"{HERE / 'chain.py'}:mobilenet", first_seed=300, precision="32", lr=0.3),
}
SEEDS = {8: 10, 24: 8}
"""Epochs -> seeds of each network."""
IMAGES = {"train": 400, "val": 400}
"""Of each class."""
BATCH = 64
"""Images per step: 4,000 images are 63 steps an epoch. All else is the default recipe."""
RATES, RATE_SEED, RATE_EPOCHS = (0.1, 0.3, 1.0), 99, 8
SPACES = {"plain": "{init: plain}", "identity": "{init: identity}"}
"""Start of the gates -> search space."""
ARMS = (("none", ""), *((f"all:{r}", start) for r in (16, 4) for start in SPACES))
"""Placement, start of its gates."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One training."""

    network: str
    epochs: int
    placement: str
    start: str
    """Of the gates; empty without SE."""
    seed: int
    lr: float

    @property
    def name(self) -> tuple[str, ...]:
        """As its row has it."""
        return tuple(str(value) for value in vars(self).values())


def trainings() -> Iterator[Cell]:
    """The design: one seed of everything after the other, so that an unfinished table is balanced."""
    for index in range(max(SEEDS.values())):
        for epochs, seeds in SEEDS.items():
            for name, network in NETWORKS.items() if index < seeds else ():
                for placement, start in ARMS:
                    yield Cell(network=name, epochs=epochs, placement=placement, start=start,
                               seed=network.first_seed + index, lr=network.lr)  # fmt: skip


def rates() -> Iterator[Cell]:
    """One training without SE of each network at each rate, with a seed that is used for nothing else."""
    for name in NETWORKS:
        for lr in RATES:
            yield Cell(network=name, epochs=RATE_EPOCHS, placement="none", start="", seed=RATE_SEED, lr=lr)


def missing(cells: Iterator[Cell], done: Collection[tuple[str, ...]]) -> list[Cell]:
    """The trainings that have no row yet, in their order."""
    return [cell for cell in cells if cell.name not in done]


def read_rows(file: Path) -> list[dict[str, str]]:
    """The rows of a table, as text; none if it is not there."""
    if not file.is_file():
        return []
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def name_of(row: Mapping[str, str]) -> tuple[str, ...]:
    """`Cell.name` of a row."""
    return tuple(row[field] for field in Cell.__dataclass_fields__)


class Silent:
    """A channel to nobody."""

    def report(self, epoch: int, metrics: Mapping[str, float]) -> Verdict:
        return "continue"


@functools.cache
def problem_of(network: str, start: str, epochs: int, lr: float, path: Path, folder: Path) -> Problem:
    """A search that would train this network with gates of this start."""
    given = NETWORKS[network]
    return prepare(
        SearchConfig(
            backbone=Target(target=given.backbone),
            data=Target(target=f"{HERE / 'images.py'}:few", args={"path": str(path.resolve()), **IMAGES}),
            space=SPACES[start or "plain"],
            train=Recipe(epochs=epochs, batch_size=BATCH, lr=lr, precision=given.precision),
            device="cpu",
            workers=1,
        ),
        folder,
    )


def train(cell: Cell, path: Path, folder: Path, number: int) -> tuple[dict[str, str], Result]:
    """Train one cell with `se_nas.training.evaluate.evaluate`, one thread; its row and its result."""
    problem = problem_of(cell.network, cell.start, cell.epochs, cell.lr, path, folder)
    placement = problem.space.parse(cell.placement)
    trial = problem.trial(placement, owner="gate_start", role="", attempts=1, seed=cell.seed)
    begin = time.process_time()
    result = evaluate(problem.request(replace(trial, number=number), folder), Silent())
    if result.state != "complete":
        raise SystemExit(f"{cell}: {result.reason}")
    weights_file(folder, number).unlink()
    row = dict(zip(Cell.__dataclass_fields__, cell.name, strict=True)) | {
        METRIC: f"{result.metrics[METRIC].value:.5f}",
        "curve": " ".join(f"{epoch.metrics[METRIC]:.4f}" for epoch in result.curve),
        "key": placement.key,
        "precision": problem.precision,
        "images": f"{problem.data.train} {problem.data.val}",
        "data": problem.data.checksum,
        "cpu_seconds": f"{time.process_time() - begin:.1f}",
        "seconds": f"{result.seconds:.1f}",
        "device": result.device,
        "versions": to_json(result.versions).decode(),
        "commit": result.commit,
    }
    return row, result


def append(file: Path, row: Mapping[str, str]) -> None:
    """Write one more row, with the head if it is the first."""
    new = not file.is_file()
    with file.open("a", newline="") as stream:
        writer = csv.DictWriter(stream, row, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)


DESIGNS = {"rates": rates, "trainings": trainings}


def main() -> int:
    """0 when all is trained, 1 when the time is up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=DESIGNS)
    parser.add_argument("path", type=Path)
    parser.add_argument("--runs", type=Path, default=Path("runs/gate_start"))
    parser.add_argument("--minutes", type=float, default=70.0, help="processor time of all rows together")
    given = parser.parse_args()
    file = HERE / f"{given.what}.csv"
    rows = read_rows(file)
    spent = sum(float(row["cpu_seconds"]) for row in rows)
    left = missing(DESIGNS[given.what](), {name_of(row) for row in rows})
    for number, cell in enumerate(left, start=len(rows)):
        if spent > 60 * given.minutes:
            print(f"the time is up; {len(left) + len(rows) - number} trainings are missing")
            return 1
        row, _ = train(cell, given.path, given.runs, number)
        append(file, row)
        spent += float(row["cpu_seconds"])
        print(*cell.name, row[METRIC], row["cpu_seconds"], flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
