"""The runtimes that latency is measured in: a table by name, each opened only where its packages are installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

from se_nas.core.errors import ConfigError
from se_nas.core.latency_names import runtime_of
from se_nas.exports.names import PACKAGES
from se_nas.runtimes.compiled import compiled_runtime
from se_nas.runtimes.onnx_runtime import onnx_runtime
from se_nas.runtimes.tensorrt_runtime import tensorrt_runtime
from se_nas.space.stopwatch import Runtime, torch_runtime


@dataclass(frozen=True, kw_only=True)
class Entry:
    """How a runtime is opened for a device and a number of threads, and the packages that it needs."""

    open: Callable[[torch.device, int], Runtime]
    needs: tuple[str, ...] = ()
    hint: str = ""
    only: str = ""
    """The kind of device that it runs on, if there is but one."""


EXTRA = "pip install 'se-nas[export]'"

ENTRIES: dict[str, Entry] = {
    "torch": Entry(open=lambda device, _: torch_runtime(device)),
    "torch-compile": Entry(open=lambda device, _: compiled_runtime(device)),
    "onnxruntime": Entry(open=lambda device, threads: onnx_runtime(device, threads), needs=PACKAGES, hint=EXTRA),
    "onnxruntime-int8": Entry(
        open=lambda device, threads: onnx_runtime(device, threads, int8=True), needs=PACKAGES, hint=EXTRA
    ),
    "tensorrt": Entry(
        open=lambda device, _: tensorrt_runtime(device), needs=("tensorrt", "onnx", "onnxscript"),
        hint=f"pip install tensorrt, and {EXTRA}", only="cuda",
    ),
}  # fmt: skip


def open_runtimes(costs: Iterable[str], *, device: torch.device, threads: int) -> dict[str, Runtime]:
    """The runtimes of latencies by cost, such as ``latency@onnxruntime``.

    Raises
    ------
    ConfigError
        If a package that one needs is not installed, or it does not run on the device.
    """
    found = {}
    for cost in costs:
        name = runtime_of(cost)
        entry = ENTRIES[name]
        if lacking := [package for package in entry.needs if importlib.util.find_spec(package) is None]:
            raise ConfigError(
                f"latency@{name} needs {', '.join(lacking)}, which {'is' if len(lacking) == 1 else 'are'} not "
                "installed",
                hint=entry.hint,
            )
        if entry.only and device.type != entry.only:
            raise ConfigError(
                f"latency@{name} is measured on {entry.only} only, and the device is {device}",
                hint=f"give --device {entry.only}, or measure on that device with se-nas bench and --latency-table",
            )
        found[cost] = entry.open(device, threads)
    return found


def installed() -> list[str]:
    """The runtimes whose packages are installed and that run on this machine."""
    return [
        name
        for name, entry in ENTRIES.items()
        if all(importlib.util.find_spec(package) is not None for package in entry.needs)
        and (entry.only != "cuda" or torch.cuda.is_available())
    ]
