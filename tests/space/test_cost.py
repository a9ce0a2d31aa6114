"""Exact cost: the closed form against a full trace, against an independent counter, and against published counts."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Callable

import pytest
import torch
from helpers import backbone_of, units_of
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from se_nas.core.costs import EXACT
from se_nas.core.errors import CostError
from se_nas.core.placement import GATES, KEEP, NONE, Choice, Placement
from se_nas.space.exact_cost import Cost, CostModel, cost, se_cost
from se_nas.space.search_space import insert_se
from se_nas.space.space import Space
from se_nas.space.spec import read_space


def by_modules(model: nn.Module, shape: tuple[int, ...]) -> tuple[int, int]:
    """Multiply-adds and output elements of all convolutions and linear layers, from their shapes alone."""
    counted = [0, 0]

    def count(module: nn.Module, _: object, out: torch.Tensor) -> None:
        weights = module.weight.numel()
        positions = out[0].numel() // (module.out_channels if isinstance(module, nn.Conv2d) else module.out_features)
        counted[0] += weights * positions
        counted[1] += out[0].numel()

    network = copy.deepcopy(model).eval()
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    with torch.no_grad():
        network(torch.zeros(1, *shape))
    return counted[0], counted[1]


def flops(model: nn.Module, shape: tuple[int, ...]) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        copy.deepcopy(model).eval()(torch.zeros(1, *shape))
    return counter.get_total_flops()


class TestClosedForm:
    @pytest.mark.parametrize("shape", [(1, 8, 8), (3, 4, 4), (2, 9, 7)], ids=str)
    def test_equals_a_full_trace_for_every_placement_of_a_space(self, shape: tuple[int, ...]) -> None:
        """At 4 x 4 pixels the last stage has a single position, so that no tensor there has spatial extent."""
        model = backbone_of("resnet8", shape)
        units = units_of("resnet8", shape)
        space = Space(read_space({"reductions": ["none", 16, 4] if shape == (1, 8, 8) else ["none", 8]}), units)
        model_of_cost = CostModel(model, units, shape)
        compared = 0
        for placement in space.placements():
            traced = cost(insert_se(model, placement, input_shape=shape), input_shape=shape)
            assert model_of_cost(placement) == traced, placement.label
            compared += 1
        assert compared == (27 if shape == (1, 8, 8) else 8)

    @pytest.mark.parametrize(("gate", "squeeze"), list(itertools.product(GATES, ["avg", "max"])))
    @pytest.mark.parametrize("init", ["plain", "identity"])
    def test_equals_a_full_trace_for_every_kind_of_block(self, gate: str, squeeze: str, init: str) -> None:
        model, units = backbone_of("resnet8"), units_of("resnet8")
        choices = {
            unit.name: Choice.se(unit.site("standard").channels, 8, gate=gate, squeeze=squeeze, init=init, bias=True)
            for unit in units
        }
        placement = Placement(choices=choices)
        traced = cost(insert_se(model, placement, input_shape=(1, 8, 8)), input_shape=(1, 8, 8))
        assert CostModel(model, units, (1, 8, 8))(placement) == traced

    @pytest.mark.parametrize("position", ["standard", "pre", "post", "identity", "inner"])
    def test_equals_a_full_trace_at_every_position(self, position: str) -> None:
        model, units = backbone_of("resnet8"), units_of("resnet8")
        choices = {u.name: Choice.se(u.site(position).channels, 4, position=position, init="plain") for u in units}
        placement = Placement(choices=choices)
        traced = cost(insert_se(model, placement, input_shape=(1, 8, 8)), input_shape=(1, 8, 8))
        assert CostModel(model, units, (1, 8, 8))(placement) == traced

    def test_by_hand(self) -> None:
        """64 channels, 32 x 32 positions, 4 hidden: squeeze, two layers, hidden ReLU, gate, rescaling."""
        added = se_cost(64, (32, 32), Choice.se(64, 16, init="plain"))
        assert added == Cost(params=512, macs=65_536 + 512 + 4 + 64 + 65_536, activations=68)
        assert se_cost(64, (32, 32), Choice.se(64, 16, bias=True, init="plain")).params == 512 + 68
        nothing = Cost(params=0, macs=0, activations=0)
        assert se_cost(64, (32, 32), NONE) == se_cost(64, (32, 32), KEEP) == nothing

    def test_the_start_as_the_identity_costs_a_multiplication_for_each_channel(self) -> None:
        """No parameter and no activation: only the gate is doubled."""
        plain, new = (se_cost(64, (32, 32), choice) for choice in (Choice.se(64, 16, init="plain"), Choice.se(64, 16)))
        assert (new.params, new.activations, new.macs) == (plain.params, plain.activations, plain.macs + 64)

    def test_parameters_of_the_paper(self) -> None:
        """Section 4: 2/r times the sum of N C^2; ResNet-50 at r=16 gets 2,514,944."""
        stages = [(3, 256), (4, 512), (6, 1024), (3, 2048)]
        added = sum(n * se_cost(c, (7, 7), Choice.se(c, 16, init="plain")).params for n, c in stages)
        assert added == 2 * sum(n * c * c for n, c in stages) // 16 == 2_514_944
        assert 25_557_032 + added == 28_071_976
        biased = sum(n * se_cost(c, (7, 7), Choice.se(c, 16, bias=True, init="plain")).params for n, c in stages)
        assert 25_557_032 + biased == 28_088_024

    def test_the_table_has_the_cost_of_every_assignment_of_levels(self) -> None:
        """Also of those that only the reference has, which may not be proposed."""
        units = units_of("resnet8")
        space = Space(read_space({"reductions": ["none", 4], "position": ["standard", "pre"], "bias": True}), units)
        model_of_cost = CostModel(backbone_of("resnet8"), units, (1, 8, 8))
        table = model_of_cost.table(space)
        assert set(table) == set(EXACT)
        shape = tuple(len(values) for values in space.parameters.values())
        assert shape == (3, 2) * 3
        for at in itertools.product(*map(range, shape)):
            known = model_of_cost(space.placement(dict(zip(space.parameters, at, strict=True))))
            assert {name: values[at] for name, values in table.items()} == {
                name: getattr(known, name) for name in EXACT
            }  # fmt: skip

    def test_a_gate_with_scale_and_offset_costs_one_more_for_each(self) -> None:
        plain = Choice(kind="se", squeeze_channels=4)
        base = se_cost(64, (8, 8), plain)
        for scale, offset, more in ((1.0, 0.0, 0), (2.0, 0.0, 1), (1.0, 1.0, 1), (2.0, -0.5, 2)):
            found = se_cost(64, (8, 8), dataclasses.replace(plain, gate_scale=scale, gate_offset=offset))
            assert found == base + Cost(params=0, macs=64 * more, activations=0)
        assert se_cost(64, (8, 8), Choice(kind="keep", squeeze_channels=4)) == base - base
        assert base.times(3) == Cost(params=base.params, macs=3 * base.macs, activations=3 * base.activations)


class TestIndependent:
    @pytest.mark.parametrize("name", ["resnet8", "resnet20"])
    @pytest.mark.parametrize("reduction", [None, 8])
    def test_convolutions_and_linear_layers_are_half_of_torch_s_flops(self, name: str, reduction: int | None) -> None:
        shape = (3, 16, 16)
        model, units = backbone_of(name, shape), units_of(name, shape)
        choices = {u.name: Choice.se(u.sites[0].channels, reduction, init="plain") for u in units} if reduction else {}
        network = insert_se(model, Placement(choices=choices), input_shape=shape)
        macs, activations = by_modules(network, shape)
        assert flops(network, shape) == 2 * macs
        # The pool before the classifier: 64 channels of 4 x 4. Each block: squeeze, rescaling, hidden ReLU, gate.
        others = 64 * 16
        for unit in units if reduction else ():
            channels, (height, width) = unit.sites[0].channels, unit.sites[0].size
            others += 2 * channels * height * width + channels // reduction + channels
        counted = cost(network, input_shape=shape)
        assert counted.macs == macs + others
        assert counted.activations == activations

    def test_published_counts(self) -> None:
        """pytorchcv: ResNet-20 has 272,474 parameters, SE-ResNet-20 (r=16, biases) 274,847; pytorch-cifar-models:
        40.81 M multiply-adds."""
        shape = (3, 32, 32)
        model, units = backbone_of("resnet20", shape), units_of("resnet20", shape)
        model_of_cost = CostModel(model, units, shape)
        plain = model_of_cost(Placement(choices={}))
        with_se = model_of_cost(
            Placement(choices={u.name: Choice.se(u.sites[0].channels, 16, bias=True, init="plain") for u in units})
        )
        assert plain.params == 272_474
        assert with_se.params == 274_847
        macs, _ = by_modules(model, shape)
        assert round(macs / 1e6, 2) == 40.81

    def test_params_are_those_that_learn(self) -> None:
        model = backbone_of("resnet8")
        assert cost(model, input_shape=(1, 8, 8)).params == sum(p.numel() for p in model.parameters())
        model.fc.requires_grad_(requires_grad=False)
        assert cost(model, input_shape=(1, 8, 8)).params == 77_754 - 650


class Squeezed(nn.Module):
    """A convolution and an SE block, written in one of several ways."""

    def __init__(self, gate: Callable[[nn.Module, torch.Tensor], torch.Tensor], *, conv: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3)
        if conv:
            self.fc1: nn.Module = nn.Conv2d(16, 4, 1, bias=False)
            self.fc2: nn.Module = nn.Conv2d(4, 16, 1, bias=False)
        else:
            self.fc1, self.fc2 = nn.Linear(16, 4, bias=False), nn.Linear(4, 16, bias=False)
        self.gate = gate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        u = self.conv(x)
        return self.gate(self, u)


def _linear(self: nn.Module, u: torch.Tensor) -> torch.Tensor:
    s = torch.sigmoid(self.fc2(functional.relu(self.fc1(u.mean((2, 3))))))
    return u * s[:, :, None, None]


def _linear_expanded(self: nn.Module, u: torch.Tensor) -> torch.Tensor:
    s = self.fc2(self.fc1(u.flatten(2).mean(-1)).relu()).sigmoid()
    return u * s.view(-1, 16, 1, 1).expand_as(u)


def _conv(self: nn.Module, u: torch.Tensor) -> torch.Tensor:
    s = functional.adaptive_avg_pool2d(u, 1)
    return torch.sigmoid(self.fc2(functional.relu(self.fc1(s), inplace=True))) * u


def _conv_in_place(self: nn.Module, u: torch.Tensor) -> torch.Tensor:
    s = self.fc2(functional.relu(self.fc1(u.mean((2, 3), keepdim=True)))).sigmoid_()
    return u.mul_(s)


def _conv_hard(self: nn.Module, u: torch.Tensor) -> torch.Tensor:
    return u * functional.hardsigmoid(self.fc2(functional.relu(self.fc1(functional.adaptive_avg_pool2d(u, (1, 1))))))


@pytest.mark.parametrize(
    ("gate", "conv"),
    [(_linear, False), (_linear_expanded, False), (_conv, True), (_conv_in_place, True), (_conv_hard, True)],
    ids=lambda v: v.__name__.strip("_") if callable(v) else None,
)
def test_the_same_se_block_costs_the_same_however_it_is_written(
    gate: Callable[[nn.Module, torch.Tensor], torch.Tensor], conv: bool
) -> None:
    counted = cost(Squeezed(gate, conv=conv), input_shape=(3, 10, 10))
    block = se_cost(16, (8, 8), Choice.se(16, 4, init="plain"))
    assert counted == block + Cost(params=3 * 16 * 9 + 16, macs=3 * 16 * 9 * 64, activations=16 * 64)


@pytest.mark.parametrize(
    "layer",
    [nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.InstanceNorm2d(4), nn.LayerNorm([8, 8]), nn.ReLU(), nn.MaxPool2d(2),
     nn.AvgPool2d(2), nn.Dropout(), nn.Upsample(scale_factor=2), nn.Upsample(scale_factor=2, mode="bilinear")],
    ids=lambda layer: str(layer).partition("(")[0] + str(getattr(layer, "mode", "")),
)  # fmt: skip
def test_free_operations_are_free(layer: nn.Module) -> None:
    """The convention of the module: normalisation, activation, local pooling and resizing count nothing."""
    assert cost(nn.Sequential(nn.Conv2d(4, 4, 1, bias=False), layer), input_shape=(4, 8, 8)).macs == 4 * 4 * 64


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_a_convolution_with_padding_by_name_costs_what_it_costs_by_number(padding: str) -> None:
    by_name, by_number = (nn.Conv2d(3, 8, 3, padding=p) for p in (padding, 1 if padding == "same" else 0))
    side = 8 if padding == "same" else 6
    found = cost(by_name, input_shape=(3, 8, 8))
    assert found == cost(by_number, input_shape=(3, 8, 8))
    assert (found.macs, found.activations) == (3 * 8 * 9 * side**2, 8 * side**2)


def test_attention_is_two_matrix_products() -> None:
    """Two heads: three queries with seven keys of width 5, and the weights with values of width 10."""

    class Attention(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return functional.scaled_dot_product_attention(x[:, :, :3], x, torch.cat([x, x], 3))

    assert cost(Attention(), input_shape=(2, 7, 5)).macs == 2 * 3 * 7 * (5 + 10)


class TestErrors:
    def test_a_network_that_fails_is_told_with_its_own_words(self) -> None:
        with pytest.raises(CostError, match=r"cannot be traced on one image of shape \(5, 4, 4\): RuntimeError"):
            cost(nn.Conv2d(3, 4, 3), input_shape=(5, 4, 4))


@pytest.mark.parametrize("training", [True, False])
def test_the_network_is_left_alone(training: bool) -> None:
    model = backbone_of("resnet8").train(training)
    before = copy.deepcopy(model.state_dict())
    cost(model, input_shape=(1, 8, 8))
    assert model.training is training
    assert all(module.training is training for module in model.modules())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_exact_integers_by_name() -> None:
    counted = cost(backbone_of("resnet8"), input_shape=(1, 8, 8))
    values = counted.values()
    assert set(values) == set(EXACT) == {"gflops", "macs", "params", "activations"}
    assert all(value.kind == "exact" for value in values.values())
    assert all(isinstance(getattr(counted, name), int) for name in ("macs", "params", "activations"))
    assert values["gflops"].value == counted.macs / 1e9
    assert counted + counted - counted == counted


def test_double_precision_and_train_mode_cost_the_same() -> None:
    model = backbone_of("resnet8")
    assert cost(model, input_shape=(1, 8, 8)) == cost(model.eval().double(), input_shape=(1, 8, 8))
