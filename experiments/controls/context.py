"""Generated images on which SE must help, a data plug-in: what a texture means depends on the whole image.

    se-nas search --data experiments/controls/context.py:context --backbone bagnet8

Each grey image of 16 x 32 pixels has two parts, far from each other. On the left two gratings lie on top of each other,
one upright or level, the other leaning to the left or to the right, with random phases and noise. On the right there
are random dots, of which a little more than half are bright, or a little less: few of them say nothing, only their
mean over the image does. It tells which grating counts: with more bright dots the class is the direction of the
first, else that of the second.

Why SE must help: a network without SE that ends in a global average and a linear layer adds up what its local
windows see. If no window is as wide as the empty strip between the parts (`STRIP` pixels), its logit is a sum of a
function of the left part and one of the right part. Where the two gratings disagree, four cases are left, and such a
sum is right in three of them at most, so that no such network has more than 7/8 accuracy. With one SE block the mean of
the dots can switch channels on and off, and all cases can be right. The backbone ``bagnet8`` has windows of 11 pixels.
"""

from __future__ import annotations

import numpy as np

from se_nas.core.errors import DataError
from se_nas.data.arrays import Arrays
from se_nas.data.base import PARTS

HEIGHT, TEXTURE, STRIP, DOTS = 16, 10, 12, 10
"""Of the image, and of its three parts from left to right, in pixels."""
PERIOD = 4.0
"""Of the gratings, in pixels."""
BIAS = 0.15
"""More than half of the dots, or less, that are bright: one dot says little, the mean of 160 all."""
NOISE = 0.25


def draw(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, 1, 16, 32), uint8, and classes (n,): all eight cases equally often."""
    case = rng.permutation(np.arange(n) % 8)
    first, second, cue = case & 1, case >> 1 & 1, case >> 2
    rows, columns = np.mgrid[:HEIGHT, :TEXTURE]
    phase = rng.uniform(0, 2 * np.pi, (2, n, 1, 1))
    across = np.where(first[:, None, None], rows, columns)
    leaning = (rows + np.where(second[:, None, None], columns, -columns)) / np.sqrt(2)
    gratings = sum(np.sin(2 * np.pi * u / PERIOD + p) for u, p in zip((across, leaning), phase, strict=True))
    image = np.zeros((n, HEIGHT, TEXTURE + STRIP + DOTS))
    image[:, :, :TEXTURE] = gratings / 2
    bright = rng.random((n, HEIGHT, DOTS)) < 0.5 + BIAS * (2 * cue - 1)[:, None, None]
    image[:, :, -DOTS:] = np.where(bright, 0.7, -0.7)
    image += NOISE * rng.standard_normal(image.shape)
    grey = np.clip(np.round(127.5 + 80 * image), 0, 255).astype(np.uint8)
    return grey[:, None], np.where(cue == 1, first, second).astype(np.int64)


def context(train: int = 512, val: int = 512, test: int = 1024, seed: int = 0) -> Arrays:
    """So many images for each part, drawn one part after the other from one seed; two balanced classes."""
    sizes = dict(zip(PARTS, (train, val, test), strict=True))
    if wrong := [f"{name} {size}" for name, size in sizes.items() if size < 8]:
        raise DataError(f"too few images: {wrong[0]}", allowed=["8 or more in each part"])
    parts = {part: draw(sizes[part], np.random.default_rng([seed, number])) for number, part in enumerate(PARTS)}
    return Arrays(parts, classes=("0", "1"), fingerprint=f"context {sizes} {seed} 1")
