"""Writers of the formats that need torch alone: Python source and ``torch.export``; and what every writer is given."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from se_nas.backbones.adapt import logits_of
from se_nas.backbones.build import source_file
from se_nas.core.errors import RunError
from se_nas.core.words import attention_in
from se_nas.exports.bundle import Exported
from se_nas.exports.names import WEIGHTS
from se_nas.exports.plain_call import plain_call
from se_nas.exports.python_source import python_source

OPSET = 20
"""Default version of the ONNX operator set."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a format is written from."""

    network: nn.Module
    """The trained network, float32, in eval mode."""
    record: Exported
    folder: Path
    calibration: Callable[[], Tensor]
    """Normalised training images (n, channels, *size)."""
    opset: int = OPSET

    @property
    def example(self) -> Tensor:
        """Two images of noise: a batch of one would be taken for a constant."""
        return torch.randn(2, *self.record.input_shape, generator=torch.Generator().manual_seed(0))

    @property
    def sides(self) -> str:
        return ", ".join(map(str, self.record.input_shape))

    @property
    def description(self) -> dict[str, str]:
        """What goes into files that hold a description: how to feed the network, and what it is."""
        record = self.record
        return {
            "input": f"float32 (batch, {self.sides}), channels first, (image - mean) / std per channel",
            "mean": json.dumps(record.mean),
            "std": json.dumps(record.std),
            "classes": json.dumps(record.classes),
            "placement": record.placement.label,
            "key": record.key,
        }


class Outputs(nn.Module):
    """A network whose output is a tensor, computed in float16 if `half`."""

    def __init__(self, network: nn.Module, *, half: bool = False) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).half() if half else network
        self.half_precision = half
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        output = logits_of(self.network(images.half() if self.half_precision else images))
        if output is None:
            raise RunError("the network gives no tensor", hint="choose the formats safetensors and python")
        return output.float() if self.half_precision else output


def torch_program(job: Job, *, half: bool) -> torch.export.ExportedProgram:
    """The network as `torch.export` gives it, for any batch size."""
    batch = torch.export.Dim("batch", min=1)
    with torch.no_grad():
        program = torch.export.export(
            Outputs(job.network, half=half), (job.example,), dynamic_shapes=({0: batch},), strict=False
        )
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)  # paths of this machine
    return program


def write_pt2(job: Job, file: Path, *, half: bool = False) -> None:
    """Write ``network.pt2``, with a description of what goes in."""
    torch.export.save(
        torch_program(job, half=half), file, extra_files={"description.json": json.dumps(job.description)}
    )


def write_python(job: Job, file: Path) -> None:
    """Write ``network.py``; RunError if the backbone's own file has that name."""
    record = job.record
    call = plain_call(record.backbone, job.network, num_classes=len(record.classes), input_shape=record.input_shape)
    own = source_file(record.backbone)
    if file.exists():
        whose = "the backbone" if own is not None else "a block"
        raise RunError(
            f"{whose} brings a file {file.name}, which is the exported file's name", hint="rename it and its use"
        )
    text = python_source(
        job.network,
        call,
        title=f"{record.backbone.target.rpartition('/')[2]} with {attention_in(record.placement.label)}: "
        f"{record.placement.label or record.key}.",
        facts={
            "INPUT": f"float32 (batch, {job.sides}), (image - MEAN) / STD",
            "MEAN": record.mean,
            "STD": record.std,
            "CLASSES": record.classes,
        },
        weights=WEIGHTS,
        own_file=own.stem if own is not None else "",
    )
    file.write_text(text)


def first_line(text: str) -> str:
    """The first line of a message that says something."""
    return next((line.strip() for line in text.splitlines() if line.strip()), "no reason is given")
