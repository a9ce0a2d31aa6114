"""Conversions of torch, torchvision, timm and Ultralytics, before and after SE blocks come in, on real networks.

Each gives the output that the network had, with every SE block at work, or raises and says why. What each does is
written down here, so that a change is seen.
"""

from __future__ import annotations

import copy
import importlib
import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn
from torch.ao.quantization import fuse_modules
from torch.fx.experimental import optimization
from torch.nn.utils import fuse_conv_bn_eval, parametrizations
from torch.nn.utils.fusion import fuse_linear_bn_eval
from torch.nn.utils.parametrize import remove_parametrizations

from se_nas.core.errors import SpaceError
from se_nas.core.placement import Choice, Site
from se_nas.insertion.block import SEBlock
from se_nas.insertion.insert import insert_block
from se_nas.space.search_space import insert_se

Conversion = Callable[[nn.Module], nn.Module]


@dataclass(frozen=True)
class Network:
    """A network of a library, by the module and name of its factory."""

    library: str
    factory: str
    args: dict[str, Any]
    size: int = 32

    def build(self) -> nn.Module:
        """In eval mode, as after a training: no BatchNorm is the identity."""
        module = pytest.importorskip(self.library)
        torch.manual_seed(0)
        network: nn.Module = getattr(module, self.factory)(**self.args)
        for part in network.modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm):
                nn.init.uniform_(part.running_mean, -0.2, 0.2)  # type: ignore[arg-type]
                nn.init.uniform_(part.running_var, 0.7, 1.4)  # type: ignore[arg-type]
        return network.eval()

    @property
    def shape(self) -> tuple[int, int, int]:
        return (3, self.size, self.size)


def timm(name: str, size: int = 32, **args: Any) -> Network:
    return Network("timm", "create_model", {"model_name": name, "num_classes": 7, **args}, size)


NETWORKS = {
    "ours": Network("se_nas.backbones.resnet", "resnet", {"depth": 8}),
    "torchvision": Network("torchvision.models", "resnet18", {"num_classes": 7}),
    "timm": timm("resnet10t"),
    "mobile": timm("mobilenetv2_035"),
    "repvgg": timm("repvgg_a0"),
    "levit": timm("levit_conv_128s", 224),
}
QUICK = ("ours", "torchvision")


def with_se(network: nn.Module, shape: tuple[int, int, int]) -> nn.Module:
    """With blocks that are not the identity, so that a lost one is seen in the output."""
    network = insert_se(network, "all:4", input_shape=shape).eval()
    generator = torch.Generator().manual_seed(2)
    for block in network.modules():
        if isinstance(block, SEBlock):
            for weight in block.parameters():
                nn.init.uniform_(weight, -0.5, 0.5, generator=generator)
    return network


def output(network: nn.Module, shape: tuple[int, int, int]) -> torch.Tensor:
    with torch.no_grad():
        found = network(torch.randn(2, *shape, generator=torch.Generator().manual_seed(1)))
    tensor: torch.Tensor = found[0] if isinstance(found, tuple) else found
    return tensor


def runs(network: nn.Module, shape: tuple[int, int, int]) -> int:
    """SE blocks that run when the network does."""
    ran: list[nn.Module] = []
    hooks = [
        module.register_forward_hook(lambda module, *_: ran.append(module))
        for module in network.modules()
        if isinstance(module, SEBlock)
    ]
    output(network, shape)
    for hook in hooks:
        hook.remove()
    return len(set(ran))


def synchronised(network: nn.Module) -> nn.Module:
    return nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call,no-any-return]


def pairs(network: nn.Module, first: type, second: type = nn.modules.batchnorm._BatchNorm) -> list[tuple[str, str]]:
    """Names of neighbours of two kinds."""
    leaves = [(name, m) for name, m in network.named_modules() if isinstance(m, (first, second))]
    return [
        (a, b)
        for (a, one), (b, two) in itertools.pairwise(leaves)
        if isinstance(one, first) and isinstance(two, second) and a.rpartition(".")[0] == b.rpartition(".")[0]
    ]


def folded(network: nn.Module) -> nn.Module:
    """Each convolution with the BatchNorm that stands behind it, by hand."""
    for a, b in pairs(network, nn.Conv2d):
        network.set_submodule(a, fuse_conv_bn_eval(network.get_submodule(a), network.get_submodule(b)))  # type: ignore[type-var]
        network.set_submodule(b, nn.Identity())
    return network


def fused(network: nn.Module) -> nn.Module:
    return fuse_modules(network, [list(pair) for pair in pairs(network, nn.Conv2d)])  # type: ignore[no-any-return]


def by_fx(network: nn.Module) -> nn.Module:
    return optimization.fuse(network)


