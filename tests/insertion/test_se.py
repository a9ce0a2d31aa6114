"""The SE block against equations 2 to 4 written out by hand, and what inserting it leaves alone."""

from __future__ import annotations

import copy
import io
import itertools
import pickle

import numpy as np
import pytest
import torch
from helpers import backbone_of, units_of
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from se_nas.core.errors import SpaceError
from se_nas.core.placement import GATES, IDENTITY_GATES, KEEP, NONE, SQUEEZES, Choice, Placement, Site, Unit
from se_nas.core.trial import Target
from se_nas.insertion.block import SEBlock
from se_nas.insertion.insert import build_candidate, insert_block, insert_choices
from se_nas.space.search_space import insert_se

SHAPE = (1, 8, 8)
POSITIONS = ("standard", "pre", "post", "identity", "inner")


def by_hand(u: np.ndarray, block: SEBlock, choice: Choice) -> np.ndarray:
    """Equations 2 to 4 of arXiv 1709.01507 in double precision, one image and channel after the other."""
    w1, w2 = (layer.weight.detach().double().numpy() for layer in (block.fc1, block.fc2))
    b1, b2 = (
        np.zeros(len(layer.weight)) if layer.bias is None else layer.bias.detach().double().numpy()
        for layer in (block.fc1, block.fc2)
    )
    gates = {
        "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
        "hard_sigmoid": lambda x: np.clip(x / 6 + 0.5, 0, 1),
        "tanh": np.tanh,
        "relu": lambda x: np.maximum(x, 0),
    }
    out = np.empty_like(u)
    for n, image in enumerate(u):
        z = np.array([channel.max() if choice.squeeze == "max" else channel.sum() / channel.size for channel in image])
        s = choice.gate_offset + choice.gate_scale * gates[choice.gate](w2 @ np.maximum(w1 @ z + b1, 0) + b2)
        for c, channel in enumerate(image):
            out[n, c] = s[c] * channel
    return out


class TestBlock:
    @pytest.mark.parametrize(("gate", "squeeze"), list(itertools.product(GATES, ["avg", "max"])))
    @given(
        channels=st.integers(1, 24),
        reduction=st.sampled_from([1, 2, 4, 16]),
        bias=st.booleans(),
        rounding=st.sampled_from(["floor", "multiple_of_8"]),
        scale=st.sampled_from([1.0, 2.0, 0.5]),
        offset=st.sampled_from([0.0, 1.0, -0.25]),
        size=st.sampled_from([(1, 1), (5, 3), (4,), (2, 3, 4)]),
        seed=st.integers(0, 99),
    )
    def test_equals_equations_2_to_4(
        self, gate: str, squeeze: str, channels: int, reduction: int, bias: bool, rounding: str, scale: float,
        offset: float, size: tuple[int, ...], seed: int,
    ) -> None:  # fmt: skip
        try:
            choice = Choice.se(
                channels, reduction, gate=gate, squeeze=squeeze, bias=bias, rounding=rounding, gate_scale=scale,
                gate_offset=offset,
            )  # fmt: skip
        except SpaceError:
            assert channels < reduction
            return
        torch.manual_seed(seed)
        block = SEBlock(channels, choice)
        u = torch.randn(3, channels, *size)
        expected = by_hand(u.double().numpy(), block, choice)
        np.testing.assert_allclose(block(u).detach().numpy(), expected, rtol=2e-5, atol=2e-6)
        exact = block.double()(u.double()).detach().numpy()
        np.testing.assert_allclose(exact, expected, rtol=1e-12, atol=1e-13)

    def test_shapes_of_the_weights(self) -> None:
        block = SEBlock(64, Choice.se(64, 16))
        assert {name: tuple(p.shape) for name, p in block.named_parameters()} == {
            "fc1.weight": (4, 64),
            "fc2.weight": (64, 4),
        }
        biased = SEBlock(64, Choice.se(64, 16, bias=True))
        assert sum(p.numel() for p in biased.parameters()) == 512 + 68

    @pytest.mark.parametrize("gate", GATES)
    def test_identity_starts_as_the_identity_and_learns(self, gate: str) -> None:
        block = SEBlock(8, Choice.se(8, 2, gate=gate, init="identity", bias=True))
        u = torch.randn(4, 8, 5, 5)
        assert torch.equal(block(u), u)
        block(u).square().sum().backward()
        assert block.fc2.weight.grad is not None
        assert block.fc2.weight.grad.abs().sum() > 0
        assert (block.gate_scale, block.gate_offset) == IDENTITY_GATES[gate]

    @pytest.mark.parametrize("squeeze", SQUEEZES)
    @pytest.mark.parametrize(("gate", "bias"), [(g, b) for g in GATES for b in (True, False) if g != "relu" or b])
    def test_a_new_block_is_exactly_the_identity(self, gate: str, bias: bool, squeeze: str) -> None:
        """Nothing is asked for: bit by bit, and in float16 and bfloat16, too."""
        block = SEBlock(8, Choice.se(8, 2, gate=gate, bias=bias, squeeze=squeeze))
        for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
            u = torch.randn(4, 8, 5, 5).to(dtype)
            block = block.to(dtype)
            assert torch.equal(block.gates(u), torch.ones(4, 8, 1, 1, dtype=dtype))
            assert torch.equal(block(u), u)

    def test_a_plain_block_starts_near_a_half(self) -> None:
        gates = SEBlock(8, Choice.se(8, 2, init="plain")).gates(torch.randn(4, 8, 5, 5)).detach()
        assert 0.3 < float(gates.min()) < float(gates.max()) < 0.7

    @pytest.mark.parametrize("choice", [NONE, KEEP])
    def test_is_not_built_from_anything_else(self, choice: Choice) -> None:
        with pytest.raises(SpaceError, match=f"cannot be built from the choice '{choice.kind}'"):
            SEBlock(8, choice)


