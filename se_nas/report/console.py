"""The terminal as everything here writes to it: text is text, whatever characters a name has."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from se_nas.core.plain_text import visible

WIDTH = 100
"""Characters of a line where the output is not a terminal and the variable COLUMNS is not set."""


class PlainConsole(Console):
    """Nothing in a text is an escape sequence; each control character is shown as ``?``."""

    def render_str(self, text: str, **settings: Any) -> Text:
        # Before it is measured, so that columns fit.
        return super().render_str(visible(text), **settings)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=visible(segment.text))


def console(
    *, stderr: bool = False, soft_wrap: bool | None = None, width: int | None = None, highlight: bool = True,
    force: bool = False,
) -> Console:  # fmt: skip
    """A console whose texts have no markup.

    Parameters
    ----------
    soft_wrap:
        Whether long lines are left to the terminal; default where the stream is none.
    width:
        In characters, where the stream is not a terminal and the variable COLUMNS is not set; default as rich finds it.
    force:
        Treat the stream as a terminal.
    """
    terminal = (sys.stderr if stderr else sys.stdout).isatty()
    return PlainConsole(
        stderr=stderr,
        soft_wrap=not terminal if soft_wrap is None else soft_wrap,
        width=None if terminal or os.environ.get("COLUMNS", "").isdigit() else width,
        force_terminal=True if force else None,
        highlight=highlight,
        markup=False,
        emoji=False,
    )
