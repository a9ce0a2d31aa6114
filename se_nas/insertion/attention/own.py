"""A block of the user's own as a module of a network, which is tried before it is used."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from se_nas.core.blocks import BlockKind
from se_nas.core.errors import PluginError
from se_nas.core.own_blocks import call, counts_by, source_of
from se_nas.core.placement import IDENTITY, Choice
from se_nas.insertion.attention.base import Attention, ChannelGate, Counts

SAME = 1e-4
"""Largest difference of two ways to compute the same, relative to the largest number."""


class OwnBlock(Attention):
    """A block of the user's own; `source` is how it was made: module, attribute and arguments."""

    def __init__(
        self, block: nn.Module, channels: int, hidden: int = 0, *, dims: int = 2, identity: bool = False,
        source: tuple[str, str, dict[str, object]] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(channels, hidden, dims=dims, identity=identity)
        self.block, self.source = block, source

    def forward(self, u: Tensor) -> Tensor:
        output: Tensor = self.block(u)
        return output


class OwnGate(ChannelGate):
    """A block of the user's own that is a gate for each channel, which its method `gates` gives."""

    def __init__(
        self, block: nn.Module, channels: int, hidden: int = 0, *, dims: int = 2, identity: bool = False,
        source: tuple[str, str, dict[str, object]] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(channels, hidden, dims=dims, identity=identity)
        self.block, self.source = block, source

    @property
    def top(self) -> float | None:
        top: float | None = getattr(self.block, "top", None)
        return top

    def gates(self, u: Tensor) -> Tensor:
        gates: Tensor = self.block.gates(u)  # type: ignore[operator]  # a method, which was checked
        return gates


Own = OwnBlock | OwnGate


def build_own(kind: BlockKind, channels: int, size: tuple[int, ...], choice: Choice) -> Own:
    """The block of a choice with new weights, tried once in each process.

    Raises
    ------
    PluginError
        If its code is not trusted, raises, returns no module, or a module that does not do what the block says.
    """
    block = call(kind, channels, size, choice)
    if not isinstance(block, nn.Module):
        is_class = isinstance(block, type) and issubclass(block, nn.Module)
        raise PluginError(
            f"{_named(kind)} returned {f'the class {block.__name__}' if is_class else type(block).__name__}, "
            "not an nn.Module",
            hint=f"return {block.__name__}(...)" if is_class else None,
        )
    if kind.gate and not callable(getattr(block, "gates", None)):
        raise PluginError(
            f"{_named(kind)} says that it is a gate for each channel, and its module {type(block).__name__} has no "
            "method gates",
            hint="write gates(u), which returns the gates, (batch, channels, 1, ...)",
        )
    made = (OwnGate if kind.gate else OwnBlock)(
        block, channels, choice.squeeze_channels or 0, dims=len(size), identity=choice.init == IDENTITY,
        source=source_of(kind, channels, size, choice),
    )  # fmt: skip
    if (key := (kind, channels, size, choice)) not in _TRIED:
        _try(kind, made, channels, size, choice)
        _TRIED.add(key)
    return made


_TRIED: set[tuple[BlockKind, int, tuple[int, ...], Choice]] = set()


def own_counts(kind: BlockKind, channels: int, size: tuple[int, ...], choice: Choice) -> Counts:
    """What the block says that it counts."""
    return Counts(*counts_by(kind, channels, size, choice))


def _named(kind: BlockKind) -> str:
    return f"block {kind.title!r} ({kind.made})"


def _try(kind: BlockKind, block: Own, channels: int, size: tuple[int, ...], choice: Choice) -> None:
    """PluginError unless a copy of the block gives for a random tensor what it says."""
    tried = copy.deepcopy(block).cpu().float().train()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        u = torch.randn(2, channels, *size)
        try:
            output = tried.block(u)
        except Exception as error:  # a user's forward may raise anything
            raise PluginError(
                f"{_named(kind)} fails on a tensor of shape {tuple(u.shape)}: {type(error).__name__}: {error}"
            ) from error
        if not isinstance(output, Tensor) or output.shape != u.shape:
            what = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
            raise PluginError(f"{_named(kind)} gives {what} for a tensor of shape {tuple(u.shape)}",
                              allowed=["a tensor of equal shape"])  # fmt: skip
        if kind.own_identity or (kind.identity and choice.init == IDENTITY):
            _check_start(kind, output, u)
        if isinstance(tried, OwnGate):
            _check_gates(kind, tried.eval(), u)


def _check_start(kind: BlockKind, output: Tensor, u: Tensor) -> None:
    far = (output - u).abs().max().item()
    if not far <= SAME * u.abs().max().item():
        raise PluginError(
            f"{_named(kind)} says that it starts as the identity, and changes numbers by up to {far:.2g}",
            hint="set identity = False if it cannot",
        )


def _check_gates(kind: BlockKind, tried: OwnGate, u: Tensor) -> None:
    gates, wanted = tried.gates(u), (*u.shape[:2], *(1,) * (u.dim() - 2))
    if not isinstance(gates, Tensor) or gates.shape != wanted:
        what = f"shape {tuple(gates.shape)}" if isinstance(gates, Tensor) else type(gates).__name__
        raise PluginError(f"gates of {_named(kind)} gives {what} for a tensor of shape {tuple(u.shape)}",
                          allowed=[f"a tensor of shape {wanted}"])  # fmt: skip
    expected, output = u * gates, tried.block(u)
    if not (far := (output - expected).abs().max().item()) <= SAME * expected.abs().max().item():
        raise PluginError(
            f"{_named(kind)} says that it is a gate for each channel, and its output differs from u * gates(u) by up "
            f"to {far:.2g}",
            hint="set gate = False if it is none",
        )