def everywhere(position: str = "standard", reduction: float = 4, **settings: object) -> Placement:
    units = units_of("resnet8")
    return Placement(
        choices={
            unit.name: Choice.se(
                unit.site(position).channels, reduction, position=position, **{"init": "plain"} | settings
            )
            for unit in units
        }
    )


class TestInsertion:
    @pytest.mark.parametrize("text", ["all:16", "layer1=4,layer3=8"])
    def test_by_a_text_the_output_stays_at_first(self, text: str) -> None:
        model = backbone_of("resnet8").eval()
        candidate = insert_se(model, text, input_shape=SHAPE).eval()
        images = torch.randn(3, *SHAPE)
        assert sum(isinstance(module, SEBlock) for module in candidate.modules()) == (3 if text == "all:16" else 2)
        assert torch.equal(candidate(images), model(images))

    @pytest.mark.parametrize("position", POSITIONS)
    def test_keys_of_the_backbone_stay(self, position: str) -> None:
        model = backbone_of("resnet8")
        candidate = insert_se(model, everywhere(position), input_shape=SHAPE)
        before, after = model.state_dict(), candidate.state_dict()
        assert [key for key in after if ".se_block" not in key] == list(before)
        for name, value in before.items():
            assert torch.equal(after[name], value)
        assert len(after) == len(before) + 3 * 2

    def test_none_is_bitwise_the_backbone(self) -> None:
        model = backbone_of("resnet8")
        candidate = insert_se(model, Placement(choices={u.name: NONE for u in units_of("resnet8")}), input_shape=SHAPE)
        assert [type(m) for m in candidate.modules()] == [type(m) for m in model.modules()]
        assert list(candidate.state_dict()) == list(model.state_dict())
        x = torch.randn(4, *SHAPE)
        assert torch.equal(candidate(x), model(x))

    def test_identity_blocks_change_nothing_at_the_start(self) -> None:
        model = backbone_of("resnet8").eval()
        candidate = insert_se(model, everywhere(init="identity"), input_shape=SHAPE).eval()
        x = torch.randn(4, *SHAPE)
        torch.testing.assert_close(candidate(x), model(x), rtol=1e-6, atol=1e-6)

    def test_the_network_is_left_alone(self) -> None:
        model = backbone_of("resnet8")
        before = list(model.state_dict())
        insert_se(model, everywhere(), input_shape=SHAPE)
        assert list(model.state_dict()) == before
        assert model.training

    @pytest.mark.parametrize("position", POSITIONS)
    def test_rescales_the_very_tensor_of_its_site(self, position: str) -> None:
        """A ResNet forward written by hand, with the SE block where figure 5 of the paper has it."""
        candidate = insert_se(backbone_of("resnet8"), everywhere(position), input_shape=SHAPE).eval()
        blocks = {n.partition(".se_block")[0]: m for n, m in candidate.named_modules() if isinstance(m, SEBlock)}
        plain = backbone_of("resnet8").eval()

        def se(path: str, u: torch.Tensor) -> torch.Tensor:
            (found,) = [block for name, block in blocks.items() if name in (path, f"{path}.1")]
            return found(u)

        x = torch.randn(2, *SHAPE)
        expected = functional.relu(plain.bn1(plain.conv1(x)))
        for name in ("layer1.0", "layer2.0", "layer3.0"):
            block = plain.get_submodule(name)
            u = expected
            branch = se(f"{name}.conv1", u) if position == "pre" else u
            branch = block.bn1(block.conv1(branch))
            branch = functional.relu(se(f"{name}.bn1", branch) if position == "inner" else branch)
            branch = block.bn2(block.conv2(branch))
            branch = se(f"{name}.bn2", branch) if position == "standard" else branch
            shortcut = block.shortcut(u)
            shortcut = se(f"{name}.shortcut", shortcut) if position == "identity" else shortcut
            expected = functional.relu(branch + shortcut)
            expected = se(name, expected) if position == "post" else expected
        expected = plain.fc(expected.mean((2, 3)))
        torch.testing.assert_close(candidate(x), expected)

    @pytest.mark.parametrize("position", POSITIONS)
    def test_trains_for_two_steps(self, position: str) -> None:
        candidate = insert_se(backbone_of("resnet8"), everywhere(position), input_shape=SHAPE).train()
        before = copy.deepcopy(dict(candidate.named_parameters()))
        optimizer = torch.optim.SGD(candidate.parameters(), lr=0.1)
        torch.manual_seed(0)
        x, y = torch.randn(8, *SHAPE), torch.arange(8)
        for _ in range(2):
            optimizer.zero_grad()
            functional.cross_entropy(candidate(x), y).backward()
            assert all(p.grad is not None and p.grad.isfinite().all() for p in candidate.parameters())
            optimizer.step()
        unchanged = [name for name, p in candidate.named_parameters() if torch.equal(p, before[name])]
        assert unchanged == []

    @pytest.mark.parametrize("position", POSITIONS)
    def test_deepcopy_pickle_and_torch_save(self, position: str) -> None:
        candidate = insert_se(backbone_of("resnet8"), everywhere(position), input_shape=SHAPE).eval()
        x = torch.randn(2, *SHAPE)
        expected = candidate(x)
        stream = io.BytesIO()
        torch.save(candidate, stream)
        stream.seek(0)
        copies = [
            copy.deepcopy(candidate),
            pickle.loads(pickle.dumps(candidate)),
            torch.load(stream, weights_only=False),
        ]
        for other in copies:
            assert torch.equal(other(x), expected)
            assert list(other.state_dict()) == list(candidate.state_dict())
        with torch.no_grad():
            copies[0].fc.bias.add_(1)
        assert torch.equal(candidate(x), expected)

    def test_state_dict_goes_from_candidate_to_candidate(self) -> None:
        one = insert_se(backbone_of("resnet8", seed=0), everywhere(), input_shape=SHAPE, seed=0).eval()
        two = insert_se(backbone_of("resnet8", seed=1), everywhere(), input_shape=SHAPE, seed=1).eval()
        x = torch.randn(2, *SHAPE)
        assert not torch.equal(one(x), two(x))
        two.load_state_dict(one.state_dict())
        assert torch.equal(one(x), two(x))

    def test_class_and_methods_of_a_rescaled_module_stay(self) -> None:
        candidate = insert_se(backbone_of("resnet8"), everywhere("post"), input_shape=SHAPE)
        plain = backbone_of("resnet8")
        assert isinstance(candidate.layer1[0], type(plain.layer1[0]))
        assert candidate.se_units() == plain.se_units()


