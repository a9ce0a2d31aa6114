"""Does the closed form equal the trace, for every block on ten networks? costs.csv.

python experiments/blocks/costs.py [--only resnet20,...]

Each block stands at every unit of a network (r=16 where it has a width); the closed form is the sum over its units, the
trace is one of the whole network that was built. Networks that are in costs.csv are left alone.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pandas as pd

import se_nas
from se_nas.commands.describe import describe
from se_nas.core.blocks import BLOCKS
from se_nas.core.errors import CostError, SeNasError
from se_nas.core.trial import Target
from se_nas.training.provenance import commit, versions

FILE = Path(__file__).parent / "costs.csv"
NETWORKS = {
    "resnet20": "3,32,32",
    "timm:vgg11_bn": "3,64,64",
    "timm:resnet50": "3,64,64",
    "timm:efficientnet_b0": "3,64,64",
    "timm:regnety_002": "3,64,64",
    "timm:convnext_atto": "3,64,64",
    "timm:repvgg_a0": "3,64,64",
    "torchvision:mobilenet_v2": "3,64,64",
    "torchvision:shufflenet_v2_x0_5": "3,64,64",
    "torchvision:googlenet": "3,64,64",
    "ultralytics:yolo11n.yaml": "3,64,64",
}


def rows_of(backbone: str, shape: str) -> list[dict[str, object]]:
    found = []
    for block in BLOCKS:
        row: dict[str, object] = {"network": backbone, "input": shape.replace(",", "x"), "block": block}
        try:
            catalogue = describe(Target(target=backbone), input_shape=shape, space={"blocks": [block]})
            if isinstance(catalogue.costs, CostError):
                raise catalogue.costs
            space = catalogue.space
            label = f"all:16:{block}" if BLOCKS[block].width else f"all:{block}"
            placement = space.parse(label)
            closed = catalogue.costs(placement)
            built = catalogue.network(placement)
            traced = se_nas.cost(built, input_shape=catalogue.input_shape)
            row |= {"units": placement.blocks, "params": closed.params, "macs": closed.macs,
                    "params_differ": closed.params - traced.params, "macs_differ": closed.macs - traced.macs,
                    "activations_differ": closed.activations - traced.activations, "why": ""}  # fmt: skip
        except SeNasError as error:
            row["why"] = error.what
        found.append(row | {"commit": commit(), **versions()})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(NETWORKS))
    given = parser.parse_args()
    before = pd.read_csv(FILE) if FILE.is_file() else pd.DataFrame({"network": []})
    for name in given.only.split(","):
        if name in set(before["network"]):
            continue
        before = pd.concat([before, pd.DataFrame(rows_of(name, NETWORKS[name]))])
        before.to_csv(FILE, index=False)
        print(name, flush=True)
    differ = [c for c in before.columns if c.endswith("_differ")]
    print(before.pivot(index="network", columns="block", values="units").to_string())
    print(before[differ].abs().max().to_string())
    print(before[before["why"].fillna("") != ""][["network", "block", "why"]].to_string())


if __name__ == "__main__":
    main()
