"""How the metric of a study is shown: percent and points for shares, else as it is."""

from __future__ import annotations

import pandas as pd

from se_nas.analysis.findings import Findings
from se_nas.core.words import scale_of


class Metric:
    """How the metric of a study is shown: percent and points for shares, else as it is."""

    def __init__(self, found: Findings) -> None:
        self.name, self.sign = found.objective.metric, found.sign
        self.factor, self.unit, self.difference = scale_of(found.unit)
        self.digits = 2 if self.factor == 100.0 else 4

    def value(self, value: float | None) -> str:
        return "" if value is None or pd.isna(value) else f"{self.factor * value:.{self.digits}f}"

    def gain(self, value: float | None) -> str:
        return "" if value is None or pd.isna(value) else f"{self.factor * value:+.{self.digits}f}"

    def span(self, low: float | None, high: float | None) -> str:
        return f"{self.value(low)} to {self.value(high)}" if low is not None and not pd.isna(low) else ""

    @property
    def head(self) -> str:
        return f"{self.name} ({self.unit})" if self.unit else self.name

    @property
    def gain_head(self) -> str:
        return f"gain ({self.difference})" if self.difference else "gain"
