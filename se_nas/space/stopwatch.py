"""Times of two networks side by side.

Each run of one is beside a run of the other, so that a machine that changes its speed in between changes nothing.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from scipy.stats import binom
from torch import Tensor, nn

from se_nas.data.accelerators import synchronize

ROUNDS = (31, 101)
"""Timed runs of each network, at least and at most."""

SECONDS = 1.0
"""So long a comparison goes on beyond the least number of rounds, about."""

MIN_RUN = 0.004
"""Seconds that one timed run takes at least; short networks are called several times."""

WARM = 3
"""Runs of each network before the first that counts."""

Call = Callable[[], object]
"""One inference of a batch."""


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """What runs a network: `open` makes a call of one inference from a network in eval mode and a batch of images."""

    name: str
    description: str
    """With versions, such as ``onnxruntime 1.32.0``."""
    open: Callable[[nn.Module, Tensor], Call]
    wait: Call = lambda: None
    """Waits until the device has done what was asked for."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How long one network takes beside another: the median of the ratios with its 90 % interval."""

    ratio: float
    interval: tuple[float, float]
    seconds: float
    """Median of one inference of the other, the base."""
    base_interval: tuple[float, float]
    rounds: int


def torch_runtime(device: torch.device) -> Runtime:
    """PyTorch as it is, operation by operation."""

    def open_network(network: nn.Module, images: Tensor) -> Call:
        def call() -> object:
            with torch.inference_mode():
                return network(images)

        return call

    return Runtime(
        name="torch", description=f"torch {torch.__version__}", open=open_network, wait=lambda: synchronize(device)
    )


def compare(
    base: Call,
    other: Call,
    *,
    wait: Call = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
    rounds: tuple[int, int] | None = None,
) -> Comparison:
    """Time two networks side by side, the first of each pair in turn, after both were warmed.

    `rounds` are the least and the largest number of pairs, by default `ROUNDS`.
    """
    least, most = rounds or ROUNDS

    def timed(call: Call, calls: int) -> float:
        wait()
        start = clock()
        for _ in range(calls):
            call()
        wait()
        return (clock() - start) / calls

    once = math.inf
    for _ in range(WARM):
        timed(other, 1)
        once = min(once, timed(base, 1))
    calls = max(1, round(MIN_RUN / max(once, 1e-9)))
    number = min(max(least, round(SECONDS / (2 * calls * max(once, 1e-9)))), most)
    ratios, times = [], []
    for turn in range(number):
        if turn % 2:
            second, first = timed(other, calls), timed(base, calls)
        else:
            first, second = timed(base, calls), timed(other, calls)
        ratios.append(second / first)
        times.append(first)
    return Comparison(
        ratio=statistics.median(ratios),
        interval=median_interval(ratios),
        seconds=statistics.median(times),
        base_interval=median_interval(times),
        rounds=number,
    )


def median_interval(values: list[float], level: float = 0.9) -> tuple[float, float]:
    """Distribution-free interval of the median, from order statistics.

    Source: Conover, "Practical Nonparametric Statistics", section 3.2.

    >>> median_interval([float(v) for v in range(1, 12)])
    (3.0, 9.0)
    """
    ordered = sorted(values)
    low = int(binom.ppf((1 - level) / 2, len(ordered), 0.5))
    low = max(low - 1, 0) if binom.cdf(low, len(ordered), 0.5) > (1 - level) / 2 else low
    return ordered[low], ordered[-1 - low]


def conditions(description: str, *, batch: int, threads: int | None, device: str = "cpu") -> str:
    """Under which conditions a latency was measured, as it is said beside it.

    >>> conditions("onnxruntime 1.32.0", batch=1, threads=1)
    'onnxruntime 1.32.0, batch 1, 1 thread, cpu'
    """
    count = "" if threads is None else f", {threads:,} thread{'s' * (threads != 1)}"
    return f"{description}, batch {batch:,}{count}, {device}"
