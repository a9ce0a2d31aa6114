"""Names from elsewhere do nothing in a terminal and nothing in a spreadsheet."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pandas as pd
import pytest
from helpers import REPOSITORY
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table

from se_nas.core.errors import RunError
from se_nas.core.plain_text import as_cell, visible
from se_nas.report import console as consoles
from se_nas.report.figures import csv_of, save_table

EVIL = "a\x1b]0;owned\x07\x1b[2J\x9b31m\r\x08\u202eb"
STEERING = [*(chr(c) for c in (*range(9), *range(11, 32), *range(127, 160))), "\u202e", "\u2066", "\ud800"]


class TestVisible:
    @given(st.text(st.characters()))
    def test_nothing_that_steers_a_terminal_is_left(self, text: str) -> None:
        assert not set(visible(text)) & set(STEERING)
        assert len(visible(text)) == len(text)

    def test_all_else_stays(self) -> None:
        text = "Größe 本 🎉\tstage1=16,\nstage2 [red]"
        assert visible(text) == text

    def test_errors(self) -> None:
        assert str(RunError(EVIL, where=EVIL, allowed=[EVIL], hint=EVIL)).count("\x1b") == 0


class TestConsole:
    def test_text_titles_and_cells(self, monkeypatch: pytest.MonkeyPatch) -> None:
        out = consoles.console(width=60)
        monkeypatch.setattr(out, "_file", file := io.StringIO())
        table = Table(title=EVIL)
        table.add_column(EVIL)
        table.add_row(f"{EVIL}[/no markup] :smile:")
        out.print(table)
        out.print(EVIL)
        text = file.getvalue()
        assert not set(text) & set(STEERING)
        assert "[/no markup] :smile:" in text
        assert len({len(line) for line in text.splitlines() if line and line[0] in "┃│┏┡└"}) == 1

    def test_colours_of_a_terminal_are_our_own(self, monkeypatch: pytest.MonkeyPatch) -> None:
        out = consoles.PlainConsole(
            file=(file := io.StringIO()), force_terminal=True, color_system="standard", highlight=False
        )
        out.print("\x1b[31mred", style="green")
        assert file.getvalue() == "\x1b[32m?[31mred\x1b[0m\n"

    def test_there_is_no_other(self) -> None:
        makers = [
            file.name
            for file in (REPOSITORY / "se_nas").rglob("*.py")
            if re.search(r"\bConsole\(|\brich\.print\b|from rich import print", file.read_text())
        ]
        assert makers == []


class TestCells:
    @pytest.mark.parametrize(
        "text",
        ["=1+1", "+cmd|' /C calc'!A0", "-cmd|x", "@SUM(A1)", "\t=1", "\r=1", "\n=1", " =1", "＝1", "-1+1", "--1", "+a",
         "-0.1 to =x"],
    )  # fmt: skip
    def test_formulas_become_text(self, text: str) -> None:
        assert as_cell(text) == f"'{text}"

    @pytest.mark.parametrize(
        "value", ["stage1=16", "a", "", "-0.31", "+1,234", "-1.5e-7", "-", "-0.31 to +0.2", "+3 %", -1.5, None, True]
    )
    def test_numbers_and_harmless_text_stay(self, value: object) -> None:
        assert as_cell(value) == value

    def test_tables(self, tmp_path: Path) -> None:
        frame = pd.DataFrame({"=evil": ["=1+1", "a"], "n": [-1, 2], "x": [-0.5, None], "y": ["-0.5", "@x"]})
        assert csv_of(frame) == "'=evil,n,x,y\n'=1+1,-1,-0.5,-0.5\na,2,,'@x\n"
        save_table(frame[["=evil"]], tmp_path / "table")
        assert (tmp_path / "table.csv").read_text() == "'=evil\n'=1+1\na\n"
