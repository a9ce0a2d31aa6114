"""Result tables and the figure, from the runs that run.py made, finished or not.

    python experiments/cifar100/tables.py --version cpu

Writes into results-VERSION/: ``curves.csv`` (every epoch of every training, for replay_table.py), ``placements.csv``
(exact costs), ``exhaustive.csv``, ``effects.csv``, ``stages.csv``, ``reductions.csv``, ``performance.csv`` and
``figure.png``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from landscape import HERE, METRIC, levels_of, read_table, seed_noise, stages_of
from matplotlib.figure import Figure
from scipy.stats import t as student

from se_nas.analysis.confirmation import read_confirmed
from se_nas.analysis.tables import curves_table, trials_table
from se_nas.commands.results import existing_run
from se_nas.core.errors import RunError
from se_nas.report.figures import save_figure

CURVES = ["key", "placement", "seed", "replicate", "epochs", "seconds", "epoch", METRIC, "val_top5", "val_loss"]
PLACEMENTS = ["key", "placement", "params", "macs", "gflops", "activations"]

PAPER_REDUCTION = {"none": 23.30, "2": 22.29, "4": 22.25, "8": 22.26, "16": 22.28, "32": 22.72}
PAPER_STAGE = {"none": 23.30, "stage1": 23.03, "stage2": 23.04, "stage3": 22.68, "all": 22.28}
"""Top-1 error in %, SE-ResNet-50 on ImageNet (Hu et al., arXiv 1709.01507 v4); its stages 2, 3, 4 are ours 1 to 3."""


def collect(runs: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Curves and costs of all trainings in the runs of one network, as they are now."""
    curves, placements = [], []
    for folder in sorted(runs.glob("seed-*")) + sorted(runs.glob("all-*-seed-*")):
        try:
            _, study = existing_run(folder)
        except RunError:  # not begun
            continue
        trials = [t for t in study.trials() if t.state == "complete"]
        table = trials_table(trials, study.objective)
        curves.append(curves_table(trials).reindex(columns=CURVES))
        placements.append(table.reindex(columns=PLACEMENTS))
    every = pd.concat(curves).drop_duplicates(["key", "seed", "replicate", "epoch"])
    costs = pd.concat(placements).drop_duplicates("key")
    return every.sort_values(["seed", "key", "epoch"]), costs


def finals(folder: Path) -> pd.DataFrame:
    """Accuracy in points after the last epoch: one row for each placement, one column for each seed."""
    curves = pd.read_csv(folder / "curves.csv", dtype={"key": str})
    last = curves[curves["epoch"] == curves["epochs"]]
    return 100 * last.pivot_table(index="placement", columns="seed", values=METRIC)


def rows_against_none(values: pd.DataFrame, rows: dict[str, str], paper: dict[str, float]) -> pd.DataFrame:
    """Mean, sd and the paired difference to no SE with its 90 % interval (t, over the seeds that both have)."""
    found = []
    for name, label in rows.items():
        if label not in values.index:
            continue
        own = values.loc[label].dropna()
        paired = (values.loc[label] - values.loc["none"]).dropna() if "none" in values.index else own[:0]
        n = len(paired)
        half = student.ppf(0.95, n - 1) * paired.std() / np.sqrt(n) if n > 1 else np.nan
        found.append(
            {
                "row": name,
                "placement": label,
                "n": len(own),
                "mean": own.mean(),
                "sd": own.std(),
                "gain": paired.mean() if label != "none" else 0.0,
                "gain_low": paired.mean() - half if label != "none" else np.nan,
                "gain_high": paired.mean() + half if label != "none" else np.nan,
                "paper_gain": paper["none"] - paper[name] if name in paper else np.nan,
            }
        )
    return pd.DataFrame(found)


def label_of(placements: pd.DataFrame, wanted: tuple[int, ...], stages: Sequence[str]) -> str:
    """The label of the placement with these levels; empty if there is none yet."""
    return next((p for p in placements["placement"] if stages and levels_of(p, stages) == wanted), "")


def stage_rows(placements: pd.DataFrame) -> dict[str, str]:
    """Row -> placement: each stage alone at r=16, all, all but the last."""
    stages = stages_of(placements["placement"])
    d = len(stages)
    rows = {"none": "none"}
    rows |= {name: label_of(placements, tuple(int(i == j) for i in range(d)), stages) for j, name in enumerate(stages)}
    rows["all but the last"] = label_of(placements, (*[1] * (d - 1), 0), stages)
    return rows | {"all": "all:16"}


