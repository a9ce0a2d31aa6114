"""Networks that leave the run folder: a placement and its weights, and the way back."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import nn

from se_nas.backbones import source_file
from se_nas.candidate import build_candidate
from se_nas.data.base import DataInfo
from se_nas.errors import RunError
from se_nas.evaluate import weights_file
from se_nas.files import write_atomically
from se_nas.records import SCHEMA_VERSION, CostValue, Metric, Placement, Target, Trial, Unit, from_json, to_json

PLACEMENT = "placement.json"
WEIGHTS = "model.safetensors"


@dataclass(frozen=True, kw_only=True)
class Exported:
    """All that is needed to build a network again, as ``placement.json`` holds it."""

    schema: int = SCHEMA_VERSION
    key: str
    placement: Placement
    backbone: Target
    units: tuple[Unit, ...]
    input_shape: tuple[int, ...]
    """(channels, *size) of one image."""
    classes: tuple[str, ...]
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    """The network expects ``(image - mean) / std``, per channel, in the units of the stored images."""
    trial: int | None = None
    metrics: dict[str, Metric] = field(default_factory=dict)
    costs: dict[str, CostValue] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)


def export_trial(
    run: Path, trial: Trial, target: Path, *, backbone: Target, units: tuple[Unit, ...], data: DataInfo
) -> Path:
    """Write the network of a trial to a folder, which is there whole or not at all.

    RunError if the weights of the trial were not kept.
    """
    weights = weights_file(run, trial.number)
    if not weights.is_file():
        raise RunError(
            f"the weights of trial {trial.number} were not kept",
            hint="choose a trial on the front, or search with --keep_weights all",
        )
    temporary = target.with_name(f".{target.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    if (source := source_file(backbone)) is not None:
        shutil.copy2(source, temporary / source.name)
    record = Exported(
        key=trial.placement.key,
        placement=trial.placement,
        backbone=backbone,
        units=units,
        input_shape=data.input_shape,
        classes=data.classes,
        mean=data.mean,
        std=data.std,
        trial=trial.number,
        metrics=trial.metrics,
        costs=trial.costs,
        versions=trial.versions,
    )
    write_atomically(temporary / PLACEMENT, to_json(record, indent=2))
    shutil.copyfile(weights, temporary / WEIGHTS)
    shutil.rmtree(target, ignore_errors=True)
    temporary.replace(target)
    return target


def load(folder: str | Path) -> nn.Module:
    """The network of an export folder (``best/``), in eval mode on the CPU. Nothing in it is a pickle.

    A backbone from a Python file is taken from where it was, else from the copy in the folder.

    Raises
    ------
    RunError
        If a file is missing, broken, or does not fit the backbone.
    """
    folder = Path(folder).expanduser()
    for name in (PLACEMENT, WEIGHTS):
        if not (folder / name).is_file():
            raise RunError(f"{str(folder)!r} has no {name}", hint="give the folder that se-nas wrote, such as RUN/best")
    record = from_json((folder / PLACEMENT).read_bytes(), Exported, where=str(folder / PLACEMENT))
    backbone = record.backbone
    source = source_file(backbone)
    if source is not None and not source.is_file():
        attribute = backbone.target.rpartition(":")[2]
        backbone = Target(target=f"{folder / source.name}:{attribute}", args=backbone.args)
    network = build_candidate(
        backbone,
        record.units,
        record.placement,
        num_classes=len(record.classes) or None,
        input_shape=record.input_shape,
        seed=0,
    )
    try:
        network.load_state_dict(safetensors.torch.load_file(folder / WEIGHTS))
    except (SafetensorError, RuntimeError) as error:
        raise RunError(
            f"{WEIGHTS} does not fit the network: {str(error).splitlines()[0]}", where=str(folder)
        ) from error
    return network.eval()
