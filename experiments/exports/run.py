"""Train networks of several libraries with SE, export each in every format, and keep the proofs: exports.csv, table.md.

python experiments/exports/run.py --data PATH/TO/cifar10 [NAME ...]
python experiments/exports/run.py --latency-only [NAME ...]

The data are class folders ``train/`` and ``test/`` of small images, of which a fixed subset is used. Trainings and
exports stay in ``--work``; repeat the command to continue where it stopped; networks in exports.csv are left
alone. ``--latency-only`` runs the exported files again, on a machine that should do nothing else, and puts their
latencies into the table.
"""

from __future__ import annotations

import argparse
import csv
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
from PIL import Image

import se_nas
from se_nas.commands.results import existing_run, stored
from se_nas.commands.train import train_placement
from se_nas.core.config import TrainConfig
from se_nas.core.errors import SeNasError
from se_nas.core.trial import Recipe, Target
from se_nas.data.base import DataInfo
from se_nas.exports.bundle import load
from se_nas.exports.formats import FORMATS
from se_nas.exports.images import part_images
from se_nas.exports.proof import Proof, observe, prove
from se_nas.training.provenance import device_name

HERE = Path(__file__).resolve().parent
FILE, TABLE = HERE / "exports.csv", HERE / "table.md"
TRAIN, VAL, TEST = 5000, 2000, 500
ANIMALS = ("bird", "cat", "deer", "dog", "frog", "horse")
CONVNEXT = {"hidden_sizes": [32, 64, 128], "num_stages": 3, "depths": [2, 2, 2], "patch_size": 2}
MONAI = {"spatial_dims": 2, "n_input_channels": 3, "conv1_t_size": 3, "conv1_t_stride": 1}
SEGMENTER = HERE.parent / "segmentation" / "segmenter.py"


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network of the table, and how it is trained."""

    library: str
    backbone: Target
    epochs: int = 6
    lr: float = 0.003
    placement: str = "all:4"
    task: Target = field(default_factory=lambda: Target(target="classification"))
    data: str = "classes"


NETWORKS = {
    "resnet20": Network(library="se-nas", backbone=Target(target="resnet20"), epochs=4),
    "mobilenetv2_wd4": Network(library="pytorchcv", backbone=Target(target="pytorchcv:mobilenetv2_wd4"), epochs=12),
    "shufflenetv2_wd2": Network(library="pytorchcv", backbone=Target(target="pytorchcv:shufflenetv2_wd2"), epochs=12),
    "convnext": Network(library="transformers", backbone=Target(target="hf:convnext", args=CONVNEXT), epochs=6),
    "resnet10": Network(library="monai", backbone=Target(target="monai.networks.nets:resnet10", args=MONAI), epochs=4),
    "dense": Network(library="own file", backbone=Target(target=f"{HERE / 'plain.py'}:Dense"), epochs=6),
    "unet": Network(
        library="own file",
        backbone=Target(target=f"{SEGMENTER}:UNet"),
        task=Target(target=f"{SEGMENTER}:LitSegmenter"),
        data="mosaics",
        epochs=10,
    ),
}
COLUMNS = (
    "network library placement params epochs train_images val_images trained_accuracy format file bytes difference "
    "scale agreement accuracy accuracy_difference latency_ms latency_low latency_high torch onnxruntime device error"
).split()


def subset(folder: Path, start: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, side, side, 3) and classes (n,): the same number of each class, in the order of their names."""
    images, labels = [], []
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    first, last = start // len(classes), (start + count) // len(classes)
    for label, path in enumerate(classes):
        for file in sorted(path.iterdir())[first:last]:
            images.append(np.asarray(Image.open(file).convert("RGB")))
            labels.append(label)
    return np.stack(images), np.array(labels)


