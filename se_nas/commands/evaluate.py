"""From a trained network to how good it is on labelled images of the user's own."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from msgspec import UNSET

from se_nas.analysis.evaluation import Evaluation, by_class, measure
from se_nas.commands.labelled_images import Labelled, labelled_images
from se_nas.commands.results import SearchResult
from se_nas.commands.trained_network import RECOMMENDED, TrainedNetwork, one_device, trained_network
from se_nas.core.config import SearchConfig
from se_nas.core.errors import ConfigError, RunError
from se_nas.core.files import weights_file
from se_nas.core.overrides import target_of
from se_nas.core.trial import Request, RunIdentity, Target
from se_nas.data.base import PARTS, PartName, is_class_number
from se_nas.data.sealed import OPENINGS, note_opening
from se_nas.data.store import keep_info
from se_nas.engine.exam import examined
from se_nas.engine.run_folder import clear_errors
from se_nas.engine.seen_images import seen_in
from se_nas.engine.trusted import check_config
from se_nas.report.view import View
from se_nas.training.tasks import open_task

ACCURACY = "val_accuracy"


def evaluate(
    run: str | Path | SearchResult,
    data: str | Target,
    *,
    part: PartName | None = None,
    select: str = RECOMMENDED,
    device: str = "auto",
    trust: bool = False,
    storage: str | None = None,
    view: View | None = None,
) -> Evaluation:
    """The metric of a trained network of a run on labelled images, with its 90 % interval, overall and by class.

    Parameters
    ----------
    run:
        A run folder, the result of `se_nas.search`, or an export folder.
    data:
        A data set, as for a search: ``folder:PATH`` with one folder for each class. Its classes are matched by name
        with those of the run; some may be missing. Images of a folder are prepared like the training images.
    part:
        Only the images of this part of the data set; by default all. If they include the sealed test set of the run,
        this is recorded in its ``test_openings.jsonl``, as by `se_nas.confirm`.
    select:
        Which network, as for `se_nas.export`.
    device:
        ``auto``, ``cpu``, ``cuda``, ...
    trust, storage, view:
        As for `se_nas.export`.

    Raises
    ------
    SeNasError
        If there is no such network, the data do not fit it, or it cannot be evaluated here.
    """
    if part is not None and part not in PARTS:
        raise ConfigError(f"part is {part!r}", allowed=PARTS)
    shown = view or View(quiet=True)
    shown.stage("reading the network")
    trained = trained_network(run, select=select, trust=trust, storage=storage)
    identity = _check(trained, trust=trust)
    target = target_of("data", data)
    shown.stage(f"reading the images of {target.target}")
    labelled = labelled_images(trained, target, part)
    if labelled.opened:
        labelled.notes.append(_noted(trained))
    with tempfile.TemporaryDirectory() as folder:
        workshop = _laid_out(Path(folder), trained, labelled, identity)
        request = Request(
            trial=0, placement=trained.record.placement, units=trained.record.units, identity=identity,
            backbone=trained.record.backbone, folder=folder, device=one_device(device), metric=trained.metric,
            direction=trained.direction,
        )  # fmt: skip
        shown.stage("evaluating the network")
        return _evaluation(trained, labelled, request, workshop, target.target)


def _noted(trained: TrainedNetwork) -> str:
    """Note in the run that its sealed test set is evaluated; what is to be said of it."""
    what = "The sealed test set of the run is among these images"
    if trained.run is None:
        return f"{what}; the run folder is not here, so that its log of evaluations does not have this one."
    key, number = trained.record.key, trained.record.trial
    with clear_errors(trained.run):
        count = note_opening(trained.run, purpose=f"evaluate {key} of trial {number}")
    return (
        f"{what}: test set evaluated (evaluation {count} in this run, in {OPENINGS}). Once that influences which "
        "network is chosen, they are no longer a test set."
    )


def _check(trained: TrainedNetwork, *, trust: bool) -> RunIdentity:
    """How the network was trained; RunError if that makes it impossible to evaluate it on other images."""
    data, identity = trained.data, trained.record.identity
    if identity is None:
        raise RunError("the export does not say how its network was trained", hint="give the run folder")
    if data.kind == "own" or identity.trainer is not UNSET:
        raise RunError(
            "the network was trained by a training loop of your own, and only that can test it",
            hint="load the network with se_nas.load('RUN/best') and call your own test",
        )
    if data.kind == "module":
        raise RunError(
            f"the training images came from a LightningDataModule, whose transforms only it knows "
            f"({data.target.target})",
            hint="load the network with se_nas.load('RUN/best') and give it the batches of your data module",
        )
    where = trained.run or trained.weights.parent
    check_config(SearchConfig(task=identity.task), where=where, trust=trust, only=("task",))
    return identity


def _evaluation(trained: TrainedNetwork, labelled: Labelled, request: Request, folder: Path, name: str) -> Evaluation:
    identity, data = request.identity, trained.data
    task = open_task(identity.task, metric=trained.metric, direction=trained.direction)
    units = getattr(task, "units", {})
    found = examined(request, folder, "test")
    metric, values = task.metric, found.metrics
    facts = {"metric": _plain(metric), "unit": units.get(metric, "")}
    first = measure(found.scores, **facts, value=None if found.each else values[metric])
    measured = [replace(first, images=len(labelled.labels))]
    if identity.classifies and metric != ACCURACY:
        found = examined(replace(request, metric=ACCURACY, direction="maximize"), folder, "test")
        facts = {"metric": _plain(ACCURACY), "unit": "share"}
        measured.append(measure(found.scores, **facts))
    numbered = is_class_number(labelled.labels) and not data.target_shape
    seen = None if trained.run is None else seen_in(trained.run, labelled.images)
    others = None if seen is None else ~(seen["train"] | seen["val"])
    fresh = found.scores[others] if others is not None and found.each and not others.all() else np.empty(0)
    return Evaluation(
        network=trained.record.name,
        data=name,
        images=len(labelled.labels),
        measured=tuple(measured),
        classes=by_class(found.scores, labelled.labels, data.classes, **facts) if numbered and found.each else (),
        metrics={_plain(name): value for name, value in values.items() if not name.startswith("train_")},
        seen=None if seen is None else {part: int(there.sum()) for part, there in seen.items()},
        unseen=measure(fresh, **facts) if len(fresh) else None,
        notes=tuple(labelled.notes),
    )


def _plain(metric: str) -> str:
    """The name of a metric without the part of the search that it was logged on."""
    return metric.removeprefix("val_")


def _laid_out(folder: Path, trained: TrainedNetwork, labelled: Labelled, identity: RunIdentity) -> Path:
    """A folder that looks like the run of the network with these images as its test set."""
    keep_info(folder, replace(trained.data, test=len(labelled.labels)))
    for name, array in (("images", labelled.images), ("labels", labelled.labels)):
        np.save(folder / "data" / f"test_{name}.npy", array)
    weights = weights_file(folder, 0, identity.phase)
    weights.parent.mkdir()
    shutil.copyfile(trained.weights, weights)
    return folder
