"""Exact cost of every placement, known before any training.

Conventions, which are ours and not fvcore's (it counts an average pool or not depending on how it is written):

* One MAC is one multiply-add. Convolutions, linear layers and matrix products count their multiply-adds, biases
  not. 1 GFLOP here is 10^9 MACs, as in the SE paper.
* Pooling or averaging a whole tensor (the squeeze) counts one per input element; a product of tensors (the
  rescaling) one per output element, however it is written.
* Arithmetic on a tensor without spatial extent (the hidden ReLU and the gate of an SE block) counts one per element.
* Elsewhere activation functions, normalisation (it folds into the convolution), additions, local pooling and moving
  data count nothing. Any other operation counts by the kind of which torch says it is, or what its parts count
  (`se_nas.space.derived`); one of which torch says nothing is an error that names it.
* `params` are learnable parameters; `activations` the output elements of convolutions and linear layers
  (Radosavovic et al., "Designing Network Design Spaces", arXiv 2003.13678, section 3).

The backbone is traced once, with fvcore, as a copy in eval mode with one image; SE is added in closed form.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import itertools
import math
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np
import torch
from msgspec import UNSET
from torch import Tensor, nn

from se_nas.core.blocks import SE
from se_nas.core.costs import COSTS, EXACT
from se_nas.core.errors import CostError, PluginError
from se_nas.core.placement import Choice, Placement, Site, Unit
from se_nas.core.trial import CostValue
from se_nas.insertion.attention.build import build_block, counts_of
from se_nas.insertion.insert import insert_choices
from se_nas.space.derived import derived_handles
from se_nas.space.operations import HANDLES
from se_nas.space.space import Space

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message=r".*torch\.jit\b")  # fvcore is built on it; the category varies
    from fvcore.nn import ActivationCountAnalysis, FlopCountAnalysis
    from fvcore.nn.jit_handles import generic_activation_jit


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Exact integers of one network."""

    params: int
    macs: int
    activations: int

    @property
    def gflops(self) -> float:
        """10^9 MACs."""
        return self.macs / 1e9

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            params=self.params + other.params,
            macs=self.macs + other.macs,
            activations=self.activations + other.activations,
        )

    def __sub__(self, other: Cost) -> Cost:
        return Cost(
            params=self.params - other.params,
            macs=self.macs - other.macs,
            activations=self.activations - other.activations,
        )

    def times(self, uses: int) -> Cost:
        """The cost of a block that is used several times: its parameters are there once."""
        return Cost(params=self.params, macs=uses * self.macs, activations=uses * self.activations)

    def values(self) -> dict[str, CostValue]:
        """By name, as a trial keeps them."""
        return {name: CostValue(value=getattr(self, name), unit=COSTS[name].unit) for name in EXACT}


COUNTED = ("params", "macs", "activations")

NOTHING = Cost(params=0, macs=0, activations=0)


def se_cost(channels: int, size: tuple[int, ...], choice: Choice) -> Cost:
    """What a new block adds at a site, in closed form; zero for `none`.

    The formulas of blocks other than SE stand beside them (`se_nas.insertion.attention`); that of a block of the user's
    own is compared with a trace once, and PluginError says where they differ. For SE, with C channels,
    S squeeze channels and P positions: ``2 C S (+ S + C)`` parameters; multiply-adds ``C P`` for the squeeze,
    ``2 C S`` for the two layers, ``S + C`` for ReLU and gate (``+ C`` each for a gate scale other than
    1 and an offset other than 0), ``C P`` for the rescaling.
    """
    if choice.kind == "se" and choice.own is not UNSET:
        return _proved(channels, size, choice)
    if choice.kind == "se" and choice.block != SE:
        return Cost(**counts_of(channels, size, choice)._asdict())
    if choice.kind != "se" or choice.squeeze_channels is None:
        return NOTHING
    c, s, positions = channels, choice.squeeze_channels, math.prod(size)
    gate = c * (1 + (choice.gate_scale != 1.0) + (choice.gate_offset != 0.0))
    return Cost(
        params=2 * c * s + (s + c if choice.bias else 0),
        macs=2 * c * positions + 2 * c * s + s + gate,
        activations=s + c,
    )


@functools.cache
def _proved(channels: int, size: tuple[int, ...], choice: Choice) -> Cost:
    """What a block of the user's own says that it costs, which its trace must agree with."""
    said = Cost(**counts_of(channels, size, choice)._asdict())
    site = Site(unit="", position=choice.position, module="", channels=channels, size=size)
    traced = cost(build_block(site, choice), input_shape=(channels, *size))
    if said != traced:
        pairs = ((name, getattr(said, name), getattr(traced, name)) for name in COUNTED)
        wrong = [f"{name} {one:,} instead of {other:,}" for name, one, other in pairs if one != other]
        width = f" and a hidden width of {choice.squeeze_channels}" * (choice.squeeze_channels is not None)
        raise PluginError(
            f"counts of block {choice.of.title!r} ({choice.of.made}) does not agree with its trace at {channels} "
            f"channels of size {'x'.join(map(str, size))}{width}: {', '.join(wrong)}",
            hint="docs/reference/plug-ins.md says how each of them is counted",
        )
    return said


