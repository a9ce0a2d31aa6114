"""Where a running search is shown: drawn again and again in a terminal or a notebook, as lines in a log, nowhere.

Each of them is told lines that stay, and draws the picture that it was made with at moments of its own choice.
"""

from __future__ import annotations

import contextlib
import io
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, Protocol

from rich.console import Group, RenderableType
from rich.live import Live

from se_nas.report.console import PlainConsole, console

Draw = Callable[[], Sequence[RenderableType]]
"""The picture of this moment; nothing to draw: empty."""


class Screen(Protocol):
    """What all have; `moves` is whether the picture is drawn at all, `redraw` says that it is another one."""

    moves: bool

    def start(self, draw: Draw, tick: Callable[[], None]) -> None: ...

    def stop(self) -> None: ...

    def say(self, line: str) -> None: ...

    def redraw(self) -> None: ...


class Nowhere:
    """Shows nothing."""

    moves = False

    def start(self, draw: Draw, tick: Callable[[], None]) -> None: ...

    def stop(self) -> None: ...

    def say(self, line: str) -> None: ...

    def redraw(self) -> None: ...


class Terminal:
    """Draws on standard error, four times a second, below the lines that stay.

    Parameters
    ----------
    force:
        Draw even if it is not a terminal.
    """

    moves = True

    def __init__(self, *, force: bool = False) -> None:
        self._console = console(stderr=True, force=force)
        self._live: Live | None = None

    def start(self, draw: Draw, tick: Callable[[], None]) -> None:
        self._live = Live(
            console=self._console, refresh_per_second=4, transient=True, get_renderable=lambda: Group(*draw())
        )
        self._live.start()

    def stop(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def say(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False)

    def redraw(self) -> None: ...


class Lines:
    """Lines on standard error; `tick` is called each second, for those that are said at their time."""

    moves = False

    def __init__(self) -> None:
        self._console = console(stderr=True)
        self._clock: _Clock | None = None

    def start(self, draw: Draw, tick: Callable[[], None]) -> None:
        self._clock = _Clock(1.0, tick)

    def stop(self) -> None:
        if self._clock is not None:
            self._clock.stop()
            self._clock = None

    def say(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False)

    def redraw(self) -> None: ...


class Notebook:
    """HTML below the cell, of which each version takes the place of the one before."""

    moves = True
    WIDTH = 110
    """Characters of a line."""
    KEPT = 40
    """Lines that stay, at most: the last ones."""
    _free: ClassVar[Notebook | None] = None
    """What a screen that showed the loading of libraries leaves to the next one of the same cell: its display."""

    def __init__(self) -> None:
        self.cell = 0
        self._lines: list[str] = []
        self._handle: Any = None
        self._shown = ""
        self._draw: Draw = list
        self._clock: _Clock | None = None
        self._drawing = threading.Lock()

    def start(self, draw: Draw, tick: Callable[[], None]) -> None:
        from IPython import get_ipython  # which is there where there is a notebook
        from IPython.display import HTML, display

        self._draw, self.cell = draw, getattr(get_ipython(), "execution_count", 0)
        free, Notebook._free = Notebook._free, None
        again = free is not None and free.cell == self.cell
        self._handle = free._handle if free is not None and again else display(HTML(""), display_id=True)
        self._clock = _Clock(1.0, self.redraw)

    def stop(self) -> None:
        if self._clock is not None:
            self._clock.stop()
            self._clock = None
            self._draw = list
            self.redraw()

    def say(self, line: str) -> None:
        self._lines.append(line)
        self.redraw()

    def redraw(self) -> None:
        from IPython.display import HTML

        with self._drawing:
            page = html_of([*self._lines[-self.KEPT :], *self._draw()], self.WIDTH)
            if self._handle is not None and page != self._shown:
                self._handle.update(HTML(page))
                self._shown = page


def html_of(parts: Sequence[RenderableType], width: int) -> str:
    """Texts and tables as HTML that needs no style sheet, and takes its colours from the page that it is on."""
    out = PlainConsole(
        record=True, file=io.StringIO(), width=width, markup=False, emoji=False, highlight=False, force_jupyter=False
    )
    for part in parts:
        out.print(part)
    lines = out.export_html(inline_styles=True, code_format="{code}").rstrip()
    style = "white-space: pre; overflow-x: auto; line-height: normal; font-family: monospace"
    return f'<pre class="se-nas-progress" style="{style}">{lines}</pre>'


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook, and not IPython in a terminal."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return getattr(shell, "kernel", None) is not None


@contextlib.contextmanager
def while_loading() -> Iterator[None]:
    """In a notebook, say below the cell that libraries are being loaded, until they are; elsewhere nothing.

    tqdm's warning that ipywidgets are not installed is not shown: progress is drawn without them.
    """
    if not in_notebook():
        yield
        return
    warnings.filterwarnings("ignore", message="IProgress not found")
    screen = Notebook()
    screen.start(lambda: ["loading PyTorch and Lightning ..."], lambda: None)
    screen.redraw()
    try:
        yield
    finally:
        screen.stop()
        Notebook._free = screen


class _Clock:
    """Calls a function again and again, in a thread of its own, until it is stopped."""

    def __init__(self, seconds: float, call: Callable[[], None]) -> None:
        self._seconds, self._call = seconds, call
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="se-nas progress", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._end.wait(self._seconds):
            self._call()

    def stop(self) -> None:
        self._end.set()
        self._thread.join()
