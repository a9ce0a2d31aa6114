"""From plain values to a configuration: the one way for the command line, YAML files and Python.

Settings are named as on the command line, alone (``epochs``, ``max_params``) or in their groups
(``train: {epochs: 3}``). From Python they may be live objects, too.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import importlib
import json
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar

import msgspec

from se_nas.core.config import SHARED, Limits, SearchConfig, TrainConfig, of_before
from se_nas.core.documents import UnreadableError, from_yaml, text_of
from se_nas.core.errors import ConfigError, did_you_mean
from se_nas.core.files import user_path
from se_nas.core.latency_names import limits_grouped
from se_nas.core.plugins import LIVE, keep_live
from se_nas.core.ranges import is_finite
from se_nas.core.serialization import to_plain
from se_nas.core.trial import Direction, Graph, Precision, Recipe, Target

if TYPE_CHECKING:  # importing torch takes seconds, and names of plug-ins need none of it
    from torch import nn

TARGETS = ("backbone", "data", "task", "trainer", "sampler", "executor")
LIVING = TARGETS[:4]
"""Those that may be objects of this process."""

GROUPS = {"train": Recipe, "max": Limits}
SHORT = {f.name: ("train", f.name) for f in dataclasses.fields(Recipe)} | {
    f"max_{f.name}": ("max", f.name) for f in dataclasses.fields(Limits)
}
"""Settings that may be given without their group -> (group, name in it)."""

FLAGS = ("plan", "progress", "quiet", "json")
"""Options that a configuration file may have, too, since ``--print_config`` prints them."""

ELSEWHERE = ("local", "ray")
"""Executors whose workers are other processes: a live object cannot go there."""

WORDS = {
    "int": ("a whole number",), "float": ("a number",), "bool": ("true", "false"), "str": ("text",),
    "list": ("a list",), "dict": ("a mapping",), "NoneType": (),
}  # fmt: skip
"""What values of a type are called."""

Plugin = str | Target | Mapping[str, Any]
C = TypeVar("C", SearchConfig, TrainConfig)


class SearchSettings(TypedDict, total=False):
    """Settings of `se_nas.search` by name; `SearchConfig`, `Recipe` and `Limits` say what they mean."""

    backbone: Plugin | nn.Module | Callable[..., nn.Module]
    data: Plugin | object
    task: Plugin | Callable[..., Any] | object
    trainer: Plugin | Callable[..., Any] | object
    input_shape: str | Sequence[int] | None
    num_classes: int | None
    metric: str | None
    direction: Direction | None
    margin: float | None
    weights: str | None
    space: str | Mapping[str, Any]
    sampler: Plugin | Callable[..., Any]
    executor: Plugin | Callable[..., Any]
    train: Recipe | Mapping[str, Any]
    max: Limits | Mapping[str, Any]
    cost: str
    measure: Sequence[str]
    latency_batch: int
    latency_threads: int
    latency_table: str | None
    budget: int
    early_stopping: bool
    max_time: str | None
    trial_timeout: str
    workers: int | None
    device: str
    trials_per_device: int | None
    checkpoint_minutes: float
    devices_per_trial: int
    graph: Graph
    seed: int
    vary_seed: bool
    out: str | None
    storage: str | None
    keep_weights: str
    logs: str
    epochs: int
    batch_size: int
    optimizer: str
    lr: float
    momentum: float
    weight_decay: float
    schedule: Literal["onecycle", "cosine", "constant"]
    warmup: float
    label_smoothing: float
    augment: Literal["none", "shift", "shift-flip"]
    class_weights: Literal["none", "balanced"]
    precision: Precision
    max_params: float | None
    max_gflops: float | None
    max_macs: float | None
    max_activations: float | None
    max_latency: float | None
    max_memory: float | None
    max_own: Mapping[str, float]


def configured(base: SearchConfig | None, settings: Mapping[str, object]) -> SearchConfig:
    """A configuration with settings changed, named as on the command line (``epochs``, ``max_params``, ...).

    A backbone may be a name, a factory or a network; data a name, a source or a LightningDataModule; a task a name, a
    LightningModule class or a `Task`; a trainer a name, a function, or an object or module with `train`; a space a
    name, a file or a mapping. Functions and classes that can be imported go to workers as their import path; other
    objects stay in this process, where the ``inline`` executor trains.

    ConfigError for a setting that does not exist, has a wrong value, or cannot go to the executor's workers.
    """
    config = build(grouped(settings, SearchConfig), SearchConfig, base=base or SearchConfig())
    live = [name for name in LIVING if getattr(config, name).target.startswith(LIVE)]
    if live and base is None and "executor" not in settings:
        return dataclasses.replace(config, executor=Target(target="inline"))
    if live and config.executor.target in ELSEWHERE:
        raise ConfigError(
            f"{live[0]} is an object of this process, and the workers of executor {config.executor.target!r} are "
            "other processes",
            allowed=["executor='inline'"],
            hint="or give a function or class from a module that can be imported, which workers load themselves",
        )
    return config


def names_of(kind: type) -> list[str]:
    """All names that `grouped` takes for a configuration, short ones included."""
    own = [f.name for f in dataclasses.fields(kind)]
    return [*own, *(name for name, (group, _) in SHORT.items() if group in own)]


def build(given: Mapping[str, Any], kind: type[C], *, base: C | None = None) -> C:
    """The configuration of settings as `grouped` gives them; what is not given is as in the base."""
    plain: dict[str, Any] = {} if base is None else to_plain(base)
    for name, value in given.items():
        plain[name] = {**plain.get(name, {}), **value} if name in (*GROUPS, *TARGETS) else value
    try:
        config = msgspec.convert(plain, kind, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{kind.__name__}: {error}") from error
    to_plain(config)  # what cannot be kept is refused before anything is done
    return config


def grouped(settings: Mapping[str, object], kind: type, *, where: str | None = None) -> dict[str, Any]:
    """Settings as plain data in their groups, each known and of its type; a later one wins.

    Raises
    ------
    ConfigError
        For an unknown name or a value of a wrong type; `where` is the file that they come from.
    """
    known, result = names_of(kind), dict[str, Any]()
    for name, value in (limits_grouped(settings) if "max" in known else settings).items():
        _check_name(name, known, where)
        if name in SHORT:
            group, inner = SHORT[name]
            result.setdefault(group, {})[inner] = _typed(GROUPS[group], inner, value, where)
        elif name in GROUPS:
            content = to_plain(value) if dataclasses.is_dataclass(value) else value
            result.setdefault(name, {}).update(_mapping(name, content, GROUPS[name], where))
        elif name in TARGETS:
            plain = value if isinstance(value, Mapping) else to_plain(target_of(name, value))
            plain = _mapping(name, plain, Target, where)
            result[name] = {"args": {}, **plain} if "target" in plain else plain
        elif name == "space" and isinstance(value, Mapping):
            result[name] = json.dumps(value)
        elif name == "input_shape" and isinstance(value, list | tuple):
            result[name] = ",".join(map(str, value))
        else:
            result[name] = _typed(kind, name, value, where)
    return result


def _mapping(name: str, value: object, kind: type, where: str | None) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{name} is {value!r}", where=where, allowed=["a mapping of names to values"])
    for inner in value:
        _check_name(inner, [f.name for f in dataclasses.fields(kind)], where, prefix=f"{name}.")
    return {inner: _typed(kind, inner, content, where) for inner, content in value.items()}


def _check_name(name: object, known: Iterable[str], where: str | None, *, prefix: str = "") -> None:
    known = sorted(known)
    if name not in known:
        raise ConfigError(
            f"unknown key {prefix + str(name)!r}", where=where, allowed=known, hint=did_you_mean(str(name), known)
        )


def _typed(kind: type, name: str, value: object, where: str | None) -> Any:
    hint = _hints(kind)[name]
    shown = f"max_{name}" if kind is Limits else name
    try:
        typed = msgspec.convert(value, hint, strict=False)
    except (msgspec.ValidationError, RecursionError) as error:
        raise ConfigError(f"{shown} is {_given(value)}", where=where, allowed=_allowed(hint)) from error
    if not is_finite(typed):
        raise ConfigError(f"{shown} is {_given(value)}", where=where, allowed=["finite numbers of at most 64 bits"])
    return typed


def _given(value: object) -> str:
    """A value as it was given; Python writes no numbers of more than 4,300 digits."""
    try:
        return repr(value)
    except ValueError:
        return "a number of thousands of digits"


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _allowed(hint: Any) -> tuple[str, ...]:
    """What values of a type are, in words."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return tuple(map(str, inner))
    if origin in (typing.Union, types.UnionType):
        return tuple(word for part in inner for word in _allowed(part))
    return WORDS[(origin or hint).__name__]


