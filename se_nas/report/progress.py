"""What is known of trainings under way, from what they tell: how far each is, and how long all of it takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from se_nas.core.trial import BLAMELESS, Objective, Trial

BURST = 0.05
"""Seconds between two reports below which they are those of a checkpoint, told again, and say nothing of the speed."""


@dataclass(kw_only=True)
class Training:
    """One training under way. It is told by one thread and read by others.

    Parameters
    ----------
    metric:
        The one that is compared.
    clock:
        Seconds, as of `time.monotonic`.
    """

    number: int
    label: str
    epochs: int
    metric: str
    unit: str = ""
    """Of the metric: ``share`` is shown in percent."""
    clock: Callable[[], float] = time.monotonic
    epoch: int = 0
    """Epochs behind it."""
    place: Mapping[str, float] = field(default_factory=dict)
    """What it told last within its epoch; see `se_nas.core.protocols.Channel`."""
    loss: float | None = None
    value: float | None = None
    """Of the metric, after the last epoch."""
    first: tuple[float, float] | None = None
    """When its speed is counted from, and the share that was done by then."""
    last: tuple[float, float] | None = None

    def tell(self, epoch: int, seen: Mapping[str, float]) -> None:
        """The report of an epoch, or (epoch 0) a sign of life."""
        now = self.clock()
        if epoch:
            self.epoch, self.place = epoch, {}
            self.loss, self.value = seen.get("train_loss", self.loss), seen.get(self.metric, self.value)
        else:
            self.place, self.loss = dict(seen), seen.get("loss", self.loss)
        again = bool(epoch) and self.last is not None and now - self.last[0] < BURST
        self.last = (now, self.done)
        if self.first is None or again:
            self.first = self.last

    @property
    def done(self) -> float:
        """The share of the training that is done, 0 to 1."""
        batches = self.place.get("batches", 0)
        part = 1.0 if "validating" in self.place else self.place.get("batch", 0) / batches if batches else 0.0
        current = max(self.epoch, int(self.place.get("epoch", 1)) - 1)
        return min(1.0, (current + min(1.0, part)) / self.epochs)

    @property
    def seconds_left(self) -> float | None:
        """By its own speed; None while that is not known."""
        if self.first is None or self.last is None or self.last[1] <= self.first[1]:
            return None
        (begun, before), (now, done) = self.first, self.last
        return max(0.0, (1 - done) * (now - begun) / (done - before) - (self.clock() - now))

    @property
    def at(self) -> str:
        """Batch or step, as text; empty while it has told none."""
        if "step" in self.place:
            return f"step {self.place['step']:.0f}"
        if not (batch := self.place.get("batch")):
            return ""
        of = f"/{self.place['batches']:.0f}" if "batches" in self.place else ""
        return f"{'validating ' if 'validating' in self.place else ''}{batch:.0f}{of}"

    @property
    def current(self) -> int:
        """The epoch that it is in, from 1; 0 before its first sign."""
        return 0 if self.last is None else min(self.epochs, max(self.epoch + 1, int(self.place.get("epoch", 1))))


@dataclass(frozen=True, kw_only=True)
class Status:
    """A moment of a search.

    Parameters
    ----------
    trials:
        Those that have ended.
    beyond:
        Trainings that may follow after the budget: of further rounds of a confirm.
    """

    trials: Sequence[Trial]
    budget: int
    slots: int
    objective: Objective
    ending: str = ""
    beyond: int = 0
    allowed: Callable[[], float | None] = lambda: None
    """Seconds until the search ends whatever is left of the budget; None without such a limit."""

    @property
    def trained(self) -> int:
        return sum(trial.counts for trial in self.trials)

    @property
    def failed(self) -> int:
        return sum(trial.state == "failed" and trial.reason not in BLAMELESS for trial in self.trials)

    def seconds_left(self, running: Iterable[Training], expected: float | None = None) -> float | None:
        """Until the budget is spent or its time is over; None while nothing is known of how long a training takes.

        That is what trainings took, before the first has ended what those that run will have taken, and else as
        `expected`.
        """
        running = list(running)
        each = self.seconds_each(running, expected)
        if each is None:
            return None
        left = [each if t.seconds_left is None else t.seconds_left for t in running]
        waiting = max(0, self.budget - self.trained - len(running))
        whole = max((sum(left) + waiting * each) / self.slots, max(left, default=0.0))
        allowed = self.allowed()
        return whole if allowed is None else min(whole, allowed)

    def seconds_each(self, running: Sequence[Training], expected: float | None) -> float | None:
        """What one training takes."""
        times = [trial.seconds for trial in self.trials if trial.counts]
        whole = [t.seconds_left / (1 - t.done) for t in running if t.seconds_left is not None and t.done < 1]
        for known in (times, whole):
            if known:
                return sum(known) / len(known)
        return expected
