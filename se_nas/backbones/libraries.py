"""Backbones from model libraries. Each library is optional, and is imported when it is asked for."""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import re
import warnings
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from se_nas.backbones import yolo
from se_nas.backbones.adapt import adapt_classifier, adapt_input, adapt_pooling
from se_nas.backbones.downloads import fetching, hub
from se_nas.core.errors import BackboneError, did_you_mean
from se_nas.core.plugins import import_library

Shape = tuple[int, ...]


class Logits(nn.Module):
    """A network that gives only the logits of one that gives more, such as a `transformers` model with its ModelOutput.

    Input (batch, channels, *size), output (batch, num_classes).
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        output = self.model(images)
        logits: Tensor = output if isinstance(output, Tensor) else output.logits
        return logits


def timm(
    *,
    name: str,
    in_channels: int,
    num_classes: int | None = None,
    pretrained: bool = False,
    **settings: Any,  # timm's own
) -> nn.Module:
    """A network of `timm`, which replaces classifier and first layer itself; `settings` go to `timm.create_model`.

    ``hf_hub:OWNER/NAME`` is one of the hub of Hugging Face, whose configuration is fetched in any case.
    """
    library = import_library("timm", "timm", BackboneError)
    on_the_hub = ":" in name or "/" in name
    if not on_the_hub and not library.is_model(name.partition(".")[0]):
        raise _unknown("timm", name, library.list_models())
    settings.pop("in_chans", None)  # it is that of the data: `build_backbone` has compared them
    arguments = {"pretrained": pretrained, "in_chans": in_channels, **_classes(num_classes), **settings}
    with _fetching(f"timm's {name}", hub(), wanted=pretrained or on_the_hub):
        model: nn.Module = library.create_model(name, **arguments)
    return model


def torchvision(
    *,
    name: str,
    in_channels: int,
    num_classes: int | None = None,
    input_shape: Shape,
    pretrained: bool = False,
    **settings: Any,  # those of torchvision's builders
) -> nn.Module:
    """A network of `torchvision.models`, without auxiliary classifiers unless they are asked for.

    With `pretrained`, the library's default weights, and a classifier of its own if it has another number of classes.
    Nothing is fetched otherwise: networks for detection and segmentation, whose backbones torchvision would fetch
    weights for, get them only by `weights_backbone`.
    """
    models = import_library("torchvision.models", "torchvision", BackboneError)
    if name not in (known := models.list_models()):
        raise _unknown("torchvision", name, known)
    chosen: dict[str, Any] = {"weights": "DEFAULT"} if pretrained else {"weights": None, **_classes(num_classes)}
    if "weights_backbone" in inspect.signature(models.get_model_builder(name)).parameters:
        chosen["weights_backbone"] = None
    chosen.update(settings)
    wanted = any(chosen.get(which) is not None for which in ("weights", "weights_backbone"))
    with _fetching(f"the weights of torchvision's {name}", "https://download.pytorch.org", wanted=wanted):
        model = _of_torchvision(models, name, chosen)
    adapt_input(model, in_channels, input_shape)
    if num_classes is not None:
        adapt_classifier(model, num_classes, input_shape)
    return Logits(model) if getattr(model, "aux_logits", False) else model


def _of_torchvision(models: ModuleType, name: str, settings: dict[str, Any]) -> nn.Module:
    """The network, without auxiliary classifiers where its builder knows them and `settings` do not ask for them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The default weight initialization of", category=FutureWarning)
        try:
            model: nn.Module = models.get_model(name, **{"aux_logits": False, **settings})
        except TypeError as error:
            if "aux_logits" in settings or "aux_logits" not in str(error):
                raise
            model = models.get_model(name, **settings)
    return model


def pytorchcv(
    *,
    name: str,
    in_channels: int,
    num_classes: int | None = None,
    input_shape: Shape,
    pretrained: bool = False,
    **settings: Any,  # those of pytorchcv's builders
) -> nn.Module:
    """A network of `pytorchcv`.

    Its fixed final pooling is made adaptive if the images have another size than it was made for.
    """
    provider = import_library("pytorchcv.model_provider", "pytorchcv==0.0.67", BackboneError)
    known: dict[str, Any] = getattr(provider, "_models", {})
    if known and name.lower() not in known:
        raise _unknown("pytorchcv", name, known)
    fresh = {} if pretrained else {"in_channels": in_channels, **_classes(num_classes)}
    with _fetching(f"the weights of pytorchcv's {name}", "https://github.com", wanted=pretrained):
        model: nn.Module = provider.get_model(name, pretrained=pretrained, **{**fresh, **settings})
    adapt_input(model, in_channels, input_shape)
    if tuple(getattr(model, "in_size", input_shape[1:])) != tuple(input_shape[1:]):
        adapt_pooling(model, input_shape)
    if pretrained and num_classes is not None:
        adapt_classifier(model, num_classes, input_shape)
    return model


