"""What operations count that have no handle of their own: closed forms, torch's own counter, and real networks."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode, flop_registry, register_flop_formula

from se_nas.core.errors import CostError
from se_nas.space.exact_cost import cost

os.environ.setdefault("HF_HUB_OFFLINE", "1")

SIDE = 4
SHAPE = (3, SIDE, SIDE)
IMAGE = 3 * SIDE * SIDE


class Does(nn.Module):
    """A network of one operation; `weight` is 4 x 4."""

    def __init__(self, operation: Callable[[Any, Tensor], Any], **layers: nn.Module) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(SIDE))
        self.layers = nn.ModuleDict(layers)
        self.operation = operation

    def forward(self, x: Tensor) -> Any:
        return self.operation(self, x)


def macs(operation: Callable[[Any, Tensor], Any], **layers: nn.Module) -> int:
    return cost(Does(operation, **layers).eval(), input_shape=SHAPE).macs


class Swish(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * torch.sigmoid(x)


FREE: dict[str, Callable[[Any, Tensor], Any]] = {
    "dropout in place": lambda _, x: F.dropout(x, training=False, inplace=True),
    "pointwise": lambda _, x: x.square().sin().cos().neg().erf().logaddexp(x),
    "made": lambda _, x: x + torch.eye(SIDE) + torch.linspace(0, 1, SIDE) + torch.rand_like(x),
    "accumulated": lambda _, x: x.cumsum(1).cumprod(2),
    "sorted": lambda _, x: x.sort(1)[0].topk(2, 1)[0].argsort(1),
    "moved": lambda _, x: x.flip(1).tile(1, 2, 1, 1).repeat_interleave(2, 1),
    "spread": lambda _, x: torch.meshgrid(x[0, 0, 0], x[0, 0, 1], indexing="ij"),
    "scattered": lambda _, x: x.scatter(1, torch.zeros(1, 1, SIDE, SIDE, dtype=torch.long), x),
    "chosen": lambda _, x: x[x > 0.5],
    "resized": lambda _, x: F.interpolate(x, scale_factor=2.0, mode="bicubic", antialias=True),
    "over channels only": lambda _, x: x.var(1, keepdim=True) + x.std(1, keepdim=True) + F.softmax(x, 1).argmax(1),
}  # fmt: skip


@pytest.mark.parametrize("name", FREE)
def test_what_multiplies_nothing_is_free(name: str) -> None:
    assert macs(FREE[name]) == 0


LSTM_GATES = 4 * 6 * (4 + 6)
PRODUCTS: dict[str, tuple[Callable[[Any, Tensor], Any], int]] = {
    "addcmul": (lambda _, x: torch.addcmul(x, x, x), IMAGE),
    "in place": (lambda _, x: x.clone().addcmul_(x, x), IMAGE),
    "lerp": (lambda _, x: torch.lerp(x, x, x), IMAGE),
    "multiply": (lambda _, x: torch.multiply(x, x), IMAGE),
    "a function of autograd": (lambda _, x: Swish.apply(x), IMAGE),
    "variance of whole channels": (lambda _, x: x.var((2, 3)), IMAGE),
    "norm of whole channels": (lambda _, x: torch.linalg.vector_norm(x, dim=(2, 3), keepdim=True), IMAGE),
    "matrix and vector": (lambda net, x: net.weight @ x[0, 0, 0], SIDE * SIDE),
    "vector and vector": (lambda _, x: torch.dot(x[0, 0, 0], x[0, 0, 0]), SIDE),
    "addmv": (lambda net, x: torch.addmv(x[0, 0, 0], net.weight, x[0, 0, 0]), SIDE * SIDE),
    "addbmm": (lambda net, x: torch.addbmm(net.weight, x[0], x[0]), 3 * SIDE**3),
    "outer": (lambda _, x: torch.addr(x[0, 0], x[0, 0, 0], x[0, 0, 0]), SIDE * SIDE),
    "bilinear": (lambda net, x: net.layers["b"](x, x), 3 * SIDE * 5 * SIDE * SIDE),
    "a matrix with a batch": (lambda net, x: net.weight @ x, 3 * SIDE**3),
    "lstm": (lambda net, x: net.layers["r"](x[0])[0], 3 * SIDE * (LSTM_GATES + 2 * 6 + 6)),
}
"""The operation, and its multiply-adds in closed form. An LSTM's products of gates count as every product does."""


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_count_in_closed_form(name: str) -> None:
    operation, expected = PRODUCTS[name]
    found = macs(operation, b=nn.Bilinear(SIDE, SIDE, 5), r=nn.LSTM(SIDE, 6, batch_first=True))
    if name == "lstm":  # and its gates and sums, one for each element of tensors without spatial extent
        expected += 3 * SIDE * (5 * 6 + 4 * 6 + 6)
    assert found == expected


MATRICES: dict[str, Callable[[Any, Tensor], Any]] = {
    "tensordot": lambda net, x: torch.tensordot(x, net.weight, dims=([3], [0])),
    "inner": lambda net, x: torch.inner(x, net.weight),
    "multi_dot": lambda net, x: torch.linalg.multi_dot([net.weight, net.weight, x[0, 0]]),
    "baddbmm": lambda _, x: torch.baddbmm(x[0], x[0], x[0]),
    "power": lambda net, x: torch.matrix_power(net.weight, 3) @ x,
    "einsum": lambda net, x: torch.einsum("bchw,wk->bchk", x, net.weight),
    "broadcast": lambda _, x: x[:, :, None] @ x[:, None],
}