def mosaics(images: np.ndarray, animal: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Four images at half size in one, and a mask of its pixels that are of animals: half of them, on average."""
    half = images.reshape(len(images), images.shape[1] // 2, 2, images.shape[2] // 2, 2, 3).mean((2, 4))
    generator = np.random.default_rng(seed)
    wanted = generator.integers(0, 2, (len(images) // 2, 4)).astype(bool)
    chosen = np.where(
        wanted,
        generator.choice(np.flatnonzero(animal), wanted.shape),
        generator.choice(np.flatnonzero(~animal), wanted.shape),
    )
    rows = [np.concatenate([half[chosen[:, k]], half[chosen[:, k + 1]]], axis=2) for k in (0, 2)]
    masks = wanted.reshape(-1, 2, 2).repeat(half.shape[1], axis=1).repeat(half.shape[2], axis=2)
    return np.concatenate(rows, axis=1).round().astype(np.uint8), masks.astype(np.uint8)


def write_archives(data: Path, work: Path) -> None:
    """``classes.npz`` and ``mosaics.npz``: the three parts of each kind of data."""
    animal = np.array([name in ANIMALS for name in sorted(path.name for path in (data / "train").iterdir())])
    classes, masks = {}, {}
    for seed, (part, folder, start, count) in enumerate(
        [("train", "train", 0, TRAIN), ("val", "test", 0, VAL), ("test", "test", VAL, TEST)]
    ):
        images, labels = subset(data / folder, start, count)
        classes |= {f"x_{part}": images, f"y_{part}": labels}
        pictures, mask = mosaics(images, animal[labels], seed)
        masks |= {f"x_{part}": pictures, f"y_{part}": mask}
    np.savez(work / "classes.npz", **classes)
    np.savez(work / "mosaics.npz", **masks)


def exported(run: Path) -> dict[str, Proof | SeNasError]:
    """Format -> its proof, or why there is none. What can be written lies in ``RUN/exported`` together."""
    settings: dict[str, Any] = {"max_drop": 1.0, "force": True}
    found: dict[str, Proof | SeNasError] = {}
    good = list(FORMATS)
    while True:
        try:
            done = se_nas.export(run, formats=good, to=run / "exported", **settings)
            return found | {proof.format: proof for proof in done.proofs}
        except SeNasError:
            for name in FORMATS:  # which ones; one that fails leaves nothing of an export
                try:
                    se_nas.export(run, formats=[name], to=run / "single", **settings)
                except SeNasError as error:
                    found[name] = error
            if not found:
                raise
            good = [name for name in FORMATS if name not in found]


def rows_of(name: str, work: Path) -> Iterator[dict[str, Any]]:
    """Train and export one network; a row for each format."""
    network = NETWORKS[name]
    recipe = Recipe(epochs=network.epochs, batch_size=64, optimizer="adamw", lr=network.lr, augment="shift-flip")
    done = train_placement(
        TrainConfig(
            placement=network.placement,
            backbone=network.backbone,
            data=Target(target=f"npz:{work / network.data}.npz"),
            task=network.task,
            train=recipe,
            executor=Target(target="inline"),
            device="cpu",
            out=str(work / name),
        )
    )
    row = {
        "network": name,
        "library": network.library,
        "placement": network.placement,
        "params": int(done.trial.costs["params"].value),
        "epochs": network.epochs,
        "train_images": TRAIN if network.data == "classes" else TRAIN // 2,
    }
    for format_name, proof in exported(done.folder).items():
        if isinstance(proof, Proof):
            yield row | figures(proof)
        else:
            yield row | {"format": format_name, "error": proof.what}


def figures(proof: Proof) -> dict[str, Any]:
    """What a row says of one proof."""
    accuracy = {}
    if proof.accuracy is not None and proof.trained_accuracy is not None:
        accuracy = {
            "trained_accuracy": f"{proof.trained_accuracy:.4f}",
            "accuracy": f"{proof.accuracy:.4f}",
            "accuracy_difference": f"{proof.accuracy - proof.trained_accuracy:+.4f}",
        }
    return {
        "format": proof.format,
        "file": proof.file,
        "bytes": proof.bytes,
        "val_images": proof.images,
        "difference": f"{proof.difference:.3g}",
        "scale": f"{proof.scale:.3g}",
        "agreement": f"{proof.agreement:.4f}",
        "torch": proof.versions.get("torch", ""),
        "onnxruntime": proof.versions.get("onnxruntime", ""),
        **accuracy,
        **latency(proof),
    }


def latency(proof: Proof) -> dict[str, Any]:
    """The columns that depend on how busy the machine is."""
    low, high = proof.latency.interval or (proof.latency.value,) * 2
    times = {"latency_ms": proof.latency.value, "latency_low": low, "latency_high": high}
    return {"device": device_name("cpu")} | {column: f"{value:.3f}" for column, value in times.items()}


def measured_again(name: str, work: Path, rows: list[dict[str, Any]]) -> None:
    """Run the exported files of a network on a few images, and put their latencies into its rows."""
    _, study = existing_run(work / name)
    folder = work / name / "exported"
    trained = observe(load(folder), part_images(work / name, stored(study, "data", DataInfo), "val", limit=64))
    with tempfile.TemporaryDirectory() as workshop:
        for row in rows:
            if not row["error"]:
                row |= latency(prove(row["format"], folder, trained, Path(workshop), max_drop=1.0))


def read_rows() -> dict[str, list[dict[str, Any]]]:
    """Network -> its rows in exports.csv."""
    found: dict[str, list[dict[str, Any]]] = {}
    if FILE.is_file():
        with FILE.open(newline="") as stream:
            for row in csv.DictReader(stream):
                found.setdefault(row["network"], []).append(row)
    return found


def write_rows(rows: dict[str, list[dict[str, Any]]]) -> None:
    with FILE.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS, restval="")
        writer.writeheader()
        for name in NETWORKS:
            writer.writerows(rows.get(name, []))
    TABLE.write_text("\n".join(_table(rows)) + "\n")


def _table(rows: dict[str, list[dict[str, Any]]]) -> Iterator[str]:
    """The rows as people read them, in Markdown; differences are shares of the largest output."""
    yield "| network | format | difference / largest output | same predictions | accuracy | KiB | latency, ms |"
    yield "|---|---|---|---|---|---|---|"
    for name in NETWORKS:
        for number, row in enumerate(rows.get(name, [])):
            named = f"`{name}` ({row['library']}, {int(row['params']):,} params, accuracy {row['trained_accuracy']})"
            cells = ["" if number else named, row["format"]]
            if row.get("error"):
                yield "| " + " | ".join([*cells, f"not written: {row['error']}", "", "", "", ""]) + " |"
                continue
            share = float(row["difference"]) / float(row["scale"])
            cells += [f"{share:.1e}", f"{100 * float(row['agreement']):.2f} %", row["accuracy_difference"]]
            cells += [f"{int(row['bytes']) / 1024:,.0f}"]
            cells += [f"{row['latency_ms']} ({row['latency_low']} to {row['latency_high']})"]
            yield "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="class folders train/ and test/")
    parser.add_argument("--work", type=Path, default=Path("runs/exports"), help="where trainings and exports are kept")
    parser.add_argument("--latency-only", action="store_true", help="only run the exported files again")
    parser.add_argument("names", nargs="*", help=f"which networks; default all: {', '.join(NETWORKS)}")
    given = parser.parse_args()
    if unknown := [name for name in given.names if name not in NETWORKS]:
        parser.error(f"unknown network {unknown[0]!r}; there are {', '.join(NETWORKS)}")
    work = given.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    rows = read_rows()
    if not given.latency_only and not (work / "mosaics.npz").is_file():
        if given.data is None:
            parser.error("--data is needed to make the data")
        write_archives(given.data, work)
    for name in given.names or (rows if given.latency_only else NETWORKS):
        start = time.perf_counter()
        if given.latency_only:
            measured_again(name, work, rows[name])
        elif name in given.names or name not in rows:
            rows[name] = list(rows_of(name, work))
        write_rows(rows)
        for row in rows[name]:
            shown = ("network", "format", "difference", "agreement", "accuracy", "latency_ms", "error")
            print(*(row.get(column, "") for column in shown), flush=True)
        print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
