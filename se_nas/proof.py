"""Proof of an export: each file, in a process of its own, on real validation images, beside the trained network."""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from se_nas import proof_runner
from se_nas.backbones.adapt import logits_of
from se_nas.data import open_part, open_source, prepare_data
from se_nas.data.base import DataInfo, PartName
from se_nas.data.batches import Batches
from se_nas.data.module import AnyDataModule, pair_of
from se_nas.errors import DataError, RunError
from se_nas.formats import FORMATS
from se_nas.measure import median_interval
from se_nas.records import CostValue, Recipe, random_stream
from se_nas.train import make_trainer, quiet

MAX_IMAGES = 10_000
MAX_BYTES = 256 * 2**20
"""Validation images that a proof takes, at most: so many, and so much memory as float32."""

TOLERANCE = 1e-4
"""Largest difference of an exact format, as a share of the largest output of the trained network."""

MAX_DROP = 0.02
"""Accuracy that half precision and quantisation may lose, as a share of the images."""

CHANGED = 10
"""They may change so many times as many predictions: equal accuracy with other predictions is another network."""


@dataclass(frozen=True, kw_only=True)
class Images:
    """Normalised images (n, channels, *size), float32, and labels (n, ...); `of` says how many the part has.

    Of a data module `of` is how many were seen, and labels are empty if they are no tensors of one shape.
    """

    images: Tensor
    labels: Tensor
    of: int


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What the trained network gives for the images of a proof."""

    data: Images
    outputs: np.ndarray
    accuracy: float | None
    """Share of right predictions, or None where outputs and labels are of another kind."""


@dataclass(frozen=True, kw_only=True)
class Proof:
    """How a file behaved beside the trained network."""

    format: str
    file: str
    bytes: int
    images: int
    difference: float
    """Largest absolute difference of an output."""
    scale: float
    """Largest absolute output of the trained network."""
    agreement: float
    """Share of predictions that are the same."""
    accuracy: float | None
    trained_accuracy: float | None
    latency: CostValue
    """Median of single images on one thread, ms, with its 90 % interval."""
    versions: dict[str, str] = field(default_factory=dict)


def part_images(
    run: Path, data: DataInfo, part: PartName, *, limit: int = MAX_IMAGES, max_bytes: int = MAX_BYTES
) -> Images:
    """Images of the training or validation part, as training sees them; of too many a fixed random choice.

    From a data module, the first ones that its loader gives, with what its hooks do to a batch in validation.

    Raises
    ------
    DataError
        If the data have changed since the search.
    """
    limit = max(1, min(limit, max_bytes // (4 * int(np.prod(data.input_shape)))))
    if data.kind == "module":
        return _module_images(data, part, limit)
    if not (run / "data" / f"{part}_images.npy").is_file():
        found = prepare_data(data.target, run)
        if found.checksum != data.checksum:
            raise DataError("the data set is not the one of the search: its checksum differs", where=data.target.target)
    stored = open_part(run, part)
    of = len(stored.labels)
    chosen = np.arange(of)
    if of > limit:
        chosen = np.sort(np.random.default_rng(random_stream(0, "proof", part)).choice(of, limit, replace=False))
    batches = Batches(
        type(stored)(images=stored.images[chosen], labels=stored.labels[chosen]),
        batch_size=512, mean=data.mean, std=data.std, device=torch.device("cpu"),
    )  # fmt: skip
    pairs = list(batches)
    return Images(images=torch.cat([i for i, _ in pairs]), labels=torch.cat([label for _, label in pairs]), of=of)


def _module_images(data: DataInfo, part: PartName, limit: int) -> Images:
    seen = _Seen()
    shown = _Shown(open_source(data.target)[0], part, limit)
    trainer = make_trainer(Recipe(), torch.device("cpu"), "32")
    with quiet():
        trainer.validate(seen, datamodule=shown, verbose=False)
    images = torch.cat(seen.images)[:limit].float()
    targets = [labels for labels in seen.labels if isinstance(labels, Tensor)]
    alike = len(targets) == len(seen.labels) and len({labels.shape[1:] for labels in targets}) == 1
    labels = torch.cat(targets)[:limit] if alike else torch.empty(0)
    return Images(images=images, labels=labels, of=sum(map(len, seen.images)))


class _Seen(pl.LightningModule):
    """Keeps what a network would be given, after all that a data module does with its batches."""

    def __init__(self) -> None:
        super().__init__()
        self.images: list[Tensor] = []
        self.labels: list[Any] = []

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        images, labels = pair_of(batch)
        self.images.append(images)
        self.labels.append(labels)


class _Shown(AnyDataModule):
    """A part of a data module where Lightning looks for validation data, up to so many images."""

    def __init__(self, inner: Any, part: PartName, limit: int) -> None:
        super().__init__(inner)
        self.part, self.limit = part, limit

    def setup(self, stage: str) -> None:
        super().setup("fit")

    def val_dataloader(self) -> Any:
        loader = self.inner.val_dataloader() if self.part == "val" else self.inner.train_dataloader()
        return _First(loader[0] if isinstance(loader, list | tuple) else loader, self.limit)


class _First:
    """The first batches of a loader, until they have so many images."""

    def __init__(self, loader: Any, limit: int) -> None:
        self.loader, self.limit = loader, limit

    def __iter__(self) -> Iterator[Any]:
        count = 0
        for batch in self.loader:
            if count >= self.limit:
                return
            count += len(pair_of(batch)[0])
            yield batch


def observe(network: nn.Module, data: Images) -> Trained:
    """Run the trained network on the images of a proof."""
    outputs = []
    with torch.inference_mode():
        for batch in torch.split(data.images, proof_runner.BATCH):
            output = logits_of(network(batch))
            if output is None:
                raise RunError("the network gives no tensor, so its exports cannot be compared")
            outputs.append(output)
    values = torch.cat(outputs).numpy()
    return Trained(data=data, outputs=values, accuracy=_accuracy(values, data.labels.numpy()))


def prove(name: str, folder: Path, trained: Trained, workshop: Path, *, max_drop: float = MAX_DROP) -> Proof:
    """Run the file of a format in a fresh process and compare it with the trained network.

    Parameters
    ----------
    folder:
        Where the file and what belongs to it lie.
    workshop:
        A folder for images and outputs.
    max_drop:
        Accuracy that a format which is not exact may lose, between 0 and 1.

    Raises
    ------
    RunError
        If the file cannot be run, or is not equal.
    """
    given, got = workshop / "images.npy", workshop / f"{name}.npy"
    if not given.is_file():
        np.save(given, trained.data.images.numpy())
    file = folder / FORMATS[name].file
    report = _run(name, folder, file, given, got)
    outputs = np.load(got, allow_pickle=False)
    single, outputs = outputs[-1:], outputs[:-1]
    times = [1000 * seconds for seconds in report["seconds"]]
    labels = trained.data.labels.numpy()
    proof = Proof(
        format=name,
        file=file.name,
        bytes=file.stat().st_size,
        images=len(outputs),
        difference=float(max(_difference(outputs, trained.outputs), _difference(single, trained.outputs[:1]))),
        scale=float(np.abs(trained.outputs).max()),
        agreement=float((_predictions(outputs) == _predictions(trained.outputs)).mean()),
        accuracy=_accuracy(outputs, labels),
        trained_accuracy=trained.accuracy,
        latency=CostValue(value=statistics.median(times), unit="ms", kind="measured", interval=median_interval(times)),
        versions=report["versions"],
    )
    judge(proof, exact=FORMATS[name].exact, max_drop=max_drop)
    return proof


def _run(name: str, folder: Path, file: Path, given: Path, got: Path) -> dict[str, Any]:
    kind = name.partition("-")[0]
    command = [sys.executable, "-s", "-P", "-W", "ignore", str(Path(proof_runner.__file__).resolve())]
    # Libraries and the user's own packages must be found; the search's code is shut out by the script.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(str(Path(path).absolute()) for path in sys.path)}
    if kind not in ("safetensors", "python"):
        command.insert(1, "-I")
    done = subprocess.run(
        [*command, name, str(folder), str(file), str(given), str(got)],
        capture_output=True, text=True, check=False, cwd=folder,
        env={**environment, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if re.match(r"\w[\w.]*(Error|Exception)\b", line)]
        said = errors[-1] if errors else f"exit code {done.returncode}"
        raise RunError(
            f"the exported {file.name} does not run in a fresh process: {said}",
            hint=_missing(said) or "choose another format, or report this with the network's name",
        )
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def _missing(message: str) -> str | None:
    if "ModuleNotFoundError" not in message:
        return None
    return "the backbone's code must be importable without se-nas: install its package, or give it as path/to/file.py"


def _difference(outputs: np.ndarray, expected: np.ndarray) -> float:
    if outputs.shape != expected.shape:
        return float("inf")
    difference = np.abs(outputs.astype(np.float64) - expected)
    return float("inf") if not np.isfinite(difference).all() else float(difference.max())


def _predictions(outputs: np.ndarray) -> np.ndarray:
    return outputs.argmax(1) if outputs.ndim > 1 and outputs.shape[1] > 1 else outputs > 0


def _accuracy(outputs: np.ndarray, labels: np.ndarray) -> float | None:
    """Share of right classes (of images, or of their pixels), or of right labels where each class has its own."""
    if outputs.ndim > 1 and labels.shape == (outputs.shape[0], *outputs.shape[2:]) and outputs.shape[1] > 1:
        return float((outputs.argmax(1) == labels).mean())
    return float(((outputs > 0) == (labels > 0.5)).mean()) if labels.shape == outputs.shape else None


def judge(proof: Proof, *, exact: bool, max_drop: float) -> None:
    """RunError unless the file is as good as the trained network."""
    allowed = TOLERANCE * max(1.0, proof.scale)
    said = f"largest difference {proof.difference:.3g}, {100 * proof.agreement:.2f} % of the predictions are the same"
    if exact and not proof.difference <= allowed:
        raise RunError(
            f"the exported {proof.file} is not equal to the trained network: {said}; allowed is {allowed:.3g}",
            hint="choose another format, or report this with the network's name",
        )
    if exact:
        return
    changed = 1 - proof.agreement
    if proof.accuracy is None or proof.trained_accuracy is None:
        drop, what = changed, "predictions"
    else:
        drop, what = proof.trained_accuracy - proof.accuracy, "accuracy"
    hint = "allow more with --max-drop, or choose another format"
    if not np.isfinite(proof.difference) or drop > max_drop:
        raise RunError(
            f"the exported {proof.file} loses {100 * drop:.2f} points of {what}, more than {100 * max_drop:g}: {said}",
            hint=hint,
        )
    if changed > CHANGED * max_drop:
        raise RunError(
            f"the exported {proof.file} keeps the accuracy but changes {100 * changed:.1f} % of the predictions, "
            f"more than {100 * CHANGED * max_drop:g} %: it is another network",
            hint=hint,
        )
