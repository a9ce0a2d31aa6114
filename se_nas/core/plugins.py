"""How a name leads to a plug-in, and what it is called with.

A name is looked up in the table of built-ins, then among the entry points ``se_nas.<kind>``, then read as
``package.module:attribute`` or ``path/to/file.py:attribute``. Nothing is registered by being imported.

Whoever follows a name that was read from a folder asks `se_nas.core.trust` before.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from se_nas.core.errors import ConfigError, PluginError, SeNasError, did_you_mean
from se_nas.core.files import user_path
from se_nas.core.trial import Target

LIVE = "live:"
"""Names of objects of this process, which no file and no other process knows."""

FILE_MODULE = "se_nas_file_"
"""Names of modules that are files of the user's begin with it."""

_KEPT: dict[str, Any] = {}


def keep_live(name: str, value: Any) -> str:
    """Keep an object for `resolve` in this process; returns its name. A later object takes the place of a namesake."""
    _KEPT[LIVE + name] = value
    return LIVE + name


def _live(kind: str, name: str) -> Any:
    if name not in _KEPT:
        raise PluginError(
            f"{kind} {name!r} was an object of another Python process",
            hint="give the object to se_nas.search again, or a function from a module that can be imported",
        )
    return _KEPT[name]


def resolve(
    kind: str, name: str, builtins: Mapping[str, str], *, elsewhere: Callable[[str], list[str]] = lambda _: []
) -> tuple[Any, str | None]:
    """The plug-in of a name, and what follows the colon for built-ins of the form ``folder:PATH``.

    PluginError, with the known names and the nearest, if there is none; `elsewhere` says how an unknown name must be
    given where it is known in another place.
    """
    if is_live(name):
        return _live(kind, name), None
    prefix, colon, rest = name.partition(":")
    if name in builtins and not colon:
        return load(builtins[name]), None
    if colon and f"{prefix}:" in builtins:
        if not rest:
            raise PluginError(f"{kind} {name!r} needs something after the colon")
        return load(builtins[f"{prefix}:"]), rest
    points = entry_points(kind)
    if name in points:
        return points[name].load(), None
    if colon:
        return load(name), None
    raise _unknown(kind, name, [*builtins, *points], elsewhere)


def check_name(
    kind: str, name: str, builtins: Mapping[str, str], *, elsewhere: Callable[[str], list[str]] = lambda _: []
) -> None:
    """PluginError, as of `resolve`, for a name that leads nowhere, as far as that is known without loading anything."""
    if ":" in name or name in builtins:
        head = name.rpartition(":")[0]
        if head.endswith(".py") and not is_live(name) and f"{name.partition(':')[0]}:" not in builtins:
            _check_there(user_path(head).resolve())
    elif name not in (points := entry_points(kind)):
        raise _unknown(kind, name, [*builtins, *points], elsewhere)


def _check_there(file: Path) -> None:
    if not _PROVIDED.get(file, file).is_file():
        raise PluginError(f"there is no file {str(file)!r}")


def _unknown(kind: str, name: str, known: list[str], elsewhere: Callable[[str], list[str]]) -> PluginError:
    if name.endswith(".py"):
        return PluginError(
            f"{kind} {name!r} does not say what in the file is meant",
            allowed=[f"{name}:{public}" for public in _made_in(name)] or ["path/to/file.py:attribute"],
        )
    meant = elsewhere(name)
    return PluginError(
        f"unknown {kind} {name!r}",
        allowed=[*known, "package.module:attribute", "path/to/file.py:attribute"],
        hint=f"did you mean {' or '.join(map(repr, meant))}?" if meant else did_you_mean(name, known),
    )


def known_names(kind: str, builtins: Mapping[str, str]) -> list[str]:
    """Names of built-in and installed plug-ins, without those that need something after a colon."""
    return [*(name for name in builtins if not name.endswith(":")), *entry_points(kind)]


def entry_points(kind: str) -> dict[str, importlib.metadata.EntryPoint]:
    """Plug-ins that installed packages offer, by name."""
    return {point.name: point for point in importlib.metadata.entry_points(group=f"se_nas.{kind}")}


def is_live(name: str) -> bool:
    """Whether a name is that of an object of this process."""
    return name.startswith(LIVE)


def _made_in(file: str) -> list[str]:
    """Names of the public functions and classes that a Python file defines, without running it."""
    try:
        body = ast.parse(user_path(file).read_bytes()).body
    except (OSError, SyntaxError, ValueError, ConfigError):
        return []
    return [n.name for n in body if isinstance(n, ast.FunctionDef | ast.ClassDef) and not n.name.startswith("_")]


