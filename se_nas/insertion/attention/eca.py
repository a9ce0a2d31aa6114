"""Efficient channel attention: neighbouring channels decide about each other."""

from __future__ import annotations

from torch import Tensor, nn

from se_nas.insertion.attention.base import ChannelGate, Counts


class ECA(ChannelGate):
    """s = sigmoid(conv(mean(u))), a convolution of k weights along the channels; output s * u.

    k is the odd number at or above ``int((log2(channels) + 1) / 2)``, at least 3 (gamma 2, b 1). As the identity: the
    convolution is zero and the gate is doubled.

    Source: Wang et al., "ECA-Net", arXiv 1910.03151, equations 9 and 12; `EcaModule` of timm.
    """

    def __init__(self, channels: int, hidden: int = 0, *, dims: int = 2, identity: bool = False) -> None:
        super().__init__(channels, hidden, dims=dims, identity=identity)
        kernel = max(channels.bit_length() // 2 | 1, 3)
        self.conv = nn.Conv1d(1, 1, kernel, padding=kernel // 2, bias=False)
        if identity:
            nn.init.zeros_(self.conv.weight)

    def gates(self, u: Tensor) -> Tensor:
        s = self.conv(u.flatten(2).mean(2).unsqueeze(1)).squeeze(1).sigmoid()
        s = 2 * s if self.identity else s
        gates: Tensor = s.reshape(s.shape + (1,) * self.dims)
        return gates


def counts(channels: int, size: tuple[int, ...], hidden: int, *, identity: bool, positions: int) -> Counts:
    c, p, kernel = channels, positions, max(channels.bit_length() // 2 | 1, 3)
    return Counts(kernel, 2 * c * p + c * kernel + c * (1 + identity), c)
