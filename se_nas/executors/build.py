"""Executors: where evaluations run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from se_nas.core.plugins import check_arguments, resolve
from se_nas.core.protocols import Elsewhere, Executor
from se_nas.core.trial import Target

EXECUTORS: dict[str, str] = {
    "local": "se_nas.executors.local:LocalExecutor",
    "inline": "se_nas.executors.inline:InlineExecutor",
    "ray": "se_nas.executors.ray:RayExecutor",
    "ray:": "se_nas.executors.ray:RayExecutor",
}


def open_executor(target: Target, devices: Sequence[str]) -> Executor:
    """The executor of a name or import path, with one slot for each device given."""
    factory, args = _factory(target)
    executor: Executor = factory(devices=tuple(devices), **args)
    return executor


def slots_elsewhere(target: Target, *, device: str, workers: int | None) -> tuple[str, ...] | None:
    """The device of each slot of an executor that finds them on other machines; None if it uses those of this one."""
    factory, args = _factory(target)
    return factory.find_slots(device=device, workers=workers, **args) if isinstance(factory, Elsewhere) else None


def ask_elsewhere(target: Target, function: Callable[..., Any], *args: Any) -> list[Any]:
    """What a function returns on each of the machines of such an executor."""
    factory, own = _factory(target)
    answers: list[Any] = factory.ask_machines(function, args, **own)
    return answers


def _factory(target: Target) -> tuple[Any, dict[str, Any]]:
    """The class of an executor, and its arguments without `devices`."""
    factory, address = resolve("executor", target.target, EXECUTORS)
    args = {**target.args, **({} if address is None else {"address": address})}
    check_arguments("executor", target, factory, {"devices": (), **args})
    return factory, args
