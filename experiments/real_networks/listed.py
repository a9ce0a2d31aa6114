"""Find the SE sites of 55 CNNs of other libraries, insert and check a block at each; writes networks.csv.

python experiments/real_networks/listed.py [NAME ...]
"""

from __future__ import annotations

import argparse
import copy
import csv
import os
import sys
import time
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from torch import nn

from se_nas.core.placement import Choice, Unit
from se_nas.insertion.discover import find_units
from se_nas.insertion.insert import insert_choices

SEED = 0
FILE = Path(__file__).with_name("networks.csv")


@dataclass(frozen=True)
class Row:
    """One network. `blocks` are the library's class names of its blocks; a unit is right if it lies in exactly one of
    them, and every block has one. `twin` is the library's own SE version (r=16, with biases): it must have the same
    number of SE blocks, on the same channels, and the same number of parameters."""

    library: str
    name: str
    shape: tuple[int, ...] = (3, 224, 224)
    blocks: tuple[str, ...] = ()
    twin: str | None = None
    extra: str = ""
    """Modules that are units too but of no such class: paths, separated by blanks."""


PCV, HF, MONAI = "pytorchcv", "transformers", "monai"
SMALL = (3, 32, 32)
ROWS = (
    Row(PCV, "resnet18", blocks=("ResUnit",), twin="seresnet18"),
    Row(PCV, "resnet50", blocks=("ResUnit",), twin="seresnet50"),
    Row(PCV, "resnet50b", blocks=("ResUnit",), twin="seresnet50b"),
    Row(PCV, "resnet101", blocks=("ResUnit",), twin="seresnet101"),
    Row(PCV, "resnetbc26b", blocks=("ResUnit",), twin="seresnetbc26b"),
    Row(PCV, "resnet20_cifar10", SMALL, ("ResUnit",), twin="seresnet20_cifar10"),
    Row(PCV, "resnet164bn_cifar10", SMALL, ("ResUnit",), twin="seresnet164bn_cifar10"),
    Row(PCV, "preresnet18", blocks=("PreResUnit", "PreResBlock"), twin="sepreresnet18"),
    Row(PCV, "preresnet50", blocks=("PreResBottleneck",), twin="sepreresnet50"),
    Row(PCV, "resnext50_32x4d", blocks=("ResNeXtUnit",), twin="seresnext50_32x4d"),
    Row(PCV, "resnext101_32x4d", blocks=("ResNeXtUnit",), twin="seresnext101_32x4d"),
    Row(PCV, "shufflenetv2_w1", blocks=("ShuffleUnit",), twin="shufflenetv2_w1 use_se"),
    Row(PCV, "shufflenet_g3_w1", blocks=("ShuffleUnit",)),
    Row(PCV, "wrn50_2", blocks=("WRNUnit",)),
    Row(PCV, "wrn16_10_cifar10", SMALL, ("PreResUnit",)),
    Row(PCV, "pyramidnet110_a48_cifar10", SMALL, ("PyrUnit",)),
    Row(PCV, "resneta18", blocks=("ResAUnit",)),
    Row(PCV, "sknet50", blocks=("SKNetUnit",)),
    Row(PCV, "resnesta50", blocks=("ResNeStAUnit",)),
    Row(PCV, "airnet50_1x64d_r2", blocks=("AirUnit",)),
    Row(PCV, "cbam_resnet18", blocks=("CbamResUnit",)),
    Row(PCV, "dla34", blocks=("DLAResBlock",)),
    Row(PCV, "darknet53", blocks=("DarkUnit",)),
    Row(PCV, "inceptionresnetv2", (3, 299, 299), ("InceptionAUnit", "InceptionBUnit", "InceptionCUnit",
        "ReductionAUnit", "ReductionBUnit", "InceptBlock5b")),
    Row(PCV, "vgg16", blocks=("ConvBlock",)),
    Row(PCV, "bn_vgg19", blocks=("ConvBlock",)),
    Row(PCV, "alexnet", blocks=("AlexConv",)),
    Row(PCV, "bninception", blocks=("Concurrent",)),
    Row(PCV, "inceptionv3", (3, 299, 299), ("InceptionAUnit", "ReductionAUnit", "InceptionBUnit", "ReductionBUnit",
        "InceptionCUnit")),
    Row(PCV, "squeezenet_v1_0", blocks=("FireUnit",)),
    Row(PCV, "mobilenet_w1", blocks=("DwsConvBlock",)),
    Row(PCV, "mobilenetv2_w1", blocks=("LinearBottleneck",)),
    Row(PCV, "mnasnet_b1", blocks=("DwsExpSEResUnit",)),
    Row(PCV, "densenet121", blocks=("DenseUnit",)),
    Row(PCV, "seresnet50", blocks=("SEResUnit",)),
    Row(PCV, "senet154", blocks=("SENetUnit",)),
    Row(PCV, "efficientnet_b0", blocks=("EffiDwsConvUnit", "EffiInvResUnit")),
    Row(PCV, "mobilenetv3_large_w1", blocks=("MobileNetV3Unit",)),
    Row(PCV, "mixnet_s", blocks=("MixUnit",)),
    Row(PCV, "ghostnet", blocks=("GhostUnit",)),
    Row(HF, "resnet", blocks=("ResNetBottleNeckLayer",)),
    Row(HF, "regnet layer_type=x", blocks=("RegNetXLayer",)),
    Row(HF, "regnet layer_type=y", blocks=("RegNetYLayer",)),
    Row(HF, "convnext", blocks=("ConvNextLayer",)),
    Row(HF, "convnextv2", blocks=("ConvNextV2Layer",)),
    Row(HF, "mobilenet_v2", blocks=("MobileNetV2InvertedResidual",), extra="mobilenet_v2.conv_stem"),
    Row(HF, "efficientnet", blocks=("EfficientNetBlock",)),
    Row(HF, "bit", blocks=("BitPreActivationBottleneckLayer",)),
    Row(MONAI, "resnet18 3-D", (1, 32, 32, 32), ("ResNetBlock",)),
    Row(MONAI, "SEResNet50", (3, 64, 64), ("SEResNetBottleneck",)),
    Row(MONAI, "EfficientNet-B0", (3, 64, 64), ("MBConvBlock",)),
    Row(MONAI, "DenseNet121 3-D", (1, 32, 32, 32), ("_DenseLayer",)),
    Row(MONAI, "SegResNet 3-D", (1, 32, 32, 32), ("ResBlock",)),
    Row(MONAI, "UNet 3-D, residual", (1, 32, 32, 32), ("ResidualUnit",)),
    Row(MONAI, "HighResNet 3-D", (1, 16, 16, 16), ("HighResBlock",)),
)  # fmt: skip


