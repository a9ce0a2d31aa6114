"""Rules that need no search beside searches of the table of all placements: is searching worth its trainings?

    python experiments/cifar100/replay_rules.py --version cpu --repeats 50

Each search sees the trainings of one seed; what it recommends is judged by the other seeds, and so are the rules of
`se_nas.space.fixed_rules`, which see nothing. Writes rules.csv into the folder of results: one row for each rule and
for known-cost after 10, 20 and 50 trainings, with the gain vs. no SE and its 90 % interval.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
from landscape import HERE, Array, Table, read_table, seed_noise
from replay import CHECKS, SHAPES, recommended_of, splits
from scipy.stats import t

from peers import PEERS  # isort: skip
from play import Judge, play  # isort: skip

from se_nas.backbones.build import build_backbone
from se_nas.core.trial import Target
from se_nas.insertion.discover import find_units
from se_nas.space.fixed_rules import fixed_rules
from se_nas.space.space import Space
from se_nas.space.spec import read_space


def rule_places(table: Table, version: str) -> dict[str, int]:
    """Names of the rules that give it -> position of a placement in the table."""
    backbone, shape = SHAPES[version]
    input_shape = (shape[0], shape[1], shape[2])
    model = build_backbone(Target(target=backbone), num_classes=100, input_shape=input_shape, seed=0)
    space = Space(read_space("stagewise"), find_units(model, input_shape))
    return {"; ".join(rule.names): table.keys.index(rule.placement.key) for rule in fixed_rules(space)}


def searched_shares(table: Table, repeats: int, offset: int) -> dict[int, dict[int, Array]]:
    """Trainings -> replayed seed -> share of the searches that recommend each of the ``n`` placements."""
    shares: dict[int, dict[int, Array]] = {n: {} for n in CHECKS}
    for seed, truth, _, noise in splits(table):
        landscape, seen = table.landscape(f"seed {seed}", truth, noise), table.finals(seed)
        for n in CHECKS:
            shares[n][seed] = np.zeros(len(truth))
        for number in range(offset, offset + repeats):
            codes, values = play(
                landscape,
                PEERS["known-cost"](landscape, number),
                max(CHECKS),
                lambda _, code, seen=seen: float(seen[table.index(code[None])[0]]),
            )
            for n in CHECKS:
                posterior, candidates, *_ = Judge(landscape)(codes[:n], values[:n])
                shares[n][seed][table.index(recommended_of(posterior, candidates)[None])[0]] += 1 / repeats
    return shares


def gain_row(table: Table, shares: Mapping[int, Array]) -> dict[str, float]:
    """Mean gain of placements, chosen with these shares by each seed, on the other seeds, with its 90 % interval.

    The interval has the noise of the trainings that judge: placements and no SE are weighted sums of independent
    values with the standard deviation `seed_noise`, whose degrees of freedom it takes.
    """
    seeds = list(shares)
    finals = np.array([table.finals(seed) for seed in seeds]).T
    weights = np.zeros_like(finals)  # of each training in the mean gain
    for i, seed in enumerate(seeds):
        others = [j for j in range(len(seeds)) if j != i]
        contrast = shares[seed] - (np.arange(len(finals)) == 0)
        weights[:, others] += contrast[:, None] / len(others) / len(seeds)
    gain = float((weights * finals).sum())
    spread = seed_noise(finals) * float(np.sqrt((weights**2).sum()))
    reach = spread * float(t.ppf(0.95, (len(finals) - 1) * (len(seeds) - 1)))
    return {"gain": gain, "lower": gain - reach, "upper": gain + reach}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", choices=SHAPES, default="cpu")
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--offset", type=int, default=0)
    given = parser.parse_args()
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    folder: Path = HERE / f"results-{given.version}"
    table = read_table(folder)
    each = np.eye(len(table.keys))
    rows: list[dict[str, Any]] = []
    for name, place in rule_places(table, given.version).items():
        rows.append({"what": name, "trainings": 0, "recommends_se": 1.0,
                     **gain_row(table, dict.fromkeys(table.complete(), each[place]))})  # fmt: skip
    for n, shares in searched_shares(table, given.repeats, given.offset).items():
        se = 1 - min(1.0, float(np.mean([share[0] for share in shares.values()])))
        rows.append({"what": "known-cost", "trainings": n, "recommends_se": se, **gain_row(table, shares)})
    written = pd.DataFrame(rows)
    written.to_csv(folder / "rules.csv", index=False, float_format="%.4f")
    print(written.round(2).to_string(index=False))


if __name__ == "__main__":
    main()
