"""The digits of scikit-learn: 1,797 grey images of 8 x 8 pixels, ten classes, offline."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits

from se_nas.data.arrays import Arrays


def digits() -> Arrays:
    """The digits of scikit-learn as one part, which is split: images (1797, 1, 8, 8), uint8 from 0 to 255."""
    pixels, labels = load_digits(return_X_y=True)
    images = (pixels.reshape(-1, 1, 8, 8) * (255 / 16)).round().astype(np.uint8)
    return Arrays({"train": (images, labels)}, fingerprint="sklearn.datasets.load_digits")
