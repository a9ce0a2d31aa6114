"""Data sets of `torchvision.datasets` and of Hugging Face `datasets`. Each library is imported when it is asked for."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
from PIL import Image

from se_nas.core.errors import DataError, did_you_mean
from se_nas.core.files import user_path
from se_nas.core.plugins import import_library
from se_nas.core.serialization import checksum
from se_nas.data.arrays import Reader, Readers, checked_targets
from se_nas.data.base import PART_NAMES, PARTS, PartName
from se_nas.data.decoding import reading, stored
from se_nas.data.pixels import BACKGROUND, Kind, Pixels, as_image, kind_of


@dataclass(frozen=True)
class LibraryPart:
    """One part of a data set of a library, whose images and targets can be asked for alone."""

    rows: Any
    image: Callable[[int], Any]
    """An image of Pillow, or an array (height, width[, channels])."""
    targets: Callable[[Pixels], np.ndarray]
    """All targets: class numbers (n,), several labels (n, labels) or masks (n, height, width)."""
    raw: Callable[[int], bytes] | None = None
    """An image as it is stored, where the library can say it."""


@dataclass(frozen=True)
class Wish:
    """How the images of a library are to be read; see `Pixels`."""

    size: int | None
    background: str

    @property
    def key(self) -> list[object]:
        """What a fingerprint has of it."""
        return [self.size] if self.background == BACKGROUND else [self.size, self.background]


def _source(parts: Mapping[PartName, LibraryPart], classes: Sequence[str], wish: Wish, key: object) -> Readers:
    """The parts as a source, grey if all of the first eight images are."""
    if "train" not in parts:
        raise DataError("the data set has no training set", hint="name it with --data.args.splits.train NAME")
    train = parts["train"]
    with reading("one of the first training images"):
        first = [train.image(index) for index in range(min(8, len(train.rows)))]
        sample = [kind_of(as_image(image)) for image in first]
    # An array is in colour, whatever it holds.
    kinds = [k if isinstance(i, Image.Image) else Kind(False, k.bits) for k, i in zip(sample, first, strict=True)]
    pixels = Pixels(kinds, size=wish.size, background=wish.background)
    return Readers(
        {name: _reader(name, part, pixels) for name, part in parts.items()},
        classes=classes,
        fingerprint=checksum([key, {name: len(part.rows) for name, part in parts.items()}]),
        notes=lambda _: pixels.said(),
    )


def _reader(name: PartName, part: LibraryPart, pixels: Pixels) -> Reader:
    def image(index: int) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext(part.image(index))

    raw = part.raw
    return Reader(
        lambda: part.targets(pixels),
        lambda indices: pixels.read(indices, image, lambda i: f"{name} image {i}"),
        None if raw is None else lambda indices: (raw(int(index)) for index in indices),
    )


# torchvision


def torchvision(
    path: str,
    root: str = "data",
    download: bool = False,
    size: int | None = None,
    splits: dict[str, str] | None = None,
    settings: dict[str, Any] | None = None,
    background: str = BACKGROUND,
) -> Readers:
    """A data set of `torchvision.datasets`, such as CIFAR100.

    Parameters
    ----------
    root:
        Folder where its files lie.
    download:
        Fetch them if they are not there.
    size:
        Resize all images to size x size pixels.
    splits:
        Which of the data set's splits are ``train``, ``val`` and ``test``; default those of these names.
    settings:
        Further arguments of the data set's class.
    background:
        Colour on which images with transparency are laid.
    """
    library = import_library("torchvision.datasets", "torchvision", DataError)
    name = Path(path).name
    known = [n for n in library.__all__ if isinstance(getattr(library, n), type)]
    if name not in known:
        raise DataError(f"torchvision has no data set {name!r}", hint=did_you_mean(name, known))
    factory, settings = getattr(library, name), settings or {}
    accepted = inspect.signature(factory).parameters
    given = {"root": str(user_path(root)), "download": download}
    shared = {k: v for k, v in given.items() if k in accepted or (k == "download" and download)} | settings
    found: dict[PartName, Any] = {}
    for part, choice in _choices(accepted, settings, splits or {}).items():
        for arguments in choice:
            rows = _made(name, factory, {**shared, **arguments})
            if rows is not None:
                found[part] = rows
                break
    train = found.get("train")
    masks = (
        train is not None and len(train) > 0 and hasattr(train[0][1], "convert")
    )  # lists that it keeps may be of files, or of other targets
    parts = {part: _torchvision_part(rows, masks=masks) for part, rows in found.items()}
    classes = getattr(parts["train"].rows, "classes", ()) if "train" in parts else ()
    wish = Wish(size, background)
    return _source(parts, [str(c) for c in classes], wish, [name, str(Path(root).resolve()), *wish.key, settings])


def _torchvision_part(rows: Any, *, masks: bool) -> LibraryPart:
    """Targets that are no masks come from the list that the data set keeps, else from its items one by one."""

    def targets(pixels: Pixels) -> np.ndarray:
        for name in ("targets", "labels", "_labels"):
            kept = getattr(rows, name, None)
            if not masks and kept is not None and len(kept) == len(rows):
                return checked_targets(np.asarray(kept), name)
        items = [rows[index][1] for index in range(len(rows))]
        if masks:
            return pixels.masks(items)
        return checked_targets(np.asarray(items), "target")

    files = _files_of(rows)
    raw = (lambda index: b"".join(stored(Path(names[index])) for names in files)) if files else None
    return LibraryPart(rows, lambda index: rows[index][0], targets, raw)


def _files_of(rows: Any) -> list[list[str]]:
    """The lists of files, one for each image, that a data set keeps; none if it holds its images itself."""
    if len(getattr(rows, "data", ())) == len(rows):
        return []
    kept = [value for value in vars(rows).values() if isinstance(value, list) and len(value) == len(rows) > 0]
    lists = [[row[0] if isinstance(row, tuple) else row for row in value] for value in kept]
    found: list[list[str]] = []
    for names in lists:
        if names not in found and isinstance(names[0], str | Path) and Path(names[0]).is_file():
            found.append(names)
    return found


def _choices(
    accepted: Mapping[str, Any], settings: Mapping[str, Any], splits: Mapping[str, str]
) -> dict[PartName, list[dict[str, Any]]]:
    """For each part the arguments to try that may choose it."""
    way = next((w for w in ("split", "image_set") if w in accepted and w not in settings), None)
    if way is None:
        if "train" in accepted or "split" in settings:
            return {"train": [{"train": True}], "test": [{"train": False}]}
        return {"train": [{}]}
    return {part: [{way: name} for name in ((splits[part],) if part in splits else PART_NAMES[part])] for part in PARTS}


def _made(name: str, factory: Any, arguments: dict[str, Any]) -> Any:
    """A data set, or None if it has no split of this name."""
    try:
        return factory(**arguments)
    except ValueError as error:
        if "split" in str(error) or "image_set" in str(error):
            return None
        raise DataError(f"torchvision cannot make {name}: {error}") from error
    except Exception as error:  # each data set has its own ways to fail
        raise DataError(
            f"torchvision cannot read {name}: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}",
            where=str(arguments.get("root", "")),
            hint="give the folder with --data.args.root, or --data.args.download true",
        ) from error


# Hugging Face datasets


KINDS = ("class", "classes", "mask", "number")
"""What a column of targets may hold, the likeliest first."""


@dataclass(frozen=True)
class TargetColumn:
    """The column of targets, and the names of its classes if the data set has them."""

    name: str
    kind: Literal["class", "classes", "mask", "number"]
    classes: tuple[str, ...] = ()


def hf(
    path: str,
    config: str | None = None,
    revision: str | None = None,
    image: str | None = None,
    label: str | None = None,
    splits: dict[str, str] | None = None,
    size: int | None = None,
    background: str = BACKGROUND,
) -> Readers:
    """A data set of Hugging Face `datasets`: a name of the hub, or a folder.

    The folder is one that `save_to_disk` wrote, or holds parquet files or images as `load_dataset` takes them.

    Parameters
    ----------
    config, revision:
        Which variant and version of a data set of the hub.
    image, label:
        Names of the columns; default the one of each type: images, and class labels, lists of them, or masks.
    splits:
        Which splits are ``train``, ``val`` and ``test``; default those of the usual names.
    size:
        Resize all images to size x size pixels.
    background:
        Colour on which images with transparency are laid.
    """
    library = import_library("datasets", "datasets", DataError)
    found = _loaded(library, path, config, revision)
    every: dict[str, Any] = dict(found) if isinstance(found, Mapping) else {"train": found}
    named = _named(every, splits or {})
    features = every[named["train"]].features
    column = _image_column(library, features, image, label)
    target = _target_column(library, features, label, column)
    parts = {part: _hub_part(every[name], column, target) for part, name in named.items()}
    if "test" in parts and target.kind in ("class", "number") and -1 in every[named["test"]][target.name][:1]:
        del parts["test"]  # the labels of a competition are not given
    contents = {part: getattr(every[name], "_fingerprint", "") for part, name in named.items()}
    wish = Wish(size, background)
    return _source(parts, target.classes, wish, [path, config, revision, column, target.name, *wish.key, contents])


def _hub_part(rows: Any, image: str, target: TargetColumn) -> LibraryPart:
    """Two columns of a split; images are not decoded for targets."""

    def targets(pixels: Pixels) -> np.ndarray:
        values = [row[target.name] for row in rows.select_columns([target.name])]
        if any(value is None for value in values):
            raise DataError(f"column {target.name!r} has rows without a value")
        if target.kind == "mask":
            return pixels.masks(values)
        if target.kind == "classes":
            hot = np.zeros((len(values), len(target.classes)), dtype=np.uint8)
            for row, several in enumerate(values):
                hot[row, list(several)] = 1
            return hot
        return checked_targets(np.asarray(values), target.name)

    packed = rows.cast_column(image, type(rows.features[image])(decode=False))

    def raw(index: int) -> bytes:
        content = packed[index][image]
        return content["bytes"] if content["bytes"] is not None else stored(Path(content["path"]))

    return LibraryPart(rows, lambda index: rows[index][image], targets, raw)


def _loaded(library: ModuleType, path: str, config: str | None, revision: str | None) -> Any:
    folder = user_path(path)
    library.disable_progress_bars()
    try:
        if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
            return library.load_from_disk(str(folder))
        return library.load_dataset(str(folder) if folder.exists() else path, name=config, revision=revision)
    except Exception as error:  # of the network, of the hub, of the files
        raise DataError(
            f"datasets cannot load {path!r}: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}",
            hint="give a folder with parquet files, images or what save_to_disk wrote, or a name of the hub",
        ) from error


def _named(every: Mapping[str, Any], splits: Mapping[str, str]) -> dict[PartName, str]:
    """Part -> name of its split."""
    for part, name in splits.items():
        if part not in PARTS or name not in every:
            raise DataError(
                f"splits has {part}: {name}", allowed=[f"{p}: {' or '.join(every)}" for p in PARTS],
            )  # fmt: skip
    named: dict[PartName, str] = {}
    for part in PARTS:
        chosen = splits.get(part) or next((n for n in PART_NAMES[part] if n in every), None)
        if chosen is not None:
            named[part] = chosen
    if "train" not in named:
        if len(every) != 1:
            raise DataError(
                f"the data set has the splits {', '.join(every)}", hint="name them: --data.args.splits.train NAME"
            )
        return {"train": next(iter(every))}
    return named


def _image_column(library: ModuleType, features: Mapping[str, Any], given: str | None, label: str | None) -> str:
    known = [name for name, kind in features.items() if isinstance(kind, library.Image) and name != label]
    return _one("image", given, known, features, prefer=("image", "img"))


def _target_column(library: ModuleType, features: Mapping[str, Any], given: str | None, image: str) -> TargetColumn:
    """The column that is named; else the one of the likeliest kind that there is."""
    usable = {name: c for name, kind in features.items() if name != image and (c := _as_target(library, name, kind))}
    likely = next((n for kind in KINDS if (n := [c.name for c in usable.values() if c.kind == kind])), [])
    return usable[_one("label", given, likely, usable, prefer=("label", "labels"))]


def _as_target(library: ModuleType, name: str, feature: Any) -> TargetColumn | None:
    inner = getattr(feature, "feature", None)
    if isinstance(feature, library.ClassLabel):
        return TargetColumn(name, "class", tuple(feature.names or ()))
    if isinstance(inner, library.ClassLabel):
        return TargetColumn(name, "classes", tuple(inner.names or ()))
    if isinstance(feature, library.Image):
        return TargetColumn(name, "mask")
    if isinstance(feature, library.Value) and feature.dtype.startswith(("int", "uint", "bool")):
        return TargetColumn(name, "number")
    return None


def _one(what: str, given: str | None, known: Sequence[str], every: Collection[str], prefer: Sequence[str]) -> str:
    if given is not None:
        if given not in every:
            raise DataError(f"there is no {what} column {given!r}", allowed=every, hint=did_you_mean(given, every))
        return given
    if len(known) == 1:
        return known[0]
    named = [name for name in prefer if name in known]
    if named:
        return named[0]
    raise DataError(
        f"{len(known)} columns may be the {what}" if known else f"no column is of a type for the {what}",
        allowed=known or every,
        hint=f"give --data.args.{what} NAME",
    )
