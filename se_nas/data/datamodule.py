"""The user's own LightningDataModule, from `pytorch_lightning` or from `lightning`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from se_nas.core.errors import DataError
from se_nas.core.serialization import checksum
from se_nas.core.trial import Target
from se_nas.data.base import DataInfo
from se_nas.data.shards import Rank, Share

IMAGES = ("image", "images", "pixel_values", "img", "x", "input")
TARGETS = ("label", "labels", "mask", "masks", "target", "targets", "y", "seg")
"""Names in a batch that is a dictionary."""


class AnyDataModule(pl.LightningDataModule):
    """Passes everything on to a data module of either package: their classes do not mix, their methods do.

    Only the methods that training and validation need are passed on, so the test set stays closed.
    """

    def __init__(self, inner: Any, *, ready: Callable[[], None] | None = None, rank: Rank | None = None) -> None:
        super().__init__()
        self.inner = inner
        self.rank = rank
        self.ready = ready
        """Called when the training batches are made and none has been taken."""

    def prepare_data(self) -> None:
        self.inner.prepare_data()

    def setup(self, stage: str) -> None:
        self.inner.trainer = self.trainer  # its hooks may ask whether the trainer validates
        self.inner.setup(stage)

    def train_dataloader(self) -> Any:
        loader = self.inner.train_dataloader()
        if self.ready is not None:
            self.ready()
        return loader if self.rank is None else Share(loader, self.rank)

    def val_dataloader(self) -> Any:
        return self.inner.val_dataloader()

    def teardown(self, stage: str) -> None:
        self.inner.teardown(stage)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return self.inner.transfer_batch_to_device(batch, device, dataloader_idx)

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return self.inner.on_before_batch_transfer(batch, dataloader_idx)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return self.inner.on_after_batch_transfer(batch, dataloader_idx)


def describe_module(module: Any, target: Target) -> DataInfo:
    """What a data module says and shows: classes and input shape, from its first validation batch.

    DataError if it has no validation batches of the form (images, targets), or dictionaries of them.
    """
    try:
        module.prepare_data()
        module.setup("fit")
        loader = module.val_dataloader()
        images, labels = pair_of(next(iter(loader[0] if isinstance(loader, list | tuple) else loader)))
    except Exception as error:  # whatever a user's data module raises
        raise DataError(
            f"data module {target.target!r} gives no validation batch: {type(error).__name__}: {error}",
            hint="val_dataloader() must yield (images, labels), or dictionaries with image and label",
        ) from error
    if not isinstance(images, Tensor) or images.dim() < 3 or labels is None:
        raise DataError(
            f"data module {target.target!r} yields {type(images).__name__} and {type(labels).__name__}",
            allowed=["a tensor (batch, channels, *size), and targets"],
        )
    classes = _classes(module, target)
    fingerprint = checksum([target, classes, list(images.shape[1:])])
    return DataInfo(
        kind="module",
        target=target,
        classes=classes,
        input_shape=tuple(images.shape[1:]),
        target_shape=tuple(labels.shape[1:]) if isinstance(labels, Tensor) else (),
        target_type=_kind(labels),
        fingerprint=fingerprint,
        checksum=fingerprint,
        split=fingerprint,
    )


def _kind(targets: Any) -> Literal["integer", "float", "other"]:
    if not isinstance(targets, Tensor):
        return "other"
    return "float" if targets.is_floating_point() else "integer"


def _classes(module: Any, target: Target) -> tuple[str, ...]:
    """Names or numbers of the classes; empty if the data module does not say."""
    names = getattr(module, "classes", None)
    if isinstance(names, list | tuple) and names:
        return tuple(str(name) for name in names)
    number = getattr(module, "num_classes", None) or target.args.get("num_classes") or 0
    return tuple(str(label) for label in range(int(number)))


class Seen:
    """The batches of a loader, with the checksum of those that were taken last time."""

    def __init__(self, loader: Iterable[Any]) -> None:
        self._loader = loader
        self.checksum = ""

    def __iter__(self) -> Iterator[Any]:
        digest = hashlib.sha256()
        for batch in self._loader:
            for leaf in tree_leaves(batch):
                if isinstance(leaf, Tensor):
                    digest.update(leaf.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
                elif isinstance(leaf, str | int | float):
                    digest.update(repr(leaf).encode())
            yield batch
        self.checksum = digest.hexdigest()[:16]


def pair_of(batch: Any) -> tuple[Any, Any]:
    """Images and targets of a batch: of a pair, or of a dictionary under the usual names (else None)."""
    if isinstance(batch, Mapping):
        pair = [next((batch[name] for name in names if name in batch), None) for names in (IMAGES, TARGETS)]
        return pair[0], pair[1]
    images, targets = batch[:2]
    return images, targets
