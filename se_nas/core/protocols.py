"""What a plug-in of each kind must offer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from se_nas.core.trial import CostValue, Direction, Request, Result, Verdict

if TYPE_CHECKING:  # importing torch and Optuna takes seconds, and reading a table needs neither
    from pathlib import Path

    import optuna
    import pytorch_lightning as pl
    from torch import nn

    from se_nas.core.trial import Recipe


class Channel(Protocol):
    """The way from a training to the driver and back.

    One that can also carry signs of life between epochs has a method ``alive(seen)``, which is called at most once a
    second and waits for no answer. What it is given says where the training is, as far as that is known: ``epoch``
    (the current one, from 1), ``batch`` and ``batches`` (done, and in an epoch), ``loss`` (of the last batch),
    ``validating`` (1) while the batches are those of the validation part; ``step`` (optimizer steps so far) of a loop
    that is not ours.
    """

    def report(self, epoch: int, metrics: Mapping[str, float]) -> Verdict:
        """Tell what was seen after an epoch (counted from 1); the answer says whether to go on."""


@runtime_checkable
class Backbone(Protocol):
    """A factory of networks. It is given `num_classes` and `in_channels` if it has parameters of these names.

    The network may have a method ``se_units() -> {unit: module path}`` that names its units.
    """

    def __call__(self, **args: Any) -> nn.Module: ...


@runtime_checkable
class Block(Protocol):
    """A factory of blocks: a class, or a function, that returns a module of a tensor (batch, channels, *size).

    The module gives a tensor of equal shape. The factory is given, by name, what it has parameters for: ``channels``;
    ``size``, the spatial shape; ``hidden`` and ``reduction``, where it has a width (else 0 and None); ``identity``,
    whether it shall start as the identity. Arguments of the search space come beside these.

    Beside it (in the class, at the function, or in its file) stands what it costs, ``counts``: a function that returns
    three whole numbers, learnable parameters, multiply-adds and activations for one image, of what it has parameters
    for of the same names, and ``positions``, the product of the size. It is compared with a trace at every site.

    Optional, beside it: ``width`` (True: it has a hidden width, and a reduction means something), ``gate`` (True: all
    that it does is to multiply each channel by one number, which its method ``gates(u)`` gives as (batch, channels, 1,
    ...)), ``identity`` (True: it starts as the identity, by itself or where it is asked to by that parameter), and
    ``sizes``, a tuple of the numbers of spatial axes, by default (2,). A gate may also say its ``top``, the most that
    it can be.
    """

    def __call__(self, **args: Any) -> nn.Module: ...


@runtime_checkable
class Data(Protocol):
    """A factory of a data set: it returns a `se_nas.data.base.Source` or a LightningDataModule."""

    def __call__(self, **args: Any) -> Any: ...


class Judged(Protocol):
    """What says which value of a training is compared, and whether more of it is better."""

    metric: str
    direction: Direction


@runtime_checkable
class Task(Judged, Protocol):
    """What the candidates are trained for.

    `module` wraps a candidate in a LightningModule, which logs `metric` in its validation epoch.
    """

    def module(self, candidate: nn.Module, recipe: Recipe, **facts: Any) -> pl.LightningModule: ...


@runtime_checkable
class Trainer(Protocol):
    """A training loop of the user's own: this method of a class, or a function with its signature.

    `train` trains the network in place and returns its metrics on validation data, by name. It is given, by name, what
    it has parameters for: the seed of everything random in it, the epochs of the whole schedule, the device
    (``cpu``, ``cuda:0``), a new folder for its own files (which stay), and `report`, to call with the number of each
    epoch (from 1) and its metrics; after the answer ``stop`` it should end. On request also ``recipe`` (`Recipe`),
    ``classes``, ``num_classes``, ``input_shape``, and ``data`` (`se_nas.training.own_loop.Parts`), the data set of the
    search; without that parameter it brings its own data.

    Optional, beside it (in the class, or in the file of the function): ``metric`` and ``direction`` of what is
    compared; ``input_shape`` and ``num_classes`` or ``classes`` of its own data, and their ``fingerprint``;
    ``test(network) -> metrics`` on images that chose nothing, for `confirm` and `train`; ``images() -> tensor``, some
    validation images for the proofs of exports.
    """

    def train(
        self,
        network: nn.Module,
        *,
        seed: int,
        epochs: int,
        device: str,
        folder: Path,
        report: Callable[[int, Mapping[str, float]], Verdict],
    ) -> Mapping[str, float] | None: ...


@runtime_checkable
class Cost(Protocol):
    """One cost of a placement. `exact` costs come from a table before training, others are measured."""

    name: str
    unit: str
    exact: bool

    def measure(self, candidate: nn.Module, input_shape: tuple[int, ...]) -> CostValue: ...


@runtime_checkable
class Sampler(Protocol):
    """A factory of an Optuna sampler; it is given the bound search space (`se_nas.space.space.Space`), the
    seed and the budget by name."""

    def __call__(self, *, space: Any, seed: int, budget: int) -> optuna.samplers.BaseSampler: ...


@runtime_checkable
class Executor(Protocol):
    """Runs evaluations in `slots` places at once and carries their reports to the driver.

    One that can end an evaluation has a method ``end(future, reason) -> bool``, too: the future then fails at once with
    a `TrainingError` of this reason. False if the evaluation has not begun. A sign of life that comes through a channel
    is passed on as ``report(0, seen)``, whose answer means nothing.
    """

    slots: int

    def submit(
        self,
        evaluate: Callable[[Request, Channel], Result],
        request: Request,
        report: Callable[[int, Mapping[str, float]], Verdict],
    ) -> Future[Result]: ...

    def shutdown(self, *, wait: bool = True) -> None: ...


@runtime_checkable
class Elsewhere(Protocol):
    """What the class of an executor has, too, if its slots are not the devices of this machine.

    Both are class methods that are given the arguments of the executor but `devices`.
    """

    def find_slots(self, *, device: str, workers: int | None, **args: Any) -> tuple[str, ...]:
        """The device of each slot, as its worker names it; ConfigError for more slots than there can be."""

    def ask_machines(self, function: Callable[..., Any], values: tuple[Any, ...], **args: Any) -> list[Any]:
        """What a function returns on each machine that has slots."""
