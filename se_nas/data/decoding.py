"""Image files: which formats are read, and how one is opened so that it can do no harm."""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Iterator
from pathlib import Path

from PIL import EpsImagePlugin, Image, UnidentifiedImageError

from se_nas.core.errors import DataError
from se_nas.core.files import path_text

FORMATS = (
    "AVIF", "BMP", "DIB", "GIF", "ICO", "JPEG", "JPEG2000", "MPO", "PCX", "PNG", "PPM", "QOI", "SGI", "TGA", "TIFF",
    "WEBP",
)  # fmt: skip
"""Formats of Pillow that are read: pixels alone. Others start programs (EPS) or are documents (PDF, PSD)."""

BROKEN = (
    OSError, UnidentifiedImageError, ValueError, TypeError, SyntaxError, OverflowError, EOFError, MemoryError,
    Image.DecompressionBombError, Image.DecompressionBombWarning,
)  # fmt: skip
"""What Pillow raises for files that are broken or too large."""


def readable(suffix: str) -> bool:
    """Whether files with this suffix, such as ``.png``, are taken for images."""
    return Image.registered_extensions().get(suffix.lower()) in _formats()


@contextlib.contextmanager
def opening(file: Path) -> Iterator[Image.Image]:
    """An image whose pixels have not been read; DataError if it cannot be read or is too large, then or in the block.

    Too large is what has more pixels than `PIL.Image.MAX_IMAGE_PIXELS`.
    """
    with reading(path_text(file)), Image.open(file, formats=_formats()) as image:
        yield image


def stored(file: Path) -> bytes:
    """The bytes of an image file; DataError if it cannot be read."""
    with reading(path_text(file)):
        return file.read_bytes()


@contextlib.contextmanager
def reading(name: str) -> Iterator[None]:
    """Read an image of this name: Pillow starts no Ghostscript, whoever calls it, and what fails is a DataError."""
    program, EpsImagePlugin.gs_binary = EpsImagePlugin.gs_binary, False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except BROKEN as error:
        raise _broken(name, error) from error
    finally:
        EpsImagePlugin.gs_binary = program


def _broken(name: str, error: BaseException) -> DataError:
    """What to say of an image that Pillow cannot read."""
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning | MemoryError):
        return DataError(
            f"the image {name!r} is too large: {error}",
            allowed=[f"up to {Image.MAX_IMAGE_PIXELS:,} pixels"],
            hint="make it smaller, or remove it",
        )
    if isinstance(error, UnidentifiedImageError):
        return DataError(f"the image {name!r} is broken, or not an image", allowed=FORMATS, hint="remove or repair it")
    return DataError(f"the image {name!r} is broken: {error}", hint="remove or repair it")


@functools.cache
def _formats() -> list[str]:
    """The formats that this Pillow was built with."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]
