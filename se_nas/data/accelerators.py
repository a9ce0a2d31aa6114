"""The accelerators of this machine, of any kind that torch has: CUDA and ROCm GPUs, Apple's mps, Intel's xpu, others.

What only some kinds can tell (free memory, peak memory, all random states) is None or empty for the others.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch

CPU = "cpu"


def accelerators() -> tuple[str, ...]:
    """Their devices by name, such as ``("cuda:0", "cuda:1")`` or ``("mps:0",)``; empty where there is only a CPU."""
    if torch.cuda.is_available():
        return tuple(f"cuda:{index}" for index in range(torch.cuda.device_count()))
    found = torch.accelerator.current_accelerator(check_available=True)
    if found is None:
        return ()
    return tuple(f"{found.type}:{index}" for index in range(torch.accelerator.device_count()))


def synchronize(device: torch.device) -> None:
    """Wait until a device has done what it was given; a CPU has."""
    if device.type != CPU:
        torch.accelerator.synchronize(device)


def free_memory(device: torch.device) -> int | None:
    """Bytes that nobody uses, or None where the device does not tell."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    with contextlib.suppress(Exception):  # each backend has its own way to say that it cannot
        return int(_module(device).mem_get_info(device)[0])
    return None


def name_of(device: torch.device) -> str | None:
    """What the hardware is called, such as ``NVIDIA H200``, or None where the device does not tell."""
    with contextlib.suppress(Exception):
        return str(_module(device).get_device_name(device))
    return None


def random_states(device_type: str | None = None) -> tuple[str, list[torch.Tensor]]:
    """The kind of the machine's accelerators, and the states of their random streams; empty without any."""
    kind = device_type or next((name.partition(":")[0] for name in accelerators()), "")
    if not kind:
        return "", []
    module = _module(torch.device(kind))
    if hasattr(module, "get_rng_state_all"):
        return kind, list(module.get_rng_state_all())
    return kind, [module.get_rng_state()] if hasattr(module, "get_rng_state") else []


def set_random_states(kind: str, states: list[torch.Tensor]) -> None:
    """Put back what `random_states` gave, as far as this machine has such devices."""
    here = [name for name in accelerators() if name.partition(":")[0] == kind]
    for name, state in zip(here, states, strict=False):
        module = _module(torch.device(kind))
        if hasattr(module, "set_rng_state_all"):
            module.set_rng_state(state, torch.device(name).index)
        else:
            module.set_rng_state(state)


def _module(device: torch.device) -> Any:
    """torch's module of a kind of devices, such as `torch.xpu`."""
    return torch.get_device_module(device)
