"""The table of the whole space: every placement with its exact costs and its trainings, as a landscape to search."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / "sampler_benchmark"))  # its landscapes, peers and scores are used here, too

from landscapes import Landscape  # noqa: E402

Array = npt.NDArray[np.float64]
METRIC = "val_accuracy"
REDUCTIONS: tuple[int | None, ...] = (None, 16, 8, 4)
"""What the levels 0 to 3 of a stage mean."""


def stages_of(labels: Iterable[str]) -> tuple[str, ...]:
    """Names of the stages, from any label that has them; none if all placements are alike in all stages."""
    named = next((label for label in labels if "=" in label), "")
    return tuple(part.partition("=")[0] for part in named.split(",") if named)


def levels_of(label: str, stages: Sequence[str]) -> tuple[int, ...] | None:
    """Levels of a placement's label, such as ``none``, ``all:16`` or ``stage1=none,stage2=8,stage3=4``.

    None for a placement that is not in the table, such as ``all:2``.

    >>> levels_of("stage1=none,stage2=8,stage3=4", ("stage1", "stage2", "stage3"))
    (0, 2, 3)
    """
    if label == "none" or label.startswith("all:"):
        given = dict.fromkeys(stages, label.removeprefix("all:"))
    else:
        given = dict(part.split("=") for part in label.split(","))
    words = ["none" if r is None else str(r) for r in REDUCTIONS]
    if not {given[s] for s in stages} <= set(words):
        return None
    return tuple(words.index(given[s]) for s in stages)


@dataclass(frozen=True, kw_only=True)
class Table:
    """Costs and trainings of the ``n`` placements of ``d`` stages; ``curves[seed]`` is ``n x epochs``, in points.

    Placements are in the order of their levels, the last stage first to change. A curve that is not there is NaN.
    """

    stages: tuple[str, ...]
    params: Array
    macs: Array
    curves: dict[int, Array]
    keys: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(REDUCTIONS),) * len(self.stages)

    @property
    def codes(self) -> npt.NDArray[np.int64]:
        """Levels of the placements, ``n x d``."""
        return np.indices(self.shape).reshape(len(self.stages), -1).T

    def complete(self) -> list[int]:
        """Seeds of which every placement is there."""
        return [seed for seed, curves in self.curves.items() if np.isfinite(curves).all()]

    def finals(self, seed: int) -> Array:
        """Accuracy of each placement after the last epoch, in points."""
        return self.curves[seed][:, -1]

    def index(self, codes: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Position of each row of ``m x d`` levels."""
        return np.ravel_multi_index(tuple(np.asarray(codes).T), self.shape)

    def landscape(self, name: str, truth: Array, noise: float) -> Landscape:
        """The landscape whose true gain vs. no SE is that of `truth` (accuracies of the ``n`` placements, points)."""
        gain = truth - truth[0]
        return Landscape(
            name=name,
            reductions=REDUCTIONS,
            params=self._added(self.params),
            macs=self._added(self.macs),
            gain=lambda codes: gain[self.index(codes)],
            noise=noise,
        )

    def _added(self, cost: Array) -> Array:
        """What each level of each stage adds to a cost, ``d x levels``: costs of single blocks add up exactly."""
        each = np.eye(len(self.stages), dtype=np.int64)
        levels = range(len(REDUCTIONS))
        added = np.array([[cost[self.index([level * row])[0]] - cost[0] for level in levels] for row in each])
        total = cost[0] + added[np.arange(len(self.stages)), self.codes].sum(axis=1)
        if not np.array_equal(total, cost):
            raise ValueError("the costs of the placements are not sums over their stages")
        return added


def read_table(folder: Path) -> Table:
    """The table in ``placements.csv`` and ``curves.csv`` of a folder of results."""
    placements = pd.read_csv(folder / "placements.csv", dtype={"key": str})
    stages = stages_of(placements["placement"])
    if not stages:
        raise ValueError(f"{folder / 'placements.csv'} has no placement that differs from stage to stage")
    codes = [levels_of(label, stages) for label in placements["placement"]]
    inside = placements[[code is not None for code in codes]].copy()
    size = len(REDUCTIONS) ** len(stages)
    inside["place"] = np.ravel_multi_index(
        np.array([code for code in codes if code is not None]).T, (len(REDUCTIONS),) * len(stages)
    )
    inside = inside.sort_values("place")
    if inside["place"].tolist() != list(range(size)):
        raise ValueError(f"{folder / 'placements.csv'} has not each of the {size} placements once")
    rows = pd.read_csv(folder / "curves.csv", dtype={"key": str})
    rows = rows[rows["key"].isin(inside["key"])]
    place = rows["key"].map(dict(zip(inside["key"], inside["place"], strict=True)))
    curves = {}
    for seed, part in rows.groupby("seed"):
        curves[int(seed)] = np.full((size, int(rows["epochs"].max())), np.nan)
        curves[int(seed)][place[part.index], part["epoch"] - 1] = 100 * part[METRIC]
    return Table(
        stages=stages,
        params=inside["params"].to_numpy(dtype=float),
        macs=inside["macs"].to_numpy(dtype=float),
        curves=curves,
        keys=tuple(inside["key"]),
    )


def seed_noise(finals: Array) -> float:
    """Standard deviation of one training, from ``n x seeds`` values: what placement and seed do not explain.

    The common shift of a seed is left out, as it is the same for all placements of a search.
    """
    n, seeds = finals.shape
    rest = finals - finals.mean(axis=1, keepdims=True) - finals.mean(axis=0, keepdims=True) + finals.mean()
    return float(np.sqrt((rest**2).sum() / ((n - 1) * (seeds - 1))))
