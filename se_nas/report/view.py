"""What the person sees while something runs: on a screen that draws it again and again, or as lines."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

from rich.console import RenderableType

from se_nas.core.errors import ConfigError
from se_nas.core.trial import Trial
from se_nas.core.words import duration, level_of
from se_nas.report.console import console
from se_nas.report.picture import headline, line_of, running_table, working
from se_nas.report.progress import Status, Training
from se_nas.report.screens import Lines, Notebook, Nowhere, Screen, Terminal, in_notebook

Progress = Literal["auto", "live", "plain", "none"]
"""How progress is shown: ``live`` draws, ``plain`` prints lines; ``auto`` draws where somebody looks."""

SILENCE = 30.0
"""Seconds after which a line is said, whatever there is to say."""

EPOCHS = 2.0
"""Least seconds between two lines for ends of epochs, over all running trainings."""


class View:
    """Shows what runs on standard error, so that standard output stays free for results, or below a notebook's cell.

    It may be told from several threads. Entered again inside of itself, it goes on.

    Parameters
    ----------
    quiet:
        Show nothing, whatever `progress` says.
    progress:
        See `Progress`.
    """

    def __init__(self, *, quiet: bool = False, progress: Progress = "auto") -> None:
        self._screen = screen_of("none" if quiet else progress)
        self.quiet = isinstance(self._screen, Nowhere)
        self.expected: float | None = None
        """Seconds of one training, as the plan has them."""
        self._trainings: dict[int, Training] = {}
        self._status: Status | None = None
        self._stage, self._stage_since = "", time.monotonic()
        self._front: RenderableType | None = None
        self._start = self._said_at = time.monotonic()
        self._said_of: dict[int, float] = {}
        self._inside, self._lock = 0, threading.RLock()

    @classmethod
    def of(cls, progress: bool | Progress) -> View:
        """The view of a call from Python: with ``auto`` nothing is shown where nobody looks, in a script's log.

        ConfigError for what is no way to show progress.
        """
        if progress not in (True, False, *get_args(Progress)):
            raise ConfigError(f"progress is {progress!r}", allowed=["True", "False", *get_args(Progress)])
        somebody = in_notebook() or console(stderr=True).is_terminal
        way: Progress = "auto" if progress is True else "none" if progress is False else progress
        return cls(progress="none" if progress == "auto" and not somebody else way)

    def __enter__(self) -> View:
        self._inside += 1
        if self._inside == 1:
            self._screen.start(self._picture, self._tick)
        return self

    def __exit__(self, *_: object) -> None:
        self._inside -= 1
        if self._inside == 0:
            self._screen.stop()

    def say(self, *lines: str) -> None:
        """News, each in a line that stays."""
        with self._lock:
            for line in lines:
                self._said_at = time.monotonic()
                self._screen.say(line)

    def stage(self, what: str) -> None:
        """What is being done now, until the next stage or the first training."""
        with self._lock:
            self._stage, self._stage_since = what, time.monotonic()
            if self._screen.moves:
                self._screen.redraw()
            elif what:
                self.say(f"{what} ...")

    def begun(self, trial: Trial, metric: str, unit: str = "") -> None:
        """A training is on its way to a worker; it is told of until it is `finished`. `unit` is that of the metric."""
        with self._lock:
            self._stage = ""
            self._trainings[trial.number] = Training(
                number=trial.number,
                label=trial.placement.label,
                epochs=trial.identity.epochs,
                metric=metric,
                unit=unit,
            )

    def told(self, number: int, epoch: int, seen: Mapping[str, float]) -> None:
        """A training reports an epoch, or (epoch 0) a sign of life."""
        training = self._trainings.get(number)
        if training is None:
            return
        training.tell(epoch, seen)
        if 0 < epoch < training.epochs and not self._screen.moves and self._status is not None:
            gap = EPOCHS * len(self._trainings) if self._status.budget > 1 else 0.0
            if time.monotonic() - self._said_of.get(number, 0.0) >= gap:
                self._say_of(training)

    def update(self, status: Status, front: RenderableType | None = None) -> None:
        """How far all of it is, and the front so far."""
        self._status = status
        self._front = front or self._front

    def finished(self, trial: Trial, status: Status) -> None:
        """A training ended: a line of its own where nothing is drawn."""
        with self._lock:
            self._trainings.pop(trial.number, None)
            self._status = status
        if self._screen.moves or self.quiet:
            return
        if trial.state == "complete":
            value = trial.metrics[status.objective.metric]
            outcome = f"{status.objective.metric} {level_of(value.value, value.unit)}"
        else:
            outcome = f"{trial.state}: {trial.reason}"
        left = self._left(status)
        eta = "" if left is None else f", about {duration(left)} left"
        self.say(
            f"[{status.trained}/{status.budget}] trial {trial.number} {trial.placement.label}: {outcome} "
            f"({trial.seconds:.1f} s{eta})"
        )

    def over(self) -> None:
        """No training is under way any more."""
        with self._lock:
            self._trainings.clear()
            self._status = self._front = None

    @property
    def live(self) -> bool:
        """Whether there is a picture, which may have the front."""
        return self._screen.moves

    def _left(self, status: Status) -> float | None:
        return status.seconds_left(list(self._trainings.values()), self.expected)

    def _picture(self) -> Sequence[RenderableType]:
        """This moment, as it is drawn."""
        now, status = time.monotonic(), self._status
        running = list(self._trainings.values())
        parts: list[RenderableType] = []
        if status is not None and (running or not self._stage):
            parts.append(headline(status, running, now - self._start, self._left(status)))
            parts += [running_table(running)] if running else []
            parts += [self._front] if self._front is not None else []
            parts += [status.ending] if status.ending else []
        if self._stage:
            parts.append(working(self._stage, now - self._stage_since))
        return parts

    def _tick(self) -> None:
        """Say a line where nothing was said for long."""
        with self._lock:
            if time.monotonic() - self._said_at < SILENCE:
                return
            for training in list(self._trainings.values()) if self._status is not None else ():
                self._say_of(training)
            if self._stage and not self._trainings:
                self.say(working(self._stage, time.monotonic() - self._stage_since).plain)

    def _say_of(self, training: Training) -> None:
        if self._status is not None:
            self._said_of[training.number] = time.monotonic()
            self.say(line_of(training, self._status, self._left(self._status)))


def screen_of(progress: Progress) -> Screen:
    """Where it is shown."""
    if progress == "none":
        return Nowhere()
    if progress != "plain" and in_notebook():
        return Notebook()
    if progress == "live" or (progress == "auto" and console(stderr=True).is_terminal):
        return Terminal(force=progress == "live")
    return Lines()
