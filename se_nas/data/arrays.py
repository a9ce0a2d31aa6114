"""Data sources: from arrays, and from functions that read; what all sources ask of targets."""

from __future__ import annotations

import contextlib
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from se_nas.core.errors import DataError
from se_nas.core.ranges import MAX_CLASSES
from se_nas.data.base import PARTS, PartName, Plan, chunks, is_class_number

Images = np.ndarray | Callable[[], np.ndarray]


@dataclass(frozen=True)
class Reader:
    """One part of a source, read when it is asked for."""

    targets: Callable[[], np.ndarray]
    """All targets (n, ...)."""
    images: Callable[[np.ndarray], Iterator[np.ndarray]]
    """The images of these indices in chunks (k, channels, *size), uint8 or float32."""
    raw: Callable[[np.ndarray], Iterable[bytes]] | None = None
    """The images of these indices as they are stored, where decoding them would take longer."""


class Readers:
    """A source from a reader for each part.

    Classes without names are numbered: `numbered_classes`. Class numbers that are far apart are the names of their
    classes: `sparse_classes`.

    Parameters
    ----------
    notes:
        What to tell the user of how images were read, from the plan of the parts; asked when they have been.
    """

    def __init__(
        self,
        parts: Mapping[PartName, Reader],
        *,
        classes: Sequence[str],
        fingerprint: str,
        notes: Callable[[Plan], Sequence[str]] = lambda _: (),
    ) -> None:
        self._parts, self._fingerprint, self._notes = parts, fingerprint, notes
        self._targets: dict[PartName, np.ndarray] = {}
        self._values = None if classes else sparse_classes(self._read("train"))
        if self._values is not None:
            classes = [str(value) for value in self._values]
        self.classes = tuple(classes) or numbered_classes(self._read("train"))

    def _read(self, part: PartName) -> np.ndarray:
        if part not in self._targets:
            self._targets[part] = self._parts[part].targets()
        return self._targets[part]

    def labels(self, part: PartName) -> np.ndarray | None:
        if part not in self._parts:
            return None
        targets = self._read(part)
        if self._values is None:
            return targets
        if targets.ndim != 1 or not np.isin(targets, self._values).all():
            raise DataError(
                f"the {part} set has labels that the training set lacks",
                allowed=self.classes[:20],
                hint="one class is one label in all parts",
            )
        return np.searchsorted(self._values, targets)

    def images(self, part: PartName, indices: np.ndarray) -> Iterator[np.ndarray]:
        return self._parts[part].images(indices)

    def raw(self, part: PartName, indices: np.ndarray) -> Iterable[bytes | np.ndarray]:
        """The images as they are stored, or decoded if no reader says how they are."""
        reader = self._parts[part]
        return reader.images(indices) if reader.raw is None else reader.raw(indices)

    def fingerprint(self) -> str:
        return self._fingerprint

    def notes(self, plan: Plan) -> list[str]:
        """What the user must know of how the data were read."""
        notes: list[str] = []
        if self._values is not None:
            notes.append(f"the labels are the names of {len(self.classes)} classes: {_few(self.classes)}")
        targets = self.labels("train")
        if targets is not None and is_class_number(targets):
            empty = np.setdiff1d(np.arange(len(self.classes)), targets)
            names = [self.classes[index] for index in empty.tolist()]
            notes += [f"classes without an image to train on: {_few(names)}"] if names else []
        return [*notes, *self._notes(plan)]


class Arrays(Readers):
    """A source from arrays.

    Parameters
    ----------
    parts:
        Part -> images (n, channels, *size), uint8 or numbers that become float32, and targets (n, ...). Images may be
        a function that gives them, so that they are in memory only while they are read.
    classes:
        Names of the classes; they are numbered by `numbered_classes` if they have none.
    fingerprint:
        Changes when the data change.
    notes:
        What to tell the user of how they were read.
    names:
        What the arrays of images are called: then images that are in two parts are told, by these names.

    Raises
    ------
    DataError
        If targets are not numbers, or negative integers; when images are read, if there are more or fewer than targets.
    """

    def __init__(
        self,
        parts: Mapping[PartName, tuple[Images, np.ndarray]],
        *,
        classes: Sequence[str] = (),
        fingerprint: str,
        notes: Sequence[str] = (),
        names: Mapping[PartName, str] | None = None,
    ) -> None:
        readers = {part: _reader(part, images, targets) for part, (images, targets) in parts.items()}

        def said(plan: Plan) -> list[str]:
            return [*notes, *(twins_note(plan, self.images, names) if names else ())]

        super().__init__(readers, classes=classes, fingerprint=fingerprint, notes=said)


