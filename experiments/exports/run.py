"""Train six networks of four libraries with SE, export each in every format, and keep the proofs; writes exports.csv.

python experiments/exports/run.py --data PATH/TO/cifar10 [NAME ...]

The data are class folders ``train/`` and ``test/`` of small images; a fixed subset is used, ``test/`` as validation.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
from PIL import Image

import se_nas
from se_nas.config import SearchConfig
from se_nas.errors import SeNasError
from se_nas.evaluate import device_name
from se_nas.formats import FORMATS
from se_nas.records import Recipe, Target

FILE = Path(__file__).with_name("exports.csv")
VAL = 1000

CONVNEXT = {"hidden_sizes": [24, 48, 96, 192], "depths": [1, 1, 2, 1], "patch_size": 2}
NETWORKS = {
    "resnet20": ("se-nas", Target(target="resnet20")),
    "mobilenetv2_wd4": ("pytorchcv", Target(target="pytorchcv:mobilenetv2_wd4")),
    "shufflenetv2_wd2": ("pytorchcv", Target(target="pytorchcv:shufflenetv2_wd2")),
    "densenet40_k12": ("pytorchcv", Target(target="pytorchcv:densenet40_k12_cifar10")),
    "convnext": ("transformers", Target(target="hf:convnext", args=CONVNEXT)),
    "resnet10": (
        "monai",
        Target(target="monai.networks.nets:resnet10", args={"spatial_dims": 2, "n_input_channels": 3}),
    ),
}
COLUMNS = (
    "network library placement params epochs val_images trained_accuracy format file bytes difference scale agreement "
    "accuracy accuracy_difference latency_ms latency_low latency_high torch onnxruntime device error"
).split()


def subset(folder: Path, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first images of every class, the same number of each."""
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    images, labels = [], []
    for label, path in enumerate(classes):
        for file in sorted(path.iterdir())[: count // len(classes)]:
            images.append(np.asarray(Image.open(file).convert("RGB")))
            labels.append(label)
    return np.stack(images), np.array(labels)


def exported(folder: Path, select: str) -> dict[str, Any]:
    """Format -> its proof, or the error; all at once, and one by one if one of them fails."""
    settings: dict[str, Any] = {"select": select, "force": True, "max_drop": 1.0, "to": folder / "exported"}
    try:
        return {proof.format: proof for proof in se_nas.export(folder, formats=list(FORMATS), **settings).proofs}
    except SeNasError:
        found: dict[str, Any] = {}
    for name in FORMATS:
        try:
            found[name] = se_nas.export(folder, formats=[name], **settings).proofs[-1]
        except SeNasError as error:
            found[name] = error
    return found


def rows_of(name: str, archive: Path, work: Path, epochs: int) -> list[dict[str, Any]]:
    library, backbone = NETWORKS[name]
    space = work / "space.yaml"
    space.write_text("reductions: [none, 4]\n")
    result = se_nas.search(
        SearchConfig(
            backbone=backbone,
            data=Target(target=f"npz:{archive}"),
            space=str(space),
            executor=Target(target="inline"),
            train=Recipe(epochs=epochs, batch_size=64, optimizer="adamw", lr=0.003),
            budget=2,
            device="cpu",
            keep_weights="all",
            out=str(work / name),
        )
    )
    done = result.trials[result.trials["state"] == "complete"]
    chosen = done.loc[done["params"].idxmax()]
    rows = []
    for format_name, proof in exported(result.folder, f"trial={chosen['trial']}").items():
        row = {"network": name, "library": library, "placement": chosen["placement"], "params": chosen["params"]}
        row["epochs"] = epochs
        row |= {"format": format_name, "device": device_name("cpu"), "error": ""}
        if isinstance(proof, SeNasError):
            rows.append(row | {"error": proof.what})
            continue
        low, high = proof.latency.interval
        rows.append(
            row
            | {
                "val_images": proof.images,
                "trained_accuracy": f"{proof.trained_accuracy:.4f}",
                "file": proof.file,
                "bytes": proof.bytes,
                "difference": f"{proof.difference:.3g}",
                "scale": f"{proof.scale:.3g}",
                "agreement": f"{proof.agreement:.4f}",
                "accuracy": f"{proof.accuracy:.4f}",
                "accuracy_difference": f"{proof.accuracy - proof.trained_accuracy:+.4f}",
                "latency_ms": f"{proof.latency.value:.3f}",
                "latency_low": f"{low:.3f}",
                "latency_high": f"{high:.3f}",
                "torch": proof.versions.get("torch", ""),
                "onnxruntime": proof.versions.get("onnxruntime", ""),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--train", type=int, default=2000, help="training images")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("names", nargs="*", default=list(NETWORKS))
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "images.npz"
        train, val = subset(given.data / "train", given.train), subset(given.data / "test", VAL)
        np.savez(archive, x_train=train[0], y_train=train[1], x_val=val[0], y_val=val[1])
        for name in given.names:
            rows += rows_of(name, archive, Path(folder), given.epochs)
            for row in rows[-len(FORMATS) :]:
                print(*(row.get(c, "") for c in ("network", "format", "difference", "accuracy_difference", "error")))
            sys.stdout.flush()
            if given.names == list(NETWORKS):
                with FILE.open("w", newline="") as stream:
                    writer = csv.DictWriter(stream, COLUMNS)
                    writer.writeheader()
                    writer.writerows(rows)


if __name__ == "__main__":
    main()
