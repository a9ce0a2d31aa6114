"""Which running trials their driver gave up: told by this process's own clock, since no two machines agree on the time.

A driver renews the lease of what it trains. Nobody asks when a lease ends: the clock of a machine may be set back or
forward by years while a search runs. What counts is whether a lease is renewed while we look.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from se_nas.core.trial import Trial


class Leases:
    """Leases of running trials, and since when each is as it is."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[float, float]] = {}

    def given_up(self, trials: Sequence[Trial], length: float) -> list[Trial]:
        """Those whose lease has not been renewed for more than so many seconds of our looking at it.

        A trial that is not among the given ones is forgotten.
        """
        now = time.monotonic()
        before = self._seen
        self._seen = {
            t.number: before[t.number] if t.number in before and before[t.number][0] == t.lease else (t.lease, now)
            for t in trials
        }
        return [t for t in trials if now - self._seen[t.number][1] > length]
