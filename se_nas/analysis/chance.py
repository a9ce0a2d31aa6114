"""What a network reaches that has learned nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from se_nas.data.base import DataInfo

TOP = 5


@dataclass(frozen=True, kw_only=True)
class Chance:
    """The value of a metric by chance, the best value that there is, and the error of a share on so few images."""

    value: float
    best: float
    error: float

    @property
    def room(self) -> float:
        """From chance to the best."""
        return abs(self.best - self.value)


def chance_of(metric: str, data: DataInfo | None) -> Chance | None:
    """Chance for the metrics of the built-in classification; None for other metrics, or if classes are not known.

    ``val_accuracy``: always the most frequent class. ``val_top5``: always the five most frequent ones. ``val_f1`` (mean
    over classes): the better of always the most frequent class and of drawing classes by their frequency. ``val_loss``:
    the entropy of the classes, in nats. Where the classes of the validation images are not known, they count as
    equally frequent.
    """
    if data is None or len(data.classes) < 2 or data.target_shape or data.target_type != "integer":
        return None
    counts = np.array(data.val_counts or (1,) * len(data.classes), dtype=np.float64)
    shares = np.sort(counts / counts.sum())[::-1]
    images = max(1, data.val)
    if metric == "val_loss":
        present = shares[shares > 0]
        return Chance(value=float(-(present * np.log(present)).sum()), best=0.0, error=0.0)
    top = float(shares[0])
    values = {
        "val_accuracy": top,
        "val_top5": float(shares[:TOP].sum()),
        "val_f1": max(2 * top / (1 + top) / len(shares), float(np.mean(shares))),
    }
    if metric not in values:
        return None
    value = values[metric]
    return Chance(value=value, best=1.0, error=math.sqrt(value * (1 - value) / images))
