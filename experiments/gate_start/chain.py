"""A small MobileNet for small images, a backbone plug-in: depthwise separable convolutions in a chain, no shortcuts.

Source: Howard et al., "MobileNets", arXiv 1704.04861, table 1, with fewer and narrower layers.
"""

from __future__ import annotations

from torch import Tensor, nn

WIDTHS = ((32, 2), (64, 1), (64, 2), (128, 1))
"""Output channels and stride of each depthwise separable convolution."""


def _normed(a: int, b: int, kernel: int, *, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(a, b, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(b), nn.ReLU(inplace=True)]


class Separable(nn.Sequential):
    """A depthwise 3x3 convolution and a pointwise one, each with batch norm and ReLU."""

    def __init__(self, a: int, b: int, stride: int) -> None:
        super().__init__(*_normed(a, a, 3, stride=stride, groups=a), *_normed(a, b, 1))


class Chain(nn.Module):
    """Input (batch, in_channels, height, width), output (batch, num_classes), logits."""

    def __init__(self, *, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(*_normed(in_channels, 16, 3))
        inputs = [16, *(width for width, _ in WIDTHS)]
        self.blocks = nn.Sequential(*(Separable(a, b, s) for a, (b, s) in zip(inputs, WIDTHS, strict=False)))
        self.fc = nn.Linear(WIDTHS[-1][0], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.blocks(self.stem(x)).mean((2, 3)))
        return logits

    def se_units(self) -> dict[str, str]:
        """Each pointwise convolution with its activation, where the SE paper puts SE in a MobileNet."""
        return {f"blocks.{index}": f"blocks.{index}" for index in range(len(WIDTHS))}


def mobilenet(*, num_classes: int = 10, in_channels: int = 3) -> Chain:
    """The network with random weights."""
    return Chain(num_classes=num_classes, in_channels=in_channels)
