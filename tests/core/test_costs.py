"""What costs are called and counted in, wherever a person reads them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from se_nas.core.config import Limits
from se_nas.core.costs import COSTS, EXACT, MEASURED, SHOWN, cost_facts
from se_nas.core.words import cost_name, cost_text, cost_with_unit


def test_every_cost_can_be_a_limit() -> None:
    assert {field.name for field in dataclasses.fields(Limits)} - {"own"} == set(COSTS)
    assert (*EXACT, *MEASURED) == tuple(COSTS)
    assert set(SHOWN) < set(COSTS)


@pytest.mark.parametrize(
    ("name", "head", "word", "printed", "text"),
    [
        ("params", "parameters", "parameters", "params", "1,234,567"),
        ("macs", "multiply-adds", "MACs", "macs", "1,234,567"),
        ("activations", "activations", "activations", "activations", "1,234,567"),
        ("gflops", "GFLOPs", "GFLOPs", "gflops (10^9 MACs)", "1.2346e+06"),
        ("latency", "latency (ms)", "latency", "latency (ms)", "1.2346e+06"),
        ("memory", "peak memory (MiB)", "memory", "memory (MiB)", "1.2346e+06"),
        ("energy", "energy", "energy", "energy", "1.2346e+06"),
    ],
)
def test_names_and_amounts(name: str, head: str, word: str, printed: str, text: str) -> None:
    assert cost_name(name) == head
    assert cost_facts(name).word == word
    assert cost_with_unit(name) == printed
    assert cost_text(1_234_567, name) == text


@pytest.mark.parametrize("value", [None, np.nan, np.inf])
def test_a_cost_that_is_not_known_is_empty(value: float) -> None:
    assert cost_text(value, "params") == cost_text(value, "latency") == ""
