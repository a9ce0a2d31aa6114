"""The formats of an export: each a function that writes one file into the export folder.

Every format but the ONNX ones needs torch alone. Half precision computes in float16 and quantised networks in 8-bit
integers; both take and give float32.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import importlib.util
import json
import logging
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._decomp import get_decompositions

from se_nas.backbones import source_file
from se_nas.backbones.adapt import logits_of
from se_nas.backbones.plain import plain_call
from se_nas.errors import ConfigError, RunError, SeNasError, did_you_mean
from se_nas.export import PLACEMENT, WEIGHTS, Exported
from se_nas.python_source import python_source

OPSET = 20
"""Default version of the ONNX operator set."""

CALIBRATION = 512
"""Training images from which the ranges of a quantised network are taken, at most."""

_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_INPUT, _OUTPUT = "images", "outputs"


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
    def description(self) -> dict[str, str]:
        """What goes into files that hold a description: how to feed the network, and what it is."""
        record = self.record
        return {
            "input": "float32 (batch, " + ", ".join(str(side) for side in record.input_shape) + "), channels first, "
            "(image - mean) / std per channel",
            "mean": json.dumps(record.mean),
            "std": json.dumps(record.std),
            "classes": json.dumps(record.classes),
            "placement": record.placement.label,
            "key": record.key,
        }


@dataclass(frozen=True, kw_only=True)
class Format:
    """One format. `exact` ones must give the outputs of the trained network, the others its accuracy."""

    file: str
    write: Callable[[Job, Path], None]
    exact: bool = True
    needs: tuple[str, ...] = ()
    what: str = ""


class _Outputs(nn.Module):
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


def _write_python(job: Job, file: Path) -> None:
    record = job.record
    call = plain_call(record.backbone, job.network, num_classes=len(record.classes), input_shape=record.input_shape)
    own = source_file(record.backbone)
    if own is not None and file.exists():
        raise RunError(
            f"the backbone brings a file {file.name}, which is the exported file's name", hint="rename it and its use"
        )
    text = python_source(
        job.network,
        call,
        title=f"{record.backbone.target.rpartition('/')[2]} with Squeeze-and-Excitation: "
        f"{record.placement.label or record.key}.",
        facts={
            "INPUT": "float32 (batch, " + ", ".join(map(str, record.input_shape)) + "), (image - MEAN) / STD",
            "MEAN": record.mean,
            "STD": record.std,
            "CLASSES": record.classes,
        },
        weights=WEIGHTS,
        own_file=own.stem if own is not None else "",
    )
    file.write_text(text)


def _program(job: Job, *, half: bool) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch", min=1)
    with torch.no_grad():
        program = torch.export.export(
            _Outputs(job.network, half=half), (job.example,), dynamic_shapes=({0: batch},), strict=False
        )
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)  # paths of this machine
    return program


def _write_pt2(job: Job, file: Path, *, half: bool = False) -> None:
    torch.export.save(_program(job, half=half), file, extra_files={"description.json": json.dumps(job.description)})


def _write_torchscript(job: Job, file: Path) -> None:
    with torch.no_grad():
        trace: Any = torch.jit.trace
        traced = trace(_Outputs(job.network), (job.example,), check_trace=False)
    extra = {"description.json": json.dumps(job.description)}
    torch.jit.save(traced, str(file), _extra_files=extra)


def _write_onnx(job: Job, file: Path, *, half: bool = False) -> None:
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
    network: nn.Module | torch.export.ExportedProgram = _Outputs(job.network, half=half)
    written: set[str] = set()
    while True:
        try:
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
        except torch.onnx.OnnxExporterError as error:
            missing = _missing_operators(error)
            others = get_decompositions([_operator(name) for name in missing - written])
            if not others:
                raise _onnx_error(error, missing) from error
            written |= missing
            network = _program(job, half=half).run_decompositions(others)
            continue
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
    hint = "choose pt2, torchscript or python, or write that part of the backbone with other operators"
    if missing:
        return RunError(f"ONNX has no operator for {', '.join(sorted(missing))}, which this network uses", hint=hint)
    return RunError(f"the network cannot be written as ONNX: {_first_line([*_chain(error)][-1])}", hint=hint)


class _Calibration:
    """Gives onnxruntime the calibration images, 32 at a time."""

    def __init__(self, images: Tensor) -> None:
        self._batches = iter(torch.split(images, 32))

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self._batches, None)
        return None if batch is None else {_INPUT: batch.numpy()}


def _write_int8(job: Job, file: Path) -> None:
    """Static quantisation: 8-bit weights per output channel, 8-bit activations, ranges from training images."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    CalibrationDataReader.register(_Calibration)
    with tempfile.TemporaryDirectory() as folder:
        plain, prepared = Path(folder, "plain.onnx"), Path(folder, "prepared.onnx")
        _write_onnx(job, plain)
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


