"""Runs an exported network in a process of its own; a script that uses nothing of the search.

python proof_runner.py FORMAT FOLDER FILE IMAGES.npy OUTPUTS.npy

Writes the outputs, and prints as JSON the times of single images in seconds and the versions of what ran it. All but
``safetensors``, whose loader is ``se_nas.load``, must do without se-nas: it cannot be imported then.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

BATCH = 64
"""Images at a time; an image alone is run as well, so that no batch size is baked in."""

ROUNDS = 31
"""Timed runs."""

MIN_RUN = 0.004
"""Seconds that one timed run takes at least."""

Run = Callable[[np.ndarray], np.ndarray]


def _torch(network: Any) -> Run:
    import torch

    torch.set_num_threads(1)

    def run(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            output = network(torch.from_numpy(images))
        return np.asarray(_logits(output).numpy())

    return run


def _logits(output: Any) -> Any:
    """The rule of `se_nas.backbones.adapt.logits_of`, which cannot be imported here."""
    if isinstance(output, Mapping):
        named = [output[name] for name in ("logits", "out") if name in output]
        output = (named or [value for value in output.values() if hasattr(value, "numpy")])[0]
    return getattr(output, "logits", output)


def _safetensors(folder: Path, file: Path) -> Run:
    return _torch(importlib.import_module("se_nas").load(folder, trust=True))  # who exports has checked it


def _python(folder: Path, file: Path) -> Run:
    sys.path.insert(0, str(folder))
    return _torch(importlib.import_module(file.stem).load())


def _pt2(folder: Path, file: Path) -> Run:
    import torch

    return _torch(torch.export.load(file).module())


def _onnx(folder: Path, file: Path) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: np.asarray(session.run(None, {name: images})[0])


LOADERS: dict[str, Callable[[Path, Path], Run]] = {
    "safetensors": _safetensors,
    "python": _python,
    "pt2": _pt2,
    "onnx": _onnx,
}
"""By the first part of a format's name."""


def main(format_name: str, folder: str, file: str, images_file: str, outputs_file: str) -> None:
    """Load the network, run all images, time single ones."""
    warnings.simplefilter("ignore")  # of the libraries that load; what counts is the outputs
    kind = format_name.partition("-")[0]
    if kind != "safetensors":
        sys.modules["se_nas"] = None  # type: ignore[assignment]  # makes every import of it fail
    run = LOADERS[kind](Path(folder), Path(file))
    images = np.load(images_file, mmap_mode="r")
    batches = [run(np.array(images[start : start + BATCH])) for start in range(0, len(images), BATCH)]
    one = np.array(images[:1])
    np.save(outputs_file, np.concatenate([*batches, run(one)]))
    print(json.dumps({"seconds": _times(lambda: run(one)), "versions": _versions()}))


def _times(call: Callable[[], Any]) -> list[float]:
    for _ in range(5):
        start = time.perf_counter()
        call()
        once = time.perf_counter() - start
    calls = max(1, round(MIN_RUN / once))
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for _ in range(calls):
            call()
        times.append((time.perf_counter() - start) / calls)
    return times


def _versions() -> dict[str, str]:
    names = ("torch", "onnxruntime", "se_nas")
    found = {name: getattr(sys.modules.get(name), "__version__", None) for name in names}
    return {name: str(version) for name, version in found.items() if version is not None}


if __name__ == "__main__":
    main(*sys.argv[1:])