def hf(
    *,
    name: str,
    in_channels: int,
    num_classes: int | None = None,
    input_shape: Shape,
    pretrained: bool = False,
    **settings: Any,  # fields of the model's configuration
) -> nn.Module:
    """An image classifier of `transformers`: a model of the hub or a folder, a configuration file, or a model type.

    ``microsoft/resnet-50``, ``path/to/folder``, ``path/to/config.json`` or ``resnet``; `settings` are fields of the
    configuration. With `pretrained`, layers whose shape differs (classifier, first layer) start anew.
    """
    library = import_library("transformers", "transformers", BackboneError)
    auto = library.AutoModelForImageClassification
    shared = {**_classes(num_classes, "num_labels"), "num_channels": in_channels, **settings}
    if pretrained:
        with _fetching(f"{name} of Hugging Face", hub(), wanted=not Path(name).exists()):
            return Logits(auto.from_pretrained(name, ignore_mismatched_sizes=True, **shared))
    config = _configuration(library, name, shared)
    if "image_size" not in settings and isinstance(getattr(config, "image_size", None), int):
        config.image_size = input_shape[-1]
    return Logits(auto.from_config(config))


def names_in(library: str) -> list[str]:
    """The networks of a library by name; BackboneError if it is not installed."""
    if library == "pytorchcv":
        return sorted(import_library("pytorchcv.model_provider", "pytorchcv==0.0.67", BackboneError)._models)
    if library == "hf":
        return sorted(import_library("transformers", "transformers", BackboneError).CONFIG_MAPPING.keys())
    if library == "ultralytics":
        return yolo.names()
    module = "torchvision.models" if library == "torchvision" else library
    return sorted(import_library(module, library, BackboneError).list_models())


def mentions(library: str, name: str) -> bool:
    """Whether a library's code has this name: a wrong name shall not cost the import of all libraries."""
    if re.fullmatch(r"[\w.+/@-]{1,200}", name) is None:  # not the name of a network, and too long for that of a file
        return False
    spec = importlib.util.find_spec({"hf": "transformers"}.get(library, library))
    if spec is None or spec.origin is None:
        return False
    root = Path(spec.origin).parent
    if library == "hf":
        return (root / "models" / name.replace("-", "_")).is_dir()
    if library == "ultralytics":
        return name.startswith("yolo")
    word = re.compile(rf"\b{re.escape(name)}\b".encode())
    code = root if library == "pytorchcv" else root / "models"
    return any(word.search(file.read_bytes()) for file in code.rglob("*.py"))


def _configuration(library: ModuleType, name: str, settings: dict[str, Any]) -> Any:
    types: Iterable[str] = library.CONFIG_MAPPING.keys()
    if name in types:
        return library.AutoConfig.for_model(name, **settings)
    if "/" not in name and not Path(name).exists():
        raise _unknown("hf", name, types)
    try:
        with _fetching(f"{name} of Hugging Face", hub(), wanted=not Path(name).exists()):
            return library.AutoConfig.from_pretrained(name, **settings)
    except (OSError, ValueError) as error:
        raise BackboneError(
            f"transformers finds no configuration for {name!r}: {str(error).splitlines()[0]}",
            hint="give a model type such as resnet, a folder, a config.json, or a name of the hub while online",
        ) from error


def _fetching(what: str, server: str, *, wanted: bool) -> contextlib.AbstractContextManager[None]:
    """Ready for the net where something is wanted of it."""
    return fetching(what, server) if wanted else contextlib.nullcontext()


def _classes(number: int | None, name: str = "num_classes") -> dict[str, Any]:
    """The argument for the number of classes; none leaves the network with its own."""
    return {} if number is None else {name: number}


def _unknown(library: str, name: str, known: Iterable[str]) -> BackboneError:
    return BackboneError(f"{library} has no network {name!r}", hint=did_you_mean(name, list(known)))
