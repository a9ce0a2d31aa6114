"""How does the gain of SE grow with the schedule, and when does a short one rank placements as the full one does?

    python experiments/epochs/run.py --cifar10 FOLDER        # trainings.csv; goes on where it was stopped
    python experiments/epochs/run.py --table                 # gains.md, ranks.md

Eight placements (SE or none in each of three stages) of two networks at 4, 8, 16, 32 and 64 epochs, with the same seeds
everywhere; SE everywhere with the plain start of the gates, too. Trained by `se-nas confirm --finalists --epochs`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from scipy import stats

HERE = Path(__file__).parent
FILE = HERE / "trainings.csv"
NETWORKS, EPOCHS, SEEDS = ("resnet8", "bagnet8"), (4, 8, 16, 32, 64), 4
ON = [
    [f"stage{number}=16" for number in chosen]
    for size in (1, 2, 3)
    for chosen in itertools.combinations((1, 2, 3), size)
]
STARTS = {"identity": [",".join(stages) for stages in ON], "plain": ["stage1=16,stage2=16,stage3=16"]}
"""Start of the gates -> placements, beside no SE."""
SAMPLES = 2000
"""Of the bootstrap over seeds."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cifar10")
    parser.add_argument("--runs", type=Path, default=Path("runs/epochs"))
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    if not given.table:
        for epochs, network, start in itertools.product(EPOCHS, NETWORKS, STARTS):
            train(network, start, epochs, given.runs, given.cifar10)
    rows = pd.read_csv(FILE)
    (HERE / "gains.md").write_text(gains(rows))
    (HERE / "ranks.md").write_text(ranks(rows))
    print(gains(rows), ranks(rows), sep="\n")


def train(network: str, start: str, epochs: int, runs: Path, cifar10: str) -> None:
    """The networks of one schedule, as rows."""
    rows = pd.read_csv(FILE) if FILE.is_file() else pd.DataFrame()
    if len(rows) and ((rows["network"] == network) & (rows["start"] == start) & (rows["epochs"] == epochs)).any():
        return
    out = runs / f"{network}-{start}"
    runs.mkdir(parents=True, exist_ok=True)
    images = {"path": cifar10, "size": 16, "train": 100, "val": 50}
    config = runs / f"{out.name}.yaml"
    config.write_text(yaml.safe_dump({
        "backbone": network, "data": {"target": str(HERE.parent / "gate_start" / "images.py:few"), "args": images},
        "space": f"{{decide: stage, reductions: [none, 16], init: {start}}}", "budget": 1, "workers": 1,
        "train": {"epochs": 4, "batch_size": 64}, "out": str(out),
    }))  # fmt: skip
    command("search", "--config", str(config), "--quiet")
    more = ["--seeds", str(SEEDS), "--epochs", str(epochs), "--json", "--finalists", *STARTS[start]]
    found = json.loads(command("confirm", str(out), *more))
    new = [
        {"network": network, "start": start, "epochs": epochs, "placement": one["label"], "seed": seed, "test": value,
         "device": found["device"], "torch": found["versions"]["torch"], "commit": found["commit"]}
        for one in found["networks"]
        for seed, value in one["test"]["values"].items()
    ]  # fmt: skip
    pd.concat([rows, pd.DataFrame(new)]).to_csv(FILE, index=False)
    print(network, start, epochs, f"{found['seconds']:.0f} s", flush=True)


def command(*arguments: str) -> str:
    done = subprocess.run([sys.executable, "-m", "se_nas.cli", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"se-nas {' '.join(arguments)}:\n{done.stderr}")
    return done.stdout


def wide(rows: pd.DataFrame, network: str, start: str, epochs: int) -> pd.DataFrame:
    """Test accuracy in points, a row for each seed and a column for each placement."""
    own = rows[(rows["network"] == network) & (rows["start"] == start) & (rows["epochs"] == epochs)]
    return 100 * own.pivot(index="seed", columns="placement", values="test")


def gains(rows: pd.DataFrame) -> str:
    """SE everywhere minus no SE, with the 90 % interval of t over pairs."""
    lines = [
        "| network | start of the gates | " + " | ".join(f"{e} epochs" for e in EPOCHS) + " |",
        "|" + "---|" * (2 + len(EPOCHS)),
    ]
    for network, start in itertools.product(NETWORKS, STARTS):
        cells = []
        for epochs in EPOCHS:
            table = wide(rows, network, start, epochs)
            if table.empty:
                cells.append("")
                continue
            d = table[everywhere(table)] - table["none"]
            half = stats.t.ppf(0.95, len(d) - 1) * stats.sem(d)
            cells.append(f"{d.mean():+.2f} ({d.mean() - half:+.2f} to {d.mean() + half:+.2f})")
        lines.append(f"| {network} | {start} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def everywhere(table: pd.DataFrame) -> str:
    """The column of the placement with SE in all stages, whatever its label is."""
    return max((c for c in table if c != "none"), key=lambda c: (c.startswith("all:"), c.count("=16")))


def ranks(rows: pd.DataFrame) -> str:
    """Rank correlation of the means of eight placements with those at the full schedule, bootstrapped over seeds.

    The last column correlates the full schedule with itself on other seeds: what noise alone leaves.
    """
    full = EPOCHS[-1]
    lines = ["| network | " + " | ".join(f"{e} epochs" for e in EPOCHS[:-1]) + f" | {full} epochs, other seeds |"]
    lines.append("|" + "---|" * (1 + len(EPOCHS)))
    for network in NETWORKS:
        last = wide(rows, network, "identity", full)
        if last.empty:
            continue
        cells = []
        for epochs in EPOCHS:
            first = wide(rows, network, "identity", epochs).loc[last.index, last.columns]
            found = [spearman(first, last, np.random.default_rng(k)) for k in range(SAMPLES)]
            low, middle, high = np.quantile(found, [0.05, 0.5, 0.95])
            cells.append(f"{middle:+.2f} ({low:+.2f} to {high:+.2f})")
        lines.append(f"| {network} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def spearman(first: pd.DataFrame, last: pd.DataFrame, generator: np.random.Generator) -> float:
    """Of the means over some seeds at one schedule and over the other seeds at the full one: no luck in common."""
    order = generator.permutation(len(last))
    half = len(last) // 2
    a, b = first.iloc[order[:half]].mean(), last.iloc[order[half:]].mean()
    return float(stats.spearmanr(a, b).statistic)


if __name__ == "__main__":
    main()
