"""Networks to be timed on another device, from a run or from a backbone and a space."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from torch import nn

from se_nas.backbones.build import build_backbone
from se_nas.commands.describe import Catalogue
from se_nas.commands.results import existing_run, stored
from se_nas.core.config import SearchConfig
from se_nas.core.errors import CostError
from se_nas.core.files import user_path
from se_nas.core.placement import Placement
from se_nas.core.ranges import check_whole
from se_nas.data.base import DataInfo
from se_nas.engine.trusted import blocks_of, check_config
from se_nas.insertion.insert import insert_choices
from se_nas.report.view import View
from se_nas.runtimes.bench import check_bench_formats, entries_of, export_bench
from se_nas.runtimes.latency_table import BenchFacts
from se_nas.space.exact_cost import CostModel


def bench_run(
    folder: str, run: str, *, formats: str = "onnx", batch: int | None = None, most: int | None = None,
    trust: bool = False, storage: str | None = None, view: View | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Write the networks of a run's space to a folder, those of its front among them; see `export_bench`."""
    names = check_bench_formats(formats)
    run_folder, study = existing_run(Path(run), storage=storage)
    config, data = stored(study, "config", SearchConfig), stored(study, "data", DataInfo)
    check_config(config, where=run_folder.path, trust=trust, only=("backbone",), blocks=blocks_of(study))
    space, found = study.space, study.findings()
    number = batch or config.latency_batch
    check_whole("latency_batch", number)

    classes, shape = len(data.classes) or None, data.input_shape
    backbone = build_backbone(config.backbone, num_classes=classes, input_shape=shape, seed=config.seed)
    without = CostModel(backbone, space.units, shape).backbone
    members = set(found.front.get("trial", []))
    front = [t.placement for t in found.trials if t.number in members]
    facts = BenchFacts(
        backbone=config.backbone, input_shape=shape, batch=number, params=without.params, macs=without.macs
    )

    def build(placement: Placement) -> nn.Module:
        network = copy.deepcopy(backbone)
        insert_choices(network, space.units, placement.choices, seed=config.seed)
        return network

    return _written(folder, build, entries_of(space, front, most=most), facts, names, view=view)


def bench_space(
    folder: str, catalogue: Catalogue, *, formats: str = "onnx", batch: int | None = None, most: int | None = None,
    view: View | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The same of a backbone and a space."""
    names = check_bench_formats(formats)
    check_whole("latency_batch", batch)
    if isinstance(catalogue.costs, CostError):
        raise catalogue.costs
    without = catalogue.costs.backbone
    facts = BenchFacts(
        backbone=catalogue.backbone, input_shape=catalogue.input_shape, batch=batch or 1, params=without.params,
        macs=without.macs,
    )  # fmt: skip
    entries = entries_of(catalogue.space, most=most)
    return _written(folder, catalogue.network, entries, facts, names, view=view)


def _written(
    folder: str, build: Any, entries: Any, facts: BenchFacts, names: Any, *, view: View | None
) -> dict[str, Any]:
    target, shown = user_path(folder).absolute(), view or View()
    shown.stage(f"writing {len(entries)} networks")
    manifest = export_bench(target, build, entries, facts, formats=names, say=shown.say)
    return {
        "folder": str(target), "networks": len(manifest.networks), "formats": list(manifest.formats),
        "batch": manifest.batch, "held_out": sum(entry.held_out for entry in manifest.networks),
    }  # fmt: skip


def show_bench(content: dict[str, Any]) -> None:
    """Print what was written and what to do with it."""
    print(
        f"{content['networks']} networks, {content['held_out']} of them to test the predictions, as "
        f"{', '.join(content['formats'])}.\n"
        f"On the device, with numpy and onnxruntime (or torch, for pt2): python measure.py --out DEVICE.json\n"
        f"Then here: --latency-table DEVICE.json --cost latency@DEVICE --latency-batch {content['batch']}\n"
        f"{content['folder']}"
    )
