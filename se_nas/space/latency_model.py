"""Latency of a whole space from few measurements: that of the backbone, and one term for each kind of SE block.

The relative extra time of a placement is a sum over its blocks. Blocks that are equal in channels, size, hidden width
and settings share a term, whatever unit they are in. A term is drawn around what all blocks have in common (a cost for
each block, for each element that it rescales, and for each weight) and around a deviation of its site: a Bayesian
linear model, in which how much sites and widths deviate, and the noise, are averaged over a grid, each weighted by how
well it explains the measurements. So fewer measurements than terms tell something, and the interval says how much.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from se_nas.core.blocks import SE
from se_nas.core.placement import Choice, Placement, Unit
from se_nas.core.serialization import random_stream
from se_nas.space.exact_cost import block_cost
from se_nas.space.space import Space

Array = NDArray[np.float64]
Class = tuple[object, ...]

COMMON = 3
"""Features that all blocks share: their number, the elements that they rescale, their weights."""

SITES, WIDTHS = (0.1, 0.3, 1.0), (0.03, 0.1, 0.3, 1.0)
"""Deviations of sites, and of widths at one site, as multiples of the size of a block's effect."""

NOISES = tuple(float(s) for s in np.geomspace(3e-4, 0.1, 11))
"""Standard deviations of a ratio around the sum of its terms, beyond the noise of its measurement: 0.03 % to 10 %."""

FEWEST, MOST = 6, 40
"""Placements that the model is fitted on."""

POOL = 300
"""Random placements that those to be measured are chosen from."""

Z = 1.6449
"""Half of a 90 % interval, in standard deviations."""


class Terms:
    """What the placements of a space consist of, as rows of numbers."""

    def __init__(self, space: Space) -> None:
        self._units = {unit.name: unit for unit in space.units}
        self._known: dict[tuple[str, object], tuple[Class, Class, tuple[float, float]]] = {}
        choices = {
            (unit.name, part.choices[unit.name])
            for decision in space.decisions
            for part in space.parts(decision, searched=False).values()
            for unit in decision.units
        }
        blocks = [self._block(name, choice) for name, choice in choices if choice.kind != "none"]
        self.classes = sorted({block[0] for block in blocks}, key=repr)
        self.terms = sorted({block[1] for block in blocks}, key=repr)
        sizes = np.array([block[2] for block in blocks] or [(1.0, 1.0)])
        self._largest = np.maximum(sizes.max(axis=0), 1.0)
        first = COMMON + len(self.classes)
        self._columns = {known: COMMON + i for i, known in enumerate(self.classes)} | {
            known: first + i for i, known in enumerate(self.terms)
        }
        self.width = first + len(self.terms)

    def row(self, placement: Placement) -> tuple[Array, int]:
        """The features of a placement, and how many of its blocks are of no kind that the space has."""
        row, foreign = np.zeros(self.width), 0
        for name, choice in placement.choices.items():
            if choice.kind == "none":
                continue
            site, term, sizes = self._block(name, choice)
            row[0] += 1
            row[1:COMMON] += np.asarray(sizes) / self._largest
            if site in self._columns:
                row[self._columns[site]] += 1
            if term in self._columns:
                row[self._columns[term]] += 1
            else:
                foreign += 1
        return row, foreign

    def _block(self, name: str, choice: Choice) -> tuple[Class, Class, tuple[float, float]]:
        """Of a block: its kind of site, that with its width and settings, and its elements and weights."""
        if (known := self._known.get((name, choice.built))) is None:
            known = self._known[name, choice.built] = _block(self._units[name], choice)
        return known


def _block(unit: Unit, choice: Choice) -> tuple[Class, Class, tuple[float, float]]:
    site = unit.site(choice.position) if choice.kind == "se" else unit.sites[0]
    elements = float(site.channels * math.prod(site.size) * site.uses)
    kind: Class = (choice.kind, site.position, site.channels, site.width, site.size, site.uses)
    if choice.block != SE:  # whose effect has nothing to do with SE's at this site
        kind = (*kind, choice.block)
        weights = block_cost(unit, choice).params
        return kind, (*kind, choice.squeeze_channels or 0), (elements, float(weights))
    settings = (choice.squeeze_channels or 0, choice.gate, choice.squeeze, choice.bias)
    hidden = choice.squeeze_channels or site.width // 4
    return kind, (*kind, *settings), (elements, float(2 * site.channels * hidden))


class LatencyModel:
    """Ratios to the latency of the backbone, of placements that were not measured.

    Parameters
    ----------
    ratios:
        Of the placements that were measured, without the backbone, whose ratio is 1.
    noises:
        Standard deviation of each measurement, where it is known: the less certain it is, the less it counts.
    """

    def __init__(
        self, terms: Terms, placements: Sequence[Placement], ratios: Sequence[float], noises: Sequence[float] = ()
    ) -> None:
        self.terms = terms
        rows = np.array([terms.row(p)[0] for p in placements]).reshape(len(placements), terms.width)
        self._mean, self._covariance, self._noise, self._foreign = _posterior(
            rows,
            np.asarray(ratios, dtype=float) - 1,
            np.asarray(noises or [0.0] * len(placements), dtype=float) ** 2,
            len(terms.classes),
        )

    def predict(self, placement: Placement) -> tuple[float, float]:
        """The ratio of a placement, and the standard deviation of the true one around it."""
        row, foreign = self.terms.row(placement)
        variance = float(row @ self._covariance @ row) + foreign**2 * self._foreign + self._noise
        return 1 + float(row @ self._mean), math.sqrt(variance if placement.blocks else self._noise)


