"""Plain networks with our SE blocks against the library's own SE networks, weights copied; writes twins.csv.

python experiments/real_networks/twins.py [NAME ...]

The plain network is the library's own where it has one with the same layers; else the SE network with the library's SE
modules exchanged for identities. In both, se-nas finds the units, and puts in its blocks at their default positions.
"""

from __future__ import annotations

import copy
import csv
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from se_nas.core.placement import Choice, Unit
from se_nas.insertion.block import SEBlock
from se_nas.insertion.discover import find_units
from se_nas.insertion.insert import insert_choices

SEED = 0
SHAPE = (3, 64, 64)
SE_CLASSES = ("SEModule", "SqueezeExcite", "SqueezeExcitation", "SqueezeExciteCl")
FILE = Path(__file__).with_name("twins.csv")


@dataclass(frozen=True)
class Pair:
    """An SE network of a library, its plain twin if there is one, and how the library rounds C / r."""

    twin: str
    plain: str = ""
    reduction: float = 16
    rounding: str = "floor"
    library: str = "timm"
    gain: float = 1.0
    """What the library multiplies the gate with."""


EIGHT, MOBILE = "multiple_of_8", "mobilenet"
PAIRS = (
    Pair("seresnet18", "resnet18", rounding=EIGHT),
    Pair("seresnet34", "resnet34", rounding=EIGHT),
    Pair("seresnet50", "resnet50", rounding=EIGHT),
    Pair("seresnext50_32x4d", "resnext50_32x4d", rounding=EIGHT),
    Pair("seresnext101_32x8d", "resnext101_32x8d", rounding=EIGHT),
    Pair("seresnet50t", "resnet50t", rounding=EIGHT),
    Pair("seresnext26d_32x4d", rounding=EIGHT),
    Pair("seresnetaa50d", "resnetaa50d", rounding=EIGHT),
    Pair("legacy_seresnet18"),
    Pair("legacy_seresnet50"),
    Pair("legacy_seresnext26_32x4d"),
    Pair("legacy_senet154"),
    Pair("seresnext26ts", "resnext26ts", rounding=EIGHT),
    Pair("seresnet33ts", rounding=EIGHT),
    Pair("nf_seresnet26", "nf_resnet26", rounding=EIGHT, gain=2.0),
    Pair("nf_seresnet50", "nf_resnet50", rounding=EIGHT, gain=2.0),
    Pair("sedarknet21", "darknet21", rounding=EIGHT),
    Pair("cs3sedarknet_l", reduction=4, rounding=EIGHT),
    Pair("cs3se_edgenet_x", "cs3edgenet_x", reduction=4, rounding=EIGHT),
    Pair("regnety_002", reduction=4),
    Pair("regnety_004", reduction=4),
    Pair("regnetz_005", reduction=4),
    Pair("efficientnet_b0", reduction=4),
    Pair("efficientnet_b1", reduction=4),
    Pair("semnasnet_100", reduction=4),
    Pair("mnasnet_small", reduction=4),
    Pair("mobilenetv3_small_100", reduction=4, rounding=MOBILE),
    Pair("mobilenetv3_large_100", reduction=4, rounding=MOBILE),
    Pair("ghostnet_100", reduction=4, rounding=MOBILE),
    Pair("lcnet_100", reduction=4, rounding=MOBILE),
    Pair("mobilenet_v3_small", reduction=4, rounding=MOBILE, library="torchvision"),
    Pair("mobilenet_v3_large", reduction=4, rounding=MOBILE, library="torchvision"),
    Pair("efficientnet_b0", reduction=4, library="torchvision"),
    Pair("efficientnet_b1", reduction=4, library="torchvision"),
    Pair("regnet_y_400mf", reduction=4, library="torchvision"),
    Pair("regnet_y_800mf", reduction=4, library="torchvision"),
)


def build(library: str, name: str) -> nn.Module:
    """A network of a library with weights from the seed, and batch norms that hide nothing."""
    torch.manual_seed(SEED)
    if library == "timm":
        import timm

        model: nn.Module = timm.create_model(name)
    else:
        import torchvision

        model = torchvision.models.get_model(name, weights=None)
    for key, value in model.state_dict().items():
        if key.endswith("gain"):
            value.uniform_(0.5, 1.0)
        elif value.dim() == 1 and key.endswith("weight"):
            value.uniform_(0.8, 1.2)
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momentum = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model.train()(torch.rand(8, *SHAPE))
    for norm, before in zip(norms, momentum, strict=True):
        norm.momentum = before
    return model.eval()


def own_blocks(model: nn.Module) -> dict[str, nn.Module]:
    """The library's SE modules by path."""
    return {path: m for path, m in model.named_modules() if type(m).__name__ in SE_CLASSES}


