"""After each round of a confirm, by the validation set alone: is it enough, and who need not be trained any more?

The test set is opened once, at the end, so a round asks what it will say. The mean difference on validation has the
noise of its trainings, which the test set will see too, and that of its own images. With no other knowledge of the
true difference, that on the test set after ``k + more`` seeds is

    normal(difference on validation,  V_val + V_test + V_seeds (1 - k / (k + more))),

V_val and V_test being the variances by the finite sets of images and V_seeds that by the seeds so far. Whatever is
decided here, the claims on the test set hold (`se_nas.analysis.looks`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from se_nas.analysis.confirmation import Confirmed, Difference
from se_nas.analysis.judge import judge
from se_nas.analysis.looks import Looks
from se_nas.analysis.statistics import differences, variances
from se_nas.core.trial import Direction
from se_nas.samplers.features import Array

ENOUGH = 0.99
"""With this probability that the test set decides, no more seeds are trained."""

SETTLED = 0.9
"""With this probability that the test set shows a network not to be worth it, it needs no more seeds."""

BEHIND = 0.3
"""p value with which a network lies behind the best one: it is trained no more while that one may be shown better."""

HARDLY = 0.1
"""More seeds that remove less than this share of the doubt whether there will be a decision are not worth training."""


@dataclass(frozen=True, kw_only=True)
class Round:
    """What a round has shown."""

    chance: float
    """That the test set decides now."""
    later: float
    """The largest chance with more seeds."""
    train: tuple[str, ...] = ()
    """Keys of the networks that one more seed would be of use for, besides the plain backbone."""
    end: str = ""
    """Why no more seeds are needed, in words; empty to go on."""


@dataclass(frozen=True, kw_only=True)
class _Prospect:
    """Chances that the test set shows one network to be better, or not worth it: now, and with more seeds."""

    better: float
    not_worth_it: float
    better_later: float
    not_worth_it_later: float


def judge_round(
    networks: Sequence[Confirmed],
    scores: Mapping[str, Mapping[int, Array]],
    direction: Direction,
    *,
    looks: Looks,
    seeds: int,
    margin: float,
    images: float = 1.0,
) -> Round:
    """Judge what was trained so far.

    Parameters
    ----------
    networks:
        As for `judge`.
    scores:
        Key -> seed -> scores on the validation set, in the metric's own sign.
    seeds:
        The look: with so many seeds, or fewer, the networks were to be trained.
    margin:
        The smallest gain that is worth its cost, in the metric's unit.
    images:
        Images of the validation set for each image of the test set.
    """
    sign = -1.0 if direction == "minimize" else 1.0
    judged = judge(networks, scores, direction, looks)
    prospects = {
        n.key: _prospect(n.against["baseline"], len(scores[n.key]), looks, margin, sign, images)
        for n in judged.networks
        if "baseline" in n.against and n.against["baseline"].error is not None
    }
    everyone = tuple(n.key for n in networks if n.role != "baseline")
    last = f"{looks.last} seeds are the most that may be trained" if seeds >= looks.last else ""
    if not prospects:
        return Round(chance=0.0, later=0.0, train=everyone, end=last)
    chances = prospects.values()
    now = max(max(p.better for p in chances), min(p.not_worth_it for p in chances))
    use, without = max(p.better_later for p in chances), min(p.not_worth_it_later for p in chances)
    later = max(use, without)
    if now >= ENOUGH:
        end = f"the test set decides with {100 * now:.0f} % probability"
    elif later - now < HARDLY * (1 - now):
        percent = f"now {100 * now:.0f} %, with up to {looks.last} seeds {100 * later:.0f} %"
        end = last or f"more seeds hardly make a decision by the test set more probable ({percent})"
    else:
        end = last
    if use >= without:
        train = [key for key in everyone if key == judged.winner or not _behind(key, judged.winner, scores, sign)]
    else:
        train = [key for key in everyone if key not in prospects or prospects[key].not_worth_it < SETTLED]
    return Round(chance=now, later=later, train=tuple(train), end=end)


def _prospect(difference: Difference, now: int, looks: Looks, margin: float, sign: float, images: float) -> _Prospect:
    assert difference.error is not None  # noqa: S101  # the caller has looked
    assert difference.interval is not None and difference.family_interval is not None  # noqa: S101, PT018
    later = np.array([now, *(seeds for seeds in looks.seeds if seeds > now)])
    mean, by_val = sign * difference.mean, (difference.image_error or 0.0) ** 2
    by_test, by_seeds = by_val * images, max(difference.error**2 - by_val, 0.0)
    scale = looks.weight(now) / looks.weight(later)
    own, family = (
        (ends[1] - ends[0]) / 2 / max(difference.error, 1e-300) * scale
        for ends in (difference.interval, difference.family_interval)
    )
    error = np.sqrt(by_seeds * now / later + by_test)
    spread = np.maximum(np.sqrt(by_val + by_test + by_seeds * (1 - now / later)), 1e-12)
    better, without = ndtr((mean - family * error) / spread), ndtr((margin - mean - own * error) / spread)
    return _Prospect(
        better=float(better[0]), not_worth_it=float(without[0]),
        better_later=float(better.max()), not_worth_it_later=float(without.max()),
    )  # fmt: skip


def _behind(key: str, best: str | None, scores: Mapping[str, Mapping[int, Array]], sign: float) -> bool:
    """Whether a network lies behind the best one on the validation set, by the seeds that both have."""
    one, two = scores.get(key, {}), scores.get(best or "", {})
    seeds = sorted(one.keys() & two.keys())
    if len(seeds) < 2:
        return False
    table = sign * np.stack([[own[seed] for seed in seeds] for own in (one, two)])
    return bool(differences(table, variances(table), [(1, 0)]).p[0] < BEHIND)
