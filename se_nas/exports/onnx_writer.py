"""Writers of the ONNX formats: float32, float16 and 8-bit integers. They need the extra ``export``."""

from __future__ import annotations

import functools
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._decomp import get_decompositions

from se_nas.core.errors import RunError
from se_nas.exports.writers import Job, Outputs, first_line, torch_program

"""What these formats need."""

_INPUT, _OUTPUT = "images", "outputs"


def write_onnx(job: Job, file: Path, *, half: bool = False) -> None:
    """Write ``network.onnx``, for any batch size, with a description of what goes in."""
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    program = _onnx_program(job, half=half)
    given = program.model.opset_imports[""]
    if given != job.opset:  # the exporter only warns where it cannot convert
        raise RunError(
            f"the network cannot be written with ONNX opset {job.opset}, only with {given}", hint=f"--opset {given}"
        )
    ClearMetadataAndDocStringPass()(program.model)  # stack traces, which name files of this machine
    program.model.metadata_props.update(job.description)
    program.save(str(file), external_data=False)


def _onnx_program(job: Job, *, half: bool) -> Any:
    """The network in ONNX. Operators that ONNX lacks are written in others where torch knows how."""
    network: nn.Module | torch.export.ExportedProgram = Outputs(job.network, half=half)
    replaced: set[str] = set()
    while True:
        try:
            return _exported(network, job)
        except torch.onnx.OnnxExporterError as error:
            missing = _missing_operators(error)
            others = get_decompositions([_operator(name) for name in missing - replaced])
            if not others:
                raise _onnx_error(error, missing) from error
            replaced |= missing
            network = torch_program(job, half=half).run_decompositions(others)


def _exported(network: nn.Module | torch.export.ExportedProgram, job: Job) -> Any:
    with torch.no_grad():
        program = torch.onnx.export(
            network,
            (job.example,),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            opset_version=job.opset,
            input_names=[_INPUT],
            output_names=[_OUTPUT],
            verbose=False,
        )
    if program is None:
        raise RunError("the network cannot be written as ONNX: the exporter gave nothing")
    return program


def _operator(name: str) -> Any:
    """The operator of a name such as ``aten.adaptive_max_pool2d.default``."""
    return functools.reduce(getattr, name.split("."), torch.ops)


def _chain(error: BaseException) -> Iterator[str]:
    """What an error and its causes say."""
    cause: BaseException | None = error
    while cause is not None:
        yield str(cause)
        cause = cause.__cause__


def _missing_operators(error: Exception) -> set[str]:
    """The operators that ONNX lacks, by name."""
    return set(re.findall(r"No ONNX function found for <OpOverload\(op='([\w.:]+)'", "\n".join(_chain(error))))


def _onnx_error(error: Exception, missing: set[str]) -> RunError:
    """The operators that ONNX lacks, or else the exporter's own words."""
    hint = "choose pt2 or python, or write that part of the backbone with other operators"
    if missing:
        return RunError(f"ONNX has no operator for {', '.join(sorted(missing))}, which this network uses", hint=hint)
    return RunError(f"the network cannot be written as ONNX: {first_line([*_chain(error)][-1])}", hint=hint)


class _Calibration:
    """Gives onnxruntime the calibration images, 32 at a time."""

    def __init__(self, images: Tensor) -> None:
        self._batches = iter(torch.split(images, 32))

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self._batches, None)
        return None if batch is None else {_INPUT: batch.numpy()}


def write_int8(job: Job, file: Path) -> None:
    """Static quantisation: 8-bit weights per output channel, 8-bit activations, ranges from training images."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    CalibrationDataReader.register(_Calibration)
    with tempfile.TemporaryDirectory() as folder:
        plain, prepared = Path(folder, "plain.onnx"), Path(folder, "prepared.onnx")
        write_onnx(job, plain)
        quant_pre_process(str(plain), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(file),
            _Calibration(job.calibration()),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            weight_type=QuantType.QInt8,
            activation_type=QuantType.QUInt8,
        )
    import onnx

    model = onnx.load(str(file))
    onnx.helper.set_model_props(model, job.description)
    onnx.save(model, str(file))
