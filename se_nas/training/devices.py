"""How many trainings share one GPU: as many as its memory, its idle time and the cores of the machine allow.

Small networks keep a GPU busy for part of the time only, because one process cannot launch kernels fast enough. What
one training needs is measured on the largest candidate before the search.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch

from se_nas.core.config import SearchConfig
from se_nas.core.errors import ConfigError
from se_nas.data.accelerators import accelerators
from se_nas.data.shards import SEPARATOR

MEMORY_SHARE = 0.9
"""Share of the free memory that the trainings may take together."""

BUSY = 0.95
"""Utilisation above which one training more brings nothing."""

UNKNOWN = 2
"""Trainings on a GPU whose utilisation cannot be read."""

CONTEXT_BYTES = 2**30
"""GPU memory of a process before its first tensor: context, kernels and libraries (about 0.6 GiB on recent GPUs)."""

WARM_STEPS, MEASURED_SECONDS, SAMPLE_SECONDS = 10, 4.0, 0.2


@dataclass(frozen=True, kw_only=True)
class Need:
    """What one training takes of a GPU."""

    memory: int
    """Bytes at the worst moment, the process's context included."""
    utilisation: float | None
    """Share of the time in which a kernel runs, 0 to 1; None if it cannot be read."""


def trainings_at_once(need: Need, *, free: int, cores: int) -> int:
    """How many trainings a GPU takes.

    Parameters
    ----------
    free:
        Bytes of GPU memory that nobody uses.
    cores:
        Processor cores for this GPU's trainings; each takes one.

    >>> trainings_at_once(Need(memory=4 * 2**30, utilisation=0.3), free=80 * 2**30, cores=16)
    4
    >>> trainings_at_once(Need(memory=50 * 2**30, utilisation=0.3), free=80 * 2**30, cores=16)
    1
    """
    by_memory = int(MEMORY_SHARE * free / need.memory)
    by_time = UNKNOWN if need.utilisation is None else math.ceil(BUSY / max(need.utilisation, 0.01))
    return max(1, min(by_memory, by_time, cores))


def measure_need(
    steps: Callable[[int], None],
    *,
    peak: Callable[[], int],
    utilisation: Callable[[], float | None],
    clock: Callable[[], float] = time.perf_counter,
) -> Need:
    """What a training needs, from steps of it.

    Parameters
    ----------
    steps:
        Trains so many steps and waits for the device.
    peak:
        Bytes that the device has given to this process at the worst moment.
    utilisation:
        Share of the last moments in which the device was busy, 0 to 1, or None.
    """
    steps(WARM_STEPS)  # libraries choose their kernels
    start = clock()
    steps(WARM_STEPS)
    once = (clock() - start) / WARM_STEPS
    samples: list[float | None] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(SAMPLE_SECONDS):
            samples.append(utilisation())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        steps(max(WARM_STEPS, round(MEASURED_SECONDS / max(once, 1e-6))))
    finally:
        over.set()
        thread.join()
    # A sample covers up to a second before it: the first half still sees the pause before the steps.
    seen = [sample for sample in samples[len(samples) // 2 :] if sample is not None]
    return Need(memory=peak() + CONTEXT_BYTES, utilisation=sum(seen) / len(seen) if seen else None)


def gpu_need(steps: Callable[[int], None], device: torch.device) -> Need:
    """What a training needs of a GPU that does nothing else for us."""

    def synchronised(number: int) -> None:
        steps(number)
        torch.cuda.synchronize(device)

    torch.cuda.reset_peak_memory_stats(device)
    need = measure_need(
        synchronised, peak=lambda: torch.cuda.max_memory_reserved(device), utilisation=lambda: gpu_utilisation(device)
    )
    torch.cuda.empty_cache()
    return need


def gpu_utilisation(device: torch.device) -> float | None:
    """Share of the last moments in which kernels ran; None without nvidia-ml-py (extra `cuda`) or its driver."""
    try:
        return torch.cuda.utilization(device) / 100
    except Exception:  # NVML has errors of its own
        return None


def choose_devices(config: SearchConfig, at_once: Callable[[str], int] | None = None) -> tuple[str, ...]:
    """The device of each slot; with `devices_per_trial`, a slot has several, with commas between.

    As many slots as `workers` says, or `trials_per_device` for each device; else one for each core, or for each GPU as
    many as `at_once` says that it takes (one without it).
    """
    if config.devices_per_trial > 1:
        return _together(config)
    there = accelerators()
    kind = config.device.partition(":")[0]
    if kind in ("auto", "cpu"):
        wanted = list(there) if kind == "auto" else []
    else:
        wanted = [
            name for name in there if name == config.device or (name.startswith(f"{kind}:") and kind == config.device)
        ]
        if not wanted:
            raise ConfigError(
                f"device is {config.device!r}, but there {_counted(there)}", allowed=["auto", "cpu", *there],
                hint="give --device auto, or cpu",
            )  # fmt: skip
    each = config.trials_per_device
    if each and config.workers and config.workers > each * max(1, len(wanted)):
        raise ConfigError(
            f"workers is {config.workers}, but trials_per_device is {each} on {max(1, len(wanted))} devices",
            hint="give one of the two",
        )
    if wanted:
        slots = config.workers or (each or (at_once(wanted[0]) if at_once else 1)) * len(wanted)
        return tuple(wanted[i % len(wanted)] for i in range(slots))
    return ("cpu",) * (config.workers or each or cores())


def _counted(there: tuple[str, ...]) -> str:
    return f"are {len(there)} accelerators: {', '.join(there)}" if there else "are 0 GPUs or other accelerators"


def _together(config: SearchConfig) -> tuple[str, ...]:
    number = config.devices_per_trial
    single = choose_devices(replace(config, devices_per_trial=1, workers=None, trials_per_device=None))
    if single[0] == "cpu":
        slots = [SEPARATOR.join(["cpu"] * number)] * max(1, len(single) // number)
    else:
        if not single[0].startswith("cuda"):
            raise ConfigError(
                f"devices_per_trial is {number}, but {single[0]!r} cannot share out a training",
                hint="several devices train one candidate together on CUDA GPUs, or with --device cpu",
            )
        cards = tuple(dict.fromkeys(single))
        slots = [SEPARATOR.join(cards[i : i + number]) for i in range(0, len(cards) - number + 1, number)]
        if not slots:
            raise ConfigError(f"devices_per_trial is {number}, but there are {len(cards)} GPUs to use")
    return tuple(slots[i % len(slots)] for i in range(config.workers or len(slots) * (config.trials_per_device or 1)))


@contextlib.contextmanager
def threads(number: int) -> Iterator[None]:
    """Let torch use so many threads, and as many as before afterwards: this may be the process of the user."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
