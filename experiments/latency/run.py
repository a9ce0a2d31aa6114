"""Latency of SE in each runtime beside what it adds in GFLOPs, and how well it is predicted: latency.csv, table.md.

python experiments/latency/run.py [--only resnet20,...] [--runtimes torch,...] [--minutes 10] [--threads 1] [--batch 1]

Repeat the command to continue where it stopped: networks and runtimes that are in latency.csv are left alone, what was
measured of others lies in ``--work``. Run it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from scipy.stats import spearmanr

from se_nas.commands.describe import Catalogue, describe
from se_nas.core.errors import CostError, SeNasError
from se_nas.core.files import write_atomically
from se_nas.core.placement import Placement
from se_nas.core.trial import CostValue, Target
from se_nas.runtimes.table import installed, open_runtimes
from se_nas.space import measured_cost
from se_nas.space.latency_fit import GOAL
from se_nas.space.measured_cost import Measurer
from se_nas.space.pricing import Pricing
from se_nas.training.provenance import commit, device_name, versions

HERE = Path(__file__).resolve().parent
FILE, TABLE = HERE / "latency.csv", HERE / "table.md"
KINDS = ("SE everywhere at 16", "SE in the last stage", "its own SE")


@dataclass(frozen=True)
class Network:
    """A backbone, and the image that it takes."""

    backbone: str
    shape: str = "3,224,224"


NETWORKS = {
    "resnet20": Network("resnet20", "3,32,32"),
    "resnet50": Network("timm:resnet50"),
    "mobilenetv2": Network("torchvision:mobilenet_v2"),
    "efficientnet_b0": Network("timm:efficientnet_b0"),
    "regnety_008": Network("timm:regnety_008"),
    "yolo11n": Network("ultralytics:yolo11n.yaml", "3,320,320"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(NETWORKS), help="networks, with commas")
    parser.add_argument("--runtimes", default=",".join(installed()), help="runtimes, with commas")
    parser.add_argument("--minutes", type=float, default=10.0, help="to measure in for each network and runtime")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--work", type=Path, default=Path("runs/latency"))
    parser.add_argument("--out", type=Path, default=FILE)
    given = parser.parse_args()
    measured_cost.TIME = 60 * given.minutes
    torch.set_num_threads(given.threads)
    for name in given.only.split(","):
        catalogue = describe(Target(target=NETWORKS[name].backbone), input_shape=NETWORKS[name].shape)
        for runtime in given.runtimes.split(","):
            rows = read(given.out)
            way = {"runtime": runtime, "threads": str(given.threads), "batch": str(given.batch), "network": name}
            if any(way.items() <= row.items() for row in rows):
                continue
            try:
                new = measure(name, catalogue, runtime, given)
            except SeNasError as error:
                print(f"{name} in {runtime}: {error}", flush=True)
                continue
            write(given.out, [*rows, *new])
            write_atomically(given.out.with_name(TABLE.name), table(read(given.out)).encode())
            print(f"{name} in {runtime}: {len(new)} networks measured", flush=True)
    print(table(read(given.out)))


def measure(name: str, catalogue: Catalogue, runtime: str, given: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each placement that was measured: what the model needs and is tested on, and those of `KINDS`."""
    if isinstance(catalogue.costs, CostError):
        raise catalogue.costs
    cost, device, space = f"latency@{runtime}", torch.device(given.device), catalogue.space
    measurer = Measurer(
        catalogue.network, space, input_shape=catalogue.input_shape, device=device, batch=given.batch,
        threads=given.threads, runtimes=open_runtimes([cost], device=device, threads=given.threads), memory=False,
    )  # fmt: skip
    work = given.work / f"{name}-{runtime}-{given.threads}-{given.batch}"
    work.mkdir(parents=True, exist_ok=True)
    pricing = Pricing(catalogue.costs, measurer=measurer, cache=work / "measured.json")
    pricing.prepare()
    print(pricing.fits[cost].text, flush=True)
    named = dict(zip(KINDS, (space.parse("all:16") if fits16(catalogue) else space.reference,
                             last_stage(catalogue), space.given), strict=True))  # fmt: skip
    if space.given.blocks == 0:
        named.pop(KINDS[2])
    pricing.settle(named.values())
    fit = pricing.fits[cost]
    tests = {test.key: test for test in fit.held_out}
    placements = {space.baseline.key: space.baseline} | {p.placement.key: p.placement for p in measurer.planned}
    kinds = {placement.key: kind for kind, placement in named.items()} | {space.baseline.key: "no SE"}
    placements |= {p.key: p for p in named.values()}
    base, rows = measurer.known[space.baseline.key][cost], []
    for key, placement in placements.items():
        if cost not in measurer.known.get(key, {}):
            continue
        value, test, exact = measurer.known[key][cost], tests.get(key), catalogue.costs(placement)
        role = "held out" if test else "fitted" if key in fit.fitted else ""
        rows.append({
            "network": name, "backbone": catalogue.name, "input": "x".join(map(str, catalogue.input_shape)),
            "batch": given.batch, "threads": given.threads, "runtime": runtime, "kind": kinds.get(key, ""),
            "placement": placement.label or "none", "key": key, "role": role,
            "macs_added_percent": 100 * (exact.macs / catalogue.costs.backbone.macs - 1),
            "params_added_percent": 100 * (exact.params / catalogue.costs.backbone.params - 1),
            "ms": value.value, **ends("ms", value, 1.0), "ratio": value.value / base.value,
            **ends("ratio", value, base.value),
            "predicted_ms": test.predicted if test else "", "error": test.error if test else "",
            "good": int(test.good) if test else "",
            "covered": int(test.interval[0] <= test.measured.value <= test.interval[1]) if test else "",
            "terms": fit.terms, "measuring_seconds": round(fit.seconds, 1), "conditions": fit.conditions,
            "device": device_name(given.device), "cores": os.cpu_count(),
            "versions": " ".join(f"{k}={v}" for k, v in versions().items()), "commit": commit(),
            "date": datetime.date.today().isoformat(),
        })  # fmt: skip
    return rows


