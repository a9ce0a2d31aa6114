"""Networks of Ultralytics: by the name of a YAML file, which gives fresh weights, or from a ``.pt`` file.

A ``.pt`` file of Ultralytics is a pickle of the whole network. It is read with `torch.load(weights_only=True)`, which
makes objects of the classes that the library knows as those of its networks and runs no other code: a file that holds
more is an error. The package is under the AGPL, so it is an extra, and nothing else here needs it.
"""

from __future__ import annotations

import contextlib
import logging
import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from se_nas.backbones.downloads import fetching
from se_nas.core.documents import UnreadableError, from_yaml, text_of
from se_nas.core.errors import BackboneError, did_you_mean
from se_nas.core.files import user_path
from se_nas.core.plugins import import_library

_NETWORKS = {
    "classify": "ClassificationModel",
    "detect": "DetectionModel",
    "segment": "SegmentationModel",
    "pose": "PoseModel",
    "obb": "OBBModel",
}
"""Task of Ultralytics -> its class of networks."""

_HEADS = re.compile(r"(v\d+)?(Classify|Detect|Segment|Pose|OBB)\d*")
"""Class names of the last modules of networks that take images alone, whatever their version."""

_FROZEN = ".dfl"
"""In the names of weights that Ultralytics never trains: they are the numbers of the bins of a box's sides."""


def ultralytics(
    *,
    name: str,
    in_channels: int,
    num_classes: int | None = None,
    pretrained: bool = False,
) -> nn.Module:
    """A network of `ultralytics` for classification, detection, segmentation, pose or oriented boxes.

    Those for classification give logits in eval mode, too. State-dict keys are those of Ultralytics. A file with
    another number of classes or channels gives its weights to a network that has the right one, all that fit.

    Parameters
    ----------
    name:
        ``yolo11n.yaml``, ``path/to/own.yaml`` or ``path/to/best.pt``.
    pretrained:
        Fetch a ``.pt`` file of this name if there is none, as Ultralytics does.

    Raises
    ------
    BackboneError
        If there is no such network or file, the file holds more than a network, or cannot be fetched.
    """
    with _quiet() as tasks:
        return _ready(_network(tasks, name, in_channels, num_classes, pretrained=pretrained))


def _network(tasks: Any, name: str, channels: int, classes: int | None, *, pretrained: bool) -> Any:
    if pretrained and name.endswith((".yaml", ".yml")):
        name = f"{Path(name).stem}.pt"
    if name.endswith(".pt"):
        given = _read(tasks, name, fetch=pretrained)
        trained = given.yaml.get("nc")
        if given.yaml.get("channels", channels) == channels and classes in (None, trained):
            return given
        model = type(given)(given.yaml, ch=channels, nc=classes or trained, verbose=False)
        model.load(given, verbose=False)
        return model
    if name not in names():
        if not user_path(name).is_file():
            raise BackboneError(f"ultralytics has no network {name!r}", hint=_hint(name))
        try:
            from_yaml(text_of(user_path(name)))  # Ultralytics reads it without bounds
        except UnreadableError as error:
            raise BackboneError(f"cannot read {name!r}: {error}") from error
    settings = tasks.yaml_model_load(name)
    task = tasks.guess_model_task(settings)
    if task not in _NETWORKS:
        raise BackboneError(f"{name!r} is a network of ultralytics for {task!r}", allowed=_NETWORKS)
    return getattr(tasks, _NETWORKS[task])(settings, ch=channels, nc=classes, verbose=False)


@contextlib.contextmanager
def _quiet() -> Iterator[Any]:
    """Ultralytics' module of networks, with nothing on standard output, where a command may print JSON."""
    with contextlib.redirect_stdout(sys.stderr):
        tasks = import_library("ultralytics.nn.tasks", "ultralytics", BackboneError)
    logger = logging.getLogger("ultralytics")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield tasks
    finally:
        logger.setLevel(before)


def names() -> list[str]:
    """The networks that Ultralytics describes in its YAML files, in all their sizes, such as ``yolo11n-seg.yaml``."""
    with contextlib.redirect_stdout(sys.stderr):
        library = import_library("ultralytics", "ultralytics", BackboneError)
    found = []
    for file in sorted((Path(str(library.__file__)).parent / "cfg" / "models").rglob("yolo*.yaml")):
        content = from_yaml(text_of(file))
        if not _HEADS.fullmatch(str(content["head"][-1][2])):
            continue
        sizes = content.get("scales") or [""]
        found += [re.sub(r"(yolov?\d+)", rf"\g<1>{size}", file.name, count=1) for size in sizes]
    return sorted(found)


def _hint(name: str) -> str:
    with_ending = name if name.endswith(".yaml") else f"{name}.yaml"
    return did_you_mean(with_ending, names()) or "give the name of one of its YAML files, or a .pt file of yours"


def _read(tasks: Any, name: str, *, fetch: bool) -> Any:
    """The network in a ``.pt`` file, without running code of the file."""
    safe = getattr(tasks, "_SafeLoad", None)
    if safe is None or not safe.SUPPORTED:
        raise BackboneError(
            "this release of ultralytics, or of torch, cannot read a .pt file without running its code",
            hint="pip install --upgrade ultralytics torch",
        )
    if not user_path(name).is_file() and not fetch:
        raise BackboneError(
            f"there is no file {name!r}", hint="give its path, or have it fetched: --backbone.args.pretrained true"
        )
    try:
        with (
            _safely(tasks),
            fetching(f"ultralytics' {name}", "https://github.com") if fetch else contextlib.nullcontext(),
        ):
            model, _ = tasks.load_checkpoint(str(user_path(name)))
    except (TypeError, RuntimeError, OSError, KeyError, AttributeError) as error:
        raise BackboneError(
            f"{name!r} is not a file of a network of ultralytics, or holds more than one: {str(error).splitlines()[0]}",
            hint="only files are read whose classes are those of ultralytics' own networks",
        ) from error
    return model


@contextlib.contextmanager
def _safely(tasks: Any) -> Iterator[None]:
    """With Ultralytics' own switch for `torch.load(weights_only=True)`, which is off by default."""
    before = tasks.SAFE_LOAD
    tasks.SAFE_LOAD = True
    try:
        yield
    finally:
        tasks.SAFE_LOAD = before


def _ready(model: Any) -> nn.Module:
    """To be trained: files keep weights of which no gradient is wanted."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter.is_floating_point() and _FROZEN not in name)
    head = model.model[-1]
    if type(head).__name__ == "Classify":
        head.forward = types.MethodType(_logits, head)
    ready: nn.Module = model
    return ready


def _logits(head: Any, images: Tensor) -> Tensor:
    """What the head of a classifier gives in train mode; in eval mode it gives probabilities beside it."""
    output = type(head).forward(head, images)
    logits: Tensor = output[1] if isinstance(output, tuple) else output
    return logits