def _posterior(rows: Array, values: Array, known: Array, classes: int) -> tuple[Array, Array, float, float]:
    """Mean and covariance of the weights, variances around the sum and of an unknown block, averaged over the grid.

    `known` are the variances of the single measurements.
    """
    width = rows.shape[1]
    blocks = math.sqrt(float((rows[:, 0] ** 2).mean())) if len(rows) else 0.0
    size = max(math.sqrt(float((values**2).mean())) / blocks, 1e-4) if blocks else 0.01
    found: list[tuple[float, Array, Array, float, float]] = []
    for site, term, noise in itertools.product(SITES, WIDTHS, NOISES):
        scale = np.full(width, size * term)
        scale[:COMMON], scale[COMMON : COMMON + classes] = 3 * size, size * site
        prior = scale**2
        spread = (rows * prior) @ rows.T + np.diag(noise**2 + known)
        factor = np.linalg.cholesky(spread)
        white = np.linalg.solve(factor, values)
        reached = np.linalg.solve(factor, rows * prior)
        evidence = -0.5 * float(white @ white) - float(np.log(np.diag(factor)).sum())
        unknown = size**2 * (site**2 + term**2)
        found.append((evidence, reached.T @ white, np.diag(prior) - reached.T @ reached, noise**2, unknown))
    weights = np.exp(np.array([f[0] for f in found]) - max(f[0] for f in found))
    weights /= weights.sum()
    mean = np.einsum("k,ki->i", weights, np.array([f[1] for f in found]))
    covariance = np.zeros((width, width))
    for weight, (_, one, own, _, _) in zip(weights, found, strict=True):
        if weight > 1e-6:
            covariance += weight * (own + np.outer(one - mean, one - mean))
    return mean, covariance, *(float(weights @ [f[i] for f in found]) for i in (3, 4))


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A placement to measure; `held_out` ones test the model and never enter it."""

    placement: Placement
    held_out: bool = False


def plan_measurements(space: Space, terms: Terms) -> list[Planned]:
    """The placements to measure, in an order of which every beginning is good.

    Of each the model knows least, given those before it (a greedy D-optimal design); the first is SE everywhere. Every
    fourth is held out: drawn at random from the space.
    """
    draw = random.Random(random_stream(0, "latency", space.checksum))  # noqa: S311  # nothing secret
    number = min(max(FEWEST, 2 + math.ceil(1.5 * len(terms.terms))), MOST)
    tests = max(3, number // 4)
    drawn = {p.key: p for p in (space.placement(space.random_levels(draw)) for _ in range(POOL))}
    drawn.pop(space.baseline.key, None)
    held = list(drawn.values())[: min(tests, len(drawn) // 4)]
    outside = {p.key for p in held}
    pool = {space.reference.key: space.reference} | drawn | {p.key: p for p in _alone(space)}
    left = [p for key, p in pool.items() if key not in outside and p.blocks]
    chosen = _spread_out(left, terms, number)
    result: list[Planned] = []
    for place, placement in enumerate(chosen):
        result.append(Planned(placement=placement))
        if place % 3 == 2 and held:
            result.append(Planned(placement=held.pop(0), held_out=True))
    return result + [Planned(placement=p, held_out=True) for p in held]


def _alone(space: Space) -> list[Placement]:
    """One decision with SE, the others without, for each of its choices."""
    none = dict.fromkeys(space.parameters, 0)
    return [
        space.placement({**none, **part.levels})
        for decision in space.decisions
        for part in space.parts(decision).values()
        if part.label[0] != "none"
    ]


def _spread_out(pool: Sequence[Placement], terms: Terms, number: int) -> list[Placement]:
    """So many of a pool, the first one and then each the one that is known least by those before it."""
    if not pool:
        return []
    rows = np.array([terms.row(p)[0] for p in pool])
    scale = np.full(terms.width, 0.3)
    scale[:COMMON], scale[COMMON : COMMON + len(terms.classes)] = 1.0, 0.5
    covariance = np.diag(scale**2)
    chosen: list[int] = []
    for _ in range(min(number, len(pool))):
        variances = np.einsum("ij,jk,ik->i", rows, covariance, rows)
        variances[chosen] = -1.0
        best = 0 if not chosen else int(variances.argmax())
        chosen.append(best)
        gain = covariance @ rows[best]
        covariance -= np.outer(gain, gain) / (float(rows[best] @ gain) + 0.1)
    return [pool[i] for i in chosen]
