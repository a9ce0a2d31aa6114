"""What the rules ask about a graph: regions between two tensors, convolutions in them, what follows a tensor.

An SE block that the network has already counts as one operation with one input here, and its gate as none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

from se_nas.insertion.existing import Existing, find_existing, is_global_pooling
from se_nas.insertion.graph import Graph, Node, Use

ACTIVATIONS = frozenset(
    "relu relu6 leaky_relu prelu rrelu elu selu celu gelu silu mish hardswish hardtanh sigmoid hardsigmoid tanh "
    "softplus softsign logsigmoid threshold clamp clamp_min clip glu tanhshrink softshrink hardshrink".split()
)
NORMS = frozenset(
    "batch_norm group_norm layer_norm instance_norm rms_norm local_response_norm native_batch_norm".split()
)
_AFFINE = frozenset("mul add sub div truediv addcmul neg".split())
_POOLS = frozenset("max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d".split())


@dataclass(frozen=True)
class Depth:
    """Convolutions after one another in a branch: all, those that mix channels, those of them with larger kernels."""

    convolutions: int = 0
    mixing: int = 0
    spatial: int = 0


class Flow:
    """A graph as the rules see it."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.existing = find_existing(graph)
        gates = frozenset().union(*(block.gate for block in self.existing.values()))
        self.nodes = [node for node in graph.operations if node.index not in gates]

    def inputs(self, node: Node) -> tuple[int, ...]:
        """Root values; of an SE block only the rescaled tensor."""
        block = self.existing.get(node.index)
        return self.graph.inputs(node) if block is None else (block.value,)

    @cached_property
    def followers(self) -> dict[int, list[Node]]:
        """For every root value the operations that use it, gates left out."""
        followers: dict[int, list[Node]] = {}
        for node in self.nodes:
            for value in dict.fromkeys(self.inputs(node)):
                followers.setdefault(value, []).append(node)
        return followers

    @cached_property
    def pooled(self) -> set[int]:
        """Root values that depend on the input only through a global pooling: no place for an SE block."""
        pooled: set[int] = set()
        for node in self.nodes:
            inputs = self.inputs(node)
            if is_global_pooling(self.graph, node) or (inputs and all(value in pooled for value in inputs)):
                pooled.update(node.outputs)
        return pooled

    @cached_property
    def connected(self) -> list[int]:
        """Root values of convolutions that stand for fully connected layers, as the first of VGG's classifier.

        They are not padded and take in the whole map; on a larger image than the network was made for, most of it.
        """
        found = []
        for node in self.nodes:
            if not node.is_convolution or max(node.kernel) < 2:
                continue
            given, left = self.shape(node.inputs[0])[2:], self.shape(node.outputs[0])[2:]
            whole = all(before == kernel for before, kernel in zip(given, node.kernel, strict=True))
            most = min(node.kernel) >= 7 and all(2 * k > before for before, k in zip(given, node.kernel, strict=True))
            if (whole or most) and all(a == b - k + 1 for b, a, k in zip(given, left, node.kernel, strict=True)):
                found.append(node.outputs[0])
        return found

    def tap(self, value: int) -> Tap:
        """A tensor that all its uses shall see rescaled."""
        return Tap(value, self.graph.reach[value])

    def shape(self, value: int) -> tuple[int, ...]:
        return self.graph.shapes[value]

    def depends(self, value: int, on: int) -> bool:
        return bool(self.graph.ancestors[value] >> on & 1)

    def fork(self, values: tuple[int, ...]) -> int | None:
        """The last root value that all given values depend on (or are)."""
        common = self.graph.ancestors[values[0]]
        for value in values[1:]:
            common &= self.graph.ancestors[value]
        return common.bit_length() - 1 if common else None

    def region(self, start: int, end: int) -> frozenset[int]:
        """Operations on the ways from one root value to another."""
        if start == end:
            return frozenset()
        first, last = (-1 if (made := self.graph.producer[value]) is None else made for value in (start, end))
        return frozenset(
            node.index
            for node in self.nodes
            if first < node.index <= last
            and any(self.depends(value, start) for value in self.inputs(node))
            and any(self.depends(end, self.graph.root[value]) for value in node.outputs)
        )

    def depth(self, start: int, end: int, region: frozenset[int]) -> Depth:
        """Longest chains of convolutions in a region; those on globally pooled tensors do not count."""
        depths = {start: Depth()}
        for index in sorted(region):
            node = self.graph.nodes[index]
            inputs = [depths[value] for value in self.inputs(node) if value in depths]
            counts = node.is_convolution and not self._on_pooled(node)
            mixing = counts and not self.is_depthwise(node)
            for value in node.outputs:
                depths[value] = Depth(
                    max((depth.convolutions for depth in inputs), default=0) + counts,
                    max((depth.mixing for depth in inputs), default=0) + mixing,
                    max((depth.spatial for depth in inputs), default=0) + (mixing and max(node.kernel) > 1),
                )
        return depths.get(end, Depth())

    def _on_pooled(self, node: Node) -> bool:
        return all(value in self.pooled for value in self.inputs(node))

    def convolutions(self, region: frozenset[int]) -> list[Node]:
        """Convolutions of a region in running order, those on globally pooled tensors left out."""
        nodes = (self.graph.nodes[index] for index in sorted(region))
        return [node for node in nodes if node.is_convolution and not self._on_pooled(node)]

    def is_map(self, value: int, region: frozenset[int]) -> bool:
        """Whether a value is (batch, channels, *size), by the last convolution in a region."""
        shape = self.shape(value)
        convolutions = self.convolutions(region)
        if not 3 <= len(shape) <= 5 or value in self.pooled or not convolutions:
            return False
        last = self.shape(convolutions[-1].outputs[0])
        return len(last) == len(shape) and (last[2:] == shape[2:] or last[1] == shape[1])

    def last_map(self, value: int, region: frozenset[int]) -> int | None:
        """The value itself if it is (batch, channels, *size); else, if the channels are last in it, the tensor after
        the last convolution of a region and its norm. None if that sees one pixel alone, or there is none.
        """
        shape, convolutions = self.shape(value), self.convolutions(region)
        if self.is_map(value, region):
            return value
        if not 3 <= len(shape) <= 5 or value in self.pooled or not convolutions:
            return None
        last = convolutions[-1]
        alike = self.shape(last.outputs[0])[2:] == shape[1:-1]
        return self.after_norm(last.outputs[0]) if alike and max(last.kernel) > 1 else None

    def groups(self, node: Node) -> int:
        """Groups of a convolution (not of a transposed one)."""
        if "transpose" in node.name or node.weight is None:
            return 1
        return self.shape(node.inputs[0])[1] // node.weight[1]

    def is_depthwise(self, node: Node) -> bool:
        return node.is_convolution and self.groups(node) == self.shape(node.inputs[0])[1] > 1

    def is_pointwise(self, node: Node) -> bool:
        return node.is_convolution and max(node.kernel) == 1 and not self.is_depthwise(node)

    # What follows a tensor

    def only_follower(self, value: int) -> Node | None:
        followers = self.followers.get(value, [])
        return followers[0] if len(followers) == 1 else None

    def follow(self, value: int, *steps: Callable[[int], int | None]) -> tuple[int, frozenset[int]]:
        """The tensor after those of the steps, such as `after_norm`, that directly follow, and the nodes of these."""
        nodes = frozenset[int]()
        for step in steps:
            if (end := step(value)) is not None:
                nodes |= self.region(value, end)
                value = end
        return value, nodes

    def after_norm(self, value: int) -> int:
        """The tensor after the norms and constant factors that directly follow, or the same if there are none."""
        while (node := self.only_follower(value)) is not None and self._is_norm(node):
            value = node.outputs[0]
        return value

    def _is_norm(self, node: Node) -> bool:
        single = len(self.inputs(node)) == 1 and len(node.outputs) == 1
        return single and node.index not in self.existing and (node.name in NORMS or self.is_affine(node))

    def is_affine(self, node: Node) -> bool:
        """Whether an operation only scales or shifts by constants."""
        if node.name not in _AFFINE or len(self.inputs(node)) != 1 or len(node.inputs) != 1:
            return False
        return self.shape(node.outputs[0]) == self.shape(node.inputs[0])

    def after_activation(self, value: int) -> int | None:
        """The tensor after the activation that directly follows; None if there is none."""
        followers = self.followers.get(value, [])
        if len(followers) == 1 and followers[0].name in ACTIVATIONS and len(followers[0].inputs) == 1:
            return followers[0].outputs[0]
        for node in followers:  # x * sigmoid(x) and its like
            if node.name != "mul" or node.index in self.existing or len(followers) < 2:
                continue
            region = self.region(value, node.outputs[0])
            names = {self.graph.nodes[index].name for index in region}
            if len(region) <= 8 and names <= ACTIVATIONS | _AFFINE and names & ACTIVATIONS:
                return node.outputs[0]
        return None

    def after_block(self, value: int) -> int | None:
        """The tensor after an SE block of the network that directly follows; None if there is none."""
        node = self.only_follower(value)
        return None if node is None or node.index not in self.existing else node.outputs[0]

    def after_pool(self, value: int) -> int | None:
        node = self.only_follower(value)
        return None if node is None or node.name not in _POOLS else node.outputs[0]

    def blocks(self, region: frozenset[int]) -> list[Existing]:
        """SE blocks of the network in a region."""
        return [block for index, block in sorted(self.existing.items()) if index in region]


