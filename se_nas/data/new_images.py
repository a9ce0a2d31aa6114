"""New images, prepared just as those that a network was trained on: for what it says of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from se_nas.core.errors import DataError
from se_nas.core.files import path_text, user_path
from se_nas.data.base import DataInfo
from se_nas.data.decoding import FORMATS, opening, readable
from se_nas.data.listing import images_below
from se_nas.data.pixels import BACKGROUND, Kind, Pixels

DECODED = ("folder", "torchvision", "hf")
"""Data sets whose images are decoded by `Pixels`, with its settings as their arguments."""

LARGEST_SHARE_SD = 0.5
"""Values between 0 and 1 have no larger standard deviation (Popoviciu), those of 8 bits almost always have."""


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """How images become what the network was trained on, before they are normalised.

    ``size`` and ``background`` are those that the data set was read with. ``kind`` says how values are scaled: from 0
    to 255, from 0 to 1, or not at all.
    """

    shape: tuple[int, ...]
    """(channels, height, width) of an image."""
    kind: Kind
    size: int | None = None
    background: str = BACKGROUND

    def read(self, file: Path) -> np.ndarray:
        """An image (channels, height, width) of a file, uint8 or float32; DataError if it cannot be read or used."""
        pixels = Pixels([self.kind], size=self.size, background=self.background)
        with opening(file) as image:
            array = pixels.array(image, path_text(file))
        if array.shape != self.shape:
            raise DataError(
                f"the image {path_text(file)!r} has {array.shape[2]} x {array.shape[1]} pixels, and the network was "
                f"trained on {self.shape[2]} x {self.shape[1]}",
                hint="resize it as the training images were",
            )
        return array


def preparation_of(data: DataInfo, stored: np.dtype | None = None) -> Preparation:
    """How the image files of a data set were read.

    Parameters
    ----------
    stored:
        The type of the prepared images, where it is known; else it is inferred from their standard deviation.

    Raises
    ------
    DataError
        If the network cannot have been trained on image files.
    """
    name = data.target.target
    if data.kind != "arrays":
        what = (
            "a LightningDataModule, whose transforms only it knows" if data.kind == "module" else "the trainer itself"
        )
        raise DataError(
            f"image files cannot be prepared: the training images came from {what} ({name})",
            hint="prepare them as there and give them as a tensor to se_nas.predict, or call se_nas.load(...)",
        )
    if len(data.input_shape) != 3 or data.input_shape[0] not in (1, 3):
        raise DataError(
            f"the network takes images of shape {data.input_shape}, and image files have 1 or 3 channels",
            hint="give the images as an array to se_nas.predict",
        )
    bits = _bits(data, stored)
    decoded = name.partition(":")[0] in DECODED
    if bits != 8 and not decoded:
        raise DataError(
            f"the network was trained on arrays of numbers ({name}), whose scale image files do not have",
            hint="give the images as an array to se_nas.predict",
        )
    given = data.target.args if decoded else {}
    return Preparation(
        shape=data.input_shape,
        kind=Kind(data.input_shape[0] == 1, bits),
        size=given.get("size"),
        background=given.get("background", BACKGROUND),
    )


def _bits(data: DataInfo, stored: np.dtype | None) -> int | None:
    """Bits of a value as `Pixels` counts them: 8, more (they become values from 0 to 1), or None for other numbers."""
    low, high = min(data.mean), max(data.mean)
    share = low >= 0 and high <= 1 and max(data.std) <= LARGEST_SHARE_SD
    whole = stored == np.uint8 if stored is not None else not share
    return 8 if whole else 16 if share else None


def image_files(given: Sequence[str | Path]) -> Iterator[tuple[str, Path | DataError]]:
    """The image files that names of files and folders mean: those below a folder at any depth, in order.

    Each with its name, or what is wrong with a name that means none.
    """
    formats = [f"files of {', '.join(FORMATS)}"]
    for name in given:
        path, text = user_path(name), path_text(name)
        if path.is_dir():
            found = sorted(images_below(path))
            yield from ((path_text(file), file) for file in found)
            if not found:
                yield text, DataError(f"the folder {text!r} has no images", allowed=formats)
        elif not path.exists():
            yield text, DataError(f"there is no file {text!r}")
        elif not path.is_file() or not readable(path.suffix):
            yield text, DataError(f"{text!r} is not an image", allowed=formats)
        else:
            yield text, path
