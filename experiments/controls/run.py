"""Whole pipelines on two data sets whose answer is known: search, confirm, report, each with its own seed.

    python experiments/controls/run.py 10                 # ten of each; goes on where it stopped
    python experiments/controls/run.py 2 --only context --runs /scratch/controls

``context``: SE must help, by construction (`context.py`). ``digits``: it cannot be told from noise. Every
run has its own seed for weights, batches and proposals, and `context` its own images, too.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd

HERE = Path(__file__).parent
SPACE = "{init: plain}"
"""Of the rows in the table; the default start of the gates is another one today."""
CONTROLS = {
    "context": ["--data", f"{HERE / 'context.py'}:context", "--backbone", "bagnet8", "--epochs", "16",
                "--batch-size", "32", "--optimizer", "adamw", "--lr", "0.005", "--weight-decay", "0.01",
                "--augment", "none", "--budget", "16", "--space", SPACE],
    "digits": ["--data", "digits", "--backbone", "resnet8", "--epochs", "8", "--budget", "20", "--space", SPACE],
}  # fmt: skip
RIGHT = {"context": ("use",), "digits": ("without", "undecided")}


def pipeline(control: str, seed: int, runs: Path) -> dict[str, object]:
    """The three commands; what the verdict says."""
    out = runs / f"{control}-{seed}"
    more = ["--data.args.seed", str(seed)] if control == "context" else []
    start = time.monotonic()
    command("search", *CONTROLS[control], *more, "--seed", str(seed), "--out", str(out), "--workers", "1", "--quiet")
    searched = time.monotonic() - start
    result = json.loads(command("confirm", str(out), "--json"))
    command("report", str(out))
    networks = {n["key"]: n for n in result["networks"]}
    winner = networks[result["winner"]]
    against = winner["against"]["baseline"]
    best = max((n for n in networks.values() if n["optimism"] is not None), key=lambda n: n["promised"], default=None)
    return {
        "control": control,
        "seed": seed,
        "claim": result["verdict"]["claim"],
        "right": result["verdict"]["claim"] in RIGHT[control],
        "winner": winner["label"],
        "baseline": next(n["test"]["mean"] for n in networks.values() if n["role"] == "baseline"),
        "gain": against["mean"],
        "lower": against["family_interval"][0],
        "upper": against["family_interval"][1],
        "p": against["family_p"],
        "optimism": None if best is None else best["optimism"],
        "observed_optimism": None if best is None else best["observed_optimism"],
        "verdict": result["verdict"]["sentences"][0]["text"],
        "search_seconds": round(searched),
        "seconds": round(time.monotonic() - start),
        "device": result["device"],
        "commit": result["commit"],
    }


def command(*arguments: str) -> str:
    done = subprocess.run([sys.executable, "-m", "se_nas.cli", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"se-nas {' '.join(arguments)}:\n{done.stderr}")
    return done.stdout


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("number", type=int)
    parser.add_argument("--only", choices=list(CONTROLS))
    parser.add_argument("--runs", type=Path, default=Path("runs/controls"))
    given = parser.parse_args()
    file = HERE / "controls.csv"
    rows = pd.read_csv(file).to_dict("records") if file.is_file() else []
    for seed in range(1, given.number + 1):
        for control in [given.only] if given.only else CONTROLS:
            if any((row["control"], row["seed"]) == (control, seed) for row in rows):
                continue
            rows.append(pipeline(control, seed, given.runs))
            print(rows[-1]["control"], seed, rows[-1]["verdict"], f"({rows[-1]['seconds']} s)", flush=True)
            pd.DataFrame(rows).to_csv(file, index=False, float_format="%.5g")
    table = pd.DataFrame(rows)
    print(
        table.groupby("control")[["right", "gain", "seconds"]].agg(
            {"right": ["sum", "count"], "gain": "mean", "seconds": "mean"}
        )
    )


if __name__ == "__main__":
    main()
