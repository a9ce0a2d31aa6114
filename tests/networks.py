"""Small networks of many kinds, each written as somebody may write it; none has `se_units`."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


def conv(a: int, b: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(a, b, kernel, stride, kernel // 2, groups=groups, bias=False)


class Head(nn.Module):
    def __init__(self, body: nn.Module, channels: int) -> None:
        super().__init__()
        self.body = body
        self.out = nn.Linear(channels, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.body(x).mean((2, 3)))


class Bottleneck(nn.Module):
    """One ReLU module for all three uses, in place; the sum in place."""

    def __init__(self, a: int, b: int, stride: int = 1) -> None:
        super().__init__()
        self.c1, self.n1 = conv(a, 4, 1), nn.BatchNorm2d(4)
        self.c2, self.n2 = conv(4, 4, 3, stride), nn.BatchNorm2d(4)
        self.c3, self.n3 = conv(4, b, 1), nn.BatchNorm2d(b)
        self.act = nn.ReLU(inplace=True)
        self.down = nn.Sequential(conv(a, b, 1, stride), nn.BatchNorm2d(b)) if stride > 1 or a != b else None

    def forward(self, x: Tensor) -> Tensor:
        identity = x
        out = self.act(self.n1(self.c1(x)))
        out = self.act(self.n2(self.c2(out)))
        out = self.n3(self.c3(out))
        if self.down is not None:
            identity = self.down(x)
        out += identity
        return self.act(out)


def resnet() -> nn.Module:
    stem = nn.Sequential(conv(3, 8), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(2))
    return Head(nn.Sequential(stem, Bottleneck(8, 8), Bottleneck(8, 16, 2), Bottleneck(16, 16)), 16)


class PreActivation(nn.Module):
    """Pre-activation, the identity padded by functions, dropout in the branch."""

    def __init__(self, a: int, b: int, stride: int = 1) -> None:
        super().__init__()
        self.n1, self.c1 = nn.BatchNorm2d(a), conv(a, b, 3, stride)
        self.n2, self.c2 = nn.BatchNorm2d(b), conv(b, b)
        self.extra, self.stride = b - a, stride

    def forward(self, x: Tensor) -> Tensor:
        out = self.c1(functional.relu(self.n1(x)))
        out = functional.dropout(functional.relu(self.n2(out)), 0.3, self.training)
        out = self.c2(out)
        if self.stride > 1:
            x = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, self.extra))
        return functional.dropout(out, 0.2, self.training) + x


def preact() -> nn.Module:
    return Head(nn.Sequential(conv(3, 8), PreActivation(8, 8), PreActivation(8, 16, 2), PreActivation(16, 16)), 16)


class Flat(nn.Module):
    """Everything in one forward: two residual sums and a ReLU by function; no module for a block."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = conv(3, 8), conv(8, 8), conv(8, 8), conv(8, 8)
        self.out = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.a(x))
        y = functional.relu(self.b(x)) * 0.5
        x = x + y
        x = self.c(functional.relu(self.d(x))).add_(x)
        return self.out(functional.adaptive_avg_pool2d(x, 1).flatten(1))


class Vgg(nn.Module):
    """The tutorial way: ReLU by function, one pooling module for all, dropout on the maps."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 16, 5), nn.Conv2d(16, 12, 3)
        self.pool, self.drop = nn.MaxPool2d(2, 2), nn.Dropout2d(0.2)
        self.fc = nn.Linear(12, 5)
        self.start()

    def start(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(functional.relu(self.conv1(x)))
        x = self.pool(functional.relu(self.conv2(x), inplace=True))
        x = functional.relu(self.drop(functional.max_pool2d(self.conv3(x), 2)))
        return self.fc(x.amax((2, 3)))


def sequential() -> nn.Module:
    layers: list[nn.Module] = []
    for a, b in ((3, 8), (8, 8), (8, 16)):
        layers += [conv(a, b), nn.BatchNorm2d(b), nn.LeakyReLU(0.1, inplace=True)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5))


class Inception(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.one = nn.Sequential(conv(channels, 4, 1), nn.ReLU())
        self.three = nn.Sequential(conv(channels, 4, 1), nn.ReLU(), conv(4, 6), nn.ReLU())
        self.pooled = conv(channels, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = functional.relu(self.pooled(functional.max_pool2d(x, 3, 1, 1)))
        return torch.cat([self.one(x), self.three(x), pooled], 1)


def inception() -> nn.Module:
    return Head(nn.Sequential(conv(3, 8), nn.ReLU(), Inception(8), nn.MaxPool2d(2), Inception(14), Inception(14)), 14)


class Concurrent(nn.Sequential):
    """A container that runs all its children on one tensor and concatenates what they give."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.children()], 1)


