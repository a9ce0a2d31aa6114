"""Labelled images of the user's own, as those that a network was trained on: prepared alike, classes by their names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from se_nas.commands.trained_network import TrainedNetwork
from se_nas.core.errors import DataError, RunError, did_you_mean
from se_nas.core.files import path_text, user_path
from se_nas.core.plugins import absolute
from se_nas.core.trial import Target
from se_nas.data.base import PartName, Source, is_class_number
from se_nas.data.listing import listed
from se_nas.data.new_images import preparation_of
from se_nas.data.seals import source_checksum
from se_nas.data.store import open_source

FOLDER = "folder:"
READING = ("size", "background", "channels")
"""Arguments of data sets that say how images are read: those of the run hold where none are given."""


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """Images (n, channels, *size) as those of a run are stored, and their labels (n, ...) as its network has them."""

    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    """Names of the classes of the data set, by its own numbers until they are those of the network."""
    notes: list[str] = field(default_factory=list)
    opened: bool = False
    """Whether the sealed test set of the run is among the images."""


def labelled_images(trained: TrainedNetwork, target: Target, part: PartName | None) -> Labelled:
    """The images of a data set for the network of a run: of one part, or all.

    Raises
    ------
    DataError
        If there are none, one cannot be read, or they do not fit: shape, classes, scale.
    RunError
        If the data set is a LightningDataModule.
    """
    source, _ = open_source(_read_alike(trained, target))
    if hasattr(source, "train_dataloader"):
        raise RunError(
            f"{target.target!r} is a LightningDataModule, whose batches may be prepared in any way",
            hint="give the images as folder:PATH or npz:FILE",
        )
    parts = _parts(source, part, target.target)
    folder = target.target.startswith(FOLDER)
    found = _of_folder(trained, source, target, parts) if folder else _of_source(trained, source, target, parts)
    _check_shapes(trained, found, target.target)
    notes, opened = list(found.notes), _opens(trained, source, target, parts)
    if not is_class_number(found.labels):
        return replace(found, opened=opened)
    names = trained.data.classes
    labels, absent = _renumbered(found, names, target.target)
    notes += [f"No images of {', '.join(absent[:10])}{', ...' if len(absent) > 10 else ''}."] if absent else []
    return Labelled(images=found.images, labels=labels, classes=names, notes=notes, opened=opened)


def _read_alike(trained: TrainedNetwork, target: Target) -> Target:
    """The data set, read as that of the run was where both are of one kind and nothing else is asked for."""
    own, other = (name.partition(":")[0] for name in (target.target, trained.data.target.target))
    args = {name: value for name, value in trained.data.target.args.items() if name in READING and own == other}
    return Target(target=target.target, args={**args, **target.args})


def _parts(source: Source, part: PartName | None, name: str) -> list[PartName]:
    there: list[PartName] = [one for one in ("train", "val", "test") if source.labels(one) is not None]
    if part is not None and part not in there:
        raise DataError(f"the data set has no part {part!r}", where=name, allowed=there)
    return there if part is None else [part]


def _of_folder(trained: TrainedNetwork, source: Source, target: Target, parts: Sequence[PartName]) -> Labelled:
    """Image files, prepared as those of the run were, whatever they are among themselves."""
    preparation = preparation_of(trained.data, trained.stored)
    root = user_path(target.target.removeprefix(FOLDER))
    images = listed(root).images
    files = [row for part in parts for row in images[part]]
    return Labelled(
        images=np.stack([preparation.read(file) for file, _ in files]),
        labels=np.array([number for _, number in files], dtype=np.int64),
        classes=source.classes,
    )


def _of_source(trained: TrainedNetwork, source: Source, target: Target, parts: Sequence[PartName]) -> Labelled:
    """Images of any other data set, as it gives them."""
    images, labels = [], []
    for part in parts:
        targets = source.labels(part)
        if targets is not None and len(targets):
            labels.append(targets)
            images += list(source.images(part, np.arange(len(targets))))
    if not images:
        raise DataError("the data set has no images", where=target.target)
    whole, stored = np.concatenate(images), trained.stored
    if stored is not None and whole.dtype != stored:
        raise DataError(
            f"the images are {whole.dtype}, and those that the network was trained on {stored}",
            where=target.target, hint="save them on the same scale",
        )  # fmt: skip
    return Labelled(images=whole, labels=np.concatenate(labels), classes=tuple(source.classes))


def _check_shapes(trained: TrainedNetwork, found: Labelled, name: str) -> None:
    data = trained.data
    shapes = found.images.shape[1:], found.labels.shape[1:]
    if shapes != (data.input_shape, data.target_shape):
        raise DataError(
            f"the images have shape {shapes[0]} and the labels {shapes[1]}",
            where=name, allowed=[f"images {data.input_shape} and labels {data.target_shape}, as in training"],
        )  # fmt: skip


def _renumbered(found: Labelled, names: Sequence[str], where: str) -> tuple[np.ndarray, list[str]]:
    """The labels as the network numbers its classes, and the classes that have no image."""
    own = [found.classes[number] if number < len(found.classes) else str(number) for number in range(_most(found))]
    present = {own[number] for number in np.unique(found.labels)}
    if unknown := sorted(present - set(names)):
        raise DataError(
            f"the network has no class {path_text(unknown[0])!r}",
            where=where, allowed=names, hint=did_you_mean(unknown[0], names),
        )  # fmt: skip
    place = {name: number for number, name in enumerate(names)}
    table = np.array([place.get(name, -1) for name in own], dtype=np.int64)
    return table[found.labels], [name for name in names if name not in present]


def _most(found: Labelled) -> int:
    return max(len(found.classes), int(found.labels.max()) + 1)


def _opens(trained: TrainedNetwork, source: Source, target: Target, parts: Sequence[PartName]) -> bool:
    """Whether these are the data of the run itself with their test set, or its sealed test set from elsewhere."""
    data, sealed = trained.data, trained.data.sources.get("test")
    if absolute(target).target == absolute(data.target).target and (len(parts) > 1 or "test" in parts):
        return True
    for part in parts if sealed and hasattr(source, "raw") else ():
        labels = source.labels(part)
        if labels is not None and source_checksum(source, (part, np.arange(len(labels)), labels)) == sealed:
            return True
    return False
