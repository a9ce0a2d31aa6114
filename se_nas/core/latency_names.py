"""The names of latencies: ``latency@RUNTIME``, where RUNTIME is what runs the network, or a table of another device."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, is_dataclass
from pathlib import PurePath
from typing import Any

from se_nas.core.errors import ConfigError, did_you_mean

LATENCY = "latency"
"""Latency in torch as it is."""

RUNTIMES: dict[str, str] = {
    "torch": "PyTorch",
    "torch-compile": "torch.compile",
    "onnxruntime": "ONNX Runtime",
    "onnxruntime-int8": "ONNX Runtime, 8-bit",
    "tensorrt": "TensorRT",
}
"""By name; what a person calls it."""

_UNITS = {"": 1.0, "us": 0.001, "ms": 1.0, "s": 1000.0}


def is_latency(name: str) -> bool:
    """Whether a cost is a latency, of whatever runtime.

    >>> is_latency("latency"), is_latency("latency@onnxruntime"), is_latency("memory")
    (True, True, False)
    """
    return re.fullmatch(rf"{LATENCY}(@[A-Za-z0-9-]+)?", name) is not None


def canonical(name: str) -> str:
    """The one name of a cost that has two: ``latency@torch`` is ``latency``.

    >>> canonical("latency@torch"), canonical("latency@onnxruntime"), canonical("params")
    ('latency', 'latency@onnxruntime', 'params')
    """
    return LATENCY if name == f"{LATENCY}@torch" else name


def runtime_of(name: str) -> str:
    """The runtime or table of a latency.

    >>> runtime_of("latency"), runtime_of("latency@pixel8")
    ('torch', 'pixel8')
    """
    return name.partition("@")[2] or "torch"


def table_files(text: str | None) -> dict[str, str]:
    """Tables of latencies by their cost, from file names with commas between: ``latency@STEM`` for ``STEM.json``.

    ConfigError for a name that no cost can have.

    >>> table_files("measured/pixel8.json,jetson.json")
    {'latency@pixel8': 'measured/pixel8.json', 'latency@jetson': 'jetson.json'}
    """
    found: dict[str, str] = {}
    for file in filter(None, (part.strip() for part in (text or "").split(","))):
        stem = PurePath(file).stem
        if not re.fullmatch(r"[A-Za-z0-9-]+", stem) or stem in RUNTIMES or f"{LATENCY}@{stem}" in found:
            raise ConfigError(
                f"latency_table is {file!r}, and the table is called by the name of its file, {stem!r}",
                allowed=[f"letters, digits and -, no other table's name, and none of {', '.join(RUNTIMES)}"],
                hint="rename the file, such as pixel8.json",
            )
        found[f"{LATENCY}@{stem}"] = file
    return found


def check_latency(name: str, tables: Iterable[str], *, where: str) -> None:
    """ConfigError for a latency whose runtime or table there is not; `where` is the setting that names it."""
    allowed = [*(f"{LATENCY}@{runtime}" for runtime in RUNTIMES), *tables]
    if name.startswith(f"{LATENCY}@") and name not in allowed:
        raise ConfigError(
            f"{where} is {name}, and there is no runtime or table {runtime_of(name)!r}",
            allowed=[LATENCY, *allowed],
            hint=did_you_mean(runtime_of(name), [runtime_of(known) for known in allowed])
            or "a table is named after its file: --latency-table pixel8.json",
        )


def milliseconds(value: object) -> object:
    """A time in milliseconds where a text says one; anything else as it is, for others to judge.

    >>> milliseconds("5ms"), milliseconds("0.5 s"), milliseconds("800us"), milliseconds("5"), milliseconds("much")
    (5.0, 500.0, 0.8, 5.0, 'much')
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?|\.\d+)\s*(us|ms|s|)\s*", value) if isinstance(value, str) else None
    return value if match is None else float(match[1]) * _UNITS[match[2]]


def limits_apart(limits: Mapping[str, Any]) -> dict[str, Any]:
    """Limits with those on latencies in milliseconds, and those of a runtime or table under `own`.

    >>> limits_apart({"latency@onnxruntime": "5ms", "latency": "0.1s", "params": 7})
    {'latency': 100.0, 'params': 7, 'own': {'latency@onnxruntime': 5.0}}
    """
    plain: dict[str, Any] = {}
    own: dict[str, Any] = {}
    for name, value in limits.items():
        known = canonical(name) if isinstance(name, str) else name
        if known == LATENCY:
            plain[known] = milliseconds(value)
        elif isinstance(name, str) and name.startswith(f"{LATENCY}@"):
            own[name] = milliseconds(value)
        else:
            plain[name] = value
    given = plain.get("own") or {}
    if isinstance(given, Mapping):
        read = {n: milliseconds(v) if isinstance(n, str) and is_latency(n) else v for n, v in given.items()}
        if LATENCY in (read := {canonical(n) if isinstance(n, str) else n: v for n, v in read.items()}):
            plain.setdefault(LATENCY, read.pop(LATENCY))
        if read or own or "own" in plain:
            plain["own"] = {**read, **own}
    return plain


def limits_grouped(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with the limits on latencies where `Limits` has them, whether given alone or under `max`.

    >>> limits_grouped({"max_latency@pixel8": "5ms", "max": {"latency@onnxruntime": 3}, "epochs": 1})
    {'max': {'own': {'latency@onnxruntime': 3, 'latency@pixel8': 5.0}}, 'epochs': 1}
    """
    apart = {n: v for n, v in settings.items() if isinstance(n, str) and n.startswith(f"max_{LATENCY}") and
             n[len(f"max_{LATENCY}") :][:1] in ("", "@")}  # fmt: skip
    rest = {name: value for name, value in settings.items() if name not in apart}
    group = rest.get("max")
    group = asdict(group) if is_dataclass(group) and not isinstance(group, type) else group
    if group is not None and not isinstance(group, Mapping):
        return rest | apart  # said where it is read
    given = limits_apart(group or {})
    alone = limits_apart({name[4:]: value for name, value in apart.items()})
    if LATENCY in alone:
        rest[f"max_{LATENCY}"] = alone[LATENCY]
    if "own" in alone:
        own = [part for part in (given.get("own"), rest.pop("max_own", None)) if isinstance(part, Mapping)]
        given["own"] = {name: value for part in (*own, alone["own"]) for name, value in part.items()}
    return {"max": given, **{n: v for n, v in rest.items() if n != "max"}} if given else rest
