from __future__ import annotations

import re

import pytest
import torch
from networks import NETWORKS, Bottleneck, Head, Recurrent, Vgg, concurrent, conv, excited, mobilenet, resnet
from torch import Tensor, nn
from torch.nn import functional

from se_nas.backbones.forward import run_once
from se_nas.core.errors import BackboneError, SpaceError
from se_nas.insertion.discover import find_units, select_units, survey

SHAPE = (3, 32, 32)


@pytest.mark.parametrize("name", NETWORKS)
def test_units_are_those_of_the_rules(name: str) -> None:
    factory, kinds, channels = NETWORKS[name]
    found = survey(factory(), SHAPE)
    assert [unit.kind for unit in found.units] == kinds
    assert [unit.sites[0].channels for unit in found.units] == channels
    assert found.skipped == ()
    assert len({unit.name for unit in found.units}) == len(kinds)
    for unit in found.units:
        assert unit.sites[0].position == "standard"
        assert len({site.position for site in unit.sites}) == len(unit.sites)


@pytest.mark.parametrize("name", NETWORKS)
def test_finding_leaves_the_network_as_it_was(name: str) -> None:
    model = NETWORKS[name][0]()
    image = torch.rand(1, *SHAPE)
    model.train()
    model.eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    classes = [type(module) for module in model.modules()]
    with torch.no_grad():
        output = model(image)
    model.train()
    state = torch.random.get_rng_state()
    find_units(model, SHAPE)
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert classes == [type(module) for module in model.modules()]
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    model.eval()
    with torch.no_grad():
        assert torch.equal(output, model(image))


def test_positions_of_a_residual_block() -> None:
    unit = find_units(resnet(), SHAPE)[1]
    assert unit.name == "body.2"
    assert {site.position: (site.module, site.edge, site.channels, site.size) for site in unit.sites} == {
        "standard": ("body.2.n3", "output", 16, (8, 8)),
        "pre": ("body.2.c1", "input", 8, (16, 16)),
        "post": ("body.2", "output", 16, (8, 8)),
        "identity": ("body.2.down.1", "output", 16, (8, 8)),
        "inner": ("body.2.n2", "output", 4, (8, 8)),
    }


def test_stages_are_spatial_sizes_in_running_order() -> None:
    assert [unit.stage for unit in find_units(resnet(), SHAPE)] == ["stage1", "stage2", "stage2"]


@pytest.mark.parametrize(
    ("way", "edge"), [("expand", "block"), ("gate", "gate"), ("inline", "inline")], ids=lambda value: value
)
def test_existing_blocks_are_recognised(way: str, edge: str) -> None:
    for unit in find_units(excited(way), SHAPE):
        assert unit.existing is not None
        assert (unit.sites[0].position, unit.sites[0].edge) == ("standard", edge)


def test_a_block_used_three_times_is_one_unit() -> None:
    (unit,) = find_units(Recurrent(), SHAPE)
    assert unit.name == "block"
    assert unit.sites[0].uses == 3


class Reused(nn.Module):
    """One layer for two sizes, in two expressions or in a loop."""

    def __init__(self, *, loop: bool) -> None:
        super().__init__()
        self.first = nn.Sequential(conv(3, 8), nn.ReLU())
        self.layer = nn.Sequential(conv(8, 8), nn.ReLU())
        self.loop = loop

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        if self.loop:
            for _ in range(2):
                x = functional.max_pool2d(self.layer(x), 2)
        else:
            x = self.layer(functional.max_pool2d(self.layer(x), 2))
        return x.mean((2, 3))


def test_a_layer_used_in_two_expressions_is_two_units() -> None:
    found = survey(Reused(loop=False), SHAPE)
    assert [(unit.name, unit.sites[0].edge) for unit in found.units] == [
        ("first", "output"),
        ("layer", "expression"),
        ("layer:2", "expression"),
    ]


def test_what_is_passed_over_has_a_reason() -> None:
    found = survey(Reused(loop=True), SHAPE)
    assert [unit.name for unit in found.units] == ["first"]
    ((name, reason),) = found.skipped
    assert name == "layer"
    assert "runs 2 times, not always alike" in reason


class Declares(nn.Module):
    def __init__(self, units: object) -> None:
        super().__init__()
        self.units = units
        self.body = resnet()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x)
        return out

    def se_units(self) -> object:
        return self.units


def test_declared_units_win() -> None:
    units = find_units(Declares({"b": "body.body.3", "a": {"pre": "body.body.1:input"}}), SHAPE)
    assert [(unit.name, unit.kind, unit.sites[0].position) for unit in units] == [
        ("a", "declared", "pre"),
        ("b", "declared", "standard"),
    ]
    assert units[0].sites[0].edge == "input"


def test_a_declared_module_without_a_map_is_told_its_shape() -> None:
    with pytest.raises(BackboneError, match=r"of shape \(batch, channels, \*size\): its output has shape \(1, 5\)"):
        find_units(Declares({"a": "body.out"}), SHAPE)


