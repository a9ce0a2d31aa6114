"""Images that are decoded one by one: upright, of one size and one mode, each on the scale of its own depth."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageColor, ImageOps

from se_nas.core.errors import DataError
from se_nas.data.base import chunks
from se_nas.data.decoding import reading

GREY = {"1", "L", "LA", "La", "I", "F", "I;16", "I;16L", "I;16B", "I;16N"}
"""Modes of Pillow that are grey."""
BACKGROUND = "white"

_PREMULTIPLIED = {"La": "LA", "RGBa": "RGBA"}
_BITS = 258
"""TIFF's tag BitsPerSample."""

_SAID = {
    "deep": "of more than 8 bits: scaled by their depth to values from 0 to 1",
    "rounded": "of more than 8 bits among others of 8: scaled to 8 bits",
    "values": "of numbers without a largest value (float, 32 bits): kept as they are",
    "colour depth": "of 16 bits for each colour: read with 8",
    "flat": "with transparency: laid on {background} (--data.args.background)",
    "turned": "turned upright, as the camera noted (EXIF)",
    "frames": "of several frames or pages: only the first is read",
    "grey": "in colour: made grey, as the first ones are",
}


@dataclass(frozen=True)
class Kind:
    """What all images of a data set are read as depends on."""

    grey: bool
    bits: int | None
    """Bits of one value; None for floats and integers of 32 bits, which have no largest value."""


def kind_of(image: Image.Image) -> Kind:
    """The kind of an image, whose pixels need not have been read."""
    if image.mode.startswith("I;16"):
        tags = getattr(image, "tag_v2", {})
        return Kind(True, int(tags[_BITS][0]) if _BITS in tags else 16)
    if image.mode == "I" and image.format in ("PNG", "PPM"):
        return Kind(True, 16)
    return Kind(image.mode in GREY, None if image.mode in ("I", "F") else 8)


def as_image(given: Any) -> Image.Image:
    """An image of Pillow, or of an array (height, width[, channels])."""
    return given if isinstance(given, Image.Image) else Image.fromarray(np.asarray(given))


