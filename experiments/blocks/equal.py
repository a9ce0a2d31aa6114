"""Do the blocks give what the same block of timm, or its paper's equations, give? equal.csv: the largest difference.

python experiments/blocks/equal.py [--inputs 20]

Of each block the weights are copied into the reference (`tests/insertion/test_attention.py` has them), both run on the
same random tensors, and the largest difference of a number is kept beside the largest number of the output.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

import pandas as pd
import timm
import torch

from se_nas.core.blocks import BLOCKS
from se_nas.core.placement import Choice
from se_nas.insertion.attention.build import build_block
from se_nas.training.provenance import commit, versions

TESTS = Path(__file__).parents[2] / "tests"
sys.path[:0] = [str(TESTS), str(TESTS / "insertion")]
KNOWN = importlib.import_module("test_attention")
FILE = Path(__file__).parent / "equal.csv"
BY_HAND = ("gct", "srm", "simam", "scse")


def row_of(name: str, inputs: int) -> dict[str, object]:
    """The largest difference over random weights and tensors, in float32."""
    largest, most = 0.0, 0.0
    generator = torch.Generator().manual_seed(0)
    site = KNOWN.site_of(12, (7, 5))
    ours = KNOWN.lively(build_block(site, Choice.se(12, 4, block=name, init="plain")))
    theirs = KNOWN.REFERENCES[name](ours)
    for _ in range(inputs):
        u = torch.randn(3, 12, 7, 5, generator=generator)
        with torch.no_grad():
            expected = theirs(u)
            largest = max(largest, float((ours(u) - expected).abs().max()))
            most = max(most, float(expected.abs().max()))
    reference = "equations" if name in BY_HAND else f"timm {timm.__version__}"
    return {"block": name, "reference": reference, "inputs": inputs, "largest_difference": largest, "largest": most}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=20)
    given = parser.parse_args()
    torch.set_num_threads(1)
    table = pd.DataFrame([row_of(name, given.inputs) for name in BLOCKS])
    table["torch"], table["commit"] = versions()["torch"], commit()
    table.to_csv(FILE, index=False, float_format="%.3g")
    print(table.to_string())


if __name__ == "__main__":
    main()
