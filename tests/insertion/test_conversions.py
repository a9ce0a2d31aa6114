"""What torch does to networks before or after SE blocks come in: they run as before, or it raises."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.ao.quantization import fuse_modules
from torch.nn.utils import parametrizations
from torch.nn.utils.parametrize import remove_parametrizations

from se_nas.backbones.resnet import resnet
from se_nas.core.placement import Choice, Site
from se_nas.insertion.block import SEBlock
from se_nas.insertion.insert import insert_block
from se_nas.space.search_space import insert_se

SHAPE = (3, 16, 16)


def backbone() -> nn.Module:
    torch.manual_seed(0)
    network = resnet(depth=8)
    for module in network.modules():  # as after a training: no BatchNorm is the identity
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -1, 1)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return network.eval()


def with_se(network: nn.Module) -> nn.Module:
    return insert_se(network, "all:4", input_shape=SHAPE).eval()


def output(network: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return network(torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(1)))  # type: ignore[no-any-return]


def runs(network: nn.Module) -> int:
    """SE blocks that run when the network does."""
    ran: list[nn.Module] = []
    hooks = [
        module.register_forward_hook(lambda module, *_: ran.append(module))
        for module in network.modules()
        if isinstance(module, SEBlock)
    ]
    output(network)
    for hook in hooks:
        hook.remove()
    return len(ran)


def convolutions(network: nn.Module) -> list[nn.Module]:
    return [module for module in network.modules() if isinstance(module, nn.Conv2d)]


def synchronised(network: nn.Module) -> nn.Module:
    return nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call,no-any-return]


def normed(how: Callable[[nn.Module], nn.Module]) -> Callable[[nn.Module], nn.Module]:
    """All convolutions and the linear layers that are no part of an SE block."""

    def change(network: nn.Module) -> nn.Module:
        for module in convolutions(network):
            how(module)
        return network

    return change


CHANGES: dict[str, Callable[[nn.Module], nn.Module]] = {
    "convert_sync_batchnorm": synchronised,
    "weight_norm": normed(parametrizations.weight_norm),
    "spectral_norm": normed(parametrizations.spectral_norm),
}


@pytest.mark.parametrize("name", CHANGES)
def test_after_se_blocks_came_in_they_run_as_before(name: str) -> None:
    network = with_se(backbone())
    expected = output(network)
    changed = CHANGES[name](copy.deepcopy(network))
    assert runs(changed) == runs(network) == 3
    if name != "spectral_norm":  # which makes other weights
        torch.testing.assert_close(output(changed), expected)
    again = copy.deepcopy(changed)
    assert runs(again) == 3
    torch.testing.assert_close(output(again), output(changed))
    assert {k for k in changed.state_dict() if "se_block" in k} == {k for k in network.state_dict() if "se_block" in k}


@pytest.mark.parametrize("name", CHANGES)
def test_before_se_blocks_come_in_they_run(name: str) -> None:
    expected = output(with_se(backbone()))
    changed = with_se(CHANGES[name](backbone()))
    assert runs(changed) == 3
    if name != "spectral_norm":
        torch.testing.assert_close(output(changed), expected)
    assert runs(copy.deepcopy(changed)) == 3


@pytest.mark.parametrize("order", ["before", "after"])
def test_where_the_parametrized_module_has_the_block_itself(order: str) -> None:
    """The block stands behind the convolution; when the norm is removed, it stays."""
    site = Site(unit="2", position="standard", module="2", channels=8, size=(16, 16))
    plain = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1)).eval()
    network = copy.deepcopy(plain)
    insert_block(plain, site, Choice.se(8, 4), seed=0)
    if order == "before":
        parametrizations.weight_norm(network[2])
    insert_block(network, site, Choice.se(8, 4), seed=0)
    if order == "after":
        parametrizations.weight_norm(network[2])
    assert runs(network) == 1
    torch.testing.assert_close(output(network), output(plain))
    remove_parametrizations(network[2], "weight")
    assert runs(network) == 1
    torch.testing.assert_close(output(network), output(plain))
    assert type(network[2]).__mro__[1] is nn.Conv2d


PAIRS = [["layer1.0.conv2", "layer1.0.bn2"]]


def test_fusing_raises_where_a_block_would_be_lost() -> None:
    network = with_se(backbone())
    expected = output(network)
    with pytest.raises(AssertionError, match="did not find fuser method"):  # torch asks for the very class
        fuse_modules(copy.deepcopy(network), PAIRS)
    other = fuse_modules(network, [["layer1.0.conv1", "layer1.0.bn1"]])  # no block is in it
    assert runs(other) == 3
    torch.testing.assert_close(output(other), expected)


def test_before_se_blocks_come_in_all_may_be_fused() -> None:
    pairs = [[f"layer{i}.0.conv{j}", f"layer{i}.0.bn{j}"] for i in (1, 2, 3) for j in (1, 2)]
    fused = fuse_modules(backbone(), pairs)
    torch.testing.assert_close(output(fused), output(backbone()))
    network = with_se(fused)
    assert runs(network) == 3
    torch.testing.assert_close(output(network), output(with_se(backbone())))


def test_a_new_class_with_the_children_of_the_old_one_rescales_twice_at_most() -> None:
    """Converted twice, a block still runs once."""
    network = synchronised(synchronised(with_se(backbone())))
    assert runs(network) == 3
    holder = nn.ModuleList([network.get_submodule("layer1.0.bn2.se_block")])  # a container has no place for it
    assert type(holder) is nn.ModuleList