@pytest.mark.parametrize(
    ("model", "shape", "message"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), (3, 2, 2), "it has no convolution"),
        (nn.Sequential(conv(3, 8), nn.Flatten(), nn.Linear(8 * 64, 2)), (3, 4, 4), "fails on one image of shape"),
        (nn.Sequential(conv(3, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten()), (3, 8, 8), "no residual block"),
        (resnet(), (1, 32, 32), "expected input"),
    ],
)
def test_networks_that_cannot_be_searched(model: nn.Module, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(BackboneError, match=message) as caught:
        find_units(model, shape)
    assert caught.value.hint


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_compiled_networks_are_refused() -> None:
    for model in (torch.jit.script(resnet()), torch.compile(resnet(), backend="eager")):
        with pytest.raises(BackboneError, match="is compiled"):
            find_units(model, SHAPE)


class Swish(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> Tensor:
        return grad


class Swished(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = Swish.apply(x)
        return out


class ByKeyword(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = conv(3, 8), conv(8, 8), conv(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(input=x)
        return (self.c(input=functional.relu(self.b(input=x))) + x).mean((2, 3))


def test_odd_ways_to_compute() -> None:
    traced = torch.fx.symbolic_trace(resnet().eval())
    assert [unit.sites[0].module for unit in find_units(traced, SHAPE)] == ["body.1.n3", "body.2.n3", "body.3.n3"]
    normed = resnet()
    torch.nn.utils.parametrizations.weight_norm(normed.get_submodule("body.1.c2"))
    assert len(find_units(normed, SHAPE)) == 3
    hidden = nn.Sequential(conv(3, 8), Swished(), conv(8, 8), Swished(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert [unit.sites[0].module for unit in find_units(hidden, SHAPE)] == ["1", "3"]
    assert [unit.kind for unit in find_units(ByKeyword(), SHAPE)] == ["residual"]


def test_half_precision_and_volumes() -> None:
    assert len(find_units(resnet().half(), SHAPE)) == 3
    volume = nn.Sequential(nn.Conv3d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten())
    assert find_units(volume, (1, 8, 8, 8))[0].sites[0].size == (6, 6, 6)
    line = nn.Sequential(nn.Conv1d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten())
    assert find_units(line, (1, 8))[0].sites[0].size == (6,)


def test_convolutions_beside_blocks_are_a_chain_only_where_they_prevail() -> None:
    def chain(n: int) -> list[nn.Module]:
        return [layer for _ in range(n) for layer in (conv(8, 8), nn.ReLU())]

    few = Head(nn.Sequential(conv(3, 8), *chain(1), Bottleneck(8, 8)), 8)
    many = Head(nn.Sequential(conv(3, 8), *chain(2), Bottleneck(8, 8)), 8)
    assert [unit.kind for unit in find_units(few, SHAPE)] == ["residual"]
    assert [unit.kind for unit in find_units(many, SHAPE)] == ["chain", "chain", "residual"]


def test_an_ending_used_by_nothing_is_no_site() -> None:
    decoder = nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 2), nn.Sigmoid())
    assert [unit.name for unit in find_units(decoder, SHAPE)] == ["0"]


def test_run_once_is_in_eval_mode() -> None:
    model = Vgg().train()
    assert torch.equal(run_once(model, SHAPE), run_once(model, SHAPE))
    assert model.training


# By hand


def test_patterns_name_units_modules_and_inputs() -> None:
    model = resnet()
    units = select_units(model, SHAPE, {"late": "body.[23].n3", "early": ["body.0.0:input", "body.1"]})
    assert [(unit.stage, unit.name, len(unit.sites)) for unit in units] == [
        ("early", "body.0.0", 1),
        ("early", "body.1", 5),
        ("late", "body.2", 5),
        ("late", "body.3", 5),
    ]
    assert units[0].sites[0].edge == "input"


def test_double_star_stands_for_any_number_of_parts() -> None:
    units = select_units(resnet(), SHAPE, {"all": "**.n3"})
    assert [unit.name for unit in units] == ["body.1", "body.2", "body.3"]


def test_a_sequence_stands_for_its_last_or_first_module() -> None:
    units = select_units(mobilenet(), SHAPE, {"a": ["body", "body.2:input"]})
    assert [(unit.name, unit.sites[0].module, unit.sites[0].edge) for unit in units] == [
        ("body.2", "body.2.0", "input"),
        ("body", "body.4.5", "output"),
    ]


def test_a_container_that_runs_through_its_children_is_refused() -> None:
    with pytest.raises(BackboneError, match="runs through its children"):
        select_units(concurrent(), SHAPE, {"a": "body.first:input"})


def test_patterns_work_where_nothing_is_found() -> None:
    model = nn.Sequential(conv(3, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    (unit,) = select_units(model, (3, 8, 8), {"only": "0"})
    assert (unit.name, unit.stage, unit.sites[0].channels) == ("0", "only", 8)


def test_a_pattern_that_matches_nothing_shows_the_nearest() -> None:
    with pytest.raises(SpaceError, match=re.escape("pattern 'body.*.n9' matches no module")) as caught:
        select_units(resnet(), SHAPE, {"a": "body.*.n9"})
    assert caught.value.hint is not None
    assert "body.2.n3" in caught.value.hint


def test_one_unit_in_two_stages() -> None:
    with pytest.raises(SpaceError, match="named by stage 'a' and 'b'"):
        select_units(resnet(), SHAPE, {"a": "body.1", "b": "body.1.n3"})
