"""Images that are decoded one by one: all of one size and one mode."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

from se_nas.core.errors import DataError
from se_nas.data.base import chunks

GREY = {"1", "L", "I", "I;16", "F", "LA"}
"""Modes of Pillow that are grey."""


class Pixels:
    """Makes arrays (channels, height, width), uint8, of images, which must all have one size.

    Parameters
    ----------
    size:
        All images are resized to size x size pixels; None leaves them as they are.
    """

    def __init__(self, *, grey: bool, size: int | None) -> None:
        if size is not None and (not isinstance(size, int) or size < 1):
            raise DataError(f"size is {size!r}", allowed=["a whole number of pixels"])
        self.mode = "L" if grey else "RGB"
        self._size = size
        self._first: tuple[tuple[int, ...], str] | None = None

    def read(
        self, indices: np.ndarray, image: Callable[[int], Any], name: Callable[[int], str]
    ) -> Iterator[np.ndarray]:
        """Images (k, channels, height, width) in chunks: `image` gives one by its index, `name` what it is called."""
        for piece in chunks(indices):
            yield np.stack([self.array(image(int(i)), name(int(i))) for i in piece])

    def array(self, image: Any, name: str) -> np.ndarray:
        """The pixels of an image of Pillow, or of an array (height, width[, channels])."""
        opened = image if isinstance(image, Image.Image) else Image.fromarray(np.asarray(image))
        opened = opened.convert(self.mode)
        if self._size is not None:
            smaller = min(opened.size) >= self._size
            how = Image.Resampling.BOX if smaller else Image.Resampling.BICUBIC
            opened = opened.resize((self._size, self._size), how)
        pixels = np.asarray(opened)
        pixels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
        if self._first is None:
            self._first = pixels.shape, name
        if pixels.shape != self._first[0]:
            raise DataError(
                f"images differ in size: {self._first[1]!r} has {_text(self._first[0])}, "
                f"{name!r} has {_text(pixels.shape)}",
                hint="give --data.args.size N to resize all to N x N",
            )
        return pixels

    def mask(self, image: Any) -> np.ndarray:
        """Class numbers (height, width) of a mask, resized as the images are, without mixing classes."""
        opened = image if isinstance(image, Image.Image) else Image.fromarray(np.asarray(image))
        if self._size is not None:
            opened = opened.resize((self._size, self._size), Image.Resampling.NEAREST)
        numbers = np.asarray(opened).astype(np.int64)
        if numbers.ndim != 2:
            raise DataError(f"a mask has shape {numbers.shape}", allowed=["(height, width) of class numbers"])
        return numbers.astype(np.uint8 if numbers.max(initial=0) < 256 else np.int64)

    def masks(self, images: Sequence[Any]) -> np.ndarray:
        """Class numbers (n, height, width) of masks, which must have one size."""
        masks = [self.mask(image) for image in images]
        if len({mask.shape for mask in masks}) > 1:
            raise DataError("masks differ in size", hint="give --data.args.size N to resize all to N x N")
        return np.stack(masks).astype(np.result_type(*{mask.dtype for mask in masks}))


def _text(shape: tuple[int, ...]) -> str:
    return f"{shape[2]} x {shape[1]} pixels"
