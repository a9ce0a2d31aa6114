"""Backbones: built-in ones, those of model libraries, and any factory of an `nn.Module` by import path."""

from __future__ import annotations

import fnmatch
from pathlib import Path
from typing import Any

import torch
from torch import nn

from se_nas.backbones.adapt import adapt_classifier, adapt_input
from se_nas.backbones.libraries import mentions, names_in
from se_nas.core.errors import BackboneError, SeNasError, did_you_mean
from se_nas.core.files import user_path
from se_nas.core.plugins import accepted, check_arguments, known_names, resolve
from se_nas.core.serialization import random_stream
from se_nas.core.trial import Target

# Name -> factory. A name that ends with a colon stands for all networks of a library.
BACKBONES: dict[str, str] = {
    **{f"resnet{depth}": "se_nas.backbones.resnet:resnet" for depth in (8, 14, 20, 32, 56)},
    "bagnet8": "se_nas.backbones.resnet:bagnet",
    "timm:": "se_nas.backbones.libraries:timm",
    "torchvision:": "se_nas.backbones.libraries:torchvision",
    "pytorchcv:": "se_nas.backbones.libraries:pytorchcv",
    "hf:": "se_nas.backbones.libraries:hf",
    "ultralytics:": "se_nas.backbones.yolo:ultralytics",
}
FIXED: dict[str, dict[str, Any]] = {f"resnet{depth}": {"depth": depth} for depth in (8, 14, 20, 32, 56)}


def list_backbones(pattern: str = "*") -> list[str]:
    """Names of backbones that match a shell pattern, such as ``resnet*``.

    Built-in networks and installed plug-ins; with the name of a library before a colon the library's, such as
    ``timm:*resnet*``. BackboneError if that library is not installed or unknown.

    >>> list_backbones("resnet[12]?")
    ['resnet14', 'resnet20']
    """
    library, colon, inner = pattern.partition(":")
    if not colon:
        return [name for name in known_names("backbone", BACKBONES) if fnmatch.fnmatchcase(name, pattern)]
    if f"{library}:" not in BACKBONES:
        known = [name for name in BACKBONES if name.endswith(":")]
        raise BackboneError(f"unknown library {library!r}", allowed=known, hint=did_you_mean(pattern, known))
    return [f"{library}:{name}" for name in names_in(library) if fnmatch.fnmatchcase(name, inner)]


def build_backbone(target: Target, *, num_classes: int | None, input_shape: tuple[int, ...], seed: int) -> nn.Module:
    """A network with the given number of classes, in train mode, its weights from the stream of the seed.

    A factory is given `num_classes`, `in_channels` and `input_shape` if it has parameters of these names. Where it has
    not, the network's last layer and its first convolution are replaced if they do not fit.

    Parameters
    ----------
    num_classes:
        None leaves the network with its own classes.
    input_shape:
        (channels, *size) of one image.

    Raises
    ------
    BackboneError
        If the factory raises, returns something else than a network, or the network cannot be made to fit.
    PluginError
        If the name or an argument is unknown.
    """
    factory, argument = resolve("backbone", target.target, BACKBONES, elsewhere=in_libraries)
    if isinstance(factory, nn.Module):
        raise BackboneError(f"{target.target!r} is a network, not a factory", hint="give a function that builds it")
    offered: dict[str, Any] = {"in_channels": input_shape[0], "input_shape": tuple(input_shape)}
    if num_classes is not None:
        offered["num_classes"] = num_classes
    args = {**FIXED.get(target.target, {}), **accepted(factory, offered), **target.args}
    if argument is not None:
        args["name"] = argument
    _check_channels(target, input_shape[0])
    check_arguments("backbone", target, factory, args)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(random_stream(seed, "backbone"))
        model = _made(target, factory, args)
        if "in_channels" not in args:
            adapt_input(model, input_shape[0], input_shape)
        if num_classes is not None and "num_classes" not in args:
            adapt_classifier(model, num_classes, input_shape)
    return model.train()


CHANNELS = ("in_channels", "in_chans", "num_channels")
"""Names under which libraries take the number of input channels."""


def _check_channels(target: Target, channels: int) -> None:
    for name in CHANNELS:
        given = target.args.get(name, channels)
        if given != channels:
            raise BackboneError(
                f"{name} of backbone {target.target!r} is {given!r}, but the images have {channels} channels",
                hint=f"leave {name} out: it is that of the data",
            )


def in_libraries(name: str) -> list[str]:
    """Under which names the libraries that are installed have a network, such as ``timm:resnet50``."""
    found = []
    for library in (prefix[:-1] for prefix in BACKBONES if prefix.endswith(":")):
        try:
            if mentions(library, name) and name in names_in(library):
                found.append(f"{library}:{name}")
        except BackboneError:  # it cannot be imported
            continue
    return found


def _made(target: Target, factory: Any, args: dict[str, Any]) -> nn.Module:
    try:
        model = factory(**args)
    except SeNasError:
        raise
    except Exception as error:  # whatever a user's factory raises
        raise BackboneError(f"backbone {target.target!r} cannot be built: {type(error).__name__}: {error}") from error
    if isinstance(model, type) and issubclass(model, nn.Module):
        raise BackboneError(
            f"backbone {target.target!r} returned the class {model.__name__}, not a network",
            hint=f"return {model.__name__}(...)",
        )
    if not isinstance(model, nn.Module):
        raise BackboneError(f"backbone {target.target!r} returned {type(model).__name__}, not an nn.Module")
    return model


def is_pretrained(target: Target) -> bool:
    """Whether a backbone comes with trained weights: asked for by `pretrained`, or in the file that it is."""
    in_file = target.target.startswith("ultralytics:") and target.target.endswith(".pt")
    return in_file or bool(target.args.get("pretrained"))


def source_file(target: Target) -> Path | None:
    """The Python file of a backbone given as ``path/to/file.py:attribute``, or None."""
    path, _, _ = target.target.rpartition(":")
    return user_path(path).resolve() if path.endswith(".py") else None
