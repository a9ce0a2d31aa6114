"""The user's own training loop: what it may say of itself, what it is given, and what is asked of it."""

from __future__ import annotations

import functools
import inspect
import random
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from se_nas.core.errors import ConfigError, PluginError, SeNasError, TrainingError, did_you_mean, reason_of
from se_nas.core.plugins import accepted, check_arguments
from se_nas.core.serialization import random_stream
from se_nas.core.trial import Direction, Target

GIVEN = ("seed", "epochs", "device", "folder", "report")
"""What every training loop is given."""

ON_REQUEST = ("data", "recipe", "classes", "num_classes", "input_shape")
"""What it is given if it has parameters of these names."""

TESTED = ("device", "seed", "folder", "data", "classes", "num_classes", "input_shape", "without")
"""What a test function is given if it has parameters of these names."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The data set of the search, as a loop may iterate over it, once for each epoch.

    ``train`` and ``val`` (in a test function ``test``) give pairs (images, targets) on the device: images float32
    (batch, channels, *size), normalised; training batches have the recipe's size and augmentation, in a new order
    each time. Of a LightningDataModule they are its loaders.
    """

    train: Any = None
    val: Any = None
    test: Any = None


class OwnLoop:
    """A training loop, a function or a class with `train`; see `se_nas.core.protocols.Trainer`.

    `args` of the target are given by name: to the constructor of a class, else to the function.

    Parameters
    ----------
    metric, direction:
        What is compared; default what the loop says.
    """

    def __init__(self, found: Any, target: Target, *, metric: str | None, direction: Direction | None) -> None:
        self.target = target
        self._owner, self.train = _taken(found, target)
        self._args = {} if self._owner is not None else dict(target.args)
        check_arguments("trainer", target, functools.partial(self.train, None), self._fitting(self.train, _blank()))
        self.metric, self.direction = self._compared(metric, direction)
        units = self.part("units", Mapping)
        self.units: dict[str, str] = dict(units or {})

    def part(self, name: str, *kinds: type) -> Any:
        """What stands beside the loop under a name, if it is of one of these kinds; else None."""
        if self._owner is not None:
            value = getattr(self._owner, name, None)
        elif (value := getattr(self.train, name, None)) is None:
            module = getattr(self.train, "__module__", None) or ""
            # What a script or a notebook has under such a name need not be meant for its loop.
            value = None if module == "__main__" else getattr(sys.modules.get(module), name, None)
        return value if isinstance(value, kinds) and not isinstance(value, type) else None

    @property
    def takes_data(self) -> bool:
        """Whether it trains on the data set of the search; else it brings its own data."""
        return "data" in inspect.signature(self.train).parameters

    @property
    def takes_recipe(self) -> bool:
        """Whether it heeds the settings of the group `train`."""
        return "recipe" in inspect.signature(self.train).parameters

    @property
    def test(self) -> Callable[..., Any] | None:
        """Its test function, if there is one that needs nothing but the network and what it can be given."""
        found = self.part("test", Callable)  # type: ignore[arg-type]  # isinstance works with it
        return found if found is not None and self._lacking(found) is None else None

    @property
    def why_no_test(self) -> str:
        """Why `test` is None, in words."""
        found = self.part("test", Callable)  # type: ignore[arg-type]  # isinstance works with it
        lacking = None if found is None else self._lacking(found)
        return "has no test function" if lacking is None else f"has a test function that cannot be called: {lacking}"

    def run(self, network: nn.Module, offered: Mapping[str, Any]) -> Any:
        """What the loop returns for a network; TrainingError with the place in the user's code if it fails."""
        return _called(functools.partial(self.train, network), self._fitting(self.train, offered))

    def run_test(self, network: nn.Module, offered: Mapping[str, Any]) -> Any:
        """What the test function returns for a network; TrainingError if it fails or is not there."""
        if self.test is None:
            raise TrainingError(f"trainer {self.target.target!r} {self.why_no_test}")
        return _called(functools.partial(self.test, network), self._fitting(self.test, offered))

    @property
    def leaves_out(self) -> bool:
        """Whether its test function can leave out a group of images: it has a parameter `without`."""
        return self.test is not None and "without" in inspect.signature(self.test).parameters

    def _fitting(self, function: Callable[..., Any], offered: Mapping[str, Any]) -> dict[str, Any]:
        """Those of the offered arguments, and of the user's, that a function takes."""
        args = accepted(function, offered)
        if any(p.kind is p.VAR_KEYWORD for p in inspect.signature(function).parameters.values()):
            args |= {name: offered[name] for name in GIVEN if name in offered}
        own = self._args if function is self.train else accepted(function, self._args)
        return args | own

    def _lacking(self, test: Callable[..., Any]) -> str | None:
        """What a test function needs that it cannot be given; None if nothing."""
        try:
            inspect.signature(test).bind(None, **self._fitting(test, dict.fromkeys(TESTED)))
        except (TypeError, ValueError) as error:
            return str(error)
        return None

    def _compared(self, metric: str | None, direction: Direction | None) -> tuple[str, Direction]:
        own, where = self.part("metric", str), f"trainer {self.target.target!r}"
        name = metric or own
        if name is None:
            raise ConfigError(
                f"{where} does not say which of its metrics is compared",
                hint="give --metric NAME (a key of what it returns), or write metric = 'NAME' beside it",
            )
        given = direction or (self.part("direction", str) if metric in (None, own) else None)
        if given is None and name.endswith("loss"):
            given = "minimize"
        if given not in ("maximize", "minimize"):
            raise ConfigError(
                f"it is not said whether more {name} is better",
                where=where,
                allowed=("maximize", "minimize"),
                hint="give --direction, or write direction = 'maximize' beside it",
            )
        return name, given


