"""From the scores of confirmed networks to what can be said of them: estimates, differences, the winner."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from se_nas.analysis.confirmation import Confirmed, Difference, Estimate, Noise
from se_nas.analysis.looks import Boundary, Looks, boundary
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


def judge(
    networks: Sequence[Confirmed],
    scores: Mapping[str, Mapping[int, Array]],
    direction: Direction,
    looks: Looks | None = None,
) -> Judgement:
    """Compare confirmed networks.

    All but the plain backbone are one family of claims against it. Against SE everywhere the others are a second
    family, in which a network only counts as better if it beats the plain backbone too. The winner is chosen by
    the validation set.

    Parameters
    ----------
    networks:
        With validation values by seed; everything else is filled in. One that was stopped after some seeds is compared
        by these.
    scores:
        Key -> seed -> scores on the test set, in the metric's own sign (see `se_nas.engine.exam`). Networks and
        seeds that others lack are left out of the comparison, so that it is balanced.
    looks:
        After which numbers of seeds the confirm might have ended; None if the number was fixed.
    """
    sign = -1.0 if direction == "minimize" else 1.0
    judged = {n.key: replace(n, test=_estimate(scores.get(n.key, {}))) for n in networks}
    groups = _groups(networks, scores)
    known = [group for group in groups if len(group.seeds) >= 2 and len(group.networks) >= 2]
    noise = None
    if known:
        compared = _Compared(known, scores, sign)
        for n in compared.networks:
            group = compared.of(n)
            reach = mean_reach(group.noise, group.row(n))
            judged[n.key] = _with_interval(judged[n.key], reach)
        judged, noise = _with_differences(judged, compared, looks, sign)
    elif groups:
        judged = _bare_differences(judged, groups[0].networks)
    judged = _with_validation(judged)
    ranked = [n for n in judged.values() if n.role != "baseline"]
    base = next((n for n in judged.values() if n.role == "baseline"), None)
    winner = max(ranked, key=lambda n: sign * _gain(n, base), default=None)
    family = tuple(n.key for n in groups[0].networks if n.role != "baseline") if groups else ()
    return Judgement(
        networks=tuple(judged.values()), family=family, winner=None if winner is None else winner.key, noise=noise
    )


def _gain(network: Confirmed, base: Confirmed | None) -> float:
    """Over the plain backbone on the validation set, by the seeds that both have."""
    shared = [] if base is None else [seed for seed in network.validation.values if seed in base.validation.values]
    if base is None or not shared:
        return network.validation.mean
    return float(np.mean([network.validation.values[seed] - base.validation.values[seed] for seed in shared]))


@dataclass(kw_only=True)
class _Group:
    """Networks that all have scores with the same seeds."""

    seeds: list[int]
    networks: list[Confirmed]
    table: Array = field(default_factory=lambda: np.empty(0))
    noise: Variances = field(init=False)

    def row(self, network: Confirmed) -> int:
        return next(row for row, n in enumerate(self.networks) if n.key == network.key)


def _stayed(network: Confirmed) -> float:
    return math.inf if network.stopped_after is None else network.stopped_after


def _groups(networks: Sequence[Confirmed], scores: Mapping[str, Mapping[int, Array]]) -> list[_Group]:
    """One for each number of seeds after which networks were stopped: these, and all that had more.

    The smallest number comes first, and each group has only networks of the one before it.
    """
    found: list[_Group] = []
    for stopped in sorted({_stayed(n) for n in networks}):
        own = {seed for n in networks if _stayed(n) == stopped for seed in scores.get(n.key, {})}
        members = [n for n in (found[-1].networks if found else networks) if _stayed(n) >= stopped]
        kept = {n.key: {seed: v for seed, v in scores.get(n.key, {}).items() if seed in own} for n in members}
        seeds, compared = _balanced(members, kept)
        found.append(_Group(seeds=seeds, networks=compared))
    return found


class _Compared:
    """Groups with their tables of scores (``networks x seeds x images``, larger is better) and their noise.

    The noise of the seeds is pooled over all networks and seeds.
    """

    def __init__(self, groups: Sequence[_Group], scores: Mapping[str, Mapping[int, Array]], sign: float) -> None:
        self.groups = groups
        self.networks = groups[0].networks
        every = sorted({seed for group in groups for seed in group.seeds})
        values = np.full((len(self.networks), len(every)), np.nan)
        for group in groups:
            for network in group.networks:
                for seed in group.seeds:
                    values[groups[0].row(network), every.index(seed)] = sign * scores[network.key][seed].mean()
        self.by_seeds = seed_noise(values)
        for group in groups:
            group.table = sign * np.stack([[scores[n.key][seed] for seed in group.seeds] for n in group.networks])
            group.noise = variances(group.table, self.by_seeds)

    def of(self, *networks: Confirmed) -> _Group:
        """The group with the most seeds that has all these networks."""
        keys = {n.key for n in networks}
        return [group for group in self.groups if keys <= {n.key for n in group.networks}][-1]


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


def _with_validation(judged: dict[str, Confirmed]) -> dict[str, Confirmed]:
    """Intervals on the validation set."""
    repeated = [n for n in judged.values() if len(n.validation.values) >= 2]
    if not repeated:
        return judged
    every = sorted({seed for n in repeated for seed in n.validation.values})
    noise = seed_noise(np.array([[n.validation.values.get(seed, np.nan) for seed in every] for n in repeated]))
    for network in repeated:
        mean, reach = network.validation.mean, seed_reach(noise, len(network.validation.values))
        judged[network.key] = replace(
            network, validation=replace(network.validation, interval=(mean - reach, mean + reach))
        )
    return judged


def _pairs(networks: Sequence[Confirmed], role: str) -> list[tuple[Confirmed, Confirmed]]:
    """What is compared with a reference point: all others, but the plain backbone with nothing."""
    other = next((n for n in networks if n.role == role), None)
    return [(n, other) for n in networks if other is not None and n is not other and n.role != "baseline"]


def _with_differences(
    judged: dict[str, Confirmed], compared: _Compared, looks: Looks | None, sign: float
) -> tuple[dict[str, Confirmed], Noise | None]:
    errors: list[float] = []
    for role in ("baseline", "reference"):
        pairs = _pairs(compared.networks, role)
        bounds = None if looks is None or not pairs else _boundary(compared, pairs, looks)
        for group in compared.groups:
            mine = [k for k, pair in enumerate(pairs) if compared.of(*pair) is group]
            if not mine:
                continue
            rows = [(group.row(one), group.row(other)) for one, other in (pairs[k] for k in mine)]
            result = differences(group.table, group.noise, rows, None if bounds is None else bounds.only(mine))
            errors += list(result.image_error)
            for k, (one, _) in enumerate(pairs[k] for k in mine):
                network = judged[one.key]
                first = network.against.get("baseline")
                gate = role == "baseline" or (first is not None and first.beats)
                against = {**network.against, role: _difference(result, k, sign, gate=gate)}
                judged[network.key] = replace(network, against=against)
    by_seeds = compared.by_seeds
    by_images = None if compared.groups[0].table.shape[2] == 1 else float(np.median(errors)) if errors else 0.0
    noise = Noise(
        seed_sd=float(np.sqrt(by_seeds.total)), image_sd=by_images,
        seed_correlation=by_seeds.correlation, degrees=by_seeds.degrees,
    )  # fmt: skip
    return judged, noise


def _boundary(compared: _Compared, pairs: Sequence[tuple[Confirmed, Confirmed]], looks: Looks) -> Boundary:
    """For all comparisons and looks, whether a network stayed so long or not."""
    first = compared.groups[0]
    rows = [(first.row(one), first.row(other)) for one, other in pairs]
    return boundary(looks, training=compared.by_seeds.interaction, images=first.noise.images, pairs=rows)


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
        for network, other in _pairs(compared, role):
            one, two = judged[network.key], judged[other.key]
            if one.test is not None and two.test is not None:
                against = {**one.against, role: Difference(mean=one.test.mean - two.test.mean)}
                judged[one.key] = replace(one, against=against)
    return judged
