"""Rules for blocks that gather what they computed on the way: one-shot aggregation, cells and dual paths.

Sources: Lee et al., "VoVNet", arXiv 1904.09730, figure 2, and eSE in "CenterMask", arXiv 1911.06667, figure 3 (after
the convolution that follows the concatenation); Zoph et al., "NASNet", arXiv 1707.07012, figure 4. For cells the SE
paper's rule for Inception modules holds: the whole module.
"""

from __future__ import annotations

from collections.abc import Iterable

from se_nas.insertion.concatenations import concatenations, flat
from se_nas.insertion.flow import Carrier, Flow, Tap, tail, takes_channels
from se_nas.insertion.graph import Node


def aggregation(flow: Flow) -> Iterable[Carrier]:
    """Concatenations of at least three tensors made one from another, with a convolution of one pixel after them.

    After that convolution with its norm and activation, the last one where several follow in the same module. In
    a dense block, which is none, a tensor is made from a concatenation of the others.
    """
    for node in concatenations(flow):
        inputs, nested = flat(flow, node)
        if len(inputs) < 3 or len(set(inputs)) != len(inputs) or (fork := flow.fork(inputs)) is None:
            continue
        if not _one_from_another(flow, inputs) or (last := flow.only_follower(node.outputs[0])) is None:
            continue
        region = _in_its_module(flow, node, nested.union(*(flow.region(fork, value) for value in inputs)))
        if not flow.is_pointwise(last) or _is_dense(flow, inputs, region):
            continue
        yield _aggregation(flow, node, last, fork, region)


def _in_its_module(flow: Flow, node: Node, region: frozenset[int]) -> frozenset[int]:
    """The part of a region in the module that concatenates, if that has convolutions: a tensor may come from afar."""
    inside = region & frozenset(flow.graph.inside[node.call])
    return inside if flow.graph.calls[node.call].path and flow.convolutions(inside) else region


def _one_from_another(flow: Flow, values: tuple[int, ...]) -> bool:
    """Whether all but two tensors, such as the two halves of the input, depend on another one."""
    made = [any(b != a and flow.depends(a, b) for b in values) for a in values]
    return sum(made) >= max(1, len(values) - 2)


def _is_dense(flow: Flow, inputs: tuple[int, ...], region: frozenset[int]) -> bool:
    """Whether several of the tensors go through a concatenation on their way to another one."""
    nodes = (flow.graph.nodes[index] for index in region)
    return any(
        node.name == "cat"
        and sum(value in inputs for value in flow.inputs(node)) > 1
        and any(v != node.outputs[0] and flow.depends(v, node.outputs[0]) for v in inputs)
        for node in nodes
    )


def _aggregation(flow: Flow, node: Node, last: Node, fork: int, region: frozenset[int]) -> Carrier:
    home = frozenset(flow.graph.inside[flow.graph.common_call({node.index, last.index} | region)])
    region |= {last.index}
    steps = (flow.after_norm, flow.after_block, flow.after_activation, flow.after_norm, flow.after_block)
    value, nodes = flow.follow(last.outputs[0], *steps)
    while (
        (follower := flow.only_follower(value)) is not None and follower.index in home and flow.is_pointwise(follower)
    ):
        region |= nodes | {follower.index}
        value, nodes = flow.follow(follower.outputs[0], *steps)
    before = _before_block(flow, value, nodes)
    taps = {"standard": (flow.tap(before),)}
    if starts := frozenset(use for use in flow.graph.reach[fork] if use[0] in region):
        taps["pre"] = (Tap(fork, starts),)
    return Carrier("aggregation", region | nodes | tail(flow, value), taps, max(region | nodes))


def _before_block(flow: Flow, value: int, nodes: frozenset[int]) -> int:
    """The tensor that an SE block of the network rescales, if one is among the nodes; else the value."""
    blocks = flow.blocks(nodes)
    return blocks[-1].value if blocks else value


def splits(flow: Flow, carrier: Carrier) -> bool:
    """Whether an aggregation works on a part of the channels: then what is in it is no block of its own."""
    return takes_channels(flow, carrier.region)


def cells(flow: Flow) -> Iterable[Carrier]:
    """Concatenations of sums that a module computes from the outputs of several others: after the concatenation.

    At least half of the tensors are sums with a convolution in one of their branches, two of them side by side.
    """
    for node in concatenations(flow):
        inputs, nested = flat(flow, node)
        call = flow.graph.common_call(nested)
        if len(inputs) < 3 or not flow.graph.calls[call].path:
            continue
        region = frozenset(flow.graph.inside[call])
        sums = [v for v in inputs if (made := flow.graph.maker(v)) is not None and _sums(flow, made, region)]
        if 2 * len(sums) < len(inputs) or not any(
            not flow.depends(a, b) and not flow.depends(b, a) for a in sums for b in sums if a < b
        ):
            continue
        value = node.outputs[0]
        yield Carrier("cell", region | tail(flow, value), {"standard": (flow.tap(value),)}, node.index)


def _sums(flow: Flow, node: Node, region: frozenset[int]) -> bool:
    """Whether a node of a region adds two tensors that are made in it."""
    made = [flow.graph.producer[value] for value in flow.inputs(node)]
    return node.name == "add" and node.index in region and len(made) == 2 and any(index in region for index in made)


def dual_path(flow: Flow) -> Iterable[Carrier]:
    """Blocks that add one part of a branch to the identity and concatenate the other with it: after the whole branch.

    Source: Chen et al., "Dual Path Networks", arXiv 1707.01629, figure 2.
    """
    for node in flow.nodes:
        inputs = flow.inputs(node)
        if node.name != "add" or len(set(inputs)) != 2:
            continue
        for joined in (n for n in flow.followers.get(node.outputs[0], []) if n.name == "cat"):
            for part, other in (
                (p, o) for p in inputs for o in flow.inputs(joined) if o not in (*inputs, node.outputs[0])
            ):
                identity = inputs[0] if part == inputs[1] else inputs[1]
                if (carrier := _dual(flow, node, part, identity, other)) is not None:
                    yield carrier
                    break


def _dual(flow: Flow, node: Node, part: int, identity: int, other: int) -> Carrier | None:
    """A unit at the last tensor that the added and the concatenated part come from; None if it is no branch."""
    if flow.depends(other, node.outputs[0]):
        return None
    made, start = flow.fork((part, other)), flow.fork((part, identity, other))
    if made is None or start is None or made == start or flow.depends(identity, made):
        return None
    region = flow.region(start, made)
    if flow.depth(start, made, region).spatial < 1 or not flow.is_map(made, region):
        return None
    if flow.depth(start, identity, flow.region(start, identity)).mixing > 1:
        return None
    whole = region | flow.region(start, identity) | flow.region(made, part) | flow.region(made, other) | {node.index}
    return Carrier("dual path", whole, {"standard": (flow.tap(made),)}, node.index)
