"""Concurrent spatial and channel SE: a gate for each channel and one for each position, side by side."""

from __future__ import annotations

from torch import Tensor, nn

from se_nas.insertion.attention.base import Attention, Counts


class SCSE(Attention):
    """output = sigmoid(fc2(relu(fc1(mean(u))))) * u + sigmoid(conv(u)) * u, a convolution of one pixel to one channel.

    The layers have no biases. As the identity: fc2 and the convolution are zero, so that both gates are one half.

    Source: Roy et al., "Concurrent Spatial and Channel SE", arXiv 1803.02579, equations 2 to 5 and their sum.
    """

    def __init__(self, channels: int, hidden: int = 0, *, dims: int = 2, identity: bool = False) -> None:
        super().__init__(channels, hidden, dims=dims, identity=identity)
        self.fc1 = nn.Linear(channels, hidden, bias=False)
        self.fc2 = nn.Linear(hidden, channels, bias=False)
        self.conv = getattr(nn, f"Conv{dims}d")(channels, 1, 1, bias=False)
        if identity:
            nn.init.zeros_(self.fc2.weight)
            nn.init.zeros_(self.conv.weight)

    def forward(self, u: Tensor) -> Tensor:
        s = self.fc2(self.fc1(u.flatten(2).mean(2)).relu()).sigmoid()
        output: Tensor = u * (s.reshape(s.shape + (1,) * self.dims) + self.conv(u).sigmoid())
        return output


def counts(channels: int, size: tuple[int, ...], hidden: int, *, identity: bool, positions: int) -> Counts:
    c, s, p = channels, hidden, positions
    alone = (c + 1) * (p == 1)
    return Counts(2 * c * s + c, 3 * c * p + 2 * c * s + s + c + alone, s + c + p)
