"""Which images were in the training and validation set of a search, by their pixels."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from se_nas.data.base import PartName
from se_nas.data.store import open_part

PARTS: tuple[PartName, ...] = ("train", "val")


def seen_in(run: Path, images: np.ndarray) -> dict[PartName, np.ndarray] | None:
    """Which of these images (n, channels, *size) are in the training set of a run, which only in its validation set.

    Both are masks (n,). Images are compared as they were prepared, so that neither the name of a file nor its lossless
    format makes a difference. None if the prepared images of the run are not there any more.
    """
    wanted = np.array([_digest(image) for image in images], dtype=object)
    found: dict[PartName, np.ndarray] = {}
    for part in PARTS:
        try:
            stored = open_part(run, part).images
        except (OSError, ValueError):
            return None
        known = {_digest(image) for image in stored}
        found[part] = np.array([digest in known for digest in wanted], dtype=bool)
    found["val"] &= ~found["train"]
    return found


def _digest(image: np.ndarray) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(image).tobytes(), digest_size=16).digest()
