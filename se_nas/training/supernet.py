"""One network for all placements of a space: its SE blocks have the largest width, a mask and a switch.

A placement then is a few numbers in buffers. They and the weights are changed in place, so that what is expensive
(`torch.compile`, the capture of a CUDA graph) is done once for a search and not once for a candidate.

Which placements a shared network serves: those whose SE blocks are new ones that the space offers, up to the hidden
width, the position, the gate and the squeeze. A placement that keeps an SE block of the network (`keep`), or that has a
block which is not SE, is trained as the network of its own that it is.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from se_nas.core.blocks import SE
from se_nas.core.errors import SpaceError
from se_nas.core.placement import NONE, Choice, Placement, Unit
from se_nas.insertion.block import GATE_FUNCTIONS, SEBlock
from se_nas.insertion.insert import REPLACED, place_block, remove_block
from se_nas.space.space import Space
from se_nas.space.spec import SETTINGS

Offered = Mapping[str, tuple[Choice, ...]]
"""Unit -> the widest SE block for each combination of settings that the space offers."""


OF_SE = tuple(setting for setting in SETTINGS if setting != "block")
"""What may differ between SE blocks, beside their width."""


def widest_choices(space: Space) -> dict[str, tuple[Choice, ...]]:
    """Unit -> the widest SE block that the space offers, one for each combination of settings."""
    offered: dict[str, tuple[Choice, ...]] = {}
    for decision in space.decisions:
        for unit in decision.units:
            widest: dict[Choice, Choice] = {}
            for reduction in decision.reductions:
                if isinstance(reduction, str):
                    continue
                for values in itertools.product(*(getattr(space.spec, setting) for setting in OF_SE)):
                    try:
                        choice = space.choice(unit, reduction, dict(zip(OF_SE, values, strict=True)))
                    except SpaceError:  # of the reference's reduction, which the space need not offer everywhere
                        continue
                    known = widest.setdefault(_settings(choice), choice)
                    if _width(choice) > _width(known):
                        widest[_settings(choice)] = choice
            offered[unit.name] = tuple(widest.values())
    return offered


def _settings(choice: Choice) -> Choice:
    """The choice without its width."""
    return replace(choice, reduction=None, squeeze_channels=1, rounding="floor")


def _width(choice: Choice) -> int:
    return choice.squeeze_channels or 0


class SharedSEBlock(SEBlock):
    """An SE block that can be any of several, or none; see `SEBlock`.

    With the widest width W, the mask leaves w of W hidden channels; the switches choose gate and squeeze, and whether
    there is a block at all (else the gates are 1). What is masked or off gets no gradient. It starts at zero, which is
    where weight decay and momentum leave it.
    """

    unused: Tensor
    on: Tensor
    gate_switch: Tensor
    squeeze_switch: Tensor

    def __init__(self, channels: int, choices: tuple[Choice, ...]) -> None:
        super().__init__(channels, max(choices, key=_width))
        self.widest = {_settings(choice): _width(choice) for choice in choices}
        self.kinds = tuple(sorted({_kind(choice) for choice in choices}))
        self.squeezes = tuple(sorted({choice.squeeze for choice in choices}))
        for name, size in (
            ("unused", (self.fc1.out_features,)),
            ("on", ()),
            ("gate_switch", (len(self.kinds),)),
            ("squeeze_switch", (len(self.squeezes),)),
        ):
            self.register_buffer(name, torch.zeros(size, dtype=torch.bool), persistent=False)

    def fits(self, choice: Choice) -> bool:
        """Whether the block can be this one."""
        return choice.block == SE and _width(choice) <= self.widest.get(_settings(choice), 0)

    @torch.no_grad()
    def choose(self, choice: Choice | None) -> None:
        """Be this block, or none, with all weights zero."""
        for parameter in self.parameters():
            parameter.zero_()
        self.on.fill_(choice is not None)
        if choice is None:
            return
        self.unused.copy_(torch.arange(len(self.unused)) >= _width(choice))
        self.gate_switch.copy_(torch.tensor([kind == _kind(choice) for kind in self.kinds]))
        self.squeeze_switch.copy_(torch.tensor([squeeze == choice.squeeze for squeeze in self.squeezes]))

    def gates(self, u: Tensor) -> Tensor:
        """s with as many dimensions as u: (batch, channels, 1, ...)."""
        size = tuple(range(2, u.dim()))
        z = _chosen(self.squeeze_switch, [u.mean(size) if q == "avg" else u.amax(size) for q in self.squeezes])
        hidden = functional.relu(self.fc1(z)).masked_fill(self.unused, 0.0)
        logits = self.fc2(hidden)
        s = _chosen(self.gate_switch, [_gated(logits, kind) for kind in self.kinds])
        s = torch.where(self.on, s, 1.0)
        return s.reshape(s.shape + (1,) * len(size))


class SharedSEGate(SharedSEBlock):
    """A `SharedSEBlock` that leaves the multiplication to the network."""

    def forward(self, u: Tensor) -> Tensor:
        return self.gates(u)


Kind = tuple[str, float, float]
"""(gate, scale, offset)"""


def _kind(choice: Choice) -> Kind:
    return choice.gate, choice.gate_scale, choice.gate_offset


def _gated(logits: Tensor, kind: Kind) -> Tensor:
    gate, scale, offset = kind
    s = GATE_FUNCTIONS[gate](logits)
    if scale != 1.0:
        s = scale * s
    if offset != 0.0:
        s = offset + s
    return s


def _chosen(switch: Tensor, values: list[Tensor]) -> Tensor:
    """The value whose switch is on; a chain of exact selections, so that nothing is rounded."""
    chosen = values[0]
    for index, value in enumerate(values[1:], start=1):
        chosen = torch.where(switch[index], value, chosen)
    return chosen


class SharedNetwork(nn.Module):
    """A backbone with a `SharedSEBlock` at every site that the space offers.

    Use: `take` a candidate's weights, train this instead, `give` them back. Parameters and buffers stay where they are
    in memory, also when somebody moves the network (Lightning does, at its end): a captured CUDA graph has their
    addresses.

    Parameters
    ----------
    model:
        The backbone; it is changed.

    Raises
    ------
    SpaceError
        If the blocks cannot stand side by side in this network.
    """

    def __init__(self, model: nn.Module, units: tuple[Unit, ...], offered: Offered) -> None:
        super().__init__()
        self.network = model
        self.offered = offered
        self.blocks: dict[tuple[str, str], SharedSEBlock] = {}
        taken = set()
        for unit in units:
            positions = sorted({choice.position for choice in offered.get(unit.name, ())})
            sites = [unit.site(position) for position in positions]
            if unit.existing is not None and not any(site.edge in REPLACED for site in sites):
                remove_block(model, unit.sites[0])
            for site in sites:
                if (anchor := (site.module, site.edge, site.place)) in taken:
                    raise SpaceError(f"two positions of unit {unit.name!r} or another one are the same tensor")
                taken.add(anchor)
                choices = tuple(c for c in offered[unit.name] if c.position == site.position)
                block = (SharedSEGate if site.edge == "gate" else SharedSEBlock)(site.channels, choices)
                place_block(model, site, block, suffix=f"_{site.position}" if len(sites) > 1 else "")
                self.blocks[unit.name, site.position] = block
        self._prefixes = self._find_prefixes()
        self._resident = False
        self._fast: tuple[tuple[int, ...], Callable[[Tensor], Tensor]] | None = None

    def settle(self, device: torch.device, *, channels_last: bool) -> None:
        """Move to a device and stay there."""
        self.to(device)
        if channels_last:
            self.to(memory_format=torch.channels_last)
        self._resident = True

    def _apply(self, fn: Any, recurse: bool = True) -> SharedNetwork:
        if self._resident:
            return self
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call, no-any-return]  # of torch

    def speed_up(self, shape: tuple[int, ...], call: Callable[[Tensor], Tensor]) -> None:
        """In training, run batches of this shape with a faster call of the same network."""
        self._fast = (shape, call)

    def forward(self, images: Tensor) -> Tensor:
        if self._fast is not None and self.training and torch.is_grad_enabled() and images.shape == self._fast[0]:
            return self._fast[1](images)
        output: Tensor = self.network(images)
        return output

    def __getattr__(self, name: str) -> Any:  # what a task may want to know of the candidate
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("network"), name)

    def fits(self, placement: Placement) -> bool:
        """Whether the network can be this placement's candidate."""
        return all(
            choice.kind == "none" or (choice.kind == "se" and self._has(unit, choice))
            for unit, choice in placement.choices.items()
        )

    def _has(self, unit: str, choice: Choice) -> bool:
        block = self.blocks.get((unit, choice.position))
        return block is not None and block.fits(choice)

    @torch.no_grad()
    def take(self, candidate: nn.Module, placement: Placement) -> None:
        """Become the candidate of a placement that fits: its weights and buffers, its masks and switches."""
        for (unit, position), block in self.blocks.items():
            choice = placement.choices.get(unit, NONE)
            block.choose(choice if choice.kind == "se" and choice.position == position else None)
        for own, theirs in self._pairs(candidate, placement):
            own.copy_(theirs)
        for parameter in self.parameters():
            parameter.grad = None

    @torch.no_grad()
    def give(self, candidate: nn.Module, placement: Placement) -> None:
        """Copy the weights and buffers into the candidate of the placement that was taken last."""
        for own, theirs in self._pairs(candidate, placement):
            theirs.copy_(own)

    def _find_prefixes(self) -> dict[str, tuple[str, str]]:
        """Name of a block in this network, with a dot -> its unit and position."""
        keys = {id(block): key for key, block in self.blocks.items()}
        named = self.network.named_modules(remove_duplicate=False)
        return {f"{name}.": keys[id(module)] for name, module in named if id(module) in keys}

    def _pairs(self, candidate: nn.Module, placement: Placement) -> list[tuple[Tensor, Tensor]]:
        """What both networks have, in both: the candidate's hidden channels are the first ones of the mask."""
        theirs = candidate.state_dict()
        pairs = []
        for name, value in self.network.state_dict().items():
            prefix = next((p for p in self._prefixes if name.startswith(p)), None)
            if prefix is not None:
                unit, position = self._prefixes[prefix]
                choice = placement.choices.get(unit, NONE)
                if choice.kind != "se" or choice.position != position:
                    continue
                several = len({p for u, p in self.blocks if u == unit}) > 1
                theirs_prefix = prefix[:-1].removesuffix(f"_{position}") + "." if several else prefix
                name = theirs_prefix + name.removeprefix(prefix)
            if name not in theirs:
                raise SpaceError(f"the shared network has {name!r}, which the candidate lacks")
            other = theirs.pop(name)
            part = value[tuple(slice(n) for n in other.shape)]
            if part.shape != other.shape:
                raise SpaceError(f"{name!r} has shape {tuple(value.shape)}, in the candidate {tuple(other.shape)}")
            pairs.append((part, other))
        if theirs:
            raise SpaceError(f"the candidate has {next(iter(theirs))!r}, which the shared network lacks")
        return pairs
