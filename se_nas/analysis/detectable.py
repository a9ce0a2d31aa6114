"""How large an effect of SE must be, for a search of so many trainings to tell it from noise."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np

from se_nas.analysis.estimates import MORE_THAN_DECISIONS
from se_nas.core.placement import Placement
from se_nas.samplers.features import Array, Features
from se_nas.samplers.posterior import fit
from se_nas.space.levels import Codes, LevelSpace, distributions
from se_nas.space.space import Space

POWER = 0.8
"""How often a search tells an effect of the size that is named."""

DESIGNS, DRAWS, STEPS = 5, 8, 7
"""Sets of placements, noises of each, and halvings of the bracket."""

WIDE, FEW_DRAWS = 150, 2
"""Of models with more features than this, whose fits take long, there are so many noises of each design."""

LARGEST = 20.0
"""Effects above this, in standard deviations of one training, are not looked for."""

MOST = 100
"""Trainings of a design, at most: from there on the effect falls with the root of their number."""


def detectable_effect(
    space: Space, trainings: int, *, level: float, margin: float = 0.0, seed: int = 0
) -> float | None:
    """The effect of SE everywhere that is told with probability `POWER`, in standard deviations of one training.

    Told means: by the model estimate SE everywhere gains more than the `margin` (in the same unit) over no SE with
    probability `level` at least, as a search asks for before it says so. Designs of the space (the reference points,
    and random placements, each trained once) are given outcomes: normal noise, and an effect that grows with the share
    of decisions that have SE. For each the posterior itself (`se_nas.samplers.posterior.fit`) says from which effect on
    it tells; of these the `POWER` quantile. A real search trains more near the front than at random: it tells such an
    effect in 70 to 90 % (tests/analysis/test_detectable.py).

    None where the trainings are too few for a posterior, or not even `LARGEST` is told.
    """
    number = min(trainings, space.size)
    if number < len(space.decisions) + MORE_THAN_DECISIONS:
        return None
    levels = LevelSpace.of(distributions(space.parameters), space.parameters)
    features = Features(levels.meanings)
    noise = np.random.default_rng(seed)
    generator = random.Random(seed)  # noqa: S311  # it draws designs
    draws = DRAWS if len(features.group) <= WIDE else FEW_DRAWS
    told: list[float] = []
    for _ in range(DESIGNS):
        placements = _design(space, min(number, MOST), generator)
        codes = np.array([_codes(space, levels, p) for p in placements], dtype=np.int64)
        effect = np.array([space.share_with_se(p) for p in placements])
        for _ in range(draws):
            outcomes = _Outcomes(features=features, codes=codes, effect=effect, noise=noise.normal(size=len(codes)))
            told.append(outcomes.told_from(level, margin))
    found = float(np.quantile(told, POWER))
    return None if found >= LARGEST else found * float(np.sqrt(min(1.0, MOST / number)))


def _design(space: Space, number: int, generator: random.Random) -> list[Placement]:
    """The reference points, and random other placements: none twice, as many as there are of them."""
    chosen = {p.key: p for p in (space.baseline, space.reference, space.given)}
    for _ in range(50 * number):
        if len(chosen) >= number:
            break
        placement = space.placement(space.random_levels(generator))
        chosen.setdefault(placement.key, placement)
    return list(chosen.values())


def _codes(space: Space, levels: LevelSpace, placement: Placement) -> list[int]:
    found = space.find(placement)
    assert found is not None  # noqa: S101  # reference points and what the space itself has drawn
    return [found[name] for name in levels.names]


@dataclass(frozen=True, kw_only=True)
class _Outcomes:
    """``n`` trainings: codes (``n x d``, no SE first, then SE everywhere), share of the effect and noise of each."""

    features: Features
    codes: Codes
    effect: Array
    noise: Array

    def told_from(self, level: float, margin: float) -> float:
        """The least effect of SE everywhere that the posterior tells in this noise, by bisection."""
        low, high = 0.0, LARGEST
        for _ in range(STEPS):
            middle = (low + high) / 2
            posterior = fit(self.features, self.codes, self.noise + middle * self.effect)
            # The gain is above this with probability `level`.
            least = posterior.interval(self.codes[[1]], minus=self.codes[[0]], level=2 * level - 1)[0][0]
            low, high = (low, middle) if least > margin else (middle, high)
        return high
