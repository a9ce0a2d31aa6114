"""Images of a part of the data as the network is given them in training: for proofs and for calibration."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from se_nas.core.errors import DataError
from se_nas.core.serialization import random_stream
from se_nas.core.trial import Recipe
from se_nas.data.base import DataInfo, PartName
from se_nas.data.batches import Batches
from se_nas.data.datamodule import AnyDataModule, pair_of
from se_nas.data.store import open_part, open_source, prepare_data
from se_nas.training.own_loop import OwnLoop
from se_nas.training.trainer import DeviceSettings, make_trainer, quiet
from se_nas.training.trainers import open_loop

MAX_IMAGES = 10_000
MAX_BYTES = 256 * 2**20
"""Images that are taken, at most: so many, and so much memory as float32."""


@dataclass(frozen=True, kw_only=True)
class Images:
    """Normalised images (n, channels, *size), float32, and labels (n, ...); `of` says how many the part has.

    Of a data module `of` is how many were seen, and labels are empty if they are no tensors of one shape.
    """

    images: Tensor
    labels: Tensor
    of: int
    real: bool = True
    """Whether they are of the data: a trainer that brings its own need not show any."""


RANDOM = 32
"""Images of noise that stand in where there are no others."""


def part_images(
    run: Path, data: DataInfo, part: PartName, *, limit: int = MAX_IMAGES, max_bytes: int = MAX_BYTES
) -> Images:
    """Images of the training or validation set, as training sees them; of too many a fixed random choice.

    From a data module, the first ones that its loader gives, with what its hooks do to a batch in validation. From a
    trainer that brings its own data, what its ``images()`` returns, or standard normal noise.

    Raises
    ------
    DataError
        If the data have changed since the search, or a trainer shows images that do not fit.
    """
    limit = max(1, min(limit, max_bytes // (4 * int(np.prod(data.input_shape)))))
    if data.kind == "module":
        return _module_images(data, part, limit)
    if data.kind == "own":
        return _own_images(data, limit)
    if not (run / "data" / f"{part}_images.npy").is_file():
        found = prepare_data(data.target, run)
        if found.checksum != data.checksum:
            raise DataError("the data set is not the one of the search: its checksum differs", where=data.target.target)
    stored = open_part(run, part)
    of = len(stored.labels)
    chosen = np.arange(of)
    if of > limit:
        chosen = np.sort(np.random.default_rng(random_stream(0, "proof", part)).choice(of, limit, replace=False))
    batches = Batches(
        type(stored)(images=stored.images[chosen], labels=stored.labels[chosen]),
        batch_size=512, mean=data.mean, std=data.std, device=torch.device("cpu"),
    )  # fmt: skip
    pairs = list(batches)
    return Images(images=torch.cat([i for i, _ in pairs]), labels=torch.cat([label for _, label in pairs]), of=of)


def _module_images(data: DataInfo, part: PartName, limit: int) -> Images:
    seen = _Seen()
    shown = _Shown(open_source(data.target)[0], part, limit)
    trainer = make_trainer(Recipe(), DeviceSettings())
    with quiet():
        trainer.validate(seen, datamodule=shown, verbose=False)
    images = torch.cat(seen.images)[:limit].float()
    targets = [labels for labels in seen.labels if isinstance(labels, Tensor)]
    alike = len(targets) == len(seen.labels) and len({labels.shape[1:] for labels in targets}) == 1
    labels = torch.cat(targets)[:limit] if alike else torch.empty(0)
    return Images(images=images, labels=labels, of=sum(map(len, seen.images)))


def _own_images(data: DataInfo, limit: int) -> Images:
    # Only what it shows is asked of the loop, whatever it compares.
    loop: OwnLoop | None = open_loop(data.target, metric="any", direction="maximize")
    show = None if loop is None else loop.part("images", Callable)  # type: ignore[arg-type]  # isinstance works with it
    if show is None:
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(min(limit, RANDOM), *data.input_shape, generator=generator)
        return Images(images=noise, labels=torch.empty(0), of=len(noise), real=False)
    images = show()
    if not isinstance(images, Tensor) or not len(images) or images.shape[1:] != data.input_shape:
        shown = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise DataError(
            f"images() of trainer {data.target.target!r} returns {shown}",
            allowed=[f"a tensor (n, {', '.join(map(str, data.input_shape))})"],
        )
    return Images(images=images[:limit].detach().float().cpu(), labels=torch.empty(0), of=len(images))


class _Seen(pl.LightningModule):
    """Keeps what a network would be given, after all that a data module does with its batches."""

    def __init__(self) -> None:
        super().__init__()
        self.images: list[Tensor] = []
        self.labels: list[Any] = []

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        images, labels = pair_of(batch)
        self.images.append(images)
        self.labels.append(labels)


class _Shown(AnyDataModule):
    """A part of a data module where Lightning looks for validation data, up to so many images."""

    def __init__(self, inner: Any, part: PartName, limit: int) -> None:
        super().__init__(inner)
        self.part, self.limit = part, limit

    def setup(self, stage: str) -> None:
        super().setup("fit")

    def val_dataloader(self) -> Any:
        loader = self.inner.val_dataloader() if self.part == "val" else self.inner.train_dataloader()
        return _First(loader[0] if isinstance(loader, list | tuple) else loader, self.limit)


class _First:
    """The first batches of a loader, until they have so many images."""

    def __init__(self, loader: Any, limit: int) -> None:
        self.loader, self.limit = loader, limit

    def __iter__(self) -> Iterator[Any]:
        count = 0
        for batch in self.loader:
            if count >= self.limit:
                return
            count += len(pair_of(batch)[0])
            yield batch
