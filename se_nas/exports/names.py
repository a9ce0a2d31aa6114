"""What the formats and files of an export are called; light, so that a wrong name is answered at once."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Sequence

from se_nas.core.errors import ConfigError, did_you_mean

PLACEMENT = "placement.json"
WEIGHTS = "model.safetensors"

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
"""What the ONNX formats need."""

NEEDS: dict[str, tuple[str, ...]] = {
    "safetensors": (),
    "python": (),
    "pt2": (),
    "pt2-half": (),
    "onnx": PACKAGES,
    "onnx-half": PACKAGES,
    "onnx-int8": PACKAGES,
}
"""Format -> packages that it needs beside torch; `se_nas.exports.formats.FORMATS` says how each is written."""


def listed_names(formats: str | Iterable[str]) -> list[str]:
    """The names of a list, or of a text with commas between."""
    names = formats.split(",") if isinstance(formats, str) else list(formats)
    return [name.strip() for name in names if name.strip()]


def check_formats(names: Sequence[str]) -> tuple[str, ...]:
    """The names without repetition, ``safetensors`` first.

    Raises
    ------
    ConfigError
        If a name is unknown, or a package that it needs is not installed.
    """
    for name in names:
        if name not in NEEDS:
            raise ConfigError(f"unknown format {name!r}", allowed=NEEDS, hint=did_you_mean(name, NEEDS))
        if lacking := [package for package in NEEDS[name] if importlib.util.find_spec(package) is None]:
            raise ConfigError(
                f"the format {name} needs {', '.join(lacking)}, which {'is' if len(lacking) == 1 else 'are'} "
                "not installed",
                hint=f"pip install {' '.join(lacking)}, or the extra: pip install 'se-nas[export]'",
            )
    return tuple(dict.fromkeys(("safetensors", *names)))
