"""YAML and JSON of whoever wrote it: read within bounds of size and depth, or refused in one line.

A short YAML text can stand for more than a machine holds (aliases of aliases), and deep nesting overflows the stack of
whatever walks through it later. All that is read of users and of folders comes through here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

LARGEST = 2**20
"""Bytes of a YAML document: a hundred times the longest space file."""

LARGEST_JSON = 2**26
"""Bytes of a JSON document: records of large networks have megabytes."""

DEEPEST = 50
"""Levels of lists and mappings in each other."""

MOST = 100_000
"""Values of a YAML document, those counted again that aliases repeat."""

_HALF = re.compile("[\ud800-\udfff]")

_Safe: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class UnreadableError(ValueError):
    """Why a text cannot be read, in one line."""


class BeyondError(UnreadableError):
    """A YAML text that is too large or deep, or has a key twice: valid, and refused."""


def text_of(file: Path, *, largest: int = LARGEST) -> str:
    """The text of a file; OSError or UnreadableError if it has none, is too large, or no file (a pipe never ends)."""
    if "\0" in str(file):
        raise UnreadableError("a name cannot hold the character NUL")
    if file.exists() and not file.is_file():
        raise UnreadableError("it is not a file" if not file.is_dir() else "it is a folder")
    with file.open("rb") as stream:
        content = stream.read(largest + 1)
    if len(content) > largest:
        raise UnreadableError(f"it has more than {largest:,} bytes")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise UnreadableError(f"it is not UTF-8 text (byte {error.start:,})") from error


def from_yaml(text: str) -> Any:
    """What a YAML text says; UnreadableError if it is not valid, or beyond the bounds."""
    check_yaml(text)
    loader = _Safe(text)
    try:
        data = loader.get_single_data()
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, OverflowError) as error:  # a 13th month, !!float x
        raise UnreadableError(f"not valid YAML: {_one_line(error)}") from error
    finally:
        loader.dispose()
    check_plain(data)
    return data


def check_yaml(text: str) -> None:
    """UnreadableError for a YAML text that is not valid, BeyondError for one beyond the bounds; nothing is built."""
    if len(text) > LARGEST:
        raise BeyondError(f"it has more than {LARGEST:,} characters")
    try:
        _check_events(text)
        _check_keys(yaml.compose(text, Loader=_Safe))
    except (yaml.YAMLError, UnicodeError) as error:
        raise UnreadableError(f"not valid YAML: {_one_line(error)}") from error


def _check_events(text: str) -> None:
    sizes: dict[str, int] = {}
    opened: list[tuple[str | None, int]] = []  # anchor and size before, of the collections that are open
    size = 0
    for event in yaml.parse(text, Loader=_Safe):
        anchor = getattr(event, "anchor", None)
        if isinstance(event, yaml.AliasEvent):
            if anchor is not None and anchor in {name for name, _ in opened}:
                raise BeyondError(f"the alias *{anchor} is within what it stands for")
            size += sizes.get(anchor or "", 1)
        elif isinstance(event, yaml.ScalarEvent):
            size += 1
            if anchor is not None:
                sizes[anchor] = 1
        elif isinstance(event, yaml.CollectionStartEvent):
            opened.append((anchor, size))
            size += 1
            if len(opened) > DEEPEST:
                raise BeyondError(f"lists and mappings are nested more than {DEEPEST} deep")
        elif isinstance(event, yaml.CollectionEndEvent):
            name, before = opened.pop()
            if name is not None:
                sizes[name] = size - before
        if size > MOST:
            raise BeyondError(f"it has more than {MOST:,} values, aliases written out")


def _check_keys(root: yaml.Node | None) -> None:
    """UnreadableError for a key twice in one mapping, of which all but the last would be lost without a word."""
    waiting, seen = [root], set[int]()
    while waiting:
        node = waiting.pop()
        if node is None or id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            waiting += node.value
        elif isinstance(node, yaml.MappingNode):
            names = set[tuple[str, str]]()
            for key, value in node.value:
                waiting += [key, value]
                name = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else None
                if name is not None and name in names and key.tag != "tag:yaml.org,2002:merge":
                    raise BeyondError(f"{key.value[:80]!r} is there twice (line {key.start_mark.line + 1})")
                names |= {name} if name is not None else set()


def from_json_text(text: str) -> Any:
    """What a JSON text says; UnreadableError if it is not valid, too deep, or has a name twice in one object."""
    try:
        data = json.loads(text, object_pairs_hook=_once, parse_constant=_no_number)
    except RecursionError as error:
        raise UnreadableError(f"lists and mappings are nested more than {DEEPEST} deep") from error
    except UnreadableError:
        raise
    except ValueError as error:
        raise UnreadableError(f"not valid JSON: {_one_line(error)}") from error
    check_plain(data)
    return data


def check_plain(data: Any) -> None:
    """UnreadableError for plain data that are too deep, or have what no record can: large integers, half characters."""
    level = [data]
    for _ in range(DEEPEST + 1):
        if any(isinstance(value, int) and not -(2**63) <= value < 2**63 for value in level):
            raise UnreadableError("it has a whole number beyond 64 bits")
        names = (name for value in level if isinstance(value, Mapping) for name in value)
        if any(isinstance(text, str) and _HALF.search(text) for text in (*level, *names)):
            raise UnreadableError("it has half a character (a surrogate)")
        inner = (v.values() if isinstance(v, Mapping) else v for v in level if isinstance(v, Mapping | list))
        level = [value for values in inner for value in values]
        if not level:
            return
    raise UnreadableError(f"lists and mappings are nested more than {DEEPEST} deep")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise UnreadableError(f"{next(n for n in names if names.count(n) > 1)[:80]!r} is there twice")
    return found


def _no_number(word: str) -> float:
    raise UnreadableError(f"not valid JSON: {word} is not a number")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
