"""Costs that must be measured: latency and peak memory of inference.

Latency is the median of warmed runs that alternate with runs of the backbone without SE, as a ratio times the
backbone's own latency, so that a machine that changes its speed in between changes nothing. Placements that were not
measured are predicted from measurements of each decision alone, with an interval; a prediction is never exact.
"""

from __future__ import annotations

import statistics
import time
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from scipy.stats import binom
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from se_nas.core.costs import COSTS, MEASURED
from se_nas.core.placement import Placement
from se_nas.core.trial import CostValue
from se_nas.data.accelerators import synchronize
from se_nas.space.space import Space

ROUNDS = 31
"""Runs of the candidate, each beside one of the backbone."""

MIN_RUN = 0.004
"""Seconds that one timed run takes at least; short networks are called several times."""

Values = dict[str, CostValue]


class Measurer:
    """Measures the candidates of one space against its backbone without SE, and predicts the others.

    Parameters
    ----------
    build:
        Placement -> network.
    input_shape:
        (channels, *size) of one image.
    batch:
        Images at a time.
    known:
        Key -> values that were measured before.
    """

    def __init__(
        self,
        build: Callable[[Placement], nn.Module],
        space: Space,
        *,
        input_shape: tuple[int, ...],
        device: torch.device,
        batch: int = 1,
        known: Mapping[str, Values] | None = None,
    ) -> None:
        self.build = build
        self.space = space
        self.device = device
        self.images = torch.zeros(batch, *input_shape, device=device)
        self.known: dict[str, Values] = dict(known or {})
        self._backbone = self._network(space.baseline)
        self._seconds = 0.0
        self._model: dict[str, tuple[np.ndarray, np.ndarray, float]] = {}

    def measure(self, placement: Placement) -> Values:
        """Latency (ms for one batch) and peak memory (MiB) of a placement, from the cache if it was measured before."""
        if placement.key not in self.known:
            network = self._network(placement)
            self.known[placement.key] = {"latency": self._latency(network), "memory": self._memory(network)}
        return self.known[placement.key]

    def calibrate(self) -> None:
        """Measure every value of every decision alone, and all together: what `predict` adds up."""
        placements = [self.space.baseline, self.space.reference]
        for decision in self.space.decisions:
            for reduction in decision.reductions:
                if reduction != "none":
                    choices = {unit.name: self.space.choice(unit, reduction) for unit in decision.units}
                    placements.append(Placement(choices={**self.space.baseline.choices, **choices}))
        rows = np.array([self._features(p) for p in placements])
        for name in MEASURED:
            values = np.array([self.measure(p)[name].value for p in placements])
            self._model[name] = _fit(rows, values)

    def predict(self, placement: Placement) -> Values:
        """Measured values where there are any, else predicted ones with their 90 % interval."""
        if placement.key in self.known:
            return self.known[placement.key]
        row = self._features(placement)
        predicted = {}
        for name, (weights, covariance, noise) in self._model.items():
            value = float(row @ weights)
            spread = 1.645 * float(np.sqrt(row @ covariance @ row + noise**2))
            predicted[name] = CostValue(
                value=value, unit=COSTS[name].unit, kind="predicted", interval=(value - spread, value + spread)
            )
        return predicted

    def _features(self, placement: Placement) -> np.ndarray:
        """For each decision the number of its units with SE, and their squeeze channels, after a constant."""
        row = [1.0]
        for decision in self.space.decisions:
            chosen = [placement.choices[u.name] for u in decision.units if placement.choices[u.name].kind == "se"]
            row += [len(chosen), sum(c.squeeze_channels or 0 for c in chosen)]
        return np.array(row)

    def _network(self, placement: Placement) -> nn.Module:
        return self.build(placement).to(self.device).eval()

    def _latency(self, network: nn.Module) -> CostValue:
        calls = self._warm(network)
        ratios, times = [], []
        for _ in range(ROUNDS):
            base = self._time(self._backbone, calls)
            ratios.append(self._time(network, calls) / base)
            times.append(base)
        if not self._seconds:
            self._seconds = statistics.median(times)
        scale = 1000 * self._seconds
        low, high = median_interval(ratios)
        value = scale * statistics.median(ratios)
        return CostValue(value=value, unit=COSTS["latency"].unit, kind="measured", interval=(scale * low, scale * high))

    def _warm(self, network: nn.Module) -> int:
        """Run both networks until they are warm; returns how many calls a timed run needs."""
        for _ in range(3):
            self._time(network, 1)
            once = self._time(self._backbone, 1)
        return max(1, round(MIN_RUN / once))

    def _time(self, network: nn.Module, calls: int) -> float:
        """Seconds of one call, as the mean of several."""
        with torch.inference_mode():
            self._synchronize()
            start = time.perf_counter()
            for _ in range(calls):
                network(self.images)
            self._synchronize()
        return (time.perf_counter() - start) / calls

    def _synchronize(self) -> None:
        synchronize(self.device)

    def _memory(self, network: nn.Module) -> CostValue:
        mib = peak_memory(network, self.images) / 2**20
        return CostValue(value=mib, unit=COSTS["memory"].unit, kind="measured", interval=(mib, mib))


def _fit(rows: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Least squares with a little ridge: weights, their covariance, and the sd of the residuals."""
    normal = rows.T @ rows + 1e-6 * np.eye(rows.shape[1])
    inverse = np.linalg.inv(normal)
    weights = inverse @ rows.T @ values
    freedom = max(1, len(values) - np.linalg.matrix_rank(rows))
    noise = float(np.sqrt(((values - rows @ weights) ** 2).sum() / freedom))
    return weights, inverse * noise**2, noise


def median_interval(values: list[float], level: float = 0.9) -> tuple[float, float]:
    """Distribution-free interval of the median, from order statistics.

    Source: Conover, "Practical Nonparametric Statistics", section 3.2.

    >>> median_interval([float(v) for v in range(1, 12)])
    (3.0, 9.0)
    """
    ordered = sorted(values)
    low = int(binom.ppf((1 - level) / 2, len(ordered), 0.5))
    low = max(low - 1, 0) if binom.cdf(low, len(ordered), 0.5) > (1 - level) / 2 else low
    return ordered[low], ordered[-1 - low]


def peak_memory(network: nn.Module, images: Tensor) -> int:
    """Bytes of all tensors alive at the worst moment of one inference, weights and input included."""
    if images.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(images.device)
        with torch.inference_mode():
            network(images)
        torch.cuda.synchronize(images.device)
        return int(torch.cuda.max_memory_allocated(images.device))
    fixed = sum(t.untyped_storage().nbytes() for t in (*network.parameters(), *network.buffers()))
    with torch.no_grad(), _Alive() as alive:
        network(images)
    return int(fixed + images.untyped_storage().nbytes() + alive.peak)


class _Alive(TorchDispatchMode):  # type: ignore[no-untyped-call]  # of torch
    """Follows the bytes of the tensors that operations make and that are still referenced."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # of torch
        self.now = 0
        self.peak = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {a.untyped_storage()._cdata for a in args if isinstance(a, Tensor)}
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in given | self._seen:
                self._follow(tensor)
        return out

    def _follow(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        identity, size = storage._cdata, storage.nbytes()
        self._seen.add(identity)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, identity, size)

    def _forget(self, identity: int, size: int) -> None:
        self._seen.discard(identity)
        self.now -= size
