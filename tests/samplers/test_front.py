"""The front that the posterior believes: error bars, probabilities, ties."""

from __future__ import annotations

import numpy as np
import optuna
import pytest
from optuna.distributions import BaseDistribution, IntDistribution

from se_nas.core.errors import RunError
from se_nas.samplers.features import Features
from se_nas.samplers.front import believed_front, front_probability, recommend_front
from se_nas.samplers.pool import Candidates
from se_nas.samplers.posterior import fit
from se_nas.space.levels import LevelSpace

SPACE: dict[str, BaseDistribution] = {"a": IntDistribution(0, 3), "b": IntDistribution(0, 3)}
LEVELS = (None, 16, 8, 4)


def cost(params: dict[str, int]) -> float:
    return float(10 * params["a"] + params["b"])


def searched(direction: str = "maximize", noise: float = 0.05, effect: float = 1.0) -> optuna.Study:
    study = optuna.create_study(directions=[direction, "minimize"], sampler=optuna.samplers.RandomSampler(seed=0))
    rng = np.random.default_rng(0)
    for _ in range(30):
        trial = study.ask(SPACE)
        gain = effect * ((trial.params["a"] > 0) + 0.5 * (trial.params["b"] > 0)) + rng.normal(0, noise)
        study.tell(trial, [70 + gain if direction == "maximize" else 30 - gain, cost(trial.params)])
    return study


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_the_table_rises_in_cost_and_claim(direction: str) -> None:
    table = recommend_front(searched(direction), space=SPACE, cost=cost, levels=LEVELS)
    better = 1 if direction == "maximize" else -1
    assert (np.diff(table["cost"]) > 0).all()
    assert (better * np.diff(table["mean"]) > 0).all()
    assert ((table["lower"] < table["mean"]) & (table["mean"] < table["upper"])).all()
    assert table["p_front"].between(0, 1).all()
    assert {"a", "b", "observed", "trainings", "tied_with", "p_beats", "recommended"} <= set(table.columns)
    assert table["p_front"].iloc[0] == 1.0, "the cheapest placement is always on the front"
    best = table[table["recommended"]].iloc[-1]
    assert best["a"] > 0
    assert best["b"] > 0


def test_observed_is_the_mean_of_the_raw_values() -> None:
    study = searched()
    table = recommend_front(study, space=SPACE, cost=cost, levels=LEVELS)
    for _, row in table.iterrows():
        raw = [t.values[0] for t in study.trials if t.params == {"a": row["a"], "b": row["b"]}]
        assert row["trainings"] == len(raw)
        assert not raw or row["observed"] == pytest.approx(np.mean(raw))


def test_of_placements_that_cannot_be_told_apart_the_cheaper_one_is_recommended() -> None:
    table = recommend_front(searched(noise=0.3, effect=0.0), space=SPACE, cost=cost, levels=LEVELS)
    assert table["recommended"].tolist() == [True] + [False] * (len(table) - 1)
    assert (table["tied_with"].dropna() == 0).all()


def test_an_empty_study_is_named() -> None:
    with pytest.raises(RunError, match="no finished trial"):
        recommend_front(optuna.create_study(directions=["maximize", "minimize"]), space=SPACE, cost=cost)


def test_several_costs() -> None:
    table = recommend_front(searched(), space=SPACE, cost=lambda p: (cost(p), float(p["b"])), levels=LEVELS)
    assert {"cost_0", "cost_1"} <= set(table.columns)


def test_probability_of_the_front_agrees_with_enumeration() -> None:
    space = LevelSpace.of(SPACE, LEVELS)
    features, codes = Features(space.meanings), space.all()
    rng = np.random.default_rng(1)
    rows = rng.integers(0, 4, (15, 2))
    posterior = fit(features, rows, (rows > 0).sum(axis=1) + rng.normal(0, 0.4, 15))
    costs = codes.sum(axis=1, keepdims=True).astype(float)
    candidates = Candidates(codes=codes, cost=costs, phi=features(codes))
    front = believed_front(posterior, candidates)
    ours = front_probability(posterior, candidates, front.members)
    draws = posterior.samples(codes, size=4000, rng=np.random.default_rng(5))
    for probability, i in zip(ours, front.members, strict=True):
        cheaper, same = costs[:, 0] < costs[i, 0], (costs[:, 0] == costs[i, 0]) & (np.arange(16) != i)
        beaten = (draws[:, cheaper] >= draws[:, [i]] - 1e-9).any(axis=1) | (draws[:, same] > draws[:, [i]] + 1e-9).any(
            axis=1
        )
        assert probability == pytest.approx(1 - beaten.mean(), abs=0.08)
