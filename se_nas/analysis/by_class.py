"""Where SE helps: the classes of a network with SE beside those of the backbone without, on the same test images.

Each class, and each kind of mistake, is compared as whole networks are (`se_nas.analysis.statistics`): its noise is
that of the seeds and of its images. Images of one class are few, and where networks differ on none of them the noise
would be 0: two more images, one of them right in each network with one of the seeds, are counted as in
`se_nas.analysis.paired`. Intervals and p values are Bonferroni's, for all classes (or all mistakes) at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

from se_nas.analysis.paired import more_noise
from se_nas.analysis.statistics import FAMILY_ERROR, differences, variances
from se_nas.samplers.features import Array

MOST = 200
"""Mistakes that are compared, at most: the most frequent of all networks together."""

FEWEST = 5
"""Times that a mistake was made, at least, by all trainings of all networks together."""

DRAWN = 30
"""Classes of which the whole matrix is kept, at most."""


@dataclass(frozen=True, kw_only=True)
class Shift:
    """A share of the images of a class, without SE and with it: means over seeds, and the difference (with - without).

    ``low`` and ``high``: 90 % interval, ``p``: one-sided, in the direction of the difference; both for all that are
    compared at once.
    """

    true: str
    """The class of the images."""
    predicted: str
    """What they were taken for; the class itself where the share is its accuracy."""
    images: int
    without: float
    value: float
    difference: float
    low: float
    high: float
    p: float

    @property
    def shown(self) -> bool:
        """Whether the difference is more than noise, at 5 % for all that are compared."""
        return self.p <= FAMILY_ERROR


@dataclass(frozen=True, kw_only=True)
class ByClass:
    """A network with SE and the backbone without, class by class."""

    network: str
    """Key of the network with SE."""
    seeds: int
    classes: tuple[Shift, ...]
    """In the order of the data set; without those of fewer than two test images."""
    mistakes: tuple[Shift, ...]
    """The most frequent ones, the largest difference first."""
    names: tuple[str, ...] = ()
    """Of the rows and columns of the matrices; empty where there are too many classes to draw."""
    matrices: tuple[tuple[tuple[float, ...], ...], ...] = ()
    """Without SE and with it: share of the images of a class (row) that were taken for another (column)."""


def compare_classes(
    predicted: NDArray[np.integer], true: NDArray[np.integer], names: Sequence[str], *, network: str
) -> ByClass:
    """Compare the second of several networks with the first.

    Parameters
    ----------
    predicted:
        Class numbers ``networks x seeds x images``, at least 2 and 2 and 1. All networks tell the noise of the seeds.
    true:
        Class numbers (images,).
    network:
        Key of the second network.
    """
    rows = [np.flatnonzero(true == c) for c in range(len(names))]
    known = [c for c in range(len(names)) if len(rows[c]) >= 2]
    accuracies = [(c, c) for c in known]
    made = np.zeros((len(names), len(names)), dtype=int)
    inside = (predicted >= 0) & (predicted < len(names))
    np.add.at(made, (np.broadcast_to(true, predicted.shape)[inside], predicted[inside]), 1)
    np.fill_diagonal(made, 0)
    order = np.argsort(-made, axis=None, kind="stable")[:MOST]
    found = [divmod(int(k), len(names)) for k in order]
    mistakes = [(c, d) for c, d in found if made[c, d] >= FEWEST and len(rows[c]) >= 2]

    def shifts(pairs: Sequence[tuple[int, int]]) -> list[Shift]:
        return [
            _shift(predicted[:, :, rows[c]] == d, names[c], names[d], family=len(pairs)) for c, d in pairs
        ]  # fmt: skip

    return ByClass(
        network=network,
        seeds=predicted.shape[1],
        classes=tuple(shifts(accuracies)),
        mistakes=tuple(sorted(shifts(mistakes), key=lambda shift: (-abs(shift.difference), shift.p))),
        names=tuple(names) if len(names) <= DRAWN else (),
        matrices=_matrices(predicted[:2], true, len(names)) if len(names) <= DRAWN else (),
    )


def _shift(taken: NDArray[np.bool_], true: str, predicted: str, *, family: int) -> Shift:
    """From whether the images of one class were taken for another: ``networks x seeds x images``."""
    scores = taken.astype(float)
    without, value = (float(share) for share in scores[:2].mean(axis=(1, 2)))
    noise = variances(scores)
    more = np.diag(more_noise(scores.mean(axis=1), noise.images) / scores.shape[1])
    between, within = noise.image_terms
    noise = replace(noise, images=noise.images + more, image_terms=(between + more, within))
    result = differences(scores, noise, [(1, 0)])
    difference, error, degrees = (float(found[0]) for found in (result.mean, result.error, result.degrees))
    reach = error * float(stdtrit(degrees, 1 - FAMILY_ERROR / family))
    p = float(stdtr(degrees, -abs(difference) / error)) if difference else 1.0
    return Shift(
        true=true, predicted=predicted, images=scores.shape[2], without=without, value=value, difference=difference,
        low=max(difference - reach, -1.0), high=min(difference + reach, 1.0), p=min(1.0, family * p),
    )  # fmt: skip


def _matrices(
    predicted: NDArray[np.integer], true: NDArray[np.integer], classes: int
) -> tuple[tuple[tuple[float, ...], ...], ...]:
    found: list[Array] = []
    for network in predicted:
        table = np.zeros((classes, classes))
        inside = (network >= 0) & (network < classes)
        np.add.at(table, (np.broadcast_to(true, network.shape)[inside], network[inside]), 1.0)
        images = np.bincount(true, minlength=classes)[:, None] * len(network)
        found.append(np.divide(table, images, out=np.zeros_like(table), where=images > 0))
    return tuple(tuple(tuple(round(float(v), 6) for v in row) for row in table) for table in found)
