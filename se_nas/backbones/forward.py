"""One forward pass of a network, without a trace left behind."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from se_nas.core.errors import BackboneError


def run_once(model: nn.Module, input_shape: tuple[int, ...]) -> Any:
    """Output of the network for one random image, in eval mode, without a trace left behind.

    BackboneError with the network's own message if it fails.
    """
    try:
        with left_alone(model, train=False):
            return model(random_images(model, input_shape, 1))
    except Exception as error:  # whatever a user's forward raises
        raise forward_failed(model, input_shape, error) from error


def forward_failed(model: nn.Module, input_shape: tuple[int, ...], error: Exception) -> BackboneError:
    """What to tell a user whose network raised an error in its forward pass."""
    return BackboneError(
        f"{type(model).__name__} fails on one image of shape {tuple(input_shape)}: {type(error).__name__}: {error}",
        hint="give the input shape that the network expects",
    )


def random_images(model: nn.Module, input_shape: tuple[int, ...], count: int) -> Tensor:
    """The same ``count`` random images at each call, on the device and in the type of the network's weights."""
    images = torch.rand(count, *input_shape, generator=torch.Generator().manual_seed(0))
    parameter = next((p for p in model.parameters() if p.is_floating_point()), None)
    return images if parameter is None else images.to(parameter.device, parameter.dtype)


@contextlib.contextmanager
def left_alone(model: nn.Module, *, train: bool) -> Iterator[None]:
    """The network in train or eval mode, without gradients; its modes and the random state are put back at the end."""
    modes = {module: module.training for module in model.modules()}
    state = random.getstate()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            model.train(train)
            yield
    finally:
        random.setstate(state)
        for module, mode in modes.items():
            module.training = mode
