"""What lies in a folder of images: its parts, the images of each class, what is left out, and files that are twins."""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from se_nas.core.errors import DataError, did_you_mean
from se_nas.core.files import path_text
from se_nas.data.base import PART_NAMES, PARTS, PartName, Plan
from se_nas.data.decoding import FORMATS, readable

SYSTEM = {"__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found", "thumbs.db", "ehthumbs.db",
          "desktop.ini", "icon\r"}  # fmt: skip
"""Names, in lower case, of what systems put into folders; they count as hidden, as names with a dot in front do."""

HIDDEN = "hidden or system file(s) or folder(s)"


@dataclass(frozen=True)
class Listing:
    """The images of a folder."""

    root: Path
    classes: tuple[str, ...]
    """Names of the class folders, as the file system has them."""
    images: dict[PartName, list[tuple[Path, int]]]
    """Files and class numbers."""
    left_out: Counter[str] = field(default_factory=Counter)
    """What was not taken, and how many files or folders of it."""

    def left_out_note(self) -> list[str]:
        """What to tell the user of what was not taken."""
        counts = [f"{number:,} {what}" for what, number in self.left_out.most_common() if number]
        return [f"left out: {', '.join(counts)}"] if counts else []

    def twins_note(self, plan: Plan) -> list[str]:
        """What to tell the user of images that are equal byte by byte, and in two parts."""
        parts = [
            (self.images[origin][index][0], part)
            for part, (origin, indices, _) in plan.items()
            for index in indices.tolist()
        ]
        groups = [g for g in twins(parts) if len({part for _, part in g}) > 1]
        if not groups:
            return []
        pairs = Counter(tuple(p for p in PARTS if p in {part for _, part in group}) for group in groups)
        first = {part: file for file, part in reversed(groups[0])}
        example = " and ".join(path_text(first[part].relative_to(self.root)) for part in PARTS if part in first)
        counts = ", ".join(f"{number:,} in {' and '.join(pair)}" for pair, number in pairs.items())
        return [f"identical files in two parts: {counts}, such as {example}; scores on them are too good"]


def listed(root: Path) -> Listing:
    """The images of ``<class>/`` or of ``train/<class>/``, ``val/<class>/``, ``test/<class>/``; see `PART_NAMES`.

    DataError if there is no training set, a part has two names or other classes than train, or a class no images.
    """
    left_out: Counter[str] = Counter()
    parts = _parts(root, left_out)
    train = parts["train"]
    for place in {root, *parts.values()}:
        left_out[HIDDEN] += sum(hidden(sub.name) for sub in place.iterdir())
    classes = [sub.name for sub in _folders(train)]
    if not classes:
        raise DataError(
            f"{path_text(train)!r} has no class folders",
            hint=f"one folder for each class: {path_text(train.name)}/cat, {path_text(train.name)}/dog",
        )
    images = {part: _images(place, classes, left_out) for part, place in parts.items()}
    return Listing(root, tuple(classes), images, left_out)


def _parts(root: Path, left_out: Counter[str]) -> dict[PartName, Path]:
    folders = _folders(root)
    named: dict[PartName, list[Path]] = {
        part: [sub for sub in folders if sub.name.lower() in names] for part, names in PART_NAMES.items()
    }
    present = {part: found for part, found in named.items() if found}
    every = [sub for found in present.values() for sub in found]
    if "train" not in present:
        # A class may be called valid or dev.
        if every and (len(every) == len(folders) or any(sub.name in PARTS for sub in every)):
            raise DataError(
                f"{path_text(root)!r} has {' and '.join(path_text(sub.name) for sub in every)}, but no folder train",
                hint="put the images in <class>/ alone, or in train/<class>/",
            )
        return {"train": root}
    for part, found in present.items():
        if len(found) > 1:
            raise DataError(
                f"{path_text(root)!r} has {' and '.join(path_text(sub.name) for sub in found)}: "
                f"both would be the {part} set",
                hint="leave one of them, or give it another name",
            )
    for sub in folders:
        if sub not in every:
            left_out[f"folder {path_text(sub.name)!r} beside train"] += 1
    return {part: found[0] for part, found in present.items()}


def _images(root: Path, classes: Sequence[str], left_out: Counter[str]) -> list[tuple[Path, int]]:
    """Images, which may lie at any depth in the folder of their class, and class numbers."""
    number = {name: index for index, name in enumerate(classes)}
    images: list[tuple[Path, int]] = []
    for sub in _folders(root):
        if sub.name not in number:
            raise DataError(
                f"{path_text(sub)!r} is a class that train does not have",
                hint=did_you_mean(path_text(sub.name), [path_text(name) for name in classes]),
            )
        found = sorted(images_below(sub, left_out))
        if not found:
            raise DataError(
                f"the class folder {path_text(sub)!r} has no images", allowed=[f"files of {', '.join(FORMATS)}"]
            )
        images += [(file, number[sub.name]) for file in found]
    return images


def images_below(folder: Path, left_out: Counter[str] | None = None) -> Iterator[Path]:
    """The images below a folder; links to folders are not followed. What is not taken is counted in `left_out`."""
    left_out = Counter() if left_out is None else left_out
    waiting = [folder]
    while waiting:
        for entry in os.scandir(waiting.pop()):
            path = Path(entry.path)
            if hidden(entry.name):
                left_out[HIDDEN] += 1
            elif entry.is_dir(follow_symlinks=False):
                waiting.append(path)
            elif not entry.is_file():
                left_out["link(s) to folders or to nothing, device(s) or pipe(s)"] += 1
            elif not readable(path.suffix):
                left_out[f"file(s) of type {path_text(path.suffix) or '(none)'}"] += 1
            else:
                yield path


def hidden(name: str) -> bool:
    """Whether a file or folder is not meant for people."""
    return name.startswith(".") or name.lower() in SYSTEM


def _folders(root: Path) -> list[Path]:
    return sorted(sub for sub in root.iterdir() if sub.is_dir() and not hidden(sub.name))


def twins(files: Iterable[tuple[Path, PartName]]) -> list[list[tuple[Path, PartName]]]:
    """Groups of files that are equal byte by byte. Only files of equal size and equal last bytes are read whole."""
    groups = [list(files)]
    keys: tuple[Callable[[Path], Hashable], ...] = (lambda file: file.stat().st_size, _tail, _digest)
    for key in keys:
        finer: list[list[tuple[Path, PartName]]] = []
        for group in groups:
            alike: dict[Hashable, list[tuple[Path, PartName]]] = defaultdict(list)
            for row in group:
                alike[key(row[0])].append(row)
            finer += [rows for rows in alike.values() if len(rows) > 1]
        groups = finer
    return groups


def _tail(file: Path) -> bytes:
    with file.open("rb") as stream:
        stream.seek(max(0, file.stat().st_size - 512))
        return stream.read()


def _digest(file: Path) -> bytes:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "blake2b").digest()