def _half(write: Callable[..., None]) -> Callable[[Job, Path], None]:
    return lambda job, file: write(job, file, half=True)


def _there(job: Job, file: Path) -> None:
    """Weights and placement are always there."""


FORMATS: dict[str, Format] = {
    "safetensors": Format(file=WEIGHTS, write=_there, what=f"weights and {PLACEMENT}, for se_nas.load"),
    "python": Format(file="network.py", write=_write_python, what="source that builds the network without se-nas"),
    "pt2": Format(file="network.pt2", write=_write_pt2, what="torch.export"),
    "pt2-half": Format(file="network-half.pt2", write=_half(_write_pt2), exact=False, what="torch.export, float16"),
    "onnx": Format(file="network.onnx", write=_write_onnx, needs=_PACKAGES, what="ONNX"),
    "onnx-half": Format(
        file="network-half.onnx", write=_half(_write_onnx), exact=False, needs=_PACKAGES, what="ONNX, float16"
    ),
    "onnx-int8": Format(
        file="network-int8.onnx", write=_write_int8, exact=False, needs=_PACKAGES, what="ONNX, 8-bit integers"
    ),
    "torchscript": Format(file="network.torchscript.pt", write=_write_torchscript, what="traced TorchScript"),
}


def check_formats(names: Sequence[str]) -> tuple[str, ...]:
    """The names without repetition, ``safetensors`` first.

    Raises
    ------
    ConfigError
        If a name is unknown, or a package that it needs is not installed.
    """
    for name in names:
        if name not in FORMATS:
            raise ConfigError(f"unknown format {name!r}", allowed=FORMATS, hint=did_you_mean(name, FORMATS))
        if lacking := [package for package in FORMATS[name].needs if importlib.util.find_spec(package) is None]:
            raise ConfigError(
                f"the format {name} needs {', '.join(lacking)}, which {'is' if len(lacking) == 1 else 'are'} "
                "not installed",
                hint=f"pip install {' '.join(lacking)}, or the extra: pip install 'se-nas[export]'",
            )
    return tuple(dict.fromkeys(("safetensors", *names)))


def write_format(name: str, job: Job) -> Path:
    """Write one format into the folder of the job.

    Raises
    ------
    SeNasError
        If the network cannot be written so, with what to do.
    """
    file = job.folder / FORMATS[name].file
    with _quiet():
        try:
            FORMATS[name].write(job, file)
        except (SeNasError, OSError):
            raise
        except Exception as error:  # whatever an exporter or the user's forward raises for what cannot be done
            raise _untraceable(name, error) from error
    return file


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "no reason is given")


def _untraceable(name: str, error: Exception) -> RunError:
    return RunError(
        f"the network cannot be written as {name}: {type(error).__name__}: {_first_line(str(error))}",
        hint="choose another format; python and safetensors take every network",
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what exporters say about themselves; the proof tells whether their work is good."""
    loggers = [logging.getLogger(name) for name in ("", "torch", "onnxscript", "onnx_ir")]
    levels: list[Any] = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
