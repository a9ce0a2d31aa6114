"""The costs in the tables of the SE paper, computed on pytorchcv's networks and set beside the paper's.

Source: Hu et al., "Squeeze-and-Excitation Networks", arXiv 1709.01507 v4: table 2, table 3, and the ablations of
section 6. Usage: python experiments/paper_tables/run.py (writes tables.csv beside this file)
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from torch import nn

from se_nas.backbones import build_backbone
from se_nas.catalogue import describe
from se_nas.records import Target

HERE = Path(__file__).parent

# network, image side, GFLOPs plain and with SE at r=16, millions of parameters plain and with SE (None: not stated)
NETWORKS = [
    ("resnet50", 224, 3.86, 3.87, None, None),
    ("resnet101", 224, 7.58, 7.60, None, None),
    ("resnet152", 224, 11.30, 11.32, None, None),
    ("resnext50_32x4d", 224, 4.24, 4.25, None, None),
    ("resnext101_32x4d", 224, 7.99, 8.00, None, None),
    ("bn_vgg16", 224, 15.47, 15.48, None, None),
    ("bninception", 224, 2.03, 2.04, None, None),
    ("inceptionresnetv2", 299, 11.75, 11.76, None, None),
    ("mobilenet_w1", 224, 0.569, 0.572, 4.2, 4.7),
    ("shufflenet_g3_w1", 224, 0.140, 0.142, 1.8, 2.4),
]

# Ablations on ResNet-50: name, placement, position, millions of parameters
ABLATIONS = [
    ("no SE", "none", "standard", 25.6),
    ("r=2", "all:2", "standard", 45.7),
    ("r=4", "all:4", "standard", 35.7),
    ("r=8", "all:8", "standard", 30.7),
    ("r=16", "all:16", "standard", 28.1),
    ("r=32", "all:32", "standard", 26.9),
    ("stage 2", "stage1=16", "standard", 25.6),
    ("stage 3", "stage2=16", "standard", 25.7),
    ("stage 4", "stage3=16", "standard", 26.4),
    ("all stages", "all:16", "standard", 28.1),
    ("on the 3x3 convolution", "all:16", "inner", 25.8),
]

WHY = {
    "resnext50_32x4d": "pytorchcv has the stride in the 3x3 convolution, as the ResNeXt paper; the difference is the same with and without SE",
    "resnext101_32x4d": "pytorchcv has the stride in the 3x3 convolution; the difference is the same with and without SE",
    "inceptionresnetv2": "another network: pytorchcv follows the released TensorFlow slim model, which is larger than the paper's own "
    "re-implementation; the difference is the same with and without SE",
    "shufflenet_g3_w1": "the paper prints three digits of a rounded count; the convolutions of this network alone are what we count",
}


def statistics_of(name: str, side: int) -> int:
    """BatchNorm running means and variances, which the paper's parameter counts include."""
    model = build_backbone(Target(target=f"pytorchcv:{name}"), num_classes=None, input_shape=(3, side, side), seed=0)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    return sum(2 * m.num_features for m in norms)


def row(
    table: str, network: str, side: int, placement: str, position: str, paper: dict[str, float | None], label: str
) -> dict:
    found = describe(
        Target(target=f"pytorchcv:{network}"),
        input_shape=f"3,{side},{side}",
        space={"reductions": ["none", 16], "position": position},
    )
    content = found.cost(placement)
    with_statistics = content["params"] + statistics_of(network, side)
    line = {
        "table": table, "network": network, "row": label, "placement": placement, "position": position,
        "params": content["params"], "params_with_statistics_M": round(with_statistics / 1e6, 3), "paper_params_M": paper.get("params"),
        "macs": content["macs"], "gflops": round(content["gflops"], 4), "paper_gflops": paper.get("gflops"),
    }  # fmt: skip
    wrong = []
    if paper.get("gflops") is not None and abs(round(content["gflops"], 4) - paper["gflops"]) > 0.01:
        wrong.append("gflops")
    if paper.get("params") is not None and abs(with_statistics / 1e6 - paper["params"]) > 0.1:
        wrong.append("params")
    line["agrees"] = not wrong
    line["why_not"] = WHY.get(network, "not explained") if wrong else ""
    return line


def main() -> None:
    rows = []
    for network, side, plain, with_se, params, params_se in NETWORKS:
        for placement, gflops, millions in (("none", plain, params), ("all:16", with_se, params_se)):
            paper = {"gflops": gflops, "params": millions}
            rows.append(row("networks", network, side, placement, "standard", paper, placement))
    for label, placement, position, millions in ABLATIONS:
        rows.append(row("ablations", "resnet50", 224, placement, position, {"params": millions}, label))
    frame = pd.DataFrame(rows)
    frame.to_csv(HERE / "tables.csv", index=False)
    shown = ["network", "row", "params_with_statistics_M", "paper_params_M", "gflops", "paper_gflops", "agrees"]
    print(frame[shown].to_string(index=False))
    print(f"{int(frame['agrees'].sum())} of {len(frame)} rows agree within 0.01 GFLOPs and 0.1 million parameters")


if __name__ == "__main__":
    main()