def plain_of(pair: Pair, twin: nn.Module) -> nn.Module:
    """The network without SE, with the weights of the twin."""
    blocks = own_blocks(twin)
    weights = {
        key: value for key, value in twin.state_dict().items() if not any(key.startswith(f"{path}.") for path in blocks)
    }
    if pair.plain:
        plain = build(pair.library, pair.plain)
        plain.load_state_dict(weights)
        return plain
    plain = copy.deepcopy(twin)
    for path in blocks:
        parent, _, name = path.rpartition(".")
        setattr(plain.get_submodule(parent), name, nn.Identity())
    return plain


def layers(block: nn.Module) -> tuple[nn.Module, nn.Module]:
    """The two layers of a library's SE module."""
    first, second = (m for m in block.modules() if isinstance(m, (nn.Conv2d, nn.Linear)))
    return first, second


def with_relu(model: nn.Module) -> str:
    """Give the SE modules of a network ReLU, as our blocks have it, and say what they had."""
    had = set()
    for block in own_blocks(model).values():
        for name, child in block.named_children():
            if isinstance(child, (nn.SiLU, nn.LeakyReLU, nn.Hardswish, nn.GELU)):
                had.add(type(child).__name__)
                setattr(block, name, nn.ReLU())
    return " ".join(sorted(had))


def compare(pair: Pair) -> dict[str, Any]:
    """Blocks, widths, parameters and output of a plain network with our blocks, against its twin."""
    twin = build(pair.library, pair.twin)
    activation = with_relu(twin)
    ours = plain_of(pair, twin)
    units = find_units(ours, SHAPE)
    theirs = own_blocks(twin)
    homes = [(unit, path) for path in theirs for unit in units if _holds(unit, path)]
    assert [path for _, path in homes] == list(theirs), "not one unit for each SE block"
    choices = {}
    for unit, path in homes:
        first, _ = layers(theirs[path])
        gate = "hard_sigmoid" if any(isinstance(m, nn.Hardsigmoid) for m in theirs[path].modules()) else "sigmoid"
        choice = Choice.se(
            unit.chosen.width,
            pair.reduction,
            rounding=pair.rounding,
            position=unit.position,
            gate=gate,
            gate_scale=pair.gain,
            bias=first.bias is not None,
        )
        choices[unit.name] = choice
    widths = sum(choices[u.name].squeeze_channels == layers(theirs[p])[0].weight.shape[0] for u, p in homes)
    places = sum(unit.chosen.channels == layers(theirs[path])[1].weight.shape[0] for unit, path in homes)
    row = {
        "twin": f"{pair.library}:{pair.twin}",
        "plain": pair.plain or "SE taken out",
        "position": " ".join(sorted({unit.position for unit, _ in homes})),
        "units": len(units),
        "blocks": len(theirs),
        "channels_equal": places,
        "widths_equal": widths,
        "activation_made_relu": activation,
    }
    if (widths, places) != (len(theirs), len(theirs)):
        return {**row, "params_equal": "", "difference": ""}
    insert_choices(ours, units, choices, seed=SEED)
    sites = {unit.name: unit.chosen for unit, _ in homes}
    copied = _copy(ours, [(sites[u.name].module, theirs[p]) for u, p in homes])
    assert copied == len(theirs)
    images = torch.rand(2, *SHAPE, generator=torch.Generator().manual_seed(SEED)).double()
    with torch.no_grad():
        a, b = twin.double()(images), ours.double()(images)
    return {
        **row,
        "params_equal": sum(p.numel() for p in twin.parameters()) == sum(p.numel() for p in ours.parameters()),
        "difference": f"{float((a - b).abs().max() / a.abs().max()):.1e}",
    }


def _holds(unit: Unit, path: str) -> bool:
    """Whether a unit is in the block that an SE module is in."""
    return f"{path}.".startswith(f"{unit.name.partition(':')[0]}.")


def _copy(ours: nn.Module, pairs: list[tuple[str, nn.Module]]) -> int:
    """Copy the weights of the twin's SE modules into our blocks, which are in the modules named."""
    done = 0
    for path, block in pairs:
        (mine,) = (m for m in ours.get_submodule(path).children() if isinstance(m, SEBlock))
        first, second = layers(block)
        state = {f"fc{i}.{k}": v.flatten(1) if k == "weight" else v for i, layer in ((1, first), (2, second))
                 for k, v in layer.state_dict().items()}  # fmt: skip
        mine.load_state_dict(state)
        done += 1
    return done


def main() -> None:
    warnings.simplefilter("ignore")  # those of the libraries
    torch.set_num_threads(1)
    rows = []
    for pair in PAIRS:
        if sys.argv[1:] and pair.twin not in sys.argv[1:]:
            continue
        try:
            row = compare(pair)
        except Exception as error:  # belongs in the table
            row = {"twin": f"{pair.library}:{pair.twin}", "error": f"{type(error).__name__}: {error}"[:200]}
        rows.append(row)
        print(row, flush=True)
    if not sys.argv[1:]:
        with FILE.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
