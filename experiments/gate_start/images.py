"""A part of the training images of a folder, a data plug-in: so many to train on and so many others to validate on.

se-nas search --data experiments/gate_start/images.py:few --data.args.path PATH --data.args.train 500 ...
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from se_nas.core.errors import DataError
from se_nas.core.serialization import checksum
from se_nas.data.arrays import Readers
from se_nas.data.base import PartName
from se_nas.data.folder import folder


class Few:
    """A source whose training and validation images are some of another source's training images.

    Its test set is that of the other source.
    """

    def __init__(self, source: Readers, rows: dict[PartName, np.ndarray]) -> None:
        self._source, self._rows = source, rows
        self.classes = source.classes

    def _origin(self, part: PartName) -> PartName:
        return "train" if part in self._rows else part

    def labels(self, part: PartName) -> np.ndarray | None:
        labels = self._source.labels(self._origin(part))
        return labels[self._rows[part]] if labels is not None and part in self._rows else labels

    def images(self, part: PartName, indices: np.ndarray) -> Iterator[np.ndarray]:
        own = self._rows[part][indices] if part in self._rows else indices
        return self._source.images(self._origin(part), own)

    def fingerprint(self) -> str:
        return checksum([self._source.fingerprint(), {part: rows.tolist() for part, rows in self._rows.items()}])


def few(path: str, size: int = 16, train: int = 500, val: int = 1000, seed: int = 0) -> Few:
    """`train` and `val` images of each class of the folder ``train/`` in PATH, drawn once; no image is in both.

    DataError if a class has fewer.
    """
    source = folder(path, size)
    labels = source.labels("train")
    assert labels is not None
    generator = np.random.default_rng(seed)
    taken: dict[PartName, list[np.ndarray]] = {"train": [], "val": []}
    for number, name in enumerate(source.classes):
        members = generator.permutation(np.flatnonzero(labels == number))
        if train < 1 or val < 1 or len(members) < train + val:
            raise DataError(f"{train} and {val} images of the class {name!r}, which has {len(members)}", where=path)
        taken["train"].append(members[:train])
        taken["val"].append(members[train : train + val])
    return Few(source, {part: np.sort(np.concatenate(rows)) for part, rows in taken.items()})
