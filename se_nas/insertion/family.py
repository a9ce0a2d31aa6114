"""Where networks with depthwise or grouped convolutions have SE blocks of their own: the position `family`.

MobileNetV3, EfficientNet, MnasNet, RegNetY, RegNetZ and GhostNet rescale the tensor between the depthwise (or grouped)
convolution, with its norm and activation, and the convolution of one pixel after it. All but MobileNetV3 and GhostNet
take the hidden width from the channels that the block is given. SE-Darknet (timm) rescales between the two
convolutions of its blocks, whose branches end with an activation. SE-ResNeXt, whose number of groups is the same in
all stages, has its blocks at the end of the branch: that is the position `standard`.

Sources: Howard et al., arXiv 1905.02244, figure 4; Tan and Le, arXiv 1905.11946 (`se_ratio` of the input filters);
Radosavovic et al., arXiv 2003.13678, section 5; Han et al., arXiv 1911.11907, figure 3.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from statistics import mean, pstdev

from se_nas.insertion.flow import Carrier, Flow
from se_nas.insertion.graph import Node

WHY = "where SE networks of this kind have their blocks, before the last convolution; standard is the SE paper's"

_KINDS = ("residual", "depthwise", "linear sum")


def with_family(flow: Flow, carriers: Sequence[Carrier]) -> list[Carrier]:
    """The carriers, with the position `family` where it is there.

    Convolutions with groups count if they are depthwise, or if all of the network have groups of one width. At least
    half of the units must have one, and SE blocks that the network has already must be there.
    """
    middles = {c.join: found for c in carriers if c.kind in _KINDS and (found := _middle(flow, c)) is not None}
    grouped = [node for node, _ in middles.values() if not flow.is_depthwise(node)]
    widths = {flow.shape(node.inputs[0])[1] // flow.groups(node) for node in grouped}
    channels = {flow.shape(node.inputs[0])[1] for node in grouped}
    if len(widths) > 1 or (grouped and len(channels) < 2):
        middles = {join: (node, value) for join, (node, value) in middles.items() if flow.is_depthwise(node)}
    if not middles:
        middles = {c.join: found for c in carriers if c.kind == "residual" and (found := _dark(flow, c)) is not None}
    among = [c for c in carriers if c.join in middles]
    own = any(c.kind == "residual" or flow.blocks(c.region) for c in among)  # MobileNet is the SE paper's own
    if not own or 2 * len(among) < len(carriers) or any(_elsewhere(flow, c, middles) for c in among):
        return list(carriers)
    given = _given(flow, carriers)
    from_input = _from_input(flow, carriers, given) and any(flow.groups(node) > 1 for node, _ in middles.values())
    return [
        replace(
            c,
            taps={**c.taps, "family": (flow.tap(middles[c.join][1]),)},
            squeezed_from=given.get(c.join) if from_input else None,
        )
        if c.join in middles
        else c
        for c in carriers
    ]


def _middle(flow: Flow, carrier: Carrier) -> tuple[Node, int] | None:
    """The last depthwise or grouped convolution with one of one pixel after it, and the tensor between them.

    An activation follows it; where none does, as in strided blocks of GhostNet, one follows an earlier one.
    """
    end = carrier.taps["standard"][0].value
    convolutions = [node for node in flow.convolutions(carrier.region) if flow.depends(end, node.outputs[0])]
    pointwise = [node for node in convolutions if flow.is_pointwise(node)]
    found: list[tuple[Node, int, bool]] = []
    for node in convolutions:
        if flow.groups(node) < 2 or max(node.kernel) < 2:
            continue
        value, activated = _after(flow, node, carrier.region)
        if any(flow.depends(later.inputs[0], node.outputs[0]) for later in pointwise):
            found.append((node, value, activated))
    if not found or not any(activated for _, _, activated in found):
        return None
    node, value, _ = found[-1]
    return None if value in flow.pooled or len(flow.shape(value)) < 3 else (node, value)


def _dark(flow: Flow, carrier: Carrier) -> tuple[Node, int] | None:
    """The first of two convolutions in a branch that ends with an activation, and the tensor between them.

    The sum has none after it: a ResNet may have an activation at the end of a branch too.
    """
    end = carrier.taps["standard"][0].value
    if flow.after_activation(flow.graph.nodes[carrier.join].outputs[0]) is not None:
        return None
    convolutions = [node for node in flow.convolutions(carrier.region) if flow.depends(end, node.outputs[0])]
    if len(convolutions) != 2 or any(flow.groups(node) > 1 for node in convolutions):
        return None
    first, last = convolutions
    value, activated = _after(flow, first, carrier.region)
    final, ends = _after(flow, last, carrier.region)
    follows = activated and flow.depends(last.inputs[0], value)
    return (first, value) if follows and ends and final == end else None


def _after(flow: Flow, node: Node, region: frozenset[int]) -> tuple[int, bool]:
    """The tensor after a convolution with its norm and activation, of all parts if it has only some of the channels."""
    value = flow.after_norm(_joined(flow, node.outputs[0], region))
    end = flow.after_activation(value)
    if end is None:
        return value, False
    return _joined(flow, end, region), True


def _joined(flow: Flow, value: int, region: frozenset[int]) -> int:
    follower = flow.only_follower(value)
    if follower is None or follower.name != "cat" or follower.index not in region:
        return value
    value = follower.outputs[0]
    follower = flow.only_follower(value)  # GhostNet takes as many channels as it wants, often all
    if follower is not None and follower.name == "getitem" and flow.shape(follower.outputs[0]) == flow.shape(value):
        return follower.outputs[0]
    return value


def _elsewhere(flow: Flow, carrier: Carrier, middles: dict[int, tuple[Node, int]]) -> bool:
    """Whether the network has an SE block in a unit, at another place than `family` would be."""
    blocks = flow.blocks(carrier.region)
    return bool(blocks) and all(b.value != middles[carrier.join][1] for b in blocks)


def _given(flow: Flow, carriers: Sequence[Carrier]) -> dict[int, int]:
    """Channels of the tensor that each block is given, by the node that ends it; none where no module is its own."""
    calls = [flow.graph.stack(flow.graph.common_call(carrier.region)) for carrier in carriers]
    holds = Counter(call for stack in calls for call in stack)
    given: dict[int, int] = {}
    for carrier, (call, *_) in zip(carriers, calls, strict=True):
        if not flow.graph.calls[call].path or holds[call] > 1:
            continue
        for node in flow.graph.boundaries.get(("enter", call), []):
            if node.plain and len(shape := flow.graph.shapes[node.inputs[0]]) >= 3:
                given[carrier.join] = shape[1]
    return given


def _from_input(flow: Flow, carriers: Sequence[Carrier], channels: dict[int, int]) -> bool:
    """Whether hidden widths are a share of what blocks are given, as the network's own SE blocks have it.

    The share that varies less is meant. A network without such blocks takes it from what blocks are given, unless it
    is MobileNetV3 by its activation or GhostNet by its concatenations.
    """
    given, own = [], []
    for carrier in carriers:
        for block in flow.blocks(carrier.region)[:1]:
            hidden = next(w[0] for i in sorted(block.gate) if (w := flow.graph.nodes[i].weight) is not None)
            if carrier.join in channels:
                given.append(hidden / channels[carrier.join])
                own.append(hidden / flow.shape(block.value)[1])
    if not given:
        return not any(node.name in ("hardswish", "cat") for node in flow.nodes)
    return pstdev(given) / mean(given) <= pstdev(own) / mean(own)
