"""Networks of Ultralytics: every weight kept, files read without running their code, its own exports of the result."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from se_nas.backbones.build import build_backbone, is_pretrained, list_backbones
from se_nas.core.errors import BackboneError
from se_nas.core.placement import KEEP, Choice, Placement
from se_nas.core.trial import Target
from se_nas.insertion.discover import find_units
from se_nas.space.exact_cost import cost
from se_nas.space.search_space import insert_se

SHAPE = (3, 64, 64)
NAMES = ("yolo11n.yaml", "yolov8n.yaml")

pytestmark = pytest.mark.filterwarnings("ignore")  # those of the library


@pytest.fixture(scope="module", autouse=True)
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Ultralytics with its settings in a folder of the test's, and without a net."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("YOLO_CONFIG_DIR", str(tmp_path_factory.mktemp("settings")))
        patch.setenv("YOLO_OFFLINE", "true")
        yield pytest.importorskip("ultralytics", reason="needs the extra ultralytics")


def build(target: str, num_classes: int | None = None, shape: tuple[int, ...] = SHAPE, **args: Any) -> Any:
    return build_backbone(Target(target=f"ultralytics:{target}", args=args), num_classes=num_classes,
                          input_shape=shape, seed=0)  # fmt: skip


def lively(network: nn.Module) -> None:
    """Weights with which each layer matters; with those of the library's start the head sees next to nothing."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.weight.requires_grad:
            nn.init.kaiming_normal_(module.weight)


def with_blocks(network: nn.Module, *, init: str = "identity") -> nn.Module:
    choice = Choice(kind="se", reduction=4, squeeze_channels=4, gate_scale=2.0, init=init)  # type: ignore[arg-type]
    choices = {unit.name: KEEP if unit.existing else choice for unit in find_units(network, SHAPE)}
    made = insert_se(network, Placement(choices=choices), input_shape=SHAPE)
    if init != "identity":
        for name, parameter in made.named_parameters():
            if "se_block" in name:
                nn.init.normal_(parameter, std=0.5)
    return made


