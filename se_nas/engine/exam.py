"""The exam: a trained network image by image, on the sealed test set or on the validation set.

Only `confirm` opens the test set, once, at its end; what it looks at before that is validation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import pytorch_lightning as pl
import torch
from safetensors.torch import load_file

from se_nas.core.errors import RunError, TrainingError
from se_nas.core.files import atomically, our_files, weights_file
from se_nas.core.protocols import Channel, Task
from se_nas.core.trial import Request, Result
from se_nas.data.base import DataInfo, PartName
from se_nas.data.batches import Batches
from se_nas.data.datamodule import AnyDataModule, Seen
from se_nas.data.shards import devices_of
from se_nas.data.store import open_part, open_source, read_info
from se_nas.insertion.insert import build_candidate
from se_nas.training.answer import answer
from se_nas.training.classification import PREDICTED, TRUE
from se_nas.training.loop_run import examine_own
from se_nas.training.tasks import open_task
from se_nas.training.trainer import DeviceSettings, make_trainer, quiet, validation_batch
from se_nas.training.trainers import loop_of

GROUPS = 20
"""Of test images, where a metric is no mean over images: each is left out once (delete-a-group jackknife)."""


def exam_file(folder: Path, trial: int, part: PartName = "test") -> Path:
    """Where the exam of a confirmed training lies: its ``scores``, and the ``names`` and ``values`` of its metrics.

    Where the network gives classes, also the ``predicted_class`` and the ``true_class`` of each image. Of a data module
    also the ``content``: the checksum of the batches that it gave.
    """
    return folder / "confirm" / f"{part}-{trial}.npz"


def read_exam(file: Path) -> tuple[np.ndarray, dict[str, float]]:
    """Scores and metrics of a network on a part; RunError if the file is broken."""
    try:
        with np.load(file, allow_pickle=False) as archive:
            metrics = dict(zip(archive["names"].tolist(), archive["values"].tolist(), strict=True))
            return archive["scores"].astype(np.float64), metrics
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise RunError(
            f"{file.name} is broken: {error}", where=str(file), hint="remove it and confirm again"
        ) from error


def read_classes(file: Path) -> tuple[np.ndarray, np.ndarray] | None:
    """Predicted and true class numbers (images,) of an exam; None where it has none."""
    with np.load(file, allow_pickle=False) as archive:
        if not {PREDICTED, TRUE} <= set(archive.files):
            return None
        return archive[PREDICTED], archive[TRUE]


def exam_content(file: Path) -> str:
    """The checksum of what a network was examined on; empty where that was compared before, or is not known."""
    with np.load(file, allow_pickle=False) as archive:
        return str(archive["content"]) if "content" in archive.files else ""


def examine(request: Request, channel: Channel, *, part: PartName = "test") -> Result:
    """Test the trained network of a request; its scores are in `exam_file` when this returns ``complete``.

    The scores are one number for each image of the part, whose mean is the metric; for a metric that is no mean over
    images, pseudo-values of `GROUPS` groups of images (Kott, "The delete-a-group jackknife", Journal of Official
    Statistics 17, 2001). A module says what an image contributes by a method ``image_scores(batch)`` that returns
    tensors (batch,) by metric; under ``predicted_class`` and ``true_class`` it may give class numbers.
    """
    folder = Path(request.folder)

    def work(result: Result) -> Result:
        found = examined(request, folder, part)
        names, values = np.array(list(found.metrics), dtype=str), np.array(list(found.metrics.values()), dtype=float)
        arrays: dict[str, Any] = {"scores": found.scores, "names": names, "values": values, **found.classes}
        if found.content:
            arrays["content"] = np.array(found.content)
        with atomically(exam_file(folder, request.trial, part)) as temporary:
            np.savez_compressed(temporary, **arrays)
        return result

    return answer(request, work)


@dataclass(frozen=True, kw_only=True)
class Examined:
    """What a network is worth on a part: ``scores`` as `examine` says, and all ``metrics`` that its task logs.

    ``each`` says whether there is a score for each image, and no pseudo-value of a group; ``content`` is the checksum
    of the batches that a data module gave; ``classes`` are class numbers (images,) by name, where the network gives
    classes.
    """

    scores: np.ndarray
    metrics: dict[str, float]
    content: str = ""
    each: bool = True
    classes: dict[str, np.ndarray] = field(default_factory=dict)


def examined(request: Request, folder: Path, name: PartName) -> Examined:
    """Test the trained network of a request on a part that is open in a folder, in this process."""
    identity, info = request.identity, read_info(folder)
    candidate = build_candidate(
        request.backbone, request.units, request.placement,
        num_classes=len(info.classes) or None, input_shape=info.input_shape, seed=0,
    )  # fmt: skip
    with our_files():
        candidate.load_state_dict(load_file(weights_file(folder, request.trial, identity.phase)))
    if request.channels_last:
        candidate.to(memory_format=torch.channels_last)
    if (loop := loop_of(request)) is not None:
        scores, metrics = examine_own(loop, candidate, request, info, groups=GROUPS)
        return Examined(scores=scores, metrics=metrics, each=False)
    task = open_task(identity.task, metric=request.metric, direction=request.direction)
    module = task.module(candidate, identity.recipe, **task_facts(info))
    per_image = PerImage(task.metric)
    part = _ExamPart(info, folder, name, _device(request), request.channels_last)
    metrics = _validate(module, part, request, per_image)
    content = part.content
    if task.metric not in metrics:
        raise TrainingError(
            f"the task did not log {task.metric!r} on the {'test' if name == 'test' else 'validation'} set",
            allowed=sorted(metrics),
        )
    classes = {name: found for name in (PREDICTED, TRUE) if (found := per_image.joined(name)) is not None}
    own = per_image.joined(task.metric)
    scores = _jackknife(module, task, part, request, metrics[task.metric]) if own is None else own
    return Examined(scores=scores, metrics=metrics, content=content, each=own is not None, classes=classes)


def task_facts(info: DataInfo) -> dict[str, Any]:
    """What a task is told of the data where nothing is trained."""
    return {
        "classes": info.classes, "num_classes": len(info.classes) or None, "input_shape": info.input_shape,
        "class_counts": torch.ones(max(1, len(info.classes))), "steps": 1,
    }  # fmt: skip


def _jackknife(module: pl.LightningModule, task: Task, part: _ExamPart, request: Request, whole: float) -> np.ndarray:
    """Pseudo-values ``g whole - (g - 1) value without the group``, one for each group of images."""
    values = [_validate(module, part.leaving_out(group), request)[task.metric] for group in range(GROUPS)]
    return GROUPS * whole - (GROUPS - 1) * np.array(values, dtype=np.float64)


class PerImage(pl.Callback):
    """Collects what each image contributes to a metric, and its classes, where the module can say."""

    def __init__(self, metric: str) -> None:
        self.found: dict[str, list[np.ndarray]] = {name: [] for name in (metric, PREDICTED, TRUE)}

    def joined(self, name: str) -> np.ndarray | None:
        """What all images have under a name, (images,); None where the module did not say."""
        return np.concatenate(self.found[name]) if self.found[name] else None

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        scores = getattr(pl_module, "image_scores", None)
        if scores is None:
            return
        with trainer.precision_plugin.forward_context():
            values = scores(batch)
        for name, found in self.found.items():
            if name in values:
                value = values[name].detach().cpu()
                found.append((value.double() if value.is_floating_point() else value).numpy())


class _ExamPart(pl.LightningDataModule):
    """A part where Lightning looks for validation data, so that the same metrics are logged."""

    def __init__(self, info: DataInfo, folder: Path, name: PartName, device: torch.device, channels_last: bool) -> None:
        super().__init__()
        self.info, self.folder, self.part = info, folder, name
        self.place, self.channels_last = device, channels_last
        self.without: int | None = None
        self._seen: Seen | None = None
        self.inner = AnyDataModule(open_source(info.target)[0]) if info.kind == "module" else None

    @property
    def content(self) -> str:
        """Checksum of the batches that a data module gave."""
        return "" if self._seen is None else self._seen.checksum

    def leaving_out(self, group: int) -> _ExamPart:
        """The part without one of `GROUPS` groups: images by turns, or whole batches of a data module."""
        others = _ExamPart(self.info, self.folder, self.part, self.place, self.channels_last)
        others.without = group
        return others

    def setup(self, stage: str) -> None:
        if self.inner is not None:
            self.inner.inner.prepare_data()
            self.inner.inner.setup("test" if self.part == "test" else "fit")

    def val_dataloader(self) -> Any:
        if self.inner is not None:
            inner = self.inner.inner
            loader = inner.test_dataloader() if self.part == "test" else inner.val_dataloader()
            if self.without is not None:
                return _Others(loader, self.without)
            self._seen = None if isinstance(loader, list | tuple | dict) else Seen(loader)
            return self._seen or loader
        part = open_part(self.folder, self.part)
        if self.without is not None:
            kept = np.arange(len(part.labels)) % GROUPS != self.without
            part = replace(part, images=part.images[kept], labels=part.labels[kept])
        return Batches(
            part, batch_size=validation_batch(self.place), mean=self.info.mean, std=self.info.std,
            device=self.place, channels_last=self.channels_last,
        )  # fmt: skip

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return batch if self.inner is None else self.inner.on_before_batch_transfer(batch, dataloader_idx)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return batch if self.inner is None else self.inner.on_after_batch_transfer(batch, dataloader_idx)


class _Others:
    """All batches of a loader but those of one group."""

    def __init__(self, loader: Any, group: int) -> None:
        self.loader, self.group = loader, group

    def __iter__(self) -> Iterator[Any]:
        return (batch for number, batch in enumerate(self.loader) if number % GROUPS != self.group)


def _validate(
    module: pl.LightningModule, data: _ExamPart, request: Request, *callbacks: pl.Callback
) -> dict[str, float]:
    settings = DeviceSettings(device=_device(request), precision=request.identity.precision)
    trainer = make_trainer(request.identity.recipe, settings, *callbacks)
    with quiet():
        trainer.validate(module, datamodule=data, verbose=False)
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def _device(request: Request) -> torch.device:
    """Where a network is tested: the first device of its training."""
    return torch.device(devices_of(request.device)[0])
