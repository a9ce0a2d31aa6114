"""What SE blocks take of the time of one inference: networks with and without them, side by side."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator

import torch
from torch import nn

from se_nas.core.costs import COSTS
from se_nas.core.errors import SpaceError
from se_nas.core.trial import CostValue
from se_nas.insertion.insert import remove_block
from se_nas.insertion.se_blocks import watchable
from se_nas.space.stopwatch import Comparison, Runtime, compare, conditions, torch_runtime

UNIT = COSTS["latency"].unit


def block_times(network: nn.Module, input_shape: tuple[int, ...]) -> dict[str, CostValue]:
    """Milliseconds of each SE block by its module: one image, one thread, in torch; of those that can be taken out.

    The median of the ratios of the network to itself without the block, with its 90 % interval: below 0 it is noise.
    """
    found = {}
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    runtime = torch_runtime(device)
    for block in watchable(network, input_shape).blocks:
        without = copy.deepcopy(network)
        try:
            remove_block(without, block.site)
        except SpaceError:  # it can only be kept
            continue
        seen = beside(without, network, input_shape, runtime, device)
        low, high = (1000 * seen.seconds * (ratio - 1) for ratio in seen.interval)
        found[block.module] = CostValue(
            value=1000 * seen.seconds * (seen.ratio - 1), unit=UNIT, kind="measured", interval=(low, high),
            conditions=conditions(runtime.description, batch=1, threads=1, device=str(device)),
        )  # fmt: skip
    return found


def before_and_after(
    before: nn.Module, after: nn.Module, input_shape: tuple[int, ...], runtime: Runtime
) -> tuple[CostValue, CostValue]:
    """Milliseconds of one image through two networks on one thread of the processor; the second relative to the first.

    The interval of the second is that of the ratio.
    """
    seen = beside(before, after, input_shape, runtime, torch.device("cpu"))
    said = conditions(runtime.description, batch=1, threads=1)
    first = CostValue(
        value=1000 * seen.seconds, unit=UNIT, kind="measured", conditions=said,
        interval=(1000 * seen.base_interval[0], 1000 * seen.base_interval[1]),
    )  # fmt: skip
    low, high = (first.value * ratio for ratio in seen.interval)
    second = CostValue(
        value=first.value * seen.ratio, unit=UNIT, kind="measured", conditions=said, interval=(low, high)
    )
    return first, second


def beside(
    base: nn.Module, other: nn.Module, input_shape: tuple[int, ...], runtime: Runtime, device: torch.device
) -> Comparison:
    """Two networks side by side, one image at a time."""
    images = torch.zeros(1, *input_shape, device=device)
    with _one_thread():
        calls = [runtime.open(network.eval(), images) for network in (base, other)]
        return compare(calls[0], calls[1], wait=runtime.wait)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