@pytest.mark.parametrize("name", MATRICES)
def test_matrix_products_are_what_torch_counts(name: str) -> None:
    assert macs(MATRICES[name]) == torchs(Does(MATRICES[name]), SHAPE)


def torchs(network: nn.Module, shape: tuple[int, ...]) -> float:
    """Multiply-adds of convolutions, linear layers and matrix products, as torch counts them."""
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        network.eval()(torch.zeros(1, *shape))
    return counter.get_total_flops() / 2


def gated(x: Tensor, weight: Tensor) -> Tensor:
    return torch.matmul(x * x.sigmoid(), weight)


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_a_scripted_function_counts_its_parts() -> None:
    scripted = torch.jit.script(gated)
    assert macs(lambda net, x: scripted(x, net.weight)) == IMAGE + 3 * SIDE**3


def test_a_transformer_layer_counts_though_torch_would_fuse_it() -> None:
    layer = nn.TransformerEncoderLayer(SIDE, 2, 8, batch_first=True)
    found = macs(lambda net, x: net.layers["t"](x[0]), t=layer)
    tokens = 3 * SIDE
    assert found >= tokens * (4 * SIDE * SIDE + 2 * 8 * SIDE) + 3 * 2 * SIDE * SIDE * SIDE
    assert torch.backends.mha.get_fastpath_enabled()


NEITHER: dict[str, tuple[Callable[[Any, Tensor], Any], str]] = {
    "fourier": (lambda _, x: torch.fft.rfft2(x).abs(), "aten::_fft_r2c (1 times)"),
    "inverse": (lambda net, x: torch.linalg.inv(net.weight) + torch.linalg.inv(net.weight), "(2 times)"),
    "distances": (lambda _, x: torch.cdist(x, x), "aten::_cdist_forward (1 times)"),
}


@pytest.mark.parametrize("name", NEITHER)
def test_what_is_neither_is_an_error_that_names_it(name: str) -> None:
    operation, words = NEITHER[name]
    with pytest.raises(CostError, match="Does has operations whose cost is not defined: aten::") as caught:
        macs(operation)
    assert words in caught.value.what
    assert caught.value.hint is not None
    assert "register_flop_formula" in caught.value.hint


@pytest.fixture
def library() -> Iterator[torch.library.Library]:
    own = torch.library.Library("se_nas_test", "FRAGMENT")
    yield own
    own._destroy()


class TestOperatorsOfOthers:
    def of(self, library: torch.library.Library, name: str, *tags: torch.Tag) -> Any:
        library.define(f"{name}(Tensor x, Tensor y) -> Tensor", tags=tags)
        library.impl(name, lambda x, y: x + y, "CompositeExplicitAutograd")
        return getattr(torch.ops.se_nas_test, name)

    def test_one_of_which_nothing_is_known(self, library: torch.library.Library) -> None:
        mix = self.of(library, "mix")
        with pytest.raises(CostError, match=r"not defined: se_nas_test::mix \(1 times\)"):
            macs(lambda _, x: mix(x, x))

    def test_one_that_is_tagged(self, library: torch.library.Library) -> None:
        blend = self.of(library, "blend", torch.Tag.pointwise)
        assert macs(lambda _, x: blend(x, x)) == 0

    def test_one_with_a_formula(self, library: torch.library.Library) -> None:
        fuse = self.of(library, "fuse")
        register_flop_formula(fuse)(lambda x, y, out_shape=None, **_: 2 * 77)
        try:
            assert macs(lambda _, x: fuse(x, x)) == 77
        finally:
            del flop_registry[fuse]


class TestOutputs:
    """Networks that give something else than tensors, as those for detection do."""

    def test_any_object_that_holds_tensors(self) -> None:
        def boxes(net: Any, x: Tensor) -> Any:
            y = net.layers["c"](x)
            return {"a": y, "b": [(y, None), {"c": 3}], 4: "text"}

        assert macs(boxes, c=nn.Conv2d(3, 2, 1)) == 2 * 3 * SIDE * SIDE


REAL = {
    "timm": ("edgenext_xx_small", "convnextv2_atto", "mixnet_s", "tf_efficientnet_lite0"),
    "torchvision": ("squeezenet1_1", "shufflenet_v2_x0_5", "mnasnet0_5"),
}
"""Networks with Fourier features, attention, norms of whole channels, grouped, mixed and strided convolutions."""


@pytest.mark.filterwarnings("ignore")  # those of the libraries
@pytest.mark.parametrize("name", [f"{library}:{name}" for library, names in REAL.items() for name in names])
def test_real_networks_against_torchs_counter(name: str) -> None:
    """Ours exceeds torch's by pools, products of tensors and descriptors alone: less than a tenth."""
    library, _, model = name.partition(":")
    source = pytest.importorskip(library, reason=f"needs the extra {library}")
    network = source.create_model(model) if library == "timm" else source.models.get_model(model, weights=None)
    found, expected = cost(network, input_shape=(3, 64, 64)).macs, torchs(network, (3, 64, 64))
    assert expected <= found <= 1.1 * expected