def build(library: str, name: str) -> nn.Module:
    torch.manual_seed(SEED)
    if library == PCV:
        from pytorchcv.model_provider import get_model

        plain, _, option = name.partition(" ")
        model: nn.Module = get_model(plain, **({option: True} if option else {}))
        return model
    if library == HF:
        import transformers

        from se_nas.backbones.libraries import Logits

        kind, _, option = name.partition(" ")
        config = transformers.AutoConfig.for_model(kind, **dict([option.split("=")] if option else []))
        return Logits(transformers.AutoModelForImageClassification.from_config(config))
    return monai(name)


def monai(name: str) -> nn.Module:
    import monai.networks.nets as nets

    made: dict[str, Any] = {
        "resnet18 3-D": lambda: nets.resnet18(spatial_dims=3, n_input_channels=1, num_classes=2),
        "SEResNet50": lambda: nets.SEResNet50(spatial_dims=2, in_channels=3),
        "EfficientNet-B0": lambda: nets.EfficientNetBN("efficientnet-b0", pretrained=False),
        "DenseNet121 3-D": lambda: nets.DenseNet121(spatial_dims=3, in_channels=1, out_channels=2),
        "SegResNet 3-D": lambda: nets.SegResNet(spatial_dims=3, init_filters=8),
        "UNet 3-D, residual": lambda: nets.UNet(
            spatial_dims=3, in_channels=1, out_channels=2, channels=(8, 16, 32), strides=(2, 2), num_res_units=2
        ),
        "HighResNet 3-D": lambda: nets.HighResNet(),
    }
    model: nn.Module = made[name]()
    return model


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def right_units(row: Row, model: nn.Module, units: tuple[Unit, ...]) -> tuple[int, int]:
    """How many units are the only one in a block of the library, and how many blocks there are."""
    paths = [path for path, module in model.named_modules() if type(module).__name__ in row.blocks]
    paths = [p for p in paths if not any(p.startswith(f"{other}.") for other in paths)]
    prefix = "model." if row.library == HF else ""
    paths += [prefix + path for path in row.extra.split()]
    homes = Counter(home(unit, paths) for unit in units)
    return sum(1 for path, count in homes.items() if path and count == 1), len(paths)


