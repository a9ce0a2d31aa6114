"""Whether the images and targets of a user's LightningDataModule are what they were, as far as that can be told.

The items of its data sets are asked for by their number, without loaders, workers and shuffling, each under the same
random numbers, so that an augmentation does the same every time. What a second module, opened anew, does not give
again (a split without a seed, streams, a random generator of its own) cannot be compared, which is said: a module
that has not changed is never refused.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import math
import platform
import random
import site
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from se_nas.core.serialization import checksum
from se_nas.data.base import ADJECTIVE, PARTS, PartName

SECONDS = 4.0
"""How long the items of a part are read; those of a larger part are a sample, which begins alike in every process."""


class _UncheckedError(Exception):
    """Why items cannot be compared."""


@dataclass(frozen=True)
class Seal:
    """What the items of a part are.

    `items` is their number; `sums` has, for ever more of them (1, 2, 4, ... and all), the sum of their checksums,
    which does not depend on their order; `packages` stands for what made them.

    >>> print(Seal.read("3 p 1:a 2:b 3:c").changed(Seal.read("3 p 1:a 2:d")))
    True
    """

    items: int
    packages: str
    sums: dict[int, str]

    def __str__(self) -> str:
        return " ".join([str(self.items), self.packages, *(f"{number}:{total}" for number, total in self.sums.items())])

    @classmethod
    def read(cls, text: str) -> Seal:
        items, packages, *sums = text.split()
        return cls(int(items), packages, {int(n): total for n, _, total in (pair.partition(":") for pair in sums)})

    def changed(self, other: Seal) -> bool:
        """Whether the items are others, by the largest number of them that both know; not for other packages' sake."""
        both = max(self.sums.keys() & other.sums.keys(), default=0)
        equal = self.items == other.items and self.sums.get(both) == other.sums.get(both)
        return not equal and self.packages == other.packages


def seal_changed(before: str, now: str) -> bool:
    """Whether a part is another one, by what `DataInfo.prepared` had and has of it."""
    if before == now or " " not in before or " " not in now:  # of arrays: plain checksums
        return before != now
    return Seal.read(before).changed(Seal.read(now))


def seal_module(module: Any, again: Callable[[], Any]) -> tuple[dict[PartName, str], tuple[str, ...]]:
    """Part -> its seal as text; and what is to be told of parts that have none.

    Parameters
    ----------
    module:
        One that has been set up to fit.
    again:
        Opens another one, which has not.
    """
    seals: dict[PartName, str] = {}
    said: list[str] = []
    with _random_kept():
        first: dict[PartName, Seal | str] = {part: _tried(module, part) for part in PARTS if part != "test"}
        second = _again(again, first)
    for part, seal in first.items():
        why = second[part]
        if isinstance(seal, Seal) and isinstance(why, Seal):
            why = "" if why.sums.items() >= seal.sums.items() else "they differ each time that they are asked for"
        if why:
            said.append(f"data: changes of the {ADJECTIVE[part]} images cannot be noticed: {why}")
        else:
            seals[part] = str(seal)
    return seals, tuple(said)


def _again(again: Callable[[], Any], first: Mapping[PartName, Seal | str]) -> dict[PartName, Seal | str]:
    """The same of another module, of as many items."""
    if not any(isinstance(seal, Seal) for seal in first.values()):
        return dict(first)
    try:
        module = again()
        module.prepare_data()
        module.setup("fit")
    except Exception as error:  # whatever a user's data module raises
        return dict.fromkeys(first, f"a second data module fails with {type(error).__name__}: {error}")
    return {
        part: seal if isinstance(seal, str) else _tried(module, part, most=max(seal.sums))
        for part, seal in first.items()
    }


def _tried(module: Any, part: PartName, most: int | None = None) -> Seal | str:
    """The seal of a part, or why there is none; of so many items, by default of those that can be read in time."""
    try:
        loader = module.train_dataloader() if part == "train" else module.val_dataloader()
        return _seal([_indexed(one) for one in _loaders(loader)], most)
    except _UncheckedError as error:
        return str(error)
    except Exception as error:  # whatever a user's data set raises
        lines = str(error).splitlines() or [""]
        return f"asked for an item, the data set fails with {type(error).__name__}: {lines[0][:200]}"


