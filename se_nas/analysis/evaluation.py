"""How good a network is on labelled images that its search has not seen, with intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.stats import norm, t

from se_nas.core.serialization import to_plain
from se_nas.core.words import counted, level_of
from se_nas.data.base import ADJECTIVE, PartName

LEVEL = 0.9
RESAMPLES = 2000
How = Literal["Wilson", "bootstrap", "jackknife"]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A metric on some images, with its 90 % interval over images like these. ``how`` says how that was found.

    Of one trained network: what another training of it would give is in no interval here.
    """

    metric: str
    unit: str
    images: int
    value: float
    low: float
    high: float
    how: How

    @property
    def text(self) -> str:
        """The value with its interval."""
        low, high = (level_of(end, self.unit) for end in (self.low, self.high))
        return f"{level_of(self.value, self.unit)} ({low} to {high})"


@dataclass(frozen=True, kw_only=True)
class ClassScore:
    """The images of one class: how many, and the metric on them (for accuracy: the share that is found)."""

    name: str
    images: int
    score: Measured | None
    """None without an image."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A trained network on labelled images of the user's own."""

    network: str
    data: str
    images: int
    measured: tuple[Measured, ...]
    """The metric that the search compared, and accuracy where that is another one."""
    classes: tuple[ClassScore, ...]
    metrics: dict[str, float]
    """All that the task says of these images."""
    seen: dict[PartName, int] | None
    """Part of the searched data -> images here that are also there, pixel by pixel; None if that is unknown."""
    unseen: Measured | None
    """The metric on the others, where some were seen."""
    notes: tuple[str, ...] = ()

    @property
    def sentences(self) -> tuple[str, ...]:
        """What was measured, in words."""
        first = [f"{one.metric}: {one.text}, 90 % interval over images ({one.how})." for one in self.measured]
        return (*first, *self._overlap(), *self.notes)

    def _overlap(self) -> list[str]:
        if self.seen is None:
            return ["Whether the network was trained on any of these images is unknown: its run folder is not here."]
        number = sum(self.seen.values())
        if not number:
            return ["None of these images is in the training or validation set of the run."]
        parts = " and ".join(counted(n, f"{ADJECTIVE[part]} image") for part, n in self.seen.items() if n)
        said = [
            f"{number:,} of the {self.images:,} images were used in the search ({parts}): these values are optimistic."
        ]
        return [*said, f"On the other {self.unseen.images:,}: {self.unseen.text}."] if self.unseen else said

    def as_json(self) -> dict[str, Any]:
        """What ``se-nas evaluate --json`` prints."""
        plain: dict[str, Any] = to_plain(self)
        return plain

    def __repr__(self) -> str:
        """The network, the data and the metrics."""
        return "\n  ".join([f"Evaluation({self.network} on {self.images:,} images of {self.data})", *self.sentences])


def measure(scores: np.ndarray, *, metric: str, unit: str, value: float | None = None) -> Measured:
    """A metric from one score for each image, whose mean it is.

    Scores of 0 and 1 have Wilson's interval, others that of the percentile bootstrap.

    Parameters
    ----------
    scores:
        (n,), n at least 1.
    value:
        With it, the scores are pseudo-values of a jackknife over groups of images, and the interval is Student's.
    """
    number = len(scores)
    facts: dict[str, Any] = {"metric": metric, "unit": unit, "images": number}
    if value is not None:
        reach = float(t.ppf((1 + LEVEL) / 2, number - 1)) * float(scores.std(ddof=1)) / math.sqrt(number)
        return Measured(**facts, value=value, low=value - reach, high=value + reach, how="jackknife")
    mean = float(scores.mean())
    if np.isin(scores, (0, 1)).all():
        low, high = wilson(int(scores.sum()), number)
        return Measured(**facts, value=mean, low=low, high=high, how="Wilson")
    generator = np.random.default_rng(0)
    means = [scores[generator.integers(0, number, number)].mean() for _ in range(RESAMPLES)]
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Measured(**facts, value=mean, low=float(low), high=float(high), how="bootstrap")


def wilson(found: int, number: int) -> tuple[float, float]:
    """The 90 % interval of a share, of which so many of a number were found (Wilson, JASA 22, 1927).

    >>> tuple(round(end, 3) for end in wilson(9, 10))
    (0.652, 0.977)
    """
    z = float(norm.ppf((1 + LEVEL) / 2))
    share, square = found / number, z * z / number
    middle = (share + square / 2) / (1 + square)
    reach = z / (1 + square) * math.sqrt(share * (1 - share) / number + square / (4 * number))
    return max(0.0, middle - reach), min(1.0, middle + reach)


def by_class(
    scores: np.ndarray, labels: np.ndarray, classes: Sequence[str], *, metric: str, unit: str
) -> tuple[ClassScore, ...]:
    """The scores (n,) of the images of each class (n,), apart."""
    found = []
    for number, name in enumerate(classes):
        own = scores[labels == number]
        found.append(
            ClassScore(name=name, images=len(own), score=measure(own, metric=metric, unit=unit) if len(own) else None)
        )
    return tuple(found)
