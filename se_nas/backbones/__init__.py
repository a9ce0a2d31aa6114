"""Backbones: built-in ones, and any factory of an `nn.Module` by import path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from se_nas.errors import BackboneError, SeNasError
from se_nas.plugins import accepted, check_arguments, resolve
from se_nas.records import Target, random_stream

# Name -> factory and its fixed arguments.
BACKBONES: dict[str, str] = {f"resnet{depth}": "se_nas.backbones.resnet:resnet" for depth in (8, 14, 20, 32, 56)}
_FIXED: dict[str, dict[str, Any]] = {f"resnet{depth}": {"depth": depth} for depth in (8, 14, 20, 32, 56)}


def build_backbone(target: Target, *, num_classes: int, input_shape: tuple[int, ...], seed: int) -> nn.Module:
    """A network with the given number of classes, in train mode, its weights from the stream of the seed.

    Parameters
    ----------
    input_shape:
        (channels, *size) of one image.

    Raises
    ------
    BackboneError
        If the factory raises, or returns something else than a network.
    PluginError
        If the name or an argument is unknown.
    """
    factory, argument = resolve("backbone", target.target, BACKBONES)
    args = dict(_FIXED.get(target.target, {}))
    if argument is not None:
        args["name"] = argument
    args.update(accepted(factory, {"num_classes": num_classes, "in_channels": input_shape[0]}))
    args.update(target.args)
    if isinstance(factory, nn.Module):
        raise BackboneError(f"{target.target!r} is a network, not a factory", hint="give a function that builds it")
    check_arguments("backbone", target, factory, args)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(random_stream(seed, "backbone"))
        try:
            model = factory(**args)
        except SeNasError:
            raise
        except Exception as error:  # whatever a user's factory raises
            raise BackboneError(
                f"backbone {target.target!r} cannot be built: {type(error).__name__}: {error}"
            ) from error
    if isinstance(model, type) and issubclass(model, nn.Module):
        raise BackboneError(
            f"backbone {target.target!r} returned the class {model.__name__}, not a network",
            hint=f"return {model.__name__}(...)",
        )
    if not isinstance(model, nn.Module):
        raise BackboneError(f"backbone {target.target!r} returned {type(model).__name__}, not an nn.Module")
    return model.train()


def source_file(target: Target) -> Path | None:
    """The Python file of a backbone given as ``path/to/file.py:attribute``, or None."""
    path, _, _ = target.target.rpartition(":")
    return Path(path).expanduser().resolve() if path.endswith(".py") else None
