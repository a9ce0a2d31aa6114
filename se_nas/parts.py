"""Parts of a network that can carry an SE block, and what the rules for several kinds of them share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from se_nas.flow import Flow
from se_nas.graph import Graph, Use

Uses = frozenset[Use]


@dataclass(frozen=True)
class Target:
    """A tensor, and those of its uses that shall see it rescaled."""

    value: int
    uses: Uses


@dataclass(frozen=True)
class Candidate:
    """A part of the graph that can carry an SE block."""

    kind: str
    region: frozenset[int]
    """Nodes that belong to it."""
    targets: dict[str, tuple[Target, ...]]
    """Position -> where it is, the best first; later ones are used where the earlier cannot be reached."""
    join: int
    """The node that ends it."""


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
    if (block := flow.after_block(value)) is not None:
        return frozenset(block[1])
    activated = flow.after_activation(value)
    block = None if activated is None else flow.after_block(activated[0])
    return frozenset() if block is None else frozenset(block[1])


def inner(flow: Flow, region: frozenset[int]) -> dict[str, tuple[Target, ...]]:
    """After the last convolution larger than one pixel, and its norm, unless the branch ends with it."""
    weighted = [index for index in region if flow.graph.nodes[index].weight is not None]
    spatial = [node for node in flow.convolutions(region) if max(node.kernel) > 1 and node.index != max(weighted)]
    if not spatial:
        return {}
    value, _ = flow.after_norm(spatial[-1].outputs[0])
    return {"inner": (Target(value, flow.graph.reach[value]),)}


def common_call(graph: Graph, nodes: Iterable[int]) -> int:
    """The innermost module call that all nodes ran in."""
    stacks = [graph.stack(graph.nodes[index].call) for index in nodes]
    return next(call for call in stacks[0] if all(call in stack for stack in stacks))
