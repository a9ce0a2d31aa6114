"""What a data source offers, and what is known of a prepared data set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np

from se_nas.core.trial import Target

PartName = Literal["train", "val", "test"]
PARTS: tuple[PartName, ...] = ("train", "val", "test")
PART_NAMES: dict[PartName, tuple[str, ...]] = {
    "train": ("train", "training", "trainval"),
    "val": ("val", "validation", "valid", "dev"),
    "test": ("test", "testing"),
}
"""Names that the parts have in folders, archives and libraries; upper and lower case are the same."""
ADJECTIVE: dict[PartName, str] = {"train": "training", "val": "validation", "test": "test"}
"""How messages call a part."""
CHUNK = 1024
"""Images that are read at once."""


Rows = tuple[PartName, np.ndarray, np.ndarray]
"""Images of one part of the source: its name, their indices there, and their labels."""


Plan = dict[PartName, Rows]
"""Part -> where its images come from."""


class Source(Protocol):
    """A data set as it lies on the disk. A part that the source does not have is None in `labels`.

    A source may also have ``notes(plan) -> sequence of str``: what a user must know of how the images were read, asked
    for when the training and validation sets have been; and ``raw(part, indices) -> iterable``: the bytes (or arrays)
    of these images as they lie there, from which their checksum is made. Without it they are decoded for that, those of
    the sealed test set not before it is opened.
    """

    classes: tuple[str, ...]

    def labels(self, part: PartName) -> np.ndarray | None:
        """Targets of all images of a part: class numbers (n,), or for a task of the user's own anything (n, ...)."""

    def images(self, part: PartName, indices: np.ndarray) -> Iterator[np.ndarray]:
        """The images of these indices in chunks (k, channels, *size), uint8 or float32."""

    def fingerprint(self) -> str:
        """Changes when the data change; cheap to compute."""


@dataclass(frozen=True, kw_only=True)
class DataInfo:
    """What is known of a prepared data set."""

    kind: Literal["arrays", "module", "own"] = "arrays"
    """Arrays of a source, a LightningDataModule, or what a trainer brings itself (`target` is then the trainer)."""
    target: Target
    classes: tuple[str, ...]
    """Empty if they are not known; the backbone then keeps its own output."""
    input_shape: tuple[int, ...]
    """(channels, *size) of one image."""
    target_shape: tuple[int, ...] = ()
    """Shape of one target: () for a class number, (height, width) for a mask, (labels,) for several labels."""
    target_type: Literal["integer", "float", "other"] = "integer"
    """``other``: no tensor, such as a list of boxes for each image."""
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    """Per channel, over the training set."""
    train: int = 0
    val: int = 0
    test: int = 0
    """Images in each part; the test set is counted, not read."""
    fingerprint: str
    checksum: str
    split: str
    """Checksum of which image went to which part."""
    includes_val: bool = False
    """Whether the training set has the images of the validation set, too."""
    cut: tuple[PartName, ...] = ()
    """Parts that the source lacks, and that were split off from its training set."""
    val_counts: tuple[int, ...] = ()
    """Validation images of each class; empty where targets are no class numbers, or were not looked at."""
    notes: tuple[str, ...] = ()
    """What was done to the images and labels when they were read, and what was left out."""
    reading: int = 1
    """Version of how images are read: what an older one read is read again."""
    prepared: dict[PartName, str] = field(default_factory=dict)
    """Part -> checksum of its images and labels as they were prepared."""
    sources: dict[PartName, str] = field(default_factory=dict)
    """Part -> checksum of its images, as they lie in the source, and labels; the test set is not decoded for it."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """Images (n, channels, *size), uint8 or float32, and labels (n, ...); memory-mapped."""

    images: np.ndarray
    labels: np.ndarray


def is_class_number(labels: np.ndarray) -> bool:
    """Whether targets are one class number for each image."""
    return labels.ndim == 1 and np.issubdtype(labels.dtype, np.integer)


def chunks(indices: np.ndarray) -> Iterator[np.ndarray]:
    """The indices in pieces of at most `CHUNK`."""
    for start in range(0, len(indices), CHUNK):
        yield indices[start : start + CHUNK]
