"""From a choice to the block that it names, and to what that counts."""

from __future__ import annotations

import importlib
import math

from torch import nn

from se_nas.core.blocks import SE, BlockKind, check_site
from se_nas.core.placement import IDENTITY, Choice, Site
from se_nas.core.plugins import load
from se_nas.insertion.attention.base import Attention, ChannelGate, Counts
from se_nas.insertion.attention.own import OwnGate, build_own, own_counts
from se_nas.insertion.block import SEBlock, SEGate

Gate = SEBlock | ChannelGate
"""Blocks that rescale each channel by one number, which their method `gates` gives."""


def build_block(site: Site, choice: Choice) -> nn.Module:
    """The block of a choice for a site, with new weights; SpaceError if it cannot stand there."""
    if choice.kind == "se" and choice.block == SE:
        return (SEGate if site.edge == "gate" else SEBlock)(site.channels, choice)
    check_site(choice.of, site)
    if isinstance(choice.own, BlockKind):
        own = build_own(choice.own, site.channels, site.size, choice)
        return gate_only(own) if isinstance(own, OwnGate) and site.edge == "gate" else own
    made: type[Attention] = load(choice.of.made)
    block = made(site.channels, choice.squeeze_channels or 0, dims=len(site.size), identity=choice.init == IDENTITY)
    return gate_only(block) if isinstance(block, ChannelGate) and site.edge == "gate" else block


def gate_only(block: ChannelGate) -> ChannelGate:
    """The block, which from now on gives its gates alone."""
    block.only_gate = True
    return block


def gives_gates(module: nn.Module) -> bool:
    """Whether a block leaves the multiplication to the network."""
    return isinstance(module, SEGate) or (isinstance(module, ChannelGate) and module.only_gate)


def counts_of(channels: int, size: tuple[int, ...], choice: Choice) -> Counts:
    """What a block other than SE counts, in closed form: its parameters, multiply-adds and activations."""
    if isinstance(choice.own, BlockKind):
        return own_counts(choice.own, channels, size, choice)
    counts = importlib.import_module(choice.of.made.partition(":")[0]).counts
    made: Counts = counts(
        channels, size, choice.squeeze_channels or 0, identity=choice.init == IDENTITY, positions=math.prod(size)
    )
    return made
