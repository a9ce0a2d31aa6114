"""Rules that need no search beside searches, on landscapes with known truth: is searching worth its trainings?

    python experiments/sampler_benchmark/rules.py score
    python experiments/sampler_benchmark/rules.py at-cost --repeats 50
    python experiments/sampler_benchmark/rules.py table

``score`` writes rules.csv: each rule of `se_nas.space.fixed_rules` on each landscape, scored like a search that
recommends no SE and, at its cost, the rule. ``at-cost`` writes at_cost.csv: the true gain of what known-cost recommends
for no more than the cost of each rule, in searches of its own. ``table`` prints both beside summary.csv, as README.md
has them.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
from landscapes import (
    RESNET50,
    Landscape,
    benchmark,
    best_score,
    by_block,
    cost_tables,
    score,
    share,
    true_front,
)
from peers import PEERS
from play import Judge, simulate

from se_nas.core.placement import Site, Unit
from se_nas.space.fixed_rules import fixed_rules
from se_nas.space.space import Space
from se_nas.space.spec import read_space

HERE = Path(__file__).parent
CHECKS = (10, 20, 50)
TOLD = 1.645
"""Standard errors that a search must be ahead of a rule, or behind it, on average to be called so."""
SHORT = {
    "SE everywhere": "everywhere",
    "all stages but the last (SE paper)": "all but last",
    "only the early stages": "early",
    "only the late stages (EfficientNetV2)": "late",
    "only the widest layers (Composer)": "widest",
}
"""Rules as they are called in the tables."""


def space_of(landscape: Landscape) -> Space:
    """The landscape's decisions as a space of the package; its levels are those of the landscape."""
    stages = {channels: f"stage{i}" for i, (channels, _, _) in enumerate(RESNET50, start=1)}
    shapes = (list(RESNET50), by_block(RESNET50, 2 * len(RESNET50)), by_block(RESNET50))
    decisions = next(shape for shape in shapes if len(shape) == landscape.decisions)
    if not np.array_equal(cost_tables(decisions, landscape.reductions)[0], landscape.params):
        raise ValueError(f"{landscape.name} is of another backbone")
    units = []
    for j, (channels, side, _) in enumerate(decisions):
        name = f"d{j:02d}"
        site = Site(unit=name, position="standard", module=name, channels=channels, size=(side, side))
        units.append(Unit(name=name, stage=stages[channels], sites=(site,)))
    reductions = ["none" if r is None else r for r in landscape.reductions]
    return Space(read_space({"decide": "unit", "reductions": reductions}), units)


def rules_of(landscape: Landscape) -> dict[str, np.ndarray]:
    """Short name of each rule -> its codes, ``1 x d``."""
    space = space_of(landscape)
    if list(space.parameters) != list(landscape.space):
        raise ValueError("the parameters of the space are not those of the landscape")
    found = {}
    for rule in fixed_rules(space):
        levels = space.find(rule.placement) or {}
        codes = np.array([[levels[name] for name in space.parameters]])
        found |= {SHORT[name]: codes for name in rule.names}
    return found


def rule_score(landscape: Landscape, codes: np.ndarray, best: float) -> float:
    """The score of whoever ships no SE below the cost of the rule, and the rule from there on, whatever it does."""
    both = np.concatenate([0 * codes, codes])
    return share(landscape, score(landscape, both, np.array([0.0, 1.0])), best)


def best_gain(landscape: Landscape, cost: float) -> float:
    """The largest true gain for no more than a cost."""
    costs, gains = true_front(landscape)
    return float(gains[costs <= cost + 1e-9].max())


def command_score(_: argparse.Namespace) -> None:
    rows = []
    for landscape in benchmark():
        best = best_score(landscape)
        for name, codes in rules_of(landscape).items():
            cost = float(landscape.costs(codes)[0])
            rows.append({
                "landscape": landscape.name, "rule": name, "weights": cost, "gain": float(landscape.gain(codes)[0]),
                "best_gain": best_gain(landscape, cost), "score": rule_score(landscape, codes, best),
            })  # fmt: skip
    pd.DataFrame(rows).to_csv(HERE / "rules.csv", index=False, float_format="%.4f")


