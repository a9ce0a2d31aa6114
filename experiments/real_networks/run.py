"""Find the SE sites of some 280 real CNNs, judge them by the libraries' own blocks, and insert a block at each.

python experiments/real_networks/run.py [--out FILE] [NAME ...]

Rows go to zoo.csv beside this file as they are done; what is there already is not done again.
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
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from blocks import judge
from torch import nn

from se_nas.core.placement import Choice, Unit
from se_nas.insertion.block import SEBlock
from se_nas.insertion.discover import survey
from se_nas.insertion.insert import insert_choices
from se_nas.space.exact_cost import CostModel

SEED = 0
HERE = Path(__file__).parent
COLUMNS = (
    "source", "name", "input", "units", "blocks", "right", "wrong", "missing", "undecided", "kinds", "se_already",
    "skipped", "identity_difference", "fused_blocks", "fused_difference", "priced", "seconds", "error", "classes",
)  # fmt: skip


def build(source: str, name: str) -> tuple[nn.Module, tuple[int, ...]]:
    """A network with random weights, and the shape of one image for it."""
    torch.manual_seed(SEED)
    if source == "timm":
        import timm

        model: nn.Module = timm.create_model(name)
        config = model.default_cfg
        fixed = config.get("fixed_input_size") or name in ("bat_resnext26ts", "haloregnetz_b")
        return model, tuple(config["input_size"]) if fixed else (3, 128, 128)
    if source == "torchvision":
        import torchvision

        plain = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
        size = 224 if name == "maxvit_t" else 128
        return torchvision.models.get_model(name, weights=None, **plain), (3, size, size)
    from ultralytics.nn import tasks

    kinds = {"cls": tasks.ClassificationModel, "seg": tasks.SegmentationModel}
    kind = kinds.get(name.rpartition("-")[2], tasks.DetectionModel)
    return kind(f"{name}.yaml", verbose=False), (3, 128, 128)


def tensors(result: Any) -> list[torch.Tensor]:
    """All tensors in what a network gives."""
    if isinstance(result, torch.Tensor):
        return [result]
    items = result.values() if isinstance(result, dict) else result if isinstance(result, (list, tuple)) else []
    return [tensor for item in items for tensor in tensors(item)]


def difference(model: nn.Module, units: tuple[Unit, ...], shape: tuple[int, ...]) -> float:
    """Largest change of the output when every unit gets a block that starts as the identity, in eval mode."""
    images = torch.rand(1, *shape, generator=torch.Generator().manual_seed(SEED))
    plain, candidate = copy.deepcopy(model).eval(), copy.deepcopy(model).eval()
    if any(unit.existing for unit in units):
        insert_choices(plain, units, {u.name: Choice(kind="keep") for u in units if inline(u)}, seed=SEED)
    choices = {
        u.name: Choice(kind="keep") if inline(u) else Choice.se(u.sites[0].channels, 2, init="identity") for u in units
    }
    insert_choices(candidate, units, choices, seed=SEED)
    with torch.no_grad():
        pairs = zip(tensors(plain(images)), tensors(candidate(images)), strict=True)
        return max((a.float() - b.float()).abs().max().item() for a, b in pairs)


FUSES = ("fuse", "reparameterize", "switch_to_deploy")


def fused(source: str, model: nn.Module, units: tuple[Unit, ...], shape: tuple[int, ...]) -> dict[str, Any]:
    """What the library's own fusing leaves of a network with an SE block at every unit: blocks, change of output.

    Empty for a network that has nothing to fuse.
    """
    if not any(hasattr(module, name) for module in model.modules() for name in FUSES):
        return {}
    images = torch.rand(1, *shape, generator=torch.Generator().manual_seed(SEED)).double()
    new = [u for u in units if not inline(u)]
    candidate = copy.deepcopy(model).eval()
    insert_choices(
        candidate, tuple(new), {u.name: Choice.se(u.sites[0].channels, 2, init="plain") for u in new}, seed=SEED
    )
    settle(candidate)
    candidate.double()  # fusing adds many small numbers
    ready = copy.deepcopy(candidate)
    if source == "timm":
        from timm.utils.model import reparameterize_model

        ready = reparameterize_model(ready)
    else:
        ready = ready.fuse(verbose=False)
    with torch.no_grad():
        # Only the first: detectors give what is for training no more once they are fused.
        pairs = [(tensors(candidate(images))[0], tensors(ready.double()(images))[0])]
    size = max(float(a.abs().max()) for a, _ in pairs)
    change = max(float((a - b).abs().max()) for a, b in pairs)
    kept = sum(isinstance(module, SEBlock) for module in ready.modules())
    return {"fused_blocks": f"{kept}/{len(new)}", "fused_difference": f"{change / max(size, 1.0):.1e}"}


def settle(model: nn.Module) -> None:
    """Batch norms with statistics and weights of their own, since fresh ones hide a branch that is lost."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.8, 1.2)
            if module.affine:
                nn.init.uniform_(module.weight, 0.8, 1.2)
                nn.init.uniform_(module.bias, -0.1, 0.1)


def inline(unit: Unit) -> bool:
    """Whether the unit has an SE block that can only be kept."""
    return unit.existing is not None and unit.sites[0].edge == "inline" and not unit.sites[0].place


def measure(source: str, name: str) -> dict[str, Any]:
    """One row of the table."""
    row: dict[str, Any] = {"source": source, "name": name}
    try:
        model, shape = build(source, name)
        model.eval()
        row["input"] = "x".join(map(str, shape))
        start = time.perf_counter()
        found = survey(model, shape)
        row["seconds"] = round(time.perf_counter() - start, 2)
        units = found.units
        kinds = Counter(unit.kind for unit in units)
        row |= asdict(judge(model, units))
        row |= {
            "units": len(units),
            "skipped": len(found.skipped),
            "kinds": " ".join(f"{kind}:{count}" for kind, count in kinds.items()),
            "se_already": sum(unit.existing is not None for unit in units),
            "identity_difference": difference(model, units, shape),
        }
        row |= fused(source, model, units, shape)
        try:
            CostModel(model, units, shape)
            row["priced"] = "yes"
        except Exception as error:  # what the network computes has no known price
            row["priced"] = "no"
            row["error"] = short(error)
    except Exception as error:  # whatever a network or its library raises belongs in the table
        row["error"] = short(error)
    return row


def short(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".replace("\n", " ")[:160]


def networks() -> list[tuple[str, str]]:
    """(source, name) of all networks of the table."""
    lines = (HERE / "networks.txt").read_text().splitlines()
    return [(source, name) for line in lines for source, *names in [line.split()] for name in names]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE / "zoo.csv", help="the table, which is continued")
    parser.add_argument("names", nargs="*", help="only these networks, and no file")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # those of the libraries
    torch.set_num_threads(1)
    wanted = [pair for pair in networks() if not options.names or pair[1] in options.names]
    if options.names:
        for pair in wanted:
            print(*(f"{key}={value}" for key, value in measure(*pair).items()), flush=True)
        return
    done = set()
    if options.out.exists():
        with options.out.open(newline="") as file:
            done = {(row["source"], row["name"]) for row in csv.DictReader(file)}
    with options.out.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if not done:
            writer.writeheader()
        for source, name in wanted:
            if (source, name) not in done:
                writer.writerow(measure(source, name))
                file.flush()
                print(source, name, flush=True, file=sys.stderr)


if __name__ == "__main__":
    main()
