"""CIFAR-style ResNets: three stages of basic blocks, for small images.

Source: He et al., "Deep Residual Learning for Image Recognition", arXiv 1512.03385, section 4.2, with projection
shortcuts (option B) where the shape changes. This file needs torch alone: exports carry it along.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class BasicBlock(nn.Module):
    """A 3x3 convolution, a second one with the given kernel, and a shortcut."""

    def __init__(self, channels_in: int, channels: int, *, stride: int, kernel: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride=stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        branch = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        return functional.relu(branch + self.shortcut(x))


class ResNet(nn.Module):
    """A CIFAR-style ResNet of ``6 n + 2`` layers with 16, 32 and 64 channels.

    Input (batch, in_channels, height, width), height and width at least 4; output (batch, num_classes), logits.
    """

    def __init__(self, depth: int, *, num_classes: int, in_channels: int, kernel: int = 3) -> None:
        super().__init__()
        if depth < 8 or depth % 6 != 2:
            raise ValueError(f"a CIFAR-style ResNet cannot have {depth} layers, but 8, 14, 20 or any 6 n + 2")
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        blocks = (depth - 2) // 6
        self.layer1 = self._stage(16, 16, blocks, stride=1, kernel=kernel)
        self.layer2 = self._stage(16, 32, blocks, stride=2, kernel=kernel)
        self.layer3 = self._stage(32, 64, blocks, stride=2, kernel=kernel)
        self.fc = nn.Linear(64, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @staticmethod
    def _stage(channels_in: int, channels: int, blocks: int, *, stride: int, kernel: int) -> nn.Sequential:
        first = BasicBlock(channels_in, channels, stride=stride, kernel=kernel)
        more = (BasicBlock(channels, channels, stride=1, kernel=kernel) for _ in range(blocks - 1))
        return nn.Sequential(first, *more)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits

    def se_units(self) -> dict[str, dict[str, str]]:
        """Each block, with the positions of section 6.5 of the SE paper (its figure 5)."""
        return {
            name: {
                "standard": f"{name}.bn2",
                "pre": f"{name}.conv1:input",
                "post": name,
                "identity": f"{name}.shortcut",
                "inner": f"{name}.bn1",
            }
            for name, module in self.named_modules()
            if isinstance(module, BasicBlock)
        }


def resnet(*, depth: int = 20, num_classes: int = 10, in_channels: int = 3) -> ResNet:
    """A CIFAR-style ResNet with random weights; see `ResNet` for shapes.

    ValueError if `depth` is not 8, 14, 20 or any other 6 n + 2.
    """
    return ResNet(depth, num_classes=num_classes, in_channels=in_channels)


def bagnet(*, depth: int = 8, num_classes: int = 10, in_channels: int = 3) -> ResNet:
    """A CIFAR-style ResNet that sees small windows: the second convolution of each block is 1x1.

    With 8 layers an output depends on 11 x 11 pixels; shapes and depths are those of `resnet`. After Brendel and
    Bethge, "Approximating CNNs with bag-of-local-features models works surprisingly well on ImageNet", ICLR 2019.
    """
    return ResNet(depth, num_classes=num_classes, in_channels=in_channels, kernel=1)
