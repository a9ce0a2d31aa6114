"""The formats of an export: a table of those that there are, each a function that writes one file.

Every format but the ONNX ones needs torch alone. Half precision computes in float16 and quantised networks in 8-bit
integers; both take and give float32.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from se_nas.core.errors import ConfigError, RunError, SeNasError, did_you_mean
from se_nas.exports.bundle import PLACEMENT, WEIGHTS
from se_nas.exports.onnx_writer import PACKAGES, write_int8, write_onnx
from se_nas.exports.writers import Job, first_line, write_pt2, write_python

CALIBRATION = 512
"""Training images from which the ranges of a quantised network are taken, at most."""


@dataclass(frozen=True, kw_only=True)
class Format:
    """One format. `exact` ones must give the outputs of the trained network, the others its accuracy."""

    file: str
    write: Callable[[Job, Path], None]
    exact: bool = True
    needs: tuple[str, ...] = ()
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
    "onnx": Format(file="network.onnx", write=write_onnx, needs=PACKAGES, what="ONNX"),
    "onnx-half": Format(
        file="network-half.onnx",
        write=functools.partial(write_onnx, half=True),
        exact=False,
        needs=PACKAGES,
        what="ONNX, float16",
    ),
    "onnx-int8": Format(
        file="network-int8.onnx", write=write_int8, exact=False, needs=PACKAGES, what="ONNX, 8-bit integers"
    ),
}


def check_formats(names: Sequence[str]) -> tuple[str, ...]:
    """The names without repetition, ``safetensors`` first.

    Raises
    ------
    ConfigError
        If a name is unknown, or a package that it needs is not installed.
    """
    for name in names:
        if name not in FORMATS:
            raise ConfigError(f"unknown format {name!r}", allowed=FORMATS, hint=did_you_mean(name, FORMATS))
        if lacking := [package for package in FORMATS[name].needs if importlib.util.find_spec(package) is None]:
            raise ConfigError(
                f"the format {name} needs {', '.join(lacking)}, which {'is' if len(lacking) == 1 else 'are'} "
                "not installed",
                hint=f"pip install {' '.join(lacking)}, or the extra: pip install 'se-nas[export]'",
            )
    return tuple(dict.fromkeys(("safetensors", *names)))


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
