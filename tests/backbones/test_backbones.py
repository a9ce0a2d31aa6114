"""Backbones by name, from files, and made to fit the data. Those of libraries: test_libraries.py."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from se_nas.backbones.adapt import adapt_classifier, adapt_input
from se_nas.backbones.build import build_backbone, source_file
from se_nas.core.errors import BackboneError, PluginError
from se_nas.core.trial import Target

SHAPE = (3, 32, 32)


def build(target: str, shape: tuple[int, ...] = SHAPE, num_classes: int = 7, seed: int = 0, **args: Any) -> nn.Module:
    return build_backbone(Target(target=target, args=args), num_classes=num_classes, input_shape=shape, seed=seed)


def small(*, num_classes: int = 1000, in_chans: int = 3) -> nn.Module:
    layers = nn.Conv2d(in_chans, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(8, num_classes))


@pytest.mark.parametrize(("library", "package"), [("timm", "timm"), ("torchvision", "torchvision"), ("hf", "transf")])
def test_a_missing_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch, library: str, package: str) -> None:
    for name in ("timm", "torchvision", "torchvision.models", "transformers"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(BackboneError) as caught:
        build(f"{library}:resnet18")
    assert caught.value.hint is not None
    assert caught.value.hint.startswith(f"pip install {package}")


FILE = """
from torch import nn

def plain(width: int = 8):
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))

def sized(num_classes, in_channels, input_shape):
    return nn.Sequential(nn.Flatten(), nn.Linear(in_channels * input_shape[1] * input_shape[2], num_classes))

def returns_class():
    return nn.Linear

def returns_nothing():
    pass

def fails():
    raise ValueError("no weights")

class Net(nn.Sequential):
    def __init__(self, num_classes):
        super().__init__(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes))

made = Net(3)
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "networks_of_a_user.py"
    path.write_text(FILE)
    return str(path)


def test_files_and_classes(file: str) -> None:
    assert build(f"{file}:sized", (2, 4, 4))(torch.zeros(1, 2, 4, 4)).shape == (1, 7)
    assert build(f"{file}:Net")(torch.zeros(2, *SHAPE)).shape == (2, 7)


def test_a_factory_without_classes_or_channels_is_made_to_fit(file: str) -> None:
    model = build(f"{file}:plain", (1, 32, 32), width=4)
    assert model(torch.zeros(2, 1, 32, 32)).shape == (2, 7)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("returns_class", "returned the class Linear, not a network"),
        ("returns_nothing", "returned NoneType, not an nn.Module"),
        ("fails", "cannot be built: ValueError: no weights"),
        ("made", "is a network, not a factory"),
    ],
)
def test_wrong_factories(file: str, name: str, message: str) -> None:
    with pytest.raises(BackboneError, match=message):
        build(f"{file}:{name}")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("net = 3", "is int, not something that can be called"),
        ("import nothing_like_this\nnet = 3", "ModuleNotFoundError: No module named 'nothing_like_this'"),
        ("def not_net(): pass", "has no attribute 'net'"),
        ("def net(:", "SyntaxError"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, body: str, words: str) -> None:
    (tmp_path / "mine.py").write_text(body)
    with pytest.raises(PluginError) as caught:
        build(f"{tmp_path / 'mine.py'}:net")
    assert words in str(caught.value)


def test_missing_file() -> None:
    with pytest.raises(PluginError, match=r"there is no file '.*nowhere\.py'"):
        build("nowhere.py:net")


def test_built_in_networks_take_classes_and_channels_of_the_data() -> None:
    model: Any = build("resnet8", (2, 8, 8))
    assert (model.fc.out_features, model.conv1.in_channels) == (7, 2)
    assert build("resnet8", num_classes=3).fc.out_features == 3  # type: ignore[union-attr]
    assert len(list(build("se_nas.backbones.resnet:resnet", depth=14).layer1)) == 2  # type: ignore[arg-type]
    with pytest.raises(BackboneError, match="cannot have 10 layers"):
        build("se_nas.backbones.resnet:resnet", depth=10)


def test_source_file() -> None:
    assert source_file(Target(target="resnet8")) is None
    assert source_file(Target(target="package.module:factory")) is None
    found = source_file(Target(target="here/net.py:factory"))
    assert found is not None
    assert found.name == "net.py"
    assert found.is_absolute()


def test_wrong_arguments(file: str) -> None:
    with pytest.raises(PluginError, match="unexpected keyword argument 'widht'") as caught:
        build(f"{file}:plain", widht=3)
    assert caught.value.hint == "did you mean 'width'?"


def test_the_seed_sets_all_weights(file: str) -> None:
    first, again, other = (build(f"{file}:plain", (1, 32, 32), seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not any(torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_a_new_first_layer_gives_the_same_for_equal_channels(channels: int) -> None:
    model = small().eval()
    image = torch.rand(2, 1, 32, 32)
    before = model(image.expand(2, 3, 32, 32))
    adapt_input(model, channels, (channels, 32, 32))
    after = model(image.expand(2, channels, 32, 32))
    if channels == 1:
        torch.testing.assert_close(after, before)
    assert after.shape == before.shape


def test_what_cannot_be_made_to_fit_is_refused() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(3, 4, 3)
            self.weight = nn.Parameter(torch.zeros(4, 9))

        def forward(self, x: Tensor) -> Tensor:
            if x.shape[1] != 3:
                raise ValueError("three channels")
            return self.layer(x).mean((2, 3)) @ self.weight

    with pytest.raises(BackboneError, match="its last layer cannot be identified"):
        adapt_classifier(Fixed(), 5, SHAPE)
    model = Fixed()
    with pytest.raises(BackboneError, match="takes 3 channels, the data have 1") as caught:
        adapt_input(model, 1, (1, 32, 32))
    assert caught.value.hint == "give its factory a parameter in_channels"
    assert model.layer.in_channels == 3


class TestNamesOfLibraries:
    def test_a_network_of_a_library_is_answered_with_where_it_is(self) -> None:
        pytest.importorskip("pytorchcv", reason="needs the extra pytorchcv")
        with pytest.raises(PluginError, match="unknown backbone 'resnetbc26b'") as caught:
            build("resnetbc26b")
        assert caught.value.hint is not None
        assert "'pytorchcv:resnetbc26b'" in caught.value.hint
        assert "resnet20" not in caught.value.hint

    def test_a_name_that_nobody_has_is_answered_with_the_nearest(self) -> None:
        with pytest.raises(PluginError) as caught:
            build("bagnet7")
        assert caught.value.hint == "did you mean 'bagnet8'?"

    @pytest.mark.parametrize("name", ["in_channels", "in_chans", "num_channels"])
    def test_channels_that_the_images_do_not_have(self, name: str) -> None:
        with pytest.raises(BackboneError, match=f"{name} of backbone 'resnet8' is 5, but the images have 3 channels"):
            build("resnet8", **({"in_channels": 5} if name == "in_channels" else {"in_channels": 3, name: 5}))
