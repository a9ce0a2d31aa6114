"""Data plug-ins of this experiment: images of two kinds in one set, and the series that aeon brings."""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from se_nas.core.errors import DataError
from se_nas.core.serialization import checksum
from se_nas.data.arrays import Arrays, Readers
from se_nas.data.base import PartName

sys.path.insert(0, str(Path(__file__).parents[1] / "gate_start"))
from images import few as few  # the same parts of a folder


class Negatives:
    """A source of uint8 images, half of which are as a photographic negative has them: by their number."""

    def __init__(self, source: Readers) -> None:
        self._source, self.classes = source, source.classes

    def labels(self, part: PartName) -> np.ndarray | None:
        return self._source.labels(part)

    def images(self, part: PartName, indices: np.ndarray) -> Iterator[np.ndarray]:
        start = 0
        for chunk in self._source.images(part, indices):
            odd = indices[start : start + len(chunk)] % 2 == 1
            start += len(chunk)
            yield np.where(odd.reshape(-1, 1, 1, 1), 255 - chunk, chunk)

    def fingerprint(self) -> str:
        return checksum(["negatives", self._source.fingerprint()])


def negatives(path: str, size: int = 16, train: int = 200, val: int = 200) -> Negatives:
    """`few`, with every other image as its negative; labels are as they were."""
    return Negatives(few(path, size, train, val))


def series(wheel: str, name: str) -> Arrays:
    """A data set of equally long series in a wheel of aeon (BSD 3-clause): float32 (n, channels, length).

    DataError if the wheel has none of that name.
    """
    parts: dict[PartName, tuple[np.ndarray, np.ndarray]] = {}
    with zipfile.ZipFile(wheel) as file:
        for part in ("train", "test"):
            wanted = [
                n
                for n in file.namelist()
                if n.endswith((f"/{name}_{part.upper()}.ts", f"/{name}_eq_{part.upper()}.ts"))
            ]
            if not wanted:
                raise DataError(f"there are no series {name!r}", where=wheel)
            parts[part] = _read(file.read(wanted[-1]).decode())
    names = sorted(set(parts["train"][1].tolist()))
    arrays = {part: (values, np.searchsorted(names, labels)) for part, (values, labels) in parts.items()}
    return Arrays(arrays, classes=names, fingerprint=checksum([Path(wheel).name, name]))


def _read(text: str) -> tuple[np.ndarray, np.ndarray]:
    """Values (n, channels, length) and labels of a file of the UEA and UCR archive."""
    rows = [line.split(":") for line in text.partition("@data")[2].split("\n") if line.strip()]
    values = [[[float(v) for v in channel.split(",")] for channel in row[:-1]] for row in rows]
    return np.array(values, np.float32), np.array([row[-1].strip() for row in rows])
