"""A network as a file of its own: it must give the same outputs without any code of se-nas."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path
from typing import Any

import networks
import pytest
import torch
from networks import NETWORKS
from torch import nn

from se_nas.backbones.build import build_backbone
from se_nas.core.blocks import BLOCKS
from se_nas.core.errors import BackboneError
from se_nas.core.placement import Choice, Site, Unit
from se_nas.core.trial import Target
from se_nas.exports.plain_call import PlainCall, plain_call, source_files
from se_nas.exports.python_source import python_source
from se_nas.insertion.attention.build import build_block
from se_nas.insertion.discover import find_units
from se_nas.insertion.insert import insert_choices

SETTINGS = (
    {"bias": True, "squeeze": "max", "init": "plain"},
    {"gate": "hard_sigmoid", "init": "identity"},
    {"gate": "tanh", "gate_offset": 1.0},
)


def shape_of(model: nn.Module) -> tuple[int, ...]:
    return (1, 8, 8, 8) if any(isinstance(m, nn.Conv3d) for m in model.modules()) else (3, 32, 32)


def with_blocks(model: nn.Module, units: tuple[Unit, ...]) -> nn.Module:
    """SE with various settings at every second unit, from the first."""
    choices = {
        unit.name: Choice.se(unit.sites[0].channels, 2, **SETTINGS[index % len(SETTINGS)])
        for index, unit in enumerate(units)
        if index % 2 == 0
    }
    insert_choices(model, units, choices, seed=1)
    return model.eval()


def built(source: str, folder: Path) -> nn.Module:
    """What ``build()`` of a generated file gives."""
    assert "se_nas" not in source.replace("se-nas", "")
    names: dict[str, Any] = {"__name__": "network", "__file__": str(folder / "network.py")}
    exec(compile(source, "network.py", "exec"), names)
    model: nn.Module = names["build"]()
    return model.eval()


def call_of(name: str) -> PlainCall:
    return PlainCall(
        expression=f"NETWORKS[{name!r}][0]()", module="networks", names=("NETWORKS",), network=NETWORKS[name][0]()
    )


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "concurrent"])  # whose class is local
def test_gives_the_same_outputs(name: str, tmp_path: Path) -> None:
    model = NETWORKS[name][0]()
    shape = shape_of(model)
    model = with_blocks(model, find_units(model, shape))
    source = python_source(model, call_of(name), title="A test.", facts={"MEAN": (0.5,)}, weights="w.safetensors")
    other = built(source, tmp_path)
    other.load_state_dict(model.state_dict())
    images = torch.randn(3, *shape)
    with torch.no_grad():
        assert torch.equal(other(images), model(images))
    other.train()
    assert any(m.training for m in other.modules())


@pytest.mark.parametrize("block", [name for name in BLOCKS if name != "se"])
def test_other_blocks(block: str, tmp_path: Path) -> None:
    model = NETWORKS["mobilenet2"][0]()
    shape = shape_of(model)
    units = find_units(model, shape)
    choices = {unit.name: Choice.se(unit.chosen.channels, 2, block=block) for unit in units[::2]}
    insert_choices(model, units, choices, seed=1)
    for parameter in model.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    source = python_source(model, call_of("mobilenet2"), title="A test.", facts={}, weights="w")
    other = built(source, tmp_path)
    other.load_state_dict(model.state_dict())
    images = torch.randn(2, *shape)
    with torch.no_grad():
        assert torch.equal(other(images), model.eval()(images))
    assert source.count(f"class {BLOCKS[block].made.rpartition(':')[2]}(") == 1


def test_a_gate_without_its_multiplication(tmp_path: Path) -> None:
    target, shape = Target(target="pytorchcv:seresnet10"), (3, 32, 32)
    model = build_backbone(target, num_classes=7, input_shape=shape, seed=0)
    call = plain_call(target, model, num_classes=7, input_shape=shape)
    path = next(name for name, module in model.named_modules() if type(module).__name__ == "SEBlock")
    site = Site(unit="u", position="standard", module=path, channels=64, size=(8, 8), edge="block")
    model.set_submodule(path, _Alone(build_block(replace(site, edge="gate"), Choice.se(64, 4, block="eca"))))
    with pytest.raises(BackboneError, match="is a _Alone"):
        python_source(model, call, title="A test.", facts={}, weights="w")
    gate = build_block(replace(site, edge="gate"), Choice.se(64, 4, block="eca"))
    model.set_submodule(path, gate)
    source = python_source(model, call, title="A test.", facts={}, weights="w")
    assert f"network.set_submodule({path!r}, gate_only(ECA(64, dims=2, identity=True)))" in source
    assert built(source, tmp_path).get_submodule(path)(torch.ones(1, 64, 8, 8)).shape == (1, 64, 1, 1)


class _Alone(nn.Module):
    def __init__(self, gate: nn.Module) -> None:
        super().__init__()
        self.gate = gate


@pytest.mark.parametrize(
    ("target", "shape"),
    [
        (Target(target="resnet8"), (1, 8, 8)),
        (Target(target="se_nas.backbones.resnet:resnet", args={"depth": 14}), (3, 16, 16)),
        (Target(target="pytorchcv:shufflenetv2_wd2"), (1, 32, 32)),  # other first layer and pooling
        (Target(target="pytorchcv:seresnet10"), (3, 32, 32)),  # SE of its own
        (
            Target(
                target="hf:regnet",
                args={"depths": [1, 1], "hidden_sizes": [8, 16], "embedding_size": 8, "groups_width": 8},
            ),
            (3, 32, 32),
        ),
    ],
    ids=lambda value: value.target if isinstance(value, Target) else "",
)
def test_backbones_of_libraries(target: Target, shape: tuple[int, ...], tmp_path: Path) -> None:
    model = build_backbone(target, num_classes=7, input_shape=shape, seed=0)
    model = with_blocks(model, find_units(model, shape))
    call = plain_call(target, model, num_classes=7, input_shape=shape)
    other = built(python_source(model, call, title="A test.", facts={}, weights="w"), tmp_path)
    other.load_state_dict(model.state_dict())
    images = torch.randn(2, *shape)
    with torch.no_grad():
        assert torch.equal(getattr(other(images), "logits", other(images)), model(images))


def test_a_source_that_reads_well() -> None:
    model = build_backbone(Target(target="resnet8"), num_classes=10, input_shape=(1, 8, 8), seed=0)
    units = find_units(model, (1, 8, 8))
    insert_choices(model, units, {units[1].name: Choice.se(32, 8, init="plain")}, seed=0)
    call = plain_call(Target(target="resnet8"), model, num_classes=10, input_shape=(1, 8, 8))
    source = python_source(model, call, title="Title.", facts={"MEAN": (0.5,)}, weights="model.safetensors")
    assert ast.get_docstring(ast.parse(source)).startswith("Title.")
    assert "    network = resnet(depth=8, num_classes=10, in_channels=1)\n" in source
    assert "    rescale(network.get_submodule('layer2.0.bn2'), BatchNorm2dWithSE, se_block=SEBlock(32, 4))\n" in source
    assert source.count("WithSE(") == 1
    assert "MEAN = (0.5,)" in source


def test_no_blocks_no_helpers() -> None:
    target = Target(target="resnet8")
    model = build_backbone(target, num_classes=10, input_shape=(1, 8, 8), seed=0)
    call = plain_call(target, model, num_classes=10, input_shape=(1, 8, 8))
    source = python_source(model, call, title="Title.", facts={}, weights="model.safetensors")
    assert "SEBlock" not in source
    assert "rescale" not in source


class TestErrors:
    def test_a_class_inside_of_a_function(self) -> None:
        model = NETWORKS["concurrent"][0]()
        model = with_blocks(model, find_units(model, (3, 32, 32)))
        call = PlainCall(
            expression="concurrent()", module="networks", names=("concurrent",), network=networks.concurrent()
        )
        with pytest.raises(BackboneError, match="is defined in a function"):
            python_source(model, call, title="", facts={}, weights="w")

    def test_a_module_that_the_factory_does_not_make(self) -> None:
        model = NETWORKS["flat"][0]().eval()
        model.out = networks.Head(nn.Identity(), 8)
        with pytest.raises(BackboneError, match="module 'out' of the network is a Head"):
            python_source(model, call_of("flat"), title="", facts={}, weights="w")

    def test_arguments_that_are_no_literals(self) -> None:
        target = Target(target="se_nas.backbones.resnet:resnet", args={"depth": torch.tensor(8)})
        with pytest.raises(BackboneError, match="argument depth=tensor\\(8\\) of the backbone cannot be written"):
            plain_call(target, nn.Identity(), num_classes=3, input_shape=(3, 8, 8))


def test_what_a_file_imports_from_beside_it_goes_along(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("import torch\nimport a\nfrom package.deep import thing\n")
    (tmp_path / "a.py").write_text("from b import x\n")
    (tmp_path / "b.py").write_text("x = 1\n")
    (tmp_path / "not_imported.py").write_text("")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("")
    (tmp_path / "package" / "deep.py").write_text("thing = 1\n")
    found = source_files(Target(target=f"{tmp_path / 'net.py'}:Net"))
    assert sorted(found) == ["a.py", "b.py", "net.py", "package/__init__.py", "package/deep.py"]
    assert source_files(Target(target="resnet8")) == {}
