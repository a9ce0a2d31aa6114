"""The Squeeze-and-Excitation block, and what stands for a part of one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from se_nas.core.errors import SpaceError
from se_nas.core.placement import IDENTITY, Choice

GATE_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "hard_sigmoid": functional.hardsigmoid,
    "tanh": torch.tanh,
    "relu": functional.relu,
}


class SEBlock(nn.Module):
    """Rescales every channel of a tensor by a gate that sees the whole tensor.

    With input u of shape (batch, channels, *size)::

        z = mean (or maximum) of u over size                       # eq. 2, (batch, channels)
        s = offset + scale * gate(fc2(relu(fc1(z))))               # eq. 3, (batch, channels)
        output = s * u                                             # eq. 4, shape of u

    fc1 has shape (squeeze_channels, channels), fc2 (channels, squeeze_channels). The fields of a `Choice` that are not
    given are the paper's (average, sigmoid, scale 1, offset 0, no biases, plain start). A choice made by `Choice.se`
    starts as the identity: fc2 is zero, so that s is exactly 1. SpaceError for a choice that is no SE block.

    Source: Hu et al., "Squeeze-and-Excitation Networks", arXiv 1709.01507, section 3.
    """

    def __init__(self, channels: int, choice: Choice) -> None:
        super().__init__()
        if choice.kind != "se" or choice.squeeze_channels is None:
            raise SpaceError(f"an SE block cannot be built from the choice {choice.kind!r}")
        self.fc1 = nn.Linear(channels, choice.squeeze_channels, bias=choice.bias)
        self.fc2 = nn.Linear(choice.squeeze_channels, channels, bias=choice.bias)
        self.squeeze = choice.squeeze
        self.gate = choice.gate
        self.gate_scale = choice.gate_scale
        self.gate_offset = choice.gate_offset
        if choice.init == IDENTITY:
            nn.init.zeros_(self.fc2.weight)
            if choice.bias:
                nn.init.constant_(self.fc2.bias, 1.0 if choice.gate == "relu" else 0.0)

    def gates(self, u: Tensor) -> Tensor:
        """s with as many dimensions as u: (batch, channels, 1, ...)."""
        size = tuple(range(2, u.dim()))
        z = u.mean(size) if self.squeeze == "avg" else u.amax(size)
        s = GATE_FUNCTIONS[self.gate](self.fc2(functional.relu(self.fc1(z))))
        if self.gate_scale != 1.0:
            s = self.gate_scale * s
        if self.gate_offset != 0.0:
            s = self.gate_offset + s
        return s.reshape(s.shape + (1,) * len(size))

    def forward(self, u: Tensor) -> Tensor:
        return u * self.gates(u)

    def extra_repr(self) -> str:
        return f"squeeze={self.squeeze}, gate={self.gate_offset:g} + {self.gate_scale:g} * {self.gate}"


class SEGate(SEBlock):
    """An SE block that leaves the multiplication to the network: gives the gates, (batch, channels, 1, ...)."""

    def forward(self, u: Tensor) -> Tensor:
        return self.gates(u)


class OpenGate(nn.Module):
    """Ones, of shape (batch, channels, 1, ...), in place of a gate that is not wanted."""

    def forward(self, u: Tensor) -> Tensor:
        return u.new_ones(u.shape[:2] + (1,) * (u.dim() - 2))
