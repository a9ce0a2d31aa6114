"""What gates are on images: collected as the network computes them, and what becomes of it when they are fixed."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers import backbone_of, unit, units_of
from torch import Tensor, nn

from se_nas.core.placement import KEEP, Choice, Placement, Site, Unit
from se_nas.insertion.block import SEBlock, SEGate
from se_nas.insertion.gates import collect_gates, fixed_gates, gate_statistics, kept_blocks
from se_nas.insertion.insert import insert_choices

GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.randn(24, 1, 8, 8, generator=GENERATOR)


@pytest.fixture
def network() -> nn.Module:
    """resnet8 with SE in its first and last stage, whose gates look at the image."""
    network = backbone_of("resnet8")
    chosen = {u.name: Choice.se(u.chosen.channels, 4, init="plain") for u in units_of("resnet8") if u.stage != "stage2"}
    insert_choices(network, units_of("resnet8"), chosen, seed=0)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, SEBlock):
                module.fc2.weight.mul_(20.0)
    return network.eval()


class TestCollected:
    def test_are_those_of_the_forward_pass(self, network: nn.Module) -> None:
        """By another way: the block's input is caught, and equations 2 and 3 written out."""
        inputs: dict[str, Tensor] = {}
        for name, module in network.named_modules():
            if isinstance(module, SEBlock):
                module.register_forward_pre_hook(lambda _, args, name=name: inputs.update({name: args[0]}))
        gates = collect_gates(network, [IMAGES])
        assert list(gates) == ["layer1.0.bn2.se_block", "layer3.0.bn2.se_block"]
        for name, u in inputs.items():
            block = network.get_submodule(name)
            by_hand = torch.sigmoid(torch.relu(u.mean((2, 3)) @ block.fc1.weight.T) @ block.fc2.weight.T)
            torch.testing.assert_close(gates[name], by_hand)

    def test_batches_make_no_difference_and_the_network_stays_as_it_was(self, network: nn.Module) -> None:
        network.train()
        before = copy.deepcopy(network.state_dict())
        whole, parts = collect_gates(network, [IMAGES]), collect_gates(network, IMAGES.split(7))
        for name, values in whole.items():
            assert values.shape == (24, {"layer1": 16, "layer3": 64}[name[:6]])
            torch.testing.assert_close(parts[name], values)
        assert network.training
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
        assert not any(module._forward_hooks for module in network.modules())

    def test_a_failing_network_is_left_as_it_was(self, network: nn.Module) -> None:
        with pytest.raises(RuntimeError):
            collect_gates(network.train(), [torch.zeros(2, 5, 8, 8)])
        assert network.training
        assert not any(module._forward_hooks for module in network.modules())

    def test_a_network_without_se_has_none(self) -> None:
        assert collect_gates(backbone_of("resnet8"), [IMAGES]) == {}

    def test_a_block_that_runs_twice_is_there_twice(self) -> None:
        block = SEBlock(1, Choice.se(1, 1, init="plain"))
        with torch.no_grad():
            block.fc1.weight.fill_(1.0)
            block.fc2.weight.fill_(1.0)
        gates = collect_gates(nn.Sequential(block, block), [IMAGES.abs()])
        assert list(gates) == ["0", "0 (2)"]
        assert not torch.allclose(gates["0"], gates["0 (2)"])

    def test_statistics_are_over_images(self, network: nn.Module) -> None:
        for found in gate_statistics(gates := collect_gates(network, [IMAGES])):
            values = gates[found.block].double()
            torch.testing.assert_close(found.mean.double(), values.mean(0))
            torch.testing.assert_close(found.sd.double(), values.var(0, correction=0).sqrt())
            wanted = (values.var(0, correction=0).mean() / values.mean(0).square().mean()).sqrt()
            assert found.variation == pytest.approx(float(wanted), rel=1e-4)


