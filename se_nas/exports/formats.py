"""The formats of an export, by their names in `se_nas.exports.names`: each a function that writes one file.

Every format but the ONNX ones needs torch alone. Half precision computes in float16 and quantised networks in 8-bit
integers; both take and give float32.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from se_nas.core.errors import RunError, SeNasError
from se_nas.exports.names import PLACEMENT, WEIGHTS
from se_nas.exports.onnx_writer import write_int8, write_onnx
from se_nas.exports.writers import Job, first_line, write_pt2, write_python

CALIBRATION = 512
"""Training images from which the ranges of a quantised network are taken, at most."""


@dataclass(frozen=True, kw_only=True)
class Format:
    """One format. `exact` ones must give the outputs of the trained network, the others its accuracy."""

    file: str
    write: Callable[[Job, Path], None]
    exact: bool = True
    what: str = ""


def _there(job: Job, file: Path) -> None:
    """Weights and placement are always there."""


FORMATS: dict[str, Format] = {
    "safetensors": Format(file=WEIGHTS, write=_there, what=f"weights and {PLACEMENT}, for se_nas.load"),
    "python": Format(file="network.py", write=write_python, what="source that builds the network without se-nas"),
    "pt2": Format(file="network.pt2", write=write_pt2, what="torch.export"),
    "pt2-half": Format(
        file="network-half.pt2",
        write=functools.partial(write_pt2, half=True),
        exact=False,
        what="torch.export, float16",
    ),
    "onnx": Format(file="network.onnx", write=write_onnx, what="ONNX"),
    "onnx-half": Format(
        file="network-half.onnx",
        write=functools.partial(write_onnx, half=True),
        exact=False,
        what="ONNX, float16",
    ),
    "onnx-int8": Format(file="network-int8.onnx", write=write_int8, exact=False, what="ONNX, 8-bit integers"),
}


def write_format(name: str, job: Job) -> Path:
    """Write one format into the folder of the job.

    Raises
    ------
    SeNasError
        If the network cannot be written so, with what to do.
    """
    file = job.folder / FORMATS[name].file
    with quiet():
        try:
            FORMATS[name].write(job, file)
        except (SeNasError, OSError):
            raise
        except Exception as error:  # whatever an exporter or the user's forward raises for what cannot be done
            raise RunError(
                f"the network cannot be written as {name}: {type(error).__name__}: {first_line(str(error))}",
                hint="choose another format; python and safetensors take every network",
            ) from error
    return file


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what exporters say about themselves; the proof tells whether their work is good."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(before)
