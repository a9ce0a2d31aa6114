"""A search under way as one picture that is drawn again and again: how far it is, what runs, the front so far."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from se_nas.core.words import duration, level_of
from se_nas.report.fitted_table import Column, FittedTable
from se_nas.report.progress import Status, Training

ROWS = 8
"""Trainings that are shown, at most; the others are counted."""


def working(what: str, seconds: float) -> Text:
    """A step that is neither a training nor waited for in silence.

    >>> working("reading the data", 3.2).plain
    'reading the data ... (3 s)'
    """
    return Text(f"{what} ... ({duration(seconds)})" if seconds >= 1 else f"{what} ...")


def headline(status: Status, running: Sequence[Training], elapsed: float, left: float | None) -> RenderableType:
    """How far all of it is, in numbers and as a bar."""
    grid = Table.grid(padding=(0, 1))
    done = status.trained + sum(training.done for training in running)
    grid.add_row(
        f"{status.trained}/{status.budget} trained",
        ProgressBar(total=max(1, status.budget), completed=done, width=24),
        time_text(left, status.beyond),
    )
    failed = f", {status.failed} failed" if status.failed else ""
    return Group(grid, Text(f"{len(running)} running{failed}, {duration(elapsed)} elapsed"))


def time_text(left: float | None, beyond: int) -> str:
    """How long it will be, in words.

    >>> time_text(None, 0), time_text(61, 0), time_text(61, 8)
    ('time left: not known yet', 'about 1 min 01 s left', 'about 1 min 01 s left, and at most 8 more trainings')
    """
    if left is None:
        return "time left: not known yet"
    more = f", and at most {beyond} more trainings" if beyond else ""
    return f"about {duration(left)} left{more}"


def running_table(running: Sequence[Training]) -> FittedTable:
    """What each training says of itself."""
    shown = running[:ROWS]
    metrics = dict.fromkeys(training.metric for training in shown)
    return FittedTable(
        columns=[
            Column(head="trial", cells=[str(t.number) for t in shown]),
            Column(head="placement", cells=[t.label.replace(",", " ") for t in shown], text=True, rank=5),
            Column(head="epoch", cells=[f"{t.current}/{t.epochs}" for t in shown]),
            Column(head="batch", cells=[t.at if t.current else "starting" for t in shown], rank=1),
            Column(head="loss", cells=["" if t.loss is None else f"{t.loss:.4g}" for t in shown], rank=3),
            *(Column(head=metric, rank=4, cells=[_value(t) if t.metric == metric else "" for t in shown])
              for metric in metrics),
            Column(head="left", cells=[_left(t) for t in shown], rank=2),
        ],
        note=f"and {len(running) - ROWS} more" if len(running) > ROWS else "",
        box=None,
    )  # fmt: skip


def _value(training: Training) -> str:
    return "" if training.value is None else level_of(training.value, training.unit)


def _left(training: Training) -> str:
    left = training.seconds_left
    return "" if left is None else duration(left)


def line_of(training: Training, status: Status, left: float | None) -> str:
    """A training in one line, with how far all of it is."""
    epoch = training.current if training.place else training.epoch
    parts = [f"epoch {epoch}/{training.epochs}" if epoch else "starting"]
    parts += [training.at if training.at.startswith(("step", "validating")) else f"batch {training.at}"
              ] if training.at else []  # fmt: skip
    parts += [] if training.loss is None else [f"loss {training.loss:.4g}"]
    parts += [] if training.value is None else [f"{training.metric} {level_of(training.value, training.unit)}"]
    parts += [] if training.seconds_left is None else [f"{duration(training.seconds_left)} left"]
    whole = "" if left is None or status.budget == 1 else f"; in all {time_text(left, status.beyond)}"
    return f"[{status.trained}/{status.budget}] trial {training.number} {training.label}: {', '.join(parts)}{whole}"
