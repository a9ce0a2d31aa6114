"""Changing one expression of a method, and leaving the rest."""

from __future__ import annotations

import inspect
import linecache

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from se_nas.core.errors import SpaceError
from se_nas.insertion.rewrite import Place, rewritten

FACTOR = 3.0


class Double(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


class Example(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = Double()

    def forward(self, x: Tensor, *, shift: float = 0.5) -> Tensor:
        """Documentation stays."""
        y = x + FACTOR
        y += x
        z = torch.cat([x, y], 0)
        return torch.add(z, shift)

    @torch.no_grad()
    def decorated(self, x: Tensor) -> Tensor:
        return x + 1


def place(text: str, method: str = "forward") -> str:
    """Where an expression stands in `Example`."""
    lines, _ = inspect.getsourcelines(getattr(Example, method))
    (number,) = (n for n, line in enumerate(lines) if text in line)
    column = lines[number].index(text)
    return str(Place(method, (number, column, number, column + len(text))))


@pytest.mark.parametrize(
    ("text", "suffix", "expected"),
    [
        ("x + FACTOR", "", [1.5, 9.5]),
        ("x + FACTOR", "#self", [1.5, 6.5]),
        ("x + FACTOR", "#0", [1.5, 8.5]),
        ("x + FACTOR", "=self", [1.5, 3.5]),
        ("y += x", "", [1.5, 10.5]),
        ("y += x", "#self", [1.5, 9.5]),
        ("y += x", "#0", [1.5, 6.5]),
        ("y += x", "=self", [1.5, 8.5]),
        ("y += x", "=0", [1.5, 2.5]),
        ("torch.cat([x, y], 0)", "", [2.5, 10.5]),
        ("torch.cat([x, y], 0)", "#0.1", [1.5, 10.5]),
        ("torch.add(z, shift)", "#0", [2.5, 10.5]),
    ],
)
def test_changes_exactly_the_expression(text: str, suffix: str, expected: list[float]) -> None:
    method = rewritten(Example, {place(text) + suffix: "block"})["forward"]
    assert method(Example(), torch.ones(1)).tolist() == expected


def test_an_empty_name_puts_the_operand_alone() -> None:
    method = rewritten(Example, {place("torch.add(z, shift)") + "=0": ""})["forward"]
    assert method(Example(), torch.ones(1)).tolist() == [1.0, 5.0]


def test_several_changes_at_once() -> None:
    edits = {
        place("x + FACTOR"): "block",
        place("y += x") + "#0": "block",
        place("torch.cat([x, y], 0)") + "#0.0": "block",
    }
    method = rewritten(Example, edits)["forward"]
    assert method(Example(), torch.ones(1), shift=0.0).tolist() == [2.0, 10.0]


def test_signature_and_documentation_stay() -> None:
    method = rewritten(Example, {place("x + FACTOR"): "block"})["forward"]
    assert inspect.signature(method) == inspect.signature(Example.forward)
    assert method.__doc__ == "Documentation stays."


@given(st.integers(0, 99), st.integers(0, 99), st.integers(0, 99), st.integers(0, 99), st.sampled_from(["", "#0.1"]))
def test_places_are_read_as_they_are_written(a: int, b: int, c: int, d: int, suffix: str) -> None:
    written = Place("forward", (a, b, c, d))
    assert Place.read(str(written) + suffix) == (written, suffix)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ("forward:1:0-1:5", "has no expression at forward:1:0-1:5"),
        (place("torch.add(z, shift)") + "#7", "has no expression"),
        (place("x + 1", "decorated"), "is decorated or not a plain function"),
        ("missing:1:0-1:5", "is decorated or not a plain function"),
    ],
)
def test_what_cannot_be_changed(edit: str, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        rewritten(Example, {edit: "block"})


def test_code_without_source() -> None:
    names: dict[str, type[nn.Module]] = {}
    exec("from torch import nn\nclass Made(nn.Module):\n    def forward(self, x):\n        return x + 1\n", names)
    linecache.clearcache()
    with pytest.raises(SpaceError, match=r"source of Made\.forward is not available"):
        rewritten(names["Made"], {"forward:1:15-1:20": "block"})
