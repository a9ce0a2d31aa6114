"""Tasks: what the candidates are trained for."""

from __future__ import annotations

from se_nas.plugins import Task, check_arguments, resolve
from se_nas.records import Target

TASKS: dict[str, str] = {"classification": "se_nas.tasks.classification:Classification"}


def open_task(target: Target) -> Task:
    """The task of a name or import path; PluginError if there is none."""
    factory, _ = resolve("task", target.target, TASKS)
    check_arguments("task", target, factory, target.args)
    task: Task = factory(**target.args)
    return task
