"""What SE blocks do, of networks whose answer is known: by construction, by hand, and by other ways to the same."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import networks
import numpy as np
import pytest
import torch
from helpers import backbone_of, units_of
from torch import Tensor, nn
from torch.nn import functional

import se_nas
from se_nas.analysis.class_share import expected_share
from se_nas.analysis.explanation import Explanation
from se_nas.core.errors import BackboneError, DataError
from se_nas.core.placement import Choice, Site
from se_nas.insertion.attention.build import build_block
from se_nas.insertion.block import GATE_FUNCTIONS, SEBlock
from se_nas.insertion.gates import collect_gates
from se_nas.insertion.insert import insert_choices
from se_nas.insertion.se_blocks import watchable
from se_nas.space.exact_cost import CostModel

CLASSES = 4


class Classifier(nn.Module):
    """Logits from images by way of one SE block (identity where there is none): channels are averaged and weighed."""

    def __init__(self, block: nn.Module, channels: int = CLASSES) -> None:
        super().__init__()
        self.block, self.out = block, nn.Linear(channels, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return self.out(self.block(images).mean((2, 3)))


def se(channels: int = CLASSES, seed: int = 0, **settings: Any) -> SEBlock:
    torch.manual_seed(seed)
    return SEBlock(channels, Choice.se(channels, 2, init="plain", **settings))


def images_of(labels: Tensor, *, noise: float, seed: int = 0) -> Tensor:
    """Images whose channel means are those of their class, but for noise of the means; pixels differ anyhow."""
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(int(labels.max()) + 1, CLASSES, generator=torch.Generator().manual_seed(9))[labels]
    means = means + noise * torch.randn(means.shape, generator=generator)
    pixels = torch.randn(len(labels), CLASSES, 6, 6, generator=generator)
    return means[:, :, None, None] + pixels - pixels.mean((2, 3), keepdim=True)


LABELS = torch.arange(120) % CLASSES


class TestByConstruction:
    def test_gates_that_are_constant(self) -> None:
        block = se(bias=True)
        with torch.no_grad():
            block.fc2.weight.zero_()
            block.fc2.bias.copy_(torch.tensor([-3.0, 0.0, 2.0, 6.0]))
        found = se_nas.explain(Classifier(block), images_of(LABELS, noise=1.0), LABELS)
        (only,) = found.blocks
        assert only.variation == pytest.approx(0, abs=1e-6)
        assert only.mean == pytest.approx(torch.sigmoid(block.fc2.bias).tolist())
        assert only.frozen is not None
        assert only.frozen.paired is not None
        assert (only.frozen.changed, only.frozen.paired.difference) == (0, 0)
        assert only.does == "constant"
        assert "multiplies by a constant" in found.sentences[0]
        assert "se-nas export --fold finds no loss" in found.sentences[0]
        assert (only.between, only.treats) == (None, None)
        assert only.shares == (0, 0, 0, 0)

    def test_gates_that_depend_on_the_class_alone(self) -> None:
        found = se_nas.explain(Classifier(se()), images_of(LABELS, noise=0.0), LABELS)
        (only,) = found.blocks
        assert only.between is not None
        assert only.between.share == pytest.approx(1, abs=1e-6)
        assert only.between.p == only.between.family_p == 0.001
        assert only.treats == "specific"
        assert all(share == pytest.approx(1, abs=1e-4) for share in only.shares)

    def test_gates_that_do_not_depend_on_the_class(self) -> None:
        numbers = torch.randint(0, CLASSES, (200,), generator=torch.Generator().manual_seed(5))
        found = se_nas.explain(Classifier(se()), images_of(torch.zeros(200, dtype=torch.long), noise=1.0), numbers)
        (only,) = found.blocks
        assert only.between is not None
        assert only.between.expected == pytest.approx(3 / 199)
        assert only.between.share == pytest.approx(3 / 199, abs=0.03)
        assert only.between.p > 0.05
        assert only.treats == "alike"

    @pytest.mark.parametrize(("push", "end"), [(-30.0, "at_zero"), (30.0, "at_one")])
    def test_gates_at_an_end(self, push: float, end: str) -> None:
        block = se(bias=True)
        with torch.no_grad():
            block.fc2.bias[:3] = push
        (only,) = se_nas.explain(Classifier(block), images_of(LABELS, noise=0.1)).blocks
        assert getattr(only.saturation, end) == pytest.approx(0.75)
        assert (only.saturation.top, only.saturation.at_top) == (1, 0.75 if push > 0 else 0)

    def test_the_end_of_a_doubled_sigmoid_is_two(self) -> None:
        block = SEBlock(CLASSES, Choice.se(CLASSES, 2, gate_scale=2.0, bias=True))
        with torch.no_grad():
            block.fc2.weight.zero_()
            block.fc2.bias.zero_()
            block.fc2.bias[:1] = 30
        (only,) = se_nas.explain(Classifier(block), images_of(LABELS, noise=0.1)).blocks
        assert only.saturation.at_one == 0.75  # those that never left the start
        assert (only.saturation.top, only.saturation.at_top) == (2, 0.25)

    @pytest.mark.parametrize(("name", "top"), [("ese", 2), ("eca", 2), ("srm", 2), ("ge", 1), ("gct", 2)])
    def test_the_end_of_other_gates(self, name: str, top: float) -> None:
        site = Site(unit="u", position="standard", module="m", channels=CLASSES, size=(4, 4))
        block = build_block(site, Choice.se(CLASSES, 2, block=name))
        with torch.no_grad():
            if name == "gct":
                block.beta[:1] = 30
            elif name == "ese":
                block.fc.bias[:1] = 30
            elif name == "srm":
                block.norm.bias[:1] = 30
        (only,) = se_nas.explain(Classifier(block), images_of(LABELS, noise=0.1)).blocks
        assert only.saturation.top == top
        assert only.saturation.at_top == (0.25 if name in ("ese", "gct", "srm") else 0)

    def test_a_block_that_decides_the_class_is_needed_and_one_beside_it_is_constant(self) -> None:
        """The second channel is shown or hidden by the mean of the first, which only a gate can do."""

        class Switch(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.first = se(CLASSES, bias=True)
                self.second = se(CLASSES, bias=True)

            def forward(self, images: Tensor) -> Tensor:
                shown = self.second(self.first(images))
                return torch.stack([shown[:, 1].abs().mean((1, 2)), torch.full((len(images),), 0.4)], dim=1)

        network = Switch()
        with torch.no_grad():
            network.first.fc1.weight.copy_(torch.tensor([[1.0, 0, 0, 0], [0, 0, 0, 0]]))
            network.first.fc1.bias.zero_()
            network.first.fc2.weight.zero_()
            network.first.fc2.bias.fill_(20.0)
            network.first.fc2.weight[1, 0], network.first.fc2.bias[1] = 20.0, -10.0
            network.second.fc2.weight.zero_()
            network.second.fc2.bias.fill_(20.0)
        labels = torch.arange(100) % 2
        images = torch.randn(100, CLASSES, 8, 8, generator=torch.Generator().manual_seed(0))
        images[:, 0] = 1.0 - labels[:, None, None]  # bright images show the second channel: class 0
        found = se_nas.explain(network, images, labels)
        assert found.value == 1
        assert [block.does for block in found.blocks] == ["needed", "constant"]
        frozen = found.blocks[0].frozen
        assert frozen is not None
        assert frozen.paired is not None
        assert frozen.paired.value == pytest.approx(0.5)
        assert frozen.paired.low < frozen.paired.difference < frozen.paired.high < -0.3
        assert frozen.costs
        assert not frozen.costs_less_than(0.3)
        assert found.of_blocks[0].startswith(
            "The block in first is needed: frozen at its mean gates, accuracy is worse"
        )
        second = found.blocks[1].frozen
        assert second is not None
        assert not second.costs_less_than(0.001), "a hundred images that agree prove no tenth of a point"
        assert second.costs_less_than(0.1)


@pytest.fixture
def network() -> nn.Module:
    """resnet8 with SE in its first and last stage, whose gates look at the image."""
    model, units = backbone_of("resnet8"), units_of("resnet8")
    choices = {unit.name: Choice.se(unit.sites[0].channels, 4, init="plain") for unit in (units[0], units[-1])}
    insert_choices(model, units, choices, seed=1)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, SEBlock):
                module.fc1.weight.mul_(20)
    return model


IMAGES = torch.randn(90, 1, 8, 8, generator=torch.Generator().manual_seed(0))
NUMBERS = torch.randint(0, 10, (90,), generator=torch.Generator().manual_seed(1))


def replaced(network: nn.Module, make: Callable[[SEBlock], nn.Module], *, only: str = "") -> nn.Module:
    """A copy with other modules in place of SE blocks."""
    other = copy.deepcopy(network).eval()
    for name, module in list(other.named_modules()):
        if isinstance(module, SEBlock) and only in name:
            other.set_submodule(name, make(module))
    return other


class Times(nn.Module):
    def __init__(self, gates: Tensor) -> None:
        super().__init__()
        self.gates = gates[None, :, None, None]

    def forward(self, u: Tensor) -> Tensor:
        return u * self.gates


class TestByHand:
    def right(self, network: nn.Module) -> np.ndarray:
        with torch.no_grad():
            return (network(IMAGES).argmax(1) == NUMBERS).double().numpy()

    def test_frozen_and_taken_out_are_networks_with_other_modules(self, network: nn.Module) -> None:
        found = se_nas.explain(network, IMAGES, NUMBERS)
        assert [block.block for block in found.blocks] == ["layer1.0.bn2", "layer3.0.bn2"]
        assert [block.module for block in found.blocks] == ["layer1.0.bn2.se_block", "layer3.0.bn2.se_block"]
        gates = collect_gates(network.eval(), [IMAGES])
        whole = self.right(network)
        assert found.value == pytest.approx(whole.mean())
        with torch.no_grad():
            before = network(IMAGES).argmax(1)
        for block in found.blocks:
            out = replaced(network, lambda _: nn.Identity(), only=block.module)
            fixed = replaced(network, lambda _, b=block: Times(gates[b.module].mean(0)), only=block.module)
            for change, other in ((block.removed, out), (block.frozen, fixed)):
                assert change is not None
                assert change.paired is not None
                with torch.no_grad():
                    assert change.changed == pytest.approx(float((other(IMAGES).argmax(1) != before).double().mean()))
                right = self.right(other)
                assert change.paired.value == pytest.approx(right.mean())
                assert change.paired.difference == pytest.approx(right.mean() - whole.mean())
                assert change.paired.family_low <= change.paired.low <= change.paired.difference
        every = replaced(network, lambda _: nn.Identity())
        assert found.all_removed is not None
        assert found.all_removed.paired is not None
        assert found.all_removed.paired.value == pytest.approx(self.right(every).mean())
        assert any(block.removed != found.all_removed for block in found.blocks)

    def test_statistics_of_gates(self, network: nn.Module) -> None:
        found = se_nas.explain(network, IMAGES, NUMBERS, classes=[f"digit {n}" for n in range(10)])
        gates = collect_gates(network.eval(), [IMAGES])
        for block in found.blocks:
            values = gates[block.module].double().numpy()
            assert block.mean == pytest.approx(values.mean(0).tolist())
            assert block.sd == pytest.approx(values.std(0).tolist())
            rows = {n: values[NUMBERS.numpy() == n] for n in range(10)}
            between = sum(len(r) * (r.mean(0) - values.mean(0)) ** 2 for r in rows.values())
            total = ((values - values.mean(0)) ** 2).sum(0)
            assert block.shares == pytest.approx((between / total).tolist())
            assert block.between is not None
            assert block.between.share == pytest.approx(between.sum() / total.sum())
            assert block.between.expected == pytest.approx(expected_share(NUMBERS.numpy())) == pytest.approx(9 / 89)
            for number, means in zip(found.shown, block.class_means, strict=True):
                assert means == pytest.approx(rows[number].mean(0).tolist())
        assert found.shown == (0, 2, 4, 7, 9)
        assert found.shown_names == ("digit 0", "digit 2", "digit 4", "digit 7", "digit 9")

    def test_tables_and_json_hold_every_number(self, network: nn.Module) -> None:
        found = se_nas.explain(network, IMAGES, NUMBERS)
        table, channels = found.table(), found.channels()
        assert list(table["block"]) == [block.block for block in found.blocks]
        assert table["frozen_difference"].tolist() == [b.frozen.paired.difference for b in found.blocks]  # type: ignore[union-attr]
        assert len(channels) == 16 + 64
        assert channels["mean"].tolist() == [mean for block in found.blocks for mean in block.mean]
        plain = found.as_json()
        assert plain["blocks"][0]["removed"]["paired"]["family_low"] == found.blocks[0].removed.paired.family_low  # type: ignore[union-attr]
        assert plain["sentences"] == list(found.sentences)
        assert se_nas.Explanation is Explanation

    def test_the_network_is_left_as_it_was(self, network: nn.Module) -> None:
        network.train()
        before = copy.deepcopy(network.state_dict())
        state = torch.get_rng_state()
        se_nas.explain(network, IMAGES, NUMBERS)
        assert torch.equal(torch.get_rng_state(), state)
        assert all(module.training for module in network.modules())
        assert all(not m._forward_hooks and not m._forward_pre_hooks for m in network.modules())
        assert all(torch.equal(value, network.state_dict()[name]) for name, value in before.items())

    def test_twice_is_the_same_and_batches_are_as_good_as_a_tensor(self, network: nn.Module) -> None:
        whole = se_nas.explain(network, IMAGES, NUMBERS)
        loader = list(zip(IMAGES.split(25), NUMBERS.split(25), strict=True))
        assert se_nas.explain(network, loader) == whole
        assert se_nas.explain(network, IMAGES.split(40), NUMBERS.tolist()) == whole

    def test_without_labels_only_the_output_tells(self, network: nn.Module) -> None:
        found = se_nas.explain(network, IMAGES)
        assert (found.value, found.labelled, found.classes) == (None, 0, False)
        gates = collect_gates(network.eval(), [IMAGES])
        block = found.blocks[0]
        fixed = replaced(network, lambda _: Times(gates[block.module].mean(0)), only=block.module)
        with torch.no_grad():
            apart = (fixed(IMAGES) - network(IMAGES)).norm() / network(IMAGES).norm()
        assert block.frozen is not None
        assert block.frozen.paired is None
        assert block.frozen.changed == pytest.approx(float(apart), rel=1e-4)
        assert block.between is None
        assert "the output changes by" in found.of_blocks[0]

    def test_costs_are_those_of_the_cost_model(self, network: nn.Module) -> None:
        units = units_of("resnet8")
        model = CostModel(backbone_of("resnet8"), units, (1, 8, 8))
        found = se_nas.explain(network, IMAGES)
        for block, unit in zip(found.blocks, (units[0], units[-1]), strict=True):
            added = model.added(unit, Choice.se(unit.sites[0].channels, 4, init="plain"))
            assert (block.params, block.macs) == (added.params, added.macs)


class TestAnyNetwork:
    @pytest.mark.parametrize("way", ["expand", "gate", "inline"])
    def test_each_way_in_which_people_write_it(self, way: str) -> None:
        torch.manual_seed(0)
        network = networks.excited(way).eval()
        for name, parameter in network.named_parameters():
            if "fc" in name or "attention" in name:
                parameter.data.mul_(6)
        images = torch.randn(60, 3, 8, 8, generator=torch.Generator().manual_seed(2))
        labels = torch.arange(60) % 3
        kept = type(network.body[2])
        found = se_nas.explain(network, images, labels)
        assert type(network.body[2]) is kept
        assert [block.block.removesuffix(".attention") for block in found.blocks] == ["body.2", "body.3"]
        assert [block.channels for block in found.blocks] == [8, 8]
        assert [block.kind for block in found.blocks] == [{"expand": "block", "inline": "written"}.get(way, way)] * 2
        with torch.no_grad():
            u = network.body[2].body(network.body[1](network.body[0](images)))
            gates = self.gate(network.body[2], u, way)
            assert found.blocks[0].mean == pytest.approx(gates.mean(0).tolist(), abs=1e-5)
            assert found.blocks[0].sd == pytest.approx(gates.std(0, correction=0).tolist(), abs=1e-5)
            assert found.blocks[0].variation > 0.01
            x = network.body[1](network.body[0](images))
            frozen = functional.relu(u * gates.mean(0)[None, :, None, None] + x)
            out = functional.relu(u + x)
            for change, other in ((found.blocks[0].frozen, frozen), (found.blocks[0].removed, out)):
                right = (self.head(network, other).argmax(1) == labels).double().mean()
                assert change is not None
                assert change.paired is not None
                assert change.paired.value == pytest.approx(float(right))
        weights = sum(p.numel() for n, p in network.body[2].named_parameters() if n.startswith(("fc", "attention")))
        assert [block.params for block in found.blocks] == [weights] * 2

    def gate(self, block: Any, u: Tensor, way: str) -> Tensor:
        if way == "expand":
            return block.attention.fc(u.mean((2, 3)))
        if way == "gate":
            return block.attention(u).flatten(1)
        return torch.sigmoid(block.fc2(functional.relu(block.fc1(u.mean((2, 3))))))

    def head(self, network: Any, features: Tensor) -> Tensor:
        """What the network gives from the output of its first block on."""
        handle = network.body[2].register_forward_hook(lambda *_: features)
        try:
            return network(torch.zeros(len(features), 3, 8, 8))
        finally:
            handle.remove()

    def every_choice(self) -> Iterator[Choice]:
        for gate, squeeze, bias in itertools.product(GATE_FUNCTIONS, ("avg", "max"), (False, True)):
            yield Choice.se(16, 4, gate=gate, squeeze=squeeze, bias=bias, init="plain")
        yield Choice.se(16, 4, gate="tanh", gate_offset=1.0)

    @pytest.mark.parametrize("name", ["resnet8", "bagnet8"])
    def test_every_block_that_a_search_inserts_is_found(self, name: str) -> None:
        units = units_of(name)
        for number, choice in enumerate(self.every_choice()):
            model = backbone_of(name)
            positions = [site.position for site in units[0].sites]
            placed = replace(choice, position=positions[number % len(positions)])
            insert_choices(model, units, dict.fromkeys((unit.name for unit in units), placed), seed=0)
            there = [name for name, module in model.named_modules() if isinstance(module, SEBlock)]
            assert [block.module for block in watchable(model, (1, 8, 8)).blocks] == there, choice

    def test_blocks_of_timm_and_torchvision(self) -> None:
        timm, torchvision = pytest.importorskip("timm"), pytest.importorskip("torchvision")
        images = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        for network, kind in (
            (timm.create_model("seresnet18", num_classes=5, zero_init_last=False), "SEModule"),
            (timm.create_model("mobilenetv3_small_050", num_classes=5), "SqueezeExcite"),
            (torchvision.models.mobilenet_v3_small(num_classes=5), "SqueezeExcitation"),
        ):
            blocks = {name: m for name, m in network.named_modules() if type(m).__name__ == kind}
            found = se_nas.explain(network, images, [0, 1, 0, 1, 2, 2])
            assert [block.module for block in found.blocks] == list(blocks)
            for block in found.blocks:
                assert block.params == sum(p.numel() for p in blocks[block.module].parameters())
                assert block.macs is not None
                assert block.macs > 2 * block.channels
                assert 0 <= min(block.mean) <= max(block.mean) <= 1
                assert block.removed is not None
            first = next(iter(blocks))
            fixed: list[Tensor] = []
            handle = blocks[first].register_forward_hook(lambda _, args, out, kept=fixed: kept.append(out / args[0]))
            with torch.no_grad():
                network.eval()(images)
            handle.remove()
            gates = fixed[0].flatten(2).nanmedian(2).values
            known = ~gates.isnan().any(0)
            assert known.any()
            assert np.array(found.blocks[0].mean)[known] == pytest.approx(gates.mean(0)[known].numpy(), abs=1e-4)

    def test_a_block_that_runs_twice_has_its_channels_twice(self) -> None:
        block = se()

        class Twice(Classifier):
            def forward(self, images: Tensor) -> Tensor:
                return self.out(self.block(self.block(images) + 1).mean((2, 3)))

        (only,) = se_nas.explain(Twice(block), images_of(LABELS, noise=1.0), LABELS).blocks
        assert (only.runs, only.channels, len(only.mean)) == (2, CLASSES, 2 * CLASSES)
        with torch.no_grad():
            first = block.gates(images_of(LABELS, noise=1.0)).flatten(1)
        assert only.mean[:CLASSES] == pytest.approx(first.mean(0).tolist(), abs=1e-6)
        alone = Classifier(block)
        (single,) = se_nas.explain(alone, images_of(LABELS, noise=1.0), LABELS).blocks
        assert (only.params, only.macs) == (single.params, 2 * (single.macs or 0))


class TestMistakes:
    def test_a_network_without_se(self) -> None:
        with pytest.raises(BackboneError, match=r"ResNet has no SE block\n  hint: blocks are recognised by"):
            se_nas.explain(backbone_of("resnet8"), IMAGES)

    def test_a_block_that_is_written_twice_in_one_place(self) -> None:
        """Its multiplication runs for two gates, so that it cannot be taken for one block."""

        class Both(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.one, self.two = nn.Linear(1, 1), nn.Linear(1, 1)

            def forward(self, u: Tensor) -> Tensor:
                for fc in (self.one, self.two):
                    u = u * torch.sigmoid(fc(u.mean((2, 3))))[:, :, None, None]
                return u.flatten(1)

        with pytest.raises(BackboneError, match=r"no SE block of Both can be looked at: .* it is written inside"):
            se_nas.explain(Both(), IMAGES)

    def test_images_that_do_not_fit(self, network: nn.Module) -> None:
        with pytest.raises(BackboneError, match=r"fails on one image of shape \(3, 8, 8\)"):
            se_nas.explain(network, torch.zeros(5, 3, 8, 8))

    def test_a_single_image(self, network: nn.Module) -> None:
        with pytest.raises(DataError, match="gates cannot be looked at on 1 images\n  allowed: at least two images"):
            se_nas.explain(network, IMAGES[:1])

    def test_labels_of_other_images(self, network: nn.Module) -> None:
        with pytest.raises(DataError, match="there are 90 images and 4 labels"):
            se_nas.explain(network, IMAGES, [0, 1, 2, 3])

    def test_no_images(self, network: nn.Module) -> None:
        with pytest.raises(DataError, match="there are no images"):
            se_nas.explain(network, [])
        with pytest.raises(DataError, match="images are batches of list"):
            se_nas.explain(network, [([1, 2], [0, 1])])

    def test_class_numbers_for_a_network_without_classes(self) -> None:
        class Dense(Classifier):
            def forward(self, images: Tensor) -> Tensor:
                return self.block(images)

        with pytest.raises(DataError, match="Dense gives no logits"):
            se_nas.explain(Dense(se()), images_of(LABELS, noise=0.0), LABELS)
