"""The errors that a user can cause, and the one way in which they are worded.

Each says what was wrong, what was given, what is allowed and what to try. The command line prints the text and
ends with code 2; in Python they are ordinary exceptions.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Collection, Iterable

from se_nas.core.plain_text import visible


class SeNasError(Exception):
    """A mistake in what the user gave, or something that the machine refused.

    Parameters
    ----------
    what:
        One sentence: what is wrong, with the value that was given.
    allowed:
        The values that are allowed, if they can be listed.
    where:
        The file, option or trial that the value came from.
    hint:
        What to do next.
    """

    def __init__(
        self,
        what: str,
        *,
        allowed: Iterable[object] | None = None,
        where: str | None = None,
        hint: str | None = None,
    ) -> None:
        self.what = what
        self.allowed = None if allowed is None else tuple(str(a) for a in allowed)
        self.where = where
        self.hint = hint
        super().__init__(what)

    def __str__(self) -> str:
        lines = [_shortened(self.what, 10)]
        if self.where:
            lines.append(_shortened(f"  in {self.where}", 3))
        if self.allowed is not None:
            lines.append(_shortened(f"  allowed: {', '.join(self.allowed) or 'nothing'}", 6))
        if self.hint:
            lines.append(_shortened(f"  hint: {self.hint}", 5))
        return visible("\n".join(lines))

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions cross process borders; the default would drop the keyword-only parts.
        return _rebuild, (type(self), self.what, self.allowed, self.where, self.hint)


COLUMNS = 80
"""Of a screen with 24 rows, which no message is longer than."""


def _shortened(text: str, rows: int) -> str:
    """The text as far as it has room in so many rows: a long line loses its middle, many lines the last ones."""
    lines = text.splitlines() or [""]
    if sum(max(1, math.ceil(len(line) / COLUMNS)) for line in lines) <= rows:
        return text
    most = rows * COLUMNS - 40  # the name of the error stands before it
    first = lines[0]
    if len(first) > most // 2 or len(lines) == 1:
        room = most // (1 if len(lines) == 1 else 2)
        lines[0] = f"{first[: room * 2 // 3]} ... {first[-(room // 4) :]}" if len(first) > room else first
    kept, used = list[str](), 0
    for line in lines:
        used += max(1, math.ceil(len(line) / COLUMNS))
        if used > rows - (len(lines) > 1):
            break
        kept.append(line)
    left = len(lines) - len(kept)
    return "\n".join([*kept, f"  ... ({left:,} more line{'s' * (left > 1)})"] if left else kept)


def _rebuild(
    cls: type[SeNasError], what: str, allowed: Iterable[object] | None, where: str | None, hint: str | None
) -> SeNasError:
    return cls(what, allowed=allowed, where=where, hint=hint)


class ConfigError(SeNasError):
    """A wrong option, key or value."""


class SpaceError(SeNasError):
    """A search space or a placement that cannot be."""


class ExhaustedError(SpaceError):
    """A search space in which nothing is left to propose."""


class BackboneError(SeNasError):
    """A backbone that cannot be loaded, built or searched."""


class DataError(SeNasError):
    """Data that cannot be read or used."""


class CostError(SeNasError):
    """A cost that cannot be counted exactly."""


class TrainingError(SeNasError):
    """A training that cannot go on."""


class WorkerLostError(TrainingError):
    """The machine of a worker went away in the middle of an evaluation, which says nothing about the candidate."""


class RunError(SeNasError):
    """A run folder or a study that cannot be used."""


class PluginError(SeNasError):
    """A name or import path that does not lead to a plug-in."""


def reason_of(error: BaseException) -> str:
    """Why something failed, in one line of at most 500 characters, as a result keeps it."""
    text = error.what if isinstance(error, SeNasError) else f"{type(error).__name__}: {error}"
    first, *others = text.strip().splitlines() or [""]
    if others and (caught := re.search(r"\bCaught \w+ (in .+?)\.?$", first)):  # torch puts the error itself last
        return f"{others[-1].strip()} ({caught[1]})"[:500]
    return first[:500]


def nearest(given: str, known: Iterable[str]) -> str | None:
    """The known name that looks most like the given one, or None.

    >>> nearest("resnet21", ["resnet20", "vgg16"])
    'resnet20'
    """
    matches = difflib.get_close_matches(given, list(known), n=1, cutoff=0.5)
    return matches[0] if matches else None


def did_you_mean(given: str, known: Iterable[str]) -> str | None:
    """A hint that names the nearest known name.

    >>> did_you_mean("epoch", ["epochs", "batch_size"])
    "did you mean 'epochs'?"
    """
    match = nearest(given, known)
    return None if match is None else f"did you mean {match!r}?"


def check_names(given: Iterable[object], known: Collection[str], *, what: str, where: str) -> None:
    """SpaceError with the nearest known name for the first given name that is not known."""
    for name in given:
        if name not in known:
            raise SpaceError(
                f"unknown {what} {name!r}", where=where, allowed=known, hint=did_you_mean(str(name), known)
            )
