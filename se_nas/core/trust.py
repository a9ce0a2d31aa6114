"""Which names may be followed when they were read from a folder: somebody else may have written it.

A name that runs code is followed without a question if this user gave exactly it before: the same kind, name, arguments
and place of the code. That is kept outside of every run folder, below ``$XDG_STATE_HOME/se-nas/given`` (default
``~/.local/state``), one small file for each name. All others need ``trust``, for the one command that says it.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from se_nas.core.errors import ConfigError, PluginError
from se_nas.core.files import user_path, write_atomically
from se_nas.core.plugins import entry_points, is_live
from se_nas.core.trial import Target


@dataclass(frozen=True, kw_only=True)
class Named:
    """A name of a plug-in, with the table of built-ins that it is looked up in first."""

    kind: str
    target: Target
    builtins: Mapping[str, str]

    @property
    def runs_code(self) -> bool:
        """Whether it leads to anything but a built-in or installed plug-in, called with plain arguments.

        Model libraries open what their arguments name, some of it as code: paths, addresses, nested settings and
        ``trust_remote_code`` are not plain.
        """
        name = self.target.target
        if is_live(name):
            return False
        prefix, colon, rest = name.partition(":")
        if not (name in self.builtins or name in entry_points(self.kind)):
            if not colon or f"{prefix}:" not in self.builtins:
                return True
            if self.kind != "data" and (self.kind == "executor" or not _is_library_name(rest)):
                return True
        return not all(_is_plain(value) and not (key == REMOTE and value) for key, value in self.target.args.items())

    @property
    def entry(self) -> str:
        """What is kept of it: a checksum of kind, name, arguments and the place of the code."""
        facts = [self.kind, self.target.target, self.target.args, _place(self.target.target)]
        return hashlib.sha256(msgspec.json.encode(facts, order="deterministic")).hexdigest()


REMOTE = "trust_remote_code"
"""The argument by which Hugging Face's libraries run code of the hub."""

_KNOWN: set[str] = set()
"""Entries of this process, for a home folder that cannot be written."""

_FOLLOWED: set[str] = set()
"""Entries that `follow` was told of."""


def remember(names: Iterable[Named]) -> None:
    """Keep names that the user has given, so that they may be followed when they are read from a folder."""
    for named in names:
        if not named.runs_code:
            continue
        _KNOWN.add(named.entry)
        with contextlib.suppress(OSError, RuntimeError):  # asked again, then
            if not (file := _folder() / named.entry).is_file():
                _folder().mkdir(parents=True, exist_ok=True, mode=0o700)
                write_atomically(file, msgspec.json.encode([named.kind, named.target]) + b"\n")


def follow(names: Iterable[Named]) -> None:
    """Let code run in this process that is loaded only when a network is built (`may_run`).

    For what the user gives now, what is trusted for one command, and what whoever sends the work has checked. A folder
    that is read later is checked again.
    """
    _FOLLOWED.update(named.entry for named in names if named.runs_code)


def may_run(named: Named) -> bool:
    """Whether the code of a name may run: it is trusted, or `follow` was told of it."""
    return named.entry in _FOLLOWED or is_trusted(named)


def is_trusted(named: Named) -> bool:
    """Whether a name may be followed without a question."""
    if not named.runs_code or named.entry in _KNOWN:
        return True
    try:
        return (_folder() / named.entry).is_file()
    except (OSError, RuntimeError):
        return False


def check_trust(names: Iterable[Named], *, where: Path, trust: bool) -> None:
    """PluginError, with the names, if a folder names code that may not be followed."""
    strange = [named for named in names if not is_trusted(named)]
    if trust:
        follow(strange)
    if trust or not strange:
        return
    shown = ", ".join(dict.fromkeys(f"{named.kind} {_short(named.target)}" for named in strange))
    raise PluginError(
        f"the folder names code that you have not given on this machine, and it is not run: {shown}",
        where=str(where),
        allowed=["built-in names", "installed plug-ins", "names that you searched or trained with on this machine"],
        hint="if you know who made the folder and have read that code, give --trust (in Python trust=True)",
    )


def _short(target: Target) -> str:
    args = f" with {target.args!r}" if target.args else ""
    text = f"{target.target!r}{args}"
    return text if len(text) <= 300 else f"{text[:300]}..."


def _folder() -> Path:
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "se-nas" / "given"


def _place(name: str) -> str:
    """Where the code of a name lies: a path that is a package of another folder today is another package."""
    head = name.rpartition(":")[0]
    try:
        if head.endswith(".py"):
            return str(user_path(head).resolve())
        spec = importlib.util.find_spec(head.partition(".")[0])
    except (ImportError, ValueError, OSError, ConfigError):  # no path, no home, no name of a module
        return ""
    return "" if spec is None or spec.origin is None else spec.origin


def _is_library_name(text: str) -> bool:
    """Whether a text names a network of a library, or one of a hub, and no file or address."""
    return re.fullmatch(r"\w[\w.+-]*(/\w[\w.+-]*)?", text) is not None and not _is_there(text)


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    if isinstance(value, str):
        return re.fullmatch(r"[\w ,.+-]*", value) is not None and not (value and _is_there(value))
    return value is None or isinstance(value, bool | int | float)


def _is_there(path: str) -> bool:
    try:
        return Path(path).exists()
    except (OSError, ValueError):  # too long for a path
        return False
