"""Fifty training steps of candidates and of the shared network that stands for them: the largest differences.

python experiments/graph/equality.py
"""

from __future__ import annotations

import random
import warnings
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from se_nas.backbones.build import build_backbone
from se_nas.core.trial import Recipe, Target
from se_nas.insertion.discover import units_of
from se_nas.insertion.insert import build_candidate
from se_nas.space.space import Space
from se_nas.space.spec import read_space
from se_nas.training.classification import make_optimizer, make_schedule
from se_nas.training.supernet import SharedNetwork, widest_choices

STEPS, BATCH, RANDOM = 50, 16, 2
EVERYTHING = {
    "reductions": ["none", 16, 8, 4],
    "gate": ["sigmoid", "hard_sigmoid", "tanh", "relu"],
    "squeeze": ["avg", "max"],
    "position": ["standard", "pre", "post", "identity"],
    "bias": True,
}
RECIPES = {"sgd": Recipe(), "adamw": Recipe(optimizer="adamw", lr=1e-3, weight_decay=0.05)}
CASES: tuple[tuple[str, tuple[int, ...], Any, str], ...] = (
    ("resnet8", (1, 8, 8), "stagewise", "sgd"),
    ("resnet8", (1, 8, 8), EVERYTHING, "adamw"),
    ("resnet20", (1, 8, 8), "stagewise", "sgd"),
    ("pytorchcv:preresnet20_cifar10", (3, 16, 16), "stagewise", "sgd"),
    ("pytorchcv:seresnet20_cifar10", (3, 16, 16), {"reductions": ["none", 16, 8, 4]}, "sgd"),
)


def differences(name: str, shape: tuple[int, ...], spec: Any, recipe: Recipe, dtype: torch.dtype) -> list[float]:
    """Largest differences: loss of the first step, parameters and buffers after the last, outputs in eval mode,
    and the first of these for a candidate with one weight changed in its last bit (what training makes of rounding)."""
    target = Target(target=name)

    def backbone() -> nn.Module:
        return build_backbone(target, num_classes=10, input_shape=shape, seed=0)

    units = units_of(backbone(), shape, read_space(spec).units)
    space = Space(read_space(spec), units)
    shared = SharedNetwork(backbone(), units, widest_choices(space)).to(dtype)
    generator = random.Random(0)
    placements = [space.baseline, space.reference]
    placements += [space.placement(space.random_levels(generator)) for _ in range(RANDOM)]
    worst = [0.0] * 4
    for placement in placements:
        if not shared.fits(placement):
            continue
        made = [
            build_candidate(target, units, placement, num_classes=10, input_shape=shape, seed=seed).to(dtype)
            for seed in (1, 1, 2)
        ]
        candidate, nudged, sliced = made
        shared.take(candidate, placement)
        weight = next(nudged.parameters()).data.view(-1)
        weight[0] = torch.nextafter(weight[0], torch.tensor(10.0, dtype=dtype))
        first = [trained(network, shape, recipe, dtype) for network in (candidate, shared, nudged)]
        shared.give(sliced, placement)
        images = torch.randn(64, *shape, dtype=dtype)
        with torch.no_grad():
            outputs = [network.eval()(images) for network in (candidate, sliced)]
        found = [abs(first[0] - first[1]), distance(candidate, sliced), float((outputs[0] - outputs[1]).abs().max())]
        worst = [max(pair) for pair in zip(worst, [*found, distance(candidate, nudged)], strict=True)]
    return worst


def trained(network: nn.Module, shape: tuple[int, ...], recipe: Recipe, dtype: torch.dtype) -> float:
    generator = torch.Generator().manual_seed(0)
    optimizer = make_optimizer(network, recipe, fused=True)
    schedule = make_schedule(optimizer, recipe, STEPS)
    losses = []
    for _ in range(STEPS):
        images = torch.randn(BATCH, *shape, generator=generator, dtype=torch.float64).to(dtype)
        labels = torch.randint(0, 10, (BATCH,), generator=generator)
        loss = functional.cross_entropy(network.train()(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses[0]


def distance(a: nn.Module, b: nn.Module) -> float:
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return max(float((x.double() - y.double()).abs().max()) for x, y in pairs)


def main() -> None:
    """Print a table."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    print("| network | space | optimizer | type | first loss | weights | outputs | weights, one bit changed |")
    print("|---|---|---|---|---|---|---|---|")
    for name, shape, spec, optimizer in CASES:
        for dtype in (torch.float64, torch.float32):
            worst = differences(name, shape, spec, RECIPES[optimizer], dtype)
            space = spec if isinstance(spec, str) else "all settings" if "gate" in spec else "none, 16, 8, 4"
            numbers = " | ".join(f"{value:.0e}" for value in worst)
            print(f"| {name} | {space} | {optimizer} | {str(dtype)[6:]} | {numbers} |", flush=True)


if __name__ == "__main__":
    main()
