"""The Squeeze-and-Excitation block, and how it gets into a network without changing anything else there."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from se_nas.errors import SpaceError
from se_nas.records import NONE, Choice, Site, Unit, random_stream
from se_nas.rewrite import rewritten, walks_children

GATE_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "hard_sigmoid": functional.hardsigmoid,
    "tanh": torch.tanh,
    "relu": functional.relu,
}

_EDGES = ("input", "output")
REPLACED = ("block", "gate", "inline")
"""Edges of sites where an SE block that the network had already stands; a new one takes its place."""


class SEBlock(nn.Module):
    """Rescales every channel of a tensor by a gate that sees the whole tensor.

    With input u of shape (batch, channels, *size)::

        z = mean (or maximum) of u over size                       # eq. 2, (batch, channels)
        s = offset + scale * gate(fc2(relu(fc1(z))))               # eq. 3, (batch, channels)
        output = s * u                                             # eq. 4, shape of u

    fc1 has shape (squeeze_channels, channels), fc2 (channels, squeeze_channels). The defaults (average, sigmoid,
    scale 1, offset 0, no biases) are the paper's.

    Source: Hu et al., "Squeeze-and-Excitation Networks", arXiv 1709.01507, section 3.
    """

    def __init__(self, channels: int, choice: Choice) -> None:
        super().__init__()
        if choice.kind != "se" or choice.squeeze_channels is None:
            raise SpaceError(f"an SE block cannot be built from the choice {choice.kind!r}")
        self.fc1 = nn.Linear(channels, choice.squeeze_channels, bias=choice.bias)
        self.fc2 = nn.Linear(choice.squeeze_channels, channels, bias=choice.bias)
        self.squeeze = choice.squeeze
        self.gate = choice.gate
        self.gate_scale = choice.gate_scale
        self.gate_offset = choice.gate_offset
        if choice.init == "identity":
            nn.init.zeros_(self.fc2.weight)
            if choice.bias:
                nn.init.constant_(self.fc2.bias, 1.0 if choice.gate == "relu" else 0.0)

    def gates(self, u: Tensor) -> Tensor:
        """s with as many dimensions as u: (batch, channels, 1, ...)."""
        size = tuple(range(2, u.dim()))
        z = u.mean(size) if self.squeeze == "avg" else u.amax(size)
        s = GATE_FUNCTIONS[self.gate](self.fc2(functional.relu(self.fc1(z))))
        if self.gate_scale != 1.0:
            s = self.gate_scale * s
        if self.gate_offset != 0.0:
            s = self.gate_offset + s
        return s.reshape(s.shape + (1,) * len(size))

    def forward(self, u: Tensor) -> Tensor:
        return u * self.gates(u)

    def extra_repr(self) -> str:
        return f"squeeze={self.squeeze}, gate={self.gate_offset:g} + {self.gate_scale:g} * {self.gate}"


class SEGate(SEBlock):
    """An SE block that leaves the multiplication to the network: gives the gates, (batch, channels, 1, ...)."""

    def forward(self, u: Tensor) -> Tensor:
        return self.gates(u)


class OpenGate(nn.Module):
    """Ones, of shape (batch, channels, 1, ...), in place of a gate that is not wanted."""

    def forward(self, u: Tensor) -> Tensor:
        return u.new_ones(u.shape[:2] + (1,) * (u.dim() - 2))


Anchor = tuple[str, str]
"""(edge or place, name of the submodule that is called there)"""


@functools.cache
def _rescaling(base: Any, anchors: tuple[Anchor, ...]) -> type[nn.Module]:
    """The subclass of a module class that rescales tensors of its call with SE blocks.

    The module keeps its parameters, their names and its behaviour; only the tensors at the anchors change.
    `torch.nn.utils.parametrize` exchanges classes in the same way.
    """
    methods = rewritten(base, {place: name for place, name in anchors if place not in _EDGES})
    forward = methods.get("forward", base.forward)
    before = [name for place, name in anchors if place == "input"]
    after = [name for place, name in anchors if place == "output"]

    def rescaled(self: nn.Module, *args: Any, **kwargs: Any) -> Any:  # a wrapped forward takes what the base takes
        for name in before:
            args = (getattr(self, name)(args[0]), *args[1:])
        output = forward(self, *args, **kwargs)
        for name in after:
            output = getattr(self, name)(output)
        return output

    def reduce(self: nn.Module, protocol: int) -> tuple[Any, ...]:
        # The class exists only at run time, so pickle (and with it deepcopy) is told how to make it again.
        return _empty, (base, anchors), self.__getstate__()  # type: ignore[no-untyped-call]  # of object

    members = {
        **methods,
        **({"forward": functools.wraps(base.forward)(rescaled)} if before or after else {}),
        "__reduce_ex__": reduce,
        "__module__": base.__module__,
        "__qualname__": base.__qualname__,
        "__doc__": base.__doc__,
        "_se_base": base,
        "_se_anchors": anchors,
    }
    made: type[nn.Module] = type(base.__name__, (base,), members)
    return made


def _empty(base: type[nn.Module], anchors: tuple[Anchor, ...]) -> nn.Module:
    cls = _rescaling(base, anchors)  # type: ignore[arg-type]  # classes do hash
    return cls.__new__(cls)


def insert_block(model: nn.Module, site: Site, choice: Choice, *, seed: int) -> None:
    """Put an SE block at a site of the model, in place.

    State-dict keys of the model stay; those of the block are new: ``<module>.se_block.*`` for an output,
    ``<module>.se_block_in.*`` for an input, ``<module>.se_<unit>.*`` for an expression. An SE block that the network
    had already (edges ``block`` and ``gate``) is replaced. The block's weights come from a random stream of their own,
    from seed and unit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(random_stream(seed, "se", site.unit))
        block = (SEGate if site.edge == "gate" else SEBlock)(site.channels, choice)
    place_block(model, site, block)


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
    name = {"output": "se_block", "input": "se_block_in"}.get(site.edge, "se_" + re.sub(r"\W", "_", site.unit)) + suffix
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
    module.add_module(name, block)


def _rescale(module: nn.Module, place: str, name: str) -> None:
    base: type[nn.Module] = getattr(type(module), "_se_base", type(module))
    anchors: tuple[Anchor, ...] = getattr(type(module), "_se_anchors", ())
    module.__class__ = _rescaling(base, (*anchors, (place, name)))  # type: ignore[arg-type]  # classes do hash


def _remove_layers(model: nn.Module, site: Site) -> None:
    """Without the layers that compute the gate of an inline block; what is left of it computes nothing that is used."""
    for path in site.layers:
        _exchange(model, model.get_submodule(path), nn.Identity())


def remove_block(model: nn.Module, site: Site) -> None:
    """Take out the SE block that the network had already at a site, in place.

    Its parameters go; the tensor then passes unchanged. Of an inline block the pooling is still computed, and not used.
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
        _give(model, unit, choices.get(unit.name, NONE), seed=seed)


def _give(model: nn.Module, unit: Unit, choice: Choice, *, seed: int) -> None:
    if choice.kind == "keep":
        return
    site = unit.site(choice.position) if choice.kind == "se" else None
    if unit.existing is not None and (site is None or site.edge not in REPLACED):
        remove_block(model, unit.sites[0])
    if site is not None:
        insert_block(model, site, choice, seed=seed)
