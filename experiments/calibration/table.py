"""All placements of resnet20 on the digits, each trained several times, by the product's own exhaustive search.

    python experiments/calibration/table.py                  # eight searches: 512 trainings; goes on where it stopped
    python experiments/calibration/table.py --searches 10

The network, the images and the recipe are those of the default command (`experiments/digits.yaml`). Each search trains
everything once, each network with a seed of its own. ``digits.csv`` gets one row for each training.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from se_nas.commands.search import search
from se_nas.core.config import SearchConfig
from se_nas.core.trial import Recipe, Target

HERE = Path(__file__).parent
FILE = HERE / "digits.csv"
EPOCHS = 10
#: The start of the gates is part of the table, whatever the default is now.
SPACE = "{init: identity}"
METRIC = "val_accuracy"


def trained(number: int, runs: Path) -> pd.DataFrame:
    """One row for each placement: what the trainings of one search gave."""
    result = search(
        SearchConfig(
            backbone=Target(target="resnet20"),
            data=Target(target="digits"),
            space=SPACE,
            sampler=Target(target="exhaustive"),
            train=Recipe(epochs=EPOCHS),
            budget=10**4,
            seed=number,
            workers=1,
            out=str(runs / f"digits-{number}"),
        )
    )
    rows = result.trials[result.trials["state"] == "complete"]
    kept = ["placement", "params", "macs", "seed", "epochs", METRIC, "seconds", "device", "commit"]
    return rows[kept].assign(search=number)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--searches", type=int, default=8)
    parser.add_argument("--runs", type=Path, default=Path("runs/calibration"))
    given = parser.parse_args()
    tables = [pd.read_csv(FILE)] if FILE.is_file() else []
    done = set(tables[0]["search"]) if tables else set[int]()
    for number in sorted(set(range(given.searches)) - done):
        tables.append(trained(number, given.runs))
        pd.concat(tables).to_csv(FILE, index=False, float_format="%.6g", lineterminator="\n")
        values = np.asarray(tables[-1][METRIC])
        print(f"search {number}: {len(values)} placements, {values.min():.4f} to {values.max():.4f}", flush=True)


if __name__ == "__main__":
    main()
