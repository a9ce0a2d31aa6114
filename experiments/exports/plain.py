"""A user's own file: a small DenseNet in plain torch, with functional activations and pools; it knows no se-nas.

Source: Huang et al., "Densely Connected Convolutional Networks", arXiv 1608.06993; grouped 3 x 3 convolutions as in
ResNeXt (arXiv 1611.05431).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class DenseLayer(nn.Module):
    """Norm, ReLU, 1 x 1, norm, ReLU, 3 x 3 in groups; its output goes beside its input."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, 4 * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, groups=4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        new = self.conv2(functional.relu(self.norm2(self.conv1(functional.relu(self.norm1(x))))))
        return torch.cat([x, new], 1)


class Dense(nn.Module):
    """Three dense blocks with transitions that halve channels and size."""

    def __init__(self, num_classes: int = 10, in_channels: int = 3, growth: int = 12, depth: int = 4) -> None:
        super().__init__()
        channels = 2 * growth
        self.stem = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        self.blocks, self.transitions = nn.ModuleList(), nn.ModuleList()
        for index in range(3):
            self.blocks.append(nn.Sequential(*(DenseLayer(channels + k * growth, growth) for k in range(depth))))
            channels += depth * growth
            if index < 2:
                self.transitions.append(nn.Conv2d(channels, channels // 2, 1, bias=False))
                channels //= 2
        self.norm = nn.BatchNorm2d(channels)
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(self.stem(x), 2)
        for block, transition in zip(self.blocks, self.transitions, strict=False):
            x = functional.avg_pool2d(transition(block(x)), 2)
        x = functional.relu(self.norm(self.blocks[-1](x)))
        return self.fc(x.mean((2, 3)))
