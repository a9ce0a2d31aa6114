"""Exact cost of every placement, known before any training.

Conventions, which are ours and not fvcore's (it counts an average pool or not depending on how it is written):

* One MAC is one multiply-add. Convolutions, linear layers and matrix products count their multiply-adds, biases
  not. 1 GFLOP here is 10^9 MACs, as in the SE paper.
* Pooling or averaging a whole tensor (the squeeze) counts one per input element; a product of tensors (the
  rescaling) one per output element, however it is written.
* Arithmetic on a tensor without spatial extent (the hidden ReLU and the gate of an SE block) counts one per element.
* Elsewhere activation functions, normalisation (it folds into the convolution), additions, local pooling and moving
  data count nothing. Any other operation is an error that names it.
* `params` are learnable parameters; `activations` the output elements of convolutions and linear layers
  (Radosavovic et al., "Designing Network Design Spaces", arXiv 2003.13678, section 3).

The backbone is traced once, with fvcore, as a copy in eval mode with one image; SE is added in closed form.
"""

from __future__ import annotations

import copy
import itertools
import math
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from se_nas.errors import CostError
from se_nas.records import Choice, CostValue, Placement, Unit
from se_nas.se import insert_choices
from se_nas.space import Space

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", category=DeprecationWarning)  # torch.jit, on which fvcore is built
    from fvcore.nn import ActivationCountAnalysis, FlopCountAnalysis
    from fvcore.nn.jit_handles import conv_flop_count, generic_activation_jit, get_shape

COST_UNITS = {"gflops": "10^9 MACs", "macs": "MACs", "params": "parameters", "activations": "elements"}
"""The exact costs by name, with their units. Each can be a limit, and the cost axis."""


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

    def values(self) -> dict[str, CostValue]:
        """By name, as a trial keeps them."""
        return {name: CostValue(value=getattr(self, name), unit=unit) for name, unit in COST_UNITS.items()}


def se_cost(channels: int, size: tuple[int, ...], choice: Choice) -> Cost:
    """What an SE block adds at a site, in closed form; zero for `none`.

    With C channels, S squeeze channels and P positions: ``2 C S (+ S + C)`` parameters; multiply-adds ``C P`` for
    the squeeze, ``2 C S`` for the two layers, ``S + C`` for ReLU and gate (``+ C`` each for a gate scale other than
    1 and an offset other than 0), ``C P`` for the rescaling.
    """
    if choice.kind != "se" or choice.squeeze_channels is None:
        return Cost(params=0, macs=0, activations=0)
    c, s, positions = channels, choice.squeeze_channels, math.prod(size)
    gate = c * (1 + (choice.gate_scale != 1.0) + (choice.gate_offset != 0.0))
    return Cost(
        params=2 * c * s + (s + c if choice.bias else 0),
        macs=2 * c * positions + 2 * c * s + s + gate,
        activations=s + c,
    )


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
        total = self.backbone
        for name, choice in placement.choices.items():
            total += self.added(self.units[name], choice)
        return total

    def added(self, unit: Unit, choice: Choice) -> Cost:
        """What a choice adds to the backbone without SE."""
        if choice.kind == "keep":
            if unit.name not in self._kept:
                self._kept[unit.name] = self._trace({unit.name: choice}) - self.backbone
            return self._kept[unit.name]
        if choice.kind == "none":
            return se_cost(0, (), choice)
        site = unit.site(choice.position)
        added = se_cost(site.channels, site.size, choice)
        if site.edge == "gate":  # the network multiplies by the gate itself, also by an open one
            added -= Cost(params=0, macs=site.channels * math.prod(site.size), activations=0)
        return Cost(params=added.params, macs=site.uses * added.macs, activations=site.uses * added.activations)

    def table(self, space: Space) -> dict[str, np.ndarray]:
        """The cost of all assignments of levels at once, by name.

        Each array has one axis for each parameter of the space, in their order, with one entry for each level.
        Costs of decisions add up, so 10^6 placements take milliseconds.
        """
        names = list(space.parameters)
        shape = tuple(len(space.parameters[name]) for name in names)
        tables = {name: np.full(shape, getattr(self.backbone, name)) for name in ("params", "macs", "activations")}
        for decision in space.decisions:
            axes = [i for i, name in enumerate(names) if name.rpartition(".")[0] == decision.name]
            for levels in itertools.product(*(range(shape[i]) for i in axes)):
                choices = space.choices(decision, {names[i]: level for i, level in zip(axes, levels, strict=True)})
                where: list[int | slice] = [slice(None)] * len(names)
                for axis, level in zip(axes, levels, strict=True):
                    where[axis] = level
                for unit in decision.units:
                    added = self.added(unit, choices[unit.name])
                    for name, values in tables.items():
                        values[tuple(where)] += getattr(added, name)
        return {**tables, "gflops": tables["macs"] / 1e9}


