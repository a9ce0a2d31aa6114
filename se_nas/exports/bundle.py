"""Networks that leave the run folder: a placement and its weights, and the way back."""

from __future__ import annotations

import contextlib
import math
import re
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import filelock
import safetensors.torch
from safetensors import SafetensorError
from torch import nn

from se_nas.backbones.build import BACKBONES, source_file
from se_nas.backbones.forward import run_once
from se_nas.core.blocks import BlockKind
from se_nas.core.documents import LARGEST_JSON, UnreadableError, text_of
from se_nas.core.errors import RunError
from se_nas.core.files import sync_folder, user_path, weights_file, write_atomically
from se_nas.core.own_blocks import named_blocks, own_blocks
from se_nas.core.placement import Placement, Unit
from se_nas.core.ranges import MAX_VALUES
from se_nas.core.serialization import SCHEMA_VERSION, from_json, to_json
from se_nas.core.trial import CostValue, Metric, RunIdentity, Target, Trial
from se_nas.core.trust import Named, check_trust, is_trusted
from se_nas.core.words import blocks_in, in_words, trial_name
from se_nas.data.base import DataInfo
from se_nas.exports.names import PLACEMENT, WEIGHTS
from se_nas.exports.plain_call import source_files
from se_nas.insertion.insert import build_candidate


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The true metric of a network by all trainings of its search together, with its 90 % interval."""

    metric: str
    mean: float
    lower: float
    upper: float
    trainings: int


@dataclass(frozen=True, kw_only=True)
class Advice:
    """What the run that a network comes from recommends.

    ``verdict`` are the sentences of the confirm where there was one (``confirmed``), else those of the search;
    ``instead`` names the recommended network.
    """

    confirmed: bool
    recommended: bool
    instead: str
    verdict: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class FoldedBlock:
    """An SE block of the trained network: the modules that took its gate in, or why it was left."""

    block: str
    into: tuple[str, ...] = ()
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class FoldedFrom:
    """What a network was before the gates of SE blocks were folded into the neighbouring weights.

    ``difference`` is what is gained by folding, in units of ``metric`` on ``images`` validation images, whatever its
    direction, with its 90 % interval; None where images have no score. ``changed`` is the share of the predictions that
    differ, or the change of the output against its size; ``apart`` the largest difference from the trained network with
    these gates fixed, over the largest output.
    """

    placement: str
    key: str
    blocks: tuple[FoldedBlock, ...]
    images: int
    margin: float
    metric: str = ""
    unit: str = ""
    value: float | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    changed: float | None = None
    apart: float = 0.0
    params_saved: int = 0
    macs_saved: int = 0
    milliseconds: tuple[tuple[CostValue, CostValue], ...] = ()
    """Of one image before and after, in each runtime that was tried."""
    note: str = ""

    @property
    def taken(self) -> tuple[FoldedBlock, ...]:
        """The blocks that are folded."""
        return tuple(block for block in self.blocks if block.into)

    @property
    def sentences(self) -> tuple[str, ...]:
        """What was folded, what that changes, and what was left and why."""
        taken, left = self.taken, [block for block in self.blocks if not block.into]
        factor, unit = (100.0, "points") if self.unit == "share" else (1.0, self.unit)
        saved = f"{self.params_saved:,} parameters and {self.macs_saved:,} multiply-adds fewer"
        kind = blocks_in(self.placement)
        found = [f"{len(taken)} of {len(self.blocks)} {kind} are folded into the neighbouring weights: {saved}."]
        if self.difference is not None and self.low is not None and self.high is not None:
            found.append(
                f"{self.metric} against the network as it was trained: {factor * self.difference:+.2f} {unit}".rstrip()
                + f" ({factor * self.low:+.2f} to {factor * self.high:+.2f}), paired on {self.images:,} validation "
                "images."
            )
        for before, after in self.milliseconds:
            low, high = after.interval or (after.value, after.value)
            found.append(
                f"One image takes {after.value:.3g} ms instead of {before.value:.3g} ms: "
                f"{100 * (after.value / before.value - 1):+.1f} % ({100 * (low / before.value - 1):+.1f} to "
                f"{100 * (high / before.value - 1):+.1f} %; {after.conditions})."
            )
        found += [f"{block.block} stays: {block.reason}." for block in left]
        return (*found, self.note) if self.note else tuple(found)


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
    identity: RunIdentity | None = None
    """How it was trained."""
    estimate: Estimate | None = None
    data: DataInfo | None = None
    """What it was trained on."""
    license: str = ""
    advice: Advice | None = None
    folded: FoldedFrom | None = None

    @property
    def name(self) -> str:
        """The placement in words, and the trial that trained it."""
        return in_words(self.placement.label) + ("" if self.trial is None else f" ({trial_name(self.trial)})")


def export_trial(
    run: Path, trial: Trial, target: Path, *, backbone: Target, units: tuple[Unit, ...], data: DataInfo
) -> Path:
    """Write the network of a trial to a folder, which is there whole or not at all, in place of one that is there.

    RunError if the weights of the trial were not kept.
    """
    record = describe(trial, backbone=backbone, units=units, data=data)
    with folder_whole(target) as temporary:
        write_network(temporary, record, kept_weights(run, trial))
    return target


def kept_weights(run: Path, trial: Trial) -> Path:
    """The file with the weights of a trial; RunError if they were not kept, with how to get them."""
    weights = weights_file(run, trial.number, trial.identity.phase)
    if weights.is_file():
        return weights
    there = sorted(int(file.stem) for file in weights.parent.glob("*.safetensors") if file.stem.isdigit())
    label = trial.placement.label or "the placement"
    raise RunError(
        f"the weights of trial {trial.number} were not kept",
        hint=f"train {label} again with se-nas train, search with --keep_weights all, or choose a trial that has "
        f"weights: {', '.join(map(str, there)) or 'none has'}",
    )


@contextlib.contextmanager
def folder_whole(target: Path) -> Iterator[Path]:
    """A folder beside the target, which takes its place when the block ends without an error, and else is gone."""
    target.parent.mkdir(parents=True, exist_ok=True)
    clear_leftovers(target)
    stem = f".{target.name}.{uuid.uuid4().hex[:8]}"
    temporary, old, held = (target.with_name(f"{stem}.{end}") for end in ("part", "old", "lock"))
    try:
        with filelock.FileLock(held):  # what it stands beside is not a leftover as long as it is held
            try:
                temporary.mkdir()
                yield temporary
                if target.exists():
                    target.replace(old)
                temporary.replace(target)
                sync_folder(target.parent)
            finally:
                _put_back(old, target)
                shutil.rmtree(temporary, ignore_errors=True)
    finally:
        held.unlink(missing_ok=True)


def clear_leftovers(target: Path) -> None:
    """Remove what killed calls of `folder_whole` left beside a folder; the folder itself is put back if it is gone."""
    for leftover in sorted(target.parent.iterdir()):
        stem, _, end = leftover.name.rpartition(".")
        if (
            end not in ("old", "part", "lock")
            or re.fullmatch(r"[0-9a-f]+", stem.removeprefix(f".{target.name}.")) is None
        ):
            continue
        held = filelock.FileLock(leftover.with_name(f"{stem}.lock"))
        try:
            with held.acquire(timeout=0):
                if end == "old":
                    _put_back(leftover, target)
                elif end == "part":
                    shutil.rmtree(leftover, ignore_errors=True)
        except (filelock.Timeout, OSError):  # it is being written, or not ours to remove
            continue
        Path(held.lock_file).unlink(missing_ok=True)


def _put_back(old: Path, target: Path) -> None:
    if old.exists() and not target.exists():
        old.replace(target)
    shutil.rmtree(old, ignore_errors=True)


def write_network(folder: Path, record: Exported, weights: Path, *, trust: bool = False) -> None:
    """Write placement, weights, and the files of the user's own backbone and blocks with what they import from beside.

    A file that only a folder names is not copied into it without `trust`: it may be any file of this machine.
    """
    for named in (_backbone(record.backbone), *_blocks(record)):
        for relative, source in source_files(named.target).items() if trust or is_trusted(named) else ():
            (folder / relative).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, folder / relative)
    write_atomically(folder / PLACEMENT, to_json(record, indent=2))
    if weights != folder / WEIGHTS:
        shutil.copyfile(weights, folder / WEIGHTS)


def describe(
    trial: Trial,
    *,
    backbone: Target,
    units: tuple[Unit, ...],
    data: DataInfo,
    estimate: Estimate | None = None,
    license: str = "",
    advice: Advice | None = None,
) -> Exported:
    """What ``placement.json`` says of a trial."""
    return Exported(
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
        identity=trial.identity,
        estimate=estimate,
        data=data,
        license=license,
        advice=advice,
    )


def read_exported(folder: Path) -> Exported:
    """What an export folder says of its network; RunError if it is no such folder, or says what cannot be."""
    for name in (PLACEMENT, WEIGHTS):
        if not (folder / name).is_file():
            raise RunError(f"{str(folder)!r} has no {name}", hint="give the folder that se-nas wrote, such as RUN/best")
    try:
        text = text_of(folder / PLACEMENT, largest=LARGEST_JSON)
    except (OSError, UnreadableError) as error:
        raise RunError(f"cannot read {PLACEMENT}: {error}", where=str(folder)) from error
    record = from_json(text, Exported, where=str(folder / PLACEMENT))
    if record.placement.key != record.key:
        raise RunError(
            f"{PLACEMENT} is of the network {record.key!r}, but its placement is {record.placement.key!r}",
            where=str(folder),
        )
    if not len(record.input_shape) >= 2 or not 1 <= math.prod(record.input_shape) <= MAX_VALUES:
        raise RunError(f"{PLACEMENT}: input_shape is {record.input_shape}", where=str(folder))
    return record


def trusted_backbone(record: Exported, folder: Path, *, trust: bool) -> Target:
    """The backbone of an export: its Python file from where it was, else the copy in the folder.

    PluginError if that is code that is not trusted.
    """
    backbone, source = record.backbone, source_file(record.backbone)
    if source is not None and not source.is_file():
        attribute = backbone.target.rpartition(":")[2]
        backbone = Target(target=f"{folder / source.name}:{attribute}", args=backbone.args)
    check_trust([_backbone(backbone)], where=folder, trust=trust)
    return backbone


def trusted_placement(record: Exported, folder: Path, *, trust: bool) -> Placement:
    """The placement of an export, the code of the user's own blocks in it found as that of a backbone is.

    PluginError if that is code that is not trusted.
    """
    moved = {}
    for kind in own_blocks(record.placement.choices.values()):
        file, _, attribute = kind.made.rpartition(":")
        if file.endswith(".py") and not Path(file).is_file():
            moved[kind] = replace(kind, made=f"{folder / Path(file).name}:{attribute}")
    choices = {
        unit: replace(choice, own=moved[choice.own])
        if isinstance(choice.own, BlockKind) and choice.own in moved else choice
        for unit, choice in record.placement.choices.items()
    }  # fmt: skip
    check_trust(named_blocks(own_blocks(choices.values())), where=folder, trust=trust)
    return replace(record.placement, choices=choices)


def load(folder: str | Path, *, trust: bool = False) -> nn.Module:
    """Load the network of an export folder (``best/``), in eval mode on the CPU. Nothing in it is a pickle.

    If the backbone is in a Python file, that file is used, or if it is gone the copy in the folder.

    Parameters
    ----------
    trust:
        Whether to run code that the folder names even if it is neither built in nor installed as a plug-in, nor a name
        that you have searched or trained with on this machine. Read the folder's code first.

    Raises
    ------
    PluginError
        If the folder names code that is not trusted.
    RunError
        If a file is missing, broken, or does not fit the backbone.
    """
    folder = user_path(folder)
    record = read_exported(folder)
    network = build_candidate(
        trusted_backbone(record, folder, trust=trust),
        record.units,
        trusted_placement(record, folder, trust=trust),
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
    run_once(network, record.input_shape)
    return network.eval()


def _blocks(record: Exported) -> list[Named]:
    return named_blocks(own_blocks(record.placement.choices.values()))


def _backbone(target: Target) -> Named:
    return Named(kind="backbone", target=target, builtins=BACKBONES)
