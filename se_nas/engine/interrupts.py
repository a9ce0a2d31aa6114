"""Ctrl-C and SIGTERM while trainings run."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def interruptible(interrupt: Callable[[bool], None]) -> Iterator[None]:
    """Ctrl-C asks for a clean end, a second one and SIGTERM for an end at once. In other threads nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pressed = False

    def handle(number: int, frame: object) -> None:
        nonlocal pressed
        again, pressed = pressed or number == signal.SIGTERM, True
        interrupt(again)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
