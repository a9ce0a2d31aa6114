"""A NumPy archive with images and targets."""

from __future__ import annotations

import contextlib
import functools
import struct
import tokenize
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from se_nas.core.errors import DataError
from se_nas.core.files import path_text, user_path
from se_nas.core.ranges import MAX_CLASSES
from se_nas.data.arrays import Arrays, checked_targets
from se_nas.data.base import PART_NAMES, PartName

_PATTERNS = (("x_{}", "y_{}"), ("{}_images", "{}_labels"))
"""Names of the images and targets of a part: ours, and those of MedMNIST."""

FEW = 4
"""Channels that an image has at most, if nothing else tells which axis they are."""

BROKEN = (
    OSError, ValueError, EOFError, MemoryError, OverflowError, NotImplementedError, RuntimeError, TypeError, KeyError,
    SyntaxError, tokenize.TokenError, struct.error, BadZipFile, zlib.error,
)  # fmt: skip
"""What NumPy and zipfile raise for files that are broken."""

MAX_RATIO, LARGE = 500, 2**30
"""An array of more bytes than `LARGE`, packed into less than one in `MAX_RATIO`, is a decompression bomb."""


def npz(path: str, num_classes: int | None = None, channels: str | None = None) -> Arrays:
    """A NumPy archive with ``x`` and ``y``, or with ``x_train``, ``y_train`` and so on.

    Images (n, height, width[, channels]) or (n, channels, height, width), and targets: class numbers (n,) or (n, 1);
    for a task of the user's own also several labels (n, labels), masks of class numbers (n, height, width), one mask
    for each class (n, classes, height, width), or numbers of any shape.

    Parameters
    ----------
    num_classes:
        How many outputs the network has where the targets do not say it, such as 1 for a mask of 0 and 1.
    channels:
        ``first`` or ``last``: which axis of an image holds its channels (bands). Without it the shape must tell: up to
        four channels and more pixels, or equal sides.

    Raises
    ------
    DataError
        If the file is not such an archive; when images are read, also if their shape or number is wrong.
    """
    file = user_path(path)
    if num_classes is not None and (not isinstance(num_classes, int) or not 1 <= num_classes <= MAX_CLASSES):
        raise DataError(f"num_classes is {num_classes!r}", allowed=[f"a whole number from 1 to {MAX_CLASSES:,}"])
    if channels not in (None, "first", "last"):
        raise DataError(f"channels is {channels!r}", allowed=["first", "last"])
    parts: dict[PartName, Any] = {}
    with _opened(file) as archive:
        names = _part_names(archive.files, file)
        unused = [name for name in archive.files if name not in {name for pair in names.values() for name in pair}]
        for part, (x, y) in names.items():
            targets = checked_targets(_read(archive, y, file), y, str(file))
            parts[part] = functools.partial(_images, file, x, y, len(targets), channels), targets
    status = file.stat()
    return Arrays(
        parts,
        classes=[str(index) for index in range(num_classes or 0)],
        fingerprint=f"{path_text(file.resolve())} {status.st_size} {status.st_mtime_ns}",
        names={part: x for part, (x, _) in names.items()},
        notes=[f"left out: the arrays {', '.join(unused)}"] if unused else [],
    )


def _part_names(arrays: Sequence[str], file: Path) -> dict[PartName, tuple[str, str]]:
    """Part -> names of its images and targets; DataError if they are not all there, or one part is there twice."""
    known = {name.lower(): name for name in arrays}
    found: dict[PartName, tuple[str, str]] = {}
    for part, aliases in PART_NAMES.items():
        pairs = [(x.format(a), y.format(a)) for a in aliases for x, y in _PATTERNS]
        pairs += [("x", "y")] if part == "train" else []
        there = [pair for pair in pairs if set(pair) <= known.keys()]
        half = [known[name] for pair in pairs for name in pair if name in known and pair not in there]
        if half and not there and part != "train":
            raise DataError(
                f"{half[0]} is there alone",
                where=path_text(file),
                allowed=["images and targets of a part: x_val and y_val"],
            )
        if len(there) > 1 and part != "train":
            raise DataError(
                f"{' and '.join(known[x] for x, _ in there)}: both would be the {part} set",
                where=path_text(file),
                hint="leave one of them out",
            )
        if there:
            found[part] = known[there[0][0]], known[there[0][1]]
    if "train" not in found:
        raise DataError(
            f"{path_text(file)!r} has the arrays {', '.join(arrays) or '(none)'}",
            allowed=["x_train and y_train", "train_images and train_labels", "x and y"],
            hint="val and test sets are optional: x_val, y_val, x_test, y_test",
        )
    return found


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[Any]:
    with contextlib.ExitStack() as stack:
        try:
            if file.exists() and not file.is_file():
                raise ValueError("it is not a file")
            stream = stack.enter_context(file.open("rb"))  # NumPy would leave the file of a broken archive open
            archive = np.load(stream, allow_pickle=False)
            archive.files  # noqa: B018  # an array (.npy) has none
        except (*BROKEN, AttributeError) as error:
            # NumPy advises to run what it takes for a pickle
            reason = "it is not one" if "pickle" in str(error) else str(error)
            raise DataError(f"cannot read {path_text(file)!r} as a NumPy archive (.npz): {reason}") from error
        yield stack.enter_context(archive)


def _read(archive: Any, name: str, file: Path) -> np.ndarray:
    stored = next((i for i in archive.zip.infolist() if i.filename in (name, f"{name}.npy")), None)
    if stored is not None and stored.file_size > max(LARGE, MAX_RATIO * stored.compress_size):
        raise DataError(
            f"{name} holds {stored.file_size:,} bytes in {stored.compress_size:,}: a decompression bomb",
            where=path_text(file),
            hint="if it is none, save the archive with np.savez, which does not compress",
        )
    try:
        return np.asarray(archive[name])
    except BROKEN as error:  # objects would be a pickle
        raise DataError(f"{name} cannot be read: {error}", where=path_text(file)) from error


def _images(file: Path, name: str, targets: str, number: int, channels: str | None) -> np.ndarray:
    """The images of an archive as (n, channels, *size)."""
    with _opened(file) as archive:
        images = _read(archive, name, file)
    grey = images.ndim == 3
    if grey:
        images = images[:, None]
    if images.ndim < 4 or images.dtype.kind not in "uif":
        raise DataError(
            f"{name} has shape {images.shape} and type {images.dtype}",
            where=path_text(file),
            allowed=["(n, height, width)", "(n, height, width, channels)", "(n, channels, height, width)"],
        )
    if not grey and (channels or _channels(images.shape, name, file)) == "last":
        images = np.moveaxis(images, -1, 1)
    if len(images) != number:
        raise DataError(f"{name} has {len(images)} images, {targets} has {number} labels", where=path_text(file))
    return images


def _channels(shape: tuple[int, ...], name: str, file: Path) -> str:
    """Whether channels are the first or the last axis of an image, if only one of both is likely."""
    sizes = shape[1:]
    first = sizes[0] <= FEW < sizes[-1] or len(set(sizes[1:])) == 1 != len(set(sizes))
    last = sizes[-1] <= FEW < sizes[0]
    if first != last:
        return "first" if first else "last"
    as_first, as_last = (" x ".join(map(str, s)) for s in (sizes[1:], sizes[:-1]))
    raise DataError(
        f"{name} has shape {shape}: {sizes[0]} channels of {as_first}, or {sizes[-1]} channels of {as_last}?",
        where=path_text(file),
        allowed=["--data.args.channels first", "--data.args.channels last"],
    )
