"""CBAM: a gate for each channel, then one for each position."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from se_nas.insertion.attention.base import Attention, Counts


class CBAM(Attention):
    """Channels are rescaled by ``sigmoid(fc(mean(u)) + fc(max(u)))``, then positions by a convolution of 7::

        s = sigmoid(fc2(relu(fc1(mean(u)))) + fc2(relu(fc1(max(u)))))         # equation 2, v = s * u
        m = sigmoid(norm(conv([mean over channels of v, max over them])))     # equation 3, output = m * v

    The layers have no biases. As the identity: fc2 and the weight of the norm are zero and both gates are doubled.

    Source: Woo et al., "CBAM", arXiv 1807.06521; `CbamModule` of timm.
    """

    def __init__(self, channels: int, hidden: int = 0, *, dims: int = 2, identity: bool = False) -> None:
        super().__init__(channels, hidden, dims=dims, identity=identity)
        self.fc1 = nn.Linear(channels, hidden, bias=False)
        self.fc2 = nn.Linear(hidden, channels, bias=False)
        self.conv = getattr(nn, f"Conv{dims}d")(2, 1, 7, padding=3, bias=False)
        self.norm = getattr(nn, f"BatchNorm{dims}d")(1)
        if identity:
            nn.init.zeros_(self.fc2.weight)
            nn.init.zeros_(self.norm.weight)

    def forward(self, u: Tensor) -> Tensor:
        flat = u.flatten(2)
        mean, most = (self.fc2(self.fc1(z).relu()) for z in (flat.mean(2), flat.amax(2)))
        s = (mean + most).sigmoid()
        s = 2 * s if self.identity else s
        v = u * s.reshape(s.shape + (1,) * self.dims)
        maps = torch.cat([v.mean(1, keepdim=True), v.amax(1, keepdim=True)], 1)
        m = self.norm(self.conv(maps)).sigmoid()
        output: Tensor = v * (2 * m if self.identity else m)
        return output


def counts(channels: int, size: tuple[int, ...], hidden: int, *, identity: bool, positions: int) -> Counts:
    c, s, p, kernel = channels, hidden, positions, 2 * 7 ** len(size)
    alone = (2 * c + 1) * (p == 1)
    spatial = kernel * p + identity * p + alone
    return Counts(
        2 * c * s + kernel + 2, 4 * c * p + 2 * (2 * c * s + s) + c * (2 + identity) + spatial, 2 * (s + c) + p
    )
