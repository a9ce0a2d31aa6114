"""Units and sites of a network: running order, stages, shapes, and what is refused."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers import backbone_of
from torch import nn

from se_nas.backbones.forward import run_once
from se_nas.core.errors import BackboneError
from se_nas.insertion.discover import find_units


class Declared(nn.Module):
    """Two convolutions that run in the other order than they are written, and say what a test wants."""

    def __init__(self, units: object, *, fail: bool = False) -> None:
        super().__init__()
        self.late = nn.Conv2d(8, 16, 3, stride=2)
        self.early = nn.Conv2d(3, 8, 3)
        self.unused = nn.Conv2d(3, 3, 1)
        self.fc = nn.Linear(16, 2)
        self.units, self.fail = units, fail

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.fail:
            raise ValueError("not today")
        return self.fc(self.late(self.early(x)).mean((2, 3)))

    def se_units(self) -> object:
        return self.units


def test_running_order_channels_and_stages_by_size() -> None:
    units = find_units(Declared({"b": "late", "a": "early"}), (3, 12, 10))
    assert [(u.name, u.stage, u.sites[0].channels, u.sites[0].size) for u in units] == [
        ("a", "stage1", 8, (10, 8)),
        ("b", "stage2", 16, (4, 3)),
    ]
    assert all(u.sites[0].position == "standard" and u.sites[0].edge == "output" for u in units)
    assert all(u.existing is None and u.kind == "declared" for u in units)


def test_input_of_a_module_and_several_positions() -> None:
    (unit,) = find_units(Declared({"a": {"pre": "late:input", "standard": "late"}}), (3, 12, 10))
    assert [(s.position, s.module, s.edge, s.channels) for s in unit.sites] == [
        ("standard", "late", "output", 16),
        ("pre", "late", "input", 8),
    ]
    assert unit.site("pre").size == (10, 8)


@pytest.mark.parametrize("depth", [8, 14, 20, 32, 56])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (4, 7, 5)], ids=str)
def test_units_of_the_built_in_networks(depth: int, shape: tuple[int, ...]) -> None:
    model = backbone_of(f"resnet{depth}", shape)
    units = find_units(model, shape)
    blocks = (depth - 2) // 6
    assert [u.name for u in units] == [f"layer{stage}.{i}" for stage in (1, 2, 3) for i in range(blocks)]
    assert [u.stage for u in units] == [f"stage{stage}" for stage in (1, 2, 3) for _ in range(blocks)]
    assert [u.sites[0].channels for u in units] == [c for c in (16, 32, 64) for _ in range(blocks)]
    assert [s.position for s in units[0].sites] == ["standard", "pre", "post", "identity", "inner"]
    assert model(torch.zeros(2, *shape)).shape == (2, 10)
    convolutions = sum(isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3) for m in model.modules())
    assert convolutions + 1 == depth


def test_the_network_is_left_alone() -> None:
    model = backbone_of("resnet8")
    model.layer2.eval()
    before = copy.deepcopy(model.state_dict())
    find_units(model, (1, 8, 8))
    assert model.training
    assert not model.layer2.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize(
    ("units", "words"),
    [
        ({}, ["se_units() must return a non-empty mapping of unit names to module paths"]),
        (None, ["se_units() must return a non-empty mapping"]),
        ({"a": "erly"}, ["names module 'erly', which the network does not have", "did you mean 'early'?"]),
        ({"a": "unused"}, ["module 'unused' did not run, or gave no tensor of shape (batch, channels, *size)"]),
        ({"a": "fc"}, ["module 'fc' did not run, or gave no tensor"]),
        ({"a": {"before": "late"}}, ["unit 'a' the site 'before'", "allowed: standard, pre, post, identity, inner"]),
        ({"a": {"pre": 3}}, ["unit 'a' the site 'pre': 3"]),
        ({"a": 3}, ["unit 'a'"]),
    ],
    ids=str,
)
def test_wrong_declarations_are_named(units: object, words: list[str]) -> None:
    with pytest.raises(BackboneError) as caught:
        find_units(Declared(units), (3, 12, 10))
    for word in words:
        assert word in str(caught.value)


def test_a_network_without_units_is_told_what_to_do() -> None:
    with pytest.raises(BackboneError) as caught:
        find_units(nn.Sequential(nn.Conv2d(3, 8, 3)), (3, 8, 8))
    assert "Sequential has no place for an SE block that se-nas can find" in str(caught.value)
    assert "give it a method se_units()" in str(caught.value)


def test_a_network_that_fails_says_why() -> None:
    model = Declared({"a": "early"}, fail=True)
    with pytest.raises(BackboneError, match=r"fails on one image of shape \(3, 8, 8\): ValueError: not today"):
        find_units(model, (3, 8, 8))
    assert not model.early._forward_hooks
    with pytest.raises(BackboneError, match="fails on one image"):
        run_once(nn.Conv2d(3, 8, 3), (4, 8, 8))
