"""Costs that must be measured: latency of inference in each runtime that is asked for, and peak memory.

Latency is measured beside the plain backbone, as a ratio times the backbone's own latency, so that a machine that
changes its speed in between changes nothing. Placements that were not measured are predicted by a model that is fitted
to few measurements (`se_nas.space.latency_model`), with an interval; a prediction is never exact.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import nn

from se_nas.core.costs import COSTS
from se_nas.core.latency_names import LATENCY
from se_nas.core.placement import Placement
from se_nas.core.trial import CostValue
from se_nas.core.words import duration
from se_nas.space.latency_fit import HeldOut, LatencyFit
from se_nas.space.latency_model import LatencyModel, Planned, Terms, Z, plan_measurements
from se_nas.space.peak_memory import peak_memory
from se_nas.space.space import Space
from se_nas.space.stopwatch import Call, Runtime, compare, conditions, torch_runtime

MEMORY = "memory"

TIME = 600.0
"""Seconds after which no further placement is measured for the model of one runtime; the last one may take longer."""

AT_LEAST = 4
"""Placements that are measured whatever the time."""

Values = dict[str, CostValue]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Latencies that another device measured, of one space."""

    base: CostValue
    """Of the plain backbone."""
    values: Mapping[str, CostValue]
    """By key of the placement."""
    planned: Sequence[Planned] = field(default_factory=list)
    """Those that the model is fitted on, and those that test it."""