def wrong_value(kind: type, path: str, value: str) -> ConfigError | None:
    """The error for an option's value that is not of its type, or None for an option that is not a setting."""
    group, _, inner = path.rpartition(".")
    owner = {"": kind, **GROUPS, **dict.fromkeys(TARGETS, Target)}.get(group)
    if owner is None or inner not in _hints(owner):
        return None
    shown = inner if group == "train" else f"{group}_{inner}" if group == "max" else path
    return ConfigError(f"{shown} is {value!r}", allowed=_allowed(_hints(owner)[inner]))


def read_config(file: str, kind: type) -> dict[str, Any]:
    """A configuration file as `grouped` gives it.

    A training takes from the configuration of a search what both have in common, but not its run folder.

    ConfigError if it cannot be read or something in it is wrong.
    """
    try:
        text = text_of(user_path(file))
    except (OSError, UnreadableError) as error:
        raise ConfigError(f"cannot read the configuration {file!r}: {getattr(error, 'strerror', error)}") from error
    try:
        raw = from_yaml(text)
    except UnreadableError as error:
        raise ConfigError(str(error), where=file) from error
    if not isinstance(raw, Mapping):
        raise ConfigError("a configuration is a mapping of keys to values", where=file)
    flags = {name: raw[name] for name in FLAGS if name in raw}
    settings = {name: value for name, value in of_before(raw).items() if name not in FLAGS}
    if kind is SearchConfig or settings.keys() <= set(names_of(kind)):
        return grouped(settings, kind, where=file) | flags
    content = grouped(settings, TrainConfig if "placement" in settings else SearchConfig, where=file)
    return {name: value for name, value in content.items() if name in SHARED and name != "out"} | flags


