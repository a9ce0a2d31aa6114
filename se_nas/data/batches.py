"""Batches from images in memory: shuffled, normalised and augmented on the device, without DataLoader workers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from se_nas.data.base import Part
from se_nas.records import random_stream

# A part moves to a GPU if it takes at most this share of the memory that is free there.
RESIDENT_SHARE = 0.4

# Batches that are fetched ahead where the part stays in the memory of the machine.
AHEAD = 2

T = TypeVar("T")
U = TypeVar("U")


class Batches:
    """Iterates over (images, labels) of one part, on the device.

    images: (batch, channels, *size), normalised, float32; labels: (batch, ...), int64 or float32.

    Parameters
    ----------
    mean, std:
        Per channel, in the units of the stored images.
    seed:
        For training batches: order and augmentation depend on it and on the epoch only, each with its own random
        stream, and an incomplete last batch is left out. None: the stored order, all images, no augmentation.
    augment:
        ``none``, ``shift`` or ``shift-flip``; see `Recipe`. Targets with the size of the images move with them.
        Other numbers that are no integers may be places in the image, so their images are left as they are.
    pieces:
        Each training batch comes as so many batches of equal size, with the same images, augmented alike.

    Raises
    ------
    ValueError
        If a batch cannot be cut into so many equal pieces.
    """

    def __init__(
        self,
        part: Part,
        *,
        batch_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device,
        seed: int | None = None,
        augment: str = "none",
        channels_last: bool = False,
        pieces: int = 1,
    ) -> None:
        self.device = device
        self.images, self.labels = _resident(torch.from_numpy(part.images), torch.from_numpy(part.labels), device)
        self.batch_size = min(batch_size, len(self.labels))
        self.pieces = pieces
        if self.batch_size % pieces:
            raise ValueError(f"a batch of {self.batch_size} cannot be cut into {pieces} equal pieces")
        shape = (1, -1) + (1,) * (self.images.dim() - 2)
        self.mean = torch.tensor(mean, dtype=torch.float32, device=device).reshape(shape)
        self.scale = 1 / torch.tensor(std, dtype=torch.float32, device=device).reshape(shape)
        self.seed = seed
        size = self.images.shape[2:]
        self.dense = self.labels.dim() > len(size) and self.labels.shape[-len(size) :] == size
        self.augment = "none" if self.labels.is_floating_point() and not self.dense else augment
        self.format = torch.channels_last if channels_last and self.images.dim() == 4 else torch.contiguous_format
        self.epoch = 0

    def __len__(self) -> int:
        n = len(self.labels)
        return n // self.batch_size * self.pieces if self.seed is not None else -(-n // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        if self.seed is None:
            starts = range(0, len(self.labels), self.batch_size)
            yield from self._batches(slice(start, start + self.batch_size) for start in starts)
            return
        order = torch.Generator().manual_seed(random_stream(self.seed, "batches", self.epoch))
        shifts = torch.Generator().manual_seed(random_stream(self.seed, "augmentation", self.epoch))
        self.epoch += 1
        permutation = torch.randperm(len(self.labels), generator=order).to(self.labels.device)
        whole = len(self.labels) // self.batch_size * self.batch_size
        for images, labels in self._batches(torch.split(permutation[:whole], self.batch_size)):
            if self.dense:
                moved, labels = augmented_together(images, labels, self.augment, shifts)
            else:
                moved = augmented(images, self.augment, shifts)
            yield from zip(moved.chunk(self.pieces), labels.chunk(self.pieces), strict=True)

    def _batches(self, rows: Iterable[Tensor | slice]) -> Iterator[tuple[Tensor, Tensor]]:
        here = self.images.device.type == self.device.type
        for images, labels in map(self._rows, rows) if here else ahead(self._rows, rows, AHEAD):
            on_device = images.to(self.device, non_blocking=True).to(torch.float32, copy=True)
            normal = on_device.sub_(self.mean).mul_(self.scale)
            kind = torch.float32 if labels.is_floating_point() else torch.int64
            targets = labels.to(self.device, non_blocking=True).to(kind)
            yield normal.contiguous(memory_format=self.format), targets

    def _rows(self, rows: Tensor | slice) -> tuple[Tensor, Tensor]:
        """Images and labels as they are stored; pinned if a GPU must fetch them."""
        images, labels = self.images[rows], self.labels[rows]
        if self.device.type == "cuda" and images.device.type == "cpu":
            return images.pin_memory(), labels.pin_memory()
        return images, labels


def _resident(images: Tensor, labels: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """A part in the memory of the GPU, still as it is stored (uint8), if there is room for it."""
    if device.type == "cuda" and images.nbytes < RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]:
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
    n, memory_format = (
        len(images),
        torch.channels_last if images.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format,
    )
    size = images.shape[2:]
    for dim, side in enumerate(size, start=2):
        reach = max(1, side // 8)
        offset = torch.randint(-reach, reach + 1, (n, 1), generator=generator)
        index = torch.arange(side).expand(n, side)
        if kind == "shift-flip" and dim == images.dim() - 1:
            flip = torch.rand((n, 1), generator=generator) < 0.5
            index = torch.where(flip, side - 1 - index, index)
        # Position 0 and side + 1 of the padded tensor are the zeros that come in.
        index = (index + offset + 1).clamp(0, side + 1).to(images.device)
        pad = [0, 0] * (images.dim() - 1 - dim) + [1, 1]
        padded = functional.pad(images, pad)
        shape = [n, 1] + [1] * (dim - 2) + [side] + [1] * (images.dim() - 1 - dim)
        target = [n, images.shape[1], *images.shape[2:]]
        images = padded.gather(dim, index.reshape(shape).expand(target))
    return images.contiguous(memory_format=memory_format)


def augmented_together(images: Tensor, masks: Tensor, kind: str, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Images (batch, channels, *size) and masks (batch, ..., *size), moved alike as in `augmented`.

    What comes in repeats the border, of the image and of the mask, so that every pixel keeps a true class.
    """
    if kind == "none":
        return images, masks
    channels_last = images.is_contiguous(memory_format=torch.channels_last) if images.dim() == 4 else False
    n, size = len(images), images.shape[2:]
    for dim, side in enumerate(size, start=-len(size)):
        reach = max(1, side // 8)
        index = torch.arange(side) + torch.randint(-reach, reach + 1, (n, 1), generator=generator)
        if kind == "shift-flip" and dim == -1:
            index = torch.where(torch.rand((n, 1), generator=generator) < 0.5, side - 1 - index, index)
        index = index.clamp(0, side - 1).to(images.device)
        images, masks = _taken(images, index, dim), _taken(masks, index, dim)
    return images.contiguous(memory_format=torch.channels_last) if channels_last else images.contiguous(), masks


def _taken(values: Tensor, index: Tensor, dim: int) -> Tensor:
    """Along a dimension (from the end) of each sample, the places of its row of the index (batch, side)."""
    shape = [1] * values.dim()
    shape[0], shape[dim] = index.shape
    return values.gather(dim, index.reshape(shape).expand_as(values))
