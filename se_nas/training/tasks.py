"""Tasks: what the candidates are trained for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from se_nas.core.plugins import check_arguments, resolve
from se_nas.core.protocols import Task
from se_nas.core.trial import Direction, Target

if TYPE_CHECKING:
    import pytorch_lightning as pl
    from torch import nn

    from se_nas.core.trial import Recipe

TASKS: dict[str, str] = {"classification": "se_nas.training.classification:Classification"}


def open_task(target: Target, *, metric: str | None = None, direction: Direction | None = None) -> Task:
    """The task of a name or import path: an object with the `Task` protocol, or a LightningModule class.

    `metric` and `direction` say what is compared instead of what the task says.

    Raises
    ------
    PluginError
        If there is none, or its class takes no network.
    ConfigError
        If nothing says which metric is compared, or whether more of it is better.
    """
    factory, _ = resolve("task", target.target, TASKS)
    if isinstance(factory, type) and hasattr(factory, "training_step"):
        from se_nas.training.own_module import OwnModule  # imports Lightning, which other tables do not need

        return OwnModule(factory, target, metric=metric, direction=direction)
    check_arguments("task", target, factory, target.args)
    task: Task = factory(**target.args)
    if metric is None and direction is None:
        return task
    return Compared(task, metric or task.metric, direction or (task.direction if metric is None else loss_rule(metric)))


@dataclass
class Compared:
    """A task of which another metric is compared than its own."""

    task: Task
    metric: str
    direction: Direction

    @property
    def units(self) -> Mapping[str, str]:
        """Metric -> unit, as the task itself says."""
        units: Mapping[str, str] = getattr(self.task, "units", {})
        return units

    def module(self, candidate: nn.Module, recipe: Recipe, **facts: Any) -> pl.LightningModule:
        """The module of the task itself."""
        return self.task.module(candidate, recipe, **facts)

    def check(self, data: Any) -> None:
        """What the task itself says of the data."""
        getattr(self.task, "check", lambda _: None)(data)


def loss_rule(metric: str) -> Direction:
    """Losses are better when smaller, all else is better when larger."""
    return "minimize" if metric.endswith("loss") else "maximize"
