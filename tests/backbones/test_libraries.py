"""Backbones of model libraries, with the real libraries: what is built, what is never fetched, and clear errors."""

from __future__ import annotations

import json
import socket
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from se_nas.backbones import downloads
from se_nas.backbones.build import build_backbone, list_backbones
from se_nas.backbones.libraries import Logits
from se_nas.core.errors import BackboneError, PluginError
from se_nas.core.placement import KEEP, Choice, Placement
from se_nas.core.trial import Target
from se_nas.insertion.discover import find_units
from se_nas.space.exact_cost import cost
from se_nas.space.search_space import insert_se

SHAPE = (3, 64, 64)

pytestmark = pytest.mark.filterwarnings("ignore")  # those of the libraries


def build(target: str, shape: tuple[int, ...] = SHAPE, num_classes: int | None = 7, **args: Any) -> nn.Module:
    return build_backbone(Target(target=target, args=args), num_classes=num_classes, input_shape=shape, seed=0)


def library(name: str) -> Any:
    return pytest.importorskip(name, reason=f"needs the extra {name}")


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A machine without a net; the list gets what was asked for."""
    asked: list[str] = []

    def refuse(address: Any, *rest: Any, **named: Any) -> Any:
        asked.append(str(address))
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    downloads.answers.cache_clear()
    yield asked
    downloads.answers.cache_clear()


class TestTimm:
    def test_classes_channels_and_settings(self) -> None:
        library("timm")
        model: Any = build("timm:resnet18.a1_in1k", (1, 64, 64), drop_rate=0.1)
        assert (model.conv1.in_channels, model.fc.out_features, model.drop_rate) == (1, 7, 0.1)
        assert build("timm:resnet18", num_classes=None).fc.out_features == 1000  # type: ignore[union-attr]

    def test_a_name_that_it_does_not_have(self) -> None:
        library("timm")
        with pytest.raises(BackboneError, match="timm has no network 'resnet51'") as caught:
            build("timm:resnet51")
        assert caught.value.hint is not None
        assert caught.value.hint.startswith("did you mean 'resne")

    def test_in_chans_of_the_user(self) -> None:
        library("timm")
        assert build("timm:resnet18", (1, 64, 64), in_chans=1).conv1.in_channels == 1  # type: ignore[union-attr]
        with pytest.raises(BackboneError, match="in_chans of backbone 'timm:resnet18' is 3, but the images have 1"):
            build("timm:resnet18", (1, 64, 64), in_chans=3)

    def test_a_network_of_the_hub(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: list[str]) -> None:
        """Its configuration lies in the cache of the hub, as it does after a first fetch."""
        library("timm")
        hub = pytest.importorskip("huggingface_hub", reason="comes with timm")
        home = tmp_path / "models--somebody--net"
        (home / "refs").mkdir(parents=True)
        (home / "refs" / "main").write_text("abc")
        (home / "snapshots" / "abc").mkdir(parents=True)
        content = {"architecture": "resnet18", "num_classes": 1000, "pretrained_cfg": {"input_size": [3, 64, 64]}}
        (home / "snapshots" / "abc" / "config.json").write_text(json.dumps(content))
        monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path))
        model: Any = build("timm:hf_hub:somebody/net")
        assert (type(model).__name__, model.fc.out_features) == ("ResNet", 7)
        with pytest.raises(BackboneError, match="timm's hf_hub:somebody/other cannot be fetched: it is not in the"):
            build("timm:hf_hub:somebody/other")


NAMES = {
    "timm": "timm:resnet18.a1_in1k",
    "torchvision": "torchvision:resnet18",
    "transformers": "hf:nobody/no-such-network",
    "pytorchcv": "pytorchcv:resnet10",
}


@pytest.mark.parametrize("name", NAMES)
def test_pretrained_without_a_net_is_one_error_within_seconds(
    name: str, offline: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library(name)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    build("resnet8")
    start = time.monotonic()
    with pytest.raises(
        BackboneError, match=r"cannot be fetched: it is not in the cache, and https://\S+ is not"
    ) as caught:
        build(NAMES[name], pretrained=True)
    assert time.monotonic() - start < 30  # timm and transformers are imported in this time, too
    assert caught.value.hint == "go online once, or give a file of yours: --weights FILE"


class TestServers:
    def test_a_silent_name_server_costs_a_few_seconds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(downloads, "PATIENCE", 0.1)

        def silent(*_: Any, **__: Any) -> None:
            time.sleep(3)
            raise OSError("nobody answers")

        monkeypatch.setattr(urllib.request, "urlopen", silent)
        downloads.answers.cache_clear()
        start = time.monotonic()
        assert not downloads.answers("https://silent.example")
        assert time.monotonic() - start < 2
        downloads.answers.cache_clear()

    def test_other_errors_are_left_alone_while_online(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(downloads, "answers", lambda server: True)
        with pytest.raises(ZeroDivisionError), downloads.fetching("it", "https://here.example"):
            raise ZeroDivisionError
        with pytest.raises(BackboneError, match="it cannot be fetched: no such page"):
            with downloads.fetching("it", "https://here.example"):
                raise OSError("no such page")
        assert socket.getdefaulttimeout() is None


DETECTION = ("fasterrcnn_mobilenet_v3_large_320_fpn", "ssdlite320_mobilenet_v3_large", "maskrcnn_resnet50_fpn")
SEGMENTATION = ("lraspp_mobilenet_v3_large", "deeplabv3_mobilenet_v3_large")


class TestTorchvision:
    def test_classes_channels_and_auxiliary_classifiers(self) -> None:
        library("torchvision")
        assert build("torchvision:resnet18", (1, 64, 64))(torch.zeros(2, 1, 64, 64)).shape == (2, 7)
        plain: Any = build("torchvision:googlenet")
        assert plain.aux1 is None
        assert isinstance(build("torchvision:googlenet", aux_logits=True), Logits)
        with pytest.raises(BackboneError, match="torchvision has no network 'resnt18'") as caught:
            build("torchvision:resnt18")
        assert caught.value.hint == "did you mean 'resnet18'?"

    @pytest.mark.parametrize("name", [*DETECTION, *SEGMENTATION])
    def test_nothing_is_fetched_unasked(self, name: str, offline: list[str]) -> None:
        library("torchvision")
        build(f"torchvision:{name}")
        assert offline == []

    def test_weights_of_the_backbone_are_fetched_where_they_are_asked_for(
        self, offline: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        library("torchvision")
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        with pytest.raises(BackboneError, match="the weights of torchvision's lraspp_mobilenet_v3_large cannot be"):
            build("torchvision:lraspp_mobilenet_v3_large", weights_backbone="DEFAULT")

    @pytest.mark.parametrize("name", [*DETECTION[:2], *SEGMENTATION])
    def test_sites_prices_insertion_and_losses(self, name: str) -> None:
        """Whatever size a detector gives its images and however it packs what it finds."""
        library("torchvision")
        sizes = {"min_size": 64, "max_size": 96} if name.startswith("fasterrcnn") else {}
        model = build(f"torchvision:{name}", **sizes)
        units = find_units(model, SHAPE)
        assert units
        assert cost(model, input_shape=SHAPE).macs > 0
        keys = model.state_dict().keys()
        choice = Choice(kind="se", reduction=4, squeeze_channels=4, gate_scale=2.0, init="identity")
        choices = {unit.name: KEEP if unit.existing else choice for unit in units}
        with_se = insert_se(model, Placement(choices=choices), input_shape=SHAPE)
        assert keys <= with_se.state_dict().keys()
        image = torch.rand(2, *SHAPE)
        before, after = (_flat(network.eval()(image)) for network in (model, with_se))
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
        if name in DETECTION:
            target = {"boxes": torch.tensor([[5.0, 5.0, 30.0, 40.0]]), "labels": torch.tensor([1])}
            losses = with_se.train()(list(image), [target, target])
            sum(losses.values()).backward()
        else:
            with_se.train()(image)["out"].sum().backward()
        gates = [p for n, p in with_se.named_parameters() if n not in keys]
        assert gates
        assert all(p.grad is not None for p in gates)


def _flat(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    return [t for part in (output.values() if isinstance(output, dict) else output) for t in _flat(part)]


@pytest.mark.parametrize(("name", "network"), [("timm", "resnet50"), ("torchvision", "resnet50")])
def test_a_network_of_a_library_is_answered_with_where_it_is(name: str, network: str) -> None:
    library(name)
    with pytest.raises(PluginError, match="unknown backbone 'resnet50'") as caught:
        build(network)
    assert caught.value.hint is not None
    assert f"'{name}:{network}'" in caught.value.hint
    assert "resnet56" not in caught.value.hint
    assert f"{name}:{network}" in list_backbones(f"{name}:resnet5*")


def test_pytorchcv_fits_the_data() -> None:
    pytest.importorskip("pytorchcv")
    model = build("pytorchcv:resnet10", (1, 64, 64))
    assert model.eval()(torch.zeros(2, 1, 64, 64)).shape == (2, 7)
    assert len(find_units(model, (1, 64, 64))) == 4
    with pytest.raises(BackboneError, match="pytorchcv has no network 'resnet11'"):
        build("pytorchcv:resnet11")
    with pytest.raises(BackboneError, match="unexpected keyword"):
        build("pytorchcv:resnet10", widht=2)


@pytest.mark.filterwarnings("ignore")  # those of the library
def test_transformers_gives_logits(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_sizes": [8, 16], "depths": [1, 2], "embedding_size": 8, "layer_type": "basic"}
    model = build("hf:resnet", (1, 32, 32), **sizes)
    assert model.eval()(torch.zeros(2, 1, 32, 32)).shape == (2, 7)
    assert [unit.sites[0].channels for unit in find_units(model, (1, 32, 32))] == [8, 16, 16]
    transformers.ResNetConfig(**sizes).save_pretrained(tmp_path)
    model.model.save_pretrained(tmp_path)
    for path in (tmp_path, tmp_path / "config.json"):
        assert len(find_units(build(f"hf:{path}"), (3, 32, 32))) == 3
    trained = build(f"hf:{tmp_path}", pretrained=True)
    assert trained.eval()(torch.zeros(2, 3, 32, 32)).shape == (2, 7)
    with pytest.raises(BackboneError, match="hf has no network 'resnt'"):
        build("hf:resnt")
