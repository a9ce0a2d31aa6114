"""A trained network with all that is known of it, from a run folder or from an export."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import nn

from se_nas.analysis.confirmation import read_confirmed
from se_nas.analysis.selection import select as select_trial
from se_nas.commands.results import SearchResult, existing_run, stored
from se_nas.core.config import SearchConfig
from se_nas.core.errors import RunError
from se_nas.core.files import user_path
from se_nas.core.trial import Direction
from se_nas.data.base import DataInfo
from se_nas.data.store import open_part
from se_nas.engine.gates import Trained
from se_nas.engine.trusted import blocks_of, check_config
from se_nas.exports.bundle import (
    Exported,
    describe,
    kept_weights,
    load,
    read_exported,
    trusted_backbone,
    trusted_placement,
)
from se_nas.exports.names import PLACEMENT, WEIGHTS
from se_nas.training.devices import choose_devices

RECOMMENDED = "recommended"


@dataclass(frozen=True, kw_only=True)
class TrainedNetwork:
    """A trained network, where its weights lie, and what it was trained on."""

    record: Exported
    data: DataInfo
    weights: Path
    open: Callable[[], nn.Module]
    """Makes the network, in eval mode on the CPU."""
    run: Path | None
    """The run folder that has the prepared training images, if it is at hand."""
    metric: str | None = None
    """What its search compared, where that is known, and in which direction."""
    direction: Direction | None = None

    @property
    def stored(self) -> np.dtype | None:
        """The type of the prepared training images, if they are at hand."""
        if self.run is None or self.data.kind != "arrays":
            return None
        try:
            return open_part(self.run, "val").images.dtype
        except (OSError, ValueError):
            return None


def trained_network(
    run: str | Path | SearchResult, *, select: str = RECOMMENDED, trust: bool = False, storage: str | None = None
) -> TrainedNetwork:
    """The network of a run that `select` means, or the one of an export folder (``RUN/best``).

    Raises
    ------
    RunError
        If the folder is neither, or the weights are not in it.
    PluginError
        If the folder names code that is not trusted.
    """
    folder = run.folder if isinstance(run, SearchResult) else user_path(run)
    if (folder / PLACEMENT).is_file() and not (folder / "study.db").is_file():
        return _of_export(folder, select, trust)
    found, study = existing_run(folder, storage=storage)
    findings = study.findings()
    trial = select_trial(findings, select, read_confirmed(found.path))
    weights = kept_weights(found.path, trial)
    config, data = stored(study, "config", SearchConfig), stored(study, "data", DataInfo)
    check_config(config, where=found.path, trust=trust, only=("backbone",), blocks=blocks_of(study))
    networks = Trained(
        run=found.path, backbone=config.backbone, units=study.space.units, data=data, objective=findings.objective
    )
    return TrainedNetwork(
        record=describe(trial, backbone=config.backbone, units=study.space.units, data=data),
        data=data,
        weights=weights,
        open=lambda: networks.network(trial),
        run=found.path,
        metric=findings.objective.metric,
        direction=findings.objective.direction,
    )


def _of_export(folder: Path, select: str, trust: bool) -> TrainedNetwork:
    if select != RECOMMENDED:
        raise RunError(
            f"{str(folder)!r} is an export: it has one network", hint="give the run folder to select another"
        )
    record = read_exported(folder)
    if record.data is None:
        raise RunError(
            f"the export {str(folder)!r} does not say what its network was trained on: an earlier version wrote it",
            hint="give the run folder, or export the network again",
        )
    above = folder.absolute().parent
    return TrainedNetwork(
        record=replace(
            record,
            backbone=trusted_backbone(record, folder, trust=trust),
            placement=trusted_placement(record, folder, trust=trust),
        ),
        data=record.data,
        weights=folder / WEIGHTS,
        open=lambda: load(folder, trust=trust),
        run=above if (above / "study.db").is_file() else None,
    )


def one_device(device: str) -> str:
    """The device of a name such as ``auto``; ConfigError if it is not there."""
    return choose_devices(SearchConfig(device=device, workers=1))[0]
