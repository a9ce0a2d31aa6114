"""How good the predicted latencies of a space are, by placements that were measured and never entered the model."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from se_nas.core.trial import CostValue
from se_nas.core.words import duration

GOAL = 0.03
"""Relative error that a prediction should not exceed; the measurement's own noise is allowed, too."""


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """One placement that was measured to test the model: in ms, with 90 % intervals."""

    key: str
    placement: str
    predicted: float
    interval: tuple[float, float]
    measured: CostValue

    @property
    def error(self) -> float:
        """Of the prediction, relative to what was measured."""
        return self.predicted / self.measured.value - 1

    @property
    def good(self) -> bool:
        """Whether the prediction is within 3 % of what was measured, or within the interval of the measurement."""
        low, high = self.measured.interval or (self.measured.value, self.measured.value)
        return abs(self.error) <= GOAL or low <= self.predicted <= high


@dataclass(frozen=True, kw_only=True)
class LatencyFit:
    """The model of one latency: what it was fitted on, and its errors on what it was not."""

    name: str
    conditions: str
    base: CostValue
    """Of the plain backbone."""
    terms: int
    fitted: tuple[str, ...]
    """Keys of the placements."""
    held_out: tuple[HeldOut, ...]
    seconds: float
    """That the measuring took; 0 where another device did it."""

    @property
    def keys(self) -> set[str]:
        """All placements that were measured for it."""
        return {*self.fitted, *(test.key for test in self.held_out)}

    @property
    def text(self) -> str:
        """All of it in a sentence or two."""
        low, high = self.base.interval or (self.base.value, self.base.value)
        took = f" in {duration(self.seconds)}" if self.seconds else ""
        said = (
            f"{self.name} ({self.conditions}): the backbone takes {self.base.value:.4g} ms (90 % interval {low:.4g} to "
            f"{high:.4g}). Other placements are predicted: {self.terms} kinds of SE block, fitted on "
            f"{len(self.fitted)} placements{took}."
        )
        if not self.held_out:
            return f"{said} The space is too small to hold placements out, so its error is not known."
        errors = [abs(test.error) for test in self.held_out]
        good = sum(test.good for test in self.held_out)
        return (
            f"{said} Tested on other placements that were measured: {good} of {len(errors)} within "
            f"{100 * GOAL:g} % or the noise of the measurement; median error "
            f"{100 * statistics.median(errors):.1f} %, largest {100 * max(errors):.1f} %."
        )
