"""`torch.compile` as a runtime: each network compiled by itself for the shape of the batch."""

from __future__ import annotations

import types

import torch
from torch import Tensor, nn

from se_nas.core.errors import CostError
from se_nas.data.accelerators import synchronize
from se_nas.exports.writers import first_line
from se_nas.space.stopwatch import Call, Runtime


def compiled_runtime(device: torch.device) -> Runtime:
    """`torch.compile` with its defaults, for fixed shapes. Compiling takes seconds to minutes for each network."""
    return Runtime(
        name="torch-compile",
        description=f"torch {torch.__version__} compiled",
        open=_open,
        wait=lambda: synchronize(device),
    )


def _apply(network: nn.Module, images: Tensor) -> object:
    return network(images)


def _open(network: nn.Module, images: Tensor) -> Call:
    # torch keeps compiled code with the code object, eight versions of it, and looks through them at each call.
    own = types.FunctionType(_apply.__code__.replace(co_name="apply"), globals())
    compiled = torch.compile(own, dynamic=False)

    def call() -> object:
        with torch.inference_mode():
            return compiled(network, images)

    try:
        call()
    except Exception as error:  # of the compiler, or for lack of one
        raise CostError(
            f"torch.compile fails on this network: {type(error).__name__}: {first_line(str(error))}",
            hint="measure latency in another runtime, such as latency@onnxruntime",
        ) from error
    return call
