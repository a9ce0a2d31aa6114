"""The SE blocks of a network as it is, whoever put them there, as modules whose calls can be watched and changed."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import dataclass

from torch import nn

from se_nas.core.errors import BackboneError, SpaceError
from se_nas.core.placement import Site
from se_nas.insertion.attention.base import Attention, ChannelGate
from se_nas.insertion.existing import Existing, find_existing
from se_nas.insertion.gates import Kind, Written
from se_nas.insertion.graph import Shape
from se_nas.insertion.insert import call_at
from se_nas.insertion.recorder import record


@dataclass(frozen=True, kw_only=True)
class FoundBlock:
    """An SE block of a network.

    ``path`` is its module, or the one whose method it is written in; ``module`` is the one to watch, whose calls give
    the rescaled tensor, or for the kind ``gate`` the gate alone. ``channels`` and ``size`` are those of the tensor that
    it rescales, ``runs`` how often it does so for an image.
    """

    path: str
    module: str
    kind: Kind
    channels: int
    size: Shape
    runs: int = 1
    place: str = ""
    layers: tuple[str, ...] = ()
    """Of a block without a module of its own: where it is written, and the modules that own its weights."""

    @property
    def site(self) -> Site:
        """Where it stands, as `se_nas.insertion.insert.remove_block` takes it."""
        edge = "inline" if self.layers else self.kind
        return Site(
            unit=self.path, position="standard", module=self.path, channels=self.channels, size=self.size, edge=edge,
            place=self.place, layers=self.layers,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Watchable:
    """A network whose SE blocks are modules: that which was given, or a copy of it if some had to be made so.

    ``others`` are blocks that cannot be watched, with the reason.
    """

    network: nn.Module
    blocks: tuple[FoundBlock, ...]
    others: tuple[tuple[str, str], ...] = ()

    @property
    def kinds(self) -> dict[str, Kind]:
        """What `se_nas.insertion.gates` wants to know of each block, by its module."""
        return {block.module: block.kind for block in self.blocks}


def watchable(network: nn.Module, input_shape: Shape) -> Watchable:
    """A network with what is known of its SE blocks, in running order.

    They are recognised by what they compute, see `se_nas.insertion.existing`. The network itself is not changed.

    Raises
    ------
    BackboneError
        If the network fails on the input, or has no SE block.
    """
    graph = record(network, input_shape)
    existing = [block for _, block in sorted(find_existing(graph).items())]
    others = {
        path: f"it is a {type(module).__name__} block, which does not give one gate for each channel"
        for path, module in network.named_modules()
        if isinstance(module, Attention) and not isinstance(module, ChannelGate)
    }
    if not existing:
        unseen = f", and {next(iter(others))!r} gives no gate for each channel" if others else ""
        raise BackboneError(
            f"{type(network).__name__} has no SE block{unseen}",
            hint="blocks are recognised by what they compute: a gate from the global pooling of the tensor it rescales",
        )
    runs = Counter(block.path for block in existing)
    written = [block for block in existing if block.kind == "inline"]
    watched = copy.deepcopy(network) if any(block.place for block in written) else network
    blocks: dict[str, FoundBlock] = {}
    for block in existing:
        shape = graph.shapes[block.value]
        if block.kind != "inline":
            module, kind = block.path, block.kind
        elif not block.place:
            others[block.path] = "it is written inside the module, and parts of it do something else, too"
            continue
        else:
            try:
                module, kind = _as_module(watched, block), "block"
            except SpaceError as error:
                others[block.path] = str(error)
                continue
        blocks[module] = FoundBlock(
            path=block.path, module=module, kind=kind, channels=shape[1], size=tuple(shape[2:]), layers=block.layers,
            place=block.place, runs=1 if block.layers else runs[block.path],
        )  # fmt: skip
    return Watchable(network=watched, blocks=tuple(blocks.values()), others=tuple(others.items()))


def _as_module(network: nn.Module, block: Existing) -> str:
    """Make a written block a module of its own, in place; returns its path. SpaceError if its source is not there."""
    owner = network.get_submodule(block.path)
    product, _, operand = block.place.partition("=")
    number = sum(isinstance(child, Written) for child in owner.children())
    name, made = f"se_written_{number}", Written()
    call_at(owner, f"{product}#{operand}", f"{name}_before", made.before)
    call_at(owner, product, name, made)
    return f"{block.path}.{name}" if block.path else name
