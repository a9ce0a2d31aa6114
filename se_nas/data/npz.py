"""A NumPy archive with images and labels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from se_nas.data.base import PartName, chunks
from se_nas.errors import DataError

# The names that a part may have in the archive: ours, and those of MedMNIST.
_NAMES: dict[PartName, tuple[tuple[str, str], ...]] = {
    "train": (("x_train", "y_train"), ("train_images", "train_labels"), ("x", "y")),
    "val": (("x_val", "y_val"), ("val_images", "val_labels")),
    "test": (("x_test", "y_test"), ("test_images", "test_labels")),
}


class Npz:
    """Images (n, height, width[, channels]) or (n, channels, height, width), and targets.

    Class numbers (n,) or (n, 1); for a task of the user's own also several labels (n, labels), masks of class numbers
    (n, height, width), one mask for each class (n, classes, height, width), or numbers of any shape.
    """

    def __init__(self, path: str, num_classes: int | None = None) -> None:
        self._path = Path(path).expanduser()
        try:
            self._archive = np.load(self._path, allow_pickle=False)
            names = self._archive.files
        except (OSError, ValueError, AttributeError, EOFError, BadZipFile) as error:
            reason = (
                "it is none" if "pickle" in str(error) else str(error)
            )  # NumPy advises to run what it takes for one
            raise DataError(f"cannot read {path!r} as a NumPy archive (.npz): {reason}") from error
        self._parts = {
            part: pair for part, pairs in _NAMES.items() for pair in reversed(pairs) if set(pair) <= set(names)
        }
        if "train" not in self._parts:
            raise DataError(
                f"{path!r} has the arrays {', '.join(names) or '(none)'}",
                allowed=[f"{x} and {y}" for x, y in _NAMES["train"]],
                hint="val and test parts are optional: x_val, y_val, x_test, y_test",
            )
        labels = self.labels("train")
        assert labels is not None  # noqa: S101  (checked just above)
        if num_classes is not None and num_classes < 1:
            raise DataError(f"num_classes is {num_classes}", allowed=["a whole number from 1"])
        number = _number_of_classes(labels) if num_classes is None else num_classes
        self.classes = tuple(str(index) for index in range(number))

    def labels(self, part: PartName) -> np.ndarray | None:
        if part not in self._parts:
            return None
        name = self._parts[part][1]
        labels = self._read(name)
        if labels.ndim == 2 and labels.shape[1] == 1:
            labels = labels[:, 0]
        labels = labels.astype(np.uint8) if labels.dtype == bool else labels
        numbers = np.issubdtype(labels.dtype, np.integer)
        if labels.ndim == 0 or not (numbers or labels.dtype.kind == "f") or (numbers and labels.min(initial=0) < 0):
            raise DataError(
                f"{name} has shape {labels.shape} and type {labels.dtype}",
                where=str(self._path),
                allowed=["integers from 0 up, shape (n,) or (n, 1)", "for a task of your own any numbers (n, ...)"],
            )
        return labels if numbers else labels.astype(np.float32)

    def images(self, part: PartName, indices: np.ndarray) -> Iterator[np.ndarray]:
        name, label_name = self._parts[part]
        images = self._read(name)
        if images.ndim == 3:
            images = images[:, None]  # grey
        elif images.ndim == 4 and images.shape[-1] in (1, 3, 4) and images.shape[1] not in (1, 3, 4):
            images = images.transpose(0, 3, 1, 2)
        if images.ndim < 4 or images.dtype.kind not in "uif":
            raise DataError(
                f"{name} has shape {images.shape} and type {images.dtype}",
                where=str(self._path),
                allowed=["(n, height, width)", "(n, height, width, channels)", "(n, channels, height, width)"],
            )
        if len(images) != len(self._read(label_name)):
            raise DataError(
                f"{name} has {len(images)} images, {label_name} has {len(self._read(label_name))} labels",
                where=str(self._path),
            )
        for piece in chunks(indices):
            chunk = images[piece]
            yield np.ascontiguousarray(chunk if chunk.dtype == np.uint8 else chunk.astype(np.float32))

    def _read(self, name: str) -> np.ndarray:
        try:
            return np.asarray(self._archive[name])
        except ValueError as error:  # an array of Python objects would be a pickle
            raise DataError(f"{name} cannot be read: {error}", where=str(self._path)) from error

    def fingerprint(self) -> str:
        status = self._path.stat()
        return f"{self._path.resolve()} {status.st_size} {status.st_mtime_ns}"


def _number_of_classes(labels: np.ndarray) -> int:
    """How many outputs targets ask for: classes of numbers and masks, else the size of the first axis; 0 if unknown."""
    if labels.ndim in (2, 4):  # several labels, or one mask for each class
        return int(labels.shape[1])
    return int(labels.max(initial=0)) + 1 if np.issubdtype(labels.dtype, np.integer) else 0


def npz(path: str, num_classes: int | None = None) -> Npz:
    """A NumPy archive with ``x`` and ``y``, or with ``x_train``, ``y_train`` and so on.

    `num_classes` says how many outputs the network has where the targets do not, such as 1 for a mask of 0 and 1.
    """
    return Npz(path, num_classes)
