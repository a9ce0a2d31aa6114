"""Data sources: from arrays, and from functions that read; what all sources ask of targets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from se_nas.core.errors import DataError
from se_nas.data.base import PartName, chunks

Images = np.ndarray | Callable[[], np.ndarray]


@dataclass(frozen=True)
class Reader:
    """One part of a source, read when it is asked for."""

    targets: Callable[[], np.ndarray]
    """All targets (n, ...)."""
    images: Callable[[np.ndarray], Iterator[np.ndarray]]
    """The images of these indices in chunks (k, channels, *size), uint8 or float32."""


class Readers:
    """A source from a reader for each part; classes are numbered by `numbered_classes` if they have no names."""

    def __init__(self, parts: Mapping[PartName, Reader], *, classes: Sequence[str], fingerprint: str) -> None:
        self._parts, self._fingerprint = parts, fingerprint
        self._targets: dict[PartName, np.ndarray] = {}
        self.classes = tuple(classes) or numbered_classes(self._read("train"))

    def _read(self, part: PartName) -> np.ndarray:
        if part not in self._targets:
            self._targets[part] = self._parts[part].targets()
        return self._targets[part]

    def labels(self, part: PartName) -> np.ndarray | None:
        return self._read(part) if part in self._parts else None

    def images(self, part: PartName, indices: np.ndarray) -> Iterator[np.ndarray]:
        return self._parts[part].images(indices)

    def fingerprint(self) -> str:
        return self._fingerprint


class Arrays(Readers):
    """A source from arrays.

    Parameters
    ----------
    parts:
        Part -> images (n, channels, *size), uint8 or numbers that become float32, and targets (n, ...). Images may be
        a function that gives them: then those of the sealed test part are not read before it is opened.
    classes:
        Names of the classes; they are numbered by `numbered_classes` if they have none.
    fingerprint:
        Changes when the data change.

    Raises
    ------
    DataError
        If targets are not numbers, or negative integers; when images are read, if there are more or fewer than targets.
    """

    def __init__(
        self, parts: Mapping[PartName, tuple[Images, np.ndarray]], *, classes: Sequence[str] = (), fingerprint: str
    ) -> None:
        readers = {part: _reader(part, images, targets) for part, (images, targets) in parts.items()}
        super().__init__(readers, classes=classes, fingerprint=fingerprint)


def _reader(part: PartName, given: Images, targets: np.ndarray) -> Reader:
    checked = checked_targets(targets, f"the array of {part} targets")

    def images(indices: np.ndarray) -> Iterator[np.ndarray]:
        images = given() if callable(given) else given
        if len(images) != len(checked):
            raise DataError(f"the {part} part has {len(images)} images and {len(checked)} targets")
        for piece in chunks(indices):
            yield np.ascontiguousarray(images[piece], dtype=None if images.dtype == np.uint8 else np.float32)

    return Reader(lambda: checked, images)


def checked_targets(targets: np.ndarray, name: str, where: str | None = None) -> np.ndarray:
    """Targets (n, ...): integers from 0 up or float32; a single column becomes (n,), booleans become 0 and 1.

    DataError that names them if they are anything else.
    """
    if targets.ndim == 2 and targets.shape[1] == 1:
        targets = targets[:, 0]
    targets = targets.astype(np.uint8) if targets.dtype == bool else targets
    numbers = np.issubdtype(targets.dtype, np.integer)
    if targets.ndim == 0 or not (numbers or targets.dtype.kind == "f") or (numbers and targets.min(initial=0) < 0):
        raise DataError(
            f"{name} has shape {targets.shape} and type {targets.dtype}",
            where=where,
            allowed=["integers from 0 up, shape (n,) or (n, 1)", "for a task of your own any numbers (n, ...)"],
        )
    return targets if numbers else targets.astype(np.float32)


def numbered_classes(targets: np.ndarray) -> tuple[str, ...]:
    """``0``, ``1``, ... for as many outputs as targets (n, ...) ask for.

    Several labels (n, labels) and one mask for each class (n, classes, height, width) ask for the size of their first
    axis, other integers for one more than the largest; for other numbers the number is not known, and there is none.
    """
    if targets.ndim in (2, 4):
        number = targets.shape[1]
    else:
        number = int(targets.max(initial=0)) + 1 if np.issubdtype(targets.dtype, np.integer) else 0
    return tuple(str(index) for index in range(number))
