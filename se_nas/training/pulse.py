"""Signs of life of a training between its epochs: each batch is one, so that only one that stands still is silent."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

from se_nas.core.protocols import Channel

EVERY = 1.0
"""Seconds between two signs: more often than anybody asks for them, and too seldom to cost anything."""

Seen = Mapping[str, float]
"""Where a training is; see `se_nas.core.protocols.Channel`."""


class Pulse:
    """Tells a channel that the training lives, if the channel can tell it; to be called at each batch.

    Heard are calls of the thread that made it: loaders read ahead in others, while the training may stand still.
    """

    def __init__(self, channel: Channel) -> None:
        self._tell: Callable[[Seen], None] | None = getattr(channel, "alive", None)
        self._last = time.monotonic()
        self._own = _here()

    def __call__(self, seen: Callable[[], Seen] = dict) -> None:
        """A batch is done; `seen`, which may have to wait for the device, is asked only when a sign is due."""
        now = time.monotonic()
        if self._tell is not None and now - self._last >= EVERY and _here() == self._own:
            self._last = now
            self._tell(seen())

    def pass_on(self, seen: Seen) -> None:
        """Tell what another pulse has told."""
        if self._tell is not None:
            self._tell(seen)


def _here() -> tuple[int, int]:
    return os.getpid(), threading.get_ident()


@contextlib.contextmanager
def heard(network: nn.Module, pulse: Pulse) -> Iterator[None]:
    """Have each call of a network, and each step of an optimizer, be a sign of life: for loops that are not ours."""
    hook = _Hook(pulse)
    handles = [network.register_forward_pre_hook(hook), register_optimizer_step_post_hook(hook)]
    try:
        yield
    finally:
        hook.pulse = None  # copies of the network that outlive the training have it, too
        for handle in handles:
            handle.remove()


class _Hook:
    """What torch calls. A copy of the network has the same hook, one that is pickled has none that is heard."""

    def __init__(self, pulse: Pulse | None = None) -> None:
        self.pulse = pulse
        self.steps = 0

    def __call__(self, caller: Any, *_: Any) -> None:
        if not torch.compiler.is_compiling() and self.pulse is not None:
            self.steps += isinstance(caller, Optimizer)
            self.pulse(lambda: {"step": float(self.steps)})

    def __copy__(self) -> _Hook:
        return self

    def __deepcopy__(self, memo: Any) -> _Hook:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _Hook, ()
