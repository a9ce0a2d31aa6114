"""Networks as the files that a deployer would make of them, to be timed: their outputs are not looked at."""

from __future__ import annotations

import contextlib
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from se_nas.backbones.adapt import logits_of
from se_nas.core.errors import CostError, SeNasError
from se_nas.core.placement import Placement
from se_nas.core.trial import Target
from se_nas.exports.bundle import Exported
from se_nas.exports.formats import quiet
from se_nas.exports.onnx_writer import write_int8, write_onnx
from se_nas.exports.writers import OPSET, Job, first_line, write_pt2

CALIBRATION = 8
"""Images of noise that 8-bit ranges are taken from: the time does not depend on them, accuracy would."""

WRITERS = {"onnx": write_onnx, "onnx-int8": write_int8, "pt2": write_pt2}
"""By format."""


class FirstTensor(nn.Module):
    """A network that returns one tensor: the logits, else the first that it gives (of a detector, all detections)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        output = self.network(images)
        logits = logits_of(output)
        return next(t for t in tree_leaves(output) if isinstance(t, Tensor)) if logits is None else logits


def write_network(network: nn.Module, input_shape: tuple[int, ...], file: Path, form: str) -> None:
    """Write a network in one of `WRITERS`; CostError if it cannot be written."""

    def noise() -> Tensor:
        return torch.randn(CALIBRATION, *input_shape, generator=torch.Generator().manual_seed(0))

    record = Exported(
        key="",
        placement=Placement(choices={}),
        backbone=Target(target=""),
        units=(),
        input_shape=input_shape,
        classes=(),
    )
    job = Job(
        network=FirstTensor(network).eval().cpu(), record=record, folder=file.parent, calibration=noise, opset=OPSET
    )
    try:
        with quiet(), contextlib.redirect_stdout(None):
            WRITERS[form](job, file)
    except OSError:
        raise
    except Exception as error:  # whatever an exporter raises for what it cannot do
        what = error.what if isinstance(error, SeNasError) else f"{type(error).__name__}: {first_line(str(error))}"
        raise CostError(
            f"the network cannot be written as {form}, so its latency there is not known: {what}",
            hint="measure latency in another runtime, such as latency or latency@torch-compile",
        ) from error
