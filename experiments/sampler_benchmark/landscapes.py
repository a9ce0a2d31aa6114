"""Landscapes with known truth: accuracy gain vs. no SE, in points, of every placement, with exact costs.

A landscape is never shown to a sampler: a sampler gets the space, the cost function and noisy values. ``benchmark()``
are the landscapes of the reported figures, with constants from the literature or drawn from seeds 1000 and up.
``development()`` has other shapes, other costs and seeds below 1000; every choice in the package was made on it alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from optuna.distributions import BaseDistribution, IntDistribution

from se_nas.samplers.pareto import rising_front
from se_nas.space.levels import LevelSpace

Array = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]

#: (channels, side of the feature map, residual units) of every stage.
RESNET50 = ((256, 56, 3), (512, 28, 4), (1024, 14, 6), (2048, 7, 3))
RESNET20 = ((16, 32, 3), (32, 16, 3), (64, 8, 3))
WIDE_RESNET16 = ((160, 32, 2), (320, 16, 2), (640, 8, 2))
REDUCTIONS4 = (None, 16, 8, 4)
REDUCTIONS5 = (None, 32, 16, 8, 4)
#: Gain against r = 16 (SE paper, table of reductions on SE-ResNet-50).
PAPER_WIDTH = {32: 0.57, 16: 1.0, 8: 1.02, 4: 1.03}
#: Gain of SE in one stage only (SE paper); the last stage "can be dropped".
PAPER_STAGE = (0.27, 0.26, 0.62, 0.05)


@dataclass(frozen=True, kw_only=True)
class Landscape:
    """``gain(codes)``: true gain of ``n x d`` codes vs. no SE, in points; ``noise``: sd of one training, in points.

    ``params[j, i]``, ``macs[j, i]``: exact weights and multiply-adds that level ``i`` of decision ``j`` adds.
    """

    name: str
    reductions: tuple[int | None, ...]
    params: Array
    macs: Array
    gain: Callable[[Codes], Array]
    noise: float

    @property
    def space(self) -> dict[str, BaseDistribution]:
        return {f"d{j:02d}.reduction": IntDistribution(0, len(self.reductions) - 1) for j in range(len(self.params))}

    @property
    def level_space(self) -> LevelSpace:
        return LevelSpace.of(self.space, self.reductions)

    @property
    def decisions(self) -> int:
        return len(self.params)

    def cost(self, params: Mapping[str, int]) -> float:
        """Added weights of a placement, in thousands."""
        return float(sum(self.params[int(name[1:3]), level] for name, level in params.items())) / 1e3

    def costs(self, codes: Codes) -> Array:
        """Added weights of ``n x d`` codes, in thousands."""
        return np.asarray(self.params[np.arange(self.decisions), codes].sum(axis=1)) / 1e3


def se_cost(channels: int, side: int, units: int, reduction: int | None) -> tuple[float, float]:
    """Weights and multiply-adds that SE adds in ``units`` units, without biases (Hu et al., eq. 5 of the TPAMI paper).

    Multiply-adds: two fully connected layers, one pooling and one rescaling of the map.
    """
    if reduction is None:
        return 0.0, 0.0
    weights = 2 * channels * (channels // reduction)
    return float(units * weights), float(units * (weights + 2 * channels * side**2))


def cost_tables(decisions: list[tuple[int, int, int]], reductions: tuple[int | None, ...]) -> tuple[Array, Array]:
    table = np.array([[se_cost(*decision, r) for r in reductions] for decision in decisions])
    return table[..., 0], table[..., 1]


def by_block(stages: tuple[tuple[int, int, int], ...], count: int | None = None) -> list[tuple[int, int, int]]:
    """One decision per unit, or ``count`` decisions over nearly equal runs of units of one stage."""
    blocks = [(channels, side, 1) for channels, side, units in stages for _ in range(units)]
    if count is None:
        return blocks
    groups = [(stage, part) for stage in stages for part in _halves(stage, count // len(stages))]
    return [(channels, side, len(part)) for (channels, side, _), part in groups]


def _halves(stage: tuple[int, int, int], parts: int) -> list[npt.NDArray[np.int64]]:
    return np.array_split(np.arange(stage[2]), parts)


def additive(table: Array) -> Callable[[Codes], Array]:
    """Sum of one effect per decision and level; ``table`` is ``d x levels`` with 0 in the first column."""

    def gain(codes: Codes) -> Array:
        return np.asarray(table[np.arange(len(table)), codes].sum(axis=1))

    return gain


def interacting(table: Array, pair: Array, triple: float) -> Callable[[Codes], Array]:
    """Main effects plus an effect of every pair that is on together, plus one of three neighbours together."""
    main = additive(table)

    def gain(codes: Codes) -> Array:
        on = (codes > 0).astype(np.float64)
        pairs = np.einsum("ni,ij,nj->n", on, np.triu(pair, 1), on)
        return main(codes) + pairs + triple * (on[:, :-2] * on[:, 1:-1] * on[:, 2:]).sum(axis=1)

    return gain


def saturating(table: Array, ceiling: float) -> Callable[[Codes], Array]:
    """Gains that add up to no more than ``ceiling``: ``ceiling * tanh(sum / ceiling)``; keeps the additive front."""
    main = additive(table)
    return lambda codes: np.asarray(ceiling * np.tanh(main(codes) / ceiling))


def paper_table(stage_of: list[int], share: Array, reductions: tuple[int | None, ...]) -> Array:
    """Stage gains of the SE paper, each shared out over its decisions, times the gain of each width."""
    width = np.array([0.0 if r is None else PAPER_WIDTH[r] for r in reductions])
    return np.array([PAPER_STAGE[s] * w for s, w in zip(stage_of, share, strict=True)])[:, None] * width


def make(
    name: str,
    decisions: list[tuple[int, int, int]],
    reductions: tuple[int | None, ...],
    gain: Callable[[Codes], Array],
    noise: float,
) -> Landscape:
    params, macs = cost_tables(decisions, reductions)
    return Landscape(name=name, reductions=reductions, params=params, macs=macs, gain=gain, noise=noise)


def benchmark() -> list[Landscape]:
    """The landscapes of the reported figures."""
    stages, halves, blocks = list(RESNET50), by_block(RESNET50, 8), by_block(RESNET50)
    paper4 = paper_table([0, 1, 2, 3], np.ones(4), REDUCTIONS5)
    paper8 = paper_table([0, 0, 1, 1, 2, 2, 3, 3], np.full(8, 0.5), REDUCTIONS4)
    stage_of = [s for s, (_, _, units) in enumerate(RESNET50) for _ in range(units)]
    paper16 = paper_table(stage_of, np.array([1 / RESNET50[s][2] for s in stage_of]), REDUCTIONS5)
    rng = np.random.default_rng(1000)
    pair4, pair8 = rng.normal(0, 0.35, (4, 4)), rng.normal(0, 0.2, (8, 8))
    hurts = -np.outer([0.3, 0.25, 0.5, 0.2], [0, 0.4, 0.6, 0.8, 1.0])
    wrong = np.outer([0.5, -0.3, 0.3, -0.4], [0, 1.0, 0.7, 0.4, 0.1])
    one4, one16 = np.zeros((4, 5)), np.zeros((16, 5))
    one4[2, 1:], one16[9, 1:] = (0.5, 0.8, 0.9, 0.95), (0.5, 0.8, 0.9, 0.95)
    result = [make(f"paper-4-noise{s}", stages, REDUCTIONS5, additive(paper4), s) for s in (0.1, 0.3, 0.6)]
    result += [
        make("interactions-4", stages, REDUCTIONS5, interacting(paper4, pair4, 0.3), 0.3),
        make("wrong-way-4", stages, REDUCTIONS5, additive(wrong), 0.3),
        make("one-stage-4", stages, REDUCTIONS5, additive(one4), 0.3),
        make("hurts-4", stages, REDUCTIONS5, additive(hurts), 0.3),
        make("no-effect-4", stages, REDUCTIONS5, additive(np.zeros((4, 5))), 0.3),
        make("paper-8", halves, REDUCTIONS4, additive(paper8), 0.3),
        make("interactions-8", halves, REDUCTIONS4, interacting(paper8, pair8, 0.2), 0.3),
        make("paper-16", blocks, REDUCTIONS5, additive(paper16), 0.3),
        make("one-block-16", blocks, REDUCTIONS5, additive(one16), 0.1),
    ]
    return result


def development() -> list[Landscape]:
    """Other shapes, costs and seeds: what design decisions were made on."""
    rng = np.random.default_rng(7)
    result = []
    width4 = np.array([0, 0.7, 0.95, 1.0])
    for i, noise in enumerate((0.15, 0.25, 0.5)):
        stage = rng.normal(0.25, 0.3, 3)
        curve = np.array([0, *np.sort(rng.random(3))])
        result.append(make(f"dev-random-3-{i}", list(RESNET20), REDUCTIONS4, additive(np.outer(stage, curve)), noise))
    for i, noise in enumerate((0.2, 0.4)):
        table = np.outer(rng.exponential(0.3, 6), width4)
        table[:, 1:] += rng.normal(0, 0.05, (6, 3))
        result.append(make(f"dev-sum-6-{i}", by_block(WIDE_RESNET16), REDUCTIONS4, saturating(table, 1.2), noise))
        pair = rng.normal(-0.05, 0.25, (6, 6))
        gain = interacting(np.outer(rng.normal(0.1, 0.2, 6), width4), pair, -0.1)
        result.append(make(f"dev-pair-6-{i}", by_block(WIDE_RESNET16), REDUCTIONS4, gain, noise))
    table = np.outer(rng.normal(0.08, 0.12, 9), width4)
    result.append(make("dev-random-9", by_block(RESNET20), REDUCTIONS4, additive(table), 0.2))
    table = np.zeros((6, 4))
    table[1] = 0.6 * width4
    result.append(make("dev-single-6", by_block(WIDE_RESNET16), REDUCTIONS4, additive(table), 0.25))
    result.append(make("dev-nothing-6", by_block(WIDE_RESNET16), REDUCTIONS4, additive(np.zeros((6, 4))), 0.25))
    return result


def true_front(landscape: Landscape) -> tuple[Array, Array]:
    """Costs and gains of the true front, by enumeration; for spaces too large to list see :func:`merged_front`."""
    space = landscape.level_space
    codes = space.all() if space.size <= 300_000 else merged_front(landscape)
    cost, gain = landscape.costs(codes), landscape.gain(codes)
    front = rising_front(cost[:, None], gain)
    return cost[front], gain[front]


def merged_front(landscape: Landscape) -> Codes:
    """The front of an additive landscape, decision by decision: a part of a front placement is on the part's front."""
    d = landscape.decisions
    partial = np.zeros((1, d), dtype=np.int64)
    for j in range(d):
        partial = np.repeat(partial, len(landscape.reductions), axis=0)
        partial[:, j] = np.tile(np.arange(len(landscape.reductions)), len(partial) // len(landscape.reductions))
        front = rising_front(landscape.costs(partial)[:, None], landscape.gain(partial))
        partial = partial[front]
    return partial


def score(landscape: Landscape, codes: Codes, claimed: Array) -> float:
    """Area under the true gain of whichever recommended placement is claimed best at each cost, up to the highest cost.

    Below the cheapest recommendation, and where no recommendation claims more, the gain is what the claim says it
    is worth in truth; a placement that hurts counts negative. In points times thousand weights.
    """
    top = float(landscape.params.max(axis=1).sum()) / 1e3
    cost, truth = landscape.costs(codes), landscape.gain(codes)
    front = rising_front(cost[:, None], claimed)
    ends = np.append(cost[front][1:], top)
    return float((truth[front] * (ends - cost[front])).sum())


def best_score(landscape: Landscape) -> float:
    """The score of the true front."""
    top = float(landscape.params.max(axis=1).sum()) / 1e3
    cost, gain = true_front(landscape)
    return float((gain * (np.append(cost[1:], top) - cost)).sum())


def share(landscape: Landscape, area: float, best: float) -> float:
    """Score over the best one; where nothing can be gained, minus the mean true loss in points."""
    return area / best if best > 1e-9 else area / (float(landscape.params.max(axis=1).sum()) / 1e3)
