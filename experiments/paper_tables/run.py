"""The costs in the tables of the SE paper, computed on pytorchcv's networks and set beside the paper's.

Source: Hu et al., "Squeeze-and-Excitation Networks", arXiv 1709.01507 v4: table 2, table 3, and the ablations of
section 6. Usage: python experiments/paper_tables/run.py (writes tables.csv beside this file)
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from torch import nn

from se_nas.backbones.build import build_backbone
from se_nas.commands.describe import describe
from se_nas.core.trial import Target

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

# Rows that do not agree, and why. The sums of residual branches cost nothing in our convention; the paper's plain
# counts fit better with one for each of their elements, its SE counts with the squeeze or the rescaling alone.
WHY = {
    ("resnet152", "none"): "accounting: with one for each of the 13.1 million residual additions it would be 11.296",
    (
        "resnext101_32x4d",
        "none",
    ): "accounting: with one for each of the 8.9 million residual additions it would be 7.979",
    ("bn_vgg16", "all:16"): "accounting: we count squeeze and rescaling, 13.5 million each; with one of them 15.484",
    (
        "inceptionresnetv2",
        "none",
    ): "another network: pytorchcv has the released model, which is larger than the paper's",
    ("inceptionresnetv2", "all:16"): "another network, as without SE; the difference that SE makes is 0.03 here",
    ("shufflenet_g3_w1", "all:16"): "another network: pytorchcv's has 0.09 million parameters more also without SE",
}


def statistics_of(name: str, side: int) -> int:
    """BatchNorm running means and variances, which the paper's parameter counts include."""
    model = build_backbone(Target(target=f"pytorchcv:{name}"), num_classes=None, input_shape=(3, side, side), seed=0)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    return sum(2 * m.num_features for m in norms)


def row(network: str, side: int, label: str, placement: str, position: str, paper: dict[str, float | None]) -> dict:
    found = describe(
        Target(target=f"pytorchcv:{network}"),
        input_shape=f"3,{side},{side}",
        space={"reductions": ["none", 16], "position": position, "init": "plain"},
    )
    content = found.cost(placement)
    millions = (content["params"] + statistics_of(network, side)) / 1e6
    agrees = (paper["gflops"] is None or abs(content["gflops"] - paper["gflops"]) <= 0.01) and (
        paper["params"] is None or abs(millions - paper["params"]) <= 0.1
    )
    return {
        "network": network,
        "row": label,
        "placement": placement,
        "position": position,
        "params": content["params"],
        "params_with_statistics_M": round(millions, 3),
        "paper_params_M": paper["params"],
        "macs": content["macs"],
        "gflops": round(content["gflops"], 4),
        "paper_gflops": paper["gflops"],
        "agrees": agrees,
        "why_not": "" if agrees else WHY.get((network, placement), "not explained"),
    }


def main() -> None:
    rows = []
    for network, side, plain, with_se, params, params_se in NETWORKS:
        for placement, gflops, millions in (("none", plain, params), ("all:16", with_se, params_se)):
            paper = {"gflops": gflops, "params": millions}
            rows.append(row(network, side, placement, placement, "standard", paper))
    for label, placement, position, millions in ABLATIONS:
        rows.append(row("resnet50", 224, label, placement, position, {"params": millions, "gflops": None}))
    frame = pd.DataFrame(rows)
    frame.to_csv(HERE / "tables.csv", index=False)
    shown = ["network", "row", "params_with_statistics_M", "paper_params_M", "gflops", "paper_gflops", "agrees"]
    print(frame[shown].to_string(index=False))
    print(f"{int(frame['agrees'].sum())} of {len(frame)} rows agree within 0.01 GFLOPs and 0.1 million parameters")


if __name__ == "__main__":
    main()