def exchanged(network: nn.Module) -> nn.Module:
    """BatchNorm for another normalisation, as those do who train in private."""
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            network.set_submodule(name, nn.GroupNorm(1, module.num_features))
    return network


def normed(how: Callable[..., nn.Module]) -> Conversion:
    def change(network: nn.Module) -> nn.Module:
        for module in [m for m in network.modules() if isinstance(m, nn.Conv2d)]:
            how(module)
        return network

    return change


def of_module(module: str, name: str) -> Conversion:
    """A function of a library that may not be there."""

    def change(network: nn.Module) -> nn.Module:
        found = getattr(pytest.importorskip(module), name)(network)
        assert isinstance(found, nn.Module)
        return found

    return change


CONVERSIONS: dict[str, Conversion] = {
    "fuse_conv_bn_eval": folded,
    "fuse_modules": fused,
    "fx.fuse": by_fx,
    "convert_sync_batchnorm": synchronised,
    "group_norm": exchanged,
    "freeze_batch_norm_2d": of_module("timm.layers", "freeze_batch_norm_2d"),
    "timm.convert_sync_batchnorm": of_module("timm.layers", "convert_sync_batchnorm"),
    "reparameterize_model": of_module("timm.utils.model", "reparameterize_model"),
    "weight_norm": normed(nn.utils.weight_norm),
    "spectral_norm": normed(nn.utils.spectral_norm),
    "parametrizations.weight_norm": normed(parametrizations.weight_norm),
    "parametrizations.spectral_norm": normed(parametrizations.spectral_norm),
}
CHANGING = ("group_norm", "spectral_norm", "parametrizations.spectral_norm")
"""Those that are meant to change the output."""

NOT_OF = {
    # Both leave out the activation in it, with or without SE blocks.
    ("mobile", "fuse_conv_bn_eval"), ("mobile", "convert_sync_batchnorm"), ("mobile", "group_norm"),
}  # fmt: skip
"""Conversions of torch that give another network of layers that timm derives from BatchNorm."""

NO_FUSER = "did not find fuser method for: .*"

LOST = {
    "fuse_conv_bn_eval": "SpaceError: (fuse_conv_bn_eval folds .* lose its SE block|.* for Identity, which does not)",
    "fuse_modules": "AssertionError: " + NO_FUSER + "BatchNorm2d with an SE block",
    "group_norm": "SpaceError: .* with an SE block, is exchanged for GroupNorm, which does not run it",
    "freeze_batch_norm_2d": "SpaceError: .* with an SE block, is exchanged for FrozenBatchNorm2d, which does not run",
    "convert_sync_batchnorm": "SpaceError: .* with an SE block, is exchanged for SyncBatchNorm, which does not run",
    "fx.fuse": "TypeError: 'Proxy' object cannot be interpreted",  # torch.fx cannot trace a size of levit's
}
"""What is said where SE blocks would be lost: at the BatchNorm that ends a branch."""


def attempt(change: Conversion, network: nn.Module) -> tuple[nn.Module | None, str]:
    """The network after a conversion, or why there is none."""
    try:
        return change(network).eval(), ""
    except (SpaceError, AssertionError, TypeError) as error:
        return None, f"{type(error).__name__}: {error}"


def cases() -> list[Any]:
    return [
        pytest.param(network, name, marks=[] if network in QUICK else [pytest.mark.slow], id=f"{network}-{name}")
        for network in NETWORKS
        for name in CONVERSIONS
    ]


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # of what torch is about to drop
@pytest.mark.parametrize(("key", "name"), cases())
class TestConversion:
    def test_after_se_blocks_came_in_they_run_as_before_or_it_raises(self, key: str, name: str) -> None:
        network, change = NETWORKS[key], CONVERSIONS[name]
        before = with_se(network.build(), network.shape)
        expected, number = output(before, network.shape), runs(before, network.shape)
        assert number > 0
        changed, error = attempt(change, copy.deepcopy(before))
        if changed is None:
            assert re.search(LOST.get(name, "never"), error) or re.search(NO_FUSER + "BatchNormAct2d", error)
            return
        assert runs(changed, network.shape) == number
        if name not in CHANGING:
            assert_close(output(changed, network.shape), expected)
            assert_close(output(copy.deepcopy(changed), network.shape), expected)

    def test_before_se_blocks_come_in_they_run(self, key: str, name: str) -> None:
        network, change = NETWORKS[key], CONVERSIONS[name]
        plain = network.build()
        changed, error = attempt(change, copy.deepcopy(plain))
        if changed is None:  # torch knows no layers of timm's
            assert re.search("AssertionError: " + NO_FUSER, error)
            return
        same = name not in CHANGING and (key, name) not in NOT_OF
        if same:
            assert_close(output(changed, network.shape), output(plain, network.shape))
        changed, before = with_se(changed, network.shape), with_se(plain, network.shape)
        assert runs(changed, network.shape) == runs(before, network.shape)
        if same and name != "freeze_batch_norm_2d":  # before such norms, which no rule knows, the blocks come in
            assert_close(output(changed, network.shape), output(before, network.shape))


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    """To 1e-5 of the largest output."""
    difference, largest = (tensor.detach().abs().max() for tensor in (found - expected, expected))
    assert float(difference) <= 1e-5 * float(largest)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_what_copies_the_statistics_into_a_layer_of_its_own_raises() -> None:
    """`torch.utils.mkldnn.to_mkldnn`, which nobody told of SE blocks."""
    network = NETWORKS["ours"].build()
    convert = importlib.import_module("torch.utils.mkldnn").to_mkldnn
    assert isinstance(convert(copy.deepcopy(network)), nn.Module)
    with pytest.raises(SpaceError, match=r"folds a BatchNorm2d into another layer, and would lose its SE block"):
        convert(with_se(network, (3, 32, 32)))


