"""Gated channel transformation: channels compete or cooperate by their norms."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from se_nas.insertion.attention.base import ChannelGate, Counts


class GCT(ChannelGate):
    """Gates from the norms of the channels, with three weights for each channel c::

        s_c = alpha_c * sqrt(sum(u_c ** 2) + eps)                  # equation 2
        n_c = gamma_c * s_c / sqrt(mean over c of s_c ** 2 + eps)  # equation 3
        output = u_c * (1 + tanh(n_c + beta_c))                    # equation 4

    alpha starts at 1, gamma and beta at 0, so that it starts as the identity by itself; eps is 1e-5.

    Source: Yang et al., "Gated Channel Transformation", arXiv 1909.11519.
    """

    def __init__(self, channels: int, hidden: int = 0, *, dims: int = 2, identity: bool = False) -> None:
        super().__init__(channels, hidden, dims=dims, identity=identity)
        self.alpha = nn.Parameter(torch.ones(channels))
        self.gamma = nn.Parameter(torch.zeros(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    @property
    def top(self) -> float:
        return 2.0

    def gates(self, u: Tensor) -> Tensor:
        s = self.alpha * (u.flatten(2).pow(2).sum(2) + 1e-5).sqrt()
        n = s * (self.gamma / (s.pow(2).mean(1, keepdim=True) + 1e-5).sqrt())
        gates = 1 + (n + self.beta).tanh()
        return gates.reshape(gates.shape + (1,) * self.dims)


def counts(channels: int, size: tuple[int, ...], hidden: int, *, identity: bool, positions: int) -> Counts:
    c, alone = channels, channels * (positions == 1)
    return Counts(3 * c, 2 * c * positions + 10 * c + 2 + alone, 0)
