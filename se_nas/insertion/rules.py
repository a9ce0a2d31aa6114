"""The SE paper's rules for where a block may sit, on the graph of a network.

Source: Hu et al., arXiv 1709.01507v4, section 3.3 (figures 2 and 3), section 6.5 (positions) and the appendix. Only
what is computed counts: no name of a module or of a library.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import prod

from se_nas.insertion.aggregations import aggregation, cells, dual_path, splits
from se_nas.insertion.concatenations import dense, inception, shuffle
from se_nas.insertion.family import with_family
from se_nas.insertion.flow import Carrier, Depth, Flow, Tap, inner, tail, takes_channels
from se_nas.insertion.graph import Node
from se_nas.insertion.linear_sums import linear_sums
from se_nas.insertion.siblings import one_in_each

_ATTENTION = frozenset("matmul bmm einsum baddbmm softmax scaled_dot_product_attention".split())


def find_carriers(flow: Flow) -> list[Carrier]:
    """All parts of a graph that can carry an SE block, in running order.

    Residual blocks come first; a concatenation inside or around one does not count. Then ShuffleNet units,
    Inception-like modules, dense layers and depthwise-separable convolutions. Convolutions outside all of them are a
    stem, a head or a transition, unless there are at least twice as many of them (those after the last block, which are
    heads, not counted): then they are a chain like VGG's. A tensor that only leaves the network is not a site.
    """
    found = [*cells(flow), *dual_path(flow)]
    sums = linear_sums(flow)
    gathered = _innermost(list(aggregation(flow)))
    within = _nodes(sums)
    skips = [c for c in residual(flow) if c.join not in within]
    around = _nodes(skips)
    found += _outside(flow, found, [c for c in gathered if splits(flow, c) and c.join not in around])
    found += _outside(flow, found, _innermost(skips))
    for carriers in (gathered, sums, *(_innermost(list(rule(flow))) for rule in (shuffle, inception, dense))):
        found += _outside(flow, found, carriers)
    taken = _nodes(found)
    found += [c for c in depthwise(flow) if not c.region & taken]
    found = one_in_each(flow, found)
    taken = _nodes(found)
    chained = [c for c in chain(flow) if not c.region & taken and not _in_head(flow, c)]
    last = max((c.join for c in found), default=len(flow.graph.nodes))
    if sum(c.join < last for c in chained) >= 2 * len(found):
        found += chained
    used = (c for c in found if any(use[0] >= 0 for use in flow.graph.reach[c.taps["standard"][0].value]))
    return with_family(flow, sorted(used, key=lambda carrier: carrier.join))


def _in_head(flow: Flow, carrier: Carrier) -> bool:
    """Whether a convolution is, or follows, one that takes in most of the map, as a fully connected layer does."""
    value = carrier.taps["standard"][0].value
    return any(flow.depends(value, whole) for whole in flow.connected)


def _nodes(carriers: list[Carrier]) -> frozenset[int]:
    return frozenset[int]().union(*(carrier.region for carrier in carriers))


def _innermost(carriers: list[Carrier]) -> list[Carrier]:
    """Without those that contain another one."""
    kept: list[Carrier] = []
    for carrier in sorted(carriers, key=lambda c: len(c.region)):
        if not any(other.join in carrier.region and other.join != carrier.join for other in kept):
            kept.append(carrier)
    return kept


def _outside(flow: Flow, found: list[Carrier], carriers: list[Carrier]) -> list[Carrier]:
    """Without those that lie inside one that was found before, contain one, or share a convolution with one."""
    taken = _nodes(found)
    return [
        c for c in carriers if c.join not in taken and not any(n.index in taken for n in flow.convolutions(c.region))
    ]


# Sums


def residual(flow: Flow) -> Iterable[Carrier]:
    """Sums of a branch with convolutions and the tensor that the branch started from, as it is or projected.

    Where the branch ends with the channels last, as in MambaOut, it is its last convolution that is rescaled, since an
    SE block takes (batch, channels, *size). The identity may be pooled, padded, or go through one convolution that
    mixes channels; there may be no attention on its way, and no part of the channels
    may be taken away from it (which leaves out the sums inside Res2Net). The branch must be deeper, or have the larger
    kernels at equal depth (which leaves out sums of equal branches), and may not shrink and grow again (which leaves
    out skips between encoder and decoder).
    """
    for node in flow.nodes:
        inputs = flow.inputs(node)
        if node.name != "add" or len(inputs) != 2 or len(set(inputs)) != 2:
            continue
        if flow.shape(inputs[0]) != flow.shape(inputs[1]) or (fork := flow.fork(inputs)) is None:
            continue
        regions = [flow.region(fork, value) for value in inputs]
        depths = [flow.depth(fork, value, region) for value, region in zip(inputs, regions, strict=True)]
        for branch in (0, 1):
            identity = 1 - branch
            if not _deeper(depths[branch], depths[identity]):
                continue
            if (
                not flow.is_map(inputs[branch], regions[branch])
                and flow.last_map(inputs[branch], regions[branch]) is None
            ):
                continue
            if _mixes_positions(flow, regions[identity]):
                continue
            if takes_channels(flow, regions[identity]) or _hourglass(flow, fork, regions[branch], inputs[branch]):
                continue
            yield _residual(flow, node, fork, branch, regions)


def _mixes_positions(flow: Flow, region: frozenset[int]) -> bool:
    """Whether there is attention in a region: no way for an identity."""
    return any(flow.graph.nodes[index].name in _ATTENTION for index in region)


def _deeper(branch: Depth, identity: Depth) -> bool:
    if identity.mixing > 1 or (identity.spatial and branch.mixing < 2):
        return False
    return branch.convolutions > identity.convolutions or branch.spatial > identity.spatial


def _hourglass(flow: Flow, fork: int, region: frozenset[int], end: int) -> bool:
    """Whether every way through a branch shrinks the tensor and enlarges it again, as between encoder and decoder."""
    size = prod(flow.shape(end)[2:])
    reached = {fork}
    for index in sorted(region):
        node = flow.graph.nodes[index]
        if any(value in reached for value in flow.inputs(node)):
            reached.update(v for v in node.outputs if len(flow.shape(v)) < 3 or _pixels(flow, node, v) >= size)
    return end not in reached


def _pixels(flow: Flow, node: Node, value: int) -> int:
    # Only convolutions say which axes are spatial; (batch, height, width, channels) may lie between them.
    return prod(flow.shape(value)[2:]) if node.is_convolution else prod(flow.shape(value))


def _residual(flow: Flow, node: Node, fork: int, branch: int, regions: list[frozenset[int]]) -> Carrier:
    inputs = flow.inputs(node)
    if (last := flow.last_map(inputs[branch], regions[branch])) not in (None, inputs[branch]):
        return Carrier("residual", regions[branch] | {node.index}, {"standard": (flow.tap(last),)}, node.index)
    before = [Tap(inputs[branch], frozenset({(node.index, branch)}))]
    value = inputs[branch]
    while (maker := flow.graph.maker(value)) is not None and flow.is_affine(maker):
        value = flow.inputs(maker)[0]  # before a constant factor, if the tensor after it cannot be reached
        before.append(flow.tap(value))
    if maker is not None and maker.is_convolution:
        before.reverse()  # a network without norms scales its branches as a whole: that is no part of them
    after, _ = flow.follow(node.outputs[0], flow.after_activation)
    start = frozenset(use for use in flow.graph.reach[fork] if use[0] in regions[branch])
    taps = {
        "standard": tuple(before),
        "pre": (Tap(fork, start),),
        "post": (flow.tap(after),),
        "identity": (Tap(inputs[1 - branch], frozenset({(node.index, 1 - branch)})),),
        **inner(flow, regions[branch]),
    }
    region = regions[0] | regions[1] | tail(flow, node.outputs[0])
    return Carrier("residual", region | {node.index}, taps, node.index)


# Chains


def depthwise(flow: Flow) -> Iterable[Carrier]:
    """Pointwise convolutions that follow a depthwise one: after their norm and activation.

    Either may be several convolutions, each on a part of the channels, with a concatenation after them.
    """
    seen: set[int] = set()
    for node in flow.nodes:
        if not flow.is_pointwise(node) or (start := _depthwise_before(flow, node)) is None:
            continue
        value, nodes = _end(flow, node)
        if value in flow.pooled or value in seen:
            continue
        seen.add(value)
        middle = flow.after_norm(_joined(flow, start.outputs[0], flow.is_depthwise))
        taps = {"standard": (flow.tap(value),), "inner": (flow.tap(middle),)}
        region = flow.region(start.outputs[0], value) | {start.index} | nodes
        yield Carrier("depthwise", region, taps, max(region))


def _depthwise_before(flow: Flow, node: Node) -> Node | None:
    value = flow.inputs(node)[0]
    for _ in range(12):
        before = flow.graph.maker(value)
        if before is None:
            return None
        if before.is_convolution:
            return before if flow.is_depthwise(before) else None
        inputs = flow.inputs(before)
        if before.name == "cat":
            parts = [flow.graph.maker(v) for v in inputs]
            return parts[0] if all(part is not None and flow.is_depthwise(part) for part in parts) else None
        if flow.shape(inputs[0])[2:] != flow.shape(value)[2:] or before.weight is not None:
            return None
        value = min(inputs)
        if any(other != value and not flow.depends(other, value) for other in inputs):
            return None
    return None


def _joined(flow: Flow, value: int, kind: Callable[[Node], bool]) -> int:
    """The concatenation that a convolution on some channels goes into with others of its kind, or the value itself."""
    node = flow.only_follower(value)
    if node is None or node.name != "cat":
        return value
    makers = [flow.graph.maker(v) for v in flow.inputs(node)]
    return node.outputs[0] if all(maker is not None and kind(maker) for maker in makers) else value


def _end(flow: Flow, node: Node) -> tuple[int, frozenset[int]]:
    """The tensor after a convolution with its norm, activation and SE block, and their nodes."""
    start = _joined(flow, node.outputs[0], flow.is_pointwise)
    value, nodes = flow.follow(start, flow.after_norm, flow.after_block, flow.after_activation, flow.after_block)
    return value, nodes | {node.index}


def chain(flow: Flow) -> Iterable[Carrier]:
    """Convolutions with a non-linearity after them, with a norm or a pooling between them or not: after it."""
    for node in flow.convolutions(frozenset(node.index for node in flow.nodes)):
        before, nodes = flow.follow(node.outputs[0], flow.after_norm, flow.after_block, flow.after_pool)
        value, activation = flow.follow(before, flow.after_activation)
        if not activation or value in flow.pooled:
            continue
        nodes |= activation | flow.follow(value, flow.after_block)[1] | {node.index}
        yield Carrier("chain", nodes, {"standard": (flow.tap(value),)}, max(nodes))
