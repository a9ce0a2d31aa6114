"""A folder of images: ``train/<class>/<image>``, and where they are there ``val/`` and ``test/`` likewise."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from se_nas.data.base import PARTS, PartName, chunks
from se_nas.data.pixels import GREY, Pixels
from se_nas.errors import DataError, did_you_mean
from se_nas.records import checksum


class ImageFolder:
    """Images of one size, in any format that Pillow reads; grey if all of the first hundred are, else RGB."""

    def __init__(self, path: str, size: int | None) -> None:
        self._root = Path(path).expanduser()
        self._size = size
        if not self._root.is_dir():
            raise DataError(f"there is no folder {path!r}")
        train = self._root / "train"
        if not train.is_dir():
            raise DataError(
                f"{path!r} has no folder train", hint="put the images in train/<class>/, val/<class>/, test/<class>/"
            )
        self.classes = tuple(sorted(p.name for p in train.iterdir() if p.is_dir() and not p.name.startswith(".")))
        if not self.classes:
            raise DataError(
                f"{str(train)!r} has no class folders", hint="one folder for each class: train/cat, train/dog"
            )
        self._readable = {ext for ext, fmt in Image.registered_extensions().items() if fmt in Image.OPEN}
        self._listed: dict[str, tuple[list[Path], np.ndarray] | None] = {}
        listed = self._list("train")
        files = [] if listed is None else listed[0][:: max(1, len(listed[0]) // 100)]
        grey = bool(files) and all(_mode(file) in GREY for file in files)
        self._pixels = Pixels(grey=grey, size=size)

    def _list(self, part: PartName) -> tuple[list[Path], np.ndarray] | None:
        if part not in self._listed:
            folder = self._root / part
            self._listed[part] = self._scan(folder) if folder.is_dir() else None
        return self._listed[part]

    def _scan(self, folder: Path) -> tuple[list[Path], np.ndarray]:
        files: list[Path] = []
        labels: list[int] = []
        for sub in sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")):
            if sub.name not in self.classes:
                raise DataError(
                    f"{str(sub)!r} is a class that train does not have", hint=did_you_mean(sub.name, self.classes)
                )
            found = sorted(f for f in sub.rglob("*") if f.suffix.lower() in self._readable and f.is_file())
            if not found:
                raise DataError(
                    f"the class folder {str(sub)!r} has no images", allowed=["any format that Pillow reads"]
                )
            files += found
            labels += [self.classes.index(sub.name)] * len(found)
        return files, np.array(labels, dtype=np.int64)

    def labels(self, part: PartName) -> np.ndarray | None:
        listed = self._list(part)
        return None if listed is None else listed[1]

    def images(self, part: PartName, indices: np.ndarray) -> Iterator[np.ndarray]:
        listed = self._list(part)
        if listed is None:
            raise DataError(f"{str(self._root)!r} has no folder {part}")
        for piece in chunks(indices):
            yield np.stack([self._decode(listed[0][i]) for i in piece])

    def _decode(self, file: Path) -> np.ndarray:
        """One image as (channels, height, width), uint8."""
        try:
            with Image.open(file) as opened:
                image = opened.convert(self._pixels.mode)
        except (OSError, UnidentifiedImageError, ValueError, Image.DecompressionBombError, SyntaxError) as error:
            raise DataError(f"the image {str(file)!r} is broken: {error}", hint="remove it or repair it") from error
        return self._pixels.array(image, str(file))

    def fingerprint(self) -> str:
        rows = []
        for part in PARTS:
            for file in (self._list(part) or ([], None))[0]:
                status = file.stat()
                rows.append((str(file.relative_to(self._root)), status.st_size, status.st_mtime_ns))
        return checksum([str(self._root.resolve()), self._size, rows])


def folder(path: str, size: int | None = None) -> ImageFolder:
    """Images in class folders; `size` resizes all of them to size x size pixels."""
    return ImageFolder(path, size)


def _mode(file: Path) -> str:
    try:
        with Image.open(file) as image:
            return image.mode
    except (OSError, UnidentifiedImageError, SyntaxError) as error:
        raise DataError(f"the image {str(file)!r} is broken: {error}", hint="remove it or repair it") from error
