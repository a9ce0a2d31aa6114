"""The latency of one placement beside that of the plain backbone, in each runtime that is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from se_nas.commands.describe import Catalogue
from se_nas.core.config import SearchConfig
from se_nas.core.errors import ConfigError, CostError
from se_nas.core.latency_names import is_latency, table_files
from se_nas.core.placement import Placement
from se_nas.core.trial import CostValue
from se_nas.data.shards import devices_of
from se_nas.runtimes.latency_table import BenchFacts, read_table
from se_nas.runtimes.table import open_runtimes
from se_nas.space.measured_cost import Measurer
from se_nas.training.devices import choose_devices


def latency_beside(
    catalogue: Catalogue,
    text: str,
    names: Sequence[str],
    *,
    batch: int = 1,
    threads: int = 1,
    tables: str | None = None,
    device: str = "auto",
) -> dict[str, dict[str, Any]]:
    """For each latency: ms of the placement and of the backbone, their ratio with its 90 % interval, and conditions.

    Measured here, or with a table taken from it, where the placement was not measured predicted from it.

    Raises
    ------
    ConfigError
        For a name that is not a latency, a runtime that is not installed, or a table of something else.
    """
    if isinstance(catalogue.costs, CostError):
        raise catalogue.costs
    files = table_files(tables)
    config = SearchConfig(
        measure=[*names], latency_batch=batch, latency_threads=threads, latency_table=tables, device=device, workers=1
    )
    if wrong := [name for name in config.measure if not is_latency(name)]:
        raise ConfigError(f"measure is {wrong[0]}", allowed=["latency", "latency@RUNTIME"])
    here = torch.device(devices_of(choose_devices(config)[0])[0])
    exact = catalogue.costs
    facts = BenchFacts(
        backbone=catalogue.backbone, input_shape=catalogue.input_shape, batch=batch, params=exact.backbone.params,
        macs=exact.backbone.macs,
    )  # fmt: skip
    wanted = [name for name in config.measure if name not in files]
    measurer = Measurer(
        catalogue.network, catalogue.space, input_shape=catalogue.input_shape, device=here, batch=batch,
        threads=threads, runtimes=open_runtimes(wanted, device=here, threads=threads), memory=False,
        tables={name: read_table(file, catalogue.space, facts) for name, file in files.items()},
    )  # fmt: skip
    placement = catalogue.space.parse(text)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        base = dict(measurer.measure(catalogue.space.baseline))
        measurer.measure(placement)
    finally:
        torch.set_num_threads(before)
    share = 100 * (exact(placement).macs / exact.backbone.macs - 1)
    found = measurer.predict(placement)
    return {name: _beside(found[name], base[name], share, placement) for name in (*wanted, *files)}


def _beside(value: CostValue, base: CostValue, share: float, placement: Placement) -> dict[str, Any]:
    low, high = value.interval or (value.value, value.value)
    alone = placement.blocks == 0
    return {
        "value": value.value,
        "interval": [low, high],
        "without_se": base.value,
        "without_se_interval": list(base.interval or (base.value, base.value)),
        "ratio": value.value / base.value,
        "ratio_interval": [1.0, 1.0] if alone else [low / base.value, high / base.value],
        "kind": value.kind,
        "conditions": value.conditions if isinstance(value.conditions, str) else "",
        "gflops_percent": share,
    }