def main_effects(folder: Path) -> pd.DataFrame:
    """What each reduction in each stage adds to no SE there, in points: a least-squares fit to the mean over seeds."""
    table = read_table(folder)
    mean = np.mean([table.finals(seed) for seed in table.complete()], axis=0)
    names = [(stage, level) for stage in range(len(table.stages)) for level in (1, 2, 3)]
    design = np.column_stack([np.ones(len(mean)), *(table.codes[:, stage] == level for stage, level in names)])
    fitted = np.linalg.lstsq(design, mean, rcond=None)[0]
    left = mean - design @ fitted
    noise = np.sqrt(left @ left / (len(mean) - design.shape[1]) * np.diag(np.linalg.inv(design.T @ design)))
    return pd.DataFrame(
        {
            "stage": [table.stages[stage] for stage, _ in names],
            "reduction": [(None, 16, 8, 4)[level] for _, level in names],
            "effect": fitted[1:],
            "se": noise[1:],
        }
    )


def performance(runs: Path) -> pd.DataFrame:
    """The confirmed networks: test accuracy over fresh seeds, paired differences, costs."""
    found = []
    for folder in sorted(runs.glob("*seed-0")):
        confirmed = read_confirmed(folder)
        for network in confirmed.networks if confirmed else ():
            test, against = network.test, network.against.get("baseline")
            row = {"run": folder.name, "row": network.role, "placement": network.label, "epochs": confirmed.epochs}
            for part, estimate in (("val", network.validation), ("test", test)):
                if estimate is not None:
                    row |= {"n": len(estimate.values), part: 100 * estimate.mean, f"{part}_sd": _points(estimate.sd)}
            if against is not None:
                low, high = against.interval or (None, None)
                row |= {"gain": 100 * against.mean, "gain_low": _points(low), "gain_high": _points(high)}
                row |= {"beats": against.beats}
            row |= {name: cost.value for name, cost in network.costs.items()}
            found.append(row)
    return pd.DataFrame(found)


def _points(value: float | None) -> float:
    return np.nan if value is None else 100 * value


def draw(folder: Path) -> None:
    """Every placement: mean accuracy over seeds against added parameters, with the spread of one training."""
    table = read_table(folder)
    seeds = table.complete()
    values = np.array([table.finals(seed) for seed in seeds]).T
    added = table.params - table.params[0]
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for level, colour in enumerate(("#4477AA", "#66CCEE", "#EE6677", "#AA3377")):
        here = table.codes[:, 0] == level
        name = "none" if level == 0 else f"r={(None, 16, 8, 4)[level]}"
        axes.plot(added[here], values[here].mean(axis=1), "o", color=colour, label=f"{table.stages[0]} {name}")
    if len(seeds) > 1:
        noise = seed_noise(values) / np.sqrt(len(seeds))
        axes.errorbar([added.max() * 1.03], [values.mean()], [noise], color="black", capsize=3, label="sd of a mean")
    axes.set_xlabel("parameters added vs. no SE")
    axes.set_ylabel(f"validation accuracy, points (mean of {len(seeds)})")
    figure.legend(frameon=False, loc="outside right upper")
    save_figure(figure, folder / "figure", ("png",))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--runs", type=Path, help="default runs/cifar100-VERSION")
    given = parser.parse_args()
    runs = given.runs or Path("runs") / f"cifar100-{given.version}"
    folder = HERE / f"results-{given.version}"
    folder.mkdir(exist_ok=True)
    curves, placements = collect(runs)
    curves.to_csv(folder / "curves.csv", index=False, float_format="%.5f")
    placements.to_csv(folder / "placements.csv", index=False)
    values = finals(folder)
    exhaustive = placements.set_index("placement")[["params", "macs"]].join(values.rename(columns="seed {}".format))
    exhaustive["mean"] = values.mean(axis=1)
    exhaustive.sort_values("params").to_csv(folder / "exhaustive.csv", float_format="%.2f")
    tables = {
        "stages": rows_against_none(values, stage_rows(placements), PAPER_STAGE),
        "reductions": rows_against_none(
            values, {"none": "none", **{str(r): f"all:{r}" for r in (2, 4, 8, 16)}}, PAPER_REDUCTION
        ),
        "performance": performance(runs),
    }
    for name, table in tables.items():
        if len(table):
            table.to_csv(folder / f"{name}.csv", index=False, float_format="%.6f")
            print(f"\n{name}\n{table.round(2).to_string(index=False)}")
    counts = values.notna().sum()
    print("\ntrainings of each seed:", ", ".join(f"{seed}: {n}" for seed, n in counts.items()))
    try:
        if read_table(folder).complete():
            draw(folder)
            effects = main_effects(folder)
            effects.to_csv(folder / "effects.csv", index=False, float_format="%.3f")
            print(f"\neffects\n{effects.round(2).to_string(index=False)}")
    except ValueError as error:
        print(error)


if __name__ == "__main__":
    main()
