"""Which block at which place? SE, ECA and SimAM in each stage and everywhere, with paired seeds: gains.csv, gains.md.

    python experiments/blocks/run.py --cifar100 FOLDER       # goes on where it was stopped
    python experiments/blocks/run.py --table

Every network is trained by `se-nas confirm --finalists` with the same seeds as all others of its setting, and judged on
the test set; intervals are those of the confirm, for all twelve networks of a setting at once.
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

HERE = Path(__file__).parent
FILE = HERE / "gains.csv"
SEEDS = 6
BLOCKS, PLACES = ("16", "eca", "simam"), ("all", "stage1", "stage2", "stage3")
SPACE = "{decide: stage, reductions: [none, 16], blocks: [se, eca, simam]}"
FEW = {"target": str(HERE.parent / "gate_start" / "images.py:few"), "args": {"size": 16, "train": 25, "val": 10}}
CONTEXT = {"target": str(HERE.parent / "controls" / "context.py:context")}
SETTINGS: dict[str, dict[str, Any]] = {
    "CIFAR-100, resnet8": {"backbone": "resnet8", "data": FEW, "train": {"epochs": 16, "batch_size": 64}},
    "CIFAR-100, chain": {"backbone": str(HERE.parent / "where_se_pays" / "networks.py:vgg"), "data": FEW,
                         "train": {"epochs": 16, "batch_size": 64}},
    "context, bagnet8": {"backbone": "bagnet8", "data": CONTEXT,
                         "train": {"epochs": 16, "batch_size": 32, "augment": "none", "optimizer": "adamw", "lr": 0.005,
                                   "weight_decay": 0.01}},
}  # fmt: skip
"""As the controls train `context`; the rest with the default recipe, 2,500 images to train on."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cifar100")
    parser.add_argument("--runs", type=Path, default=Path("runs/blocks"))
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    if not given.table:
        for name in SETTINGS:
            train(name, given.runs, given.cifar100)
    print(table())


def train(name: str, runs: Path, cifar100: str) -> None:
    """All networks of a setting, as rows."""
    rows = pd.read_csv(FILE) if FILE.is_file() else pd.DataFrame()
    if len(rows) and (rows["setting"] == name).any():
        return
    options = {**SETTINGS[name], "space": SPACE, "budget": 1, "workers": 1, "measure": ["latency@onnxruntime"]}
    if "args" in options["data"]:
        options["data"] = {**options["data"], "args": {**options["data"]["args"], "path": cifar100}}
    out = runs / name.replace(", ", "-")
    runs.mkdir(parents=True, exist_ok=True)
    config = runs / f"{out.name}.yaml"
    config.write_text(yaml.safe_dump({**options, "out": str(out)}))
    command("search", "--config", str(config), "--quiet")
    finalists = [f"{place}{':' if place == 'all' else '='}{block}" for block in BLOCKS for place in PLACES]
    found = json.loads(command("confirm", str(out), "--seeds", str(SEEDS), "--json", "--finalists", *finalists))
    rows = pd.concat([rows, pd.DataFrame([row(name, network, found) for network in found["networks"]])])
    rows.to_csv(FILE, index=False, float_format="%.6g")
    print(name, found["verdict"]["sentences"][0]["text"], flush=True)


def row(name: str, network: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    against = network["against"].get("baseline", {})
    lower, upper = against.get("family_interval") or (None, None)
    costs = {cost: value["value"] for cost, value in network["costs"].items()}
    return {
        "setting": name, "network": network["label"], "pairs": len(network["test"]["values"]),
        "test": network["test"]["mean"], "gain": against.get("mean"), "lower": lower, "upper": upper,
        "p": against.get("family_p"), "params": costs["params"], "macs": costs["macs"],
        "onnxruntime_ms": costs.get("latency@onnxruntime"), "epochs": found["epochs"], "device": found["device"],
        "torch": found["versions"]["torch"], "commit": found["commit"],
    }  # fmt: skip


def command(*arguments: str) -> str:
    done = subprocess.run([sys.executable, "-m", "se_nas.cli", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"se-nas {' '.join(arguments)}:\n{done.stderr}")
    return done.stdout


def table() -> str:
    """One table for each setting, in Markdown."""
    lines = []
    for name, rows in pd.read_csv(FILE).groupby("setting", sort=False):
        plain = rows[rows["network"] == "none"].iloc[0]
        lines += ["", f"**{name}**, without a block {100 * plain['test']:.2f} %, {plain['pairs']} pairs", ""]
        lines += [
            "| network | gain, points | 90 % for all at once | parameters | MACs | ONNX Runtime |",
            "|---|---|---|---|---|---|",
        ]
        for _, r in rows[rows["network"] != "none"].sort_values("gain", ascending=False).iterrows():
            shares = [f"{100 * (r[cost] / plain[cost] - 1):+.2f} %" for cost in ("params", "macs", "onnxruntime_ms")]
            interval = f"{100 * r['lower']:+.2f} to {100 * r['upper']:+.2f}"
            lines.append(f"| {' | '.join([r['network'], f'{100 * r.gain:+.2f}', interval, *shares])} |")
    return "\n".join(lines[1:])


if __name__ == "__main__":
    main()