@pytest.mark.parametrize("edge", ["input", "output"])
def test_a_sequential_would_run_the_block_as_a_layer_and_is_refused(edge: str) -> None:
    model = nn.Sequential(nn.Sequential(nn.Conv2d(8, 8, 3), nn.ReLU()), nn.Flatten())
    site = Site(unit="a", position="standard", module="0", channels=8, size=(4, 4), edge=edge)
    with pytest.raises(SpaceError, match="module '0' runs through its children") as caught:
        insert_block(model, site, Choice.se(8, 2, init="plain"), seed=0)
    assert "name the module inside it" in str(caught.value)
    assert len(model[0]) == 2


class TestStreams:
    def candidate(self, placement: Placement, seed: int = 0) -> nn.Module:
        return build_candidate(
            Target(target="resnet8"), units_of("resnet8"), placement, num_classes=10, input_shape=SHAPE, seed=seed
        )

    def test_same_seed_same_backbone_with_and_without_se(self) -> None:
        plain, with_se = self.candidate(Placement(choices={})), self.candidate(everywhere())
        for name, value in plain.state_dict().items():
            assert torch.equal(with_se.state_dict()[name], value), name
        other = self.candidate(Placement(choices={}), seed=1)
        assert not torch.equal(other.state_dict()["conv1.weight"], plain.state_dict()["conv1.weight"])

    def test_each_block_has_a_stream_of_its_own(self) -> None:
        all_of_them = self.candidate(everywhere())
        one = self.candidate(Placement(choices={"layer3.0": everywhere().choices["layer3.0"]}))
        name = "layer3.0.bn2.se_block.fc1.weight"
        assert torch.equal(one.state_dict()[name], all_of_them.state_dict()[name])
        other = self.candidate(everywhere(), seed=1)
        assert not torch.equal(other.state_dict()[name], all_of_them.state_dict()[name])

    def test_the_global_stream_is_left_alone(self) -> None:
        torch.manual_seed(5)
        expected = torch.rand(3)
        torch.manual_seed(5)
        self.candidate(everywhere())
        assert torch.equal(torch.rand(3), expected)


