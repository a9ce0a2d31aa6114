"""What all blocks share: how they are made, and, for those that are a gate for each channel, what they multiply by.

The classes of this folder use nothing but ``torch``, ``nn`` and ``Tensor``, so that exports can hold their source.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn


class Counts(NamedTuple):
    """Learnable parameters, multiply-adds and activations of a block for one image, counted as
    `se_nas.space.exact_cost` says."""

    params: int
    macs: int
    activations: int


class Attention(nn.Module):
    """A block that maps a tensor (batch, channels, *size) to one of equal shape.

    `hidden` is the hidden width of a block that has one, `dims` the number of spatial axes; with `identity` it starts
    as the identity, if it can, else as in its paper.
    """

    def __init__(self, channels: int, hidden: int = 0, *, dims: int = 2, identity: bool = False) -> None:
        super().__init__()
        self.channels, self.hidden, self.dims, self.identity = channels, hidden, dims, identity

    def extra_repr(self) -> str:
        hidden = f", hidden={self.hidden}" if self.hidden else ""
        return f"{self.channels}{hidden}, dims={self.dims}, identity={self.identity}"


class ChannelGate(Attention):
    """A block that multiplies each channel by one number, its gate."""

    only_gate = False
    """Whether it gives the gates alone, since the network multiplies by them itself."""

    @property
    def top(self) -> float | None:
        """The most that a gate can be, if it has an end: of a sigmoid 1, or 2 where it is doubled for the start."""
        return 2.0 if self.identity else 1.0

    def gates(self, u: Tensor) -> Tensor:
        """Of a tensor (batch, channels, *size): the gates, (batch, channels, 1, ...)."""
        raise NotImplementedError

    def forward(self, u: Tensor) -> Tensor:
        gates = self.gates(u)
        return gates if self.only_gate else u * gates