class Measurer:
    """Measures the candidates of one space against the plain backbone, and predicts the others.

    Parameters
    ----------
    build:
        Placement -> network.
    input_shape:
        (channels, *size) of one image.
    batch, threads:
        Images at a time, and threads on a CPU.
    known:
        Key -> values that were measured before.
    runtimes:
        Cost -> what runs the networks; default ``latency`` in torch.
    memory:
        Whether peak memory is measured, too.
    tables:
        Cost -> what was measured elsewhere.
    """

    def __init__(
        self,
        build: Callable[[Placement], nn.Module],
        space: Space,
        *,
        input_shape: tuple[int, ...],
        device: torch.device,
        batch: int = 1,
        threads: int = 1,
        known: Mapping[str, Values] | None = None,
        runtimes: Mapping[str, Runtime] | None = None,
        memory: bool = True,
        tables: Mapping[str, Measured] | None = None,
    ) -> None:
        self.build, self.space, self.device = build, space, device
        self.batch, self.threads, self.memory = batch, threads, memory
        self.images = torch.zeros(batch, *input_shape, device=device)
        self.runtimes = {LATENCY: torch_runtime(device)} if runtimes is None else dict(runtimes)
        self.known: dict[str, Values] = {}
        self.fits: dict[str, LatencyFit] = {}
        self.keep: Callable[[], None] = lambda: None
        """Is called after each measurement."""
        self._bases: dict[str, Call] = {}
        self._models: dict[str, LatencyModel] = {}
        self._scales: dict[str, CostValue] = {}
        self._memory_model: tuple[np.ndarray, np.ndarray, float] | None = None
        self.remember(known or {}, {})
        for name, table in (tables or {}).items():
            self._tabulate(name, table)

    def remember(self, known: Mapping[str, Values], fits: Mapping[str, LatencyFit]) -> None:
        """Take over what was measured before, as far as it was under the same conditions."""
        for key, values in known.items():
            self.known.setdefault(key, {}).update({n: v for n, v in values.items() if self._holds(n, v)})
        self.fits |= {n: f for n, f in fits.items() if n in self.runtimes and f.conditions == self.conditions(n)}

    def _holds(self, name: str, value: CostValue) -> bool:
        """Whether a value of before still counts; those of version 0.1 do not say how they were measured."""
        wanted = name in self.runtimes or (name == MEMORY and self.memory)
        return wanted and (not isinstance(value.conditions, str) or value.conditions == self.conditions(name))

    def conditions(self, name: str) -> str:
        """How a cost is measured here: runtime with its version, batch, threads and device."""
        if name not in self.runtimes:
            return ""
        threads = self.threads if self.device.type == "cpu" else None
        description = self.runtimes[name].description
        return conditions(description, batch=self.batch, threads=threads, device=str(self.device))

    @property
    def plans(self) -> list[str]:
        """What `calibrate` is going to measure, and how long that may take, in sentences."""
        new = [name for name in self.runtimes if self._before(name) is None]
        number = len(self.planned) if new else 0
        return [
            f"Measuring {name} ({self.conditions(name)}) of {number} placements beside the backbone, for "
            f"{duration(TIME)} at most, before the first training."
            for name in new
        ]

    def measure(self, placement: Placement) -> Values:
        """Latency (ms for one batch) in each runtime and peak memory (MiB), from the cache if measured before."""
        values = self.known.setdefault(placement.key, {})
        missing = [name for name in self.runtimes if name not in values]
        if missing or (self.memory and MEMORY not in values):
            network = self._network(placement)
            for name in missing:
                self._time(name, placement, network)
            if self.memory and MEMORY not in values:
                mib = peak_memory(network, self.images) / 2**20
                values[MEMORY] = CostValue(value=mib, unit=COSTS[MEMORY].unit, kind="measured", interval=(mib, mib))
            self.keep()
        return values

    def calibrate(self) -> None:
        """Measure what `predict` needs, and fit its models; what was measured before is not measured again."""
        for name in self.runtimes:
            self._calibrate(name)
        if self.memory:
            placements = self._decisions_alone()
            rows = np.array([self._features(p) for p in placements])
            self._memory_model = _fit(rows, np.array([self._memory_of(p) for p in placements]))

    def predict(self, placement: Placement) -> Values:
        """Measured values where there are any, else predicted ones with their 90 % interval."""
        known = self.known.get(placement.key, {})
        predicted: Values = {}
        for name, model in self._models.items():
            if name not in known:
                ratio, sd = model.predict(placement)
                scale = self._scales[name]
                low, high = (scale.value * (ratio + side * Z * sd) for side in (-1, 1))
                predicted[name] = replace(scale, value=scale.value * ratio, kind="predicted", interval=(low, high))
        if self._memory_model is not None and MEMORY not in known:
            weights, covariance, noise = self._memory_model
            row = self._features(placement)
            value, spread = float(row @ weights), 1.645 * float(np.sqrt(row @ covariance @ row + noise**2))
            interval = (value - spread, value + spread)
            unit = COSTS[MEMORY].unit
            predicted[MEMORY] = CostValue(value=value, unit=unit, kind="predicted", interval=interval)
        return known | predicted if predicted else known

    @functools.cached_property
    def terms(self) -> Terms:
        return Terms(self.space)

    @functools.cached_property
    def planned(self) -> list[Planned]:
        """What the models are fitted on and tested with."""
        return plan_measurements(self.space, self.terms)

    def _before(self, name: str) -> LatencyFit | None:
        """The model of an earlier call, unless its placements are those of another space."""
        fit = self.fits.get(name)
        return fit if fit is not None and fit.keys <= {p.placement.key for p in self.planned} else None

    def _calibrate(self, name: str) -> None:
        """Measure the planned placements until the time is over, and fit the model of one runtime."""
        start, done = time.monotonic(), list[Planned]()
        before = self._before(name)
        self._scale(name)
        for planned in self.planned:
            key = planned.placement.key
            if before is not None and key not in before.keys:
                continue
            if before is None and len(done) >= AT_LEAST and time.monotonic() - start > TIME:
                break
            if name not in self.known.get(key, {}):
                self._time(name, planned.placement, self._network(planned.placement))
                self.keep()
            done.append(planned)
        values = {p.placement.key: self.known[p.placement.key][name] for p in done}
        seconds = time.monotonic() - start if before is None else before.seconds
        self._fit(name, done, values, seconds)
        self.keep()

    def _tabulate(self, name: str, table: Measured) -> None:
        """Take over the latencies of another device."""
        self._scales[name] = table.base
        self.known.setdefault(self.space.baseline.key, {})[name] = table.base
        for key, value in table.values.items():
            self.known.setdefault(key, {})[name] = value
        self._fit(name, table.planned, table.values, 0.0)

    def _fit(self, name: str, done: Sequence[Planned], values: Mapping[str, CostValue], seconds: float) -> None:
        base = self._scales[name]
        fitted = [p.placement for p in done if not p.held_out]
        model = LatencyModel(
            self.terms,
            fitted,
            [values[p.key].value / base.value for p in fitted],
            [_deviation(values[p.key]) / base.value for p in fitted],
        )
        tests = []
        for placement in (p.placement for p in done if p.held_out):
            ratio, sd = model.predict(placement)
            value, predicted = values[placement.key], base.value * ratio
            spread = base.value * Z * sd
            tests.append(HeldOut(key=placement.key, placement=placement.label, predicted=predicted,
                                 interval=(predicted - spread, predicted + spread), measured=value))  # fmt: skip
        self._models[name] = model
        self.fits[name] = LatencyFit(
            name=name, base=base,
            conditions=base.conditions if isinstance(base.conditions, str) else self.conditions(name),
            terms=len(self.terms.terms), fitted=tuple(p.key for p in fitted), held_out=tuple(tests), seconds=seconds,
        )  # fmt: skip

    def _scale(self, name: str) -> CostValue:
        """The backbone's own latency, which all ratios are multiplied with: measured once, then kept."""
        if name not in self._scales:
            known = self.known.setdefault(self.space.baseline.key, {})
            if name not in known:
                self._time(name, self.space.baseline, self._network(self.space.baseline))
            self._scales[name] = known[name]
        return self._scales[name]

    def _time(self, name: str, placement: Placement, network: nn.Module) -> None:
        """Measure a latency beside that of the backbone."""
        runtime, own = self.runtimes[name], placement.key == self.space.baseline.key
        if name not in self._bases:
            self._bases[name] = runtime.open(self._network(self.space.baseline), self.images)
        call = self._bases[name] if own else runtime.open(network, self.images)
        seen = compare(self._bases[name], call, wait=runtime.wait)
        if own:
            value, low, high = (1000 * s for s in (seen.seconds, *seen.base_interval))
        else:
            scale = self._scale(name).value
            value, (low, high) = scale * seen.ratio, (scale * bound for bound in seen.interval)
        self.known.setdefault(placement.key, {})[name] = CostValue(
            value=value, unit=COSTS[LATENCY].unit, kind="measured", interval=(low, high),
            conditions=self.conditions(name),
        )  # fmt: skip

    def _network(self, placement: Placement) -> nn.Module:
        return self.build(placement).to(self.device).eval()

    def _memory_of(self, placement: Placement) -> float:
        values = self.known.setdefault(placement.key, {})
        if MEMORY not in values:
            mib = peak_memory(self._network(placement), self.images) / 2**20
            values[MEMORY] = CostValue(value=mib, unit=COSTS[MEMORY].unit, kind="measured", interval=(mib, mib))
            self.keep()
        return values[MEMORY].value

    def _decisions_alone(self) -> list[Placement]:
        """No SE, SE everywhere, and each reduction of each decision alone: what memory is added up from."""
        placements = [self.space.baseline, self.space.reference]
        for decision in self.space.decisions:
            for reduction in decision.reductions:
                if reduction != "none":
                    choices = {unit.name: self.space.choice(unit, reduction) for unit in decision.units}
                    placements.append(Placement(choices={**self.space.baseline.choices, **choices}))
        return placements

    def _features(self, placement: Placement) -> np.ndarray:
        """For each decision the number of its units with SE, and their squeeze channels, after a constant."""
        row = [1.0]
        for decision in self.space.decisions:
            chosen = [placement.choices[u.name] for u in decision.units if placement.choices[u.name].kind == "se"]
            row += [len(chosen), sum(c.squeeze_channels or 0 for c in chosen)]
        return np.array(row)


def _deviation(value: CostValue) -> float:
    """The standard deviation that a 90 % interval stands for."""
    low, high = value.interval or (value.value, value.value)
    return (high - low) / (2 * Z)


def _fit(rows: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Least squares with a little ridge: weights, their covariance, and the sd of the residuals."""
    normal = rows.T @ rows + 1e-6 * np.eye(rows.shape[1])
    inverse = np.linalg.inv(normal)
    weights = inverse @ rows.T @ values
    freedom = max(1, len(values) - np.linalg.matrix_rank(rows))
    noise = float(np.sqrt(((values - rows @ weights) ** 2).sum() / freedom))
    return weights, inverse * noise**2, noise