class TestErrors:
    def test_two_blocks_on_one_module(self) -> None:
        model = nn.Sequential(nn.Conv2d(3, 8, 1))
        site = Site(unit="a", position="standard", module="0", channels=8, size=(4, 4))
        insert_block(model, site, Choice.se(8, 2), seed=0)
        with pytest.raises(SpaceError, match="module '0' has an SE block already"):
            insert_block(model, site, Choice.se(8, 2), seed=0)

    def test_a_module_that_is_not_there(self) -> None:
        site = Site(unit="a", position="standard", module="1.bn", channels=8, size=(4, 4))
        with pytest.raises(SpaceError, match=r"unit 'a': the network has no module '1\.bn'"):
            insert_block(nn.Sequential(nn.Conv2d(3, 8, 1)), site, Choice.se(8, 2), seed=0)

    def test_a_placement_of_another_backbone(self) -> None:
        unit = Unit(name="a", stage="s", sites=())
        with pytest.raises(SpaceError) as caught:
            insert_choices(nn.Sequential(), (unit,), {"b": Choice.se(8, 2)}, seed=0)
        assert "the placement names unit 'b', which the backbone does not have" in str(caught.value)
        assert "allowed: a" in str(caught.value)
        assert "another backbone" in str(caught.value)

    def test_dtype_and_mode_follow_the_network(self) -> None:
        model = nn.Sequential(nn.Conv2d(3, 8, 1)).double().eval()
        site = Site(unit="a", position="standard", module="0", channels=8, size=(4, 4))
        insert_block(model, site, Choice.se(8, 2), seed=0)
        assert {p.dtype for p in model.parameters()} == {torch.float64}
        assert not any(module.training for module in model.modules())
        assert model(torch.zeros(1, 3, 4, 4, dtype=torch.float64)).shape == (1, 8, 4, 4)
