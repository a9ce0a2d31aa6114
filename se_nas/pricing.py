"""All costs of a placement in one place: exact ones from the table, measured and predicted ones, and the user's own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from se_nas.config import Limits
from se_nas.cost import COST_UNITS, CostModel
from se_nas.errors import CostError
from se_nas.files import write_atomically
from se_nas.measure import MEASURED_UNITS, Measurer, Values
from se_nas.plugins import resolve
from se_nas.records import Placement, from_json, to_json


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
        if measurer is not None and cache is not None and cache.is_file():
            measurer.known.update(from_json(cache.read_bytes(), dict[str, Values], where=str(cache)))

    def __call__(self, placement: Placement) -> Values:
        """Every cost of a placement; measured where it was measured, else predicted."""
        values = self.exact(placement).values()
        if self.measurer is not None:
            values |= self.measurer.predict(placement)
        if self.own and placement.key not in self._own:
            assert self._build is not None  # noqa: S101  # given with `own`
            network = self._build(placement)
            self._own[placement.key] = {cost.name: cost.measure(network, self._input_shape) for cost in self.own}
        return values | self._own.get(placement.key, {})

    def over_limit(self, placement: Placement, limits: Limits) -> str | None:
        """The limit that a placement may be over, in words, or None. An interval counts with its upper end."""
        values: Values | None = None
        wanted = {name: getattr(limits, name) for name in (*COST_UNITS, *MEASURED_UNITS)} | limits.own
        for name, limit in wanted.items():
            if limit is None:
                continue
            values = values or self(placement)
            if name not in values:
                raise CostError(f"there is no cost {name!r} to limit", allowed=values)
            cost = values[name]
            upper = cost.value if cost.interval is None else cost.interval[1]
            if upper > limit:
                return f"{name} {upper:g} is over the limit {limit:g}"
        return None

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
        """Call with one thread, and keep what was measured."""
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            function(*args)
        finally:
            torch.set_num_threads(threads)
        if self.measurer is not None and self._cache is not None:
            write_atomically(self._cache, to_json(self.measurer.known))


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