def concurrent() -> nn.Module:
    def block(channels: int) -> nn.Module:
        return Concurrent(nn.Sequential(conv(channels, 4), nn.ReLU()), nn.Sequential(conv(channels, 6, 1), nn.ReLU()))

    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = block(3), block(10)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x))

    return Head(Around(), 10)


class FlatInception(nn.Module):
    """Concatenations in the network's own forward, each used by several branches."""

    def __init__(self) -> None:
        super().__init__()
        self.a1, self.a2, self.b1, self.b2 = conv(3, 4), conv(3, 4, 1), conv(8, 4), conv(8, 6, 1)
        self.out = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat((functional.relu(self.a1(x)), functional.relu(self.a2(x))), dim=1)
        z = torch.cat((functional.relu(self.b1(y)), functional.relu(self.b2(y))), dim=1)
        return self.out(z.mean((2, 3)))


class DenseLayer(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(channels), conv(channels, 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv(functional.relu(self.norm(x)))], 1)


def densenet() -> nn.Module:
    return Head(nn.Sequential(conv(3, 8), DenseLayer(8), DenseLayer(12), nn.AvgPool2d(2), DenseLayer(16)), 20)


def separable(a: int, b: int, stride: int = 1) -> nn.Module:
    return nn.Sequential(
        conv(a, a, 3, stride, groups=a), nn.BatchNorm2d(a), nn.ReLU6(), conv(a, b, 1), nn.BatchNorm2d(b), nn.ReLU6()
    )


def mobilenet() -> nn.Module:
    return Head(nn.Sequential(conv(3, 8), nn.ReLU(), separable(8, 16), separable(16, 16, 2), separable(16, 24)), 24)


class Inverted(nn.Module):
    def __init__(self, a: int, b: int, stride: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            conv(a, 12, 1), nn.BatchNorm2d(12), nn.SiLU(), conv(12, 12, 3, stride, groups=12), nn.BatchNorm2d(12),
            nn.SiLU(), conv(12, b, 1), nn.BatchNorm2d(b),
        )  # fmt: skip
        self.skips = stride == 1 and a == b

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.skips else self.layers(x)


def mobilenet2() -> nn.Module:
    blocks = (Inverted(8, 8, 1), Inverted(8, 16, 2), Inverted(16, 16, 1))
    return Head(nn.Sequential(conv(3, 8), nn.SiLU(), *blocks, conv(16, 32, 1), nn.SiLU()), 32)


class Shuffle2(nn.Module):
    """ShuffleNet v2: half of the channels goes through the branch; or, with a stride, all go through two."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        half = channels // 2 if stride == 1 else channels
        self.stride = stride
        self.main = nn.Sequential(
            conv(half, half, 1), nn.BatchNorm2d(half), nn.ReLU(), conv(half, half, 3, stride, groups=half),
            nn.BatchNorm2d(half), conv(half, half, 1), nn.BatchNorm2d(half), nn.ReLU(),
        )  # fmt: skip
        self.side = nn.Sequential(conv(half, half, 3, stride, groups=half), conv(half, half, 1), nn.BatchNorm2d(half))

    def forward(self, x: Tensor) -> Tensor:
        if self.stride == 1:
            left, right = x.chunk(2, 1)
            x = torch.cat((left, self.main(right)), 1)
        else:
            x = torch.cat((self.side(x), self.main(x)), 1)
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


def shufflenet2() -> nn.Module:
    return Head(nn.Sequential(conv(3, 8), nn.ReLU(), Shuffle2(8, 2), Shuffle2(16, 1), Shuffle2(16, 1)), 16)


class UNet(nn.Module):
    """Skips by concatenation; not Inception."""

    def __init__(self) -> None:
        super().__init__()
        self.down1 = nn.Sequential(conv(3, 8), nn.ReLU())
        self.down2 = nn.Sequential(nn.MaxPool2d(2), conv(8, 16), nn.ReLU())
        self.up = nn.ConvTranspose2d(16, 8, 2, 2)
        self.last = nn.Sequential(conv(16, 8), nn.ReLU(), nn.Conv2d(8, 5, 1))

    def forward(self, x: Tensor) -> Tensor:
        first = self.down1(x)
        return self.last(torch.cat([self.up(self.down2(first)), first], 1))


class AddUNet(UNet):
    """Skips by sum; not residual."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Sequential(conv(8, 8), nn.ReLU(), nn.Conv2d(8, 5, 1))

    def forward(self, x: Tensor) -> Tensor:
        first = self.down1(x)
        return self.last(self.up(self.down2(first)) + first)


