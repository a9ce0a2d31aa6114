"""SimAM: each number of a tensor is rescaled by how far it is from the mean of its channel."""

from __future__ import annotations

from torch import Tensor

from se_nas.insertion.attention.base import Attention, Counts


class SimAM(Attention):
    """output = u * sigmoid(d / (4 (v + lambda)) + 1/2), d = (u - mean(u)) ** 2, v = sum(d) / (positions - 1).

    Mean and sum are over the positions of a channel, lambda is 1e-4. Without parameters it starts as it stays.

    Source: Yang et al., "SimAM", ICML 2021 (PMLR 139:11863), equation 5 and its code in the appendix.
    """

    def forward(self, u: Tensor) -> Tensor:
        flat = u.flatten(2)
        d = (flat - flat.mean(2, keepdim=True)).pow(2)
        v = d.sum(2, keepdim=True) / max(flat.shape[2] - 1, 1)
        return u * (d / (4 * (v + 1e-4)) + 0.5).sigmoid().reshape(u.shape)


def counts(channels: int, size: tuple[int, ...], hidden: int, *, identity: bool, positions: int) -> Counts:
    c, alone = channels, channels * (positions == 1)
    return Counts(0, 3 * c * positions + 3 * c + 5 * alone, 0)