class Theirs(nn.Module):
    """An SE block as a network may have it already: gives the rescaled tensor."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Linear(channels, channels)

    def gate(self, u: Tensor) -> Tensor:
        return torch.sigmoid(self.fc(u.mean((2, 3))))[:, :, None, None]

    def forward(self, u: Tensor) -> Tensor:
        return u * self.gate(u)


class TheirGate(Theirs):
    """One that gives only the gate."""

    def forward(self, u: Tensor) -> Tensor:
        return self.gate(u)


class Rescaled(nn.Module):
    """A network with an SE block of its own, of either kind."""

    def __init__(self, block: nn.Module, gate: bool) -> None:
        super().__init__()
        self.conv, self.block, self.gate = nn.Conv2d(1, 6, 3), block, gate

    def forward(self, images: Tensor) -> Tensor:
        u = self.conv(images)
        return u * self.block(u) if self.gate else self.block(u)


class Unseen(Theirs):
    """Its product is no multiplication of two tensors that could be seen."""

    def forward(self, u: Tensor) -> Tensor:
        return torch.einsum("nchw,nc->nchw", u, self.gate(u).flatten(1))


def silence(network: Rescaled, *, but_one: bool = False) -> None:
    """Zeros in channel 2 of what the block is given, but for one image."""
    with torch.no_grad():
        network.conv.weight[2].zero_()
        network.conv.bias[2].zero_()

    def speak(_: nn.Module, __: object, output: Tensor) -> None:
        if len(output) == len(IMAGES):
            output[5, 2] = 1.0

    if but_one:
        network.conv.register_forward_hook(speak)


class TestKept:
    @pytest.mark.parametrize("gate", [False, True])
    def test_gates_are_worked_out_from_what_goes_in_and_comes_out(self, gate: bool) -> None:
        torch.manual_seed(0)
        block = TheirGate(6) if gate else Theirs(6)
        network = Rescaled(block, gate).eval()
        kind = "gate" if gate else "block"
        found = collect_gates(network, [IMAGES], kept={"block": kind})["block"]
        with torch.no_grad():
            torch.testing.assert_close(found, block.gate(network.conv(IMAGES)).flatten(1))
            with fixed_gates(network, {"block": found}, kept={"block": kind}):
                output = network(IMAGES)
            torch.testing.assert_close(output, network.conv(IMAGES) * found.mean(0)[None, :, None, None])

    def test_of_a_channel_of_zeros_it_is_what_the_module_multiplies_by(self) -> None:
        network = Rescaled(Theirs(6), gate=False).eval()
        silence(network)
        found = collect_gates(network, [IMAGES], kept={"block": "block"})["block"]
        with torch.no_grad():
            torch.testing.assert_close(found, network.block.gate(network.conv(IMAGES)).flatten(1))

    def test_where_the_product_is_not_seen_a_channel_of_zeros_says_nothing(self) -> None:
        network = Rescaled(Unseen(6), gate=False).eval()
        silence(network, but_one=True)
        found = collect_gates(network, [IMAGES], kept={"block": "block"})["block"]
        with torch.no_grad():
            by_hand = network.block.gate(network.conv(IMAGES)).flatten(1)
        others = [0, 1, 3, 4, 5]
        torch.testing.assert_close(found[:, others], by_hand[:, others])
        torch.testing.assert_close(found[:, 2], by_hand[5, 2].expand(24))

    def test_which_they_are_says_the_placement(self) -> None:
        def with_block(name: str, edge: str) -> Unit:
            site = Site(unit=name, position="standard", module=f"{name}.se", channels=4, size=(4, 4), edge=edge)
            return Unit(name=name, stage="s", sites=(site,), existing=f"{name}.se")

        units = (with_block("a", "block"), with_block("b", "gate"), with_block("c", "inline"), unit("d"))
        choices = {"a": KEEP, "b": KEEP, "c": KEEP, "d": Choice.se(16, 4, init="plain")}
        assert kept_blocks(units, Placement(choices=choices)) == {"a.se": "block", "b.se": "gate"}
        assert kept_blocks(units, Placement(choices={**choices, "a": Choice.se(4, 2, init="plain")})) == {
            "b.se": "gate"
        }


class TestFixed:
    def test_at_their_mean_every_image_is_rescaled_alike(self, network: nn.Module) -> None:
        gates = collect_gates(network, [IMAGES])
        with torch.no_grad():
            before = network(IMAGES)
            with fixed_gates(network, gates):
                fixed = network(IMAGES)
                again = collect_gates(network, [IMAGES])
            after = network(IMAGES)
        assert torch.equal(before, after)
        assert not torch.allclose(before, fixed, atol=1e-3)
        # What a block computes is still seen: only what the network does with it is fixed.
        assert not torch.allclose(again["layer1.0.bn2.se_block"].std(0), torch.zeros(16))

    def test_of_constant_gates_nothing_changes(self, network: nn.Module) -> None:
        with torch.no_grad():
            for module in network.modules():
                if isinstance(module, SEBlock):
                    module.fc2.weight.zero_()
            before = network(IMAGES)
            with fixed_gates(network, collect_gates(network, [IMAGES])):
                torch.testing.assert_close(network(IMAGES), before)

    def test_some_blocks_alone_can_be_fixed(self, network: nn.Module) -> None:
        gates = collect_gates(network, [IMAGES])
        with torch.no_grad():
            outputs = []
            for names in (list(gates)[:1], list(gates)[1:], list(gates)):
                with fixed_gates(network, {name: gates[name] for name in names}):
                    outputs.append(network(IMAGES))
        assert not torch.allclose(outputs[0], outputs[1])
        assert not torch.allclose(outputs[0], outputs[2])

    def test_a_gate_alone_on_one_pixel_is_no_rescaled_tensor(self) -> None:
        """There the gate has the shape of the tensor."""
        gate = SEGate(6, Choice.se(6, 2, init="plain")).eval()

        class Net(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.gate = gate

            def forward(self, u: Tensor) -> Tensor:
                return u * self.gate(u)

        network, pixels = Net(), torch.randn(9, 6, 1, 1, generator=torch.Generator().manual_seed(1))
        gates = collect_gates(network, [pixels])
        with torch.no_grad(), fixed_gates(network, gates):
            torch.testing.assert_close(network(pixels), pixels * gates["gate"].mean(0)[None, :, None, None])
