"""From a trained network to the classes of new images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from se_nas.analysis.predictions import Predictions
from se_nas.backbones.adapt import logits_of
from se_nas.commands.results import SearchResult
from se_nas.commands.trained_network import RECOMMENDED, TrainedNetwork, one_device, trained_network
from se_nas.core.errors import ConfigError, DataError, RunError
from se_nas.core.files import user_path, write_atomically
from se_nas.data.base import Part
from se_nas.data.batches import Batches
from se_nas.data.new_images import image_files, preparation_of
from se_nas.report.figures import csv_of

BATCH = 64
"""Images in memory at a time."""


def predict(
    run: str | Path | SearchResult,
    images: str | Path | Sequence[str | Path] | np.ndarray | Tensor,
    *,
    select: str = RECOMMENDED,
    device: str = "auto",
    trust: bool = False,
    storage: str | None = None,
) -> Predictions:
    """The class of each image according to a trained network of a run, with its probability.

    Image files are prepared like the training images: grey or colour, size, background, scale, mean and deviation.

    Parameters
    ----------
    run:
        A run folder, the result of `se_nas.search`, or an export folder.
    images:
        Names of image files or of folders of images; or an array (n, channels, *size) in the units of the data set of
        the search (for a LightningDataModule: as the network expects them).
    select:
        Which network, as for `se_nas.export`.
    device:
        ``auto``, ``cpu``, ``cuda``, ...
    trust, storage:
        As for `se_nas.export`.

    Raises
    ------
    SeNasError
        If there is no such network, it does not predict classes, or an image cannot be read or does not fit.
    """
    trained = trained_network(run, select=select, trust=trust, storage=storage)
    check_classes(trained)
    if isinstance(images, np.ndarray | Tensor):
        array = images.detach().cpu().numpy() if isinstance(images, Tensor) else images
        return _predictions(trained, _of_array(array, trained.data.input_shape), device)
    names = [images] if isinstance(images, str | Path) else list(images)
    found, errors = predict_files(trained, names, device=device)
    for error in errors:
        raise error
    return found


def predict_files(
    trained: TrainedNetwork, names: Sequence[str | Path], *, device: str
) -> tuple[Predictions, list[DataError]]:
    """The classes of the images that can be read, and what is wrong with the others.

    DataError if this network was not trained on image files.
    """
    preparation = preparation_of(trained.data, trained.stored)
    errors: dict[str, DataError] = {}

    def readable() -> Iterator[tuple[str, np.ndarray]]:
        for name, file in image_files(names):
            try:
                if isinstance(file, DataError):
                    raise file
                yield name, preparation.read(file)
            except DataError as error:
                errors[name] = error

    found = _predictions(trained, readable(), device)
    return replace(found, errors={name: error.what for name, error in errors.items()}), list(errors.values())


def check_classes(trained: TrainedNetwork) -> None:
    """RunError unless the network gives one class for each image, judged by the targets that it was trained on."""
    data = trained.data
    if data.classes and (data.kind == "own" or (not data.target_shape and data.target_type == "integer")):
        return
    what = f"targets of shape {data.target_shape}" if data.target_shape else f"targets of type {data.target_type}"
    raise RunError(
        f"the network does not give one class for each image: it was trained on {what}",
        hint="call it yourself: network = se_nas.load('RUN/best')",
    )


def _of_array(array: np.ndarray, shape: tuple[int, ...]) -> Iterator[tuple[str, np.ndarray]]:
    if array.shape[1:] != shape:
        raise DataError(f"the images have shape {array.shape}", allowed=[f"(n, {', '.join(map(str, shape))})"])
    return ((str(number), image) for number, image in enumerate(array))


def _predictions(trained: TrainedNetwork, images: Iterable[tuple[str, np.ndarray]], device: str) -> Predictions:
    place = torch.device(one_device(device))
    network = trained.open().to(place)
    names: list[str] = []
    found: list[Tensor] = []
    waiting: list[np.ndarray] = []
    for name, image in images:
        names.append(name)
        waiting.append(image)
        if len(waiting) == BATCH:
            found.append(_probabilities(trained, network, waiting, place))
            waiting = []
    if waiting:
        found.append(_probabilities(trained, network, waiting, place))
    classes = trained.data.classes
    return Predictions(
        network=trained.record.name,
        classes=classes,
        images=tuple(names),
        probabilities=torch.cat(found).numpy() if found else np.empty((0, len(classes))),
    )


def _probabilities(
    trained: TrainedNetwork, network: nn.Module, images: list[np.ndarray], place: torch.device
) -> Tensor:
    """Probabilities (images, classes) of images as they are stored, float64."""
    part = Part(images=np.stack(images), labels=np.zeros(len(images), dtype=np.int64))
    channels = trained.data.input_shape[0]
    mean, std = trained.data.mean or (0.0,) * channels, trained.data.std or (1.0,) * channels
    with torch.inference_mode():
        ((batch, _),) = Batches(part, batch_size=BATCH, mean=mean, std=std, device=place)
        logits = logits_of(network(batch))
    if logits is None or logits.shape != (len(images), len(trained.data.classes)):
        raise RunError(
            f"the network gives {None if logits is None else tuple(logits.shape)} for {len(images)} images, and not "
            f"one number for each of {len(trained.data.classes)} classes"
        )
    return logits.double().softmax(1).cpu()


def write_predictions(found: Predictions, file: str | Path) -> Path:
    """Write all probabilities as a CSV file; ConfigError if it cannot be written."""
    target = user_path(file)
    try:
        write_atomically(target, csv_of(found.table()).encode())
    except OSError as error:
        raise ConfigError(f"cannot write {str(file)!r}: {error.strerror or error}") from error
    return target
