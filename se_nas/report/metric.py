"""How the metric of a study is shown: percent and points for shares, else as it is."""

from __future__ import annotations

import pandas as pd

from se_nas.analysis.findings import Findings
from se_nas.core.words import chances_cell, chances_note, chances_text, gain_span, scale_of


class Metric:
    """How the metric of a study is shown: percent and points for shares, else as it is."""

    def __init__(self, found: Findings) -> None:
        self.name, self.sign = found.objective.metric, found.sign
        self.factor, self.unit, self.difference = scale_of(found.unit)
        self._raw, self.margin = found.unit, found.margin
        self.digits = 2 if self.factor == 100.0 else 4

    def value(self, value: float | None) -> str:
        return "" if value is None or pd.isna(value) else f"{self.factor * value:.{self.digits}f}"

    def gain(self, value: float | None) -> str:
        return "" if value is None or pd.isna(value) else f"{self.factor * value:+.{self.digits}f}"

    def span(self, low: float | None, high: float | None) -> str:
        return f"{self.value(low)} to {self.value(high)}" if low is not None and not pd.isna(low) else ""

    def gain_span(self, low: float, high: float) -> str:
        """An interval of gains; an end at the point mass of the model says so."""
        return gain_span(low, high, self._raw)

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
