"""Data sets of `torchvision.datasets` and of Hugging Face `datasets`. Each library is imported when it is asked for."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from se_nas.data.base import PARTS, PartName, chunks
from se_nas.data.pixels import GREY, Pixels
from se_nas.errors import DataError, did_you_mean
from se_nas.records import checksum

SPLITS: dict[PartName, tuple[str, ...]] = {
    "train": ("train", "trainval"),
    "val": ("val", "validation", "valid", "dev"),
    "test": ("test",),
}
"""Names that the parts have in libraries."""


class LibrarySet:
    """Images and targets of a library's parts, each a sequence that can be asked for either alone.

    Targets are class numbers, several labels (n, labels) or masks (n, height, width).
    """

    def __init__(self, parts: Mapping[PartName, Any], classes: Sequence[str], *, size: int | None, key: object) -> None:
        if "train" not in parts:
            raise DataError("the data set has no training part", hint="name it with --data.args.splits.train NAME")
        self._parts, self._key = dict(parts), key
        first = [parts["train"].image(i) for i in range(min(8, len(parts["train"])))]
        self._pixels = Pixels(grey=bool(first) and all(getattr(i, "mode", "RGB") in GREY for i in first), size=size)
        self._targets: dict[PartName, np.ndarray] = {}
        self.classes = tuple(classes) or _numbers(self.labels("train"))

    def labels(self, part: PartName) -> np.ndarray | None:
        if part not in self._parts:
            return None
        if part not in self._targets:
            self._targets[part] = self._parts[part].targets(self._pixels)
        return self._targets[part]

    def images(self, part: PartName, indices: np.ndarray) -> Iterator[np.ndarray]:
        for piece in chunks(indices):
            yield np.stack([self._pixels.array(self._parts[part].image(int(i)), f"{part} image {i}") for i in piece])

    def fingerprint(self) -> str:
        return checksum([self._key, {part: len(rows) for part, rows in self._parts.items()}])


def _numbers(labels: np.ndarray | None) -> tuple[str, ...]:
    number = 0 if labels is None or not labels.size else int(labels.max()) + 1
    return tuple(str(index) for index in range(number))


def _library(module: str, package: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except Exception as error:  # a library that was built for another torch fails in many ways
        name = module.partition(".")[0]
        missing = isinstance(error, ModuleNotFoundError) and error.name == name
        what = "is not installed" if missing else f"cannot be imported: {type(error).__name__}: {error}"
        raise DataError(f"{name} {what}", hint=f"pip install {package}") from error


# torchvision


class TorchvisionPart:
    """One part of a data set of torchvision."""

    def __init__(self, rows: Any) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def image(self, index: int) -> Any:
        """An image as the data set gives it."""
        return self.rows[index][0]

    def targets(self, pixels: Pixels) -> np.ndarray:
        """All targets, from the list that the data set keeps, else from its items one by one."""
        for name in ("targets", "labels", "_labels"):
            kept = getattr(self.rows, name, None)
            if kept is not None and len(kept) == len(self.rows):
                return _class_numbers(np.asarray(kept), name)
        items = [self.rows[index][1] for index in range(len(self.rows))]
        if items and hasattr(items[0], "convert"):  # images of Pillow: masks
            return _stacked([pixels.mask(item) for item in items])
        return _class_numbers(np.asarray(items), "target")


def torchvision(
    path: str,
    root: str = "data",
    download: bool = False,
    size: int | None = None,
    splits: dict[str, str] | None = None,
    settings: dict[str, Any] | None = None,
) -> LibrarySet:
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
    """
    library = _library("torchvision.datasets", "torchvision")
    name = Path(path).name
    known = [n for n in library.__all__ if isinstance(getattr(library, n), type)]
    if name not in known:
        raise DataError(f"torchvision has no data set {name!r}", hint=did_you_mean(name, known))
    factory, settings = getattr(library, name), settings or {}
    accepted = inspect.signature(factory).parameters
    given = {"root": str(Path(root).expanduser()), "download": download}
    shared = {k: v for k, v in given.items() if k in accepted or (k == "download" and download)} | settings
    parts: dict[PartName, Any] = {}
    for part, choice in _choices(accepted, settings, splits or {}).items():
        for arguments in choice:
            rows = _made(name, factory, {**shared, **arguments})
            if rows is not None:
                parts[part] = TorchvisionPart(rows)
                break
    classes = getattr(parts["train"].rows, "classes", ()) if "train" in parts else ()
    return LibrarySet(
        parts, [str(c) for c in classes], size=size, key=[name, str(Path(root).resolve()), size, settings]
    )


