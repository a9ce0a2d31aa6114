"""The graph of a network: every operation of one forward pass, and the module calls that it ran in.

Module boundaries are values of their own (``enter`` and ``exit`` nodes), so that it is known which later uses would see
a tensor that is changed at the input or at the output of a module.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

from se_nas.insertion.rewrite import Place

Shape = tuple[int, ...]
Use = tuple[int, int]
"""Index of a node and number of one of its inputs; node -1 is the caller of the network."""

# Operations that hand on their input as it is; dropout only in eval mode, in which networks are recorded.
_SAME = frozenset(
    "enter exit same contiguous clone detach to float half bfloat16 double type type_as dropout dropout1d dropout2d "
    "dropout3d alpha_dropout feature_dropout feature_alpha_dropout requires_grad".split()
)
CONVOLUTIONS = frozenset("conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution".split())


@dataclass(frozen=True)
class Call:
    """One call of a module."""

    index: int
    path: str
    parent: int | None
    place: Place | None
    """Where the module that contains this one calls it."""
    kind: type | None = None
    """The module's class."""


@dataclass
class Node:
    """One operation, or one module boundary (`name` is then ``enter`` or ``exit``).

    `name` is the function's name without leading and trailing underscores and without the ``i`` and ``r`` of
    in-place and reflected operators. `inputs` and `outputs` are values that depend on the network's input;
    `operands` says which argument each input was: ``"0"``, ``"1"``, ``"0.2"`` (third item of the first), ``"self"``.
    """

    index: int
    name: str
    inputs: tuple[int, ...]
    operands: tuple[str, ...]
    outputs: tuple[int, ...]
    call: int
    place: Place | None = None
    plain: bool = True
    """For boundaries: whether the tensor is the module's first positional input, or its whole output."""
    weight: Shape | None = None
    owner: str | None = None
    """Path of the module that owns the weight."""

    @property
    def is_convolution(self) -> bool:
        return self.name in CONVOLUTIONS and self.weight is not None

    @property
    def kernel(self) -> Shape:
        return self.weight[2:] if self.weight is not None else ()


@dataclass
class Graph:
    """All operations of a forward pass; values are numbers, `shapes` their shapes, `producer` their nodes."""

    shapes: list[Shape] = field(default_factory=list)
    producer: list[int | None] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    results: list[int] = field(default_factory=list)

    @cached_property
    def root(self) -> list[int]:
        """For every value the first one that it is the same tensor as."""
        root: list[int] = []
        for value in range(len(self.shapes)):
            node = self.maker(value)
            root.append(root[node.inputs[0]] if node is not None and node.name in _SAME else value)
        return root

    @cached_property
    def operations(self) -> list[Node]:
        """The nodes that compute something."""
        return [node for node in self.nodes if node.name not in _SAME]

    @cached_property
    def consumers(self) -> list[list[Use]]:
        """For every value its direct uses, boundaries included."""
        consumers: list[list[Use]] = [[] for _ in self.shapes]
        for node in self.nodes:
            for number, value in enumerate(node.inputs):
                consumers[value].append((node.index, number))
        for number, value in enumerate(self.results):
            consumers[value].append((-1, number))
        return consumers

    @cached_property
    def reach(self) -> list[frozenset[Use]]:
        """For every value the computing uses that would see it changed."""
        reach: list[frozenset[Use]] = [frozenset()] * len(self.shapes)
        for value in reversed(range(len(self.shapes))):
            uses: set[Use] = set()
            for node, number in self.consumers[value]:
                if node >= 0 and self.nodes[node].name in _SAME:
                    uses |= reach[self.nodes[node].outputs[0]]
                else:
                    uses.add((node, number))
            reach[value] = frozenset(uses)
        return reach

    @cached_property
    def ancestors(self) -> list[int]:
        """For every value a bit mask of the root values that it depends on, itself included."""
        masks: list[int] = []
        for value, producer in enumerate(self.producer):
            mask = 0
            if producer is not None:
                for given in self.nodes[producer].inputs:
                    mask |= masks[given]
            masks.append(mask | 1 << self.root[value])
        return masks

    @cached_property
    def executions(self) -> Counter[tuple[str, str]]:
        """How often each module (path, "") and each expression (path of its module, place) ran."""
        counts: Counter[tuple[str, str]] = Counter((call.path, "") for call in self.calls)
        for call in self.calls:
            if call.place is not None and call.parent is not None:
                counts[self.calls[call.parent].path, str(call.place)] += 1
        for node in self.nodes:
            if node.place is not None and node.name not in ("enter", "exit"):
                counts[self.calls[node.call].path, str(node.place)] += 1
        return counts

    def maker(self, value: int) -> Node | None:
        """The node that made a value; None for the network's input."""
        index = self.producer[value]
        return None if index is None else self.nodes[index]

    def written(self, node: Node) -> tuple[str, Place] | None:
        """Path of the module in whose method an operation or a module call is written, and its expression there."""
        call = self.calls[node.call]
        path, place = call.path, node.place
        if node.name in ("enter", "exit"):
            if call.parent is None:
                return None
            path, place = self.calls[call.parent].path, call.place
        return None if place is None else (path, place)

    @cached_property
    def boundaries(self) -> dict[tuple[str, int], list[Node]]:
        """Nodes by ("enter" or "exit", call)."""
        boundaries: dict[tuple[str, int], list[Node]] = {}
        for node in self.nodes:
            if node.name in ("enter", "exit"):
                boundaries.setdefault((node.name, node.call), []).append(node)
        return boundaries

    def stack(self, call: int) -> list[int]:
        """A call and those it ran in, innermost first."""
        chain = [call]
        while (parent := self.calls[chain[-1]].parent) is not None:
            chain.append(parent)
        return chain

    @cached_property
    def inside(self) -> dict[int, list[int]]:
        """For every call the operations that ran in it, those of the calls in it included."""
        inside: dict[int, list[int]] = {}
        for node in self.operations:
            for call in self.stack(node.call):
                inside.setdefault(call, []).append(node.index)
        return inside

    def common_call(self, nodes: Iterable[int]) -> int:
        """The innermost module call that all nodes ran in."""
        stacks = [self.stack(self.nodes[index].call) for index in nodes]
        return next(call for call in stacks[0] if all(call in stack for stack in stacks))

    def inputs(self, node: Node) -> tuple[int, ...]:
        """Root values of the inputs."""
        return tuple(self.root[value] for value in node.inputs)
