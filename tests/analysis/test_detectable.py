"""The effect that a search can tell: by the formula, and by searches with the real sampler and the real posterior."""

from __future__ import annotations

import numpy as np
import optuna
import pytest
from helpers import unit

from se_nas.analysis.detectable import POWER, detectable_effect
from se_nas.analysis.estimates import MORE_THAN_DECISIONS
from se_nas.analysis.summary import LIKELY
from se_nas.samplers.features import Features
from se_nas.samplers.known_cost import KnownCostSampler
from se_nas.samplers.posterior import fit
from se_nas.space.levels import LevelSpace, distributions
from se_nas.space.space import Space
from se_nas.space.spec import read_space


def space_of(decisions: int, *reductions: object) -> Space:
    units = tuple(unit(f"u{i}", f"stage{i}", 16 * 2**i) for i in range(decisions))
    return Space(read_space({"reductions": ["none", *(reductions or (16, 8, 4))]}), units)


def least(space: Space, trainings: int, effect: float, seed: int) -> float:
    """What SE everywhere gains with probability `LIKELY`, by a search where decisions share the effect evenly."""
    ranges = distributions(space.parameters)
    levels = LevelSpace.of(ranges, space.parameters)
    noise = np.random.default_rng([seed, 5]).normal(size=trainings)

    def cost(params: dict[str, int]) -> float:
        return float(sum(2.0**i * level for i, level in enumerate(params.values())))

    sampler = KnownCostSampler(ranges, cost, levels=space.parameters, seed=seed)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    first = [space.find(space.baseline), space.find(space.reference)]
    for reference in first:
        assert reference is not None
        study.enqueue_trial(reference)
    codes = np.zeros((trainings, len(levels.names)), dtype=np.int64)
    values = np.zeros(trainings)
    for i in range(trainings):
        trial = study.ask(ranges)
        codes[i] = levels.encode(trial.params)
        values[i] = effect * np.mean(codes[i] > 0) + noise[i]
        study.tell(trial, [values[i], cost(trial.params)])
    posterior = fit(Features(levels.meanings), codes, values)
    low, _ = posterior.interval(codes[[1]], minus=codes[[0]], level=2 * LIKELY - 1)
    return float(low[0])


@pytest.fixture(autouse=True)
def quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)


@pytest.mark.parametrize(
    ("decisions", "trainings", "margin", "searches"), [(3, 20, 0.0, 30), (2, 12, 0.0, 40), (2, 12, 0.7, 40)]
)
def test_real_searches_tell_the_named_effect_about_as_often_as_is_said(
    decisions: int, trainings: int, margin: float, searches: int
) -> None:
    space = space_of(decisions)
    effect = detectable_effect(space, trainings, level=LIKELY, margin=margin)
    assert effect is not None
    told = np.mean([least(space, trainings, effect, seed) > margin for seed in range(searches)])
    error = np.sqrt(POWER * (1 - POWER) / searches)
    assert abs(told - POWER) < 0.1 + 2 * error
    half = np.mean([least(space, trainings, effect / 2, seed) > margin for seed in range(searches // 2)])
    assert half < told - 0.2


def test_more_trainings_tell_smaller_effects_and_more_decisions_or_a_margin_larger_ones() -> None:
    few, many = (detectable_effect(space_of(3), n, level=LIKELY) for n in (8, 60))
    assert few is not None
    assert many is not None
    assert many < few - 0.3
    more = {
        "decisions": detectable_effect(space_of(5), 60, level=LIKELY),
        "level": detectable_effect(space_of(3), 60, level=0.99),
        "margin": detectable_effect(space_of(3), 60, level=LIKELY, margin=1.0),
    }
    assert [name for name, effect in more.items() if effect is None or effect < many + 0.3] == []


def test_a_space_is_trained_once_whatever_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("se_nas.analysis.detectable.DRAWS", 1)
    space = space_of(2, 16)
    assert space.size == 4 < len(space.decisions) + MORE_THAN_DECISIONS
    assert detectable_effect(space, 50, level=LIKELY) is None, "without a posterior"
    small = space_of(3, 16)
    assert detectable_effect(small, 8, level=LIKELY) == detectable_effect(small, 500, level=LIKELY) is not None