def _loaders(loader: Any) -> Iterator[Any]:
    """The loaders in a list or dictionary of them, or in Lightning's combination."""
    loader = getattr(loader, "iterables", loader)
    if isinstance(loader, Mapping | list | tuple):
        for one in loader.values() if isinstance(loader, Mapping) else loader:
            yield from _loaders(one)
    else:
        yield loader


def _indexed(loader: Any) -> Any:
    dataset = getattr(loader, "dataset", None)
    if dataset is None or isinstance(dataset, IterableDataset) or not hasattr(dataset, "__getitem__"):
        raise _UncheckedError("they are a stream, or come from a loader without a data set of items")
    return dataset


def _seal(datasets: list[Any], most: int | None) -> Seal:
    ends = np.cumsum([len(dataset) for dataset in datasets]).tolist()
    number, start, total = (ends or [0])[-1], time.monotonic(), 0
    if number == 0:
        raise _UncheckedError("there are none")
    sums: dict[int, str] = {}
    for done, index in enumerate(_spread(number), start=1):
        which = int(np.searchsorted(ends, index, side="right"))
        dataset = datasets[which]
        _reset_random()
        digest = hashlib.sha256()
        _feed(digest, [which, dataset[index - ends[which] + len(dataset)]])
        total = (total + int.from_bytes(digest.digest()[:8], "big")) % 2**64
        if done == number or done & (done - 1) == 0:
            sums[done] = f"{total:016x}"
        if done == most or (most is None and time.monotonic() - start > SECONDS):
            break
    return Seal(number, _packages(), sums)


def _spread(number: int) -> Iterator[int]:
    """All numbers below one, in an order whose beginning is spread evenly."""
    step = max(1, round(number * (math.sqrt(5) - 1) / 2))
    while math.gcd(step, number) != 1:
        step += 1
    yield from (index * step % number for index in range(number))


def _feed(digest: hashlib._Hash, value: Any) -> None:
    """Add all that a value holds; _UncheckedError if it holds something whose content is not known."""
    digest.update(type(value).__name__.encode())
    if isinstance(value, Tensor):
        digest.update(f"{value.dtype}{tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    elif isinstance(value, np.ndarray) and value.dtype != object:
        digest.update(f"{value.dtype.str}{value.shape}".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    elif isinstance(value, Mapping):
        _feed(digest, sorted(([repr(name), item] for name, item in value.items()), key=lambda pair: str(pair[0])))
    elif isinstance(value, list | tuple | np.ndarray):
        digest.update(str(len(value)).encode())
        for item in value:
            _feed(digest, item)
    elif isinstance(value, bytes):
        digest.update(value)
    elif isinstance(value, Enum):
        digest.update(value.name.encode())
    elif value is None or isinstance(value, str | int | float | complex | np.generic):
        digest.update(repr(value).encode())
    elif is_dataclass(value) and not isinstance(value, type):
        _feed(digest, [getattr(value, item.name) for item in fields(value)])
    elif callable(getattr(value, "tobytes", None)) and hasattr(value, "mode") and hasattr(value, "size"):  # of Pillow
        _feed(digest, [value.mode, value.size, value.tobytes()])
    else:
        raise _UncheckedError(f"their items hold a {type(value).__name__}, whose content is not known")


@functools.cache
def _packages() -> str:
    """What can make equal files unequal images: versions of all installed packages, and what the processor can.

    Of the folders of this environment only: Ray and setuptools add folders of their own to `sys.path` when they are
    imported, and two processes of one run need not have imported the same.
    """
    folders = [*site.getsitepackages(), site.getusersitepackages()]
    found = sorted({f"{item.name} {item.version}" for item in importlib.metadata.distributions(path=folders)})
    return checksum([found, sys.version, platform.machine(), torch.backends.cpu.get_cpu_capability()])


def _reset_random() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.default_generator.manual_seed(0)


@contextlib.contextmanager
def _random_kept() -> Iterator[None]:
    states = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
