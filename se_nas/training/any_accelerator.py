"""Lightning on one device of any kind that torch has."""

from __future__ import annotations

from typing import Any

import torch
from pytorch_lightning.accelerators import Accelerator
from pytorch_lightning.strategies import SingleDeviceStrategy

from se_nas.data.accelerators import accelerators


def on_one_device(device: torch.device) -> dict[str, Any]:
    """How Lightning is told to train on one device. Kinds that it does not know train as `AnyAccelerator`."""
    if device.type == "cuda":
        return {"accelerator": "gpu", "devices": [device.index or 0]}
    if device.type in ("cpu", "mps"):
        return {"accelerator": device.type, "devices": 1}
    return {"strategy": SingleDeviceStrategy(device, accelerator=AnyAccelerator())}


class AnyAccelerator(Accelerator):
    """A kind of devices that torch knows and Lightning does not, such as xpu: one device, set by the strategy."""

    def setup_device(self, device: torch.device) -> None:
        return

    def teardown(self) -> None:
        if accelerators():
            torch.accelerator.empty_cache()

    @staticmethod
    def parse_devices(devices: Any) -> Any:
        return devices

    @staticmethod
    def get_parallel_devices(devices: Any) -> list[torch.device]:  # noqa: ARG004  # Lightning's interface
        return [torch.device(name) for name in accelerators()]

    @staticmethod
    def auto_device_count() -> int:
        return len(accelerators())

    @staticmethod
    def is_available() -> bool:
        return bool(accelerators())

    @staticmethod
    def name() -> str:
        return "any"
