"""Blank images of a given shape, a data plug-in: for searches that train nothing, such as those of a table.

    se-nas search --data experiments/controls/blank.py:blank --data.args '{shape: [3, 32, 32], classes: 100}' \\
        --executor table:curves.csv
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from se_nas.core.errors import DataError
from se_nas.data.arrays import Arrays
from se_nas.data.base import PARTS


def blank(shape: Sequence[int], classes: int = 10) -> Arrays:
    """One image (channels, height, width) of a single grey for each class in every part."""
    sizes = [size for size in shape if isinstance(size, int) and size > 0]
    if len(sizes) != 3 or len(shape) != 3:
        raise DataError(f"the shape of the images is {shape!r}", allowed=["[CHANNELS, HEIGHT, WIDTH]"])
    if not isinstance(classes, int) or classes < 2:
        raise DataError(f"classes is {classes!r}", allowed=["a whole number from 2"])
    grey = np.linspace(0, 255, classes).astype(np.uint8)
    part = np.broadcast_to(grey[:, None, None, None], (classes, *shape)).copy(), np.arange(classes)
    return Arrays(dict.fromkeys(PARTS, part), fingerprint=f"blank {tuple(shape)} {classes} 2")
