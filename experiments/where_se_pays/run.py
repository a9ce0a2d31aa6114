"""Where does SE pay? Twelve settings, each with 4 pairs; then 20 fresh pairs of the three best decide.

    python experiments/where_se_pays/run.py --cifar10 FOLDER --cifar100 FOLDER --aeon WHEEL
    python experiments/where_se_pays/run.py --table

It goes on where it was stopped. Everything is trained by `se-nas search` (one training, which prepares the run) and
`se-nas confirm --finalists`: both networks of a pair have the same seed, so the same backbone weights and batches. The
three settings are chosen by the validation set; the fresh pairs are judged on the test set.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from scipy import stats

HERE = Path(__file__).parent
FILE = HERE / "trainings.csv"
PILOT, DECISION, BEST = (4, 1), (20, 1001), 3
"""Pairs and the seed from which theirs are drawn; settings that are decided."""


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("cifar10", "cifar100", "aeon"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--runs", type=Path, default=Path("runs/where_se_pays"))
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    content = yaml.safe_load((HERE / "settings.yml").read_text())
    if not given.table:
        places = {name: getattr(given, name) for name in ("cifar10", "cifar100", "aeon")}
        for name in content["settings"]:
            pairs(name, content, "pilot", PILOT, given.runs, places)
        for name in best():
            pairs(name, content, "decision", DECISION, given.runs, places)
    print(table(content["settings"]))


def pairs(
    name: str, content: dict[str, Any], phase: str, size: tuple[int, int], runs: Path, places: dict[str, str]
) -> None:
    """Train so many pairs of a setting, and write their rows."""
    rows = read()
    if len(rows) and ((rows["setting"] == name) & (rows["phase"] == phase)).any():
        return
    number, seed = size
    setting, out = content["settings"][name], runs / f"{name.replace(' ', '-')}-{phase}"
    options = {**content["all"], **setting["options"], "seed": seed, "budget": 1, "out": str(out)}
    if ".py:" in options["backbone"]:
        options["backbone"] = str(HERE / options["backbone"])
    data = options["data"]
    options["data"] = {
        "target": str(HERE / data["target"]),
        "args": {k: v.format(**places) if isinstance(v, str) else v for k, v in data["args"].items()},
    }
    runs.mkdir(parents=True, exist_ok=True)
    config = runs / f"{out.name}.yaml"
    config.write_text(yaml.safe_dump(grouped(options)))
    command("search", "--config", str(config), "--quiet")
    found = json.loads(
        command("confirm", str(out), "--finalists", setting["placement"], "--seeds", str(number), "--json")
    )
    part = "validation" if phase == "pilot" else "test"
    new = [
        {"setting": name, "phase": phase, "placement": network["label"], "seed": int(seed), part: value,
         "params": network["costs"]["params"]["value"], "macs": network["costs"]["macs"]["value"],
         "epochs": found["epochs"], "device": found["device"], "torch": found["versions"]["torch"],
         "commit": found["commit"]}
        for network in found["networks"]
        for seed, value in network[part]["values"].items()
    ]  # fmt: skip
    pd.concat([rows, pd.DataFrame(new)]).to_csv(FILE, index=False)
    print(name, phase, in_words(gain(read(), name, phase)), flush=True)


def grouped(options: dict[str, Any]) -> dict[str, Any]:
    """Options of a training under `train`, as a file of settings has them."""
    inner = ("epochs", "batch_size", "label_smoothing", "augment")
    train = {key: options[key] for key in inner if key in options}
    return {**{key: value for key, value in options.items() if key not in inner}, "train": train}


def command(*arguments: str) -> str:
    done = subprocess.run([sys.executable, "-m", "se_nas.cli", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"se-nas {' '.join(arguments)}:\n{done.stderr}")
    return done.stdout


def read() -> pd.DataFrame:
    return pd.read_csv(FILE) if FILE.is_file() else pd.DataFrame()


def gain(rows: pd.DataFrame, name: str, phase: str) -> tuple[float, float, float]:
    """Mean of placement - none over the pairs of a setting, in points, with its 90 % interval (t over pairs)."""
    part = "validation" if phase == "pilot" else "test"
    own = rows[(rows["setting"] == name) & (rows["phase"] == phase)]
    wide = own.pivot(index="seed", columns="placement", values=part) * 100
    other = next(column for column in wide if column != "none")
    difference = wide[other] - wide["none"]
    half = stats.t.ppf(0.95, len(difference) - 1) * stats.sem(difference)
    return difference.mean(), difference.mean() - half, difference.mean() + half


def in_words(found: tuple[float, float, float]) -> str:
    mean, lower, upper = found
    return f"{mean:+.2f} ({lower:+.2f} to {upper:+.2f})"


def best() -> list[str]:
    """The settings with the highest mean gain over their pilot's pairs."""
    rows = read()
    pilots = rows[rows["phase"] == "pilot"]
    return sorted(pilots["setting"].unique(), key=lambda name: -gain(rows, name, "pilot")[0])[:BEST]


def table(settings: dict[str, Any]) -> str:
    """Both phases in Markdown."""
    rows = read()
    lines = [
        "| setting | placement | expected | no SE | 4 pairs, validation | 20 fresh pairs, test |",
        "|---|---|---|---|---|---|",
    ]
    for name, setting in settings.items():
        cells = []
        own = rows[(rows["setting"] == name) & (rows["placement"] == "none")] if len(rows) else rows
        for phase in ("pilot", "decision"):
            there = len(own) and (own["phase"] == phase).any()
            cells.append(in_words(gain(rows, name, phase)) if there else "")
        plain = f"{100 * own['validation'].mean():.1f} %" if len(own) else ""
        expected = setting["expected"].partition(":")[0]
        lines.append(f"| {' | '.join([name, setting['placement'], expected, plain, *cells])} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