def load(path: str) -> Any:
    """The object at ``package.module:attribute`` or ``path/to/file.py:attribute``."""
    module_name, _, attribute = path.rpartition(":")
    module = _load_file(Path(module_name)) if module_name.endswith(".py") else _import(module_name, path)
    value: Any = module
    for part in attribute.split("."):
        if not hasattr(value, part):
            public = [n for n in dir(value) if not n.startswith("_")]
            raise PluginError(f"{module_name!r} has no attribute {attribute!r}", hint=did_you_mean(part, public))
        value = getattr(value, part)
    return value


def _import(module_name: str, path: str) -> Any:
    try:
        return importlib.import_module(module_name)
    except Exception as error:  # a user's module may raise anything on import
        missing = isinstance(error, ModuleNotFoundError)
        raise PluginError(
            f"cannot import {module_name!r}: {type(error).__name__}: {error}",
            where=path,
            hint="install it, or give path/to/file.py:attribute" if missing else None,
        ) from error


def import_library(module: str, package: str, error: type[SeNasError]) -> ModuleType:
    """A module of an optional library; the given error, with the `package` to install, if it cannot be imported."""
    try:
        return importlib.import_module(module)
    except Exception as cause:  # a library that was built for another torch fails in many ways
        name = module.partition(".")[0]
        missing = isinstance(cause, ModuleNotFoundError) and cause.name == name
        what = "is not installed" if missing else f"cannot be imported: {type(cause).__name__}: {cause}"
        raise error(f"{name} {what}", hint=f"pip install {package}") from cause


def provide_code(file: Path, here: Path) -> None:
    """Have a Python file of another machine found under its path there, in this process."""
    _PROVIDED[file] = here


_PROVIDED: dict[Path, Path] = {}


def _load_file(file: Path) -> Any:
    file = user_path(file).resolve()
    _check_there(file)
    here = _PROVIDED.get(file, file)
    # One module per file, however often it is asked for; pickles of its classes find it by this name.
    name = f"{FILE_MODULE}{hashlib.sha256(str(file).encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, here)
    if spec is None or spec.loader is None:
        raise PluginError(f"cannot load {str(file)!r} as a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.insert(0, str(here.parent))  # the file may import its neighbours
    _forget_namesakes(here.parent)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # a user's file may raise anything
        del sys.modules[name]
        raise PluginError(f"cannot load {str(file)!r}: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(here.parent))
    return module


_FOLDERS: set[Path] = set()
"""Folders that files were loaded from."""


def _forget_namesakes(folder: Path) -> None:
    """Have the neighbours of a file imported from its own folder, though another file has neighbours of equal names."""
    for neighbour in folder.glob("*.py"):
        known = getattr(sys.modules.get(neighbour.stem), "__file__", None)
        if known is not None and Path(known) != neighbour and Path(known).parent in _FOLDERS:
            del sys.modules[neighbour.stem]
    _FOLDERS.add(folder)


def absolute(target: Target) -> Target:
    """The target with the path in it, if it has one, made absolute, so that it holds from any folder."""
    if is_live(target.target):
        return target
    head, colon, tail = target.target.rpartition(":")
    if head.endswith(".py"):
        return Target(target=f"{user_path(head).resolve()}:{tail}", args=target.args)
    prefix, colon, rest = target.target.partition(":")
    if isinstance(root := target.args.get("root"), str):
        target = Target(target=target.target, args={**target.args, "root": str(user_path(root).resolve())})
    if colon and user_path(rest).exists():
        return Target(target=f"{prefix}:{user_path(rest).resolve()}", args=target.args)
    return target


def accepted(function: Callable[..., Any], offered: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the offered arguments that a function has parameters for."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {}
    return {name: value for name, value in offered.items() if name in parameters}


def check_arguments(kind: str, target: Target, function: Callable[..., Any], args: Mapping[str, Any]) -> None:
    """PluginError that names the first argument which a plug-in does not take, or lacks."""
    if not callable(function):
        raise PluginError(f"{kind} {target.target!r} is {type(function).__name__}, not something that can be called")
    try:
        signature = inspect.signature(function)
    except ValueError:  # written in C, without a signature
        return
    try:
        signature.bind(**args)
    except TypeError as error:
        names: Iterable[str] = signature.parameters
        wrong = next((name for name in args if name not in signature.parameters), None)
        raise PluginError(
            f"{kind} {target.target!r}: {error}",
            allowed=names,
            hint=None if wrong is None else did_you_mean(wrong, names),
        ) from error
