"""A configuration from Python: plain values as on the command line, and live objects where they can be had."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import json
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from torch import nn

from se_nas.config import Limits, SearchConfig
from se_nas.errors import ConfigError, did_you_mean
from se_nas.plugins import LIVE, keep_live
from se_nas.records import Recipe, Target, to_plain

TARGETS = ("backbone", "data", "task", "sampler", "executor")
RECIPE = {f.name for f in dataclasses.fields(Recipe)}
LIMITS = {f"max_{f.name}": f.name for f in dataclasses.fields(Limits)}
ELSEWHERE = ("local", "ray")
"""Executors whose workers are other processes: a live object cannot go there."""


def configured(base: SearchConfig | None, settings: Mapping[str, Any]) -> SearchConfig:
    """A configuration with settings changed, named as on the command line (``epochs``, ``max_params``, ...).

    A backbone may be a name, a factory or a network; data a name, a source or a LightningDataModule; a task a name, a
    LightningModule class or a `Task`; a space a name, a file or a mapping. Functions and classes that can be imported
    go to workers as their import path; other objects stay in this process, where the ``inline`` executor trains.

    ConfigError for a setting that does not exist, has the wrong type, or cannot go to the executor's workers.
    """
    plain: dict[str, Any] = to_plain(base or SearchConfig())
    known = {*plain, *RECIPE, *LIMITS}
    for name, value in settings.items():
        if name not in known:
            raise ConfigError(f"unknown setting {name!r}", allowed=sorted(known), hint=did_you_mean(name, known))
        if name in RECIPE:
            plain["train"][name] = value
        elif name in LIMITS:
            plain["max"][LIMITS[name]] = value
        elif name in ("train", "max") and isinstance(value, Mapping):
            plain[name] |= value
        elif name in TARGETS:
            plain[name] = to_plain(target_of(name, value))
        elif name == "space" and isinstance(value, Mapping):
            plain[name] = json.dumps(value)
        else:
            plain[name] = to_plain(value) if dataclasses.is_dataclass(value) else value
    _check_workers(plain, executor_given="executor" in settings or base is not None)
    try:
        return msgspec.convert(plain, SearchConfig, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(f"a setting has the wrong type: {error}") from error


def target_of(kind: str, value: Any) -> Target:
    """The target of a plug-in given as a name, a target, a mapping, a function, a class or an object."""
    if isinstance(value, str):
        return Target(target=value)
    if isinstance(value, Target):
        return value
    if isinstance(value, Mapping):
        return Target(**value)
    if (path := _import_path(value)) is not None:
        return Target(target=path)
    name = getattr(value, "__qualname__", type(value).__qualname__).rpartition(".")[2]
    return Target(target=keep_live(name, value if _makes(value) else _giver(value)))


def _makes(value: Any) -> bool:
    """Whether an object makes the plug-in, as factories and classes do, instead of being one."""
    return (callable(value) and not isinstance(value, nn.Module) and not hasattr(value, "train_dataloader")) \
        or isinstance(value, type)  # fmt: skip


def _giver(value: Any) -> Callable[[], Any]:
    """A factory that gives an object: a copy of a network, anything else itself."""
    return (lambda: copy.deepcopy(value)) if isinstance(value, nn.Module) else (lambda: value)


def _import_path(value: Any) -> str | None:
    """``package.module:name`` of a function or class that other processes can import, or None."""
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if module is None or name is None or module == "__main__" or "<" in name:
        return None
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return f"{module}:{name}" if found is value else None


def _check_workers(plain: dict[str, Any], *, executor_given: bool) -> None:
    live = [name for name in TARGETS[:3] if plain[name]["target"].startswith(LIVE)]
    if not live:
        return
    if not executor_given:
        plain["executor"] = to_plain(Target(target="inline"))
    if plain["executor"]["target"] in ELSEWHERE:
        raise ConfigError(
            f"{live[0]} is an object of this process, and the workers of executor "
            f"{plain['executor']['target']!r} are other processes",
            allowed=["executor='inline'"],
            hint="or give a function or class from a module that can be imported, which workers load themselves",
        )