def cost(model: nn.Module, *, input_shape: tuple[int, ...]) -> Cost:
    """Exact cost of a network for one image, by a full trace. The network is left alone.

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
    with warnings.catch_warnings(), torch.no_grad():
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"(torch\.jit|fvcore).*")
        warnings.filterwarnings("ignore", message=r".*torch\.jit\..*", category=DeprecationWarning)
        flops = FlopCountAnalysis(network, image).set_op_handle(**HANDLES)
        flops.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
        activations = ActivationCountAnalysis(network, image)
        activations.set_op_handle("aten::_convolution_mode", generic_activation_jit("conv"))
        activations.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
        try:
            macs = int(flops.total())
            outputs = int(activations.total())
        except CostError:
            raise
        except Exception as error:  # whatever a user's forward raises while it is traced
            raise CostError(
                f"{type(model).__name__} cannot be traced on one image of shape {input_shape}: "
                f"{type(error).__name__}: {error}"
            ) from error
    if unknown := flops.unsupported_ops():
        raise CostError(
            f"{type(model).__name__} has operations whose cost is not defined: "
            + ", ".join(f"{name} ({number} times)" for name, number in sorted(unknown.items())),
            hint="name a handle for it in se_nas.cost.HANDLES",
        )
    params = sum(p.numel() for p in network.parameters() if p.requires_grad)
    return Cost(params=params, macs=macs, activations=outputs)


def _elements(value: Any) -> int:
    shape = get_shape(value)
    return math.prod(shape) if shape else 0


def _has_extent(value: Any) -> bool:
    shape = get_shape(value)
    return bool(shape) and len(shape) > 2 and math.prod(shape[2:]) > 1


def _global_pool(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """One per input element if nothing of the spatial extent is left, else (local pooling) nothing."""
    return Counter({"pool": 0 if _has_extent(outputs[0]) else _elements(inputs[0])})


def _product(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    return Counter({"mul": _elements(outputs[0])})


def _descriptor(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """One per element of a tensor without spatial extent, else nothing."""
    return Counter({"descriptor": 0 if _has_extent(outputs[0]) else _elements(outputs[0])})


def _nothing(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """Nothing. A handle of its own, since fvcore falls back on its own handle where ours is None."""
    return Counter({"free": 0})


Handle = Callable[[list[Any], list[Any]], Counter[str]]

_POOLS = """
    mean sum amax amin max adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d
    adaptive_max_pool2d adaptive_max_pool3d
""".split()
_POINTWISE = """
    sigmoid hardsigmoid tanh relu relu6 hardtanh hardswish silu gelu elu leaky_relu prelu softmax log_softmax clamp
    clamp_min clamp_max add sub rsub div exp pow sqrt rsqrt softplus mish
""".split()
_FREE = """
    batch_norm layer_norm group_norm instance_norm max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d
    dropout dropout1d dropout2d dropout3d feature_dropout alpha_dropout flatten view reshape permute transpose
    unsqueeze squeeze expand expand_as cat concat stack chunk split split_with_sizes slice select narrow contiguous
    clone detach to type_as pad constant_pad_nd reflection_pad2d replication_pad2d roll pixel_shuffle
    pixel_unshuffle channel_shuffle upsample_nearest2d upsample_bilinear2d upsample_nearest3d upsample_trilinear3d
    zeros zeros_like ones ones_like empty full arange copy_ index repeat unbind unflatten t numel floor_divide floor
    ceil remainder eq ne lt gt le ge bool logical_and logical_or bitwise_not where masked_fill einsum_path fill_
    im2col unfold movedim new_ones new_zeros swapaxes swapdims view_as reshape_as tensor_split hsplit
""".split()


def _handles() -> dict[str, Handle]:
    """aten operation -> how it is counted."""
    table: dict[str, Handle] = {f"aten::{name}": _nothing for name in _FREE}
    for handle, names in ((_global_pool, _POOLS), (_descriptor, _POINTWISE), (_product, ["mul"])):
        for name in names:
            table[f"aten::{name}"] = handle
            table[f"aten::{name}_"] = handle
    table["aten::_convolution_mode"] = _convolution
    table["aten::scaled_dot_product_attention"] = _attention
    return table


def _convolution(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """A convolution whose padding is given by name, which fvcore does not know."""
    return Counter({"conv": conv_flop_count(get_shape(inputs[0]), get_shape(inputs[1]), get_shape(outputs[0]))})


def _attention(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """Two matrix products: queries with keys, and the weights with the values."""
    (*batch, queries, width), keys = get_shape(inputs[0]), get_shape(inputs[1])[-2]
    return Counter({"attention": math.prod(batch) * queries * keys * (width + get_shape(inputs[2])[-1])})


HANDLES: Mapping[str, Handle] = _handles()
