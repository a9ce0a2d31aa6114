"""ONNX Runtime: the network as ``se-nas export`` would write it, in 32-bit floats or in 8-bit integers."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from se_nas.runtimes.files import write_network
from se_nas.space.stopwatch import Call, Runtime


def onnx_runtime(device: torch.device, threads: int, *, int8: bool = False) -> Runtime:
    """ONNX Runtime on the CPU, or on CUDA where the device is one and the runtime was built for it.

    With `int8` the network is quantised statically first, as ``se-nas export --format onnx-int8`` does it: QDQ, 8-bit
    weights per output channel, 8-bit activations. Their ranges are of noise, on which the time does not depend.
    """
    import onnxruntime  # an extra, and slow to load

    provider = _provider(device, onnxruntime.get_available_providers())

    def open_network(network: nn.Module, images: Tensor) -> Call:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "network.onnx")
            write_network(network, tuple(images.shape[1:]), file, "onnx-int8" if int8 else "onnx")
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
            options.log_severity_level = 3
            session = onnxruntime.InferenceSession(file.read_bytes(), options, providers=[provider])
        return _call(session, images.cpu().numpy())

    where = provider.removesuffix("ExecutionProvider")
    return Runtime(
        name="onnxruntime-int8" if int8 else "onnxruntime",
        description=f"onnxruntime {onnxruntime.__version__}{' int8' if int8 else ''} ({where})",
        open=open_network,
    )


def _provider(device: torch.device, available: list[str]) -> str:
    wanted = {"cuda": "CUDAExecutionProvider", "mps": "CoreMLExecutionProvider"}.get(device.type, "")
    return wanted if wanted in available else "CPUExecutionProvider"


def _call(session: Any, images: np.ndarray) -> Call:
    feed = {session.get_inputs()[0].name: images}
    return lambda: session.run(None, feed)
