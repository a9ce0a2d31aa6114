"""What is computed from prepared images and labels: mean and standard deviation, images of each class."""

from __future__ import annotations

import numpy as np

from se_nas.core.errors import DataError
from se_nas.data.base import CHUNK, is_class_number


def class_counts(labels: np.ndarray, classes: int) -> tuple[int, ...]:
    """Images of each class; empty if labels are no class numbers."""
    return tuple(np.bincount(labels, minlength=classes).tolist()) if is_class_number(labels) else ()


def mean_and_std(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Per channel of images (n, channels, *size); 1 in place of a standard deviation of 0.

    DataError if it is 0 in all channels, all images are one image, or there is no pixel.
    """
    if images.size == 0:
        raise DataError(f"the training images have no pixels: their shape is {images.shape}")
    axes = (0, *range(2, images.ndim))
    number = images.size // images.shape[1]
    total, squares = np.zeros(images.shape[1]), np.zeros(images.shape[1])
    equal = True
    for start in range(0, len(images), CHUNK):
        equal = equal and bool((images[start : start + CHUNK] == images[0]).all())
        chunk = images[start : start + CHUNK].astype(np.float64)
        total += chunk.sum(axes)
        squares += (chunk**2).sum(axes)
    mean = total / number
    std = np.sqrt(np.maximum(squares / number - mean**2, 0.0))
    if equal:
        one_value = bool((images[0] == images[0].flat[0]).all())
        raise DataError(
            f"all {len(images):,} training images are equal"
            + (f": each value is {images[0].flat[0]:g}" if one_value else ""),
            hint="look at the files: there is nothing to learn from them",
        )
    if not np.isfinite(std).all():
        raise DataError("the training images contain values that are too large")
    return mean, np.where(std > 0, std, 1.0)
