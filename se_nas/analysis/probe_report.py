"""A short probe of the learning rate: whether the recipe is far from good for a network with SE or without."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

from se_nas.analysis.checks import Check
from se_nas.core.errors import RunError
from se_nas.core.files import write_atomically
from se_nas.core.serialization import SCHEMA_VERSION, from_json, to_json
from se_nas.core.trial import Direction
from se_nas.core.words import amount, in_words, level_of, listed

PROBED = "probe.json"
FACTORS = (1 / 3, 1.0, 3.0)
"""Of the learning rate of the search."""

MANY = 3.0
"""Another learning rate is better if it gains so many standard deviations of one training, and the margin."""

_check = functools.partial(Check, name="learning rate", question="Is the learning rate far from good?")


@dataclass(frozen=True, kw_only=True)
class Probed:
    """One short training; ``value`` of the metric is None if it failed, for the ``reason``."""

    placement: str
    role: str
    lr: float
    value: float | None
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Short trainings without SE and with SE everywhere, one seed each, as ``RUN/probe.json`` has them."""

    schema: int = SCHEMA_VERSION
    metric: str
    direction: Direction
    unit: str
    lr: float
    """Of the search."""
    epochs: int
    seed: int
    rows: tuple[Probed, ...]
    seconds: float = 0.0


def write_probe(folder: Path, probe: Probe) -> None:
    """Keep a probe in the run folder."""
    write_atomically(folder / PROBED, to_json(probe, indent=2))


def read_probe(folder: Path) -> Probe | None:
    """The last probe of a run, or None; RunError if the file is broken or newer."""
    file = folder / PROBED
    try:
        return from_json(file.read_bytes(), Probe, where=str(file))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RunError(f"cannot read {str(file)!r}: {error.strerror}") from error


def probe_check(probe: Probe | None, *, noise: float | None, margin: float, why_not: str) -> Check:
    """Whether another learning rate is better than that of the search, for a network without SE or with it.

    Parameters
    ----------
    noise:
        Standard deviation of one training, in the metric's unit; None if not known: the margin alone counts then.
    why_not:
        What to do for a probe, if there is none.
    """
    if probe is None:
        return _check(holds=None, text=f"Not tested: {why_not}.")
    sign = -1.0 if probe.direction == "minimize" else 1.0
    needed = max(margin, MANY * (noise or 0.0))
    better, shown = [], []
    numbers: dict[str, float] = {"lr": probe.lr, "needed": needed}
    for role in dict.fromkeys(row.role for row in probe.rows):
        rows = [row for row in probe.rows if row.role == role]
        name = in_words(rows[0].placement)
        numbers |= {f"{role} at {row.lr:.3g}": row.value for row in rows if row.value is not None}
        shown.append(f"{name} {', '.join(_shown(row, probe.unit) for row in rows)}")
        trained = [row for row in rows if row.value is not None]
        own = next((row for row in trained if row.lr == probe.lr), None)
        best = max(trained, key=lambda row: sign * (row.value or 0.0), default=None)
        if best is None or best is own:
            continue
        gain = None if own is None else sign * ((best.value or 0.0) - (own.value or 0.0))
        if gain is None or gain > needed:
            better.append((name, best.lr, gain))
    seen = f"{'; '.join(shown)} ({probe.epochs} epochs, one seed)"
    if not better:
        return _check(holds=False, text=f"No: {seen}.", numbers=numbers)
    what = listed([
        f"{name} {'fails at it' if gain is None else f'gains {amount(gain, probe.unit, signed=False)} at {lr:.3g}'}"
        for name, lr, gain in better
    ])  # fmt: skip
    lrs = sorted({lr for _, lr, _ in better})
    text = (
        f"The learning rate of {probe.lr:g} is far from good: {what}. {seen[:1].upper()}{seen[1:]}. Search again with "
        f"--lr {lrs[0]:.3g} and another --out."
    )
    return _check(holds=True, text=text, numbers=numbers)


def _shown(row: Probed, unit: str) -> str:
    value = "fails" if row.value is None else level_of(row.value, unit)
    return f"{value} at {row.lr:.3g}"
