"""The contract of a block as tests: a plug-in's own test class inherits them, and pytest runs them."""

# ruff: noqa: S101  # they are tests

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from typing import Any

import torch
from msgspec import UNSET
from torch import nn

from se_nas.core.blocks import BLOCKS, BlockKind
from se_nas.core.own_blocks import read_block
from se_nas.core.placement import IDENTITY, INITS, Choice, Site
from se_nas.insertion.attention.base import ChannelGate
from se_nas.insertion.attention.build import build_block
from se_nas.insertion.block import SEBlock
from se_nas.space.exact_cost import cost, se_cost


class BlockContract:
    """What se-nas relies on. Set `block`, as a search space names it.

    `channels` and `reductions` are those that it is tried with, at the `shapes` with as many axes as it takes; `same`
    is the largest difference of two ways to compute the same.
    """

    block: str | dict[str, Any]
    channels: tuple[int, ...] = (16, 40)
    reductions: tuple[float, ...] = (4,)
    shapes: tuple[tuple[int, ...], ...] = ((7, 5), (1, 1), (9,), (4, 3, 2))
    same = 1e-4

    def test_it_maps_a_tensor_to_one_of_equal_shape(self) -> None:
        for module, choice, channels, size in self._each():
            for batch in (2, 3):
                u = torch.randn(batch, channels, *size)
                assert module(u).shape == u.shape, f"{choice.label} at {channels} channels of size {size}"

    def test_its_closed_form_is_the_trace(self) -> None:
        for module, choice, channels, size in self._each():
            traced = cost(module, input_shape=(channels, *size))
            assert se_cost(channels, size, choice) == traced, f"{choice.label} at {channels} channels of size {size}"

    def test_it_starts_as_the_identity_where_it_says_so(self) -> None:
        kind = self._kind()
        for module, choice, channels, size in self._each():
            if kind.own_identity or (kind.identity and choice.init == IDENTITY):
                u = torch.randn(4, channels, *size)
                torch.testing.assert_close(module.train()(u), u, rtol=self.same, atol=self.same)

    def test_it_learns(self) -> None:
        for module, choice, channels, size in self._each():
            u = torch.randn(4, channels, *size, requires_grad=True)
            output = module.train()(u)
            (output * torch.randn_like(output)).sum().backward()
            moved = [p for p in module.parameters() if p.grad is not None and p.grad.abs().sum() > 0]
            assert moved or not list(module.parameters()), f"{choice.label}: no parameter gets a gradient"
            assert u.grad is not None
            assert u.grad.isfinite().all()

    def test_images_do_not_see_each_other_in_eval_mode(self) -> None:
        for module, _, channels, size in self._each():
            u = torch.randn(3, channels, *size)
            with torch.no_grad():
                alone = torch.cat([module.eval()(u[i : i + 1]) for i in range(3)])
                torch.testing.assert_close(module(u), alone, rtol=self.same, atol=self.same)

    def test_it_goes_through_copies_pickles_and_state_dicts(self) -> None:
        for module, choice, channels, size in self._each():
            u, module = torch.randn(2, channels, *size), module.eval()
            fresh = self._built(choice, channels, size).eval()
            fresh.load_state_dict(module.state_dict())
            for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), fresh):  # noqa: S301  # our own
                assert torch.equal(other(u), module(u))

    def test_its_gates_are_what_it_multiplies_by(self) -> None:
        for module, _, channels, size in self._each():
            if self._kind().gate:
                assert isinstance(module, SEBlock | ChannelGate)
                u = torch.randn(2, channels, *size)
                with torch.no_grad():
                    gates = module.eval().gates(u)
                    assert gates.shape == (2, channels, *(1,) * len(size))
                    torch.testing.assert_close(module(u), u * gates, rtol=self.same, atol=self.same)

    def _kind(self) -> BlockKind:
        name, kind = read_block(self.block, where="the test")
        return BLOCKS[name] if kind is None else kind

    def _each(self) -> Iterator[tuple[nn.Module, Choice, int, tuple[int, ...]]]:
        """Each block that is tried, with new weights."""
        name, own = read_block(self.block, where="the test")
        kind = self._kind()
        for size in (size for size in self.shapes if len(size) in kind.sizes):
            for channels in self.channels:
                for reduction in self.reductions if kind.width else self.reductions[:1]:
                    for init in INITS:
                        settings: dict[str, Any] = {"block": name, "own": UNSET if own is None else own, "init": init}
                        choice = Choice.se(channels, reduction, **settings)
                        yield self._built(choice, channels, size), choice, channels, size

    def _built(self, choice: Choice, channels: int, size: tuple[int, ...]) -> nn.Module:
        site = Site(unit="unit", position="standard", module="module", channels=channels, size=size)
        return build_block(site, choice)