def _choices(
    accepted: Mapping[str, Any], settings: Mapping[str, Any], splits: Mapping[str, str]
) -> dict[PartName, list[dict[str, Any]]]:
    """For each part the arguments to try that may choose it."""
    way = next((w for w in ("split", "image_set") if w in accepted and w not in settings), None)
    if way is None:
        if "train" in accepted or "split" in settings:
            return {"train": [{"train": True}], "test": [{"train": False}]}
        return {"train": [{}]}
    return {part: [{way: name} for name in ((splits[part],) if part in splits else SPLITS[part])] for part in PARTS}


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


class HubPart:
    """One split of a data set of Hugging Face, of which two columns count."""

    def __init__(self, rows: Any, image: str, label: str, kind: str, classes: Sequence[str]) -> None:
        self.rows, self.column, self.label, self.kind, self.classes = rows, image, label, kind, classes

    def __len__(self) -> int:
        return len(self.rows)

    def image(self, index: int) -> Any:
        """An image of Pillow."""
        return self.rows[index][self.column]

    def targets(self, pixels: Pixels) -> np.ndarray:
        """All targets; the images are not decoded for them."""
        values = [row[self.label] for row in self.rows.select_columns([self.label])]
        if any(value is None for value in values):
            raise DataError(f"column {self.label!r} has rows without a value")
        if self.kind == "masks":
            return _stacked([pixels.mask(value) for value in values])
        if self.kind == "labels":
            hot = np.zeros((len(values), len(self.classes)), dtype=np.uint8)
            for row, several in enumerate(values):
                hot[row, list(several)] = 1
            return hot
        return _class_numbers(np.asarray(values), self.label)


def hf(
    path: str,
    config: str | None = None,
    revision: str | None = None,
    image: str | None = None,
    label: str | None = None,
    splits: dict[str, str] | None = None,
    size: int | None = None,
) -> LibrarySet:
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
    """
    library = _library("datasets", "datasets")
    found = _loaded(library, path, config, revision)
    every: dict[str, Any] = dict(found) if isinstance(found, Mapping) else {"train": found}
    named = _named(every, splits or {})
    features = every[named["train"]].features
    columns = _image_column(library, features, image, label)
    target, kind, classes = _label_column(library, features, label, columns)
    parts: dict[PartName, Any] = {
        part: HubPart(every[name], columns, target, kind, classes) for part, name in named.items()
    }
    hidden = "test" in parts and kind == "numbers" and -1 in every[named["test"]][target][:1]
    if hidden:  # the labels of a competition are not given
        del parts["test"]
    contents = {part: getattr(every[name], "_fingerprint", "") for part, name in named.items()}
    key = [path, config, revision, columns, target, size, contents]
    return LibrarySet(parts, classes, size=size, key=key)


def _loaded(library: ModuleType, path: str, config: str | None, revision: str | None) -> Any:
    folder = Path(path).expanduser()
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
        chosen = splits.get(part) or next((n for n in SPLITS[part] if n in every), None)
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


def _label_column(
    library: ModuleType, features: Mapping[str, Any], given: str | None, image: str
) -> tuple[str, str, tuple[str, ...]]:
    """Name, kind (numbers, labels, masks) and class names of the column of targets."""
    kinds: dict[str, tuple[str, tuple[str, ...]]] = {}
    for name, feature in features.items():
        inner = getattr(feature, "feature", None)
        if isinstance(feature, library.ClassLabel):
            kinds[name] = "numbers", tuple(feature.names or ())
        elif isinstance(inner, library.ClassLabel):
            kinds[name] = "labels", tuple(inner.names or ())
        elif isinstance(feature, library.Image) and name != image:
            kinds[name] = "masks", ()
        elif isinstance(feature, library.Value) and feature.dtype.startswith(("int", "uint", "bool")):
            kinds[name] = "values", ()
    known: list[str] = []
    for kind in ("numbers", "labels", "masks", "values"):
        known = known or [name for name, (k, _) in kinds.items() if k == kind]
    name = _one("label", given, known, {n: n for n in kinds}, prefer=("label", "labels"))
    kind, classes = kinds[name]
    return name, "numbers" if kind == "values" else kind, classes


def _one(what: str, given: str | None, known: Sequence[str], every: Mapping[str, Any], prefer: Sequence[str]) -> str:
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


# Both


def _class_numbers(values: np.ndarray, where: str) -> np.ndarray:
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    values = values.astype(np.int64) if values.dtype == bool else values
    if not np.issubdtype(values.dtype, np.number):
        raise DataError(f"{where} has values of type {values.dtype}", allowed=["class numbers", "masks"])
    return values


def _stacked(masks: list[np.ndarray]) -> np.ndarray:
    if len({mask.shape for mask in masks}) > 1:
        raise DataError("masks differ in size", hint="give --data.args.size N to resize all to N x N")
    return np.stack(masks).astype(np.result_type(*{mask.dtype for mask in masks}))
