"""Style-based recalibration: the mean and the spread of a channel decide about it, and no other channel."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from se_nas.insertion.attention.base import ChannelGate, Counts


class SRM(ChannelGate):
    """s = sigmoid(norm(w1 * mean(u) + w2 * sd(u))), two weights for each channel; output s * u.

    The norm is a batch norm over the channels; sd is that of the positions, with 1e-5 under its root. As the identity:
    the weight of the norm is zero and the gate is doubled.

    Source: Lee et al., "SRM", arXiv 1903.10829, equations 1 to 5.
    """

    def __init__(self, channels: int, hidden: int = 0, *, dims: int = 2, identity: bool = False) -> None:
        super().__init__(channels, hidden, dims=dims, identity=identity)
        self.of_mean = nn.Parameter(torch.zeros(channels))
        self.of_sd = nn.Parameter(torch.zeros(channels))
        self.norm = nn.BatchNorm1d(channels)
        if identity:
            nn.init.zeros_(self.norm.weight)
            nn.init.ones_(self.of_mean)
            nn.init.ones_(self.of_sd)

    def gates(self, u: Tensor) -> Tensor:
        flat = u.flatten(2)
        sd = (flat.var(2, correction=0) + 1e-5).sqrt()
        s = self.norm(self.of_mean * flat.mean(2) + self.of_sd * sd).sigmoid()
        s = 2 * s if self.identity else s
        gates: Tensor = s.reshape(s.shape + (1,) * self.dims)
        return gates


def counts(channels: int, size: tuple[int, ...], hidden: int, *, identity: bool, positions: int) -> Counts:
    c = channels
    return Counts(4 * c, 3 * c * positions + c * (6 + identity), 0)
