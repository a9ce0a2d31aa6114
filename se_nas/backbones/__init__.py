"""Backbones: built-in ones, those of model libraries, and any factory of an `nn.Module` by import path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from se_nas.backbones.adapt import adapt_classifier, adapt_input
from se_nas.errors import BackboneError, SeNasError
from se_nas.plugins import accepted, check_arguments, resolve
from se_nas.records import Target, random_stream

# Name -> factory. A name that ends with a colon stands for all networks of a library.
BACKBONES: dict[str, str] = {
    **{f"resnet{depth}": "se_nas.backbones.resnet:resnet" for depth in (8, 14, 20, 32, 56)},
    "bagnet8": "se_nas.backbones.resnet:bagnet",
    "timm:": "se_nas.backbones.libraries:timm",
    "torchvision:": "se_nas.backbones.libraries:torchvision",
    "pytorchcv:": "se_nas.backbones.libraries:pytorchcv",
    "hf:": "se_nas.backbones.libraries:hf",
}
_FIXED: dict[str, dict[str, Any]] = {f"resnet{depth}": {"depth": depth} for depth in (8, 14, 20, 32, 56)}


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
    factory, argument = resolve("backbone", target.target, BACKBONES)
    if isinstance(factory, nn.Module):
        raise BackboneError(f"{target.target!r} is a network, not a factory", hint="give a function that builds it")
    offered: dict[str, Any] = {"in_channels": input_shape[0], "input_shape": tuple(input_shape)}
    if num_classes is not None:
        offered["num_classes"] = num_classes
    args = {**_FIXED.get(target.target, {}), **accepted(factory, offered), **target.args}
    if argument is not None:
        args["name"] = argument
    check_arguments("backbone", target, factory, args)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(random_stream(seed, "backbone"))
        model = _made(target, factory, args)
        if "in_channels" not in args:
            adapt_input(model, input_shape[0], input_shape)
        if num_classes is not None and "num_classes" not in args:
            adapt_classifier(model, num_classes, input_shape)
    return model.train()


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


def source_file(target: Target) -> Path | None:
    """The Python file of a backbone given as ``path/to/file.py:attribute``, or None."""
    path, _, _ = target.target.rpartition(":")
    return Path(path).expanduser().resolve() if path.endswith(".py") else None
