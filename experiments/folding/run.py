"""Which SE blocks of trained networks are constants, and what folding them away changes and saves.

Usage: python experiments/folding/run.py [--cifar100 FOLDER] [--only WORD] [--table]

Each network is trained by `se-nas search` with a budget of two (no SE, and SE everywhere at r=16), looked at by
`se-nas explain`, and folded by `se-nas export --fold`: at the default margin, and at those of `MARGINS`. Rows are added
to blocks.csv and folded.csv; networks that have rows are passed over.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd

from se_nas.training.provenance import commit, versions

HERE = Path(__file__).parent
BLOCKS, FOLDED = HERE / "blocks.csv", HERE / "folded.csv"
MARGINS = (0.1, 0.5, 2.0)
"""Points of accuracy."""

DIGITS = ["--data", "digits"]
CONTEXT = [
    "--data", str(HERE.parent / "controls" / "context.py") + ":context", "--backbone", "bagnet8", "--epochs", "16",
    "--batch-size", "32", "--augment", "none", "--optimizer", "adamw", "--lr", "0.005", "--weight-decay", "0.01",
]  # fmt: skip
NETWORKS: dict[str, list[str]] = {
    "digits resnet20 identity": [*DIGITS, "--backbone", "resnet20", "--epochs", "30"],
    "digits resnet20 plain": [*DIGITS, "--backbone", "resnet20", "--epochs", "30", "--init", "plain"],
    "digits own plain": [*DIGITS, "--backbone", f"{HERE / 'own.py'}:Own", "--epochs", "30", "--init", "plain"],
    "digits mobilenetv3 its own SE": [*DIGITS, "--backbone", "timm:mobilenetv3_small_050", "--epochs", "30", "--keep"],
    "context bagnet8 plain": [*CONTEXT, "--init", "plain"],
    "context bagnet8 identity": CONTEXT,
    "cifar100 resnet20 identity": ["--cifar100", "--backbone", "resnet20", "--epochs", "8"],
    "cifar100 resnet20 plain": ["--cifar100", "--backbone", "resnet20", "--epochs", "8", "--init", "plain"],
}


def product(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """A command of se-nas."""
    return subprocess.run(
        [sys.executable, "-m", "se_nas.cli", *words], check=check, capture_output=True, text=True
    )  # fmt: skip


def trained(name: str, folder: Path, cifar100: str | None) -> int:
    """Train the networks of a search; the number of the trial with SE."""
    words = list(NETWORKS[name])
    space: dict[str, Any] = {"decide": "stage", "reductions": ["none", 16]}
    if "--init" in words:
        at = words.index("--init")
        space["init"] = words[at + 1]
        del words[at : at + 2]
    kept = "--keep" in words
    if kept:
        words.remove("--keep")
        space["reductions"] = ["none", 16, "keep"]
    if "--cifar100" in words:
        words.remove("--cifar100")
        words += ["--data", f"folder:{cifar100}", "--data.args.size", "16"]
    file = folder.parent / f"{folder.name}.json"
    file.write_text(json.dumps(space))
    product("search", *words, "--space", str(file), "--budget", "3" if kept else "2", "--out", str(folder),
            "--keep-weights", "all", "--workers", "1", "--quiet")  # fmt: skip
    table = pd.read_csv(folder / "trials.csv")
    return int(table.loc[table["role"] == ("given" if kept else "reference"), "trial"].iloc[0])


def measured(name: str, cifar100: str | None) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of the blocks of a network, and of what folding does to it."""
    facts = {"network": name, "commit": commit(), **versions()}
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work) / "run"
        trial = trained(name, folder, cifar100)
        found = json.loads(product("explain", str(folder), "--select", f"trial={trial}", "--json").stdout)
        found = found.get("found", found)
        table = pd.read_csv(folder / "explain" / "blocks.csv")
        columns = ["block", "channels", "mean_gate", "variation", "does", "treats", "class_share", "frozen_changed",
                   "frozen_difference", "frozen_low", "frozen_high", "removed_difference", "params"]  # fmt: skip
        blocks = [facts | {"images": found["images"]} | row for row in table[columns].to_dict("records")]
        rows = []
        for margin in MARGINS:
            done = product("export", str(folder), "--select", f"trial={trial}", "--fold-margin", str(margin), "--json",
                           "--format", "onnx", "--to", str(Path(work) / f"m{margin}"), check=False)  # fmt: skip
            row: dict[str, Any] = {**facts, "margin": margin, "blocks": len(blocks), "folded": 0}
            if done.returncode == 0:
                said = json.loads(done.stdout)
                folded = said["folded"]
                row |= {
                    "folded": sum(bool(block["into"]) for block in folded["blocks"]),
                    **{f"{r} {side}": value["value"] for r, pair in zip(("torch ms", "onnx ms"), folded["milliseconds"],
                       strict=True) for side, value in zip(("before", "after"), pair, strict=True)},
                    **{key: folded[key] for key in ("difference", "low", "high", "changed", "apart", "images",
                                                    "params_saved", "macs_saved")},
                }  # fmt: skip
            else:
                row["why"] = " | ".join(done.stderr.split("\n")[:3])
            rows.append(row)
    return blocks, rows


def add(file: Path, rows: list[dict[str, Any]]) -> None:
    """Add rows to a table."""
    before = [pd.read_csv(file)] if file.is_file() else []
    pd.concat([*before, pd.DataFrame(rows)]).to_csv(file, index=False, float_format="%.6g")


def table() -> None:
    """Print what is there."""
    blocks, folded = pd.read_csv(BLOCKS), pd.read_csv(FOLDED)
    kinds = blocks.groupby(["network", "does"]).size().unstack(fill_value=0)
    print(kinds.to_markdown())
    columns = ["network", "margin", "blocks", "folded", "difference", "low", "high", "apart", "params_saved"]
    columns += [f"{runtime} ms {side}" for runtime in ("torch", "onnx") for side in ("before", "after")]
    shown = folded.reindex(columns=columns)
    print(shown.round(5).to_markdown(index=False))


def main() -> None:
    """Train, explain and fold every network that has no rows yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar100", default=None, help="folder with train/ and test/ of CIFAR-100")
    parser.add_argument("--only", default="", help="networks whose name holds this word")
    parser.add_argument("--table", action="store_true", help="print the tables of what is there")
    args = parser.parse_args()
    known = set(pd.read_csv(FOLDED)["network"]) if FOLDED.is_file() else set()
    for name in [] if args.table else NETWORKS:
        if args.only not in name or name in known or (name.startswith("cifar100") and args.cifar100 is None):
            continue
        blocks, folded = measured(name, args.cifar100)
        add(BLOCKS, blocks)
        add(FOLDED, folded)
        print(name, flush=True)
    table()


if __name__ == "__main__":
    main()