def fits16(catalogue: Catalogue) -> bool:
    """Whether a reduction of 16 leaves a hidden channel everywhere."""
    try:
        return bool(catalogue.space.parse("all:16").blocks)
    except SeNasError:
        return False


def last_stage(catalogue: Catalogue) -> Placement:
    """SE at 16 (or what the reference has) in the last stage only."""
    space, last = catalogue.space, {unit.name for unit in catalogue.space.decisions[-1].units}
    chosen = {n: c for n, c in space.reference.choices.items() if n in last}
    label = f"{space.decisions[-1].name}=16"
    return Placement(choices={**space.baseline.choices, **chosen}, label=label)


def ends(name: str, value: CostValue, scale: float) -> dict[str, float]:
    low, high = value.interval or (value.value, value.value)
    return {f"{name}_low": low / scale, f"{name}_high": high / scale}


def read(file: Path) -> list[dict[str, str]]:
    if not file.is_file():
        return []
    with file.open(newline="") as opened:
        return list(csv.DictReader(opened))


def write(file: Path, rows: list[dict[str, Any]]) -> None:
    part = file.with_suffix(".part")
    with part.open("w", newline="") as opened:
        writer = csv.DictWriter(opened, list(rows[-1]))
        writer.writeheader()
        writer.writerows(rows)
    part.replace(file)


def table(rows: list[dict[str, str]]) -> str:
    """What each network and runtime gave, in Markdown."""
    heads = ["network", "runtime", "threads", "batch", "no SE, ms", *KINDS, "rank correlation of MACs and latency",
             f"held out: within {100 * GOAL:g} % or noise", "median error", "largest", "measuring"]  # fmt: skip
    lines = [" | ".join(heads), " | ".join("---" for _ in heads)]
    for way in dict.fromkeys((r["network"], r["runtime"], r["threads"], r["batch"]) for r in rows):
        own = [r for r in rows if (r["network"], r["runtime"], r["threads"], r["batch"]) == way]
        by_kind = {r["kind"]: r for r in own}
        tests = [r for r in own if r["role"] == "held out"]
        errors = [abs(float(r["error"])) for r in tests]
        order = spearmanr([float(r["macs_added_percent"]) for r in own], [float(r["ms"]) for r in own]).statistic
        cells = [*way, f"{float(by_kind['no SE']['ms']):.3g}", *(_cell(by_kind.get(kind)) for kind in KINDS)]
        cells += [f"{order:.2f} (n={len(own)})", f"{sum(int(r['good']) for r in tests)} of {len(tests)}"]
        cells += [f"{100 * np.median(errors):.1f} %", f"{100 * max(errors):.1f} %"] if errors else ["", ""]
        cells.append(f"{float(own[0]['measuring_seconds']):.0f} s")
        lines.append(" | ".join(cells))
    return "".join(f"| {line} |\n" for line in lines)


def _cell(row: dict[str, str] | None) -> str:
    if row is None:
        return ""
    ratio, low, high, macs = (float(row[n]) for n in ("ratio", "ratio_low", "ratio_high", "macs_added_percent"))
    return f"{ratio:.3f} ({low:.3f} to {high:.3f}), MACs {macs:+.2f} %"


if __name__ == "__main__":
    main()