class Res2(nn.Module):
    """Res2Net: sums of parts of the channels inside the branch."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Sequential(conv(channels, 8, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.parts = nn.ModuleList(nn.Sequential(conv(2, 2), nn.BatchNorm2d(2), nn.ReLU()) for _ in range(3))
        self.last = nn.Sequential(conv(8, channels, 1), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        split = torch.split(self.first(x), 2, 1)
        outs = [self.parts[0](split[0])]
        for part, other in zip(self.parts[1:], split[1:], strict=False):
            outs.append(part(outs[-1] + other))
        return functional.relu(self.last(torch.cat([*outs, split[-1]], 1)) + x)


class SelfExcited(nn.Module):
    """A residual block with SE in one of the ways in which people write it."""

    def __init__(self, channels: int, way: str) -> None:
        super().__init__()
        self.way = way
        self.body = nn.Sequential(
            conv(channels, channels), nn.BatchNorm2d(channels), nn.ReLU(), conv(channels, channels)
        )
        if way == "expand":
            self.attention: nn.Module = ExpandingGate(channels)
        elif way == "gate":
            self.attention = nn.Sequential(
                nn.AdaptiveAvgPool2d(1),
                nn.Conv2d(channels, 4, 1),
                nn.ReLU(),
                nn.Conv2d(4, channels, 1),
                nn.Hardsigmoid(),
            )
        else:
            self.fc1, self.fc2 = nn.Linear(channels, 4), nn.Linear(4, channels)

    def forward(self, x: Tensor) -> Tensor:
        u = self.body(x)
        if self.way == "expand":
            u = self.attention(u)
        elif self.way == "gate":
            u = u * self.attention(u)
        else:
            s = torch.sigmoid(self.fc2(functional.relu(self.fc1(u.mean((2, 3))))))
            u *= s[:, :, None, None]
        return functional.relu(u + x)


class ExpandingGate(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Sequential(nn.Linear(channels, 4), nn.ReLU(), nn.Linear(4, channels), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        b, c, _, _ = x.size()
        return x * self.fc(self.pool(x).view(b, c)).view(b, c, 1, 1).expand_as(x)


def excited(way: str) -> nn.Module:
    return Head(nn.Sequential(conv(3, 8), nn.ReLU(), SelfExcited(8, way), SelfExcited(8, way)), 8)


class Dynamic(nn.Module):
    """Control flow that depends on data, and a result that is no tensor inside."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.out = conv(3, 8), Bottleneck(8, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        if x.abs().mean() > 1e-9:
            x = self.block(x)
        parts = {"last": x, "none": None}
        return self.out(parts["last"].mean((2, 3)))


