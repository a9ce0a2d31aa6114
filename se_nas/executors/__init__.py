"""Executors: where evaluations run."""

from __future__ import annotations

from collections.abc import Sequence

from se_nas.plugins import Executor, check_arguments, resolve
from se_nas.records import Target

EXECUTORS: dict[str, str] = {
    "local": "se_nas.executors.local:LocalExecutor",
    "inline": "se_nas.executors.inline:InlineExecutor",
}


def open_executor(target: Target, devices: Sequence[str]) -> Executor:
    """The executor of a name or import path, with one slot for each device given."""
    factory, _ = resolve("executor", target.target, EXECUTORS)
    args = {"devices": tuple(devices), **target.args}
    check_arguments("executor", target, factory, args)
    executor: Executor = factory(**args)
    return executor
