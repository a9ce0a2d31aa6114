"""The shared network against the candidates themselves: outputs, gradients, fifty training steps, and the way back."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from helpers import DIGITS
from torch import Tensor, nn
from torch.nn import functional

from se_nas.backbones.build import build_backbone
from se_nas.core.errors import SpaceError
from se_nas.core.placement import KEEP, Choice, Placement
from se_nas.core.trial import Recipe, Target
from se_nas.insertion.discover import units_of
from se_nas.insertion.insert import build_candidate
from se_nas.space.space import Space
from se_nas.space.spec import read_space
from se_nas.training.classification import make_optimizer, make_schedule
from se_nas.training.supernet import SharedNetwork, SharedSEBlock, widest_choices

STEPS = 50
SGD = Recipe()
ADAMW = Recipe(optimizer="adamw", lr=1e-3, weight_decay=0.05)
EVERYTHING = {
    "reductions": ["none", 16, 4],
    "gate": ["sigmoid", "hard_sigmoid", "tanh", "relu"],
    "squeeze": ["avg", "max"],
    "position": ["standard", "pre", "post", "identity"],
    "bias": True,
}


class Case:
    """A backbone with its space and its shared network."""

    def __init__(self, name: str, space: Any = "stagewise", shape: tuple[int, ...] = DIGITS) -> None:
        self.target, self.shape = Target(target=name), shape
        spec = read_space(space)
        self.units = units_of(self.backbone(), shape, spec.units)
        self.space = Space(spec, self.units)
        self.shared = SharedNetwork(self.backbone(), self.units, widest_choices(self.space))

    def backbone(self) -> nn.Module:
        return build_backbone(self.target, num_classes=10, input_shape=self.shape, seed=0)

    def candidate(self, placement: Placement, seed: int = 1) -> nn.Module:
        return build_candidate(self.target, self.units, placement, num_classes=10, input_shape=self.shape, seed=seed)

    def levels(self, **named: int) -> Placement:
        """A placement by levels; what is not named has level 1."""
        return self.space.placement({name: named.get(name.replace(".", "_"), 1) for name in self.space.parameters})


def batches(case: Case, dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        (
            torch.randn(4, *case.shape, generator=generator, dtype=torch.float64).to(dtype),
            torch.randint(0, 10, (4,), generator=generator),
        )
        for _ in range(STEPS)
    ]


def trained(network: nn.Module, data: list[tuple[Tensor, Tensor]], recipe: Recipe, *, fused: bool) -> list[float]:
    """Losses of a training as the classification task does it."""
    optimizer = make_optimizer(network, recipe, fused=fused)
    schedule = make_schedule(optimizer, recipe, len(data))
    network.train()
    losses = []
    for images, labels in data:
        loss = functional.cross_entropy(network(images), labels, label_smoothing=recipe.label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
    return losses


def difference(a: nn.Module, b: nn.Module) -> float:
    assert a.state_dict().keys() == b.state_dict().keys()
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return max(float((x.double() - y.double()).abs().max()) for x, y in pairs)


def check_training(case: Case, placement: Placement, recipe: Recipe, *, fused: bool) -> None:
    """Fifty steps in float64, where rounding cannot hide a mistake."""
    candidate = case.candidate(placement).double()
    shared = copy.deepcopy(case.shared).double()
    assert shared.fits(placement)
    shared.take(candidate, placement)
    data = batches(case, torch.float64)
    expected = trained(candidate, data, recipe, fused=fused)
    assert trained(shared, data, recipe, fused=fused) == pytest.approx(expected, abs=1e-9)
    sliced = case.candidate(placement, seed=7).double()
    shared.give(sliced, placement)
    assert difference(candidate, sliced) < 1e-9
    images = data[0][0]
    for network in (candidate, sliced, shared):
        network.eval()
    with torch.no_grad():
        assert float((candidate(images) - sliced(images)).abs().max()) < 1e-9
        assert float((shared(images) - sliced(images)).abs().max()) < 1e-12


class TestFiftySteps:
    @pytest.mark.parametrize(("recipe", "fused"), [(SGD, True), (SGD, False), (ADAMW, True)])
    def test_equal_the_true_candidate(self, recipe: Recipe, fused: bool) -> None:
        case = Case("resnet8")
        check_training(case, case.levels(stage1_reduction=0, stage3_reduction=3), recipe, fused=fused)

    @pytest.mark.parametrize("placement", ["none", "all:16"])
    def test_of_every_kind_of_placement(self, placement: str) -> None:
        case = Case("resnet8")
        check_training(case, case.space.parse(placement), SGD, fused=True)

    def test_of_a_deeper_network(self) -> None:
        case = Case("resnet20")
        check_training(case, case.space.parse("stage2=8,stage3=16"), SGD, fused=True)

    @pytest.mark.parametrize("level", range(2))
    def test_with_searched_positions_gates_and_squeezes(self, level: int) -> None:
        case = Case("resnet8", EVERYTHING)
        settings = {
            f"stage{stage}_{setting}": (2 * level + stage) % len(case.space.parameters[f"stage{stage}.{setting}"])
            for stage in (1, 2, 3)
            for setting in ("position", "gate", "squeeze")
        }
        check_training(case, case.levels(stage2_reduction=2, **settings), ADAMW, fused=True)

    @pytest.mark.parametrize("name", ["preresnet20_cifar10", "seresnet20_cifar10"])
    def test_of_a_library_network_with_and_without_own_blocks(self, name: str) -> None:
        pytest.importorskip("pytorchcv")
        case = Case(f"pytorchcv:{name}", {"reductions": ["none", 16, 4]}, (3, 8, 8))
        check_training(case, case.levels(stage1_reduction=0), SGD, fused=True)

    def test_one_after_the_other_leave_no_trace(self) -> None:
        case = Case("resnet8")
        data = batches(case, torch.float32)[:3]
        first, second = case.space.parse("all:4"), case.space.parse("stage2=16")

        def run(shared: SharedNetwork) -> nn.Module:
            candidate = case.candidate(second)
            shared.take(candidate, second)
            trained(shared, data, SGD, fused=True)
            shared.give(candidate, second)
            return candidate

        fresh = run(copy.deepcopy(case.shared))
        case.shared.take(case.candidate(first), first)
        trained(case.shared, data, SGD, fused=True)
        case.shared.eval()
        assert difference(run(case.shared), fresh) == 0

    def test_in_float32_differ_no_more_than_by_rounding(self) -> None:
        """Training amplifies rounding; the yardstick is the candidate with one weight changed in its last bit."""
        case = Case("resnet8")
        placement = case.space.parse("stage1=8,stage3=4")
        data = batches(case, torch.float32)
        candidate, nudged = case.candidate(placement), case.candidate(placement)
        case.shared.take(candidate, placement)
        with torch.no_grad():
            weight = next(nudged.parameters()).view(-1)
            weight[0] = torch.nextafter(weight[0], torch.tensor(10.0))
        expected, by_shared, by_nudge = (
            trained(network, data, SGD, fused=True) for network in (candidate, case.shared, nudged)
        )
        assert by_shared[:2] == pytest.approx(expected[:2], rel=1e-5)
        own = max(abs(a - b) for a, b in zip(by_shared, expected, strict=True))
        yardstick = max(abs(a - b) for a, b in zip(by_nudge, expected, strict=True))
        assert own < 20 * yardstick


class TestBlock:
    CHOICES = (Choice.se(16, 4.0, bias=True), Choice.se(16, 8.0, gate="relu", squeeze="max", bias=True))

    def test_masked_weights_get_no_gradient_and_no_effect(self) -> None:
        torch.manual_seed(0)
        block = SharedSEBlock(16, self.CHOICES[:1])
        block.choose(Choice.se(16, 8.0, bias=True))
        for parameter in block.parameters():
            torch.nn.init.normal_(parameter)  # were they not zero, the mask would still hold
        u = torch.randn(3, 16, 5, 5)
        before = block(u)
        before.square().sum().backward()
        gradients = {name: p.grad for name, p in block.named_parameters()}
        assert gradients["fc1.weight"][2:].abs().max() == 0 < gradients["fc1.weight"][:2].abs().max()
        assert gradients["fc2.weight"][:, 2:].abs().max() == 0 < gradients["fc2.weight"][:, :2].abs().max()
        assert gradients["fc1.bias"][2:].abs().max() == 0
        with torch.no_grad():
            block.fc1.weight[2:] += 5
            block.fc2.weight[:, 2:] -= 5
            assert torch.equal(block(u), before)

    def test_off_it_is_nothing(self) -> None:
        block = SharedSEBlock(16, self.CHOICES)
        block.choose(None)
        u = torch.randn(3, 16, 5, 5, requires_grad=True)
        output = block(u)
        assert torch.equal(output, u)
        output.sum().backward()
        assert torch.equal(u.grad, torch.ones_like(u))
        assert all(p.grad.abs().max() == 0 for p in block.parameters())

    def test_fits_what_it_is_wide_enough_for(self) -> None:
        block = SharedSEBlock(16, self.CHOICES)
        assert block.fits(Choice.se(16, 16.0, bias=True))
        assert not block.fits(Choice.se(16, 2.0, bias=True))
        assert not block.fits(Choice.se(16, 16.0, gate="tanh", bias=True))
        assert not block.fits(Choice.se(16, 4.0, gate="relu", squeeze="max", bias=True))  # offered at r = 8 only


class TestNetwork:
    def test_keeping_a_block_is_no_matter_of_masks(self) -> None:
        case = Case("resnet8")
        assert not case.shared.fits(Placement(choices={case.units[0].name: KEEP}))
        assert not case.shared.fits(case.space.parse("stage1=2"))
        assert not case.shared.fits(Placement(choices={"elsewhere": Choice.se(16, 4.0)}))

    def test_stays_where_it_is(self) -> None:
        shared = Case("resnet8").shared
        shared.settle(torch.device("cpu"), channels_last=False)
        before = [p.data_ptr() for p in shared.parameters()]
        holder = nn.Sequential(shared)
        holder.to(torch.float64)
        holder.to("meta")
        assert [p.data_ptr() for p in shared.parameters()] == before
        assert {p.dtype for p in shared.parameters()} == {torch.float32}

    def test_a_faster_call_is_for_training_batches_of_one_shape(self) -> None:
        case = Case("resnet8")
        calls = []

        def call(images: Tensor) -> Tensor:
            calls.append(tuple(images.shape))
            return case.shared.network(images)

        case.shared.speed_up((4, *DIGITS), call)
        case.shared.train()
        case.shared(torch.randn(4, *DIGITS))
        case.shared(torch.randn(2, *DIGITS))
        with torch.no_grad():
            case.shared(torch.randn(4, *DIGITS))
        case.shared.eval()
        case.shared(torch.randn(4, *DIGITS))
        assert calls == [(4, *DIGITS)]

    def test_another_network_is_refused(self) -> None:
        case, other = Case("resnet8"), Case("resnet14")
        placement = case.space.baseline
        with pytest.raises(SpaceError, match="the candidate has"):
            case.shared.take(other.candidate(other.space.baseline), placement)
        with pytest.raises(SpaceError, match="which the candidate lacks"):
            case.shared.take(case.candidate(placement), case.space.parse("all:4"))

    def test_shows_what_the_network_has(self) -> None:
        case = Case("resnet8")
        name = next(iter(dict(case.shared.network.named_children())))
        assert getattr(case.shared, name) is getattr(case.shared.network, name)
        with pytest.raises(AttributeError):
            _ = case.shared.nothing_like_it
