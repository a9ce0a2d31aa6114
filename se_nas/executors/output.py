"""What a worker process prints: passed on to the terminal, and its last lines kept for the reason of its death."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import sys
import threading
from collections import deque
from typing import Any

LINES = 6
"""Last lines of a worker that are told."""

KEPT = 200
"""Lines that are remembered: the report of a crash is longer than what is told of it."""

FATAL, CURRENT = "Fatal Python error", "Current thread"
"""How the report of a crash begins, and the line in it after which stands where it was."""


class Output:
    """The driver's end of what a worker prints; `reader` is a connection whose other end the worker writes to."""

    def __init__(self, reader: Any) -> None:
        self._reader = reader
        self._kept: deque[bytes] = deque([b""], maxlen=KEPT)
        self._thread = threading.Thread(target=self._pass_on, name="output of a worker", daemon=True)
        self._thread.start()

    def _pass_on(self) -> None:
        with contextlib.suppress(OSError), self._reader:
            while data := os.read(self._reader.fileno(), 2**16):
                first, *others = data.split(b"\n")
                kept = self._kept
                kept[-1] = (kept[-1] + first)[-1000:]
                kept.extend(others)
                with contextlib.suppress(OSError):  # nobody looks
                    os.write(2, data)

    def forget(self) -> None:
        """Another evaluation begins: what was printed so far is not of it."""
        self._kept = deque([b""], maxlen=KEPT)

    def tail(self) -> str:
        """The last lines as one; empty if there are none. Waits a moment for what is on its way."""
        self._thread.join(timeout=0.5)
        lines = [line.decode(errors="replace").strip() for line in list(self._kept)]
        lines = [line for line in lines if line and not line.startswith("Extension modules:")]
        crash = [line for line in lines if line.startswith(FATAL)]
        place = next((i for i, line in enumerate(lines) if line.startswith(CURRENT)), 0)
        return " | ".join([crash[-1], *lines[place + 1 :][: LINES - 1]] if crash else lines[-LINES:])


def redirect(writer: Any) -> None:
    """Have all that this process prints go to a connection, at once; a crash says where it was."""
    sys.stdout.flush()
    for number in (1, 2):
        os.dup2(writer.fileno(), number)
    writer.close()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # of a process that has just started
    faulthandler.enable(file=2)
