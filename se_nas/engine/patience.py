"""How long a training may go without a sign of life, and a search beyond its time, before it is ended."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Sequence
from concurrent.futures import Future, wait
from typing import Any

from se_nas.core.config import SearchConfig, seconds
from se_nas.core.protocols import Executor
from se_nas.core.trial import Result, Trial
from se_nas.core.words import duration

TIMES, LEAST, FIRST = 10, 600.0, 12 * 3600.0
"""Of auto: so many times the slowest training so far, at least so many seconds, and those before one has ended."""

GRACE, LEAST_GRACE = 0.1, 60.0
"""Share of max_time that what runs at its end has left, and the least seconds."""

SILENT = "no sign of life"
"""How the reason begins of a training that was ended for it."""


class Patience:
    """Watches what runs; whoever executes it ends it.

    Parameters
    ----------
    trials:
        Those that are there already.
    """

    def __init__(self, config: SearchConfig, trials: Sequence[Trial] = ()) -> None:
        wanted = config.trial_timeout
        self.off, self._given = wanted == "off", None if wanted in ("auto", "off") else seconds(wanted, "trial_timeout")
        self._max_time = seconds(config.max_time) if config.max_time else None
        self._text, self._start = wanted, time.monotonic()
        self._signs: dict[int, float] = {}
        self._slowest = 0.0
        self.learn(trials)

    def learn(self, trials: Sequence[Trial]) -> None:
        """Take note of how long trainings took."""
        self._slowest = max([self._slowest, *(t.seconds for t in trials if t.counts)])

    def sign(self, number: int) -> None:
        """A trial has begun, or says that it lives."""
        self._signs[number] = time.monotonic()

    @property
    def limit(self) -> float:
        """Seconds without a sign of life after which a training is ended."""
        return self._given or (max(LEAST, TIMES * self._slowest) if self._slowest else FIRST)

    @property
    def rule(self) -> str:
        """Where the limit comes from."""
        if self._given is not None:
            return f"trial_timeout {self._text}"
        if not self._slowest:
            return "trial_timeout auto, before any training has ended"
        return f"trial_timeout auto: {TIMES} times the slowest training so far, at least {duration(LEAST)}"

    def silent(self, running: Collection[int]) -> dict[int, str]:
        """Numbers of the trials that have gone without a sign of life for too long, and the reason to end them."""
        if self.off:
            return {}
        now, limit = time.monotonic(), self.limit
        since = {number: now - self._signs.get(number, now) for number in running}
        return {
            number: f"{SILENT} for {duration(silence)} ({self.rule}), so it was ended"
            for number, silence in since.items()
            if silence > limit
        }

    @property
    def seconds_left(self) -> float | None:
        """Until nothing new is trained, by max_time; None without one."""
        return None if self._max_time is None else max(0.0, self._max_time - (time.monotonic() - self._start))

    @property
    def time_over(self) -> bool:
        """Whether nothing new is to be trained."""
        return self._max_time is not None and time.monotonic() - self._start > self._max_time

    @property
    def grace(self) -> float:
        """Seconds that what runs has to end when the time is over."""
        return max(LEAST_GRACE, GRACE * (self._max_time or 0.0))

    @property
    def grace_over(self) -> bool:
        """Whether what still runs is to be ended, too."""
        return self._max_time is not None and time.monotonic() - self._start > self._max_time + self.grace


def end(executor: Executor, future: Future[Any], reason: str) -> bool:
    """Have an evaluation ended; False if it has not begun, or the executor cannot end one."""
    ending = getattr(executor, "end", None)
    return ending is not None and bool(ending(future, reason))


def wait_for(executor: Executor, futures: Sequence[Future[Result]], limit: float, what: str) -> None:
    """Wait until all are done; those that take longer than so many seconds, all together, are ended."""
    _, late = wait(futures, timeout=None if math.isinf(limit) else limit)
    reason = f"{what} took more than {duration(limit)}, so it was ended"
    while ended := [future for future in late if end(executor, future, reason)]:
        wait(ended)
        _, late = wait(late, timeout=limit)
    wait(late)
