"""How the metric of a study is shown: percent and points for shares, else as it is."""

from __future__ import annotations

import pandas as pd

from se_nas.analysis.confirmation import Confirmed, Estimate
from se_nas.analysis.findings import Findings
from se_nas.core.words import chances_cell, chances_note, chances_text, gain_span, scale_of, within


class Metric:
    """How the metric of a study is shown: percent and points for shares, else as it is."""

    def __init__(self, found: Findings) -> None:
        self.name, self.sign = found.objective.metric, found.sign
        self.factor, self.unit, self.difference = scale_of(found.unit)
        self._raw, self.margin = found.unit, found.margin
        self.digits = 2 if self.factor == 100.0 else 4

    def value(self, value: float | None) -> str:
        return "" if value is None or pd.isna(value) else f"{self.factor * value:.{self.digits}f}"

    def with_unit(self, value: float | None) -> str:
        return f"{self.value(value)} {self.unit}".strip()

    def gain(self, value: float | None) -> str:
        return "" if value is None or pd.isna(value) else f"{self.factor * value:+.{self.digits}f}"

    def gain_text(self, value: float | None) -> str:
        return f"{self.gain(value)} {self.difference}".strip()

    def size_text(self, value: float) -> str:
        """The size of a difference, with its unit."""
        return f"{self.value(value)} {self.difference}".strip()

    def span(self, low: float | None, high: float | None) -> str:
        """An interval of values; of shares it ends at 0 and 1."""
        if low is None or high is None or pd.isna(low) or pd.isna(high):
            return ""
        return " to ".join(map(self.value, within(low, high, self._raw)))

    def gain_span(self, low: float, high: float) -> str:
        """An interval of gains; an end at the point mass of the model says so."""
        return gain_span(low, high, self._raw)

    def estimate(self, estimate: Estimate | None) -> str:
        """A confirmed value, its 90 % interval in a second line."""
        if estimate is None:
            return ""
        span = "" if estimate.interval is None else f"\n{self.span(*estimate.interval)}"
        return f"{self.value(estimate.mean)}{span}"

    def confirmed_text(self, network: Confirmed) -> str:
        """The confirmed values of a network."""
        seeds = len(network.validation.values)
        tested = "" if network.test is None else f", {self.with_unit(network.test.mean)} on the test set"
        fresh = f"mean of {seeds} fresh seeds" if seeds > 1 else "one fresh seed"
        return (
            f"{self.name} {self.with_unit(network.validation.mean)} on the validation set{tested} (confirmed: {fresh})"
        )

    def chances(self, row: pd.Series) -> str:
        """Better, same, worse, empty where there is no posterior."""
        return chances_cell(row["p_better"], row["p_same"], row["p_worse"])

    def chances_text(self, row: pd.Series) -> str:
        """The same in words."""
        return "" if pd.isna(row["p_better"]) else chances_text(row["p_better"], row["p_same"], row["p_worse"])

    def chances_note(self, *, against: str = "no SE") -> str:
        """What `chances` are."""
        return chances_note(self.margin, self._raw, against=against)

    @property
    def head(self) -> str:
        return f"{self.name} ({self.unit})" if self.unit else self.name

    @property
    def gain_head(self) -> str:
        return f"gain ({self.difference})" if self.difference else "gain"
