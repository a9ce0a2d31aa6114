"""Trainers: who trains the candidates, Lightning or a training loop of the user's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from se_nas.core.config import LIGHTNING
from se_nas.core.plugins import resolve
from se_nas.core.protocols import Judged
from se_nas.core.trial import Direction, Request, Target
from se_nas.training.tasks import open_task

if TYPE_CHECKING:
    from se_nas.training.own_loop import OwnLoop

TRAINERS: dict[str, str] = {LIGHTNING: "se_nas.training.trainer:train"}


def open_loop(target: Target, *, metric: str | None = None, direction: Direction | None = None) -> OwnLoop | None:
    """The training loop of a name or import path; None for Lightning, which trains tasks.

    `metric` and `direction` say what is compared instead of what the loop says.

    Raises
    ------
    PluginError
        If there is none, or it cannot be called as trainers are.
    ConfigError
        If nothing says which metric is compared, or whether more of it is better.
    """
    if target.target == LIGHTNING:
        return None
    found, _ = resolve("trainer", target.target, TRAINERS)
    from se_nas.training.own_loop import OwnLoop  # imports torch, which reading the table does not need

    return OwnLoop(found, target, metric=metric, direction=direction)


def loop_of(request: Request) -> OwnLoop | None:
    """The training loop of a request, or None if Lightning trains it."""
    trainer = request.identity.trainer
    if not isinstance(trainer, Target):
        return None
    return open_loop(trainer, metric=request.metric, direction=request.direction)


def judged_by(request: Request) -> Judged:
    """What says which value of a request is compared: its training loop, or its task."""
    return loop_of(request) or open_task(request.identity.task, metric=request.metric, direction=request.direction)
