"""A NumPy archive with images and targets."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from se_nas.core.errors import DataError
from se_nas.data.arrays import Arrays, checked_targets
from se_nas.data.base import PartName

# The names that a part may have in the archive: ours, and those of MedMNIST.
_NAMES: dict[PartName, tuple[tuple[str, str], ...]] = {
    "train": (("x_train", "y_train"), ("train_images", "train_labels"), ("x", "y")),
    "val": (("x_val", "y_val"), ("val_images", "val_labels")),
    "test": (("x_test", "y_test"), ("test_images", "test_labels")),
}


def npz(path: str, num_classes: int | None = None) -> Arrays:
    """A NumPy archive with ``x`` and ``y``, or with ``x_train``, ``y_train`` and so on.

    Images (n, height, width[, channels]) or (n, channels, height, width), and targets: class numbers (n,) or (n, 1);
    for a task of the user's own also several labels (n, labels), masks of class numbers (n, height, width), one mask
    for each class (n, classes, height, width), or numbers of any shape.

    Parameters
    ----------
    num_classes:
        How many outputs the network has where the targets do not say it, such as 1 for a mask of 0 and 1.

    Raises
    ------
    DataError
        If the file is not such an archive; when images are read, also if their shape or number is wrong.
    """
    file = Path(path).expanduser()
    archive = _opened(file, path)
    names = {p: pair for p, pairs in _NAMES.items() for pair in reversed(pairs) if set(pair) <= set(archive.files)}
    if "train" not in names:
        raise DataError(
            f"{path!r} has the arrays {', '.join(archive.files) or '(none)'}",
            allowed=[f"{x} and {y}" for x, y in _NAMES["train"]],
            hint="val and test parts are optional: x_val, y_val, x_test, y_test",
        )
    if num_classes is not None and num_classes < 1:
        raise DataError(f"num_classes is {num_classes}", allowed=["a whole number from 1"])
    parts: dict[PartName, Any] = {}
    for part, (x, y) in names.items():
        targets = checked_targets(_read(archive, y, file), y, str(file))
        parts[part] = functools.partial(_images, archive, x, y, len(targets), file), targets
    status = file.stat()
    return Arrays(
        parts,
        classes=[str(index) for index in range(num_classes or 0)],
        fingerprint=f"{file.resolve()} {status.st_size} {status.st_mtime_ns}",
    )


def _opened(file: Path, given: str) -> Any:
    try:
        archive = np.load(file, allow_pickle=False)
        archive.files  # noqa: B018  # an array (.npy) has none
    except (OSError, ValueError, AttributeError, EOFError, BadZipFile) as error:
        reason = "it is not one" if "pickle" in str(error) else str(error)  # NumPy advises to run what it takes for one
        raise DataError(f"cannot read {given!r} as a NumPy archive (.npz): {reason}") from error
    return archive


def _read(archive: Any, name: str, file: Path) -> np.ndarray:
    try:
        return np.asarray(archive[name])
    except ValueError as error:  # an array of Python objects would be a pickle
        raise DataError(f"{name} cannot be read: {error}", where=str(file)) from error


def _images(archive: Any, name: str, targets: str, number: int, file: Path) -> np.ndarray:
    """The images of an archive as (n, channels, *size)."""
    images = _read(archive, name, file)
    if images.ndim == 3:
        images = images[:, None]  # grey
    elif images.ndim == 4 and images.shape[-1] in (1, 3, 4) and images.shape[1] not in (1, 3, 4):
        images = images.transpose(0, 3, 1, 2)
    if images.ndim < 4 or images.dtype.kind not in "uif":
        raise DataError(
            f"{name} has shape {images.shape} and type {images.dtype}",
            where=str(file),
            allowed=["(n, height, width)", "(n, height, width, channels)", "(n, channels, height, width)"],
        )
    if len(images) != number:
        raise DataError(f"{name} has {len(images)} images, {targets} has {number} labels", where=str(file))
    return images
