"""A folder of images: ``<class>/<image>``, or ``train/<class>/<image>`` and perhaps ``val/`` and ``test/`` likewise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from se_nas.core.errors import DataError, did_you_mean
from se_nas.core.serialization import checksum
from se_nas.data.arrays import Reader, Readers
from se_nas.data.base import PARTS
from se_nas.data.pixels import GREY, Pixels


def folder(path: str, size: int | None = None) -> Readers:
    """Images in class folders, in any format that Pillow reads; grey if all of a sample of a hundred are, else RGB.

    What is not there of ``val`` and ``test`` is split off from the images to train on; class folders alone are such.

    Parameters
    ----------
    size:
        Resize all images to size x size pixels; without it they must have one size.

    Raises
    ------
    DataError
        If a folder is not there or empty, or val or test has other classes; later, for an image that is broken.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        raise DataError(f"there is no folder {path!r}")
    parts = {part: root / part for part in PARTS if (root / part).is_dir()}
    if not parts:
        parts = {"train": root}
    elif "train" not in parts:
        raise DataError(
            f"{path!r} has {' and '.join(parts)}, but no folder train",
            hint="put the images in <class>/ alone, or in train/<class>/",
        )
    train = parts["train"]
    classes = [sub.name for sub in _folders(train)]
    if not classes:
        raise DataError(
            f"{str(train)!r} has no class folders",
            hint=f"one folder for each class: {train.name}/cat, {train.name}/dog",
        )
    listed = {part: _listed(place, classes) for part, place in parts.items()}
    sample = [file for file, _ in listed["train"]][:: max(1, len(listed["train"]) // 100)]
    pixels = Pixels(grey=all(_opened(file).mode in GREY for file in sample), size=size)
    stats = [(file, file.stat()) for rows in listed.values() for file, _ in rows]
    rows = [(str(file.relative_to(root)), status.st_size, status.st_mtime_ns) for file, status in stats]
    return Readers(
        {part: _reader(rows, pixels) for part, rows in listed.items()},
        classes=classes,
        fingerprint=checksum([str(root.resolve()), size, rows]),
    )


def _listed(root: Path, classes: Sequence[str]) -> list[tuple[Path, int]]:
    """Images, which may lie at any depth in the folder of their class, and class numbers."""
    readable = {ext for ext, fmt in Image.registered_extensions().items() if fmt in Image.OPEN}
    listed: list[tuple[Path, int]] = []
    for sub in _folders(root):
        if sub.name not in classes:
            raise DataError(f"{str(sub)!r} is a class that train does not have", hint=did_you_mean(sub.name, classes))
        found = sorted(f for f in sub.rglob("*") if f.suffix.lower() in readable and f.is_file())
        if not found:
            raise DataError(f"the class folder {str(sub)!r} has no images", allowed=["any format that Pillow reads"])
        listed += [(file, classes.index(sub.name)) for file in found]
    return listed


def _reader(rows: Sequence[tuple[Path, int]], pixels: Pixels) -> Reader:
    return Reader(
        lambda: np.array([label for _, label in rows], dtype=np.int64),
        lambda indices: pixels.read(indices, lambda i: _opened(rows[i][0], decoded=True), lambda i: str(rows[i][0])),
    )


def _folders(root: Path) -> list[Path]:
    return sorted(sub for sub in root.iterdir() if sub.is_dir() and not sub.name.startswith("."))


def _opened(file: Path, *, decoded: bool = False) -> Image.Image:
    """An image, or only what its header says; DataError if it cannot be read."""
    try:
        with Image.open(file) as image:
            if decoded:
                image.load()
            return image
    except (OSError, UnidentifiedImageError, ValueError, Image.DecompressionBombError, SyntaxError) as error:
        raise DataError(f"the image {str(file)!r} is broken: {error}", hint="remove it or repair it") from error
