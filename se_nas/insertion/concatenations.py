"""Rules for parts that end with a concatenation: ShuffleNet units, Inception-like modules, dense layers.

Source: Hu et al., arXiv 1709.01507v4, section 3.3 (figure 2) and the appendix; for dense layers the paper has no rule.
"""

from __future__ import annotations

from collections.abc import Iterable

from se_nas.insertion.flow import Carrier, Depth, Flow, Tap, inner, tail, takes_channels
from se_nas.insertion.graph import Node


def concatenations(flow: Flow) -> Iterable[Node]:
    """Concatenations along the channels of tensors of one size."""
    for node in flow.nodes:
        inputs = flow.inputs(node)
        if node.name not in ("cat", "concat", "concatenate") or len(inputs) < 2 or node.outputs[0] in flow.pooled:
            continue
        shape = flow.shape(node.outputs[0])
        if len(shape) >= 3 and all(flow.shape(v)[2:] == shape[2:] and flow.shape(v)[1] < shape[1] for v in inputs):
            yield node


def flat(flow: Flow, node: Node) -> tuple[tuple[int, ...], frozenset[int]]:
    """The tensors of a concatenation, those of one that only goes into it included, and these concatenations."""
    values, nodes = tuple[int, ...](), frozenset({node.index})
    for value in flow.inputs(node):
        before = flow.graph.maker(value)
        if before is not None and before.name == "cat" and len(flow.followers.get(value, [])) == 1:
            more, inside = flat(flow, before)
            values, nodes = values + more, nodes | inside
        else:
            values += (value,)
    return values, nodes


def _branches(flow: Flow, inputs: tuple[int, ...]) -> tuple[int, list[frozenset[int]], list[Depth]] | None:
    """Where parallel branches start, and their operations and depths; None if a tensor depends on another one."""
    if len(set(inputs)) != len(inputs) or any(a != b and flow.depends(a, b) for a in inputs for b in inputs):
        return None
    if (fork := flow.fork(inputs)) is None:
        return None
    regions = [flow.region(fork, value) for value in inputs]
    return fork, regions, [flow.depth(fork, v, r) for v, r in zip(inputs, regions, strict=True)]


def shuffle(flow: Flow) -> Iterable[Carrier]:
    """ShuffleNet units that end with a concatenation: after the last norm of the deepest branch.

    There is a channel shuffle in it or right after it, or the identity is a part of the channels. (Units that end with
    a sum are residual blocks.)
    """
    for node in concatenations(flow):
        if len(inputs := flow.inputs(node)) != 2 or (branches := _branches(flow, inputs)) is None:
            continue
        _, regions, depths = branches
        main = max((0, 1), key=lambda i: depths[i].convolutions)
        other = 1 - main
        if depths[main].convolutions < 2 or depths[main].convolutions <= depths[other].convolutions:
            continue
        part = depths[other].convolutions == 0 and takes_channels(flow, regions[other])
        if not (part or any(_is_shuffle(flow, i) for i in regions[main]) or _shuffled(flow, node.outputs[0])):
            continue
        value = flow.after_norm(flow.convolutions(regions[main])[-1].outputs[0])
        region = regions[0] | regions[1] | {node.index} | tail(flow, node.outputs[0])
        taps = {
            "standard": (flow.tap(value),),
            **inner(flow, regions[main]),
        }
        yield Carrier("shuffle", region, taps, node.index)


def _is_shuffle(flow: Flow, index: int) -> bool:
    """Whether a node exchanges two axes that the channels were split into."""
    node = flow.graph.nodes[index]
    if "shuffle" in node.name:
        return node.name == "channel_shuffle"
    if node.name not in ("transpose", "permute", "swapaxes", "swapdims"):
        return False
    before = flow.graph.maker(flow.inputs(node)[0])
    return (
        before is not None
        and before.name in ("view", "reshape", "unflatten")
        and len(flow.shape(before.outputs[0])) > len(flow.shape(before.inputs[0]))
        and flow.shape(before.outputs[0])[3:] == flow.shape(before.inputs[0])[2:]
    )


def _shuffled(flow: Flow, value: int) -> bool:
    for _ in range(4):
        if (node := flow.only_follower(value)) is None or not node.outputs:
            return False
        if _is_shuffle(flow, node.index):
            return True
        value = node.outputs[0]
    return False


def inception(flow: Flow) -> Iterable[Carrier]:
    """Concatenations of parallel branches from one tensor, at least two of them with convolutions."""
    joined = list(concatenations(flow))
    for node in joined:
        inputs, nested = flat(flow, node)
        if (branches := _branches(flow, inputs)) is None:
            continue
        fork, regions, depths = branches
        if sum(depth.convolutions > 0 for depth in depths) < 2 or not any(depth.mixing for depth in depths):
            continue
        if all(takes_channels(flow, flow.region(fork, fork_end)) for fork_end in _first(flow, fork, regions)):
            continue  # convolutions on parts of the channels are one grouped convolution
        follower = flow.only_follower(node.outputs[0])
        if follower is not None and follower in joined:
            continue  # part of a larger one
        value = node.outputs[0]
        region = frozenset[int]().union(*regions) | nested | tail(flow, value)
        start = frozenset(use for use in flow.graph.reach[fork] if use[0] in region)
        taps = {
            "standard": (flow.tap(value),),
            "pre": (Tap(fork, start),),
        }
        yield Carrier("inception", region, taps, node.index)


def _first(flow: Flow, fork: int, regions: list[frozenset[int]]) -> list[int]:
    """What the operations give that use the fork."""
    nodes = (flow.graph.nodes[index] for index in sorted(frozenset[int]().union(*regions)))
    return [node.outputs[0] for node in nodes if fork in flow.inputs(node)]


def dense(flow: Flow) -> Iterable[Carrier]:
    """Layers whose output is concatenated with the input that it was computed from, as in DenseNet: that output.

    The paper has no rule for them. Skips across a change of size, as in a U-Net, do not count.
    """
    seen: set[int] = set()
    for node in concatenations(flow):
        inputs, _ = flat(flow, node)
        for value in inputs:
            starts = [other for other in inputs if other != value and flow.depends(value, other)]
            if value in seen or not starts:
                continue
            region = flow.region(max(starts), value)
            if not flow.convolutions(region) or not flow.is_map(value, region) or _resized(flow, region, value):
                continue
            seen.add(value)
            taps = {
                "standard": (flow.tap(value),),
                **inner(flow, region),
            }
            yield Carrier("dense", region, taps, max(region))


def _resized(flow: Flow, region: frozenset[int], value: int) -> bool:
    size = flow.shape(value)[2:]
    return any(flow.shape(node.outputs[0])[2:] != size for node in flow.convolutions(region))
