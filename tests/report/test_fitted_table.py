"""Tables of the terminal: within the width, nothing cut in two, and what matters most stays longest."""

from __future__ import annotations

import io
import re

import pytest
from helpers import OBJECTIVE, findings, searched
from hypothesis import given
from hypothesis import strategies as st
from rich.box import HEAVY_HEAD, SIMPLE_HEAD
from rich.console import Console

from se_nas.analysis.summary import Summary, summarize
from se_nas.core.words import flops_told_apart
from se_nas.report.fitted_table import COMFORT, EXTRA, Column, FittedTable
from se_nas.report.front_table import front_display
from se_nas.report.rules_table import rules_display
from se_nas.space.space import Space


def printed(table: FittedTable, width: int) -> str:
    out = io.StringIO()
    Console(file=out, width=width, color_system=None).print(table)
    return out.getvalue()


def words_in(text: str) -> set[str]:
    return set(re.sub("[┃│╇━┏┓┡┩┳┗┛└┘┴├┤┼─]", " ", text).split())


WORD = st.text("abcdef0123456789.,+-%=", min_size=1, max_size=14)
CELL = st.lists(WORD, min_size=1, max_size=4).map(" ".join)


@st.composite
def tables(draw: st.DrawFn) -> FittedTable:
    rows = draw(st.integers(1, 4))
    columns = [
        Column(
            head=draw(CELL),
            cells=draw(st.lists(CELL, min_size=rows, max_size=rows)),
            rank=draw(st.integers(0, 7)),
            text=draw(st.booleans()),
        )
        for _ in range(draw(st.integers(1, 8)))
    ]
    return FittedTable(columns=columns, box=draw(st.sampled_from([HEAVY_HEAD, SIMPLE_HEAD, None])))


@given(table=tables(), width=st.integers(70, 220))
def test_no_line_is_too_long_and_no_word_is_cut(table: FittedTable, width: int) -> None:
    text = printed(table, width)
    assert max(map(len, text.splitlines())) <= width
    shown = table.widths(width)
    for i in shown:
        column = table.columns[i]
        assert {word for cell in column.cells for word in cell.split()} <= words_in(text)
        if not column.text:
            assert all(cell in text for cell in column.cells), "a number is on one line"
    hidden = [i for i in range(len(table.columns)) if i not in shown]
    own = 1 if table.box else 0
    used = own + sum(table.columns[i].least + 2 + own for i in shown)
    for i in hidden:
        kept = [table.columns[j] for j in shown if table.columns[j].rank <= table.columns[i].rank]
        needed = own + sum(column.least + 2 + own for column in kept)
        if table.columns[i].rank >= EXTRA:
            needed += sum(max(0, min(c.whole, COMFORT) - c.least) for c in kept if c.text)
        assert needed + table.columns[i].least + 2 + own > width, "there was room for it before those of a higher rank"
    assert used <= width


def test_what_is_left_out_is_said() -> None:
    columns = [Column(head=f"head{i}", cells=["1" * 20], rank=i) for i in range(4)]
    text = printed(FittedTable(columns=columns, elsewhere="all of it: x.csv"), 60)
    assert "head0" in text
    assert "Not shown at this width: head2, head3 (all of it: x.csv)." in " ".join(text.split())
    assert "Not shown" not in printed(FittedTable(columns=columns, elsewhere="all of it: x.csv"), 120)


@pytest.fixture
def summary(space8: Space) -> Summary:
    return summarize(findings(searched(space8, 24), OBJECTIVE, space8), folder="runs/x", budget=24, ended="e")


@pytest.mark.parametrize(
    ("width", "there", "missing"),
    [
        (80, ["placement", "mean", "(points)", "/ worse", "FLOPs"], ["p_front", "interval", "val_accuracy"]),
        (100, ["placement", "mean", "(points)", "/ worse", "FLOPs", "val_accuracy"], ["p_front"]),
        (140, ["placement", "mean", "/ worse", "FLOPs", "val_accuracy", "90 % interval", "params"], []),
        (200, ["p_front", "MACs vs.", "90 % interval"], ["Not shown"]),
    ],
)
def test_the_front_at_usual_widths(summary: Summary, width: int, there: list[str], missing: list[str]) -> None:
    text = printed(front_display(summary, title="front"), width)
    assert max(map(len, text.splitlines())) <= width
    assert [name for name in there if name not in text] == []
    assert [name for name in missing if name in text] == []


@pytest.mark.parametrize("width", [80, 100, 140])
def test_the_rules_at_usual_widths(summary: Summary, width: int) -> None:
    display = rules_display(summary)
    assert display is not None
    text = printed(display, width)
    assert max(map(len, text.splitlines())) <= width
    assert "points" in text
    assert "(EfficientNetV2)" in text


@given(st.lists(st.integers(10_000, 10**11), min_size=1, max_size=6))
def test_flops_are_told_apart(macs: list[int]) -> None:
    unit, texts = flops_told_apart([n / 1e9 for n in macs])
    factor = {"GFLOPs": 1.0, "MFLOPs": 1e3}[unit]
    assert (unit == "GFLOPs") == (max(macs) >= 1e9)
    for n, text in zip(macs, texts, strict=True):
        near = max(macs) / 1e9 * factor / 1e3
        assert float(text.replace(",", "")) == pytest.approx(n / 1e9 * factor, rel=1e-3, abs=near)
    apart = {round(n / max(macs), 5) for n in macs}
    assert len(set(texts)) >= len(apart), "what differs in five digits of the largest is seen to differ"