def _blank() -> dict[str, None]:
    return dict.fromkeys((*GIVEN, *ON_REQUEST))


def _taken(found: Any, target: Target) -> tuple[Any, Callable[..., Any]]:
    """The object that a loop is the method `train` of, if it is one, and the loop itself."""
    owner = None
    if isinstance(found, type):
        check_arguments("trainer", target, found, target.args)
        owner = found(**target.args)
    elif not inspect.isroutine(found) and hasattr(found, "train"):
        owner = found
        if target.args:
            raise PluginError(f"trainer {target.target!r} is an object, which takes no arguments")
    train = found if owner is None else getattr(owner, "train", None)
    if not callable(train) or isinstance(found, nn.Module):
        what = type(found).__name__ if owner is None else f"{type(owner).__name__}, whose train is not a method"
        raise PluginError(
            f"trainer {target.target!r} is {what}",
            allowed=[
                "a function train(network, *, seed, epochs, device, folder, report)",
                "a class with such a method",
            ],
        )
    named = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD)
    if all(parameter.kind in named for parameter in inspect.signature(train).parameters.values()):
        raise PluginError(f"trainer {target.target!r} takes no network: its first argument must be the candidate")
    return owner, train


class UserCodeError(TrainingError):
    """An error in a training loop, with its place there; the library's own error is its cause."""


def _called(function: Callable[..., Any], args: Mapping[str, Any]) -> Any:
    try:
        return function(**args)
    except SeNasError:
        raise
    except (Exception, SystemExit) as error:  # whatever a user's code raises
        what = f"sys.exit({error.code!r})" if isinstance(error, SystemExit) else reason_of(error)
        where = place_of(error)
        raise UserCodeError(f"{what}{f' ({where})' if where else ''}") from error


def place_of(error: BaseException) -> str | None:
    """File and line of the user's code that an error came from: the last one that is in no installed package."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "-packages" not in frame.filename and "/se_nas/" not in frame.filename]
    return f"{own[-1].filename}, line {own[-1].lineno}" if own else None


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """The global random streams of torch, NumPy and Python from a stream of the seed; the last two as before after."""
    states = random.getstate(), np.random.get_state()
    random.seed(random_stream(seed, "training", "python"))
    np.random.seed(random_stream(seed, "training", "numpy") % 2**32)
    torch.manual_seed(random_stream(seed, "training"))
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


def numbers(found: Any, *, what: str) -> dict[str, float]:
    """Metrics as numbers by name; TrainingError if they are something else."""
    if not isinstance(found, Mapping):
        raise TrainingError(f"{what} {type(found).__name__}, not metrics by name such as {{'val_accuracy': 0.9}}")
    result = {}
    for name, value in found.items():
        try:
            result[str(name)] = float(value.detach()) if isinstance(value, Tensor) else float(value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise TrainingError(f"{what} {name!r} as {type(value).__name__}, which is not a number") from error
    return result


def missing_metric(metric: str, metrics: Mapping[str, Any], *, what: str) -> TrainingError:
    """The error for metrics without the one that is compared."""
    there = ", ".join(sorted(metrics)) or "nothing"
    return TrainingError(f"{what} no {metric!r}, but {there}", hint=did_you_mean(metric, metrics))
