"""Effective SE: one full layer in place of the two of SE, so that no channel information is lost."""

from __future__ import annotations

from torch import Tensor, nn

from se_nas.insertion.attention.base import ChannelGate, Counts


class ESE(ChannelGate):
    """s = hard_sigmoid(W mean(u) + b), with W of shape (channels, channels); output s * u.

    As the identity: W and b are zero and the gate is doubled.

    Source: Lee and Park, "CenterMask", arXiv 1911.06667, equation 3 (VoVNetV2); `EffectiveSEModule` of timm.
    """

    def __init__(self, channels: int, hidden: int = 0, *, dims: int = 2, identity: bool = False) -> None:
        super().__init__(channels, hidden, dims=dims, identity=identity)
        self.fc = nn.Linear(channels, channels)
        if identity:
            nn.init.zeros_(self.fc.weight)
            nn.init.zeros_(self.fc.bias)

    def gates(self, u: Tensor) -> Tensor:
        s = nn.functional.hardsigmoid(self.fc(u.flatten(2).mean(2)))
        s = 2 * s if self.identity else s
        return s.reshape(s.shape + (1,) * self.dims)


def counts(channels: int, size: tuple[int, ...], hidden: int, *, identity: bool, positions: int) -> Counts:
    c, p = channels, positions
    return Counts(c * c + c, 2 * c * p + c * c + c * (1 + identity), c)
