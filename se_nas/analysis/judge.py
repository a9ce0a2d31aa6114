"""From the scores of confirmed networks to what can be said of them: estimates, differences, the winner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from se_nas.analysis.confirmation import Confirmed, Difference, Estimate, Noise
from se_nas.analysis.statistics import (
    FAMILY_ERROR,
    Differences,
    Variances,
    differences,
    mean_reach,
    seed_noise,
    seed_reach,
    variances,
)
from se_nas.core.trial import Direction
from se_nas.samplers.features import Array


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """Networks with estimates and differences; ``winner`` and ``family`` are keys."""

    networks: tuple[Confirmed, ...]
    family: tuple[str, ...]
    winner: str | None
    noise: Noise | None


def judge(networks: Sequence[Confirmed], scores: Mapping[str, Mapping[int, Array]], direction: Direction) -> Judgement:
    """Compare confirmed networks.

    All but the backbone without SE are one family of claims against it. Against SE everywhere the others are a second
    family, in which a network only counts as better if it beats the backbone without SE too. The winner is chosen by
    the mean on validation.

    Parameters
    ----------
    networks:
        With validation values by seed; everything else is filled in.
    scores:
        Key -> seed -> scores on the test part, in the metric's own sign (see `se_nas.engine.exam`). Networks and
        seeds that others lack are left out of the comparison, so that it is balanced.
    """
    sign = -1.0 if direction == "minimize" else 1.0
    seeds, compared = _balanced(networks, scores)
    judged = {n.key: replace(n, validation=n.validation, test=_estimate(scores.get(n.key, {}))) for n in networks}
    family = tuple(n.key for n in compared if n.role != "baseline")
    noise = None
    if len(seeds) >= 2 and len(compared) >= 2:
        table = sign * np.stack([[scores[n.key][seed] for seed in seeds] for n in compared])
        found = variances(table)
        for row, network in enumerate(compared):
            judged[network.key] = _with_interval(judged[network.key], mean_reach(found, row))
        judged, noise = _with_differences(judged, compared, table, found, sign)
    else:
        judged = _bare_differences(judged, compared)
    judged = _with_validation(judged, seeds)
    ranked = [n for n in judged.values() if n.role != "baseline"]
    winner = max(ranked, key=lambda n: sign * n.validation.mean, default=None)
    return Judgement(
        networks=tuple(judged.values()), family=family, winner=None if winner is None else winner.key, noise=noise
    )


def _balanced(
    networks: Sequence[Confirmed], scores: Mapping[str, Mapping[int, Array]]
) -> tuple[list[int], list[Confirmed]]:
    """Seeds and networks that all have scores of each other, as many scores as can be kept one by one."""
    kept = [n for n in networks if scores.get(n.key)]
    seeds = sorted({seed for n in kept for seed in scores[n.key]})
    while kept and any(seed not in scores[n.key] for n in kept for seed in seeds):
        poorest = min(kept, key=lambda n: len(scores[n.key].keys() & set(seeds)))
        rarest = min(seeds, key=lambda seed: sum(seed in scores[n.key] for n in kept))
        missing = len(seeds) - len(scores[poorest.key].keys() & set(seeds))
        lacking = sum(rarest not in scores[n.key] for n in kept)
        if poorest.role == "baseline" or lacking * len(seeds) >= missing * len(kept):
            seeds.remove(rarest)
        else:
            kept.remove(poorest)
    return seeds, kept


def _estimate(by_seed: Mapping[int, Array]) -> Estimate | None:
    return estimate({seed: float(np.mean(values)) for seed, values in by_seed.items()}) if by_seed else None


def estimate(values: Mapping[int, float]) -> Estimate:
    """Mean and standard deviation over seeds."""
    numbers = list(values.values())
    return Estimate(
        values={str(seed): value for seed, value in values.items()},
        mean=float(np.mean(numbers)),
        sd=float(np.std(numbers, ddof=1)) if len(numbers) > 1 else None,
    )


def _with_interval(network: Confirmed, reach: float) -> Confirmed:
    assert network.test is not None  # noqa: S101  # only networks with scores are compared
    interval = (network.test.mean - reach, network.test.mean + reach)
    return replace(network, test=replace(network.test, interval=interval))


def _with_validation(judged: dict[str, Confirmed], seeds: Sequence[int]) -> dict[str, Confirmed]:
    """Intervals on validation, by the seeds that all networks have."""
    shared = [n for n in judged.values() if all(str(seed) in n.validation.values for seed in seeds)]
    if len(seeds) < 2 or not shared:
        return judged
    noise = seed_noise(np.array([[n.validation.values[str(seed)] for seed in seeds] for n in shared]))
    for network in shared:
        mean, reach = network.validation.mean, seed_reach(noise, len(network.validation.values))
        judged[network.key] = replace(
            network, validation=replace(network.validation, interval=(mean - reach, mean + reach))
        )
    return judged


def _pairs(compared: Sequence[Confirmed], role: str) -> list[tuple[int, int]]:
    """Rows to compare with a reference point: all others, but the backbone without SE with nothing."""
    other = next((row for row, n in enumerate(compared) if n.role == role), None)
    return [
        (row, other) for row, n in enumerate(compared) if other is not None and row != other and n.role != "baseline"
    ]


def _with_differences(
    judged: dict[str, Confirmed], compared: Sequence[Confirmed], table: Array, found: Variances, sign: float
) -> tuple[dict[str, Confirmed], Noise | None]:
    errors: list[float] = []
    for role in ("baseline", "reference"):
        pairs = _pairs(compared, role)
        if not pairs:
            continue
        result = differences(table, found, pairs)
        errors += list(result.image_error)
        for k, (row, _) in enumerate(pairs):
            network = judged[compared[row].key]
            first = network.against.get("baseline")
            gate = role == "baseline" or (first is not None and first.beats)
            against = {**network.against, role: _difference(result, k, sign, gate=gate)}
            judged[network.key] = replace(network, against=against)
    by_seeds = found.by_seeds
    by_images = None if found.shape[2] == 1 else float(np.median(errors)) if errors else 0.0
    noise = Noise(
        seed_sd=float(np.sqrt(by_seeds.total)), image_sd=by_images,
        seed_correlation=by_seeds.correlation, degrees=by_seeds.degrees,
    )  # fmt: skip
    return judged, noise


def _difference(result: Differences, k: int, sign: float, *, gate: bool) -> Difference:
    def interval(low: Array, high: Array) -> tuple[float, float]:
        return (float(low[k]), float(high[k])) if sign > 0 else (-float(high[k]), -float(low[k]))

    return Difference(
        mean=sign * float(result.mean[k]),
        interval=interval(result.low, result.high),
        family_interval=interval(result.family_low, result.family_high),
        p=float(result.p[k]),
        family_p=float(result.family_p[k]),
        error=float(result.error[k]),
        image_error=float(result.image_error[k]),
        beats=bool(gate and result.mean[k] > 0 and result.family_p[k] <= FAMILY_ERROR),
    )


def _bare_differences(judged: dict[str, Confirmed], compared: Sequence[Confirmed]) -> dict[str, Confirmed]:
    """Without an estimate of the noise a difference is a number and no claim."""
    for role in ("baseline", "reference"):
        for row, other in _pairs(compared, role):
            one, two = judged[compared[row].key], judged[compared[other].key]
            if one.test is not None and two.test is not None:
                against = {**one.against, role: Difference(mean=one.test.mean - two.test.mean)}
                judged[one.key] = replace(one, against=against)
    return judged
