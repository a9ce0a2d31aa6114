"""Coordinate attention: a gate for each channel and row, and one for each channel and column."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from se_nas.insertion.attention.base import Attention, Counts


class Coordinate(Attention):
    """Means over rows and over columns share one layer, and each gives gates of its own::

        f = hard_swish(norm(conv([mean over columns of u, mean over rows of u])))  # equation 6
        g_h, g_w = sigmoid(conv_h(f of rows)), sigmoid(conv_w(f of columns))       # equations 7, 8
        output = u * g_w * g_h                                                     # equation 9

    As the identity: conv_h and conv_w are zero and both gates are doubled. Two spatial axes only.

    Source: Hou et al., "Coordinate Attention", arXiv 2103.02907; `CoordAttn` of timm.
    """

    def __init__(self, channels: int, hidden: int = 0, *, dims: int = 2, identity: bool = False) -> None:
        super().__init__(channels, hidden, dims=dims, identity=identity)
        self.conv = nn.Conv2d(channels, hidden, 1, bias=False)
        self.norm = nn.BatchNorm2d(hidden)
        self.conv_h = nn.Conv2d(hidden, channels, 1, bias=False)
        self.conv_w = nn.Conv2d(hidden, channels, 1, bias=False)
        if identity:
            nn.init.zeros_(self.conv_h.weight)
            nn.init.zeros_(self.conv_w.weight)

    def forward(self, u: Tensor) -> Tensor:
        rows, columns = u.mean(3, keepdim=True), u.mean(2, keepdim=True).transpose(2, 3)
        f = nn.functional.hardswish(self.norm(self.conv(torch.cat([rows, columns], 2))))
        f_h, f_w = f[:, :, : u.shape[2]], f[:, :, u.shape[2] :].transpose(2, 3)
        g_h, g_w = self.conv_h(f_h).sigmoid(), self.conv_w(f_w).sigmoid()
        output: Tensor = u * (2 * g_w if self.identity else g_w) * (2 * g_h if self.identity else g_h)
        return output


def counts(channels: int, size: tuple[int, ...], hidden: int, *, identity: bool, positions: int) -> Counts:
    (h, w), c, s, p = size, channels, hidden, positions
    pools = c * p * ((h == 1) + (w == 1))
    gates = c * ((h == 1) + (w == 1)) + identity * c * (h + w)
    macs = pools + 2 * c * s * (h + w) + gates + 2 * c * p
    return Counts(3 * c * s + 2 * s, macs, (s + c) * (h + w))
