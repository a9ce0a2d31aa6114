"""Blocks as users write them, right ones and wrong ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Bottleneck(nn.Module):
    """A gate for each channel by two layers with biases, with a hidden width."""

    width, gate, identity, sizes = True, True, True, (1, 2, 3)

    def __init__(self, channels: int, hidden: int, identity: bool, slope: float = 1.0) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(channels, hidden), nn.Linear(hidden, channels)
        self.slope = slope
        if identity:
            nn.init.zeros_(self.up.weight)
            nn.init.zeros_(self.up.bias)

    def gates(self, u: Tensor) -> Tensor:
        s = 1 + (self.slope * self.up(self.down(u.flatten(2).mean(2)).relu())).tanh()
        return s.reshape(s.shape + (1,) * (u.dim() - 2))

    def forward(self, u: Tensor) -> Tensor:
        return u * self.gates(u)

    @staticmethod
    def counts(channels: int, hidden: int, positions: int) -> tuple[int, int, int]:
        c, s = channels, hidden
        return 2 * c * s + s + c, 2 * c * positions + 2 * c * s + s + 3 * c, s + c


class _Scaled(nn.Module):
    def __init__(self, channels: int, power: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels))
        self.power = power

    def forward(self, u: Tensor) -> Tensor:
        scale = self.scale.pow(self.power).reshape((1, -1) + (1,) * (u.dim() - 2))
        return u * (u * scale).sigmoid()


def scaled(channels: int, power: int = 1) -> nn.Module:
    """No gate, no width, two axes: what a function gets where nothing is said."""
    return _Scaled(channels, power)


def _scaled_counts(channels: int, positions: int) -> tuple[int, int, int]:
    alone = channels * (positions == 1)
    return channels, channels + 2 * channels * positions + alone, 0


scaled.counts = _scaled_counts  # type: ignore[attr-defined]


class Free(nn.Module):
    """Starts as the identity, which it stays: it has no parameters and does nothing."""

    identity = True

    def forward(self, u: Tensor) -> Tensor:
        return u

    @staticmethod
    def counts() -> tuple[int, int, int]:
        return 0, 0, 0


class WrongCounts(Free):
    @staticmethod
    def counts(channels: int) -> tuple[int, int, int]:
        return channels, 7, 0


class NoNumbers(Free):
    counts = staticmethod(lambda: (1.5, 2, 3))


class Fails(Free):
    def __init__(self) -> None:
        raise RuntimeError("out of ideas")


class FailsLater(Free):
    def forward(self, u: Tensor) -> Tensor:
        raise RuntimeError("out of ideas")


class Shrinks(Free):
    def forward(self, u: Tensor) -> Tensor:
        return u[:, :, ::2]


class Doubles(Free):
    def forward(self, u: Tensor) -> Tensor:
        return 2 * u


class NoGates(Free):
    gate = True


class OtherGates(Free):
    gate = True

    def gates(self, u: Tensor) -> Tensor:
        return 2 * torch.ones_like(u.flatten(2).mean(2)).reshape(u.shape[:2] + (1,) * (u.dim() - 2))


class WideGates(Free):
    gate = True

    def gates(self, u: Tensor) -> Tensor:
        return torch.ones_like(u)


class Costless(nn.Module):
    pass


class TooManyAxes(Free):
    sizes = (2, 4)


class WrongFact(Free):
    width = "yes"


class Greedy(Free):
    def __init__(self, channels: int, what: int) -> None:
        super().__init__()


def gives_none(channels: int) -> None:
    return None


def gives_class(channels: int) -> type[nn.Module]:
    return Free


gives_none.counts = gives_class.counts = Free.counts  # type: ignore[attr-defined]

number = 7
