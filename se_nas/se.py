"""The Squeeze-and-Excitation block, and how it gets into a network without changing anything else there."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from se_nas.errors import SpaceError
from se_nas.records import Choice, Site, Unit, random_stream

GATE_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "hard_sigmoid": functional.hardsigmoid,
    "tanh": torch.tanh,
    "relu": functional.relu,
}

_ATTRIBUTE = {"output": "se_block", "input": "se_block_in"}


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

    def forward(self, u: Tensor) -> Tensor:
        size = tuple(range(2, u.dim()))
        z = u.mean(size) if self.squeeze == "avg" else u.amax(size)
        s = GATE_FUNCTIONS[self.gate](self.fc2(functional.relu(self.fc1(z))))
        if self.gate_scale != 1.0:
            s = self.gate_scale * s
        if self.gate_offset != 0.0:
            s = self.gate_offset + s
        rescaled: Tensor = u * s.reshape(s.shape + (1,) * len(size))
        return rescaled

    def extra_repr(self) -> str:
        return f"squeeze={self.squeeze}, gate={self.gate_offset:g} + {self.gate_scale:g} * {self.gate}"


@functools.cache
def _rescaling(base: Any, edge: str) -> type[nn.Module]:
    """The subclass of a module class that rescales its output, or its first input, with its SE block.

    The module keeps its parameters, their names and its behaviour; only its call changes. `torch.nn.utils
    .parametrize` exchanges classes in the same way.
    """
    attribute = _ATTRIBUTE[edge]

    def rescale_output(
        self: nn.Module, *args: Any, **kwargs: Any
    ) -> Any:  # a wrapped forward takes what the base takes
        return getattr(self, attribute)(base.forward(self, *args, **kwargs))

    def rescale_input(self: nn.Module, u: Tensor, *args: Any, **kwargs: Any) -> Any:
        return base.forward(self, getattr(self, attribute)(u), *args, **kwargs)

    def reduce(self: nn.Module, protocol: int) -> tuple[Any, ...]:
        # The class exists only at run time, so pickle (and with it deepcopy) is told how to make it again.
        return _empty, (base, edge), self.__getstate__()  # type: ignore[no-untyped-call]  # of object

    return type(
        f"SE{base.__name__}",
        (base,),
        {
            "forward": rescale_output if edge == "output" else rescale_input,
            "__reduce_ex__": reduce,
            "__module__": base.__module__,
        },
    )


def _empty(base: type[nn.Module], edge: str) -> nn.Module:
    cls = _rescaling(base, edge)  # type: ignore[arg-type]  # classes do hash
    return cls.__new__(cls)


def insert_block(model: nn.Module, site: Site, choice: Choice, *, seed: int) -> None:
    """Put an SE block at a site of the model, in place.

    State-dict keys of the model stay; those of the block are new: ``<module>.se_block.*`` (``se_block_in`` for an
    input). The block's weights come from a random stream of their own, from seed and unit.
    """
    try:
        module = model.get_submodule(site.module)
    except AttributeError as error:
        raise SpaceError(f"unit {site.unit!r}: the network has no module {site.module!r}") from error
    attribute = _ATTRIBUTE[site.edge]
    if hasattr(module, attribute):
        raise SpaceError(f"module {site.module!r} has an SE block already", where=f"unit {site.unit}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(random_stream(seed, "se", site.unit))
        block = SEBlock(site.channels, choice)
    parameter = next(model.parameters(), None)
    if parameter is not None:
        block = block.to(device=parameter.device, dtype=parameter.dtype if parameter.is_floating_point() else None)
    block.train(module.training)
    module.add_module(attribute, block)
    module.__class__ = _rescaling(type(module), site.edge)  # type: ignore[arg-type]  # classes do hash


def insert_choices(model: nn.Module, units: tuple[Unit, ...], choices: Mapping[str, Choice], *, seed: int) -> None:
    """Give every unit of the model its choice, in place. Units without an entry stay as they are."""
    known = {unit.name: unit for unit in units}
    for name, choice in choices.items():
        if name not in known:
            raise SpaceError(
                f"the placement names unit {name!r}, which the backbone does not have",
                allowed=known,
                hint="is it a placement of another backbone?",
            )
        if choice.kind == "se":
            insert_block(model, known[name].site(choice.position), choice, seed=seed)
