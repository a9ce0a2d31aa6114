"""SE blocks whose gates are constant, folded into the neighbouring weights: what is left computes no gate.

A constant gate g rescales channels: ``u * g``. Such a rescaling passes through what treats channels alike (ReLU and
max pooling, since gates are not negative; average pooling, reshaping), and a convolution, a linear layer or the affine
part of a norm can take it in: ``conv(x; W, b) * g = conv(x; g W, g b)``, and ``conv(x * g; W) = conv(x; W g)`` over the
input channels (Hu et al., arXiv 1709.01507, equation 4; Zhong et al., "ASR: Attention-alike
Structural Re-parameterization", arXiv 2304.06345).
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.instancenorm import _InstanceNorm

from se_nas.insertion.existing import Existing, find_existing
from se_nas.insertion.graph import Graph, Node
from se_nas.insertion.insert import remove_block
from se_nas.insertion.recorder import record
from se_nas.insertion.se_blocks import FoundBlock, watchable

_POSITIVE = frozenset(
    "relu leaky_relu prelu max_pool1d max_pool2d max_pool3d max_pool2d_with_indices adaptive_max_pool1d "
    "adaptive_max_pool2d adaptive_max_pool3d amax".split()
)
"""Operations that a factor passes which is not negative."""

_LINEAR = frozenset(
    "avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d neg interpolate "
    "pad constant_pad_nd".split()
)
"""Operations on each channel that any factor passes."""

_RESHAPES = frozenset("view reshape flatten squeeze unsqueeze mean".split())
"""Operations that a factor passes where the channels stay apart; the mean is one over positions."""

_NORMS = (_BatchNorm, _InstanceNorm, nn.GroupNorm)


@dataclass(frozen=True, kw_only=True)
class Fold:
    """What became of one SE block. ``into`` are the modules that took its gate in; empty where none could.

    ``reason`` says then why not.
    """

    block: str
    """The path of its module."""
    into: tuple[str, ...] = ()
    reason: str = ""


@dataclass(frozen=True)
class _Scale:
    """A module whose weights take a gate in, at the side of its output or of its input."""

    path: str
    side: Literal["output", "input"]


class _CannotError(Exception):
    """Why a gate cannot be folded, in words."""


def fold_gates(
    network: nn.Module, gates: Mapping[str, Tensor], input_shape: tuple[int, ...]
) -> tuple[nn.Module, tuple[Fold, ...]]:
    """A copy of a network in eval mode with the gates of some SE blocks folded away; blocks that cannot be stay.

    Parameters
    ----------
    gates:
        By path of a block's module (`se_nas.insertion.se_blocks.watchable` knows them): its constant gate, (channels,).
    input_shape:
        (channels, *size) of one image.

    Returns
    -------
    The folded network, and what became of each block that was asked for.
    """
    folded = copy.deepcopy(network).eval()
    blocks = {block.module: block for block in watchable(folded, input_shape).blocks}
    graph = record(folded, input_shape)
    plans: dict[str, tuple[_Scale, ...]] = {}
    done = []
    plan = _Plans(folded, graph)
    for path, gate in gates.items():
        try:
            plans[path] = plan(blocks[path], gate)
        except _CannotError as error:
            done.append(Fold(block=path, reason=str(error)))
        else:
            done.append(Fold(block=path, into=tuple(dict.fromkeys(scale.path for scale in plans[path]))))
    for path, scales in plans.items():
        for scale in scales:
            _rescale_weights(folded, scale, gates[path].flatten().double())
        remove_block(folded, blocks[path].site)
    return folded, tuple(done)


class _Plans:
    """Finds the modules that can take a gate in."""

    def __init__(self, network: nn.Module, graph: Graph) -> None:
        self.network, self.graph = network, graph
        self.existing = list(find_existing(graph).values())
        self.shared = Counter(id(p) for m in network.modules() for p in m.parameters(recurse=False))

    def __call__(self, block: FoundBlock, gate: Tensor) -> tuple[_Scale, ...]:
        """Before the block if that can be, else after it."""
        if block.runs != 1 or (known := self._existing(block)) is None:
            raise _CannotError("it runs several times for an image")
        positive = bool((gate >= 0).all())
        inside = known.gate | {known.node}
        try:
            return self._before(known.value, inside, block.channels, positive)
        except _CannotError as error:
            before = str(error)
        try:
            return self._after(self.graph.nodes[known.node].outputs[0], block.channels, positive)
        except _CannotError as error:
            raise _CannotError(f"before it, {before}; after it, {error}") from None

    def _existing(self, block: FoundBlock) -> Existing | None:
        found = [e for e in self.existing if e.path == block.path and (not block.layers or e.layers == block.layers)]
        return found[0] if len(found) == 1 else None

    def _before(self, value: int, readers: frozenset[int], channels: int, positive: bool) -> tuple[_Scale, ...]:
        graph = self.graph
        others = [index for index, _ in graph.reach[value] if index not in readers]
        if others:
            raise _CannotError(f"its tensor is also read by {self._name(others[0])}")
        node = graph.maker(value)
        if node is None:
            raise _CannotError("it stands at the network's input")
        inputs = graph.inputs(node)
        if node.is_convolution:
            return (self._layer(node, "output"),)
        if node.name in ("batch_norm", "group_norm", "instance_norm"):
            return (self._norm(node, channels),)
        alike = [v for v in inputs if graph.shapes[v][:2] == graph.shapes[value][:2]]
        if self._passes(node, positive) and len(inputs) == 1 and alike:
            return self._before(inputs[0], frozenset({node.index}), channels, positive)
        if node.name == "add" and len(inputs) == 2 and all(graph.shapes[v] == graph.shapes[value] for v in inputs):
            each = dict.fromkeys(inputs)
            return tuple(s for v in each for s in self._before(v, frozenset({node.index}), channels, positive))
        raise _CannotError(f"stands {self._name(node.index)}")

    def _after(self, value: int, channels: int, positive: bool) -> tuple[_Scale, ...]:
        graph = self.graph
        uses = sorted(graph.reach[value])
        if not uses:
            raise _CannotError("nothing reads its tensor")
        scales: list[_Scale] = []
        for index, number in uses:
            node = graph.nodes[index] if index >= 0 else None
            if node is None:
                raise _CannotError("its tensor is given out by the network")
            if len(node.inputs) > 1 or number:
                raise _CannotError(f"its tensor is read by {self._name(index)}")
            shape = graph.shapes[value]
            if node.is_convolution or (node.name == "linear" and len(shape) == 2 and not shape[1] % channels):
                scales.append(self._layer(node, "input"))
            elif self._passes(node, positive) or self._reshapes(node, channels):
                scales += self._after(node.outputs[0], channels, positive)
            else:
                raise _CannotError(f"its tensor is read by {self._name(index)}")
        return tuple(scales)

    def _passes(self, node: Node, positive: bool) -> bool:
        """Whether a factor of each channel passes an operation."""
        return node.name in _LINEAR or (positive and node.name in _POSITIVE)

    def _reshapes(self, node: Node, channels: int) -> bool:
        """Whether an operation gives (batch, channels, ...) or (batch, channels * positions) from such a tensor."""
        if node.name not in _RESHAPES:
            return False
        given, left = self.graph.shapes[node.inputs[0]], self.graph.shapes[node.outputs[0]]
        if len(given) < 2 or len(left) < 2 or given[0] != left[0]:
            return False
        apart = left[1] == channels or (len(left) == 2 and left[1] == math.prod(given[1:]))
        return apart and (node.name != "mean" or left[1] == channels)

    def _layer(self, node: Node, side: Literal["output", "input"]) -> _Scale:
        if node.owner is None:
            raise _CannotError(f"the weights of {self._name(node.index)} are computed")
        return self._once(node.owner, (_ConvNd, nn.Linear), side)

    def _norm(self, node: Node, channels: int) -> _Scale:
        path = self.graph.calls[node.call].path
        module = self.network.get_submodule(path)
        if not isinstance(module, _NORMS) or module.weight is None or module.weight.shape != (channels,):
            raise _CannotError(f"the norm in {path} has no weights")
        return self._once(path, _NORMS, "output")

    def _once(self, path: str, kinds: tuple[type, ...], side: Literal["output", "input"]) -> _Scale:
        module = self.network.get_submodule(path)
        if not isinstance(module, kinds):
            raise _CannotError(f"{path} is a {type(module).__name__}")
        runs = self.graph.executions[path, ""]
        if runs != 1 or any(self.shared[id(p)] > 1 for p in module.parameters(recurse=False)):
            raise _CannotError(f"{path} is used several times")
        return _Scale(path, side)

    def _name(self, index: int) -> str:
        """An operation, and the module in which it is."""
        if index < 0:
            return "who called the network"
        node = self.graph.nodes[index]
        path = self.graph.calls[node.call].path
        return f"{node.name} in {path}" if path else node.name


def _rescale_weights(network: nn.Module, scale: _Scale, gate: Tensor) -> None:
    """Multiply the weights of a module, in place, so that its output or its input is rescaled by a gate (channels,)."""
    module = network.get_submodule(scale.path)
    weight: Tensor = module.weight  # type: ignore[assignment]  # it is a layer or a norm
    g = gate.to(weight.device, weight.dtype)
    with torch.no_grad():
        if isinstance(module, nn.Linear):
            weight.mul_(g.repeat_interleave(weight.shape[1] // len(g)) if scale.side == "input" else g[:, None])
        elif isinstance(module, _ConvNd):
            groups, transposed = module.groups, isinstance(module, _ConvTransposeNd)
            # Seen as (groups, channels that the first axis counts, channels that the second does, ...).
            parts = weight.view(groups, weight.shape[0] // groups, weight.shape[1], *weight.shape[2:])
            second = (scale.side == "input") != transposed
            shape = (groups, 1, -1) if second else (groups, -1, 1)
            parts.mul_(g.view(*shape, *(1,) * (parts.dim() - 3)))
        else:
            weight.mul_(g)
        bias = getattr(module, "bias", None)
        if scale.side == "output" and bias is not None:
            bias.mul_(g)
