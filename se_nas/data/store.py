"""Data sets: read once, split with a fixed seed, cached beside the run, memory-mapped by every worker.

The test set is sealed: nothing here decodes or caches it; see `se_nas.data.sealed`.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from se_nas.core.errors import DataError
from se_nas.core.files import our_files, path_text, user_path, write_atomically
from se_nas.core.plugins import check_arguments, resolve
from se_nas.core.serialization import checksum, from_json, to_json
from se_nas.core.trial import Target
from se_nas.data.array_facts import class_counts, mean_and_std
from se_nas.data.base import ADJECTIVE, PARTS, DataInfo, Part, PartName, Plan, Rows, Source, is_class_number
from se_nas.data.seals import content_checksum, content_checksums, source_checksums
from se_nas.data.split import Split, split_checksum, split_plan

READING = 2
"""Version of how images are read: 1 flattened, cut or turned some without a word."""

DATASETS: dict[str, str] = {
    "digits": "se_nas.data.digits:digits",
    "folder:": "se_nas.data.folder:folder",
    "npz:": "se_nas.data.npz:npz",
    "torchvision:": "se_nas.data.libraries:torchvision",
    "hf:": "se_nas.data.libraries:hf",
}


def open_source(target: Target) -> tuple[Any, Split]:
    """The source of a data set (or the user's LightningDataModule), and how it is split.

    Raises
    ------
    PluginError
        If the name or an argument is unknown.
    DataError
        If there is nothing to read, or the split cannot be.
    """
    factory, argument = resolve("data", target.target, DATASETS, elsewhere=as_path)
    args = dict(target.args)
    split = {field.name: args.pop(field.name) for field in fields(Split) if field.name in args}
    if argument is not None:
        args["path"] = argument
    check_arguments("data", target, factory, args)
    return factory(**args), Split(**split)


def as_path(name: str) -> list[str]:
    """How a folder or file that was given alone must be given."""
    path = user_path(name)
    if path.is_dir():
        return [f"folder:{name}"]
    return [f"npz:{name}"] if path.is_file() and path.suffix == ".npz" else []


def prepare_data(target: Target, folder: Path, *, include_val: bool = False) -> DataInfo:
    """Read and split a data set into ``folder/data``, or find it there unchanged.

    With `include_val` the training set has the images of the validation set, too.

    Raises
    ------
    DataError
        If there is nothing to read, an image is broken, sizes differ or fewer than two classes are there.
    """
    source, split = open_source(target)
    if hasattr(source, "train_dataloader"):
        from se_nas.data.datamodule import describe_module  # imports Lightning, which arrays do not need
        from se_nas.data.module_seals import seal_module

        if include_val:
            raise DataError("a data module says itself what is trained on", hint="leave --include_val out")
        info = describe_module(source, target)
        seals, notes = seal_module(source, lambda: open_source(target)[0])
        return keep_info(folder, replace(info, prepared=seals, notes=(*info.notes, *notes)))
    fingerprint = checksum([target, source.fingerprint(), *(["train and val"] if include_val else [])])
    plan = split_plan(source, split)
    known, damaged = _prepared(folder, target, fingerprint, source, plan)
    if known is not None:
        return known
    shape = write_part(folder, "train", source, [plan["train"], *([plan["val"]] if include_val else [])])
    write_part(folder, "val", source, [plan["val"]], shape)
    info = _describe(folder, target, source, plan, fingerprint)
    info = keep_info(folder, replace(info, includes_val=include_val))
    return replace(info, notes=(*info.notes, *damaged))


def _prepared(
    folder: Path, target: Target, fingerprint: str, source: Source, plan: Plan
) -> tuple[DataInfo | None, list[str]]:
    """What is known of the data set if it is there, unchanged and whole; else nothing of it is left.

    With it, what to tell the user of prepared parts that were damaged. The file must name the very data set that was
    asked for: workers follow the name in it.
    """
    cache = folder / "data"
    if not (cache / "data.json").is_file():
        return None, []
    info = read_info(folder)
    same = info.kind == "arrays" and checksum([info.target, info.fingerprint]) == checksum([target, fingerprint])
    damaged: list[str] = []
    if same and info.reading == READING and info.sources == source_checksums(source, plan):
        names = [name for name in PARTS[:2] if prepared_checksum(folder, name) != info.prepared.get(name)]
        if not names:
            return info, []
        damaged = [
            f"data: the prepared {ADJECTIVE[name]} images or labels in {path_text(cache)!r} were damaged, "
            "and are read again"
            for name in names
        ]
    for file in cache.iterdir():  # the test set stays, to be compared when it is opened again
        if not file.name.startswith("test_"):
            shutil.rmtree(file) if file.is_dir() else file.unlink()
    return None, damaged


def keep_info(folder: Path, info: DataInfo) -> DataInfo:
    """Leave the description where workers find it; it comes last, so that a torn cache is not taken for whole."""
    write_atomically(folder / "data" / "data.json", to_json(info, indent=2))
    return info


def read_info(folder: Path) -> DataInfo:
    """What `prepare_data` found out; FileNotFoundError if it has not run, RunError if its file is broken."""
    file = folder / "data" / "data.json"
    with our_files():
        return from_json(file.read_bytes(), DataInfo, where=str(file))


def open_part(folder: Path, part: PartName) -> Part:
    """A prepared part, memory-mapped: workers share its pages, and it may be larger than memory.

    FileNotFoundError for a part that is not there, such as the test set before `open_test`.
    """
    cache = folder / "data"
    return Part(images=_array(cache / f"{part}_images.npy"), labels=_array(cache / f"{part}_labels.npy"))


def prepared_checksum(folder: Path, part: PartName) -> str | None:
    """Checksum of a prepared part as it is now; None if it is not there, or no array."""
    try:
        return content_checksum(open_part(folder, part))
    except (OSError, ValueError):
        return None


def provide(file: Path, array: np.ndarray) -> None:
    """Have an array found under the name of a file that is not there: in this process, without a copy."""
    _PROVIDED[file] = array


_PROVIDED: dict[Path, np.ndarray] = {}


def _array(file: Path) -> np.ndarray:
    if file in _PROVIDED:
        return _PROVIDED[file]
    # Copy-on-write, since torch warns of read-only arrays; nobody writes.
    with our_files():
        mapped: np.ndarray = np.load(file, mmap_mode="c")
    return mapped


def write_part(
    folder: Path, part: PartName, source: Source, rows: Sequence[Rows], shape: tuple[int, ...] | None = None
) -> tuple[int, ...]:
    """Write images and labels as arrays; returns the shape of one image, which must be that of the others, if given."""
    cache = folder / "data"
    cache.mkdir(parents=True, exist_ok=True)
    number, images, done = sum(len(indices) for _, indices, _ in rows), None, 0
    for origin, indices, _ in rows:
        for chunk in source.images(origin, indices):
            shape = shape or chunk.shape[1:]
            if chunk.shape[1:] != shape:
                raise DataError(f"{ADJECTIVE[part]} images have shape {chunk.shape[1:]}, training images {shape}")
            if images is None:
                file = cache / f"{part}_images.npy"
                with our_files():
                    images = np.lib.format.open_memmap(file, mode="w+", dtype=chunk.dtype, shape=(number, *shape))
            if chunk.dtype != np.uint8 and not np.isfinite(chunk).all():
                raise DataError(f"the {ADJECTIVE[part]} images contain values that are not finite")
            images[done : done + len(chunk)] = chunk
            done += len(chunk)
    if images is not None:
        images.flush()
    labels = np.concatenate([targets for _, _, targets in rows])
    labels = labels.astype(np.int64) if is_class_number(labels) else np.ascontiguousarray(labels)
    with our_files():
        np.save(cache / f"{part}_labels.npy", labels)
    return shape or ()


def _describe(folder: Path, target: Target, source: Source, plan: Plan, fingerprint: str) -> DataInfo:
    """What is known of the parts that were written."""
    train, val = open_part(folder, "train"), open_part(folder, "val")
    mean, std = mean_and_std(train.images)
    of_train, of_val, of_both = content_checksums(train, val)
    notes = getattr(source, "notes", None)
    return DataInfo(
        target=target,
        classes=source.classes,
        input_shape=tuple(train.images.shape[1:]),
        target_shape=tuple(train.labels.shape[1:]),
        target_type="float" if np.issubdtype(train.labels.dtype, np.floating) else "integer",
        mean=tuple(mean.tolist()),
        std=tuple(std.tolist()),
        train=len(train.images),
        val=len(val.images),
        test=len(plan["test"][1]),
        fingerprint=fingerprint,
        checksum=of_both,
        prepared={"train": of_train, "val": of_val},
        sources=source_checksums(source, plan),
        split=split_checksum(plan),
        cut=tuple(part for part in PARTS if part != "train" and plan[part][0] == "train"),
        val_counts=class_counts(val.labels, len(source.classes)),
        notes=tuple(f"data: {note}" for note in (notes(plan) if callable(notes) else ())),
        reading=READING,
    )


def cut_note(info: DataInfo) -> str | None:
    """What to tell the user of parts that were split off from the images to train on; None if nothing was."""
    if not info.cut or info.target.target in DATASETS:  # that of a built-in data set is in its description
        return None
    given = info.target.args
    split = Split(**{field.name: given[field.name] for field in fields(Split) if field.name in given})
    shares = " and ".join(f"{getattr(split, f'{part}_fraction'):.0%} as {part}" for part in info.cut)
    return (
        f"data: se-nas set apart {shares} (split_seed {split.split_seed}): "
        f"{info.train:,} images to train on, {info.val:,} val, {info.test:,} test"
    )
