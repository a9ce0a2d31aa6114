"""A folder of images: ``<class>/<image>``, or ``train/<class>/<image>`` and perhaps ``val/`` and ``test/`` likewise."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from se_nas.core.errors import DataError
from se_nas.core.files import path_text, user_path
from se_nas.core.serialization import checksum
from se_nas.data.arrays import Reader, Readers
from se_nas.data.base import Plan
from se_nas.data.decoding import opening, stored
from se_nas.data.listing import listed
from se_nas.data.pixels import BACKGROUND, Kind, Pixels, check_options, kind_of, sizes_differ


def folder(path: str, size: int | None = None, background: str = BACKGROUND) -> Readers:
    """Images in class folders; grey if all to train and validate on are, else RGB. Formats: `decoding.FORMATS`.

    What is not there of ``val`` and ``test`` is split off from the images to train on; class folders alone are such.
    Hidden files and those of systems are left out. Images with more than 8 bits for a value become float32.

    Parameters
    ----------
    size:
        Resize all images to size x size pixels; without it they must have one size.
    background:
        Colour on which images with transparency are laid.

    Raises
    ------
    DataError
        If a folder is not there or empty, or val or test has other classes; later, for an image that is broken.
    """
    root = user_path(path)
    if not root.is_dir():
        raise DataError(f"there is no folder {path_text(path)!r}")
    check_options(size, background)
    found = listed(root)
    images = [row for rows in found.images.values() for row in rows]
    stats = [(file, file.stat()) for file, _ in images]
    rows = [(path_text(file.relative_to(root)), status.st_size, status.st_mtime_ns) for file, status in stats]

    @functools.cache
    def pixels() -> Pixels:
        if size is None:
            _check_sizes([file for file, _ in images])  # of the test set, too: after a search it would be too late
        sampled = [file for part, files in found.images.items() if part != "test" for file, _ in files]
        return Pixels(_kinds(sampled), size=size, background=background)

    def notes(plan: Plan) -> list[str]:
        return [*found.left_out_note(), *pixels().said(), *found.twins_note(plan)]

    wish = [size] if background == BACKGROUND else [size, background]
    return Readers(
        {part: _reader(rows, pixels) for part, rows in found.images.items()},
        classes=[path_text(name) for name in found.classes],
        fingerprint=checksum([path_text(root.resolve()), *wish, rows]),
        notes=notes,
    )


def _kinds(files: Sequence[Path]) -> set[Kind]:
    """The kinds of images, by what their headers say."""
    kinds = set()
    for file in files:
        with opening(file) as image:
            kinds.add(kind_of(image))
    return kinds


def _check_sizes(files: Sequence[Path]) -> None:
    """DataError unless all images have one size, by what their headers say; upright and lying are told apart later."""
    first: tuple[tuple[int, int], Path] | None = None
    for file in files:
        with opening(file) as image:
            size = image.size
        first = first or (size, file)
        if sorted(size) != sorted(first[0]):
            raise sizes_differ(path_text(first[1]), first[0], path_text(file), size)


def _reader(rows: Sequence[tuple[Path, int]], pixels: Callable[[], Pixels]) -> Reader:
    return Reader(
        lambda: np.array([label for _, label in rows], dtype=np.int64),
        lambda indices: pixels().read(indices, lambda i: opening(rows[i][0]), lambda i: path_text(rows[i][0])),
        lambda indices: (stored(rows[i][0]) for i in indices),
    )
