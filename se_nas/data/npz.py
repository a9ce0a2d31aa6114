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
    """Images (n, height, width[, channels]) or (n, channels, height, width); labels (n,) or (n, 1)."""

    def __init__(self, path: str) -> None:
        self._path = Path(path).expanduser()
        try:
            self._archive = np.load(self._path, allow_pickle=False)
            names = self._archive.files
        except (OSError, ValueError, AttributeError, EOFError, BadZipFile) as error:
            raise DataError(f"cannot read {path!r} as a NumPy archive (.npz): {error}") from error
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
        self.classes = tuple(str(number) for number in range(int(labels.max(initial=0)) + 1))

    def labels(self, part: PartName) -> np.ndarray | None:
        if part not in self._parts:
            return None
        name = self._parts[part][1]
        labels = self._read(name)
        if labels.ndim == 2 and labels.shape[1] == 1:
            labels = labels[:, 0]
        if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer) or labels.min(initial=0) < 0:
            raise DataError(
                f"{name} has shape {labels.shape} and type {labels.dtype}",
                where=str(self._path),
                allowed=["integers from 0 up, shape (n,) or (n, 1)"],
            )
        return labels

    def images(self, part: PartName, indices: np.ndarray) -> Iterator[np.ndarray]:
        name, label_name = self._parts[part]
        images = self._read(name)
        if images.ndim == 3:
            images = images[:, None]
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


def npz(path: str) -> Npz:
    """A NumPy archive with ``x`` and ``y``, or with ``x_train``, ``y_train`` and so on."""
    return Npz(path)
