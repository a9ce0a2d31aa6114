"""The digits of scikit-learn: 1,797 grey images of 8 x 8 pixels, ten classes, offline."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from sklearn.datasets import load_digits

from se_nas.data.base import PartName, chunks


class Digits:
    """All images are one part, which is split."""

    classes = tuple(str(digit) for digit in range(10))

    def __init__(self) -> None:
        pixels, self._labels = load_digits(return_X_y=True)
        self._images = (pixels.reshape(-1, 1, 8, 8) * (255 / 16)).round().astype(np.uint8)

    def labels(self, part: PartName) -> np.ndarray | None:
        return self._labels if part == "train" else None

    def images(self, part: PartName, indices: np.ndarray) -> Iterator[np.ndarray]:
        for piece in chunks(indices):
            yield self._images[piece]

    def fingerprint(self) -> str:
        return "sklearn.datasets.load_digits"


def digits() -> Digits:
    """The digits of scikit-learn."""
    return Digits()
