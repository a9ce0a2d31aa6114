"""How many more trainings does a space of three blocks need than one of SE alone? simulated.csv.

python experiments/blocks/simulate.py [--landscapes 40]

Four stages, each with a reduction (none, 16, 8, 4) and, with three blocks, a block. What a stage gains from any gate
has sd 0.5 points around 0.3, and a reduction changes it by a tenth; a block differs from the others by sd 0.15 in all
stages and 0.05 in each; interactions of two stages have sd 0.1. One training is noisy by 0.3 points. Trained are
``n`` random placements, no two alike; taken is the one of the highest model estimate among all placements, and
``lost`` is what it gains less than the best. ``covered``: how many of the 90 % intervals of trained placements hold.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import numpy as np
import pandas as pd

from se_nas.samplers.features import Features
from se_nas.samplers.posterior import fit

FILE = Path(__file__).parent / "simulated.csv"
STAGES, WIDTHS = 4, (None, 16.0, 8.0, 4.0)
BLOCKS = ("se", "eca", "cbam")
NOISE, BASE = 0.3, 70.0
NUMBERS = (10, 20, 30, 50)


def placements(blocks: int) -> np.ndarray:
    """Codes of all different placements: (reduction, block) stage by stage; without a block its name is the first."""
    each = [(0, 0), *itertools.product(range(1, len(WIDTHS)), range(blocks))]
    return np.array([sum(parts, ()) for parts in itertools.product(each, repeat=STAGES)])


def gains(codes: np.ndarray, blocks: int, rng: np.random.Generator) -> np.ndarray:
    """True gains over no SE, in points."""
    stage = rng.normal(0.3, 0.5, STAGES)
    width = rng.normal(0.0, 0.05, (STAGES, len(WIDTHS)))
    block = rng.normal(0.0, 0.15, (1, len(BLOCKS))) + rng.normal(0.0, 0.05, (STAGES, len(BLOCKS)))
    block = block[:, :blocks] if blocks > 1 else np.zeros((STAGES, 1))
    pair = rng.normal(0.0, 0.1, (STAGES, STAGES))
    on = codes[:, ::2] > 0
    total = np.zeros(len(codes))
    for s in range(STAGES):
        total += on[:, s] * (stage[s] + width[s, codes[:, 2 * s]] + block[s, codes[:, 2 * s + 1]])
        for other in range(s):
            total += pair[s, other] * (on[:, s] & on[:, other])
    return total


def one(number: int, blocks: int, *, shared: bool) -> list[dict[str, float]]:
    """The shares that a landscape gives after each number of trainings; without `shared` as if names were not."""
    rng = np.random.default_rng([number, blocks])
    codes = placements(blocks)
    truth = gains(codes, blocks, rng)
    order = rng.permutation(len(codes))[: max(NUMBERS)]
    values = BASE + truth[order] + rng.normal(0.0, NOISE, len(order))
    used = codes if blocks > 1 else codes[:, ::2]
    meanings = [WIDTHS, BLOCKS[:blocks]] * STAGES if blocks > 1 else [WIDTHS] * STAGES
    features = Features(meanings, share_names=shared)
    rows = []
    for n in NUMBERS:
        found = fit(features, used[order[:n]], values[:n])
        mean, _ = found.predict(used)
        trained = order[:n]
        centre, sd = found.predict(used[trained])
        covered = np.abs(BASE + truth[trained] - centre) <= 1.645 * sd
        best = truth.max()
        rows.append({"landscape": number, "blocks": blocks, "shared": int(shared), "trainings": n, "best": best,
                     "lost": best - truth[int(mean.argmax())], "covered": float(covered.mean())})  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--landscapes", type=int, default=40)
    given = parser.parse_args()
    ways = [(1, True), (3, False), (3, True)]
    rows = [row for k in range(given.landscapes) for blocks, shared in ways for row in one(k, blocks, shared=shared)]
    table = pd.DataFrame(rows)
    table.to_csv(FILE, index=False, float_format="%.5g")
    groups = table.groupby(["blocks", "shared", "trainings"])[["best", "lost", "covered"]]
    print(groups.agg(["mean", "sem"]).round(3).to_string())


if __name__ == "__main__":
    main()
