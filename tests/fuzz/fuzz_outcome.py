"""What becomes of an input: refused, accepted, a traceback, a hang, or nonsense accepted; and how often."""

from __future__ import annotations

import contextlib
import io
import signal
import textwrap
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.strategies import SearchStrategy

from se_nas.core.errors import SeNasError

HANG = 20.0
"""Seconds after which an input hangs."""

ROWS, COLUMNS = 24, 80
OUTCOMES = ("refused", "accepted", "traceback", "hang", "nonsense", "long message")


class Hang(BaseException):
    """Nothing that is caught as an error of the program."""


class Nonsense(Exception):
    """An input was accepted that means nothing, or something else than what it says."""


def sensible(good: bool, what: str) -> None:
    """Nonsense if an accepted input does not hold what is asked of it."""
    if not good:
        raise Nonsense(what)


@dataclass
class Tally:
    """Outcomes of the inputs of one kind, with the shortest input for each place that failed."""

    kind: str
    counts: Counter[str] = field(default_factory=Counter)
    found: dict[tuple[str, str], tuple[str, str]] = field(default_factory=dict)
    refusals: Counter[str] = field(default_factory=Counter)

    @property
    def line(self) -> str:
        numbers = "  ".join(f"{self.counts[name]:>6,} {name}" for name in OUTCOMES)
        return f"{self.kind:16} {self.counts.total():>6,} inputs  {numbers}"

    def report(self) -> str:
        """The line, and the shortest input of each thing that is wrong."""
        return "\n".join([self.line, *(f"  {o} at {w}\n    {e}\n    {i}" for (o, w), (i, e) in self.found.items())])

    def add(self, value: Any, run: Callable[[Any], object]) -> None:
        """Run one input."""
        outcome, where, said = _outcome(value, run)
        self.counts[outcome] += 1
        if outcome == "refused":
            self.refusals[said.split(":")[0]] += 1
        elif outcome != "accepted":
            shown = textwrap.shorten(repr(value), 1500)
            if (outcome, where) not in self.found or len(shown) < len(self.found[outcome, where][0]):
                self.found[outcome, where] = shown, said


def _outcome(value: Any, run: Callable[[Any], object]) -> tuple[str, str, str]:
    try:
        with _limited(), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("error")
            run(value)
    except SeNasError as error:
        text = f"{type(error).__name__}: {error}"
        rows = sum(max(1, -(-len(line) // COLUMNS)) for line in text.splitlines())
        bad = rows > ROWS or not error.what.strip() or "Traceback" in text
        return ("long message" if bad else "refused"), type(error).__name__, f"{type(error).__name__}: {text[:200]}"
    except SystemExit as end:
        # --help ends the program, and so do wrong words behind it.
        return {0: "accepted", 2: "refused"}.get(end.code, "traceback"), "exit", f"SystemExit({end.code})"
    except Hang:
        return "hang", "", ""
    except Nonsense as error:
        return "nonsense", str(error).split(":")[0], str(error)
    except BaseException as error:
        ours = [frame for frame in traceback.extract_tb(error.__traceback__) if "/se_nas/" in frame.filename]
        where = f"{ours[-1].filename.rpartition('/se_nas/')[2]}:{ours[-1].lineno}" if ours else "the test itself"
        return "traceback", f"{where} ({type(error).__name__})", str(error)[:300]
    return "accepted", "", ""


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    def rise(number: int, frame: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, rise)
    signal.setitimer(signal.ITIMER_REAL, HANG)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def explore(kind: str, inputs: SearchStrategy[Any], run: Callable[[Any], object], number: int, seed: int) -> Tally:
    """So many inputs of one kind; they differ with the seed."""
    tally = Tally(kind)

    @hypothesis.seed(seed)
    @settings(max_examples=number, database=None, deadline=None, phases=[Phase.generate],
              derandomize=False, suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(inputs)
    def one(value: Any) -> None:
        tally.add(value, run)

    one()
    return tally
