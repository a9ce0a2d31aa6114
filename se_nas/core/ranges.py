"""Ranges of the numbers that a user gives: beyond them lies nothing that a machine could do."""

from __future__ import annotations

import math
from collections.abc import Mapping

from se_nas.core.errors import ConfigError

MAX_CLASSES = 1_000_000
"""More outputs than any network of images has."""

MAX_VALUES = 2**25
"""Values of one image: 3 x 3,344 x 3,344."""

WHOLE: dict[str, tuple[int, int]] = {
    "budget": (1, 10**9),
    "workers": (1, 4096),
    "trials_per_device": (1, 1024),
    "devices_per_trial": (1, 1024),
    "latency_batch": (1, 2**16),
    "latency_threads": (1, 1024),
    "placements": (4, 10_000),
    "num_classes": (1, MAX_CLASSES),
    "seed": (0, 2**32 - 1),  # NumPy takes no larger one
    "epochs": (1, 10**6),
    "batch_size": (2, 10**6),
    "top": (1, 1000),
    "classes": (1, 1000),
    "seeds": (1, 1000),
    "max_seeds": (2, 1000),
}
"""Setting -> smallest and largest whole number."""


def check_whole(name: str, value: int | None, *, hint: str | None = None) -> None:
    """ConfigError for a number of `WHOLE` that is out of its range; None is not given."""
    low, high = WHOLE[name]
    if value is not None and not low <= value <= high:
        raise ConfigError(f"{name} is {value}", allowed=[f"a whole number from {low} to {high:,}"], hint=hint)


def is_finite(value: object) -> bool:
    """Whether no number in plain data is infinite, NaN or beyond 64 bits, which a record would not keep."""
    if isinstance(value, int | float):
        return -(2**63) <= value < 2**63 if isinstance(value, int) else math.isfinite(value)
    if isinstance(value, Mapping):
        return all(map(is_finite, value.values()))
    return not isinstance(value, list | tuple) or all(map(is_finite, value))