@dataclass(frozen=True)
class Tap:
    """A tensor, and those of its uses that shall see it rescaled."""

    value: int
    uses: frozenset[Use]


@dataclass(frozen=True)
class Carrier:
    """A part of the graph that can carry an SE block."""

    kind: str
    region: frozenset[int]
    """Nodes that belong to it."""
    taps: Mapping[str, tuple[Tap, ...]]
    """Position -> where it is, the best first; later ones are used where the earlier cannot be reached."""
    join: int
    """The node that ends it."""
    squeezed_from: int | None = None
    """Channels that hidden widths at the position `family` are a share of, if not the tensor's own."""


def takes_channels(flow: Flow, region: frozenset[int]) -> bool:
    """Whether something other than a convolution leaves fewer channels than it was given."""
    nodes = (flow.graph.nodes[index] for index in region)
    return any(
        len(flow.shape(value)) == len(flow.shape(node.inputs[0]))
        and flow.shape(value)[1] < flow.shape(node.inputs[0])[1]
        for node in nodes
        if node.weight is None
        for value in node.outputs
    )


def tail(flow: Flow, value: int) -> frozenset[int]:
    """Nodes of an SE block of the network that follows a join, before or after its activation."""
    activated = flow.after_activation(value)
    ends = [value] if activated is None else [value, activated]
    return next((nodes for end in ends if (nodes := flow.follow(end, flow.after_block)[1])), frozenset())


def inner(flow: Flow, region: frozenset[int]) -> dict[str, tuple[Tap, ...]]:
    """After the last convolution larger than one pixel, and its norm, unless the branch ends with it."""
    weighted = [index for index in region if flow.graph.nodes[index].weight is not None]
    spatial = [node for node in flow.convolutions(region) if max(node.kernel) > 1 and node.index != max(weighted)]
    if not spatial:
        return {}
    return {"inner": (flow.tap(flow.after_norm(spatial[-1].outputs[0])),)}
