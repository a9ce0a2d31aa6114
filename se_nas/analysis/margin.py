"""The margin: the smallest gain over the plain backbone that is worth its cost."""

from __future__ import annotations

MARGIN = 0.3
"""Points of a share that a gain must have to be worth its cost, if nothing else is asked for."""

RELATIVE_MARGIN = 0.01
"""The same for other metrics, as a share of the mean of the plain backbone."""


def margin_of(given: float | None, *, unit: str, baseline: float | None) -> float:
    """The margin in the unit of the metric, never negative.

    Parameters
    ----------
    given:
        What was asked for, above 0: points (hundredths) where the metric is a share, else in the metric's own unit.
        None for the default: `MARGIN` points, else `RELATIVE_MARGIN` of the baseline.
    unit:
        Of the metric; ``share`` for one between 0 and 1.
    baseline:
        Mean of the metric without SE, None if it is not known; the default margin of a metric that is no share is then
        0, so that any gain counts.

    >>> margin_of(None, unit="share", baseline=0.7), margin_of(0.5, unit="share", baseline=None)
    (0.003, 0.005)
    >>> margin_of(None, unit="nats", baseline=-2.0), margin_of(0.1, unit="nats", baseline=2.0)
    (0.02, 0.1)
    """
    if unit == "share":
        return 0.01 * (MARGIN if given is None else given)
    if given is not None:
        return given
    return 0.0 if baseline is None else RELATIVE_MARGIN * abs(baseline)
