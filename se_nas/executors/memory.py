"""What every worker process does to its memory, before its first evaluation and after each."""

from __future__ import annotations

import ctypes
import gc

ARENAS, TRIM, MMAP = -8, -1, -3
"""Parameters of glibc's mallopt: number of arenas, and the sizes above which free memory goes back to the system and a
block is the system's own."""

KEPT, LARGE = 2**30, 2**25
"""Bytes of free memory that a worker keeps at most, and of the largest block that is kept (glibc takes no more)."""


def settle() -> None:
    """Prepare for many trainings, when all libraries are loaded.

    Freed memory is kept for the next batch. The C library would give it back after every batch and get it again page by
    page, which takes 8 % of a training whose activations have a few MB each (ResNet-8 at 32 pixels, measured).
    Elsewhere than with glibc nothing is changed there.
    """
    gc.freeze()  # what is loaded stays, so that collections are quick
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library
        return
    for parameter, value in ((ARENAS, 1), (MMAP, LARGE), (TRIM, KEPT)):
        mallopt(parameter, value)


def tidy() -> None:
    """Free what an evaluation left: a trainer and its network hold each other, and with them the device's memory."""
    gc.collect()
