"""What the gates of a network's SE blocks are on images: one number for each image and channel."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from se_nas.core.placement import Placement, Unit
from se_nas.insertion.attention.build import Gate, gives_gates

Kind = Literal["block", "gate"]
"""Of an SE block that the network had already: its module gives the rescaled tensor, or only the gate."""


@dataclass(frozen=True, kw_only=True)
class BlockGates:
    """The gates of one SE block over images.

    ``block`` is the path of its module; ``mean`` and ``sd`` are tensors (channels,): over the images.
    """

    block: str
    mean: Tensor
    sd: Tensor

    @property
    def variation(self) -> float:
        """How much gates depend on the image: root mean square of `sd` over that of `mean`; 0 for a fixed rescaling."""
        size = float(self.mean.square().mean().sqrt())
        return float(self.sd.square().mean().sqrt()) / size if size > 0 else 0.0


def gate_statistics(gates: Mapping[str, Tensor]) -> tuple[BlockGates, ...]:
    """Statistics of what `collect_gates` found, block by block in the order of the forward pass."""
    return tuple(
        BlockGates(block=block, mean=values.mean(0), sd=values.std(0, correction=0)) for block, values in gates.items()
    )


def collect_gates(
    network: nn.Module, batches: Iterable[Tensor], *, kept: Mapping[str, Kind] | None = None
) -> dict[str, Tensor]:
    """The gates of every SE block of a network, by the path of its module: tensors (images, channels), float32.

    The network runs in eval mode, without gradients, and is left as it was. A block that runs several times for an
    image is there several times: ``path``, ``path (2)``, ...

    Parameters
    ----------
    batches:
        Images as the network takes them: tensors (batch, channels, *size), on its device.
    kept:
        SE blocks that the network had already, by path; see `kept_blocks` and `se_nas.insertion.se_blocks`. Of a module
        that multiplies by the gate itself it is what it multiplies by; where that cannot be seen, it is worked out from
        what goes in and comes out: where a whole channel of an image is 0, the gate is then not known, and counts as
        the mean over the other images.
    """
    found: dict[str, list[Tensor]] = {}
    training = network.training
    network.eval()
    try:
        with torch.no_grad(), ExitStack() as stack:
            calls = [stack.enter_context(_watched(name, block, found)) for name, block in _own(network)]
            own = {name for name, _ in _own(network)}
            for path, kind in (kept or {}).items():
                if path not in own:
                    calls.append(stack.enter_context(_watched(path, network.get_submodule(path), found, kind)))
            for images in batches:
                for call in calls:
                    call.clear()
                network(images)
    finally:
        network.train(training)
    return {name: torch.cat(values) for name, values in found.items()}


@contextmanager
def fixed_gates(
    network: nn.Module, gates: Mapping[str, Tensor], *, kept: Mapping[str, Kind] | None = None
) -> Iterator[None]:
    """While the context lasts, blocks rescale by the same gates for every image: the mean of what was collected.

    What the network then does differently, its gates do by looking at the image.

    Parameters
    ----------
    gates:
        As `collect_gates` gives them, of all blocks or of some. Of a block that runs several times, the mean of all.
    kept:
        As for `collect_gates`.
    """
    means: dict[str, list[Tensor]] = {}
    for name, values in gates.items():
        means.setdefault(name.partition(" (")[0], []).append(values.mean(0))
    with ExitStack() as stack:
        for path, each in means.items():
            mean, module = torch.stack(each).mean(0), network.get_submodule(path)
            only_gate = gives_gates(module) or (kept or {}).get(path) == "gate"
            stack.callback(module.register_forward_hook(_fixing(mean, only_gate)).remove)
        yield


def _fixing(mean: Tensor, only_gate: bool) -> Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor]:
    def fix(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        u = _rescaled_by(module, args)
        fixed = mean.to(device=u.device, dtype=u.dtype).reshape((1, -1) + (1,) * (u.dim() - 2))
        return fixed.expand(output.shape) if only_gate else u * fixed

    return fix


def kept_blocks(units: Iterable[Unit], placement: Placement) -> dict[str, Kind]:
    """The SE blocks that the network had already and that a placement keeps; without those that are no module."""
    kept: dict[str, Kind] = {}
    for unit in units:
        choice = placement.choices.get(unit.name)
        if unit.existing is None or choice is None or choice.kind != "keep":
            continue
        edge = unit.sites[0].edge
        if edge == "block" or edge == "gate":
            kept[unit.sites[0].module] = edge
    return kept


class Written(nn.Module):
    """Stands for an SE block that is written in a method: it is called on the rescaled tensor, which it gives.

    ``before`` is called on the tensor as it was, and keeps it for a moment.
    """

    def __init__(self) -> None:
        super().__init__()
        self.before = _Kept()

    def forward(self, rescaled: Tensor) -> Tensor:
        return rescaled


class _Kept(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.u: Tensor | None = None

    def forward(self, u: Tensor) -> Tensor:
        self.u = u.clone()  # the network may rescale in place
        return u


def _rescaled_by(module: nn.Module, args: tuple[Any, ...]) -> Tensor:
    """The tensor that a block rescales."""
    u: Tensor = module.before.u if isinstance(module, Written) else args[0]  # type: ignore[assignment]  # it ran
    return u


def _own(network: nn.Module) -> Iterator[tuple[str, Gate]]:
    return ((name, module) for name, module in network.named_modules() if isinstance(module, Gate))


@contextmanager
def _watched(
    name: str, module: nn.Module, found: dict[str, list[Tensor]], kind: Kind | None = None
) -> Iterator[list[int]]:
    """While the context lasts, the gates of a module are added to what is found; gives the calls of this batch."""
    calls: list[int] = []
    products = _Products() if kind == "block" and not isinstance(module, Written) else None

    def seen(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        u = _rescaled_by(module, args)
        known = None if products is None else products.gates(u, output)
        if isinstance(module, Gate):
            gates = module.gates(u)
        elif known is not None:
            gates = known
        else:
            gates = output if kind == "gate" else _ratio(u, output)
        calls.append(1)
        key = name if len(calls) == 1 else f"{name} ({len(calls)})"
        found.setdefault(key, []).append(gates.flatten(1).float().cpu())

    with ExitStack() as stack:
        if products is not None:
            stack.enter_context(products.during_calls_of(module))
        stack.callback(module.register_forward_hook(seen).remove)
        yield calls


class _Products(TorchFunctionMode):
    """Keeps the products of tensors of one call of a module: one of them is the rescaled tensor."""

    def __init__(self) -> None:
        super().__init__()
        self._found: list[tuple[Tensor, Tensor, Tensor]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        product = getattr(func, "__name__", "").strip("_") in ("mul", "imul", "rmul", "multiply")
        if product and len(args) == 2 and all(isinstance(operand, Tensor) for operand in args):
            self._found.append((output, *args))
        return output

    @contextmanager
    def during_calls_of(self, module: nn.Module) -> Iterator[None]:
        """See the products of every call of the module while the context lasts."""
        opened: list[ExitStack] = []

        def enter(*_: Any) -> None:
            self._found.clear()
            opened.append(ExitStack())
            opened[-1].enter_context(self)

        def leave(*_: Any) -> None:
            opened.pop().close()

        before = module.register_forward_pre_hook(enter)
        after = module.register_forward_hook(leave, always_call=True)
        try:
            yield
        finally:
            before.remove()
            after.remove()

    def gates(self, u: Tensor, output: Tensor) -> Tensor | None:
        """What u was multiplied by to give the output, (batch, channels); None if that was not seen."""
        for product, *operands in reversed(self._found):
            if product is not output:
                continue
            for gate in operands:
                values = gate.flatten(2) if gate.dim() > 2 and gate.shape[:2] == u.shape[:2] else None
                if values is None or gate is u or not bool((values == values[..., :1]).all()):
                    continue
                return values[..., 0]
        return None


def _ratio(u: Tensor, output: Tensor) -> Tensor:
    """The factor by which each channel of each image was multiplied: the projection of the output on the input."""
    u, output = u.flatten(2).float(), output.flatten(2).float()
    squares = u.square().sum(2)
    known = squares > 0
    ratio = torch.where(known, (u * output).sum(2) / squares, torch.nan)
    return torch.where(known, ratio, ratio.nanmean(0).nan_to_num(1.0))