class Head(nn.Sequential):
    """A linear layer and the norm behind it."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(32, 4), nn.BatchNorm1d(4))


@pytest.mark.parametrize("place", ["0", "1"])
def test_a_fold_by_hand_raises_wherever_the_block_is(place: str) -> None:
    """At the norm it would be lost, at the convolution it would come after the norm; elsewhere it stays."""
    network = Head().eval()
    insert_block(
        network, Site(unit="a", position="standard", module=place, channels=8, size=(2, 2)), Choice.se(8, 4), seed=0
    )
    with pytest.raises(SpaceError) as caught:
        fuse_conv_bn_eval(network[0], network[1])  # type: ignore[type-var]
    what = {
        "0": "fuse_conv_bn_eval folds another layer into a Conv2d with an SE block at its output, which lies between "
        "them",
        "1": "fuse_conv_bn_eval folds a BatchNorm2d into another layer, and would lose its SE block",
    }[place]
    assert str(caught.value).splitlines() == [
        what, "  hint: do that first and put SE blocks in afterwards, or leave this layer out of it"
    ]  # fmt: skip
    assert_close(
        fuse_linear_bn_eval(network[3], network[4])(torch.ones(2, 32)), network[4](network[3](torch.ones(2, 32)))
    )


def test_statistics_may_be_read_and_set() -> None:
    """By those that do not fold them: people, optimisers of averages, files."""
    network = with_se(NETWORKS["ours"].build(), (3, 32, 32))
    norm = network.get_submodule("layer1.0.bn2")
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_var is not None
    torch.testing.assert_close(norm.running_var, network.state_dict()["layer1.0.bn2.running_var"])
    norm.running_var = torch.full((16,), 2.0)
    assert network.state_dict()["layer1.0.bn2.running_var"].tolist() == [2.0] * 16
    norm.reset_running_stats()
    assert norm.running_var.tolist() == [1.0] * 16
    compiled = torch.compile(network, fullgraph=True, backend="eager")
    assert_close(output(compiled, (3, 32, 32)), output(network, (3, 32, 32)))  # type: ignore[arg-type]


def test_parts_may_be_exchanged_and_layers_for_their_copies() -> None:
    network = with_se(NETWORKS["ours"].build(), (3, 32, 32))
    expected = output(network, (3, 32, 32))
    block = network.get_submodule("layer1.0")
    block.bn2 = copy.deepcopy(block.bn2)
    assert_close(output(network, (3, 32, 32)), expected)
    with pytest.raises(SpaceError, match="'bn2', a BatchNorm2d with an SE block, is exchanged for nothing"):
        block.bn2 = None
    network.layer1 = nn.Identity()  # who cuts a network knows what is in it
    assert runs(network, (3, 32, 32)) == 2


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
    assert runs(network, (3, 16, 16)) == 1
    torch.testing.assert_close(output(network, (3, 16, 16)), output(plain, (3, 16, 16)))
    remove_parametrizations(network[2], "weight")
    assert runs(network, (3, 16, 16)) == 1
    torch.testing.assert_close(output(network, (3, 16, 16)), output(plain, (3, 16, 16)))
    assert type(network[2]).__mro__[1] is nn.Conv2d


def test_a_new_class_with_the_children_of_the_old_one_rescales_twice_at_most() -> None:
    """Converted twice, a block still runs once."""
    network = synchronised(synchronised(with_se(NETWORKS["ours"].build(), (3, 32, 32))))
    assert runs(network, (3, 32, 32)) == 3
    holder = nn.ModuleList([network.get_submodule("layer1.0.bn2.se_block")])  # a container has no place for it
    assert type(holder) is nn.ModuleList
