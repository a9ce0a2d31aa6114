"""All costs of a placement in one place: exact ones from the table, measured and predicted ones, and the user's own."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from se_nas.core.config import Limits
from se_nas.core.costs import COSTS, EXACT, cost_facts
from se_nas.core.errors import CostError
from se_nas.core.files import write_atomically
from se_nas.core.placement import Placement
from se_nas.core.plugins import resolve
from se_nas.core.serialization import from_json, to_json
from se_nas.core.trial import CostValue
from se_nas.space.exact_cost import Cost, CostModel
from se_nas.space.latency_fit import LatencyFit
from se_nas.space.measured_cost import Measurer, Values
from se_nas.space.space import Decision, Space

CACHE, FITS = "measured.json", "latency.json"
"""Files of a run folder: what was measured, and the models of latency with their errors."""


class Pricing:
    """The costs of placements by name, and which hard limit one is over.

    Parameters
    ----------
    exact:
        Counts params, macs, gflops and activations.
    measurer:
        Measures and predicts latency and memory; None where nobody asked for them.
    own:
        The user's exact costs, which are asked for every placement that is proposed.
    cache:
        File that keeps what was measured.
    """

    def __init__(
        self,
        exact: CostModel,
        *,
        measurer: Measurer | None = None,
        own: Iterable[Any] = (),
        build: Callable[[Placement], nn.Module] | None = None,
        input_shape: tuple[int, ...] = (),
        cache: Path | None = None,
    ) -> None:
        self.exact, self.measurer, self.own = exact, measurer, tuple(own)
        self._build, self._input_shape, self._cache = build, input_shape, cache
        self._own: dict[str, Values] = {}
        if measurer is not None and cache is not None:
            self._remember(measurer, cache)
            measurer.keep = self._keep

    def _remember(self, measurer: Measurer, cache: Path) -> None:
        known = from_json(cache.read_bytes(), dict[str, Values], where=str(cache)) if cache.is_file() else {}
        fits = cache.with_name(FITS)
        read = from_json(fits.read_bytes(), dict[str, LatencyFit], where=str(fits)) if fits.is_file() else {}
        measurer.remember(known, read)

    @property
    def fits(self) -> Mapping[str, LatencyFit]:
        """The models of latency, by cost, with their errors on what they were not fitted on."""
        return {} if self.measurer is None else self.measurer.fits

    @property
    def to_measure(self) -> list[str]:
        """What `prepare` is going to measure, and how long that may take, in sentences."""
        return [] if self.measurer is None else self.measurer.plans

    def __call__(self, placement: Placement) -> Values:
        """Every cost of a placement; measured where it was measured, else predicted."""
        values = self.exact(placement).values()
        if self.measurer is not None:
            values |= self.measurer.predict(placement)
        return values | self._own_costs(placement) if self.own else values

    def _own_costs(self, placement: Placement) -> Values:
        if placement.key not in self._own:
            assert self._build is not None  # noqa: S101  # given with `own`
            network = self._build(placement)
            self._own[placement.key] = {cost.name: cost.measure(network, self._input_shape) for cost in self.own}
        return self._own[placement.key]

    def over_limit(self, placement: Placement, limits: Limits) -> str | None:
        """The limit that a placement may be over, in words, or None. An interval counts with its upper end."""
        return over_limit(self(placement), given) if (given := limits_given(limits)) else None

    def of_levels(
        self, space: Space, names: Sequence[str], limits: Limits
    ) -> Callable[[Mapping[str, int]], tuple[float, ...]]:
        """The function from an assignment of levels to its costs of these names, measured ones as predicted.

        They are infinite where an assignment must not be proposed: over a limit, with a level that only the reference
        has, or when another assignment before it builds the same network. Exact costs add up over the decisions
        (microseconds); others are asked for every placement.
        """
        given = limits_given(limits)
        exact = {*names, *given} <= set(EXACT)
        tables = [(tuple(decision.parameters), self._added(space, decision)) for decision in space.decisions]
        forbidden = (math.inf,) * len(names)
        start = self.exact.backbone

        def cost(levels: Mapping[str, int]) -> tuple[float, ...]:
            params, macs, activations = start.params, start.macs, start.activations
            for parameters, table in tables:
                added = table.get(tuple([levels[name] for name in parameters]))
                if added is None:
                    return forbidden
                params, macs, activations = params + added.params, macs + added.macs, activations + added.activations
            if exact:
                total = Cost(params=params, macs=macs, activations=activations)
                over = any(getattr(total, name) > limit for name, limit in given.items())
                return forbidden if over else tuple([float(getattr(total, name)) for name in names])
            values = self(space.placement(levels))
            if over_limit(values, given) is not None:
                return forbidden
            if unknown := [name for name in names if name not in values]:
                raise CostError(f"there is no cost {unknown[0]!r}", allowed=values)
            return tuple(float(values[name].value) for name in names)

        return cost

    def _added(self, space: Space, decision: Decision) -> dict[tuple[int, ...], Cost]:
        """What those levels of a decision add that may be proposed, the first that build the same network."""
        parts = space.parts(decision).values()
        return {tuple(part.levels.values()): self.exact.of_choices(part.choices) for part in parts}

    def prepare(self) -> None:
        """Measure what predictions need. To be called while no training runs."""
        if self.measurer is not None:
            self._alone(self.measurer.calibrate)

    def settle(self, placements: Iterable[Placement]) -> Mapping[str, Values]:
        """Measure these placements, and return all that was measured. To be called while no training runs."""
        if self.measurer is None:
            return {}
        for placement in placements:
            self._alone(self.measurer.measure, placement)
        return self.measurer.known

    def _alone(self, function: Callable[..., Any], *args: Any) -> None:
        """Call with as many threads as latency is measured with, and keep what was measured."""
        assert self.measurer is not None  # noqa: S101  # of our own callers
        threads = torch.get_num_threads()
        torch.set_num_threads(self.measurer.threads)
        try:
            function(*args)
        finally:
            torch.set_num_threads(threads)
        self._keep()

    def _keep(self) -> None:
        if self.measurer is not None and self._cache is not None:
            write_atomically(self._cache, to_json(self.measurer.known))
            write_atomically(self._cache.with_name(FITS), to_json(self.measurer.fits))


def limits_given(limits: Limits) -> dict[str, float]:
    """The limits that were given, by cost."""
    wanted = {name: getattr(limits, name) for name in COSTS} | limits.own
    return {name: limit for name, limit in wanted.items() if limit is not None}


def over_limit(values: Mapping[str, CostValue], limits: Mapping[str, float]) -> str | None:
    """The limit that costs may be over, in words, or None."""
    for name, limit in limits.items():
        if name not in values:
            raise CostError(f"there is no cost {name!r} to limit", allowed=values)
        cost = values[name]
        upper = cost.value if cost.interval is None else cost.interval[1]
        if upper > limit:
            facts = cost_facts(name)
            unit = f" {facts.unit}" if facts.unit and not facts.whole else ""
            return f"{name} {upper:g} is over the limit {limit:g}{unit}"
    return None


def open_costs(names: Iterable[str]) -> list[Any]:
    """The user's own costs by import path; CostError for one that is not exact."""
    costs = []
    for name in names:
        factory, _ = resolve("cost", name, {})
        cost = factory()
        if not cost.exact:
            raise CostError(
                f"cost {name!r} is measured, not exact",
                hint="latency and memory are measured by se-nas; an own cost must be a function of the network",
            )
        costs.append(cost)
    return costs
