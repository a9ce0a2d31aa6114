"""Makes the golden files of schema version 1: every record with every field set, and the keys of placements.

Run ``python tests/golden/make.py`` once when a record gets a new field, and look at the difference: lines may be added,
none may change. The file of keys may only grow.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from se_nas.core.blocks import BlockKind
from se_nas.core.placement import KEEP, NONE, Choice, Placement, Site, Unit
from se_nas.core.serialization import to_json
from se_nas.core.trial import CostValue, Epoch, Metric, Recipe, Request, Result, RunIdentity, Target, Trial
from se_nas.data.base import DataInfo
from se_nas.exports.bundle import Advice, Estimate, Exported

HERE = Path(__file__).parent
VERSION = 1

SITE = Site(
    unit="layer1.0", position="pre", module="layer1.0.conv1", channels=16, size=(8, 8), edge="input",
    place="forward:3:8-3:20", uses=2, layers=("layer1.0.fc",), squeezed_from=8,
)  # fmt: skip
UNIT = Unit(
    name="layer1.0", stage="stage1", sites=(SITE,), kind="residual", existing="layer1.0.se", default="pre",
    why="a reason",
)  # fmt: skip
CHOICE = Choice(
    kind="se", reduction=8.0, squeeze_channels=8, position="pre", gate="tanh", gate_scale=1.0, gate_offset=1.0,
    squeeze="max", rounding="multiple_of_8", bias=True, init="identity", block="se",
)  # fmt: skip
OWN_CHOICE = Choice(
    kind="se", reduction=8.0, squeeze_channels=2, init="identity", block="mine",
    own=BlockKind(
        title="mine", made="/home/me/my_block.py:Mine", width=True, gate=True, identity=True, own_identity=True,
        sizes=(1, 2), source="a paper",
        args=(("groups", 4), ("rate", 0.5), ("flag", True), ("word", "4"), ("no", None)),
    ),
)  # fmt: skip
"""A block of the user's own."""
PLACEMENT = Placement(choices={"layer1.0": CHOICE, "layer2.0": NONE, "layer3.0": KEEP}, label="stage1=8,stage3=keep")
TARGET = Target(target="package.module:factory", args={"width": 2, "names": ["a", "b"], "flag": True, "rate": 0.5})
RECIPE = Recipe(
    epochs=3, batch_size=64, optimizer="adamw", lr=0.01, momentum=0.8, weight_decay=0.001, schedule="cosine",
    warmup=0.1, label_smoothing=0.05, augment="shift-flip", class_weights="balanced", precision="bf16",
)  # fmt: skip
IDENTITY = RunIdentity(
    key=PLACEMENT.key, seed=7, replicate=2, phase="confirm", epochs=3, recipe=RECIPE, task=TARGET,
    initialisation="weights:resnet8.safetensors", start_weights="0123456789abcdef", data="fedcba9876543210",
    split="0011223344556677", precision="bf16", trainer=TARGET,
)  # fmt: skip
METRIC = Metric(value=0.875, direction="maximize", unit="share")
COST = CostValue(
    value=12.5, unit="ms", kind="measured", interval=(12.0, 13.0), conditions="torch 2.13.0, batch 1, 1 thread, cpu"
)
EPOCH = Epoch(epoch=1, metrics={"val_accuracy": 0.5, "val_loss": 1.25})
REQUEST = Request(
    trial=4, attempt=2, placement=PLACEMENT, units=(UNIT,), identity=IDENTITY, backbone=TARGET, folder="/run",
    device="cuda:1", threads=2, channels_last=True, logs=("csv",), metric="val_loss", direction="minimize",
    search="run", costs={"params": 80_442, "latency": 12.5},
)  # fmt: skip
OUTCOME: dict[str, Any] = {
    "attempt": 2, "state": "stopped", "reason": "stopped early", "metrics": {"val_accuracy": METRIC},
    "curve": (EPOCH,), "seconds": 1.5, "device": "cpu (AMD EPYC)", "versions": {"torch": "2.13.0"}, "commit": "abc123+",
}  # fmt: skip
RESULT = Result(trial=4, **OUTCOME)
TRIAL = Trial(
    number=4, identity=IDENTITY, placement=PLACEMENT, counts=True, costs={"latency": COST}, owner="host:/run:1:ab",
    lease=1700000000.5, attempts=2, role="reference", repeats=(0.5, 0.75),
    **{k: v for k, v in OUTCOME.items() if k != "attempt"},
)  # fmt: skip
DATA = DataInfo(
    kind="arrays", target=TARGET, classes=("cat", "dog"), input_shape=(3, 8, 8), mean=(1.0, 2.0, 3.0),
    std=(4.0, 5.0, 6.0), train=10, val=4, test=3, fingerprint="aa", checksum="bb", split="cc", target_shape=(8, 8),
    target_type="float", includes_val=True, cut=("val", "test"), val_counts=(3, 1),
    prepared={"train": "dd", "val": "ee"}, sources={"train": "ff", "val": "gg", "test": "hh"},
)  # fmt: skip
EXPORTED = Exported(
    key=PLACEMENT.key, placement=PLACEMENT, backbone=TARGET, units=(UNIT,), input_shape=(3, 8, 8),
    classes=("cat", "dog"), mean=(1.0, 2.0, 3.0), std=(4.0, 5.0, 6.0), trial=4, metrics={"val_accuracy": METRIC},
    costs={"latency": COST}, versions={"torch": "2.13.0"}, identity=IDENTITY, data=DATA, license="mit",
    estimate=Estimate(metric="val_accuracy", mean=0.5, lower=0.25, upper=0.75, trainings=8),
    advice=Advice(confirmed=True, recommended=False, instead="none (trial 0)", verdict=("Undecided.",)),
)  # fmt: skip

RECORDS: dict[str, Any] = {
    "site": SITE, "unit": UNIT, "choice": CHOICE, "own_choice": OWN_CHOICE, "placement": PLACEMENT, "target": TARGET,
    "recipe": RECIPE, "identity": IDENTITY, "metric": METRIC, "cost": COST, "epoch": EPOCH, "request": REQUEST,
    "result": RESULT, "trial": TRIAL, "data": DATA, "exported": EXPORTED,
}  # fmt: skip

KEYED: dict[str, Placement] = {
    "nothing": Placement(choices={}),
    "paper": Placement(choices={"a": Choice.se(64, 16, init="plain")}),
    "two units": Placement(choices={"a": Choice.se(64, 16, init="plain"), "b": Choice.se(128, 8, init="plain")}),
    "keep": Placement(choices={"a": KEEP}),
    "identity": Placement(choices={"a": Choice.se(64, 16, init="identity", gate="tanh", bias=True)}),
    "all settings": PLACEMENT,
    "new": Placement(choices={"a": Choice.se(64, 16)}),
    "own block": Placement(choices={"a": OWN_CHOICE}),
}


def golden_file(name: str) -> Path:
    return HERE / f"{name}.v{VERSION}.json"


def main() -> None:
    """Write all golden files."""
    for name, record in RECORDS.items():
        golden_file(name).write_bytes(to_json(record, indent=1))
    keys = {name: placement.key for name, placement in KEYED.items()}
    golden_file("keys").write_text(json.dumps(keys, indent=1) + "\n")


if __name__ == "__main__":
    main()