def block_cost(unit: Unit, choice: Choice) -> Cost:
    """What a new block, or none, adds to a unit of the plain backbone; of one to `keep` only a trace knows."""
    if choice.kind != "se":
        return NOTHING
    site = unit.site(choice.position)
    added = se_cost(site.channels, site.size, choice)
    if site.edge == "gate":  # the network multiplies by the gate itself, also by an open one
        added -= Cost(params=0, macs=site.channels * math.prod(site.size), activations=0)
    return added.times(site.uses)


class CostModel:
    """The cost of any placement of one backbone: one trace, and a sum over its units.

    `backbone` is the cost without SE. What an SE block costs that the network had already is found by a trace of its
    own, when it is asked for.

    Parameters
    ----------
    model:
        The backbone as it was given.
    units:
        Its units, as `SearchSpace.units` has them.
    input_shape:
        (channels, *size) of one image.
    """

    def __init__(self, model: nn.Module, units: tuple[Unit, ...], input_shape: tuple[int, ...]) -> None:
        self.units = {unit.name: unit for unit in units}
        self._model, self._input_shape = model, input_shape
        self._kept: dict[str, Cost] = {}
        self.backbone = self._trace({})

    def _trace(self, choices: dict[str, Choice]) -> Cost:
        network = copy.deepcopy(self._model)
        insert_choices(network, tuple(self.units.values()), choices, seed=0)
        return cost(network, input_shape=self._input_shape)

    def __call__(self, placement: Placement) -> Cost:
        return self.backbone + self.of_choices(placement.choices)

    def of_choices(self, choices: Mapping[str, Choice]) -> Cost:
        """What choices by unit add to the plain backbone."""
        return sum((self.added(self.units[name], choice) for name, choice in choices.items()), start=NOTHING)

    def added(self, unit: Unit, choice: Choice) -> Cost:
        """What the choice of one unit adds to the plain backbone."""
        if choice.kind != "keep":
            return block_cost(unit, choice)
        if unit.name not in self._kept:
            self._kept[unit.name] = self._trace({unit.name: choice}) - self.backbone
        return self._kept[unit.name]

    def table(self, space: Space) -> dict[str, np.ndarray]:
        """The cost of all assignments of levels at once, by name.

        Each array has one axis for each parameter of the space, in their order, with one entry for each level.
        Costs of decisions add up, so 10^6 placements take milliseconds.
        """
        names = list(space.parameters)
        shape = tuple(len(values) for values in space.parameters.values())
        tables = {name: np.full(shape, getattr(self.backbone, name)) for name in COUNTED}
        for decision in space.decisions:
            for levels in itertools.product(*(range(len(values)) for values in decision.parameters.values())):
                chosen = dict(zip(decision.parameters, levels, strict=True))
                added = self.of_choices(space.part(decision, chosen).choices)
                where = tuple(chosen.get(name, slice(None)) for name in names)
                for name, values in tables.items():
                    values[where] += getattr(added, name)
        return {**tables, "gflops": tables["macs"] / 1e9}


def cost(model: nn.Module, *, input_shape: tuple[int, ...]) -> Cost:
    """Exact cost of a network for one image, by a full trace. The network is not changed.

    Parameters
    ----------
    input_shape:
        (channels, *size) of one image.

    Raises
    ------
    CostError
        If the network cannot be traced, or has an operation whose cost is not defined.
    """
    network = copy.deepcopy(model).cpu().float().eval()
    image = torch.zeros(1, *input_shape)
    try:
        macs, activations, unknown = _traced(_Tensors(network), image)
    except Exception as error:  # whatever a user's forward raises while it is traced
        raise CostError(
            f"{type(model).__name__} cannot be traced on one image of shape {input_shape}: "
            f"{type(error).__name__}: {error}"
        ) from error
    if unknown:
        raise CostError(
            f"{type(model).__name__} has operations whose cost is not defined: "
            + ", ".join(f"{name} ({number} times)" for name, number in sorted(unknown.items())),
            hint="give the operator a formula with torch.utils.flop_counter.register_flop_formula, or the tag "
            "torch.Tag.pointwise if it is made element by element",
        )
    params = sum(p.numel() for p in network.parameters() if p.requires_grad)
    return Cost(params=params, macs=macs, activations=activations)


class _Tensors(nn.Module):
    """A network that gives all tensors in its output, however they are packed: traces take no other objects."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return tuple(_tensors_in(self.network(image)))


def _tensors_in(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
        return
    if is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in fields(value)}
    for part in value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ():
        yield from _tensors_in(part)


def _traced(network: nn.Module, image: Tensor) -> tuple[int, int, Counter[str]]:
    """Multiply-adds, activations, and the operations of which nobody knows what they count."""
    unknown: Counter[str] = Counter()
    with warnings.catch_warnings(), torch.no_grad(), _without_fast_path():
        warnings.filterwarnings("ignore", message=r".*torch\.jit\b")
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"(torch\.jit|fvcore).*")
        flops = FlopCountAnalysis(network, image).set_op_handle(**HANDLES)
        activations = ActivationCountAnalysis(network, image)
        for name in ("aten::_convolution_mode", "torchvision::deform_conv2d"):
            activations.set_op_handle(name, generic_activation_jit("conv"))
        for analysis in (flops, activations):
            analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
        macs = int(flops.total())
        if left := flops.unsupported_ops():
            macs = int(flops.set_op_handle(**derived_handles(left, unknown)).total())
        return macs, int(activations.total()), unknown


@contextlib.contextmanager
def _without_fast_path() -> Iterator[None]:
    """Attention written out: torch's fused path for transformers in eval mode is one operation without a formula."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