class Pixels:
    """Makes arrays (channels, height, width) of images, which must all have one size.

    They are uint8, or float32 if an image of the sample has more than 8 bits.

    Parameters
    ----------
    sample:
        The kinds of the images that tell what all are read as: grey if all of these are, else RGB.
    size:
        All images are resized to size x size pixels; None leaves them as they are.
    background:
        What images with transparency are laid on: a colour that Pillow knows, such as ``white`` or ``#202020``.
    """

    def __init__(self, sample: Iterable[Kind], *, size: int | None = None, background: str = BACKGROUND) -> None:
        check_options(size, background)
        kinds = set(sample)
        self.mode = "L" if kinds and all(kind.grey for kind in kinds) else "RGB"
        self._values = bool(kinds) and all(kind.bits is None for kind in kinds)
        self._bytes = all(kind.bits == 8 for kind in kinds)
        self._size, self._background = size, background
        self._first: tuple[tuple[int, ...], str] | None = None
        self._changed: dict[str, set[str]] = {}

    def read(
        self, indices: np.ndarray, image: Callable[[int], AbstractContextManager[Any]], name: Callable[[int], str]
    ) -> Iterator[np.ndarray]:
        """Images (k, channels, height, width) in chunks: `image` opens one by its index, `name` is what it is called.

        DataError if one cannot be read, or does not fit the others.
        """
        for piece in chunks(indices):
            yield np.stack([self._one(image, int(i), name(int(i))) for i in piece])

    def _one(self, image: Callable[[int], AbstractContextManager[Any]], index: int, name: str) -> np.ndarray:
        with reading(name), image(index) as opened:
            return self.array(as_image(opened), name)

    def array(self, image: Image.Image, name: str) -> np.ndarray:
        """The pixels of an image."""
        bits = kind_of(image).bits
        if (bits is None) != self._values:
            raise DataError(
                f"some images hold numbers without a largest value (float, 32 bits) and others do not: {name!r} "
                f"{'does' if bits is None else 'does not'}",
                hint="save all images in one way",
            )
        upright = self._upright(image, name)
        if bits == 8:
            pixels = np.asarray(self._resized(self._flat(upright, name).convert(self.mode)))
        else:
            pixels = self._deep(upright, bits, name)
        if bits == 8 and not self._bytes:
            pixels = pixels.astype(np.float32) / np.float32(255)
        pixels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
        if self.mode == "RGB":
            pixels = np.broadcast_to(pixels, (3, *pixels.shape[1:]))
        self._check_size(pixels.shape, name)
        return pixels

    def said(self) -> list[str]:
        """What was done to images that were read, for those that were changed."""
        return [
            f"{len(names):,} image{'s' if len(names) > 1 else ''} {_SAID[what].format(background=self._background)}"
            for what, names in self._changed.items()
        ]

    def _note(self, what: str, name: str) -> None:
        self._changed.setdefault(what, set()).add(name)

    def _upright(self, image: Image.Image, name: str) -> Image.Image:
        """The first frame as it is to be seen."""
        if image.format != "MPO" and getattr(image, "is_animated", False):  # cameras add a preview to an MPO
            self._note("frames", name)
        if kind_of(image).bits == 8 and any(";16" in str(tile.args) for tile in getattr(image, "tile", ())):
            self._note("colour depth", name)
        image.load()
        upright = ImageOps.exif_transpose(image)
        if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
            self._note("turned", name)
        return upright

    def _flat(self, image: Image.Image, name: str) -> Image.Image:
        """An image of 8 bits on the background, if one sees it through the image."""
        if image.mode not in GREY and self.mode == "L":
            self._note("grey", name)
        if not image.has_transparency_data:
            return image
        over = image.convert(_PREMULTIPLIED.get(image.mode, image.mode)).convert("RGBA")
        if over.getchannel("A").getextrema() == (255, 255):
            return image
        self._note("flat", name)
        return Image.alpha_composite(Image.new("RGBA", over.size, self._background), over)

    def _deep(self, image: Image.Image, bits: int | None, name: str) -> np.ndarray:
        """The values (height, width) of a grey image of more than 8 bits: scaled by its depth, if it has one."""
        values = np.asarray(image, dtype=np.float32)
        if bits is None:
            self._note("values", name)
            return np.asarray(self._resized(Image.fromarray(values)))
        self._note("rounded" if self._bytes else "deep", name)
        scaled = np.asarray(self._resized(Image.fromarray(values / np.float32(2**bits - 1)))).clip(0, 1)
        return (scaled * 255).round().astype(np.uint8) if self._bytes else scaled

    def _resized(self, image: Image.Image) -> Image.Image:
        if self._size is None:
            return image
        smaller = min(image.size) >= self._size
        return image.resize((self._size, self._size), Image.Resampling.BOX if smaller else Image.Resampling.BICUBIC)

    def _check_size(self, shape: tuple[int, ...], name: str) -> None:
        if self._first is None:
            self._first = shape, name
        if shape != self._first[0]:
            raise sizes_differ(self._first[1], self._first[0][:0:-1], name, shape[:0:-1])

    def mask(self, image: Any) -> np.ndarray:
        """Class numbers (height, width) of a mask, turned and resized as images are, without mixing classes."""
        upright = ImageOps.exif_transpose(as_image(image))
        if self._size is not None:
            upright = upright.resize((self._size, self._size), Image.Resampling.NEAREST)
        numbers = np.asarray(upright).astype(np.int64)
        if numbers.ndim != 2:
            raise DataError(f"a mask has shape {numbers.shape}", allowed=["(height, width) of class numbers"])
        return numbers.astype(np.uint8 if numbers.max(initial=0) < 256 else np.int64)

    def masks(self, images: Sequence[Any]) -> np.ndarray:
        """Class numbers (n, height, width) of masks, which must have one size."""
        masks = [self.mask(image) for image in images]
        if len({mask.shape for mask in masks}) > 1:
            raise DataError("masks differ in size", hint="give --data.args.size N to resize all to N x N")
        return np.stack(masks).astype(np.result_type(*{mask.dtype for mask in masks}))


def check_options(size: int | None, background: str) -> None:
    """DataError for a size or background that cannot be."""
    if size is not None and (not isinstance(size, int) or size < 1):
        raise DataError(f"size is {size!r}", allowed=["a whole number of pixels"])
    try:
        ImageColor.getrgb(background)
    except (ValueError, TypeError, AttributeError):
        raise DataError(
            f"background is {background!r}", allowed=["a colour such as white, black, #202020 or rgb(90, 120, 60)"]
        ) from None


def sizes_differ(first: str, size: tuple[int, ...], other: str, its: tuple[int, ...]) -> DataError:
    """What to say of two images whose (width, height) differ."""
    return DataError(
        f"images differ in size: {first!r} has {size[0]} x {size[1]} pixels, {other!r} has {its[0]} x {its[1]} pixels",
        hint="give --data.args.size N to resize all to N x N",
    )
