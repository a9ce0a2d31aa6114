"""Where SE blocks may sit in a network: its units and their sites, with channels and spatial sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from se_nas.errors import BackboneError, nearest
from se_nas.records import POSITIONS, Site, Unit

Shape = tuple[int, ...]


def find_units(model: nn.Module, input_shape: Shape) -> tuple[Unit, ...]:
    """The units of a network, in the order in which they run.

    A network may name them itself: ``se_units(model)`` returns unit -> path of the module whose output is
    rescaled, or unit -> {position: path}; a path that ends in ``:input`` means the first input of that module.

    Stages are units of equal spatial size, named ``stage1``, ``stage2``, ... in running order.

    Parameters
    ----------
    input_shape:
        (channels, *size) of one image.

    Raises
    ------
    BackboneError
        If there are no units, or a named module is not there, does not run or gives no (batch, channels, *size).
    """
    declare = getattr(model, "se_units", None)
    if declare is None:
        raise BackboneError(
            f"{type(model).__name__} does not say where SE blocks may sit",
            hint="give it a method se_units() that returns {unit name: path of the module whose output is rescaled}",
        )
    declared = _checked(declare())
    return _grouped(
        declared, _observe(model, {path for sites in declared.values() for path in sites.values()}, input_shape)
    )


def _checked(declared: Any) -> dict[str, dict[str, str]]:
    if not isinstance(declared, Mapping) or not declared:
        raise BackboneError("se_units() must return a non-empty mapping of unit names to module paths")
    units = {}
    for unit, sites in declared.items():
        sites = {"standard": sites} if isinstance(sites, str) else dict(sites)
        for position, path in sites.items():
            if position not in POSITIONS or not isinstance(path, str):
                raise BackboneError(
                    f"se_units() gives unit {unit!r} the site {position!r}: {path!r}", allowed=POSITIONS
                )
        units[str(unit)] = sites
    return units


def _observe(model: nn.Module, paths: set[str], input_shape: Shape) -> dict[str, tuple[int, Shape]]:
    """Running order and shape of the tensor at each path, from one forward pass of the model in eval mode."""
    seen: dict[str, tuple[int, Shape]] = {}

    def note(path: str, tensor: Any) -> None:
        if isinstance(tensor, Tensor) and tensor.dim() >= 3:
            seen.setdefault(path, (len(seen), tuple(tensor.shape[1:])))

    modules = dict(model.named_modules())
    hooks = []
    for path in sorted(paths):
        name, _, edge = path.partition(":")
        if name not in modules:
            similar = nearest(name, modules)
            raise BackboneError(
                f"se_units() names module {name!r}, which the network does not have",
                hint=f"did you mean {similar!r}?" if similar else None,
            )
        if edge == "input":
            hook = modules[name].register_forward_pre_hook(lambda _, args, p=path: note(p, args[0] if args else None))
        else:
            hook = modules[name].register_forward_hook(lambda _, __, out, p=path: note(p, out))
        hooks.append(hook)
    try:
        run_once(model, input_shape)
    finally:
        for hook in hooks:
            hook.remove()
    for path in paths - seen.keys():
        raise BackboneError(f"module {path!r} did not run, or gave no tensor of shape (batch, channels, *size)")
    return seen


def run_once(model: nn.Module, input_shape: Shape) -> Any:
    """Output of the network for one image of zeros, in eval mode, without a trace left behind.

    BackboneError with the network's own message if it fails.
    """
    training = {module: module.training for module in model.modules()}
    parameter = next(model.parameters(), None)
    try:
        with torch.no_grad():
            model.eval()
            image = torch.zeros(1, *input_shape)
            return model(image if parameter is None else image.to(parameter.device, parameter.dtype))
    except Exception as error:  # whatever a user's forward raises
        raise BackboneError(
            f"{type(model).__name__} fails on one image of shape {input_shape}: {type(error).__name__}: {error}"
        ) from error
    finally:
        for module, mode in training.items():
            module.training = mode


def _grouped(declared: dict[str, dict[str, str]], seen: dict[str, tuple[int, Shape]]) -> tuple[Unit, ...]:
    def first(sites: dict[str, str]) -> tuple[int, Shape]:
        return seen[sites.get("standard") or next(iter(sites.values()))]

    stages: dict[Shape, str] = {}
    units = []
    for name, sites in sorted(declared.items(), key=lambda item: first(item[1])[0]):
        size = first(sites)[1][1:]
        stage = stages.setdefault(size, f"stage{len(stages) + 1}")
        units.append(
            Unit(
                name=name,
                stage=stage,
                sites=tuple(
                    Site(
                        unit=name,
                        position=position,
                        module=path.partition(":")[0],
                        edge="input" if path.endswith(":input") else "output",
                        channels=seen[path][1][0],
                        size=seen[path][1][1:],
                    )
                    for position, path in sorted(sites.items(), key=lambda item: POSITIONS.index(item[0]))
                ),
            )
        )
    return tuple(units)
