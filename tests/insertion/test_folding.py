"""Constant gates folded into the neighbouring weights: the folded network is the one with fixed gates."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from se_nas.backbones.build import build_backbone
from se_nas.core.placement import Choice
from se_nas.core.trial import Target
from se_nas.insertion.block import SEBlock
from se_nas.insertion.folding import Fold, fold_gates
from se_nas.insertion.gates import collect_gates, fixed_gates
from se_nas.insertion.se_blocks import watchable


def lively(network: nn.Module, seed: int = 0) -> nn.Module:
    """The network in eval mode with random norms, so that nothing is 0 or 1 by its start."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.3, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
        elif isinstance(module, SEBlock):
            module.fc1.weight.data.normal_(0, 0.5, generator=generator)
            module.fc2.weight.data.normal_(0, 2.0, generator=generator)
    return network.eval()


def folded(network: nn.Module, shape: tuple[int, ...], *, only: str = "") -> tuple[float, float, tuple[Fold, ...]]:
    """Largest difference of the folded network from the one with fixed gates, of that from the whole one, the folds."""
    seen = watchable(network, shape)
    images = torch.randn(4, *shape, generator=torch.Generator().manual_seed(0))
    gates = {k: v for k, v in collect_gates(seen.network, [images], kept=seen.kinds).items() if only in k}
    with torch.no_grad():
        whole = network(images)
        with fixed_gates(seen.network, gates, kept=seen.kinds):
            frozen = seen.network(images)
        after, folds = fold_gates(network, {name: values.mean(0) for name, values in gates.items()}, shape)
        scale = frozen.abs().max()
        return float((after(images) - frozen).abs().max() / scale), float((frozen - whole).abs().max() / scale), folds


class Net(nn.Module):
    """A convolution, what comes before the SE block, the block, what comes after it, and a classifier."""

    def __init__(self, before: nn.Module, after: nn.Module, *, channels: int = 8, gate: str = "sigmoid") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.before = before
        self.se = SEBlock(channels, Choice(kind="se", squeeze_channels=4, gate=gate))
        self.after = after
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(5))

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.head(self.after(self.se(self.before(images))))
        return out


def conv(c: int = 3, d: int = 8, **settings: int) -> nn.Conv2d:
    return nn.Conv2d(c, d, 3, padding=1, **settings)


CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module], tuple[str, ...]]] = {
    "norm": (lambda: nn.Sequential(conv(), nn.BatchNorm2d(8)), nn.Identity, ("before.1",)),
    "group norm": (lambda: nn.Sequential(conv(), nn.GroupNorm(2, 8)), nn.Identity, ("before.1",)),
    "convolution": (conv, nn.Identity, ("before",)),
    "grouped convolution": (
        lambda: nn.Sequential(conv(), conv(8, 8, groups=4)), nn.Identity, ("before.1",),
    ),
    "transposed": (
        lambda: nn.Sequential(conv(), nn.ConvTranspose2d(8, 8, 3, groups=2)), nn.Identity, ("before.1",),
    ),
    "relu and pool": (
        lambda: nn.Sequential(conv(), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)), nn.Identity, ("before.1",),
    ),
    "silu": (lambda: nn.Sequential(conv(), nn.SiLU()), lambda: conv(8, 6), ("after",)),
    "silu, grouped": (
        lambda: nn.Sequential(conv(), nn.SiLU()), lambda: conv(8, 4, groups=2), ("after",),
    ),
    "silu, depthwise": (
        lambda: nn.Sequential(conv(), nn.SiLU()), lambda: nn.Conv2d(8, 16, 3, groups=8), ("after",),
    ),
    "silu, transposed": (
        lambda: nn.Sequential(conv(), nn.SiLU()), lambda: nn.ConvTranspose2d(8, 6, 3, groups=2), ("after",),
    ),
    "silu, relu, pool": (
        lambda: nn.Sequential(conv(), nn.SiLU()),
        lambda: nn.Sequential(nn.ReLU(), nn.AvgPool2d(2), conv(8, 4)), ("after.2",),
    ),
    "silu, linear": (lambda: nn.Sequential(conv(), nn.SiLU()), nn.Identity, ("head.2",)),
    "silu, flat": (
        lambda: nn.Sequential(conv(), nn.SiLU()),
        lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(12), nn.Unflatten(1, (12, 1, 1))), ("after.1",),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_each_layer_takes_a_gate_in(case: str) -> None:
    before, after, into = CASES[case]
    network = Net(before(), after())
    with torch.no_grad():
        network(torch.zeros(2, 3, 8, 8))
    apart, moved, folds = folded(lively(network), (3, 8, 8))
    assert moved > 1e-4  # fixing the gates does something
    assert apart < 1e-5
    assert folds == (Fold(block="se", into=into),)


