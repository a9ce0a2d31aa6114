"""Blank images of a given shape: for searches that train nothing, such as those of a table (`se_nas.table`)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from se_nas.data.base import PartName, chunks
from se_nas.errors import DataError


class Blank:
    """One black image for each class in every part."""

    def __init__(self, shape: tuple[int, ...], classes: int) -> None:
        self.classes = tuple(str(number) for number in range(classes))
        self._shape = shape

    def labels(self, part: PartName) -> np.ndarray | None:
        return np.arange(len(self.classes))

    def images(self, part: PartName, indices: np.ndarray) -> Iterator[np.ndarray]:
        for piece in chunks(indices):
            yield np.zeros((len(piece), *self._shape), dtype=np.uint8)

    def fingerprint(self) -> str:
        return f"blank {self._shape} {len(self.classes)} 1"


def blank(path: str, classes: int = 10) -> Blank:
    """Blank images; what follows the colon is ``CHANNELS,HEIGHT,WIDTH``."""
    sizes = path.split(",")
    if len(sizes) != 3 or not all(size.strip().isdecimal() and int(size) for size in sizes):
        raise DataError(f"the shape of the images is {path!r}", allowed=["CHANNELS,HEIGHT,WIDTH, such as 3,32,32"])
    if not isinstance(classes, int) or classes < 2:
        raise DataError(f"classes is {classes!r}", allowed=["a whole number from 2"])
    return Blank(tuple(int(size) for size in sizes), classes)
