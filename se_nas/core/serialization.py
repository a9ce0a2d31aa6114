"""Records as plain data and as JSON, checksums of them, and random streams."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

import msgspec

from se_nas.core.documents import UnreadableError, from_json_text
from se_nas.core.errors import ConfigError, RunError

SCHEMA_VERSION = 1

T = TypeVar("T")


def to_plain(record: Any) -> Any:
    """A record as dictionaries, lists, strings and numbers, just as JSON reads it back."""
    return msgspec.json.decode(_encoded(record))


def _encoded(record: Any, order: Literal["deterministic"] | None = None) -> bytes:
    """JSON of a record; ConfigError for what JSON does not have."""
    try:
        return msgspec.json.encode(record, order=order)
    except UnicodeEncodeError as error:  # a path of other bytes, or half a character
        text = error.object.encode("utf-8", "backslashreplace").decode()
        raise ConfigError(f"{text!r} is not UTF-8", hint="a path may have a link with another name") from error
    except OverflowError as error:
        raise ConfigError("a whole number has more than 64 bits") from error
    except RecursionError as error:
        raise ConfigError("lists and mappings are nested too deep") from error


def from_plain(data: Any, kind: type[T], *, where: str = "a stored record") -> T:
    """A record from plain data; RunError that names the wrong field, RunError for a newer schema."""
    if isinstance(data, Mapping) and isinstance(schema := data.get("schema"), int) and schema > SCHEMA_VERSION:
        raise RunError(
            f"schema version {schema} is newer than this se-nas ({SCHEMA_VERSION})", where=where, hint="update se-nas"
        )
    try:
        return msgspec.convert(data, kind, strict=False)
    except msgspec.ValidationError as error:
        raise RunError(f"{kind.__name__}: {error}", where=where) from error
    except RecursionError as error:
        raise RunError(f"{kind.__name__}: nested too deep", where=where) from error


def to_json(record: Any, *, indent: int = 0) -> bytes:
    """A record as UTF-8 JSON; `indent` spaces per level, or one line."""
    raw = _encoded(record)
    return msgspec.json.format(raw, indent=indent) + b"\n" if indent else raw


def from_json(text: bytes | str, kind: type[T], *, where: str = "a stored record") -> T:
    """A record from JSON; RunError when it is no JSON or not this record."""
    try:
        data = from_json_text(text if isinstance(text, str) else text.decode())
    except UnicodeDecodeError as error:
        raise RunError(f"not valid JSON: it is not UTF-8 text (byte {error.start:,})", where=where) from error
    except UnreadableError as error:
        raise RunError(str(error), where=where) from error
    return from_plain(data, kind, where=where)


def checksum(record: Any) -> str:
    """First 16 hexadecimal digits of the SHA-256 of the record's canonical JSON."""
    return hashlib.sha256(_encoded(record, order="deterministic")).hexdigest()[:16]


def random_stream(seed: int, *names: str | int) -> int:
    """Seed of a separate random stream, 63 bits, from a seed and the names of the stream.

    Backbone initialisation, each SE block, batch order and augmentation have a stream each, so that inserting
    an SE block shifts no other random number.
    """
    digest = hashlib.sha256(msgspec.json.encode([seed, *names])).digest()
    return int.from_bytes(digest[:8], "big") >> 1
