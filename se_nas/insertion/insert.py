"""How SE blocks, and others at the same sites, get into a network, without changing anything else there."""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule
from torch.nn.modules.module import register_module_module_registration_hook
from torch.nn.utils.parametrize import is_parametrized

from se_nas.backbones.build import build_backbone
from se_nas.core.errors import SpaceError
from se_nas.core.placement import NONE, Choice, Placement, Site, Unit
from se_nas.core.serialization import random_stream
from se_nas.core.trial import Target
from se_nas.insertion.attention.build import build_block
from se_nas.insertion.block import OpenGate
from se_nas.insertion.lasting import check_copier, check_exchange, statistics
from se_nas.insertion.rewrite import rewritten, walks_children

REPLACED = ("block", "gate", "inline")
"""Edges of sites where an SE block that the network had already stands; a new one takes its place."""


Hook = tuple[str, str]
"""``input``, ``output`` or the place of an expression, and the name of the submodule that is called there."""


def _rescaled(forward: Callable[..., Any], hooks: tuple[Hook, ...]) -> Callable[..., Any]:
    """A forward method with SE blocks at the module's first input and at its output."""
    before = [name for place, name in hooks if place == "input"]
    after = [name for place, name in hooks if place == "output"]

    @functools.wraps(forward)
    def rescaled(self: nn.Module, *args: Any, **kwargs: Any) -> Any:  # takes what the base takes
        for name in before:
            args = (getattr(self, name)(args[0]), *args[1:])
        output = forward(self, *args, **kwargs)
        for name in after:
            output = getattr(self, name)(output)
        return output

    return rescaled


def _fusing(base: Any, hooks: tuple[Hook, ...]) -> dict[str, Callable[..., Any]]:
    """Methods by which a module is fused, so that its SE blocks outlive it.

    ``fuse`` gives a module that takes the place of this one (timm): the blocks go with it. ``forward_fuse`` takes the
    place of ``forward`` (Ultralytics): it rescales too.
    """
    edges = tuple(hook for hook in hooks if hook[0] in ("input", "output"))
    methods: dict[str, Callable[..., Any]] = {}
    if edges and callable(getattr(base, "forward_fuse", None)):
        methods["forward_fuse"] = _rescaled(base.forward_fuse, edges)
    if edges and callable(getattr(base, "fuse", None)):

        @functools.wraps(base.fuse)
        def fuse(self: nn.Module, *args: Any, **kwargs: Any) -> Any:  # takes what the base takes
            result = base.fuse(self, *args, **kwargs)
            if isinstance(result, nn.Module) and result is not self:
                for place, name in edges:
                    _rescale(result, place, name)
                    result.add_module(name, getattr(self, name))
            return result

        methods["fuse"] = fuse
    return methods


@functools.cache
def _rescaling(base: Any, hooks: tuple[Hook, ...]) -> type[nn.Module]:
    """The subclass of a module class that rescales tensors of its call with SE blocks.

    The module keeps its parameters, their names and its behaviour; only the tensors at the hooks change.
    `torch.nn.utils.parametrize` exchanges classes in the same way.
    """
    methods = rewritten(base, {place: name for place, name in hooks if place not in ("input", "output")})
    forward = methods.get("forward", base.forward)
    edges = any(place in ("input", "output") for place, _ in hooks)
    after = any(place == "output" for place, _ in hooks)

    def reduce(self: nn.Module, protocol: int) -> tuple[Any, ...]:
        if after:
            check_copier(self, sys._getframe(1))
        # The class exists only at run time, so pickle (and with it deepcopy) is told how to make it again.
        return _empty, (base, hooks), self.__getstate__()  # type: ignore[no-untyped-call]  # of object

    members = {
        **methods,
        **({"forward": _rescaled(forward, hooks)} if edges else {}),
        **_fusing(base, hooks),
        **statistics(base),
        "__reduce_ex__": reduce,
        "__module__": base.__module__,
        "__qualname__": f"{base.__qualname__} with an SE block",  # for messages of those that do not know the class
        "__doc__": base.__doc__,
        "_se_base": base,
        "_se_hooks": hooks,
    }
    made: type[nn.Module] = type(base.__name__, (base,), members)
    return made


