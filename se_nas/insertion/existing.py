"""Squeeze-and-Excitation blocks that a network has already, recognised by what they compute.

A tensor u of shape (batch, channels, *size) is multiplied with something that depends on u only through a global
pooling of u and at least one layer with weights (Hu et al., arXiv 1709.01507, equations 2 to 4; the variants ECA and
eSE compute the same kind of gate). Blocks of se-nas are known by their class: those that are a gate for each channel
are found whatever they compute it from, and a gate that is a part of another block is none.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from math import prod
from typing import Literal

from se_nas.insertion.attention.base import Attention, ChannelGate
from se_nas.insertion.graph import Graph, Node

_POOLINGS = frozenset(
    "mean sum max amax std var logsumexp adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d "
    "adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d adaptive_max_pool2d_with_indices "
    "avg_pool1d avg_pool2d avg_pool3d max_pool1d max_pool2d max_pool3d lp_pool2d".split()
)
_RESHAPES = frozenset("view reshape flatten squeeze unsqueeze transpose permute expand expand_as getitem".split())
_LONGEST = 60
"""Operations in a gate; a search backwards stops there."""


@dataclass(frozen=True)
class Existing:
    """An SE block of the network. `kind` says what the module at `path` gives: the rescaled tensor, only the gate
    of shape (batch, channels, 1, ...), or that there is no module of its own (`path` is the one it is written in)."""

    path: str
    kind: Literal["block", "gate", "inline"]
    node: int
    value: int
    """The tensor that is rescaled."""
    gate: frozenset[int]
    """Nodes that compute the gate."""
    place: str = ""
    """Of an inline block: its multiplication, if that is all that it is used in, and ``=`` with the operand."""
    layers: tuple[str, ...] = ()
    """Of an inline block: the modules that own its weights."""


def is_global_pooling(graph: Graph, node: Node) -> bool:
    """Whether an operation leaves one number per channel of a (batch, channels, *size) tensor."""
    if node.name not in _POOLINGS or not node.outputs or not node.inputs:
        return False
    given, left = graph.shapes[node.inputs[0]], graph.shapes[node.outputs[0]]
    if len(given) < 3 or prod(left) != prod(given[:2]):
        return False
    # A pooling with a fixed small window is part of the body even where it happens to leave one pixel.
    fixed = node.name.startswith(("avg_pool", "max_pool", "lp_pool"))
    return not fixed or max(given[2:]) > 3


def find_existing(graph: Graph) -> dict[int, Existing]:
    """The SE blocks of a network, by the node that multiplies. One that runs several times is there several times."""
    found = _own_gates(graph)
    for node in graph.operations:
        if node.name != "mul" or len(node.inputs) != 2 or not node.outputs:
            continue
        if node.index in found or any(_is_own(graph.calls[call].kind, Attention) for call in graph.stack(node.call)):
            continue
        for u, gate in (graph.inputs(node), graph.inputs(node)[::-1]):
            if len(graph.shapes[u]) < 3 or graph.shapes[u] != graph.shapes[node.outputs[0]]:
                continue
            if (nodes := _gate(graph, u, gate)) is not None:
                path, kind = _module(graph, node, u, nodes)
                block = Existing(path, kind, node.index, u, nodes)
                found[node.index] = _inline(graph, block, node) if kind == "inline" else block
                break
    runs = Counter(block.path for block in found.values())
    for index, block in found.items():  # a module that also does other things cannot be exchanged
        if block.kind != "inline" and runs[block.path] != graph.executions[block.path, ""]:
            found[index] = replace(block, kind="inline")
    return found


def _is_own(kind: type | None, wanted: type) -> bool:
    return kind is not None and issubclass(kind, wanted)


def _own_gates(graph: Graph) -> dict[int, Existing]:
    """The blocks of se-nas other than SE that are a gate for each channel, by the node that multiplies."""
    found: dict[int, Existing] = {}
    for call in graph.calls:
        if not _is_own(call.kind, ChannelGate):
            continue
        (u,), (given,) = graph.inputs(graph.boundaries["enter", call.index][0]), _given_out(graph, call.index)
        inside = frozenset(graph.inside[call.index])
        form: Literal["block", "gate"]
        if graph.shapes[given] == graph.shapes[u]:
            product, form = graph.maker(given), "block"
        else:
            made = (graph.nodes[index] for index, _ in graph.reach[given] if index >= 0)
            product = next((node for node in made if node.name == "mul" and u in graph.inputs(node)), None)
            form = "gate"
        if product is not None:
            found[product.index] = Existing(call.path, form, product.index, u, inside - {product.index})
    return found


def _gate(graph: Graph, u: int, gate: int) -> frozenset[int] | None:
    """The nodes between a tensor and its gate, or None if that is not what they are."""
    if u == gate or not graph.ancestors[gate] >> u & 1:
        return None
    nodes: set[int] = set()
    waiting, seen, weighted = [gate], set[int](), False
    while waiting:
        value = waiting.pop()
        if value in seen:
            continue
        seen.add(value)
        node = graph.maker(value)
        if value == u or node is None or len(nodes) > _LONGEST:
            return None
        nodes.add(node.index)
        weighted |= node.weight is not None
        if (pooled := _pooled_from(graph, node, u)) is not None:
            nodes |= pooled
            continue
        waiting += graph.inputs(node)
    return frozenset(nodes) if weighted else None


def _pooled_from(graph: Graph, node: Node, u: int) -> set[int] | None:
    """The pooling and reshaping nodes that lead from u to a global pooling of u, or None."""
    if node.name not in _POOLINGS or prod(graph.shapes[node.outputs[0]]) != prod(graph.shapes[u][:2]):
        return None
    path = {node.index}
    while (value := graph.inputs(node)[0]) != u:
        before = graph.maker(value)
        if before is None or before.name not in _POOLINGS | _RESHAPES:
            return None
        node = before
        path.add(node.index)
    return path


def _module(graph: Graph, node: Node, u: int, nodes: frozenset[int]) -> tuple[str, Literal["block", "gate", "inline"]]:
    """The innermost module that computes the block and nothing else, or its gate, or that the block is written in."""
    whole = graph.common_call(nodes | {node.index})
    for call in graph.stack(whole):
        if graph.calls[call].path and _passes(graph, call, u, node.outputs[0]):
            return graph.calls[call].path, "block"
    gate_shape = graph.shapes[u][:2] + (1,) * (len(graph.shapes[u]) - 2)
    for call in graph.stack(graph.common_call(index for index in nodes if graph.nodes[index].weight is not None)):
        gates = [value for value in _given_out(graph, call) if graph.shapes[value] == gate_shape]
        if graph.calls[call].path and any(_passes(graph, call, u, value) for value in gates):
            return graph.calls[call].path, "gate"
    return graph.calls[whole].path, "inline"


def _inline(graph: Graph, block: Existing, node: Node) -> Existing:
    """With the place of the multiplication, if each of its layers runs once and for it alone."""
    layers = {graph.nodes[index].owner for index in block.gate if graph.nodes[index].weight is not None}
    path = graph.calls[node.call].path
    single = node.place is not None and graph.executions[path, str(node.place)] == 1
    if not single or None in layers or any(graph.executions[str(layer), ""] != 1 for layer in layers):
        return block
    inside = block.gate | {node.index}
    for index in block.gate:
        if any(use[0] not in inside for value in graph.nodes[index].outputs for use in graph.reach[value]):
            return block
    operand = node.operands[graph.inputs(node).index(block.value)]
    return replace(block, path=path, place=f"{node.place}={operand}", layers=tuple(sorted(map(str, layers))))


def _given_out(graph: Graph, call: int) -> list[int]:
    return [graph.root[node.inputs[0]] for node in graph.boundaries.get(("exit", call), []) if node.plain]


def _passes(graph: Graph, call: int, u: int, value: int) -> bool:
    """Whether a module call gets u as its first input, and nothing else, and gives the value."""
    entered = graph.boundaries.get(("enter", call), [])
    if len(entered) != 1 or not entered[0].plain or graph.root[entered[0].inputs[0]] != u:
        return False
    return graph.root[value] in _given_out(graph, call)
