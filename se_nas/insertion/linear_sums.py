"""Sums of parallel convolutions that are one convolution, as RepVGG, MobileOne, FastViT and RepViT train them.

Such networks fuse the branches of a sum for inference (Ding et al., "RepVGG", arXiv 2101.03697, section 3.3), so that
nothing may stand in a branch: the unit's place is after the sum and its norm, before the activation, where
RepVGG and MobileOne have their own SE blocks.
"""

from __future__ import annotations

from se_nas.insertion.anchors import fuses
from se_nas.insertion.flow import Carrier, Flow, Tap, tail
from se_nas.insertion.graph import Node

_LINEAR = frozenset("add sub neg batch_norm native_batch_norm avg_pool1d avg_pool2d avg_pool3d".split())


def linear_sums(flow: Flow) -> list[Carrier]:
    """The largest sums of tensors that each depend on one tensor by at most one convolution and nothing non-linear.

    A sum with a single convolution counts where the network's own code fuses it; else it is a residual block.
    """
    found: list[Carrier] = []
    for node in reversed(flow.nodes):
        inputs = flow.inputs(node)
        if node.name != "add" or len(inputs) != 2 or any(node.index in carrier.region for carrier in found):
            continue
        if flow.shape(inputs[0]) != flow.shape(inputs[1]) or (fork := flow.fork(inputs)) is None:
            continue
        region = flow.region(fork, node.outputs[0])
        if not all(_is_linear(flow, flow.graph.nodes[index]) for index in region):
            continue
        convolutions = len(flow.convolutions(region))
        if flow.depth(fork, node.outputs[0], region).convolutions != 1:
            continue
        if convolutions > 1 or _fused_by_its_module(flow, region):
            found.append(_carrier(flow, node, fork, region))
    return found


def _is_linear(flow: Flow, node: Node) -> bool:
    return node.name in _LINEAR or node.is_convolution or flow.is_affine(node)


def _fused_by_its_module(flow: Flow, region: frozenset[int]) -> bool:
    """Whether the module that computes a sum, or one around it that computes nothing else, has a method to fuse it."""
    home = flow.graph.common_call(region)
    for call in flow.graph.stack(home):
        module = flow.graph.calls[call]
        if not module.path or (call != home and not region.issuperset(flow.graph.inside[call])):
            return False
        if module.kind is not None and fuses(module.kind):
            return True
    return False


def _carrier(flow: Flow, node: Node, fork: int, region: frozenset[int]) -> Carrier:
    value, norms = flow.follow(node.outputs[0], flow.after_norm)
    after, _ = flow.follow(value, flow.after_block, flow.after_activation)
    taps = {
        "standard": (flow.tap(value),),
        "pre": (Tap(fork, frozenset(use for use in flow.graph.reach[fork] if use[0] in region)),),
        "post": (flow.tap(after),),
    }
    return Carrier("linear sum", region | norms | tail(flow, value), taps, node.index)