class Sum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(), nn.Sequential(conv(), nn.BatchNorm2d(8))

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.a(images) + self.b(images)
        return out


class Twice(nn.Module):
    """One convolution that runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.own = conv(), conv(8, 8)

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.own(self.own(self.first(images)))
        return out


class Skip(nn.Module):
    """The tensor of the block is also read by a sum after it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = conv()
        self.se = SEBlock(8, Choice(kind="se", squeeze_channels=4))
        self.head = nn.Linear(8, 5)

    def forward(self, images: Tensor) -> Tensor:
        out = self.stem(images)
        out = self.se(out) + out
        logits: Tensor = self.head(out.mean((2, 3)))
        return logits


def test_both_sides_of_a_sum_take_it_in() -> None:
    network = Net(Sum(), nn.SiLU())
    with torch.no_grad():
        network(torch.zeros(2, 3, 8, 8))
    apart, _, folds = folded(lively(network), (3, 8, 8))
    assert apart < 1e-5
    assert folds[0].into == ("before.a", "before.b.1")


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (Skip, "its tensor is also read by add"),
        (lambda: Net(nn.Sequential(conv(), nn.SiLU()), nn.SiLU()), "before it, stands silu in before.1; after it, "),
        (lambda: Net(Twice(), nn.SiLU()), "before.own is used several times"),
        (lambda: Net(nn.Sequential(conv(), nn.BatchNorm2d(8, affine=False)), nn.SiLU()), "has no weights"),
        (lambda: Net(nn.utils.parametrizations.weight_norm(conv()), nn.SiLU()), "are computed"),
    ],
)
def test_what_cannot_be_folded_stays_and_is_named(network: Callable[[], nn.Module], reason: str) -> None:
    made = network()
    with torch.no_grad():
        made(torch.zeros(2, 3, 8, 8))
    lively(made)
    images = torch.randn(4, 3, 8, 8)
    same, folds = fold_gates(made, {"se": torch.rand(8)}, (3, 8, 8))
    assert not folds[0].into
    assert reason in folds[0].reason
    assert torch.equal(same(images), made(images))


def test_a_negative_gate_does_not_pass_a_relu() -> None:
    network = Net(nn.Sequential(conv(), nn.ReLU()), nn.SiLU(), gate="tanh")
    with torch.no_grad():
        network(torch.zeros(2, 3, 8, 8))
    _, folds = fold_gates(lively(network), {"se": torch.linspace(-1, 1, 8)}, (3, 8, 8))
    assert "relu" in folds[0].reason
    _, folds = fold_gates(network, {"se": torch.linspace(0, 1, 8)}, (3, 8, 8))
    assert folds[0].into == ("before.0",)


def test_the_network_is_left_as_it_was() -> None:
    network = Net(conv(), nn.Identity())
    with torch.no_grad():
        network(torch.zeros(2, 3, 8, 8))
    before = {name: value.clone() for name, value in network.eval().state_dict().items()}
    fold_gates(network, {"se": torch.rand(8)}, (3, 8, 8))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize(
    "name",
    [
        "timm:seresnet50",
        "timm:efficientnet_b0",
        "torchvision:mobilenet_v3_small",
        pytest.param("timm:regnety_002", marks=pytest.mark.slow),
        pytest.param("timm:ghostnet_100", marks=pytest.mark.slow),
        pytest.param("torchvision:regnet_y_400mf", marks=pytest.mark.slow),
    ],
)
def test_every_block_of_real_networks_is_folded_exactly(name: str) -> None:
    pytest.importorskip(name.partition(":")[0], reason="needs the library, and torch for which it is built")
    network = lively(build_backbone(Target(target=name), num_classes=10, input_shape=(3, 64, 64), seed=0))
    apart, _, folds = folded(network, (3, 64, 64))
    assert apart < 1e-5
    assert folds
    assert all(fold.into for fold in folds)
