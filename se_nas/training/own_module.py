"""The user's own LightningModule as a task: a class that takes the candidate network."""

from __future__ import annotations

import functools
import inspect
from typing import Any

import pytorch_lightning as pl
from torch import nn

from se_nas.core.errors import ConfigError, PluginError, SeNasError
from se_nas.core.plugins import accepted, check_arguments
from se_nas.core.trial import Direction, Recipe, Target


class OwnModule:
    """A LightningModule class, made anew around every candidate.

    The candidate is its first argument. `args` of the target are given by name, and of these facts those that its
    constructor has parameters for: ``recipe``, ``steps`` (optimizer steps of the whole training), ``class_counts``,
    ``classes`` (their names), ``num_classes``, ``input_shape``. Loss, metrics, optimizer and schedule are its own; of
    the recipe only epochs, batch size, augmentation and precision hold.

    Parameters
    ----------
    metric, direction:
        What is compared; default the class attributes of these names.
    """

    def __init__(self, factory: type[Any], target: Target, *, metric: str | None, direction: Direction | None) -> None:
        if not issubclass(factory, pl.LightningModule):
            other = any(base.__module__.partition(".")[0] == "lightning" for base in factory.__mro__)
            raise PluginError(
                f"task {target.target!r} is not a LightningModule of pytorch_lightning"
                + (", but one of lightning" if other else ""),
                hint="import pytorch_lightning instead of lightning.pytorch in its file: the classes are the same"
                if other
                else f"class {factory.__name__}(pytorch_lightning.LightningModule): ...",
            )
        self._factory, self._target = factory, target
        own = getattr(factory, "metric", None)
        name = metric or (own if isinstance(own, str) else None)
        if name is None:
            raise ConfigError(
                f"task {target.target!r} does not say which of its metrics is compared",
                hint="give --metric NAME (as it is logged, such as val_dice), or the class an attribute metric",
            )
        self.metric: str = name
        given = direction or (getattr(factory, "direction", None) if metric in (None, own) else None)
        if given is None and name.endswith("loss"):
            given = "minimize"
        if given not in ("maximize", "minimize"):
            raise ConfigError(
                f"it is not said whether more {name} is better",
                where=f"task {target.target!r}",
                allowed=("maximize", "minimize"),
                hint="give --direction, or the class an attribute direction",
            )
        self.direction: Direction = given
        self.units: dict[str, str] = dict(getattr(factory, "units", {}))

    def module(self, candidate: nn.Module, recipe: Recipe, **facts: Any) -> pl.LightningModule:
        """The user's module around a candidate.

        PluginError if it takes no network or does not keep the one that it is given.
        """
        if not _takes_network(self._factory):
            raise PluginError(
                f"task {self._target.target!r} takes no network: its first argument must be the candidate",
                hint=f"def __init__(self, network, ...) in {self._factory.__name__}",
            )
        args = {**accepted(self._factory, facts | {"recipe": recipe}), **self._target.args}
        check_arguments("task", self._target, functools.partial(self._factory, candidate), args)
        try:
            module: pl.LightningModule = self._factory(candidate, **args)
        except SeNasError:
            raise
        except Exception as error:  # whatever a user's constructor raises
            raise PluginError(
                f"task {self._target.target!r} cannot be made around a network: {type(error).__name__}: {error}"
            ) from error
        kept = {id(parameter) for parameter in module.parameters()}
        if not all(id(parameter) in kept for parameter in candidate.parameters()):
            raise PluginError(
                f"task {self._target.target!r} does not train the network that it is given",
                hint="keep it as it is: self.network = network, without a copy",
            )
        return module


def _takes_network(factory: type[Any]) -> bool:
    named = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD)
    return any(parameter.kind not in named for parameter in inspect.signature(factory).parameters.values())
