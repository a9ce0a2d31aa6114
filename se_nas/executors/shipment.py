"""What a worker on another machine needs of this one: the data, the user's code, and files that arguments name.

Nothing is taken from a shared file system. Arrays travel by themselves, so that an executor can share one copy between
the workers of a machine; all else is small and travels as bytes.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from se_nas.core.plugins import provide_code
from se_nas.core.serialization import checksum, from_json, from_plain, to_plain
from se_nas.core.trial import Request
from se_nas.data.store import provide

CODE = "*.py"


@dataclass(frozen=True, kw_only=True)
class Shipment:
    """Files and names of arrays, all by their path below the folder that they are unpacked into."""

    key: str
    files: dict[str, bytes]
    arrays: tuple[str, ...]
    moved: dict[str, str]
    """Absolute path on the sending machine -> path below the folder."""
    modules: tuple[str, ...]
    """Folders below the folder to import from."""


def pack(request: Request) -> tuple[Shipment, list[np.ndarray]]:
    """What a request needs from this machine, and its arrays in the order of their names."""
    files: dict[str, bytes] = {}
    arrays: dict[str, np.ndarray] = {}
    moved: dict[str, str] = {}
    modules: set[str] = set()
    data = Path(request.folder) / "data"
    named = [to_plain(replace(request, folder="", units=()))]
    for file in sorted(data.iterdir()) if data.is_dir() else ():
        name = f"data/{file.name}"
        if file.suffix == ".npy":
            arrays[name] = np.load(file, mmap_mode="r")
        elif not file.name.startswith("."):
            files[name] = file.read_bytes()
            if file.name == "data.json" and (info := from_json(files[name], dict[str, Any]))["kind"] == "module":
                named.append(info["target"])
    for text in _strings(named):
        if (root := _package_root(text)) is not None:
            modules.add(_add_code(root, files))
        elif (path := _file_named(text)) is not None:
            moved[str(path)] = _add(path, files, code=".py:" in text)
    content = {
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
        "arrays": {name: [array.shape, str(array.dtype)] for name, array in arrays.items()},
        "moved": moved,
    }
    shipment = Shipment(
        key=checksum(content), files=files, arrays=tuple(arrays), moved=moved, modules=tuple(sorted(modules))
    )
    return shipment, list(arrays.values())


def unpack(shipment: Shipment, arrays: tuple[np.ndarray, ...], folder: Path) -> None:
    """Write the files of a shipment below a folder, and have its arrays found there without being written."""
    for name, content in shipment.files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    for name, array in zip(shipment.arrays, arrays, strict=True):
        provide(folder / name, array)
    for path, name in shipment.moved.items():
        if name.endswith(".py") and not _is_here(path, shipment.files[name]):
            provide_code(Path(path), folder / name)
    for name in shipment.modules:
        sys.path.insert(0, str(folder / name))  # for good: this process is a worker's alone


def relocated(request: Request, shipment: Shipment, folder: Path) -> Request:
    """The request as it reads where its shipment was unpacked.

    Files of code keep their paths, so that a training has the same identity on every machine, and so does any file
    that is there with the same content: on one machine, or with shared files.
    """

    def there(text: str) -> str:
        path = text[text.find("/") :]
        name = shipment.moved.get(path)
        if name is None or _is_here(path, shipment.files.get(name)):
            return text
        return text.replace(path, str(folder / name))

    plain = _mapped(to_plain(request), there)
    return replace(from_plain(plain, Request), folder=str(folder))


def _is_here(path: str, content: bytes | None) -> bool:
    return content is not None and Path(path).is_file() and Path(path).read_bytes() == content


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)


def _mapped(value: Any, change: Any) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {name: _mapped(inner, change) for name, inner in value.items()}
    return [_mapped(inner, change) for inner in value] if isinstance(value, list) else value


def _file_named(text: str) -> Path | None:
    """The absolute path in ``/path/file.py:attribute``, ``prefix:/path`` or ``/path``; folders after a prefix only."""
    head, colon, tail = text.rpartition(":")
    prefixed = bool(colon) and not head.endswith(".py")
    path = Path(head if colon and head.endswith(".py") else tail)
    if not path.is_absolute() or "\n" in text:
        return None
    try:
        found = path.is_file() or (prefixed and path.is_dir())
    except OSError:  # too long for a path
        return None
    return path if found else None


def _package_root(text: str) -> Path | None:
    """The file or folder of the user's own package in ``package.module:attribute``; None if it is installed."""
    head, colon, _ = text.partition(":")
    top = head.partition(".")[0]
    if not colon or not all(part.isidentifier() for part in head.split(".")) or top == "se_nas":
        return None
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    origin = Path(spec.origin).resolve()
    installed = {"site-packages", "dist-packages"} & set(origin.parts)
    if installed or origin.is_relative_to(Path(sysconfig.get_paths()["stdlib"]).resolve()):
        return None
    return origin.parent if origin.name == "__init__.py" else origin


def _add_code(root: Path, files: dict[str, bytes]) -> str:
    """Add a package (or a single module) to the files; the folder to import it from."""
    name = f"modules/{checksum(str(root.parent))}"
    for file in sorted(root.rglob(CODE)) if root.is_dir() else [root]:
        files[f"{name}/{file.relative_to(root.parent)}"] = file.read_bytes()
    return name


def _add(path: Path, files: dict[str, bytes], *, code: bool) -> str:
    """Add a file, a folder, or a file of code with the modules and packages beside it; where it will lie."""
    base = f"files/{checksum(str(path.parent))}"
    neighbours = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    if code:
        neighbours += path.parent.glob(CODE)
        for package in path.parent.glob("*/__init__.py"):
            neighbours += package.parent.rglob(CODE)
    for file in sorted(set(neighbours)):
        files[f"{base}/{file.relative_to(path.parent)}"] = file.read_bytes()
    return f"{base}/{path.name}"
