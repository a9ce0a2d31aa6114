"""A rank's share of every batch, for trainings on several devices."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

SEPARATOR = ","
"""Between the devices of one slot, such as ``cuda:0,cuda:1``."""


def devices_of(device: str) -> tuple[str, ...]:
    """The devices of a slot: one, or those of the ranks."""
    return tuple(device.split(SEPARATOR))


@dataclass(frozen=True, kw_only=True)
class Rank:
    """One of the processes that train a candidate together."""

    index: int
    devices: tuple[str, ...]

    @property
    def number(self) -> int:
        """How many there are."""
        return len(self.devices)


class Share:
    """A rank's share of every batch of an iterable: with n ranks, every n-th image.

    All shares of a batch have the same size, so that averaged gradients are those of the whole batch: what is left
    over when a batch is divided by n is dropped, and so is a batch with fewer than n images.
    """

    def __init__(self, batches: Any, rank: Rank) -> None:
        self.batches, self.rank = batches, rank

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        for batch in self.batches:
            size = len(next(iter(_tensors(batch))))
            if even := size // self.rank.number * self.rank.number:
                yield _cut(batch, slice(self.rank.index, even, self.rank.number))


def _tensors(batch: Any) -> Iterable[Tensor]:
    if isinstance(batch, Tensor):
        return [batch]
    values = batch.values() if isinstance(batch, dict) else batch
    return [tensor for value in values for tensor in _tensors(value)]


def _cut(batch: Any, rows: slice) -> Any:
    if isinstance(batch, Tensor):
        return batch[rows]
    if isinstance(batch, dict):
        return {name: _cut(value, rows) for name, value in batch.items()}
    return [_cut(value, rows) for value in batch]