def gains_at(landscape: Landscape, front: np.ndarray, claims: np.ndarray, cost: float) -> float:
    """The true gain of the recommended placement that claims most among those that cost no more."""
    within = np.flatnonzero(landscape.costs(front) <= cost + 1e-9)
    return float(landscape.gain(front[within[np.argmax(claims[within])]][None])[0])


def command_at_cost(args: argparse.Namespace) -> None:
    rows: list[dict[str, Any]] = []
    for landscape in benchmark():
        judge, rules = Judge(landscape), rules_of(landscape)
        for seed in range(args.offset, args.offset + args.repeats):
            codes, values = simulate(landscape, PEERS["known-cost"](landscape, seed), max(CHECKS), seed)
            for n in CHECKS:
                _, candidates, members, claims = judge(codes[:n], values[:n])
                for name, rule in rules.items():
                    gain = gains_at(landscape, candidates.codes[members], claims, float(landscape.costs(rule)[0]))
                    rows.append({"landscape": landscape.name, "seed": seed, "trials": n, "rule": name, "gain": gain})
        print(landscape.name, flush=True)
    grouped = pd.DataFrame(rows).groupby(["landscape", "rule", "trials"], sort=False)["gain"]
    grouped.agg(["mean", "sem", "count"]).to_csv(HERE / "at_cost.csv", float_format="%.4f")


def marked(mean: float, sem: float, rule: float) -> str:
    """The mean of a search, with ``-`` where it is behind the rule and ``=`` where it is not told from it."""
    ahead = mean - rule
    return f"{mean:.2f}" + ("" if ahead > TOLD * sem + 1e-6 else " -" if ahead < -TOLD * sem - 1e-6 else " =")


def command_table(_: argparse.Namespace) -> None:
    rules = pd.read_csv(HERE / "rules.csv").pivot(index="landscape", columns="rule", values="score")
    table = pd.read_csv(HERE / "summary.csv")
    known = table[(table["judge"] == "posterior") & (table["peer"] == "known-cost")].set_index(["landscape", "trials"])
    names = [landscape.name for landscape in benchmark()]
    short = list(SHORT.values())
    print("| landscape | " + " | ".join(short) + " | " + " | ".join(f"{n} trainings" for n in CHECKS) + " |")
    print("|---" * (len(short) + len(CHECKS) + 1) + "|")
    for name in names:
        row, best = rules.loc[name, short], rules.loc[name, short].max()
        cells = [f"**{v:.2f}**" if v == best else f"{v:.2f}" for v in row]
        cells += [marked(*known.loc[(name, n), ["mean", "sem"]], best) for n in CHECKS]
        print(f"| `{name}` | " + " | ".join(cells) + " |")
    gainful = [name for name in names if name not in ("hurts-4", "no-effect-4")]
    mean = [f"{rules.loc[gainful, rule].mean():.2f}" for rule in short]
    mean += [f"{known.loc[[(name, n) for name in gainful], 'mean'].mean():.2f}" for n in CHECKS]
    print("| mean of the ten with a gain | " + " | ".join(mean) + " |\n")

    if (HERE / "at_cost.csv").is_file():
        print_gains(names, short)


def print_gains(names: list[str], rules: list[str]) -> None:
    """True gain of each rule, of the searches for no more than its cost, and the largest there is for that cost."""
    gains = pd.read_csv(HERE / "rules.csv").set_index(["landscape", "rule"])
    found = pd.read_csv(HERE / "at_cost.csv").set_index(["landscape", "rule", "trials"])
    print("| landscape | " + " | ".join(rules) + " |")
    print("|---" * (len(rules) + 1) + "|")
    for name in names:
        cells = []
        for rule in rules:
            own, best = gains.loc[(name, rule), ["gain", "best_gain"]]
            searched = [marked(*found.loc[(name, rule, n), ["mean", "sem"]], own) for n in CHECKS]
            cells.append(f"{own:.2f}: {', '.join(searched)} ({best:.2f})")
        print(f"| `{name}` | " + " | ".join(cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = {"score": command_score, "at-cost": command_at_cost, "table": command_table}
    parser.add_argument("command", choices=commands)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--offset", type=int, default=1000, help="first seed")
    args = parser.parse_args()
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    commands[args.command](args)


if __name__ == "__main__":
    main()
