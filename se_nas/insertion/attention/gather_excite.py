"""Gather-excite without parameters: each channel is rescaled by its own mean."""

from __future__ import annotations

from torch import Tensor

from se_nas.insertion.attention.base import ChannelGate, Counts


class GatherExcite(ChannelGate):
    """s = sigmoid(mean(u)); output s * u. The extent is the whole tensor. Without parameters it starts as it stays.

    Source: Hu et al., "Gather-Excite", arXiv 1810.12348, section 3.1; `GatherExcite(use_mlp=False)` of timm.
    """

    def gates(self, u: Tensor) -> Tensor:
        s = u.flatten(2).mean(2).sigmoid()
        return s.reshape(s.shape + (1,) * self.dims)


def counts(channels: int, size: tuple[int, ...], hidden: int, *, identity: bool, positions: int) -> Counts:
    return Counts(0, 2 * channels * positions + channels, 0)
