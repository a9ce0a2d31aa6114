"""Blocks other than SE: each against timm's layer or its equations, its cost against a trace, where it may stand."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import timm.layers
import torch
from helpers import backbone_of, units_of
from hypothesis import given
from hypothesis import strategies as st
from timm.layers.cbam import CbamModule
from timm.layers.coord_attn import CoordAttn
from torch import Tensor, nn

from se_nas.core.blocks import BLOCKS
from se_nas.core.errors import BackboneError, SpaceError
from se_nas.core.placement import Choice, Placement, Site, Unit
from se_nas.insertion.attention.base import Attention, ChannelGate
from se_nas.insertion.attention.build import Gate, build_block, gives_gates
from se_nas.insertion.discover import find_units
from se_nas.insertion.folding import fold_gates
from se_nas.insertion.gates import collect_gates, fixed_gates
from se_nas.insertion.se_blocks import watchable
from se_nas.space.exact_cost import CostModel, cost, se_cost
from se_nas.space.search_space import insert
from se_nas.space.space import Space
from se_nas.space.spec import read_space

OTHERS = [name for name in BLOCKS if name != "se"]
GATES = [name for name in OTHERS if BLOCKS[name].gate]
SHAPE = (1, 8, 8)
SIZES = [(7, 5), (9,), (4, 3, 2), (1, 1), (1, 6), (5, 1)]


def site_of(channels: int, size: tuple[int, ...], **more: Any) -> Site:
    return Site(unit="u", position="standard", module="m", channels=channels, size=size, **more)


def block_of(name: str, channels: int = 12, size: tuple[int, ...] = (7, 5), **settings: Any) -> Attention:
    block = build_block(site_of(channels, size), Choice.se(channels, 4, block=name, **settings))
    assert isinstance(block, Attention)
    return block


def lively(module: nn.Module) -> nn.Module:
    """The module in eval mode with random weights and statistics, so that nothing is 0 or 1 by its start."""
    generator = torch.Generator().manual_seed(1)
    for parameter in module.parameters():
        parameter.data.normal_(0, 0.7, generator=generator)
    for name, buffer in module.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0, 0.3, generator=generator)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 2, generator=generator)
    return module.eval()


def with_weights_of(theirs: nn.Module, ours: nn.Module, names: dict[str, str]) -> nn.Module:
    """Their module with our weights; `names` are theirs by ours, up to the part after the last dot."""
    state = theirs.state_dict()
    for key, value in ours.state_dict().items():
        stem, _, end = key.rpartition(".")
        name = f"{names[stem]}.{end}"
        state[name] = value.reshape(state[name].shape)
    theirs.load_state_dict(state)
    return theirs.eval()


def gct_by_hand(ours: Any) -> Callable[[Tensor], Tensor]:
    def apply(u: Tensor) -> Tensor:
        out = torch.empty_like(u)
        for n in range(len(u)):
            s = [ours.alpha[c] * (u[n, c].pow(2).sum() + 1e-5).sqrt() for c in range(u.shape[1])]
            spread = torch.stack([x**2 for x in s]).sum() / len(s)
            for c in range(u.shape[1]):
                out[n, c] = u[n, c] * (1 + torch.tanh(ours.gamma[c] * s[c] / (spread + 1e-5).sqrt() + ours.beta[c]))
        return out

    return apply


def srm_by_hand(ours: Any) -> Callable[[Tensor], Tensor]:
    def apply(u: Tensor) -> Tensor:
        out = torch.empty_like(u)
        for n in range(len(u)):
            for c in range(u.shape[1]):
                mean = u[n, c].sum() / u[n, c].numel()
                sd = (((u[n, c] - mean) ** 2).sum() / u[n, c].numel() + 1e-5).sqrt()
                z = ours.of_mean[c] * mean + ours.of_sd[c] * sd
                norm = ours.norm
                z = (z - norm.running_mean[c]) / (norm.running_var[c] + norm.eps).sqrt() * norm.weight[c] + norm.bias[c]
                out[n, c] = u[n, c] / (1 + torch.exp(-z))
        return out

    return apply


def simam_by_hand(_: Any) -> Callable[[Tensor], Tensor]:
    """Equation 5: the inverse of the energy of each number, with the variance of its channel."""

    def apply(u: Tensor) -> Tensor:
        out = torch.empty_like(u)
        for n in range(len(u)):
            for c in range(u.shape[1]):
                x = u[n, c]
                variance = ((x - x.mean()) ** 2).sum() / (x.numel() - 1)
                energy = 4 * (variance + 1e-4) / ((x - x.mean()) ** 2 + 2 * variance + 2 * 1e-4)
                out[n, c] = x / (1 + torch.exp(-1 / energy))
        return out

    return apply


def scse_by_hand(ours: Any) -> Callable[[Tensor], Tensor]:
    def apply(u: Tensor) -> Tensor:
        hidden = torch.relu(torch.einsum("sc,nchw->ns", ours.fc1.weight, u) / (u.shape[2] * u.shape[3]))
        channel = torch.sigmoid(torch.einsum("cs,ns->nc", ours.fc2.weight, hidden))
        position = torch.sigmoid(torch.einsum("c,nchw->nhw", ours.conv.weight.flatten(), u))
        return channel[:, :, None, None] * u + position[:, None] * u

    return apply


def global_context() -> Any:
    """timm's, with the layer norm of the paper's code (torch's default), whose epsilon is 1e-5, not timm's 1e-6."""
    block = timm.layers.GlobalContext(12, rd_channels=3, fuse_add=True, fuse_scale=False)
    block.mlp_add.norm.eps = 1e-5
    return block


REFERENCES: dict[str, Callable[[Any], Any]] = {
    "se": lambda o: with_weights_of(
        timm.layers.SEModule(12, rd_channels=3, bias=False), o, {"fc1": "fc1", "fc2": "fc2"}
    ),
    "ese": lambda o: with_weights_of(timm.layers.EffectiveSEModule(12), o, {"fc": "fc"}),
    "eca": lambda o: with_weights_of(timm.layers.EcaModule(12), o, {"conv": "conv"}),
    "ge": lambda o: timm.layers.GatherExcite(12, use_mlp=False),
    "gct": gct_by_hand,
    "srm": srm_by_hand,
    "simam": simam_by_hand,
    "cbam": lambda o: with_weights_of(
        CbamModule(12, rd_channels=3), o,
        {"fc1": "channel.fc1", "fc2": "channel.fc2", "conv": "spatial.conv.conv", "norm": "spatial.conv.bn"},
    ),
    "gc": lambda o: with_weights_of(
        global_context(), o,
        {"key": "conv_attn", "fc1": "mlp_add.fc1", "norm": "mlp_add.norm", "fc2": "mlp_add.fc2"},
    ),
    "scse": scse_by_hand,
    "coord": lambda o: with_weights_of(
        CoordAttn(12, rd_channels=3), o, {"conv": "conv1", "norm": "bn1", "conv_h": "conv_h", "conv_w": "conv_w"}
    ),
}  # fmt: skip


class TestReferences:
    @pytest.mark.parametrize("name", BLOCKS)
    def test_equals_its_reference(self, name: str) -> None:
        ours = lively(build_block(site_of(12, (7, 5)), Choice.se(12, 4, block=name, init="plain")))
        theirs = REFERENCES[name](ours)
        u = torch.randn(3, 12, 7, 5, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            torch.testing.assert_close(ours(u), theirs(u), rtol=2e-5, atol=2e-5)
            assert (ours(u) - u).abs().max() > 0.1

    @given(channels=st.integers(1, 5000))
    def test_the_kernel_of_eca_is_timms(self, channels: int) -> None:
        assert block_of("eca", channels).conv.kernel_size == timm.layers.EcaModule(channels).conv.kernel_size

    @pytest.mark.parametrize("name", [name for name in OTHERS if 1 in BLOCKS[name].sizes])
    def test_axes_of_one_pixel_change_nothing(self, name: str) -> None:
        """In one and three dimensions a block is what it is in two."""
        plane = lively(block_of(name, size=(7, 1), init="plain"))
        u = torch.randn(2, 12, 7, generator=torch.Generator().manual_seed(0))
        for size in ((7,), (7, 1, 1)):
            other = lively(block_of(name, size=size, init="plain"))
            for mine, given_ in zip(other.parameters(), plane.parameters(), strict=True):
                if mine.shape == given_.shape:
                    mine.data.copy_(given_)
                elif mine.dim() == 3:
                    mine.data.copy_(given_[..., 0] if given_.shape[-1] == 1 else given_[..., 3])
                else:
                    mine.data.zero_()[:, :, :, :, given_.shape[-1] // 2] = given_
            for mine, given_ in zip(other.buffers(), plane.buffers(), strict=True):
                mine.data.copy_(given_)
            torch.testing.assert_close(
                other(u.reshape(2, 12, *size)).flatten(), plane(u.reshape(2, 12, 7, 1)).flatten()
            )


class TestStart:
    @pytest.mark.parametrize("size", SIZES)
    @pytest.mark.parametrize("name", OTHERS)
    def test_starts_as_the_identity_where_it_says_so_and_learns(self, name: str, size: tuple[int, ...]) -> None:
        if len(size) not in BLOCKS[name].sizes:
            return
        block = block_of(name, size=size).train()
        u = torch.randn(4, 12, *size, requires_grad=True)
        out = block(u)
        assert out.shape == u.shape
        if BLOCKS[name].identity or BLOCKS[name].own_identity:
            assert torch.equal(out, u)
        else:
            assert not torch.allclose(out, u)
        (out * torch.randn_like(out)).sum().backward()
        moved = [p for p in block.parameters() if p.grad is not None and p.grad.abs().sum() > 0]
        assert bool(moved) == any(True for _ in block.parameters())

    def test_the_table_says_which_settings_a_block_has(self) -> None:
        given_ = {"gate": "tanh", "squeeze": "max", "bias": True, "rounding": "multiple_of_8"}
        assert Choice.se(64, 16, block="eca", **given_) == Choice.se(64, 4, block="eca")
        assert Choice.se(64, 16, block="cbam", **given_).squeeze_channels == 8
        assert Choice.se(64, 16, block="simam", init="identity").init == "plain"
        assert Choice.se(64, 16, block="eca").label == "eca"


class TestCost:
    @pytest.mark.parametrize("init", ["identity", "plain"])
    @pytest.mark.parametrize("size", SIZES)
    @pytest.mark.parametrize("name", OTHERS)
    def test_the_closed_form_is_the_trace(self, name: str, size: tuple[int, ...], init: str) -> None:
        if len(size) not in BLOCKS[name].sizes:
            return
        for channels in (5, 70):
            choice = Choice.se(channels, 4, block=name, init=init)
            block = build_block(site_of(channels, size), choice)
            assert se_cost(channels, size, choice) == cost(block, input_shape=(channels, *size))

    @pytest.mark.parametrize("name", OTHERS)
    def test_in_a_network(self, name: str) -> None:
        model, units = backbone_of("resnet8"), units_of("resnet8")
        placement = Placement(choices={u.name: Choice.se(u.chosen.channels, 4, block=name) for u in units})
        whole = cost(insert(model, placement, input_shape=SHAPE), input_shape=SHAPE)
        assert CostModel(model, units, SHAPE)(placement) == whole


def lively_in(name: str, text: str = "all:4") -> nn.Module:
    """resnet8 with lively blocks of a kind."""
    label = f"{text}:{name}" if BLOCKS[name].width else text.replace("4", name)
    network = insert(backbone_of("resnet8"), label, input_shape=SHAPE)
    for module in network.modules():
        if isinstance(module, Attention):
            lively(module)
    return network.eval()


class TestInNetworks:
    @pytest.mark.parametrize("name", OTHERS)
    def test_goes_through_copies_and_state_dicts(self, name: str) -> None:
        network = lively_in(name)
        images = torch.randn(2, *SHAPE)
        assert sum(isinstance(module, Attention) for module in network.modules()) == 3
        for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
            assert torch.equal(other(images), network(images))
        assert not torch.equal(network(images), backbone_of("resnet8").eval()(images))

    @pytest.mark.parametrize("name", GATES)
    def test_gates_are_seen_fixed_and_folded(self, name: str) -> None:
        network = lively_in(name)
        images = torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(0))
        seen = watchable(network, SHAPE)
        gates = collect_gates(seen.network, [images], kept=seen.kinds)
        own = {path: module for path, module in network.named_modules() if isinstance(module, ChannelGate)}
        assert list(gates) == list(own) == [block.module for block in seen.blocks]
        with torch.no_grad(), fixed_gates(seen.network, gates, kept=seen.kinds):
            frozen = seen.network(images)
        folded, folds = fold_gates(network, {path: values.mean(0) for path, values in gates.items()}, SHAPE)
        assert all(fold.into for fold in folds)
        assert not any(isinstance(module, ChannelGate) for module in folded.modules())
        torch.testing.assert_close(folded(images), frozen, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("name", sorted(set(OTHERS) - set(GATES)))
    def test_what_is_no_gate_is_named_and_left(self, name: str) -> None:
        network = lively_in(name)
        with pytest.raises(BackboneError, match="gives no gate for each channel"):
            watchable(network, SHAPE)
        label = f"stage1=4,stage2={f'4:{name}' if BLOCKS[name].width else name}"
        both = insert(backbone_of("resnet8"), label, input_shape=SHAPE)
        found = watchable(both, SHAPE)
        assert len(found.blocks) == 1
        ((path, reason),) = found.others
        assert isinstance(both.get_submodule(path), Attention)
        assert "does not give one gate for each channel" in reason

    @pytest.mark.parametrize("name", OTHERS)
    def test_a_network_with_blocks_has_the_units_of_before(self, name: str) -> None:
        network = lively_in(name)
        assert [unit.name for unit in find_units(network, SHAPE)] == [unit.name for unit in units_of("resnet8")]


class _GateOnly(nn.Module):
    """A network that multiplies by a gate module itself, as MobileNet's does in some libraries."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1)
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(16, 4, 1), nn.ReLU(), nn.Conv2d(4, 16, 1), nn.Sigmoid()
        )
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.fc((x * self.gate(x)).relu().mean((2, 3)))