class Recurrent(nn.Module):
    """One block used three times at one size."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.out = conv(3, 8), Bottleneck(8, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for _ in range(3):
            x = self.block(x)
        return self.out(x.mean((2, 3)))


class StochasticDepth(nn.Module):
    """Drops whole branches in train mode, by function, and scales by a parameter per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = conv(channels, channels, 7, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.wide, self.narrow = nn.Linear(channels, 2 * channels), nn.Linear(2 * channels, channels)
        self.gamma = nn.Parameter(torch.full((channels,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.gamma * self.narrow(functional.gelu(self.wide(y)))
        y = y.permute(0, 3, 1, 2)
        if self.training:
            y = y * torch.bernoulli(torch.full((len(y), 1, 1, 1), 0.8, device=y.device))
        return x + y


def convnext() -> nn.Module:
    return Head(nn.Sequential(conv(3, 8, 4, 4), StochasticDepth(8), StochasticDepth(8)), 8)


class Volume(nn.Module):
    """A 3-D residual block."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv3d(1, 4, 3, padding=1)
        self.a, self.b = nn.Conv3d(4, 4, 3, padding=1), nn.Conv3d(4, 4, 3, padding=1)
        self.norm, self.out = nn.InstanceNorm3d(4), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = functional.relu(self.norm(self.b(functional.relu(self.a(x)))) + x)
        return self.out(x.mean((2, 3, 4)))


class Custom(nn.Module):
    """Norms, activations and convolutions of its own making."""

    def __init__(self) -> None:
        super().__init__()
        self.weight1 = nn.Parameter(torch.randn(8, 3, 3, 3) * 0.2)
        self.weight2 = nn.Parameter(torch.randn(8, 8, 3, 3) * 0.2)
        self.scale, self.shift = nn.Parameter(torch.ones(8, 1, 1)), nn.Parameter(torch.zeros(8, 1, 1))
        self.out = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.conv2d(x, self.weight1, padding=1) * self.scale + self.shift
        x = x * torch.sigmoid(x)
        y = functional.conv2d(x, self.weight2, padding=1) * self.scale + self.shift
        y = y * torch.sigmoid(y)
        return self.out(y.mean((2, 3)))


class Private(nn.Module):
    """Private names, a closure and `super` in the method that must be rewritten."""

    def __init__(self) -> None:
        super().__init__()
        self.__stem = conv(3, 8)
        self.__conv = conv(8, 8)
        self.out = nn.Linear(8, 5)

    def forward(self, x: Tensor, *, scale: float = 1.0) -> Tensor:
        super().train(self.training)
        x = functional.relu(self.__stem(x))
        return self.out(functional.max_pool2d(functional.relu(self.__conv(x)), 2).mean((2, 3)) * scale)


class Parallel(nn.Module):
    """Symmetric branches summed with the identity, as in shake-shake; eval mode runs other code than train mode."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.left, self.right, self.out = conv(3, 8), conv(8, 8), conv(8, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        left, right = self.left(x), self.right(x)
        if self.training:
            share = torch.rand(len(x), 1, 1, 1)
            mixed = share * left + (1 - share) * right
        else:
            mixed = 0.5 * left + 0.5 * right
        return self.out((x + mixed).mean((2, 3)))


# name -> (factory, kinds of its units in running order, channels of their standard sites)
NETWORKS = {
    "resnet": (resnet, ["residual"] * 3, [8, 16, 16]),
    "preact": (preact, ["residual"] * 3, [8, 16, 16]),
    "flat": (Flat, ["residual"] * 2, [8, 8]),
    "vgg": (Vgg, ["chain"] * 3, [6, 16, 12]),
    "sequential": (sequential, ["chain"] * 3, [8, 8, 16]),
    "inception": (inception, ["inception"] * 3, [14] * 3),
    "concurrent": (concurrent, ["inception"] * 2, [10, 10]),
    "flat-inception": (FlatInception, ["inception"] * 2, [8, 10]),
    "densenet": (densenet, ["dense"] * 3, [4] * 3),
    "mobilenet": (mobilenet, ["depthwise"] * 3, [16, 16, 24]),
    "mobilenet2": (mobilenet2, ["residual", "depthwise", "residual"], [8, 16, 16]),
    "shufflenet2": (shufflenet2, ["shuffle"] * 3, [8, 8, 8]),
    "unet": (UNet, ["chain"] * 3, [8, 16, 8]),
    "add-unet": (AddUNet, ["chain"] * 3, [8, 16, 8]),
    "res2net": (lambda: Head(nn.Sequential(conv(3, 8), Res2(8), Res2(8)), 8), ["residual"] * 2, [8, 8]),
    "excited-expand": (lambda: excited("expand"), ["residual"] * 2, [8, 8]),
    "excited-gate": (lambda: excited("gate"), ["residual"] * 2, [8, 8]),
    "excited-inline": (lambda: excited("inline"), ["residual"] * 2, [8, 8]),
    "dynamic": (Dynamic, ["residual"], [8]),
    "recurrent": (Recurrent, ["residual"], [8]),
    "convnext": (convnext, ["residual"] * 2, [8, 8]),
    "custom": (Custom, ["chain"] * 2, [8, 8]),
    "private": (Private, ["chain"] * 2, [8, 8]),
    "parallel": (Parallel, ["linear sum"], [8]),
}
