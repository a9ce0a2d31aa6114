"""What a worker process prints: passed on to the terminal, and its last lines kept for the reason of its death."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import re
import sys
import threading
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

LINES = 6
"""Last lines of a worker that are told."""

KEPT = 200
"""Lines that are remembered: the report of a crash is longer than what is told of it."""

FATAL, PLACE = "Fatal Python error", ("Current thread", "Stack (most recent call first)")
"""How the report of a crash begins, and the line in it after which stands where it was."""

NOISE = re.compile(
    r"Extension modules:|:job_id:|:actor_name:|\*\*\* SIG|PC: @|@  |\[[\d-]+ [\d:,.]+ [A-Z] \d+ \d+\] \S+\.(cc|h):\d+"
)
"""How lines begin that say nothing of the user's code: of Python's report of a crash, and of Ray."""


class Output:
    """The driver's end of what a worker prints; `reader` is a connection whose other end the worker writes to."""

    def __init__(self, reader: Any) -> None:
        self._reader = reader
        self._kept: deque[bytes] = deque([b""], maxlen=KEPT)
        self._line = b""
        self._thread = threading.Thread(target=self._pass_on, name="output of a worker", daemon=True)
        self._thread.start()

    def _pass_on(self) -> None:
        with contextlib.suppress(OSError), self._reader:
            while data := os.read(self._reader.fileno(), 2**16):
                first, *others = data.split(b"\n")
                kept = self._kept
                kept[-1] = (kept[-1] + first)[-1000:]
                kept.extend(others)
                self._show(data)
            self._show(b"\n" if self._line else b"")

    def _show(self, data: bytes) -> None:
        """Write to the terminal; in whole lines where a picture is drawn in it, or where it is a notebook."""
        with contextlib.suppress(OSError, ValueError):  # nobody looks
            if sys.stderr is sys.__stderr__ or sys.stderr is None:
                os.write(2, data)
                return
            lines, end, rest = (self._line + data).rpartition(b"\n")
            self._line = rest
            sys.stderr.write((lines + end).decode(errors="replace"))

    def forget(self) -> None:
        """Another evaluation begins: what was printed so far is not of it."""
        self._kept = deque([b""], maxlen=KEPT)

    def tail(self) -> str:
        """The last lines as one; empty if there are none. Waits a moment for what is on its way."""
        self._thread.join(timeout=0.5)
        return last_lines(list(self._kept))


def last_lines(lines: Iterable[bytes]) -> str:
    """The last lines as one, or where a crash was; each of at most 300 characters."""
    texts = [line.decode(errors="replace").strip()[:300] for line in lines]
    texts = [text for text in texts if text and not NOISE.match(text)]
    crash = [text for text in texts if text.startswith(FATAL)]
    place = next((i for i, text in enumerate(texts) if text.startswith(PLACE)), 0)
    return " | ".join([crash[-1], *texts[place + 1 :][: LINES - 1]] if crash else texts[-LINES:])


def with_output(what: str, tail: str) -> str:
    """What happened, with the last lines that were printed before."""
    return f"{what}; its last output: {tail}" if tail else f"{what}; it printed nothing"


def printed_to() -> dict[str, int]:
    """The files that this process prints to, where it does, with how many bytes are in each by now."""
    found: dict[str, int] = {}
    for number in (1, 2):
        with contextlib.suppress(OSError):
            file = Path(f"/proc/self/fd/{number}").resolve()
            if file.is_file():
                found[str(file)] = file.stat().st_size
    return found


def printed_since(files: Mapping[str, int]) -> str:
    """The last lines of such files from those bytes on; on the machine of the process, which may have ended."""
    lines: list[bytes] = []
    for name, start in files.items():
        with contextlib.suppress(OSError), Path(name).open("rb") as file:
            file.seek(max(start, Path(name).stat().st_size - 2**16))
            lines += file.read().splitlines()[-KEPT:]
    return last_lines(lines)


def redirect(writer: Any) -> None:
    """Have all that this process prints go to a connection, at once; a crash says where it was."""
    sys.stdout.flush()
    for number in (1, 2):
        os.dup2(writer.fileno(), number)
    writer.close()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # of a process that has just started
    faulthandler.enable(file=2)
