"""Which SE blocks are folded: those whose gates may be fixed, alone and together, by a paired test."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import se_nas
from se_nas.core.errors import BackboneError, DataError
from se_nas.core.placement import Choice
from se_nas.engine.explaining import ACCURACY, Shown
from se_nas.engine.folding import EQUAL, fold_network
from se_nas.insertion.block import SEBlock

CHOICE = Choice(kind="se", squeeze_channels=1, bias=True)


def switch() -> SEBlock:
    """Its gate of the second channel is 1 where the first channel is 1, and 0 where that is 0."""
    block = SEBlock(2, CHOICE)
    with torch.no_grad():
        block.fc1.weight.copy_(torch.tensor([[1.0, 0.0]]))
        block.fc1.bias.zero_()
        block.fc2.weight.copy_(torch.tensor([[0.0], [40.0]]))
        block.fc2.bias.copy_(torch.tensor([0.0, -20.0]))
    return block


def constant() -> SEBlock:
    block = SEBlock(2, CHOICE)
    with torch.no_grad():
        block.fc2.weight.zero_()
        block.fc2.bias.copy_(torch.tensor([0.5, -0.5]))
    return block


class Branches(nn.Module):
    """Two SE blocks on (image, 1), whose second channels are added up: class 1 where that is above a threshold."""

    def __init__(self, first: SEBlock, second: SEBlock, threshold: float) -> None:
        super().__init__()
        self.stems = nn.ModuleList(nn.Conv2d(1, 2, 1) for _ in range(2))
        for stem in self.stems:
            with torch.no_grad():
                stem.weight.copy_(torch.tensor([1.0, 0.0]).view(2, 1, 1, 1))
                stem.bias.copy_(torch.tensor([0.0, 1.0]))
        self.blocks = nn.ModuleList([first, second])
        self.threshold = threshold

    def forward(self, images: Tensor) -> Tensor:
        parts = [block(stem(images))[:, 1] for stem, block in zip(self.stems, self.blocks, strict=True)]
        total = torch.stack(parts).sum(0).mean((1, 2)) - self.threshold
        return torch.stack([-total, total], dim=1)


def shown(count: int = 200) -> Shown:
    """Images of zeros (class 0) and of ones (class 1)."""
    labels = torch.arange(count) % 2
    return Shown(images=labels.float().view(-1, 1, 1, 1).expand(-1, 1, 4, 4).clone(), labels=labels, classes=("0", "1"))


def test_exact_constants_are_folded_whatever_the_margin_and_without_scores() -> None:
    network = Branches(switch(), constant(), 0.9).eval()
    for scoring in (None, ACCURACY):
        found = fold_network(network, shown(), scoring=scoring, margin=0.0)
        assert found.blocks == ("blocks.1",)
        assert [fold.into for fold in found.folds if fold.into] == [("stems.1",)]
        assert found.difference < EQUAL
        assert found.changed == 0
    assert not isinstance(found.network.get_submodule("blocks.1"), SEBlock)
    assert isinstance(network.get_submodule("blocks.1"), SEBlock)
    images = shown().images
    with torch.no_grad():
        torch.testing.assert_close(found.network(images), network(images))


def test_a_block_that_is_needed_stays() -> None:
    network = Branches(switch(), constant(), 0.9).eval()
    found = fold_network(network, shown(), scoring=ACCURACY, margin=0.1)
    (left,) = [fold for fold in found.folds if not fold.into]
    assert left.block == "blocks.0"
    assert "fixing its gates changes accuracy by -50.00 points" in left.reason
    assert found.paired is not None
    assert found.paired.difference == 0


def test_blocks_of_which_one_is_enough_are_not_both_folded() -> None:
    network = Branches(switch(), switch(), 0.75).eval()
    found = fold_network(network, shown(), scoring=ACCURACY, margin=0.05)
    assert len(found.blocks) == 1
    assert [fold.reason for fold in found.folds if not fold.into] == ["together with the others it may cost the margin"]
    assert found.paired is not None
    assert found.paired.difference == 0
    assert found.paired.low > -0.05


def test_few_images_cannot_exclude_a_small_loss() -> None:
    network = Branches(switch(), switch(), 0.75).eval()
    found = fold_network(network, shown(20), scoring=ACCURACY, margin=0.05)
    assert not found.blocks
    assert all("cannot be ruled out" in fold.reason for fold in found.folds)


def test_without_scores_only_constants_are_folded() -> None:
    network = Branches(switch(), switch(), 0.75).eval()
    found = fold_network(network, shown(), scoring=None, margin=1.0)
    assert not found.blocks
    assert all("images have no score" in fold.reason for fold in found.folds)


def test_one_image_is_an_error() -> None:
    with pytest.raises(DataError, match="1 images"):
        fold_network(Branches(switch(), switch(), 0.75), shown(1), scoring=None)


def test_a_network_without_se_is_an_error() -> None:
    with pytest.raises(BackboneError, match="has no SE block"):
        fold_network(nn.Conv2d(1, 2, 1), shown(), scoring=None)


class TestAnyNetwork:
    def test_a_network_of_a_library(self) -> None:
        timm = pytest.importorskip("timm", reason="needs timm, and torch for which it is built")
        network = timm.create_model("efficientnet_b0", num_classes=4).eval()
        for module in network.modules():
            if type(module).__name__ == "SqueezeExcite":
                torch.nn.init.zeros_(module.conv_expand.weight)  # its gates are constant: sigmoid of the bias
                torch.nn.init.normal_(module.conv_expand.bias)
        images = torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        found = se_nas.fold(network, images)
        assert len(found.blocks) == 16
        assert not found.folds[-1].reason
        with torch.no_grad():
            torch.testing.assert_close(found.network(images), network(images), rtol=0, atol=1e-5)

    def test_labels_that_do_not_fit_are_an_error(self) -> None:
        with pytest.raises(DataError, match="200 images and 3 labels"):
            se_nas.fold(Branches(switch(), switch(), 0.75), shown().images, [0, 1, 0])
