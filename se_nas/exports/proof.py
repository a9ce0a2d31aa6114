"""Proof of an export: each file, in a process of its own, on real validation images, beside the trained network."""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from se_nas.backbones.adapt import logits_of
from se_nas.core.errors import RunError
from se_nas.core.trial import CostValue
from se_nas.core.version import __version__
from se_nas.exports import proof_runner
from se_nas.exports.formats import FORMATS
from se_nas.exports.images import Images
from se_nas.space.stopwatch import median_interval

TOLERANCE = 1e-4
"""Largest difference of an exact format, as a share of the largest output of the trained network."""

MAX_DROP = 0.02
"""Accuracy that half precision and quantisation may lose, as a share of the images."""

CHANGED = 10
"""They may change so many times as many predictions: equal accuracy with other predictions is another network."""


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
    real: bool = True
    """Whether the images are of the data, and not noise."""


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
        versions={"se-nas": __version__, **report["versions"]},
        real=trained.data.real,
    )
    judge(proof, exact=FORMATS[name].exact, max_drop=max_drop)
    return proof


def _error(done: subprocess.CompletedProcess[str]) -> str:
    """The error at the end of a process's traceback, or else how it ended.

    >>> _error(subprocess.CompletedProcess([], 1, "", "Traceback\\n  File ...\\na.b.Fail: [X] : 2 : axis\\n 0: 64\\n"))
    'a.b.Fail: [X] : 2 : axis 0: 64'
    >>> _error(subprocess.CompletedProcess([], -9, "", "no memory"))
    'exit code -9'
    """
    lines = done.stderr.splitlines()
    last = max((i for i, line in enumerate(lines) if re.match(r"[A-Za-z_][\w.]*(: |$)", line)), default=None)
    return f"exit code {done.returncode}" if last is None else " ".join(line.strip() for line in lines[last:])[:500]


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
        said = _error(done)
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