def target_of(kind: str, value: Any) -> Target:
    """The target of a plug-in given as a name, a target, a mapping, a function, a class or an object."""
    if isinstance(value, str):
        return Target(target=value)
    if isinstance(value, Target):
        return value
    if isinstance(value, Mapping):
        return Target(**_mapping(kind, value, Target, None))
    if value is None or isinstance(value, bool | int | float | list | tuple | set | bytes):
        raise ConfigError(f"{kind} is {value!r}", allowed=["a name", "a mapping with target and args", "an object"])
    if isinstance(value, types.ModuleType):
        return Target(target=f"{value.__name__}:{'train' if kind == 'trainer' else kind}")
    if (path := _import_path(value)) is not None:
        return Target(target=path)
    name = getattr(value, "__qualname__", type(value).__qualname__).rpartition(".")[2]
    # A trainer is used as it is; of all else there is one for each candidate.
    return Target(target=keep_live(name, value if kind == "trainer" else _factory(value)))


def _factory(value: Any) -> Callable[[], Any]:
    """What makes the plug-in: a factory or class itself, else a function that gives the object, or a copy of a network.

    Each candidate changes its network, so that each needs one of its own.
    """
    from torch import nn  # only here: objects come from Python alone, where it is loaded

    if isinstance(value, nn.Module):
        return lambda: copy.deepcopy(value)
    makes = isinstance(value, type) or (callable(value) and not hasattr(value, "train_dataloader"))
    return value if makes else lambda: value


def _import_path(value: Any) -> str | None:
    """``package.module:name`` of a function or class that other processes can import, or None."""
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if module is None or name is None or module == "__main__" or "<" in name:
        return None
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return f"{module}:{name}" if found is value else None