class TestWhereItMayStand:
    @pytest.mark.parametrize("name", OTHERS)
    def test_a_site_that_wants_a_gate(self, name: str) -> None:
        model, shape = _GateOnly(), (3, 8, 8)
        (unit,) = find_units(model, shape)
        assert unit.chosen.edge == "gate"
        choice = Choice.se(16, 4, block=name)
        if not BLOCKS[name].gate:
            with pytest.raises(SpaceError, match="does not give one gate for each channel"):
                insert(model, Placement(choices={unit.name: choice}), input_shape=shape)
            with pytest.raises(SpaceError, match="does not give one gate for each channel"):
                Space(read_space({"reductions": ["none", 4], "blocks": ["se", name]}), (unit,))
            return
        placement = Placement(choices={unit.name: choice})
        network = insert(model, placement, input_shape=shape).eval()
        (block,) = [module for module in network.modules() if isinstance(module, Gate)]
        assert gives_gates(block)
        x = torch.randn(2, *shape)
        u = network.conv(x)
        expected = network.fc((u * block.gates(u)).relu().mean((2, 3)))
        assert torch.equal(network(x), expected)
        assert CostModel(model, (unit,), shape)(placement) == cost(network, input_shape=shape)
        assert list(collect_gates(network, [x])) == [block.path for block in watchable(network, shape).blocks]

    def test_coordinates_need_two_axes(self) -> None:
        unit = Unit(name="u", stage="stage1", sites=(site_of(16, (9,)),))
        with pytest.raises(SpaceError, match="coordinate attention needs 2 spatial axes, and unit 'u' has 1"):
            Space(read_space({"reductions": ["none", 4], "blocks": ["coord"]}), (unit,))
        with pytest.raises(SpaceError, match="needs 2 spatial axes"):
            build_block(site_of(16, (9,)), Choice.se(16, 4, block="coord"))

    def test_a_block_without_a_width_takes_none(self) -> None:
        with pytest.raises(SpaceError, match="ECA has no hidden width, and is given 3 channels"):
            Choice(kind="se", block="eca", squeeze_channels=3)
        with pytest.raises(SpaceError, match="block is 'eac'"):
            Choice.se(16, 4, block="eac")
        assert math.isclose(Choice.se(16, 4, block="scse").reduction or 0, 4)
