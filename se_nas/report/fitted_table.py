"""A table of the terminal that fits its width: the columns that matter least are left out, nothing is cut in two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.box import HEAVY_HEAD, Box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table

from se_nas.core.plain_text import visible

TEXT = 18
"""Characters that a column of text has at least, if it has as many: its words wrap, and are not broken."""


EXTRA, COMFORT = 5, 36
"""The first rank of columns that are not worth a line break in a text, and the width up to which a text has none."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column.

    Parameters
    ----------
    head:
        Wraps at spaces.
    rank:
        Columns of a lower rank stay longer; of equal ones the left one. Those from `EXTRA` on come only where no text
        has to wrap for them.
    text:
        Whether it is text, which wraps at spaces and stands left; numbers are never broken.
    """

    head: str
    cells: Sequence[str]
    rank: int = 0
    text: bool = False

    @property
    def least(self) -> int:
        """Its smallest width."""
        words = max(map(_length, self.head.split()), default=0)
        if not self.text:
            return max(words, *map(_length, self.cells), 0)
        longest = max((_length(word) for cell in self.cells for word in cell.split()), default=0)
        return max(words, longest, min(self.whole, TEXT))

    @property
    def whole(self) -> int:
        """The width at which nothing wraps."""
        return max(_length(self.head), *map(_length, self.cells), 0)


def _length(text: str) -> int:
    """Cells of a terminal, with each control character shown as ``?``."""
    return cell_len(visible(text))


@dataclass(frozen=True, kw_only=True)
class FittedTable:
    """Columns of equal length, of which as many are shown as the width has room for.

    Parameters
    ----------
    styles:
        Of each row; by default none has one.
    sections:
        Rows before which there is a line.
    note:
        Below the table.
    elsewhere:
        Where the columns are that are not shown; empty: nothing is said of them.
    """

    columns: Sequence[Column]
    title: str = ""
    styles: Sequence[str] = ()
    sections: frozenset[int] = frozenset()
    note: str = ""
    elsewhere: str = ""
    box: Box | None = field(default=HEAVY_HEAD)

    @property
    def row_count(self) -> int:
        return len(self.columns[0].cells)

    def widths(self, width: int) -> dict[int, int]:
        """Number of a column -> its characters, of those that fit a table of this width, in their order."""
        own = 1 if self.box else 0  # lines between columns
        room, chosen = width - own, dict[int, int]()
        for i in sorted(range(len(self.columns)), key=lambda i: self.columns[i].rank):
            column = self.columns[i]
            need = column.least + 2 + own
            kept = [self.columns[j] for j in chosen if self.columns[j].text] if column.rank >= EXTRA else []
            if need + sum(max(0, min(text.whole, COMFORT) - text.least) for text in kept) <= room or not chosen:
                chosen[i] = column.least
                room -= need
        for i in sorted(chosen, key=lambda i: not self.columns[i].text):
            more = self.columns[i].whole - chosen[i]
            if more > room:  # a head that wraps anyway needs no more
                more = room if self.columns[i].text else 0
            chosen[i] += more
            room -= more
        return dict(sorted(chosen.items()))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        widths = self.widths(options.max_width)
        shown = [self.columns[i] for i in widths]
        hidden = dict.fromkeys(column.head for i, column in enumerate(self.columns) if i not in widths)
        table = Table(title=self.title or None, title_justify="left", box=self.box, caption_justify="left")
        for column, width in zip(shown, widths.values(), strict=True):
            table.add_column(column.head, justify="left" if column.text else "right", width=width, overflow="fold")
        for i in range(self.row_count):
            if i in self.sections:
                table.add_section()
            table.add_row(*(c.cells[i] for c in shown), style=self.styles[i] if self.styles else None)
        yield table
        notes = [self.note] if self.note else []
        if hidden and self.elsewhere:
            notes.append(f"Not shown at this width: {', '.join(hidden)} ({self.elsewhere}).")
        for note in notes:
            yield console.render_str(note, style="dim italic", highlight=False)
