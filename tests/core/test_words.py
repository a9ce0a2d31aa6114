"""Numbers as people read them."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from se_nas.core.words import chances_cell, percents


@given(st.lists(st.floats(0.0, 1.0), min_size=3, max_size=3).filter(lambda parts: sum(parts) > 0))
def test_percents_add_up_and_are_next_to_the_shares(parts: list[float]) -> None:
    shares = [part / sum(parts) for part in parts]
    whole = percents(*shares)
    assert sum(whole) == 100
    for share, percent in zip(shares, whole, strict=True):
        assert math.floor(100 * share) - 1e-9 <= percent <= math.ceil(100 * share) + 1e-9 + (share == int(share))


def test_a_cell_needs_all_three() -> None:
    assert chances_cell(0.5, 0.25, 0.25) == "50 / 25 / 25 %"
    assert chances_cell(0.5, None, 0.25) == ""
    assert chances_cell(math.nan, math.nan, math.nan) == ""
