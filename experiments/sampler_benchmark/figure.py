"""Tables and figure from results.csv and coverage.csv."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd


def summarise(folder: Path) -> None:
    """Mean, standard error and number of searches per landscape, peer, judge and number of trials: summary.csv."""
    results = pd.read_csv(folder / "results.csv")
    table = results.groupby(["landscape", "judge", "trials", "peer"])["score"].agg(["mean", "sem", "count"])
    table.to_csv(folder / "summary.csv", float_format="%.4f")
    gainful = results[~results["landscape"].isin(["hurts-4", "no-effect-4"])]
    shown = (
        gainful.groupby(["landscape", "peer", "judge", "trials"])["score"].mean().groupby(["judge", "peer", "trials"])
    )
    print(shown.agg(["mean", "count"]).unstack("trials").round(3).to_string())
    coverage = pd.read_csv(folder / "coverage.csv")
    print(coverage.groupby(["peer", "trials"])[["all", "front", "difference"]].mean().round(3).to_string())
    print(coverage.groupby(["peer"])[["all", "front", "difference"]].agg(["mean", "sem"]).round(3).to_string())
    known = coverage[coverage["peer"] == "known-cost"]
    print(known.groupby("landscape")[["all", "front", "difference"]].mean().round(3).to_string())
    duplicates = results[(results["trials"] == 50) & (results["judge"] == "observed")].groupby("peer")["duplicates"]
    print((2 * duplicates.mean()).rename("duplicates per 100 trials").round(1).to_string())


def draw(folder: Path) -> None:
    """One panel per landscape: score against trials, posterior's front solid, observed front dashed: figure.png."""
    table = pd.read_csv(folder / "summary.csv")
    names = list(dict.fromkeys(table["landscape"]))
    figure, axes = plt.subplots(3, 4, figsize=(15, 10), sharex=True)
    colours = {peer: f"C{i}" for i, peer in enumerate(sorted(table["peer"].unique()))}
    for axis, name in zip(axes.flat, names, strict=False):
        for (peer, judge), rows in table[table["landscape"] == name].groupby(["peer", "judge"]):
            style = "-" if judge == "posterior" else "--"
            width = 2.5 if peer == "known-cost" else 1.0
            axis.errorbar(rows["trials"], rows["mean"], rows["sem"], color=colours[peer], ls=style, lw=width)
        axis.set_title(name)
        axis.set_ylim(max(axis.get_ylim()[0], -0.5), None)
    for axis in axes[-1]:
        axis.set_xlabel("trials")
    handles = [plt.Line2D([], [], color=c, label=p) for p, c in colours.items()]
    handles += [
        plt.Line2D([], [], color="k", ls=s, label=f"front: {j}") for s, j in (("-", "posterior"), ("--", "observed"))
    ]
    figure.legend(handles=handles, loc="lower center", ncol=5)
    figure.suptitle(
        "True hypervolume of the claimed front, share of the best (hurts, no-effect: minus true loss, points)"
    )
    figure.tight_layout(rect=(0, 0.05, 1, 1))
    figure.savefig(folder / "figure.png", dpi=90)
    plt.close(figure)
