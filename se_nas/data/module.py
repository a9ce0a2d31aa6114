"""The user's own LightningDataModule, from `pytorch_lightning` or from `lightning`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from se_nas.data.base import DataInfo
from se_nas.errors import DataError
from se_nas.ranks import Rank, Share
from se_nas.records import Target, checksum


class AnyDataModule(pl.LightningDataModule):
    """Passes everything on to a data module of either package: their classes do not mix, their methods do.

    Only the methods that training and validation need are passed on, so the test part stays closed.
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

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return self.inner.on_before_batch_transfer(batch, dataloader_idx)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return self.inner.on_after_batch_transfer(batch, dataloader_idx)


def describe_module(module: Any, target: Target) -> DataInfo:
    """What a data module says and shows: classes and input shape, from its first validation batch.

    DataError if it has no validation batches of the form (images, labels).
    """
    try:
        module.prepare_data()
        module.setup("fit")
        loader = module.val_dataloader()
        loader = loader[0] if isinstance(loader, list | tuple) else loader
        images, labels = next(iter(loader))[:2]
    except Exception as error:  # whatever a user's data module raises
        raise DataError(
            f"data module {target.target!r} gives no validation batch: {type(error).__name__}: {error}",
            hint="val_dataloader() must yield (images, labels)",
        ) from error
    if not isinstance(images, Tensor) or images.dim() < 3 or not isinstance(labels, Tensor):
        raise DataError(
            f"data module {target.target!r} yields {type(images).__name__} and {type(labels).__name__}",
            allowed=["tensors (batch, channels, *size) and (batch,)"],
        )
    classes = _classes(module, labels, target)
    fingerprint = checksum([target, classes, list(images.shape[1:])])
    return DataInfo(
        kind="module",
        target=target,
        classes=classes,
        input_shape=tuple(images.shape[1:]),
        fingerprint=fingerprint,
        checksum=fingerprint,
        split=fingerprint,
    )


def _classes(module: Any, labels: Tensor, target: Target) -> tuple[str, ...]:
    number = getattr(module, "num_classes", None) or target.args.get("num_classes")
    names = getattr(module, "classes", None)
    if isinstance(names, list | tuple) and names:
        return tuple(str(name) for name in names)
    if number is None:
        if torch.is_floating_point(labels):
            return ("output",)
        raise DataError(
            f"data module {target.target!r} does not say how many classes there are",
            hint="give it an attribute num_classes or classes",
        )
    return tuple(str(label) for label in range(int(number)))
