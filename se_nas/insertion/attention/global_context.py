"""Global context: one vector, attended from all positions, is added to every position."""

from __future__ import annotations

from torch import Tensor, nn

from se_nas.insertion.attention.base import Attention, Counts


class GlobalContext(Attention):
    """output = u + fc2(relu(norm(fc1(z)))), z = sum over positions of softmax(key(u)) * u.

    The norm is a layer norm. fc2 starts at zero, so that it starts as the identity by itself.

    Source: Cao et al., "GCNet", arXiv 1904.11492, equation 5; `GlobalContext(fuse_add=True, fuse_scale=False)` of timm.
    """

    def __init__(self, channels: int, hidden: int = 0, *, dims: int = 2, identity: bool = False) -> None:
        super().__init__(channels, hidden, dims=dims, identity=identity)
        self.key = nn.Conv1d(channels, 1, 1)
        self.fc1 = nn.Linear(channels, hidden)
        self.norm = nn.LayerNorm(hidden)
        self.fc2 = nn.Linear(hidden, channels)
        nn.init.zeros_(self.fc2.weight)
        nn.init.zeros_(self.fc2.bias)

    def forward(self, u: Tensor) -> Tensor:
        flat = u.flatten(2)
        weights = self.key(flat).softmax(2)
        z = (flat @ weights.transpose(1, 2)).squeeze(2)
        t = self.fc2(self.norm(self.fc1(z)).relu())
        output: Tensor = u + t.reshape(t.shape + (1,) * self.dims)
        return output


def counts(channels: int, size: tuple[int, ...], hidden: int, *, identity: bool, positions: int) -> Counts:
    c, s, p = channels, hidden, positions
    alone = (c + 1) * (p == 1)
    return Counts(2 * c + 1 + 2 * c * s + 3 * s, 2 * c * p + 2 * c * s + s + alone, p + 2 * c + s)
