"""Training loops as users have them, good ones and bad ones, for the tests of trainers: ``loops.py:NAME``."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

metric, direction = "val_accuracy", "maximize"
SIDE, CLASSES = 8, 3


def images_of(seed: int, n: int) -> tuple[Tensor, Tensor]:
    """Images whose brightness tells the class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % CLASSES
    return torch.randn(n, 1, SIDE, SIDE, generator=generator) + labels[:, None, None, None], labels


def scores(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    network.eval()
    with torch.no_grad():
        return (network(images).argmax(1) == labels).double()


class Plain:
    """A loop that brings its own data; `workers` load them."""

    metric, direction = "val_accuracy", "maximize"
    units = {"val_accuracy": "share"}
    input_shape, classes = (1, SIDE, SIDE), ("dark", "grey", "bright")

    def __init__(self, workers: int = 0, lr: float = 0.1) -> None:
        self.workers, self.lr = workers, lr

    def train(self, network: nn.Module, *, seed: int, epochs: int, device: str, folder: Path, report: Any) -> Any:
        (folder / "own.txt").write_text(f"{seed} {device}\n")
        order = torch.Generator().manual_seed(seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of fork in a process with threads
            self._epochs(network, DataLoader(TensorDataset(*images_of(0, 48)), 16, shuffle=True, generator=order,
                                             num_workers=self.workers), epochs, report)  # fmt: skip
        return {"val_accuracy": scores(network, *images_of(1, 30)).mean()}

    def _epochs(self, network: nn.Module, loader: Any, epochs: int, report: Any) -> None:
        optimizer = torch.optim.SGD(network.parameters(), lr=self.lr)
        for epoch in range(1, epochs + 1):
            network.train()
            for images, labels in loader:
                optimizer.zero_grad()
                nn.functional.cross_entropy(network(images), labels).backward()
                optimizer.step()
            found = {"val_accuracy": scores(network, *images_of(1, 30)).mean(), "gone": float("nan")}
            if report(epoch, found) == "stop":
                break


class Tested(Plain):
    def test(self, network: nn.Module) -> dict[str, float]:
        return {"val_accuracy": float(scores(network, *images_of(2, 40)).mean())}


class TestedByImage(Plain):
    def test(self, network: nn.Module) -> dict[str, Any]:
        return {"val_accuracy": scores(network, *images_of(2, 40))}

    def images(self) -> Tensor:
        return images_of(1, 30)[0]


class TestedByGroups(Plain):
    def test(self, network: nn.Module, without: int | None) -> dict[str, float]:
        kept = torch.arange(40) % 20 != (-1 if without is None else without)
        return {"val_accuracy": float(scores(network, *images_of(2, 40))[kept].mean())}


def with_data(network: nn.Module, *, epochs: int, report: Any, data: Any, seed: int, recipe: Any) -> None:
    """A loop over the data set of the search; it returns nothing."""
    optimizer = torch.optim.SGD(network.parameters(), lr=recipe.lr)
    for epoch in range(1, epochs + 1):
        network.train()
        for images, labels in data.train:
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(images), labels).backward()
            optimizer.step()
        found = torch.cat([scores(network, images, labels) for images, labels in data.val])
        report(epoch, {"val_accuracy": found.mean(), "val_images": len(found)})


def test(network: nn.Module, loader: Any) -> float:  # as in many scripts, and no test function of a trainer
    raise AssertionError("it is not to be called")


test.__test__ = False  # type: ignore[attr-defined]
Tested.__test__ = TestedByImage.__test__ = TestedByGroups.__test__ = False  # type: ignore[attr-defined]


def step(network: nn.Module) -> None:
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(0.9)


def failing(network: nn.Module, *, epochs: int, report: Any) -> None:
    report(1, {"val_accuracy": 0.5})
    raise ValueError("no such file")


def leaving(network: nn.Module) -> None:
    sys.exit("it was enough")


def stubborn(network: nn.Module, *, epochs: int, report: Any) -> dict[str, float]:
    """Hears no stop."""
    for epoch in range(1, epochs + 1):
        step(network)
        report(epoch, {"val_accuracy": epoch / 10})
    return {"val_accuracy": 1.0}


def silent(network: nn.Module) -> dict[str, float]:
    step(network)
    return {"val_accuracy": 0.5}


def patient(network: nn.Module, *, report: Any) -> None:
    step(network)
    report(1, {"val_accuracy": 0.5})


def lazy(network: nn.Module) -> dict[str, float]:
    return {"val_accuracy": 0.5}


def mute(network: nn.Module) -> None:
    step(network)


def changing(network: nn.Module) -> dict[str, float]:
    step(network)
    network.extra = nn.Linear(2, 2)
    return {"val_accuracy": 0.5}


def misspelt(network: nn.Module) -> dict[str, float]:
    step(network)
    return {"val_acuracy": 0.5}


def wordy(network: nn.Module) -> str:
    step(network)
    return "0.5"


def listing(network: nn.Module) -> dict[str, Any]:
    step(network)
    return {"val_accuracy": [0.5, 0.6]}


def infinite(network: nn.Module) -> dict[str, float]:
    step(network)
    return {"val_accuracy": float("nan")}


def counting_from_zero(network: nn.Module, *, report: Any) -> None:
    report(0, {"val_accuracy": 0.5})


def endless(network: nn.Module, *, epochs: int, report: Any) -> None:
    for epoch in range(1, epochs + 2):
        report(epoch, {"val_accuracy": 0.5})


def no_network(*, seed: int) -> None: ...


def greedy(network: nn.Module, *, optimizer: Any) -> None: ...


NUMBER = 3