def twins_note(
    plan: Plan, images: Callable[[PartName, np.ndarray], Iterator[np.ndarray]], names: Mapping[PartName, str]
) -> list[str]:
    """What to tell the user of images that are equal pixel by pixel, and in two parts."""
    places: dict[bytes, dict[PartName, str]] = {}
    for part, (origin, indices, _) in plan.items():
        with contextlib.suppress(DataError):  # of the test set: said when it is opened; the others were read before
            numbers = iter(indices.tolist())
            for chunk in images(origin, indices):
                for image, number in zip(chunk, numbers, strict=False):
                    digest = hashlib.blake2b(image.tobytes(), digest_size=16).digest()
                    places.setdefault(digest, {}).setdefault(part, f"{names[origin]}[{number}]")
    groups = [group for group in places.values() if len(group) > 1]
    if not groups:
        return []
    pairs = Counter(" and ".join(part for part in PARTS if part in group) for group in groups)
    counts = ", ".join(f"{number:,} in {pair}" for pair, number in pairs.items())
    example = " and ".join(groups[0][part] for part in PARTS if part in groups[0])
    return [f"identical images in two parts: {counts}, such as {example}; scores on them are too good"]


def _reader(part: PartName, given: Images, targets: np.ndarray) -> Reader:
    checked = checked_targets(targets, f"the array of {part} targets")

    def images(indices: np.ndarray) -> Iterator[np.ndarray]:
        images = given() if callable(given) else given
        if len(images) != len(checked):
            raise DataError(f"the {part} set has {len(images)} images and {len(checked)} targets")
        for piece in chunks(indices):
            with np.errstate(over="ignore"):  # what is too large for float32 is reported as not finite
                yield np.ascontiguousarray(images[piece], dtype=None if images.dtype == np.uint8 else np.float32)

    return Reader(lambda: checked, images)


def checked_targets(targets: np.ndarray, name: str, where: str | None = None) -> np.ndarray:
    """Targets (n, ...): integers from 0 up or float32; a single column becomes (n,), booleans become 0 and 1.

    DataError that names them if they are anything else.
    """
    if targets.ndim == 2 and targets.shape[1] == 1:
        targets = targets[:, 0]
    targets = targets.astype(np.uint8) if targets.dtype == bool else targets
    numbers = np.issubdtype(targets.dtype, np.integer)
    if targets.ndim == 0 or not (numbers or targets.dtype.kind == "f") or (numbers and targets.min(initial=0) < 0):
        raise DataError(
            f"{name} has shape {targets.shape} and type {targets.dtype}",
            where=where,
            allowed=["integers from 0 up, shape (n,) or (n, 1)", "for a task of your own any numbers (n, ...)"],
        )
    return targets if numbers else targets.astype(np.float32)


def numbered_classes(targets: np.ndarray) -> tuple[str, ...]:
    """``0``, ``1``, ... for as many outputs as targets (n, ...) ask for.

    Several labels (n, labels) and one mask for each class (n, classes, height, width) ask for the size of their first
    axis, other integers for one more than the largest; for other numbers the number is not known, and there is none.
    """
    if targets.ndim in (2, 4):
        number = targets.shape[1]
    else:
        number = int(targets.max(initial=0)) + 1 if np.issubdtype(targets.dtype, np.integer) else 0
    if number > MAX_CLASSES:
        raise DataError(
            f"the targets, of shape {targets.shape}, go up to {number - 1:,}",
            allowed=[f"numbers of classes, at most {MAX_CLASSES:,}"],
        )
    return tuple(str(index) for index in range(number))


def sparse_classes(targets: np.ndarray) -> np.ndarray | None:
    """The labels that occur, in order, if the largest is at least twice their number: then they are names.

    None for labels that count from 0 or 1, even with gaps: numbers without images are classes, too.
    """
    if not is_class_number(targets):
        return None
    values = np.unique(targets)
    return values if len(values) and int(values[-1]) >= 2 * len(values) else None


def _few(names: Sequence[str]) -> str:
    return f"{', '.join(names[:6])}{', ...' if len(names) > 6 else ''}"