def flat(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    parts = output.values() if isinstance(output, dict) else output if isinstance(output, (list, tuple)) else ()
    return [tensor for part in parts for tensor in flat(part)]


def run(network: nn.Module) -> list[Tensor]:
    with torch.no_grad():
        return flat(network.eval()(torch.rand(1, *SHAPE, generator=torch.Generator().manual_seed(1))))


@pytest.fixture(scope="module", params=NAMES)
def file(request: pytest.FixtureRequest, library: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ``.pt`` file that Ultralytics wrote, with the weights of a seed."""
    yolo = library.YOLO(request.param)
    lively(yolo.model)
    path = tmp_path_factory.mktemp("yolo") / request.param.replace(".yaml", ".pt")
    yolo.save(path)
    return Path(path)


class TestWeightsOfAFile:
    def test_all_are_kept_and_the_output_with_them(self, library: Any, file: Path) -> None:
        network = build(str(file))
        saved = torch.load(file, weights_only=False)["model"].float().state_dict()  # the library's own way
        found = network.state_dict()
        assert found.keys() == saved.keys()
        assert all(torch.equal(found[name], saved[name]) for name in saved)
        units = find_units(network, SHAPE)
        assert len(units) >= 8
        made = with_blocks(network)
        kept = made.state_dict()
        assert all(torch.equal(kept[name], saved[name]) for name in saved)
        assert {name for name in kept if name not in saved} == {name for name in kept if "se_block" in name}
        assert all(torch.equal(a, b) for a, b in zip(run(network), run(made), strict=True))
        assert cost(made, input_shape=SHAPE).params > cost(network, input_shape=SHAPE).params

    def test_all_can_be_trained_but_what_the_library_freezes(self, file: Path) -> None:
        frozen = [name for name, parameter in build(str(file)).named_parameters() if not parameter.requires_grad]
        assert frozen == [name for name in frozen if ".dfl" in name] != []

    def test_other_classes_and_channels_take_what_fits(self, file: Path) -> None:
        old, new = build(str(file)), build(str(file), num_classes=3, shape=(1, 64, 64))
        assert new.yaml["nc"] == 3
        before, after = old.state_dict(), new.state_dict()
        same = (
            [name for name in before if torch.equal(before[name], after[name])] if before.keys() == after.keys() else []
        )
        assert len(same) > 0.85 * len(before)
        assert new.model[0].conv.weight.shape[1] == 1

    def test_a_file_starts_blocks_as_the_identity(self, file: Path) -> None:
        assert is_pretrained(Target(target=f"ultralytics:{file}"))
        assert not is_pretrained(Target(target="ultralytics:yolo11n.yaml"))


class TestExportsOfTheLibrary:
    """What Ultralytics makes of a network with SE blocks that do something."""

    def test_pt(self, library: Any, file: Path, tmp_path: Path) -> None:
        yolo = library.YOLO(str(file))
        yolo.model = made = with_blocks(build(str(file)), init="plain").half().float()
        yolo.save(tmp_path / "se.pt")
        again = library.YOLO(str(tmp_path / "se.pt")).model
        assert again.state_dict().keys() == made.state_dict().keys()
        assert all(torch.equal(a, b) for a, b in zip(run(made), run(again), strict=True))

    def test_fused(self, file: Path) -> None:
        plain = build(str(file))
        made = with_blocks(plain, init="plain")
        expected = run(made)[0]
        assert (expected - run(plain)[0]).abs().max() > 0.01
        torch.testing.assert_close(run(copy.deepcopy(made).fuse(verbose=False))[0], expected, rtol=1e-3, atol=1e-3)

    def test_onnx(self, library: Any, file: Path, tmp_path: Path) -> None:
        pytest.importorskip("onnx", reason="needs the extra export")
        runtime = pytest.importorskip("onnxruntime", reason="needs the extra export")
        yolo = library.YOLO(str(file))
        yolo.model = made = with_blocks(build(str(file)), init="plain")
        made.pt_path = str(tmp_path / "se.pt")  # type: ignore[assignment]  # beside which the library writes
        expected = run(made)[0].numpy()
        written = yolo.export(format="onnx", imgsz=SHAPE[1], simplify=False)
        image = torch.rand(1, *SHAPE, generator=torch.Generator().manual_seed(1)).numpy()
        session = runtime.InferenceSession(written, providers=["CPUExecutionProvider"])
        np.testing.assert_allclose(session.run(None, {"images": image})[0], expected, rtol=1e-3, atol=1e-3)


class TestFilesThatAreRefused:
    def test_one_that_would_run_code(self, tmp_path: Path) -> None:
        class Runs:
            def __reduce__(self) -> Any:
                return os.mkdir, (str(tmp_path / "ran"),)

        torch.save({"model": Runs()}, tmp_path / "evil.pt")
        with pytest.raises(BackboneError, match=r"evil.pt' is not a file of a network of ultralytics, or holds more"):
            build(str(tmp_path / "evil.pt"))
        assert not (tmp_path / "ran").exists()

    def test_one_that_is_not_there(self) -> None:
        with pytest.raises(BackboneError, match=r"there is no file 'nowhere.pt'") as caught:
            build("nowhere.pt")
        assert caught.value.hint is not None
        assert "pretrained true" in caught.value.hint

    def test_one_that_is_no_checkpoint(self, tmp_path: Path) -> None:
        (tmp_path / "text.pt").write_text("no network")
        with pytest.raises(BackboneError, match="is not a file of a network of ultralytics"):
            build(str(tmp_path / "text.pt"))


class TestNames:
    def test_all_sizes_of_all_its_networks(self) -> None:
        known = list_backbones("ultralytics:*")
        for name in ("yolo11n", "yolo11x-seg", "yolov8s-cls", "yolov8m-pose", "yolo11l-obb"):
            assert f"ultralytics:{name}.yaml" in known
        assert not [name for name in known if "world" in name or "rtdetr" in name]

    def test_a_name_that_it_does_not_have(self) -> None:
        with pytest.raises(BackboneError, match="ultralytics has no network 'yolo11n'") as caught:
            build("yolo11n")
        assert caught.value.hint == "did you mean 'yolo11n.yaml'?"

    def test_classes_and_channels_of_the_data(self) -> None:
        network = build("yolov8n-seg.yaml", num_classes=5, shape=(1, 64, 64))
        assert (network.yaml["nc"], network.model[0].conv.weight.shape[1]) == (5, 1)
        assert len(find_units(network, (1, 64, 64))) >= 8

    def test_a_classifier_gives_logits_in_both_modes(self) -> None:
        network = build("yolo11n-cls.yaml", num_classes=5)
        images = torch.rand(2, *SHAPE)
        assert network.train()(images).shape == network.eval()(images).shape == (2, 5)
        assert (network(images).sum(1) - 1).abs().max() > 0.01, "probabilities"
        assert copy.deepcopy(network)(images).shape == (2, 5)
