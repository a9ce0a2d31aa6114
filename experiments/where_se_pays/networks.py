"""Small members of the families whose authors use SE, and plain chains, as backbone plug-ins.

The blocks of the families are timm's own; only their number and widths are smaller, for images of 32 pixels.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from timm.models._efficientnet_blocks import SqueezeExcite
from timm.models._efficientnet_builder import decode_arch_def, resolve_bn_args, round_channels
from timm.models.efficientnet import EfficientNet
from timm.models.regnet import RegNet, RegNetCfg
from torch import Tensor, nn


def efficientnet(*, num_classes: int = 10, in_channels: int = 3) -> EfficientNet:
    """Two stages of MBConv blocks with SiLU and their own SE (arXiv 1905.11946): 16, 24 and 40 channels."""
    stages = [["ds_r1_k3_s1_e1_c16_se0.25"], ["ir_r2_k3_s2_e3_c24_se0.25"], ["ir_r2_k3_s2_e3_c40_se0.25"]]
    return EfficientNet(
        block_args=decode_arch_def(stages), num_classes=num_classes, in_chans=in_channels, stem_size=16,
        num_features=120, act_layer=nn.SiLU, norm_layer=partial(nn.BatchNorm2d, **resolve_bn_args({})),
        round_chs_fn=round_channels,
    )  # fmt: skip


def mobilenetv3(*, num_classes: int = 10, in_channels: int = 3) -> EfficientNet:
    """The same with hard-swish and hard-sigmoid gates of a quarter of the expanded channels (arXiv 1905.02244)."""
    stages = [["ds_r1_k3_s1_e1_c16_se0.25_nre"], ["ir_r2_k3_s2_e3_c24_se0.25_nre"], ["ir_r2_k5_s2_e3_c40_se0.25"]]
    return EfficientNet(
        block_args=decode_arch_def(stages), num_classes=num_classes, in_chans=in_channels, stem_size=16,
        num_features=120, act_layer=nn.Hardswish, norm_layer=nn.BatchNorm2d, round_chs_fn=round_channels,
        se_layer=partial(SqueezeExcite, gate_layer="hard_sigmoid", force_act_layer=nn.ReLU, rd_round_fn=round_channels),
    )  # fmt: skip


def regnety(*, num_classes: int = 10, in_channels: int = 3) -> RegNet:
    """A RegNetY (arXiv 2003.13678) of depth 5 with widths 16 to 128 in groups of 8, SE at a quarter of the input."""
    shape: dict[str, Any] = {"w0": 16, "wa": 28.0, "wm": 2.0, "depth": 5, "group_size": 8, "stem_width": 16}
    return RegNet(RegNetCfg(**shape, se_ratio=0.25), num_classes=num_classes, in_chans=in_channels)


class Layer(nn.Sequential):
    """A convolution with batch norm and ReLU; of images, or of series."""

    def __init__(self, a: int, b: int, kernel: int, *, stride: int = 1, series: bool = False) -> None:
        convolution, norm = (nn.Conv1d, nn.BatchNorm1d) if series else (nn.Conv2d, nn.BatchNorm2d)
        super().__init__(convolution(a, b, kernel, stride=stride, padding=kernel // 2, bias=False), norm(b), nn.ReLU())


class Chain(nn.Module):
    """Layers one after the other, the mean over all places, and a linear layer: logits (batch, num_classes)."""

    def __init__(self, *layers: Layer, num_classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.fc = nn.Linear(layers[-1][0].out_channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.layers(x).flatten(2).mean(2))
        return logits

    def se_units(self) -> dict[str, str]:
        """Each layer with its activation."""
        return {f"layers.{index}": f"layers.{index}" for index in range(len(self.layers))}


def narrow(*, num_classes: int = 10, in_channels: int = 3) -> Chain:
    """Six convolutions of 8, 16 and 32 channels, two of each."""
    widths = [(in_channels, 8, 1), (8, 8, 1), (8, 16, 2), (16, 16, 1), (16, 32, 2), (32, 32, 1)]
    return Chain(*(Layer(a, b, 3, stride=stride) for a, b, stride in widths), num_classes=num_classes)


def vgg(*, num_classes: int = 10, in_channels: int = 3) -> Chain:
    """Eight convolutions of 16, 32 and 64 channels in a chain without shortcuts (arXiv 1409.1556, in small)."""
    widths = [
        (in_channels, 16, 1),
        (16, 16, 1),
        (16, 32, 2),
        (32, 32, 1),
        (32, 32, 1),
        (32, 64, 2),
        (64, 64, 1),
        (64, 64, 1),
    ]
    return Chain(*(Layer(a, b, 3, stride=stride) for a, b, stride in widths), num_classes=num_classes)


def fcn(*, num_classes: int = 10, in_channels: int = 1) -> Chain:
    """The FCN for series (arXiv 1611.06455) at half its width: kernels of 7, 5 and 3; 64, 128 and 64 channels.

    SE after these layers is what MLSTM-FCN adds to it (arXiv 1801.04503).
    """
    widths = [(in_channels, 64, 7), (64, 128, 5), (128, 64, 3)]
    return Chain(*(Layer(a, b, kernel, series=True) for a, b, kernel in widths), num_classes=num_classes)
