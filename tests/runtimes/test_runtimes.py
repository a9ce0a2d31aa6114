"""The runtimes of latency: that each runs the network that it is given, and what is said where one is missing."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from se_nas.core.errors import ConfigError, CostError
from se_nas.core.latency_names import RUNTIMES
from se_nas.runtimes.files import FirstTensor, write_network
from se_nas.runtimes.table import ENTRIES, installed, open_runtimes

CPU = torch.device("cpu")
SHAPE = (3, 8, 8)


class Detector(nn.Module):
    """Gives what detectors give: a tensor, and more."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        features = self.conv(images).relu()
        return features.mean((2, 3)), {"features": features}


class Refuses(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return torch.from_numpy(np.array(images.tolist()))


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return Detector().eval()


def test_every_runtime_has_a_name() -> None:
    assert ENTRIES.keys() == RUNTIMES.keys()
    assert {"torch", "torch-compile", "onnxruntime", "onnxruntime-int8"} <= set(installed())


@pytest.mark.parametrize(("name", "tolerance"), [("torch", 1e-6), ("onnxruntime", 1e-5), ("onnxruntime-int8", 0.1)])
def test_runs_the_network(network: nn.Module, name: str, tolerance: float) -> None:
    images = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0))
    runtime = open_runtimes([f"latency@{name}"], device=CPU, threads=1)[f"latency@{name}"]
    found = runtime.open(network, images)()
    runtime.wait()
    output = found[0] if isinstance(found, list | tuple) else found
    with torch.no_grad():
        expected = network(images)[0].numpy()
    assert np.abs(np.asarray(output) - expected).max() <= tolerance
    version = torch.__version__ if name == "torch" else onnxruntime.__version__
    assert version in runtime.description


@pytest.mark.slow
def test_compiled(network: nn.Module) -> None:
    images = torch.randn(2, *SHAPE)
    runtime = open_runtimes(["latency@torch-compile"], device=CPU, threads=1)["latency@torch-compile"]
    others = [Detector().eval() for _ in range(10)]  # more than torch keeps versions of one code
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True), torch.no_grad():
        for one in others:
            assert torch.allclose(runtime.open(one, images)()[0], one(images)[0], atol=1e-5)


def test_eight_bits_are_static_with_ranges_on_both_sides(network: nn.Module, tmp_path: Path) -> None:
    write_network(network, SHAPE, tmp_path / "network.onnx", "onnx-int8")
    graph = onnx.load(str(tmp_path / "network.onnx")).graph
    kinds = [node.op_type for node in graph.node]
    assert kinds.count("QuantizeLinear") >= 2
    assert "DynamicQuantizeLinear" not in kinds
    assert any(t.data_type == onnx.TensorProto.INT8 for t in graph.initializer)


def test_a_network_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(
        CostError, match="the network cannot be written as onnx, so its latency there is not known: "
    ) as error:
        write_network(Refuses(), SHAPE, tmp_path / "network.onnx", "onnx")
    assert "latency@torch-compile" in str(error.value.hint)


def test_one_tensor_of_many(network: nn.Module) -> None:
    images = torch.zeros(1, *SHAPE)
    assert torch.equal(FirstTensor(network)(images), network(images)[0])


@pytest.mark.parametrize(
    ("name", "lacking", "message"),
    [
        ("onnxruntime", {"onnxruntime"}, "latency@onnxruntime needs onnxruntime, which is not installed"),
        ("onnxruntime-int8", {"onnx", "onnxscript"}, "needs onnx, onnxscript, which are not installed"),
        ("tensorrt", {"tensorrt"}, "latency@tensorrt needs tensorrt, which is not installed"),
    ],
)
def test_a_package_that_is_missing(name: str, lacking: set[str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda found: None if found in lacking else real(found))
    with pytest.raises(ConfigError, match=message) as error:
        open_runtimes([f"latency@{name}"], device=CPU, threads=1)
    assert "pip install" in str(error.value.hint)
    assert name not in installed()


def test_tensorrt_is_for_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object())
    with pytest.raises(ConfigError, match="measured on cuda only, and the device is cpu"):
        open_runtimes(["latency@tensorrt"], device=CPU, threads=1)
