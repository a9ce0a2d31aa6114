"""Where in the code a tensor can be changed so that exactly the wanted uses of it see the change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import nn

from se_nas.core.errors import SpaceError
from se_nas.core.placement import Site
from se_nas.insertion.flow import Tap
from se_nas.insertion.graph import Graph, Shape
from se_nas.insertion.recorder import train_executions
from se_nas.insertion.rewrite import rewritten, walks_children

FUSING = ("fuse", "forward_fuse", "fuse_convs", "reparameterize", "switch_to_deploy")
"""Methods by which modules of timm, Ultralytics and the RepVGG family replace their branches by one convolution."""


def fuses(kind: type) -> bool:
    """Whether a module of a class can replace its parts by fewer ones that compute the same."""
    return any(callable(getattr(kind, name, None)) for name in FUSING)


@dataclass(frozen=True)
class Anchor:
    """A module's output or first input, or an expression in a method of the module (then `place` says which)."""

    module: str
    edge: Literal["input", "output", "expression"]
    place: str = ""

    @property
    def code(self) -> tuple[str, str]:
        """What `Graph.executions` counts: the module, or the expression, without the operand of it that is meant."""
        return self.module, self.place.partition("#")[0]

    def site(self, unit: str, position: str, shape: Shape, uses: int) -> Site:
        """The site here, whose tensor has the given shape (batch, channels, *size)."""
        return Site(
            unit=unit,
            position=position,
            module=self.module,
            edge=self.edge,
            place=self.place,
            channels=shape[1],
            size=shape[2:],
            uses=uses,
        )


class Anchors:
    """Finds anchors in one network."""

    def __init__(self, model: nn.Module, graph: Graph, input_shape: Shape) -> None:
        self.model = model
        self.graph = graph
        self.input_shape = input_shape
        self.modules = dict(model.named_modules())
        self.below: dict[int, list[int]] = {}
        for value, root in enumerate(graph.root):
            self.below.setdefault(root, []).append(value)

    def executions(self, anchor: Anchor) -> int:
        """How often the code at an anchor runs in one forward pass."""
        return self.graph.executions[anchor.code]

    @cached_property
    def _in_training(self) -> Counter[tuple[str, str]] | None:
        return train_executions(self.model, self.input_shape, self.graph.executions)

    def find(self, tap: Tap) -> Anchor | None:
        """The best anchor for a tap: one that runs once, a module's edge rather than an expression, the earliest."""
        possible = []
        for anchor in self._possible(tap):
            if anchor.edge == "expression" and not self._rewritable(anchor):
                continue
            if self.executions(anchor) == 1:
                return anchor
            possible.append(anchor)
        return possible[0] if possible else None

    def _possible(self, tap: Tap) -> Iterator[Anchor]:
        values = [v for v in self.below[self.graph.root[tap.value]] if self.graph.reach[v] == tap.uses]
        edges = list(dict.fromkeys(anchor for value in values for anchor in self._edges(value)))
        others = [anchor for value in values for anchor in self._expressions(value)] + list(self._operands(tap))
        yield from (anchor for anchor in edges if not self._replaced(anchor.module))
        yield from (a for a in others if not fuses(type(self.modules[a.module])) and not self._replaced(a.module))
        # In a module that fuses its parts, those at the end of it are the last to be replaced.
        yield from (anchor for anchor in reversed(edges) if self._replaced(anchor.module))
        yield from others

    def _replaced(self, path: str) -> bool:
        """Whether a module lies in one that can replace its parts by fewer ones that compute the same."""
        around = path.rpartition(".")[0]
        while around:
            if fuses(type(self.modules[around])):
                return True
            around = around.rpartition(".")[0]
        return False

    def _edges(self, value: int) -> Iterator[Anchor]:
        node = self.graph.maker(value)
        if node is None or node.name not in ("enter", "exit") or not node.plain:
            return
        path = self.graph.calls[node.call].path
        module = self.modules[path]
        if path and not isinstance(module, torch.jit.ScriptModule) and not walks_children(module):
            yield Anchor(path, "input" if node.name == "enter" else "output")

    def _expressions(self, value: int) -> Iterator[Anchor]:
        node = self.graph.maker(value)
        if node is None or node.name == "enter" or len(node.outputs) != 1 or not node.plain:
            return
        if (written := self.graph.written(node)) is not None:
            yield Anchor(written[0], "expression", str(written[1]))

    def _operands(self, tap: Tap) -> Iterator[Anchor]:
        """The operand of the one operation, or of the one module call, that uses the tensor."""
        users = {
            use
            for value in self.below[self.graph.root[tap.value]]
            for use in self.graph.consumers[value]
            if use[0] >= 0 and self._reached(use) == tap.uses
        }
        for index, number in sorted(users):
            node = self.graph.nodes[index]
            if node.name != "exit" and (written := self.graph.written(node)) is not None:
                yield Anchor(written[0], "expression", f"{written[1]}#{node.operands[number]}")

    def _reached(self, use: tuple[int, int]) -> frozenset[tuple[int, int]]:
        node = self.graph.nodes[use[0]]
        if node.outputs and self.graph.root[node.outputs[0]] == self.graph.root[node.inputs[0]]:
            return self.graph.reach[node.outputs[0]]
        return frozenset({use})

    def _rewritable(self, anchor: Anchor) -> bool:
        module = self.modules[anchor.module]
        if isinstance(module, (torch.jit.ScriptModule, torch.fx.GraphModule)) or walks_children(module):
            return False
        try:
            rewritten(type(module), {anchor.place: "block"})
        except (SpaceError, SyntaxError, LookupError):
            return False
        # Code that runs in eval mode only would leave the block out of training.
        runs = self._in_training
        return runs is None or runs[anchor.code] == self.executions(anchor)
