"""What the SE blocks of a network do: of any network, and of one of a run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from se_nas.analysis.confirmation import read_confirmed
from se_nas.analysis.explanation import FOLDER, RECORD, Explanation
from se_nas.analysis.findings import Findings
from se_nas.analysis.selection import select as select_trial
from se_nas.commands.diagnosis import confirmed_trials
from se_nas.commands.results import existing_run, report_again, stored
from se_nas.core.config import SearchConfig
from se_nas.core.errors import ConfigError, DataError, RunError
from se_nas.core.files import write_atomically
from se_nas.core.serialization import to_json
from se_nas.core.trial import Trial
from se_nas.core.words import in_words, trial_name
from se_nas.data.base import DataInfo
from se_nas.data.datamodule import pair_of
from se_nas.engine.block_times import block_times
from se_nas.engine.explaining import ACCURACY, Shown, explain_network
from se_nas.engine.gates import Trained, explain_trial, network_to_look_at, weights_of
from se_nas.engine.run_folder import clear_errors
from se_nas.engine.trusted import blocks_of, check_config, check_data
from se_nas.exports.bundle import kept_weights
from se_nas.report.figures import csv_of
from se_nas.report.gates_figure import save_gates
from se_nas.report.view import View
from se_nas.training.devices import choose_devices


def explain(
    network: nn.Module,
    images: Tensor | Iterable[Any],
    labels: Tensor | Sequence[int] | None = None,
    *,
    classes: Sequence[str] = (),
) -> Explanation:
    """What the SE blocks of any network do on images, whether they come from a search, timm, torchvision or your code.

    Blocks are found by what they compute. For each block: its mean gates, how they vary from image to image, how much
    of this variation lies between classes, saturation, and how the metric changes when the block is frozen at its mean
    gates or removed, as paired differences on the same images. The network is not changed.

    Parameters
    ----------
    network:
        On any device.
    images:
        Prepared as the network expects them: a tensor (n, channels, *size), or batches as from a DataLoader: tensors,
        or pairs of images and labels.
    labels:
        Class numbers (n,), if the batches do not include them. Without labels nothing is reported about classes and
        accuracy.
    classes:
        The names of the classes, in the order of their numbers.

    Raises
    ------
    SeNasError
        If the network fails on an image or has no SE block, or labels do not fit.
    """
    shown = shown_images(images, labels, tuple(classes))
    return explain_network(network, shown, scoring=ACCURACY if shown.numbered else None)


def shown_images(
    images: Tensor | Iterable[Any], labels: Tensor | Sequence[int] | None, classes: tuple[str, ...] = ()
) -> Shown:
    """Images and labels as `explain` takes them; DataError if they do not fit."""
    if not isinstance(images, Tensor):
        given = [(batch, None) if isinstance(batch, Tensor) else pair_of(batch) for batch in images]
        batches = [batch for batch, _ in given if isinstance(batch, Tensor)]
        targets = [target for _, target in given if isinstance(target, Tensor)]
        if not given or len(batches) < len(given):
            kinds = sorted({type(batch).__name__ for batch, _ in given})
            raise DataError(
                f"images are batches of {', '.join(kinds)}" if given else "there are no images",
                allowed=["a tensor (n, channels, *size)", "batches of such tensors, or of pairs with labels"],
            )
        images = torch.cat(batches)
        if labels is None and len(targets) == len(given):
            labels = torch.cat(targets)
    numbers = torch.empty(0) if labels is None else torch.as_tensor(labels)
    if labels is not None and len(numbers) != len(images):
        raise DataError(f"there are {len(images):,} images and {len(numbers):,} labels", allowed=["one label an image"])
    return Shown(images=images, labels=numbers, classes=classes)


@dataclass(frozen=True, kw_only=True)
class Explained:
    """What `se-nas explain` found and where its files are."""

    folder: Path
    found: Explanation


def explain_run(
    run: str | Path,
    *,
    select: str | None = None,
    images: int | None = None,
    device: str = "auto",
    trust: bool = False,
    storage: str | None = None,
    view: View | None = None,
) -> Explained:
    """What the SE blocks of a trained network of a run do on its validation images.

    Tables and figures are written to ``RUN/explain``, and the report of the run is rebuilt with them.

    Parameters
    ----------
    run:
        A run folder.
    select:
        Which network, as for `se_nas.export`. By default the recommended one; if that has no SE, or its weights are
        not in the folder, the best one with SE whose weights are.
    images:
        Maximum number of images; by default as many as take minutes.
    device:
        ``auto``, ``cpu``, ``cuda``, ...
    trust, storage, view:
        As for `se_nas.export`.

    Raises
    ------
    SeNasError
        If there is no such network, it has no SE block, or its weights were not kept.
    """
    if images is not None and images < 2:
        raise ConfigError(f"images is {images}", allowed=["a whole number of at least 2"])
    shown = view or View(quiet=True)
    shown.stage("reading the run")
    folder, study = existing_run(Path(run), storage=storage)
    found, confirmation = study.findings(), read_confirmed(folder.path)
    data, config = stored(study, "data", DataInfo), stored(study, "config", SearchConfig)
    trial, note = _chosen(found, folder.path, select, confirmed_trials(study, confirmation))
    place = choose_devices(replace(config, device=device, workers=1, trials_per_device=None, devices_per_trial=1))[0]
    check_config(config, where=folder.path, trust=trust, only=("backbone", "task"), blocks=blocks_of(study))
    check_data(data, where=folder.path, trust=trust)
    trained = Trained(
        run=folder.path, backbone=config.backbone, units=study.space.units, data=data, objective=found.objective
    )
    shown.stage("freezing each block and taking it out, on the validation images")
    with torch.random.fork_rng(devices=[]):
        explained = explain_trial(trained, trial, each=True, images=images, device=place)
    shown.stage("timing each block")
    times = block_times(trained.network(trial), data.input_shape)
    explained = replace(
        explained, blocks=tuple(replace(b, milliseconds=times.get(b.module, b.milliseconds)) for b in explained.blocks)
    )
    if data.includes_val:
        note = f"{note} The network was also trained on these images; new images may give another result.".lstrip()
    explained = replace(explained, note=note)
    target = folder.path / FOLDER
    shown.stage("writing the report")
    with clear_errors(folder.path):
        write_atomically(target / "blocks.csv", csv_of(explained.table()).encode())
        write_atomically(target / "channels.csv", csv_of(explained.channels()).encode())
        save_gates(explained, target / "gates")
        write_atomically(target / RECORD, to_json(explained, indent=1))
    report_again(folder.path, storage=storage)
    return Explained(folder=target, found=explained)


def _chosen(found: Findings, run: Path, how: str | None, confirmed: Sequence[Trial]) -> tuple[Trial, str]:
    """The trial whose network is looked at, and why it is not the one that is recommended."""
    trial = select_trial(found, how or "recommended", read_confirmed(run))
    named = f"{in_words(trial.placement.label)} (trial {trial.number})"
    if how is not None:
        if not trial.placement.blocks:
            raise RunError(f"trial {trial.number} has no SE block to explain", hint=_others(found, run))
        kept_weights(run, trial)
        return trial, ""
    if trial.placement.blocks and weights_of(run, trial).is_file():
        return trial, ""
    other = network_to_look_at(found, run, confirmed)
    if other is None:
        raise RunError(
            "no network with SE has its weights in the run folder",
            hint="search with --keep_weights all, or train a placement with se-nas train",
        )
    if other.placement.key == trial.placement.key:
        return other, ""
    why = "has its weights elsewhere or nowhere" if trial.placement.blocks else "has no SE"
    shown = f"{in_words(other.placement.label)} ({trial_name(other.number, other.identity.phase)})"
    return other, f"The recommended network, {named}, {why}: this is {shown}, the best with SE that has its weights."


def _others(found: Findings, run: Path) -> str:
    there = [t.number for t in found.trials if t.placement.blocks and weights_of(run, t).is_file()]
    return f"trials with SE and weights: {', '.join(map(str, there)) or 'none'}"
