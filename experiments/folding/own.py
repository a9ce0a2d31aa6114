"""A user's own network: convolutions with SiLU, whose gates can only go into the layer after them."""

import itertools

from torch import Tensor, nn


class Own(nn.Module):
    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        widths = (in_channels, 24, 32, 48, 64)
        self.features = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.SiLU())
                for a, b in itertools.pairwise(widths)
            )
        )
        self.classifier = nn.Linear(widths[-1], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(images).mean((2, 3)))
        return logits
