"""The placements that a proposal or a front chooses from, with their exact costs: all of them, or a good pool."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from se_nas.core.errors import CostError, ExhaustedError, SpaceError
from se_nas.samplers.features import Array, Features
from se_nas.samplers.pareto import Mask, rising_front
from se_nas.space.levels import Codes, LevelSpace

CostFunction = Callable[[dict[str, Any]], float | Sequence[float]]

#: Spaces up to this size are listed in full; with several costs fewer, because the cells of the front multiply.
LISTED, LISTED_SEVERAL = 20_000, 5_000
#: In larger spaces: random placements per proposal, members of the front whose neighbours are tried per round, how many
#: of these at most, and rounds.
RANDOM, MEMBERS, NEIGHBOURS, ROUNDS = 256, 12, 1024, 6
#: So many costs are remembered.
REMEMBERED = 100_000


class SpaceCosts:
    """Exact costs of placements, which are remembered, and the hard limits. An infinite cost forbids a placement.

    Raises ``CostError`` where ``cost`` returns no number, or not always as many; ``SpaceError`` for limits that do
    not fit.
    """

    def __init__(
        self, space: LevelSpace, cost: CostFunction, *, limits: float | Sequence[float | None] | None = None
    ) -> None:
        self._space = space
        self._cost = cost
        self._known: dict[bytes, tuple[float, ...]] = {}
        self.count = len(self._ask(np.zeros(len(space.names), dtype=np.int64)))
        each = [None] * self.count if limits is None else limits
        given = [each] if isinstance(each, int | float) else list(each)
        if len(given) != self.count or any(g is not None and math.isnan(g) for g in given):
            raise SpaceError(f"{self.count} costs need as many limits (None for no limit), not {limits!r}.")
        self.limits = np.array([math.inf if g is None else float(g) for g in given])

    def __call__(self, codes: Codes) -> Array:
        """Costs of ``n x d`` codes: ``n x a``."""
        rows = [self._known.get(row.tobytes()) or self._ask(row) for row in np.ascontiguousarray(codes)]
        return np.array(rows, dtype=np.float64).reshape(len(codes), self.count)

    def allowed(self, cost: Array) -> Mask:
        """Which rows of ``n x a`` costs are finite and within all limits."""
        return np.asarray((np.isfinite(cost) & (cost <= self.limits)).all(axis=1))

    def _ask(self, row: Codes) -> tuple[float, ...]:
        params = self._space.decode(row)
        given = self._cost(params)
        numbers = tuple(float(c) for c in np.atleast_1d(np.asarray(given, dtype=np.float64)))
        count = getattr(self, "count", len(numbers))
        if not numbers or len(numbers) != count or any(map(math.isnan, numbers)):
            raise CostError(f"the cost of {params} is {given!r}; it must be {count} number(s).")
        if len(self._known) >= REMEMBERED:
            self._known = {}
        self._known[row.tobytes()] = numbers
        return numbers


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """``n`` allowed placements: codes ``n x d``, costs ``n x a``, features ``n x p``."""

    codes: Codes
    cost: Array
    phi: Array


class Pool:
    """Candidates of one space: the full list where it is short, otherwise a search around the believed front.

    The search keeps what it has found: every round adds the one-change neighbours of members of the front of the
    posterior mean, beside random placements and the placements that were trained, so that the pool follows the
    posterior from proposal to proposal.
    """

    def __init__(self, costs: SpaceCosts, space: LevelSpace, features: Features, *, rng: np.random.Generator) -> None:
        self.features = features
        self._costs, self._space, self._rng = costs, space, rng
        self.listed = space.size <= (LISTED if costs.count == 1 else LISTED_SEVERAL)
        self._front = self._starts()
        self._all = self._of(space.all()) if self.listed else None
        if self._all is not None and not len(self._all.codes):
            raise self._nothing()

    def candidates(self, coefficients: Array, trained: Codes) -> Candidates:
        """The candidates under a posterior mean with these ``p`` coefficients.

        ``trained`` (``n x d``) are placements that should be among them. Raises ``SpaceError`` if none is allowed.
        """
        if self._all is not None:
            return self._all
        shape = np.array(self._space.shape)
        drawn = self._rng.integers(0, shape, size=(RANDOM, len(shape)))
        pool = self._of(np.concatenate([self._front, trained, drawn]))
        expanded: set[bytes] = set()
        for _ in range(ROUNDS):
            members = pool.codes[rising_front(pool.cost, pool.phi @ coefficients)] if len(pool.codes) else self._front
            self._front = members
            fresh = [row for row in members if row.tobytes() not in expanded]
            if not fresh:
                break
            chosen = [fresh[i] for i in self._rng.permutation(len(fresh))[:MEMBERS]]
            expanded.update(row.tobytes() for row in chosen)
            around = self._space.neighbours(np.array(chosen))
            if len(around) > NEIGHBOURS:
                around = around[self._rng.choice(len(around), size=NEIGHBOURS, replace=False)]
            pool = self._joined(pool, self._of(around))
        if not len(pool.codes):
            raise self._nothing()
        return pool

    def _starts(self) -> Codes:
        """First level everywhere, last level everywhere, and the cheapest level of every parameter."""
        shape = np.array(self._space.shape)
        base = np.zeros((1, len(shape)), dtype=np.int64)
        cheapest = base.copy()
        for j, count in enumerate(shape):
            changed = np.repeat(cheapest, count, axis=0)
            changed[:, j] = np.arange(count)
            cheapest = changed[[np.lexsort(self._costs(changed).T[::-1])[0]]]
        return np.concatenate([base, shape[None, :] - 1, cheapest])

    def _of(self, codes: Codes) -> Candidates:
        codes = np.unique(codes, axis=0)
        cost = self._costs(codes)
        allowed = self._costs.allowed(cost)
        return Candidates(codes=codes[allowed], cost=cost[allowed], phi=self.features(codes[allowed]))

    @staticmethod
    def _joined(a: Candidates, b: Candidates) -> Candidates:
        codes, first = np.unique(np.concatenate([a.codes, b.codes]), axis=0, return_index=True)
        cost, phi = np.concatenate([a.cost, b.cost])[first], np.concatenate([a.phi, b.phi])[first]
        return Candidates(codes=codes, cost=cost, phi=phi)

    def _nothing(self) -> ExhaustedError:
        limits = ", ".join(f"{limit:g}" for limit in self._costs.limits)
        cheapest = self._costs(self._starts()).min(axis=0)
        return ExhaustedError(
            f"no placement is within the limits ({limits}).",
            hint=f"the cheapest placement that was found costs {', '.join(f'{c:g}' for c in cheapest)}.",
        )
