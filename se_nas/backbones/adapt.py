"""Making a network fit the data: its number of classes, its input channels, its final pooling."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from se_nas.backbones.forward import run_once
from se_nas.core.errors import BackboneError

Shape = tuple[int, ...]
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_POOLINGS: dict[type[nn.Module], Callable[[int], nn.Module]] = {
    nn.AvgPool1d: nn.AdaptiveAvgPool1d,
    nn.AvgPool2d: nn.AdaptiveAvgPool2d,
    nn.AvgPool3d: nn.AdaptiveAvgPool3d,
}


def logits_of(output: object) -> Tensor | None:
    """The tensor of logits in what a network returned, or None.

    It is the output itself, its field or entry ``logits`` or ``out``, or its only tensor.
    """
    if isinstance(output, Mapping):
        named = next((output[name] for name in ("logits", "out") if name in output), None)
        tensors = [value for value in output.values() if isinstance(value, Tensor)]
        output = named if named is not None or len(tensors) != 1 else tensors[0]
    output = getattr(output, "logits", output)
    return output if isinstance(output, Tensor) else None


def adapt_classifier(model: nn.Module, num_classes: int, input_shape: Shape) -> None:
    """Replace the last layer, in place, if it gives another number of classes.

    Networks that give something else than (batch, classes), such as masks or boxes, are left as they are.

    Raises
    ------
    BackboneError
        If the network fails on the input, or its last layer cannot be identified.
    """
    output = logits_of(run_once(model, input_shape))
    if output is None or output.dim() != 2:
        return
    given = output.shape[1]
    if given == num_classes:
        return
    for path, layer in reversed(list(model.named_modules())):
        new: nn.Module
        if isinstance(layer, nn.Linear) and layer.out_features == given:
            new = nn.Linear(layer.in_features, num_classes, bias=layer.bias is not None)
        elif isinstance(layer, CONVOLUTIONS) and layer.out_channels == given and max(layer.kernel_size) == 1:
            new = type(layer)(layer.in_channels, num_classes, 1, bias=layer.bias is not None)
        else:
            continue
        _replace(model, path, layer, new)
        output = logits_of(run_once(model, input_shape))
        if output is not None and output.shape[1] == num_classes:
            return
        _replace(model, path, new, layer)
    raise BackboneError(
        f"{type(model).__name__} gives {given} classes, not {num_classes}, and its last layer cannot be identified",
        hint="give its factory a parameter num_classes",
    )


def adapt_input(model: nn.Module, channels: int, input_shape: Shape) -> None:
    """Replace the first convolution, in place, if it takes another number of channels.

    Its weights are those of the old one: summed for one channel, otherwise repeated and scaled so that equal channels
    give the same output as before.

    Raises
    ------
    BackboneError
        If the network then fails on the input.
    """
    first = next(((p, m) for p, m in model.named_modules() if isinstance(m, CONVOLUTIONS)), None)
    if first is None or first[1].in_channels == channels:
        return
    path, old = first
    if old.groups != 1:
        raise BackboneError(f"{type(model).__name__} takes {old.in_channels} channels, the data have {channels}")
    new = _widened(old, channels)
    _replace(model, path, old, new)
    if error := fails(model, input_shape):
        _replace(model, path, new, old)
        raise BackboneError(
            f"{type(model).__name__} takes {old.in_channels} channels, the data have {channels}, and it does not run "
            f"with another first layer: {error}",
            hint="give its factory a parameter in_channels",
        )


def _widened(old: nn.Conv1d | nn.Conv2d | nn.Conv3d, channels: int) -> nn.Module:
    new = type(old)(
        channels,
        old.out_channels,
        old.kernel_size,  # type: ignore[arg-type]  # a tuple of the right length
        stride=old.stride,  # type: ignore[arg-type]
        padding=old.padding,  # type: ignore[arg-type]
        dilation=old.dilation,  # type: ignore[arg-type]
        bias=old.bias is not None,
        padding_mode=old.padding_mode,
    )
    with torch.no_grad():
        new.weight.copy_(fitted_channels(old.weight, channels))
        if old.bias is not None and new.bias is not None:
            new.bias.copy_(old.bias)
    return new


def fitted_channels(weight: Tensor, channels: int) -> Tensor:
    """Weights (out, in, *kernel) of a first convolution for another number of input channels."""
    if channels == 1:
        return weight.sum(1, keepdim=True)
    return weight[:, torch.arange(channels) % weight.shape[1]] * weight.shape[1] / channels


def adapt_pooling(model: nn.Module, input_shape: Shape) -> None:
    """If the network fails on the input, make its last average pooling adaptive, in place, and try again.

    BackboneError with the network's message if it still fails.
    """
    if not fails(model, input_shape):
        return
    for path, layer in reversed(list(model.named_modules())):
        if type(layer) in _POOLINGS:
            _replace(model, path, layer, _POOLINGS[type(layer)](1))
            break
    if error := fails(model, input_shape):
        raise BackboneError(error, hint="give the input shape that the network was made for")


def fails(model: nn.Module, input_shape: Shape) -> str | None:
    """What a network says that cannot take the input, or None if it can."""
    try:
        run_once(model, input_shape)
    except BackboneError as error:
        return error.what
    return None


def _replace(model: nn.Module, path: str, old: nn.Module, new: nn.Module) -> None:
    parameter = next(old.parameters(), None)
    if parameter is not None:
        new.to(device=parameter.device, dtype=parameter.dtype)
    new.train(old.training)
    parent, _, name = path.rpartition(".")
    model.get_submodule(parent)._modules[name] = new