def home(unit: Unit, paths: list[str]) -> str:
    """The block that holds a unit: its name, or the module of its site, lies in it."""
    for path in paths:
        if any(f"{name}.".startswith(f"{path}.") for name in (unit.sites[0].module, unit.name)):
            return path
    return ""


def twin_agrees(row: Row, model: nn.Module, units: tuple[Unit, ...]) -> str:
    assert row.twin is not None
    twin = build(row.library, row.twin)
    given = find_units(twin, row.shape)
    own = [module for module in twin.modules() if type(module).__name__ == "SEBlock"]
    ours = copy.deepcopy(model)
    choices = {unit.name: Choice.se(unit.sites[0].channels, 16, bias=True, init="plain") for unit in units}
    insert_choices(ours, units, choices, seed=SEED)
    assert len(own) == len(units), "another number of SE blocks"
    assert [u.sites[0].channels for u in given] == [u.sites[0].channels for u in units], "other channels"
    assert all(unit.existing for unit in given), "not recognised in the twin"
    assert parameters(ours) == parameters(twin), f"{parameters(ours)} against {parameters(twin)} parameters"
    return f"blocks, channels and {parameters(twin):,} params as {row.twin}"


def difference(model: nn.Module, units: tuple[Unit, ...], shape: tuple[int, ...]) -> tuple[float, int]:
    """Largest change of the output when every unit gets a block that starts as the identity, in eval mode."""
    images = torch.rand(1, *shape, generator=torch.Generator().manual_seed(SEED))
    plain, candidate = model.eval(), copy.deepcopy(model)
    if any(unit.existing for unit in units):
        plain = copy.deepcopy(model)
        insert_choices(plain, units, {}, seed=SEED)
    choices = {unit.name: Choice.se(unit.sites[0].channels, 2, init="identity") for unit in units}
    insert_choices(candidate, units, choices, seed=SEED)
    increment = sum(2 * u.sites[0].channels * (u.sites[0].channels // 2) for u in units)
    assert parameters(candidate) == parameters(plain) + increment, "not the closed-form number of parameters"
    with torch.no_grad():
        return max(
            (a - b).abs().max().item() for a, b in zip(outputs(plain(images)), outputs(candidate(images)), strict=True)
        ), increment


def outputs(result: Any) -> list[torch.Tensor]:
    return [result] if isinstance(result, torch.Tensor) else list(result)


def measure(row: Row) -> dict[str, Any]:
    model = build(row.library, row.name).eval()
    start = time.perf_counter()
    units = find_units(model, row.shape)
    seconds = time.perf_counter() - start
    right, blocks = right_units(row, model, units)
    checked = "one unit in each " + " or ".join(row.blocks)
    if row.twin:
        checked += "; " + twin_agrees(row, model, units)
    change, _ = difference(model, units, row.shape)
    return {
        "network": row.name,
        "library": row.library,
        "input": "x".join(map(str, row.shape)),
        "units": len(units),
        "right": right,
        "blocks": blocks,
        "kinds": " ".join(f"{kind}:{count}" for kind, count in Counter(unit.kind for unit in units).items()),
        "se_already": sum(unit.existing is not None for unit in units),
        "checked": checked,
        "identity_difference": change,
        "seconds": round(seconds, 2),
        "seed": SEED,
        "torch": torch.__version__,
        "python": ".".join(map(str, sys.version_info[:3])),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="only these networks, and no file")
    names = parser.parse_args().names
    warnings.simplefilter("ignore")  # those of the libraries
    torch.set_num_threads(1)
    results = []
    for row in ROWS:
        if names and row.name not in names:
            continue
        results.append(result := measure(row))
        print(*(result[k] for k in ("library", "network", "units", "right", "blocks", "kinds", "se_already", "checked",
              "identity_difference", "seconds")), sep=" | ", flush=True)  # fmt: skip
    if not names:
        with FILE.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(results[0]))
            writer.writeheader()
            writer.writerows(results)


if __name__ == "__main__":
    main()