def _empty(base: type[nn.Module], hooks: tuple[Hook, ...]) -> nn.Module:
    cls = _rescaling(base, hooks)  # type: ignore[arg-type]  # classes do hash
    return cls.__new__(cls)


def insert_block(model: nn.Module, site: Site, choice: Choice, *, seed: int) -> None:
    """Put the block of a choice at a site of the model, in place; SpaceError if it cannot stand there.

    State-dict keys of the model stay; those of the block are new: ``<module>.se_block.*`` for an output,
    ``<module>.se_block_in.*`` for an input, ``<module>.se_<unit>.*`` for an expression. An SE block that the network
    had already (edges ``block`` and ``gate``) is replaced. The block's weights come from a random stream of their own,
    from seed and unit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(random_stream(seed, "se", site.unit))
        block = build_block(site, choice)
    place_block(model, site, block)


def block_path(site: Site) -> str:
    """The path of the module of an SE block that stands at a site."""
    return site.module if site.edge in ("block", "gate") else f"{site.module}.{_block_name(site)}".removeprefix(".")


def _block_name(site: Site) -> str:
    return {"output": "se_block", "input": "se_block_in"}.get(site.edge, "se_" + re.sub(r"\W", "_", site.unit))


def place_block(model: nn.Module, site: Site, block: nn.Module, *, suffix: str = "") -> None:
    """Put a block at a site of the model, in place and in the model's dtype, device and mode; see `insert_block`.

    `suffix` makes its name there another one, so that several blocks of one unit can stand side by side.
    """
    module = _module(model, site)
    parameter = next((p for p in chain(module.parameters(), model.parameters()) if p.is_floating_point()), None)
    if parameter is not None:
        block = block.to(device=parameter.device, dtype=parameter.dtype)
    block.train(module.training)
    if site.edge in ("block", "gate"):
        _exchange(model, module, block)
        return
    name = _block_name(site) + suffix
    if name in module._modules:
        raise SpaceError(f"module {site.module!r} has an SE block already", where=f"unit {site.unit}")
    if walks_children(module):
        raise SpaceError(
            f"module {site.module!r} runs through its children, and would run an SE block as one of them",
            where=f"unit {site.unit}",
            hint="name the module inside it that gives the tensor",
        )
    _remove_layers(model, site)
    _rescale(module, site.place or site.edge, name)
    block.__dict__["_se_hook"] = (site.place or site.edge, name)
    _keep_running()
    module.add_module(name, block)


def _rescale(module: nn.Module, place: str, name: str) -> None:
    cls = type(module)
    inner = cls.__bases__[0] if is_parametrized(module) else cls
    base: type[nn.Module] = getattr(inner, "_se_base", inner)
    hooks: tuple[Hook, ...] = getattr(inner, "_se_hooks", ())
    rescaling = _rescaling(base, (*hooks, (place, name)))  # type: ignore[arg-type]  # classes do hash
    if inner is not cls:
        # torch made a class for this module alone, and takes its base when the parametrization is removed.
        own = {key: value for key, value in vars(cls).items() if key not in ("__dict__", "__weakref__")}
        rescaling = type(cls.__name__, (rescaling,), own)
    module.__class__ = rescaling


def call_at(module: nn.Module, place: str, name: str, child: nn.Module) -> None:
    """Let a module call a new submodule on one of its expressions, in place; see `se_nas.insertion.rewrite`."""
    _rescale(module, place, name)
    module.add_module(name, child)


@functools.cache
def _keep_running() -> None:
    """From now on a module that takes over the children of another one, with an SE block, rescales as that did.

    `torch.nn.SyncBatchNorm.convert_sync_batchnorm` and its kin make a new module of another class, and give it the
    children of the old one: there a block would be carried along and never run. Where a module without the block comes
    in its place, it raises.
    """
    register_module_module_registration_hook(_rescale_too)


def _rescale_too(module: nn.Module, name: str, child: nn.Module | None) -> None:
    check_exchange(module, name, child)
    place, own_name = getattr(child, "_se_hook", None) or ("", "")
    own = type(module).forward is not nn.Module.forward and not isinstance(module, GraphModule)
    known = (place, name) in getattr(type(module), "_se_hooks", ())
    if place and name == own_name and own and not known and not walks_children(module):
        _rescale(module, place, name)


def _remove_layers(model: nn.Module, site: Site) -> None:
    """Without the layers that compute the gate of an inline block; what is left of it computes nothing that is used."""
    for path in site.layers:
        _exchange(model, model.get_submodule(path), nn.Identity())


def remove_block(model: nn.Module, site: Site) -> None:
    """Take out the SE block that the network had already at a site, in place.

    Its parameters go; the tensor then passes unchanged. Of an inline block the pooling is still computed, and not used.

    Raises
    ------
    SpaceError
        If the block is not a module of its own and is written so that it can only be kept.
    """
    module = _module(model, site)
    if site.edge == "inline":
        _remove_layers(model, site)
        _rescale(module, site.place, "")
        return
    _exchange(model, module, OpenGate() if site.edge == "gate" else nn.Identity())


def _module(model: nn.Module, site: Site) -> nn.Module:
    if site.edge == "inline" and not site.place:
        raise SpaceError(
            f"the SE block of unit {site.unit!r} is written inside {site.module!r} without a module of its own",
            allowed=["keep"],
            hint="make it a module of its own that takes the tensor and gives it rescaled",
        )
    try:
        return model.get_submodule(site.module)
    except AttributeError as error:
        raise SpaceError(f"unit {site.unit!r}: the network has no module {site.module!r}") from error


def _exchange(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    new.train(old.training)
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child is old:
                parent._modules[name] = new


def insert_choices(model: nn.Module, units: tuple[Unit, ...], choices: Mapping[str, Choice], *, seed: int) -> None:
    """Give every unit of the model its choice, in place.

    Units without an entry get `none`: an SE block that such a unit had already is taken out.

    Raises
    ------
    SpaceError
        If a unit or a position is not there, `keep` is chosen for a unit that has no SE block, or a block cannot be
        taken out.
    """
    known = {unit.name: unit for unit in units}
    for name, choice in choices.items():
        if name not in known:
            raise SpaceError(
                f"the placement names unit {name!r}, which the backbone does not have",
                allowed=known,
                hint="is it a placement of another backbone?",
            )
        if choice.kind == "keep" and known[name].existing is None:
            raise SpaceError(f"unit {name!r} has no SE block that could be kept", allowed=["none", "a reduction"])
    for unit in units:
        choice = choices.get(unit.name, NONE)
        site = unit.site(choice.position) if choice.kind == "se" else None
        if unit.existing is not None and choice.kind != "keep" and (site is None or site.edge not in REPLACED):
            remove_block(model, unit.sites[0])
        if site is not None:
            insert_block(model, site, choice, seed=seed)


def build_candidate(
    backbone: Target,
    units: tuple[Unit, ...],
    placement: Placement,
    *,
    num_classes: int | None,
    input_shape: tuple[int, ...],
    seed: int,
    prepare: Callable[[nn.Module], nn.Module] = lambda backbone: backbone,
) -> nn.Module:
    """The network of a placement, in train mode.

    The same seed gives every candidate the same backbone weights: each SE block has its own random stream.

    Parameters
    ----------
    num_classes:
        None leaves the network with its own classes.
    input_shape:
        (channels, *size) of one image.
    prepare:
        What is done with the backbone before SE blocks come in, such as loading start weights.

    Raises
    ------
    BackboneError, PluginError
        If the backbone cannot be built, see `build_backbone`.
    SpaceError
        If the placement is of another backbone, see `insert_choices`.
    """
    model = build_backbone(backbone, num_classes=num_classes, input_shape=input_shape, seed=seed)
    model = prepare(model)
    insert_choices(model, units, placement.choices, seed=seed)
    return model
