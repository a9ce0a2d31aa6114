"""Data sets: read once, split with a fixed seed, cached beside the run, memory-mapped by every worker.

The test part is sealed: nothing here decodes or caches it until `open_test` is called, which keeps a log.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from se_nas.data.base import CHUNK, PARTS, DataInfo, Part, PartName, Source
from se_nas.errors import DataError
from se_nas.files import write_atomically
from se_nas.plugins import check_arguments, resolve
from se_nas.records import Target, checksum, from_json, to_json

DATASETS: dict[str, str] = {
    "digits": "se_nas.data.digits:digits",
    "context": "se_nas.data.context:context",
    "blank:": "se_nas.data.blank:blank",
    "folder:": "se_nas.data.folder:folder",
    "npz:": "se_nas.data.npz:npz",
    "torchvision:": "se_nas.data.libraries:torchvision",
    "hf:": "se_nas.data.libraries:hf",
}

SPLIT_ARGS = {"val_fraction": 0.2, "test_fraction": 0.2, "split_seed": 0}
"""Arguments that every array data set takes, with their defaults: how missing parts are cut from `train`."""


def open_source(target: Target) -> tuple[Any, dict[str, Any]]:
    """The source of a data set (or the user's LightningDataModule), and the arguments of its split."""
    factory, argument = resolve("data", target.target, DATASETS)
    args = dict(target.args)
    split = {name: args.pop(name, default) for name, default in SPLIT_ARGS.items()}
    if argument is not None:
        args["path"] = argument
    check_arguments("data", target, factory, args)
    for name in ("val_fraction", "test_fraction"):
        if not isinstance(split[name], int | float) or not 0 < split[name] < 1:
            raise DataError(f"{name} is {split[name]!r}", allowed=["a number between 0 and 1"])
    return factory(**args), split


def prepare_data(target: Target, folder: Path, *, include_val: bool = False) -> DataInfo:
    """Read and split a data set into ``folder/data``, or find it there unchanged.

    With `include_val` the training part has the images of the validation part, too.

    Raises
    ------
    DataError
        If there is nothing to read, an image is broken, sizes differ or fewer than two classes are there.
    """
    source, split = open_source(target)
    if hasattr(source, "train_dataloader"):
        from se_nas.data.module import describe_module  # imports Lightning, which arrays do not need

        if include_val:
            raise DataError("a data module says itself what is trained on", hint="leave --include_val out")
        return _keep(folder / "data", describe_module(source, target))
    fingerprint = checksum([target, source.fingerprint(), *(["train and val"] if include_val else [])])
    cache = folder / "data"
    if (cache / "data.json").is_file():
        info = read_info(folder)
        if info.fingerprint == fingerprint and _is_whole(folder):
            return info
        shutil.rmtree(cache)
    plan = split_plan(source, split)
    cache.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    for part in PARTS[:2]:
        more = [plan["val"]] if include_val and part == "train" else []
        _write_part(cache, part, source, [plan[part], *more], digest)
    info = _describe(cache, target, source, plan, fingerprint, digest.hexdigest()[:16])
    return _keep(cache, replace(info, includes_val=include_val))


def _keep(cache: Path, info: DataInfo) -> DataInfo:
    """Leave the description where workers find it; it comes last, so that a torn cache is not taken for whole."""
    write_atomically(cache / "data.json", to_json(info, indent=2))
    return info


def read_info(folder: Path) -> DataInfo:
    """What `prepare_data` found out."""
    file = folder / "data" / "data.json"
    return from_json(file.read_bytes(), DataInfo, where=str(file))


OPENINGS = "test_openings.jsonl"
"""File of a run folder: one line for each time that its test part was opened."""


def open_test(folder: Path, *, purpose: str) -> int:
    """Make the test part ready for `open_part`, and note it; returns how many openings the log has.

    The same purpose again is the same opening, which goes on after an interruption.

    Raises
    ------
    DataError
        If the data set has changed, or has no test part.
    """
    info = read_info(folder)
    digest = hashlib.sha256()
    if info.kind == "arrays":
        source, split = open_source(info.target)
        plan = split_plan(source, split)
        if _split_checksum(plan) != info.split:
            raise DataError("the data set is split otherwise than when it was searched", where=str(folder))
        if len(plan["test"][1]) == 0:
            raise DataError("the test part of the data set is empty", where=str(folder))
        if not (folder / "data" / "test_labels.npy").is_file():  # written last
            _write_part(folder / "data", "test", source, [plan["test"]], digest)
    log = openings(folder)
    if all(opening["purpose"] != purpose for opening in log):
        entry = {"purpose": purpose, "time": datetime.now(UTC).isoformat(timespec="seconds"), "images": info.test}
        log.append(entry)
        write_atomically(folder / OPENINGS, "".join(json.dumps(line) + "\n" for line in log).encode())
    return len(log)


def openings(folder: Path) -> list[dict[str, Any]]:
    """What the log of a run folder says about its test part: purpose, time and number of images of each opening."""
    file = folder / OPENINGS
    if not file.is_file():
        return []
    try:
        log = [json.loads(line) for line in file.read_text().splitlines() if line]
        if wrong := [line for line in log if not isinstance(line, dict) or "purpose" not in line]:
            raise ValueError(f"{wrong[0]!r} is no opening")
        return log
    except ValueError as error:
        raise DataError(f"the log of test openings is broken: {error}", where=str(file)) from error


def open_part(folder: Path, part: PartName) -> Part:
    """A prepared part, memory-mapped: workers share its pages, and it may be larger than memory."""
    cache = folder / "data"
    return Part(images=_array(cache / f"{part}_images.npy"), labels=_array(cache / f"{part}_labels.npy"))


def _is_whole(folder: Path) -> bool:
    """Whether the prepared training and validation parts are there, as long as they should be."""
    try:
        return all(len(part.images) == len(part.labels) for part in (open_part(folder, name) for name in PARTS[:2]))
    except (OSError, ValueError):
        return False


def provide(file: Path, array: np.ndarray) -> None:
    """Have an array found under the name of a file that is not there: in this process, without a copy."""
    _PROVIDED[file] = array


_PROVIDED: dict[Path, np.ndarray] = {}


def _array(file: Path) -> np.ndarray:
    if file in _PROVIDED:
        return _PROVIDED[file]
    # Copy-on-write, since torch warns of read-only arrays; nobody writes.
    mapped: np.ndarray = np.load(file, mmap_mode="c")
    return mapped


Rows = tuple[PartName, np.ndarray, np.ndarray]
"""Images of one part of the source: its name, their indices there, and their labels."""

Plan = dict[PartName, Rows]
"""Part -> where its images come from."""


def split_plan(source: Source, split: dict[str, Any]) -> Plan:
    """Which image of the source goes to which part; parts that the source lacks are cut from its `train`.

    The cut is stratified by class, where targets are class numbers, and depends on `split_seed` alone.
    """
    labels = source.labels("train")
    if labels is None or len(labels) == 0:
        raise DataError("the data set has no training images")
    plan: Plan = {}
    rest = np.arange(len(labels))
    generator = np.random.default_rng(split["split_seed"])
    missing: tuple[tuple[PartName, str], ...] = (("test", "test_fraction"), ("val", "val_fraction"))
    for part, name in missing:
        own = source.labels(part)
        if own is not None and len(own):
            plan[part] = (part, np.arange(len(own)), own)
            continue
        strata = labels[rest] if is_class_number(labels) else np.zeros(len(rest), dtype=np.int64)
        taken = _stratified(strata, float(split[name]), len(labels), generator)
        plan[part] = ("train", rest[taken], labels[rest[taken]])
        rest = rest[~taken]
    if len(rest) == 0:
        raise DataError(
            f"val_fraction {split['val_fraction']} and test_fraction {split['test_fraction']} leave nothing to train on"
        )
    plan["train"] = ("train", rest, labels[rest])
    _check_plan(plan, source.classes)
    return plan


def is_class_number(labels: np.ndarray) -> bool:
    """Whether targets are one class number for each image."""
    return labels.ndim == 1 and np.issubdtype(labels.dtype, np.integer)


def _stratified(labels: np.ndarray, fraction: float, total: int, generator: np.random.Generator) -> np.ndarray:
    """Mask of a share of the images, the same share of `total` from every class."""
    order = generator.permutation(len(labels))
    chosen = np.zeros(len(labels), dtype=bool)
    share = fraction * total / len(labels)
    for label in np.unique(labels):
        members = order[labels[order] == label]
        chosen[members[: round(share * len(members))]] = True
    return chosen


def _check_plan(plan: Plan, classes: tuple[str, ...]) -> None:
    labels = plan["train"][2]
    for name, (_, _, part_labels) in plan.items():
        if name != "test" and len(part_labels) < 2:
            raise DataError(f"the {name} part has {len(part_labels)} images: too few")
        if part_labels.shape[1:] != labels.shape[1:]:
            raise DataError(f"{name} targets have shape {part_labels.shape[1:]}, training targets {labels.shape[1:]}")
    if not is_class_number(labels):
        return  # what the targets mean is the business of the user's task
    if len(classes) < 2 or len(np.unique(labels)) < 2:
        raise DataError(
            f"the training part has only the class {classes[0] if classes else '(none)'!r}",
            hint="classification needs at least two classes",
        )
    for name, (_, _, part_labels) in plan.items():
        if len(part_labels) and not 0 <= part_labels.min() <= part_labels.max() < len(classes):
            raise DataError(f"the {name} part has labels outside 0 to {len(classes) - 1}")


def _write_part(cache: Path, part: str, source: Source, rows: Sequence[Rows], digest: Any) -> None:
    number, images, done = sum(len(indices) for _, indices, _ in rows), None, 0
    for origin, indices, _ in rows:
        for chunk in source.images(origin, indices):
            if images is None:
                file, shape = cache / f"{part}_images.npy", (number, *chunk.shape[1:])
                images = np.lib.format.open_memmap(file, mode="w+", dtype=chunk.dtype, shape=shape)
            if chunk.shape[1:] != images.shape[1:]:
                raise DataError(f"validation images have shape {chunk.shape[1:]}, training images {images.shape[1:]}")
            images[done : done + len(chunk)] = chunk
            digest.update(chunk.tobytes())
            done += len(chunk)
    if images is not None:
        images.flush()
    labels = np.concatenate([targets for _, _, targets in rows])
    labels = labels.astype(np.int64) if is_class_number(labels) else np.ascontiguousarray(labels)
    np.save(cache / f"{part}_labels.npy", labels)
    digest.update(labels.tobytes())


def _describe(cache: Path, target: Target, source: Source, plan: Plan, fingerprint: str, digest: str) -> DataInfo:
    images = np.load(cache / "train_images.npy", mmap_mode="r")
    val = np.load(cache / "val_images.npy", mmap_mode="r")
    if val.shape[1:] != images.shape[1:]:
        raise DataError(f"validation images have shape {val.shape[1:]}, training images {images.shape[1:]}")
    axes = (0, *range(2, images.ndim))
    per_image = images.size // len(images) // images.shape[1]
    total = np.zeros(images.shape[1])
    squares = np.zeros(images.shape[1])
    for start in range(0, len(images), CHUNK):
        chunk = images[start : start + CHUNK].astype(np.float64)
        total += chunk.sum(axes)
        squares += (chunk**2).sum(axes)
    mean = total / (len(images) * per_image)
    std = np.sqrt(np.maximum(squares / (len(images) * per_image) - mean**2, 0.0))
    if not np.isfinite(std).all():
        raise DataError("the training images contain values that are not finite")
    return DataInfo(
        target=target,
        classes=source.classes,
        input_shape=tuple(images.shape[1:]),
        target_shape=tuple(plan["train"][2].shape[1:]),
        target_type="float" if np.issubdtype(plan["train"][2].dtype, np.floating) else "integer",
        mean=tuple(mean.tolist()),
        std=tuple(np.where(std > 0, std, 1.0).tolist()),
        train=len(images),
        val=len(plan["val"][1]),
        test=len(plan["test"][1]),
        fingerprint=fingerprint,
        checksum=digest,
        split=_split_checksum(plan),
    )


def _split_checksum(plan: Plan) -> str:
    return checksum({part: [origin, indices.tolist()] for part, (origin, indices, _) in plan.items()})
