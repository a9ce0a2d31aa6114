"""The position `family`, sums that are fused and blocks of one class, on small networks of our own."""

from __future__ import annotations

import pytest
import torch
from networks import Head, conv, resnet
from torch import Tensor, nn

from se_nas.core.errors import SpaceError
from se_nas.core.placement import Choice
from se_nas.insertion.block import SEBlock
from se_nas.insertion.discover import find_units
from se_nas.insertion.insert import insert_choices
from se_nas.space.space import Space
from se_nas.space.spec import read_space

SHAPE = (3, 32, 32)


class Inverted(nn.Module):
    """MobileNetV2's block; its SE version is `dw -> norm -> activation -> SE -> projection`."""

    def __init__(self, given: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        wide = 4 * given
        self.skip = given == channels and stride == 1
        self.expand = nn.Sequential(conv(given, wide, 1), nn.BatchNorm2d(wide), nn.ReLU6())
        self.spatial = nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False)
        self.norm, self.act = nn.BatchNorm2d(wide), nn.ReLU6()
        self.project = nn.Sequential(conv(wide, channels, 1), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.project(self.act(self.norm(self.spatial(self.expand(x)))))
        return x + out if self.skip else out


def inverted() -> nn.Module:
    return Head(nn.Sequential(conv(3, 8), nn.ReLU(), Inverted(8, 16, 2), Inverted(16, 16), Inverted(16, 24, 2)), 24)


def test_family_is_between_the_depthwise_convolution_and_the_projection() -> None:
    units = find_units(inverted(), SHAPE)
    assert [unit.name for unit in units] == ["body.2", "body.3", "body.4"]
    assert [unit.position for unit in units] == ["family"] * 3
    assert all("own SE blocks" in str(unit.why) or "SE networks" in str(unit.why) for unit in units)
    assert [unit.chosen.module for unit in units] == ["body.2.act", "body.3.act", "body.4.act"]
    assert [(unit.chosen.channels, unit.chosen.width) for unit in units] == [(32, 8), (64, 16), (64, 16)]
    assert [unit.site("standard").channels for unit in units] == [16, 16, 24]


def test_a_residual_network_keeps_the_position_of_the_paper() -> None:
    for unit in find_units(resnet(), SHAPE):
        assert (unit.position, unit.why) == ("standard", None)
        assert unit.chosen == unit.sites[0]
        with pytest.raises(SpaceError, match="has no site at position 'family'"):
            unit.site("family")


def test_the_default_of_a_space_is_what_units_say_and_the_paper_can_be_asked_for() -> None:
    units = find_units(inverted(), SHAPE)
    default = Space(read_space({"decide": "unit"}), units).choice(units[1], 4.0)
    paper = Space(read_space({"decide": "unit", "position": "standard"}), units).choice(units[1], 4.0)
    assert (default.position, default.squeeze_channels) == ("family", 4)  # of the 16 that the block is given
    assert (paper.position, paper.squeeze_channels) == ("standard", 4)
    assert ("position", "family") in default.built
    assert not any(name == "position" for name, _ in paper.built)  # old keys stay


class Branches(nn.Module):
    """RepVGG's block: two convolutions and the identity, summed; `switch_to_deploy` leaves one convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.large = nn.Conv2d(channels, channels, 3, padding=1)
        self.small = nn.Conv2d(channels, channels, 1)
        self.fused: nn.Conv2d | None = None
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.act(self.fused(x) if self.fused is not None else self.large(x) + self.small(x) + x)
        return out

    def switch_to_deploy(self) -> None:
        weight = self.large.weight.detach().clone()
        weight[:, :, 1, 1] += self.small.weight.detach()[:, :, 0, 0] + torch.eye(len(weight))
        self.fused = nn.Conv2d(len(weight), len(weight), 3, padding=1)
        self.fused.load_state_dict({"weight": weight, "bias": self.large.bias + self.small.bias})
        del self.large, self.small


class Layer(nn.Sequential):
    """A convolution and its norm, which `fuse` replaces by one convolution, as timm's ConvNorm."""

    def __init__(self, channels: int) -> None:
        super().__init__(nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self[1](self[0](x))
        return out

    def fuse(self) -> nn.Module:
        fused: nn.Module = torch.nn.utils.fuse_conv_bn_eval(self[0], self[1])
        return fused


def test_a_block_at_the_sum_outlives_fusing() -> None:
    torch.manual_seed(0)
    model = Head(nn.Sequential(conv(3, 8), Branches(8), Branches(8)), 8).eval()
    units = find_units(model, SHAPE)
    assert [unit.kind for unit in units] == ["linear sum"] * 2
    insert_choices(model, units, {unit.name: Choice.se(8, 2, init="plain") for unit in units}, seed=0)
    images = torch.rand(2, *SHAPE)
    with torch.no_grad():
        before = model(images)
        for module in list(model.modules()):
            if isinstance(module, Branches):
                module.switch_to_deploy()
        assert sum(isinstance(module, SEBlock) for module in model.modules()) == 2
        torch.testing.assert_close(model(images), before)


class Fusing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.act, self.second = conv(8, 8), nn.ReLU(), Layer(8)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.second(self.act(self.first(x)))
        return x + out


def test_a_block_goes_with_the_module_that_takes_the_place_of_its_own() -> None:
    torch.manual_seed(0)
    model = Head(nn.Sequential(conv(3, 8), Fusing()), 8).eval()
    (unit,) = find_units(model, SHAPE)
    insert_choices(model, (unit,), {unit.name: Choice.se(8, 2, init="plain")}, seed=0)
    images = torch.rand(2, *SHAPE)
    block = model.get_submodule("body.1")
    with torch.no_grad():
        before = model(images)
        block.second = block.second.fuse()
        assert sum(isinstance(module, SEBlock) for module in model.modules()) == 1
        torch.testing.assert_close(model(images), before)
