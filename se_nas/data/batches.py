"""Batches from images in memory: shuffled, normalised and augmented on the device, without DataLoader workers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from se_nas.core.serialization import random_stream
from se_nas.data.accelerators import CPU, free_memory
from se_nas.data.base import Part

# A part moves to a GPU if it takes at most this share of the memory that is free there.
RESIDENT_SHARE = 0.4

# Batches that are fetched ahead where the part stays in the memory of the machine.
AHEAD = 2

T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True, kw_only=True)
class Shuffle:
    """How training batches are made: a new order and new augmentation in each epoch, an incomplete last batch left out.

    Parameters
    ----------
    seed:
        Order and augmentation depend on it and on the epoch only, each with its own random stream.
    augment:
        ``none``, ``shift`` or ``shift-flip``; see `Recipe`. Targets with the size of the images move with them.
        Other targets that are not integers may be places in the image, so their images are not augmented.
    pieces:
        Number of equal pieces that each batch is cut into, with the same images and augmentation.
    """

    seed: int
    augment: str = "none"
    pieces: int = 1


class Batches:
    """Iterates over (images, labels) of one part, on the device.

    images: (batch, channels, *size), normalised, float32; labels: (batch, ...), int64 or float32.

    Parameters
    ----------
    mean, std:
        Per channel, in the units of the stored images.
    shuffle:
        For training batches; None: the stored order, all images, no augmentation.

    Raises
    ------
    ValueError
        If a batch cannot be cut into that many equal pieces.
    """

    def __init__(
        self,
        part: Part,
        *,
        batch_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device,
        channels_last: bool = False,
        shuffle: Shuffle | None = None,
    ) -> None:
        self.device = device
        self.images, self.labels = _resident(torch.from_numpy(part.images), torch.from_numpy(part.labels), device)
        self.batch_size = min(batch_size, len(self.labels))
        self.shuffle = shuffle
        if shuffle is not None and self.batch_size % shuffle.pieces:
            raise ValueError(f"a batch of {self.batch_size} cannot be cut into {shuffle.pieces} equal pieces")
        shape = (1, -1) + (1,) * (self.images.dim() - 2)
        self.pinned = device.type == "cuda"
        self.mean = torch.tensor(mean, dtype=torch.float32, device=device).reshape(shape)
        self.scale = 1 / torch.tensor(std, dtype=torch.float32, device=device).reshape(shape)
        size = self.images.shape[2:]
        self.dense = self.labels.dim() > len(size) and self.labels.shape[-len(size) :] == size
        fixed = self.labels.is_floating_point() and not self.dense
        self.augment = "none" if shuffle is None or fixed else shuffle.augment
        self.format = torch.channels_last if channels_last and self.images.dim() == 4 else torch.contiguous_format
        self.epoch = 0

    def __len__(self) -> int:
        n = len(self.labels)
        return -(-n // self.batch_size) if self.shuffle is None else n // self.batch_size * self.shuffle.pieces

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        if self.shuffle is None:
            starts = range(0, len(self.labels), self.batch_size)
            yield from self._batches(slice(start, start + self.batch_size) for start in starts)
            return
        order = torch.Generator().manual_seed(random_stream(self.shuffle.seed, "batches", self.epoch))
        shifts = torch.Generator().manual_seed(random_stream(self.shuffle.seed, "augmentation", self.epoch))
        self.epoch += 1
        permutation = torch.randperm(len(self.labels), generator=order).to(self.labels.device)
        whole = len(self.labels) // self.batch_size * self.batch_size
        for images, labels in self._batches(torch.split(permutation[:whole], self.batch_size)):
            if self.dense:
                moved, labels = augmented_together(images, labels, self.augment, shifts)
            else:
                moved = augmented(images, self.augment, shifts)
            pieces = self.shuffle.pieces
            yield from zip(moved.chunk(pieces), labels.chunk(pieces), strict=True)

    def _batches(self, rows: Iterable[Tensor | slice]) -> Iterator[tuple[Tensor, Tensor]]:
        here = self.images.device.type == self.device.type
        for images, labels in map(self._rows, rows) if here else ahead(self._rows, rows, AHEAD):
            on_device = images.to(self.device, non_blocking=self.pinned).to(torch.float32, copy=True)
            normal = on_device.sub_(self.mean).mul_(self.scale)
            kind = torch.float32 if labels.is_floating_point() else torch.int64
            targets = labels.to(self.device, non_blocking=self.pinned).to(kind)
            yield normal.contiguous(memory_format=self.format), targets

    def _rows(self, rows: Tensor | slice) -> tuple[Tensor, Tensor]:
        """Images and labels as they are stored; pinned if a GPU must fetch them."""
        images, labels = self.images[rows], self.labels[rows]
        if self.pinned and images.device.type == "cpu":
            return images.pin_memory(), labels.pin_memory()
        return images, labels


def _resident(images: Tensor, labels: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """A part in the memory of the GPU, still as it is stored (uint8), if there is room for it."""
    if device.type != CPU and images.nbytes < RESIDENT_SHARE * (free_memory(device) or 0):
        try:
            return images.to(device), labels.to(device)
        except torch.OutOfMemoryError:  # another training was faster
            pass
    return images, labels


def ahead(function: Callable[[T], U], values: Iterable[T], depth: int) -> Iterator[U]:
    """As `map`, with the next `depth` results made by a thread while the present one is used."""
    with ThreadPoolExecutor(1) as thread:
        waiting: deque[Future[U]] = deque()
        for value in values:
            waiting.append(thread.submit(function, value))
            if len(waiting) > depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def augmented(images: Tensor, kind: str, generator: torch.Generator) -> Tensor:
    """Images (batch, channels, *size), each moved by its own random shift and, for ``shift-flip``, mirrored.

    The shift is uniform up to an eighth of the side in every direction; what comes in is 0, the mean.
    """
    if kind == "none":
        return images
    memory_format = _memory_format(images)
    for dim, side in enumerate(images.shape[2:], start=2 - images.dim()):
        offset, flip = _moves(len(images), side, mirrored=kind == "shift-flip" and dim == -1, generator=generator)
        index = torch.arange(side)
        # Position 0 and side + 1 of the padded tensor are the zeros that come in.
        index = (torch.where(flip, side - 1 - index, index) + offset + 1).clamp(0, side + 1).to(images.device)
        padded = functional.pad(images, [0, 0] * (-1 - dim) + [1, 1])
        images = _taken(padded, index, dim)
    return images.contiguous(memory_format=memory_format)


def augmented_together(images: Tensor, masks: Tensor, kind: str, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Images (batch, channels, *size) and masks (batch, ..., *size), moved alike as in `augmented`.

    What comes in repeats the border, of the image and of the mask, so that every pixel keeps a true class.
    """
    if kind == "none":
        return images, masks
    memory_format = _memory_format(images)
    for dim, side in enumerate(images.shape[2:], start=2 - images.dim()):
        offset, flip = _moves(len(images), side, mirrored=kind == "shift-flip" and dim == -1, generator=generator)
        index = torch.arange(side) + offset
        index = torch.where(flip, side - 1 - index, index).clamp(0, side - 1).to(images.device)
        images, masks = _taken(images, index, dim), _taken(masks, index, dim)
    return images.contiguous(memory_format=memory_format), masks


def _memory_format(images: Tensor) -> torch.memory_format:
    last = images.dim() == 4 and images.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def _moves(n: int, side: int, *, mirrored: bool, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """For each of n images the shift in pixels, and whether it is mirrored: both (n, 1)."""
    reach = max(1, side // 8)
    offset = torch.randint(-reach, reach + 1, (n, 1), generator=generator)
    return offset, torch.rand((n, 1), generator=generator) < 0.5 if mirrored else torch.zeros((n, 1), dtype=torch.bool)


def _taken(values: Tensor, index: Tensor, dim: int) -> Tensor:
    """Along a dimension (from the end) of each sample, the places of its row of the index (batch, side)."""
    shape, wanted = [1] * values.dim(), list(values.shape)
    shape[0], shape[dim] = index.shape
    wanted[dim] = index.shape[1]
    return values.gather(dim, index.reshape(shape).expand(wanted))
