"""What the margin is in the unit of the metric."""

from __future__ import annotations

import pytest

from se_nas.analysis.margin import margin_of


@pytest.mark.parametrize(
    ("given", "unit", "baseline", "wanted"),
    [
        (None, "share", 0.9, 0.003),
        (None, "share", None, 0.003),
        (2.0, "share", 0.9, 0.02),
        (None, "nats", 2.0, 0.02),
        (None, "", -30.0, 0.3),
        (0.05, "nats", 2.0, 0.05),
        (0.05, "nats", None, 0.05),
        (None, "nats", None, 0.0),
    ],
)
def test_points_of_a_share_or_units_or_a_hundredth_of_the_baseline(
    given: float | None, unit: str, baseline: float | None, wanted: float
) -> None:
    assert margin_of(given, unit=unit, baseline=baseline) == pytest.approx(wanted)
