"""What a network says of new images: a class with its probability for each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """Classes of images by a trained network.

    ``probabilities`` (images, classes) are the softmax of what the network gives: they order the classes, and are only
    as honest as the network is calibrated.
    """

    network: str
    """Its placement, and the trial of the run that trained it."""
    classes: tuple[str, ...]
    images: tuple[str, ...]
    probabilities: np.ndarray
    errors: dict[str, str] = field(default_factory=dict)
    """Image that could not be used -> why."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The likeliest class of each image."""
        return tuple(self.classes[number] for number in self.probabilities.argmax(1))

    def likeliest(self, number: int) -> Iterator[tuple[list[tuple[str, float]], str]]:
        """For each image its so many likeliest classes with their probabilities, the likeliest first, and its name."""
        for image, row in zip(self.images, self.probabilities, strict=True):
            order = np.argsort(-row, kind="stable")[:number]
            yield [(self.classes[n], float(row[n])) for n in order], image

    def table(self) -> pd.DataFrame:
        """One row for each image: ``image``, ``class``, ``probability``, and the probability of each class."""
        head = {"image": self.images, "class": self.labels, "probability": self.probabilities.max(1, initial=0.0)}
        each = pd.DataFrame(self.probabilities, columns=[f"p_{name}" for name in self.classes])
        return pd.concat([pd.DataFrame(head), each], axis=1)

    def as_json(self) -> dict[str, Any]:
        """What ``se-nas predict --json`` prints."""
        rows = [
            {"image": image, "class": found[0][0], "probability": found[0][1], "probabilities": dict(found)}
            for found, image in self.likeliest(len(self.classes))
        ]
        return {
            "network": self.network,
            "classes": list(self.classes),
            "images": rows,
            "errors": [{"image": image, "error": why} for image, why in self.errors.items()],
        }

    def __repr__(self) -> str:
        """The network, and the first images with their classes."""
        rows = [f"{image}: {name} ({p:.3f})" for ((name, p),), image in self.likeliest(1)]
        left = [f"... and {len(rows) - 10:,} more"] if len(rows) > 10 else []
        return "\n  ".join([f"Predictions({len(rows):,} images by {self.network})", *rows[:10], *left])
