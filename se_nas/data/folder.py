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
        headers = {part: _headers(rows) for part, rows in found.images.items() if part != "test" or size is None}
        if size is None:
            _check_sizes(
                [row for rows in headers.values() for row in rows]
            )  # of the test set, too: after a search it would be too late
        kinds = {kind for part, rows in headers.items() if part != "test" for _, kind, _ in rows}
        return Pixels(kinds, size=size, background=background)

    def notes(plan: Plan) -> list[str]:
        return [*found.left_out_note(), *pixels().said(), *found.twins_note(plan)]

    wish = [size] if background == BACKGROUND else [size, background]
    return Readers(
        {part: _reader(rows, pixels) for part, rows in found.images.items()},
        classes=[path_text(name) for name in found.classes],
        fingerprint=checksum([path_text(root.resolve()), *wish, rows]),
        notes=notes,
    )


def _headers(rows: Sequence[tuple[Path, int]]) -> list[tuple[Path, Kind, tuple[int, int]]]:
    """Kind and size (width, height) of images, by what their headers say."""
    found = []
    for file, _ in rows:
        with opening(file) as image:
            found.append((file, kind_of(image), image.size))
    return found


def _check_sizes(headers: Sequence[tuple[Path, Kind, tuple[int, int]]]) -> None:
    """DataError unless all images have one size; upright and lying are told apart when they are read."""
    first, _, wanted = headers[0]
    for file, _, size in headers:
        if sorted(size) != sorted(wanted):
            raise sizes_differ(path_text(first), wanted, path_text(file), size)


def _reader(rows: Sequence[tuple[Path, int]], pixels: Callable[[], Pixels]) -> Reader:
    return Reader(
        lambda: np.array([label for _, label in rows], dtype=np.int64),
        lambda indices: pixels().read(indices, lambda i: opening(rows[i][0]), lambda i: path_text(rows[i][0])),
        lambda indices: (stored(rows[i][0]) for i in indices),
    )
