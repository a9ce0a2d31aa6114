"""The sizes of image files before they are read, to choose one size for all of them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from se_nas.data.decoding import opening
from se_nas.data.listing import listed

LOOKED_AT = 2000
"""Files whose headers are read, at most: evenly spaced."""

USUAL = (32, 64, 96, 128, 160, 192, 224)
"""Sizes that networks are made for, in pixels."""


def sizes_in(root: Path) -> Counter[tuple[int, int]]:
    """How many images have which size (width, height): of those to train and validate on, by their headers."""
    files = [file for part, found in listed(root).images.items() if part != "test" for file, _ in found]
    places = np.linspace(0, len(files) - 1, min(LOOKED_AT, len(files))).round().astype(int)
    found: Counter[tuple[int, int]] = Counter()
    for place in places:
        with opening(files[place]) as image:
            found[image.size] += 1
    return found


def one_size(sizes: Counter[tuple[int, int]]) -> int:
    """A size for all images: the largest usual one that half of them have in both directions, or the smallest.

    >>> one_size(Counter({(640, 480): 3, (90, 120): 4})), one_size(Counter({(20, 24): 1}))
    (64, 32)
    """
    smaller = np.repeat([min(size) for size in sizes], list(sizes.values()))
    return max((usual for usual in USUAL if usual <= np.median(smaller)), default=USUAL[0])
