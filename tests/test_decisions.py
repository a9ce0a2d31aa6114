"""Which network wins, what is claimed, proposed, costed and taken in: a wrong choice gives another answer here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from helpers import backbone_of, tiny, trial, units_of, write_space
from hypothesis import given
from hypothesis import strategies as st
from landscapes import Landscape, benchmark, best_score, score
from networks import Recurrent
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import TrialState
from play import Judge, simulate
from scipy import stats

from se_nas.analysis.confirmation import Confirmation, Confirmed, Verdict
from se_nas.analysis.judge import Judgement, _balanced, _difference, estimate, judge
from se_nas.analysis.statistics import FAMILY_ERROR, Differences, mean_reach, seed_noise, variances
from se_nas.analysis.verdict import final_verdict
from se_nas.commands.search import search
from se_nas.core.config import Limits
from se_nas.core.files import write_atomically
from se_nas.core.placement import Choice, Placement
from se_nas.core.protocols import Channel
from se_nas.core.serialization import to_json
from se_nas.core.trial import Direction, Epoch, Metric, Objective, Request, Result, Target, Trial
from se_nas.engine.proposer import Proposer
from se_nas.engine.run_folder import RunFolder
from se_nas.engine.study import Study
from se_nas.insertion.discover import find_units
from se_nas.samplers.features import Features
from se_nas.samplers.known_cost import KnownCostSampler, _Belief
from se_nas.samplers.observations import observe
from se_nas.samplers.pareto import NODES, hypervolume
from se_nas.samplers.posterior import conditioned, fit, prior_covariance, quadratic
from se_nas.space.exact_cost import CostModel, cost
from se_nas.space.levels import LevelSpace
from se_nas.space.pricing import Pricing
from se_nas.space.search_space import insert_se
from se_nas.space.space import Space
from se_nas.space.spec import read_space

UNITS8 = units_of("resnet8")

# What a confirm claims, and which network it names.


def scores_of(*means: float, seeds: int = 3, images: int = 200) -> dict[str, dict[int, np.ndarray]]:
    """Scores of networks "0", "1", ... whose means on the test set are exactly these."""
    table = np.random.default_rng(0).normal(0, 0.3, (len(means), seeds, images))
    table += np.array(means)[:, None, None] - table.mean(axis=(1, 2), keepdims=True)
    return {str(k): dict(enumerate(by_seed)) for k, by_seed in enumerate(table)}


def networks_of(*validation: float, roles: Sequence[str] = ("baseline",)) -> list[Confirmed]:
    """Networks "0", "1", ... with these means on validation; the first is the baseline, the others finalists."""
    names = [*roles, *["finalist"] * (len(validation) - len(roles))]
    return [
        Confirmed(key=str(k), label=f"stage{k}=16", placement=Placement(choices={}), role=role,
                  validation=estimate(dict.fromkeys(range(3), mean)))
        for k, (role, mean) in enumerate(zip(names, validation, strict=True))
    ]  # fmt: skip


def verdict_of(judged: Judgement, direction: Direction = "maximize") -> Verdict:
    return final_verdict(
        Confirmation(
            metric="val_accuracy", direction=direction, unit="share", cost="params", epochs=1, search_epochs=1,
            seeds=(0, 1, 2), family=judged.family, test_images=200, openings=1, winner=judged.winner,
            noise=judged.noise, networks=judged.networks, verdict=Verdict(phase="confirm", claim="unknown"),
        )
    )  # fmt: skip


def difference_of(judged: Judgement, key: str, role: str = "baseline") -> Any:
    return next(n for n in judged.networks if n.key == key).against[role]


class TestClaim:
    @pytest.mark.parametrize(
        ("p", "family_p", "mean", "gate", "beats"),
        [
            (0.03, 0.06, 0.02, True, False),
            (0.03, FAMILY_ERROR, 0.02, True, True),
            (0.03, 0.04, -0.02, True, False),
            (0.03, 0.04, 0.02, False, False),
        ],
    )
    def test_rests_on_the_p_value_of_the_family(
        self, p: float, family_p: float, mean: float, gate: bool, beats: bool
    ) -> None:
        one = np.ones(1)
        found = Differences(
            mean=mean * one, error=one, image_error=one, degrees=one, low=0.01 * one, high=0.03 * one,
            family_low=-0.01 * one, family_high=0.05 * one, p=p * one, family_p=family_p * one,
        )  # fmt: skip
        difference = _difference(found, 0, 1.0, gate=gate)
        assert difference.beats is beats
        assert (difference.p, difference.family_p) == (p, family_p)
        assert (difference.interval, difference.family_interval) == ((0.01, 0.03), (-0.01, 0.05))

    @pytest.mark.parametrize("direction", ["maximize", "minimize"])
    def test_significant_alone_but_not_in_its_family_is_no_claim(self, direction: Direction) -> None:
        sign = 1.0 if direction == "maximize" else -1.0
        names = networks_of(*[0.6] * 7)

        def judged(gain: float) -> Judgement:
            return judge(names, scores_of(*[0.6] * 6, 0.6 + sign * gain), direction)

        def alone(found: Judgement) -> bool:
            return difference_of(found, "6").p <= FAMILY_ERROR < difference_of(found, "6").family_p

        between = [found for found in map(judged, np.linspace(0.0, 0.1, 101)) if alone(found)]
        assert len(between) > 3
        for found in between:
            assert not any(d.beats for n in found.networks for d in n.against.values())
            verdict = verdict_of(found, direction)
            assert (verdict.claim, verdict.network) == ("undecided", "0")
        assert verdict_of(judged(0.1), direction).network == "6"

    def test_over_se_everywhere_needs_one_over_no_se_as_well(self) -> None:
        names = networks_of(0.6, 0.6, 0.6, roles=("baseline", "reference"))
        judged = judge(names, scores_of(0.6, 0.3, 0.6), "maximize")
        found = difference_of(judged, "2", "reference")
        assert found.family_p < 0.001
        assert not found.beats
        assert difference_of(judge(names, scores_of(0.3, 0.3, 0.6), "maximize"), "2", "reference").beats

    @pytest.mark.parametrize(("seeds", "claim"), [(1, "unknown"), (2, "use")])
    def test_needs_two_seeds(self, seeds: int, claim: str) -> None:
        judged = judge(networks_of(0.6, 0.6), scores_of(0.3, 0.6, seeds=seeds), "maximize")
        assert verdict_of(judged).claim == claim
        assert difference_of(judged, "1").mean == pytest.approx(0.3)
        assert (judged.noise is None) == (seeds == 1)

    @pytest.mark.parametrize("direction", ["maximize", "minimize"])
    def test_intervals_are_those_of_each_network(self, direction: Direction) -> None:
        """On the test set by seeds and images, on validation by seeds; a larger spread over images is its own."""
        scores = scores_of(0.6, 0.7, 0.65, seeds=4)
        scores["1"] = {seed: values + np.linspace(-2, 2, 200) for seed, values in scores["1"].items()}
        rng = np.random.default_rng(1)
        networks = [
            replace(n, validation=estimate(dict(enumerate(rng.normal(0.6, 0.02, 4)))))
            for n in networks_of(0, 0, 0, roles=("baseline", "reference"))
        ]
        judged = judge(networks, scores, direction)
        table = np.stack([np.stack(list(by_seed.values())) for by_seed in scores.values()])
        found = variances(table)
        values = np.array([list(n.validation.values.values()) for n in networks])
        spread = values.var(axis=1, ddof=1).mean()
        reach = np.sqrt(spread / 4) * stats.t.ppf(0.95, seed_noise(values).total_degrees)
        for row, n in enumerate(judged.networks):
            half = mean_reach(found, row)
            assert n.test.interval == pytest.approx((n.test.mean - half, n.test.mean + half))
            assert n.test.sd == pytest.approx(table[row].mean(axis=1).std(ddof=1))
            assert n.validation.interval == pytest.approx((n.validation.mean - reach, n.validation.mean + reach))
        assert mean_reach(found, 1) > 2 * mean_reach(found, 0)
        assert judged.noise.seed_sd == pytest.approx(np.sqrt(table.mean(axis=2).var(axis=1, ddof=1).mean()))
        contrasts = np.array([[-1, 1, 0], [-1, 0, 1], [0, -1, 1]])
        errors = np.sqrt(np.einsum("kn,nm,km->k", contrasts, found.images, contrasts))
        assert np.ptp(errors) > 0.01
        assert judged.noise.image_sd == pytest.approx(np.median(errors))
        assert set(judged.networks[0].against) == set()
        assert set(judged.networks[1].against) == {"baseline"}
        assert set(judged.networks[2].against) == {"baseline", "reference"}

    @given(st.lists(st.sets(st.integers(0, 3), max_size=4), min_size=2, max_size=5))
    def test_is_made_with_seeds_that_all_have_and_never_without_no_se(self, seeds: list[set[int]]) -> None:
        networks = networks_of(*[0.5] * len(seeds))
        scores = {str(k): {seed: np.zeros(3) for seed in own} for k, own in enumerate(seeds)}
        kept_seeds, kept = _balanced(networks, scores)
        assert all(set(kept_seeds) <= set(scores[n.key]) for n in kept)
        if seeds[0] and set.union(*seeds):
            assert not kept_seeds or kept[0].role == "baseline"
        if all(own == seeds[0] for own in seeds) and seeds[0]:
            assert (kept_seeds, kept) == (sorted(seeds[0]), networks)

    def test_loses_the_seed_or_the_network_that_costs_fewer_scores(self) -> None:
        def balanced(*seeds: set[int]) -> tuple[list[int], list[str]]:
            scores = {str(k): dict.fromkeys(own, np.zeros(3)) for k, own in enumerate(seeds)}
            found, kept = _balanced(networks_of(*[0.5] * len(seeds)), scores)
            return found, [n.key for n in kept]

        assert balanced({0, 1, 2}, {0, 1, 2}, {0, 1, 2}, {1}) == ([0, 1, 2], ["0", "1", "2"])
        assert balanced({0, 1, 2}, {0, 1}, {0, 1}, {0, 1}) == ([0, 1], ["0", "1", "2", "3"])
        assert balanced({0}, {0, 1, 2}, {0, 1, 2}, {0, 1, 2}) == ([0], ["0", "1", "2", "3"])


class TestWinner:
    @pytest.mark.parametrize("direction", ["maximize", "minimize"])
    def test_is_chosen_on_validation_not_on_the_test_part(self, direction: Direction) -> None:
        sign = 1.0 if direction == "maximize" else -1.0
        validation, test = [0.9, 0.2, 0.3, 0.1], [0.1, 0.5, 0.4, 0.6]  # the baseline is never the winner
        judged = judge(networks_of(*(sign * v for v in validation)), scores_of(*(sign * t for t in test)), direction)
        assert judged.winner == "2"
        verdict = verdict_of(judged, direction)
        assert (verdict.claim, verdict.network) == ("use", "2")
        assert judged.family == ("1", "2", "3")

    @pytest.mark.parametrize("direction", ["maximize", "minimize"])
    def test_that_beats_nothing_makes_way_for_the_best_on_validation_that_does(self, direction: Direction) -> None:
        sign = 1.0 if direction == "maximize" else -1.0
        validation, test = [0.5, 0.6, 0.8, 0.7, 0.65], [0.5, 0.9, 0.5, 0.7, 0.8]
        judged = judge(networks_of(*(sign * v for v in validation)), scores_of(*(sign * t for t in test)), direction)
        assert judged.winner == "2"
        assert verdict_of(judged, direction).network == "3"


# What the sampler proposes.

SPACE: dict[str, BaseDistribution] = {f"s{j}": IntDistribution(0, 3) for j in range(3)}
LEVELS = (None, 16, 8, 4)


def weights(params: Mapping[str, Any]) -> float:
    return float(sum(4**j * params[f"s{j}"] for j in range(3)))


def proposals(scale: float = 1.0, trials: int = 22, **settings: Any) -> list[tuple[int, ...]]:
    """What the sampler proposes where the first decision alone matters, in a metric of this scale."""
    sampler = KnownCostSampler(SPACE, weights, levels=LEVELS, seed=0, **settings)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    noise = np.random.default_rng(0)
    for _ in range(trials):
        asked = study.ask(SPACE)
        study.tell(asked, [scale * ((asked.params["s0"] > 0) + noise.normal(0, 0.3)), weights(asked.params)])
    return [tuple(t.params.values()) for t in study.trials]


def known_cost_of(landscape: Landscape, seed: int) -> BaseSampler:
    return KnownCostSampler(landscape.space, landscape.cost, levels=landscape.reductions, seed=seed)


def random_of(landscape: Landscape, seed: int) -> BaseSampler:
    return RandomSampler(seed=seed)


def study_with(finished: int, running: int) -> optuna.Study:
    """A study whose sampler is asked, with so many finished and running trials of placements at random."""
    sampler = KnownCostSampler(SPACE, weights, levels=LEVELS, seed=0)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    rng = np.random.default_rng(finished)
    for number, i in enumerate(rng.permutation(64)[: finished + running]):
        params = {f"s{j}": int(i) // 4**j % 4 for j in range(3)}
        outcome: dict[str, Any] = {"state": TrialState.RUNNING}
        if number < finished:
            outcome = {"values": [float((params["s0"] > 0) + rng.normal(0, 0.3)), weights(params)]}
        study.add_trial(optuna.create_trial(params=params, distributions=SPACE, **outcome))
    return study


class TestProposal:
    def test_beats_random_on_a_simulated_landscape(self) -> None:
        """By the share of the area under the true front that the model's recommendations reach after 12 trainings."""
        landscape = next(ls for ls in benchmark() if ls.name == "wrong-way-4")
        recommend, samplers = Judge(landscape), {"known-cost": known_cost_of, "random": random_of}
        reached: dict[str, list[float]] = {name: [] for name in samplers}
        for name, make in samplers.items():
            for seed in range(12):
                codes, values = simulate(landscape, make(landscape, seed), 12, seed)
                _, candidates, members, claims = recommend(codes, values)
                reached[name].append(score(landscape, candidates.codes[members], claims) / best_score(landscape))
        assert np.mean(reached["known-cost"]) > np.mean(reached["random"]) + 0.12, reached

    def test_is_the_open_placement_that_is_worth_most(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """With a worth that is written down; the best of all has been trained already."""
        worth = np.random.default_rng(1).permutation(64).astype(float)
        known = np.argsort(-worth)[:12]
        rows = np.stack(np.unravel_index(np.arange(64), (4, 4, 4)), axis=1)
        sampler = KnownCostSampler(SPACE, weights, levels=LEVELS, seed=0)
        study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
        for i in known:
            params = dict(zip(SPACE, rows[i].tolist(), strict=True))
            study.add_trial(
                optuna.create_trial(params=params, distributions=SPACE, values=[float(i % 3), weights(params)])
            )
        monkeypatch.setattr(KnownCostSampler, "_worth", lambda *_: worth)
        best = max(set(range(64)) - set(known), key=worth.__getitem__)
        assert tuple(study.ask(SPACE).params.values()) == tuple(rows[best])

    @pytest.mark.parametrize(("finished", "running"), [(0, 0), (0, 1), (2, 0), (3, 2), (5, 0)])
    def test_at_first_is_what_teaches_most_about_all_placements(self, finished: int, running: int) -> None:
        """By brute force: no other placement leaves less variance; one that runs has taught already."""
        study = study_with(finished, running)
        features, space = Features(LevelSpace.of(SPACE, LEVELS).meanings), LevelSpace.of(SPACE, LEVELS)
        every = space.all()
        known = [tuple(t.params.values()) for t in study.trials]

        def left(codes: list[tuple[int, ...]]) -> float:
            rows = features(np.array(codes, dtype=np.int64).reshape(-1, 3))
            return float(quadratic(features(every), conditioned(prior_covariance(features), rows, 1.0)).sum())

        best = min(left([*known, code]) for code in map(tuple, every.tolist()) if code not in known)
        chosen = tuple(study.ask(SPACE).params.values())
        assert left([*known, chosen]) == pytest.approx(best, rel=1e-6)
        assert chosen not in known

    @pytest.mark.parametrize(("finished", "early"), [(5, True), (6, False)])
    def test_is_for_the_front_as_soon_as_enough_is_known(
        self, finished: int, early: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """From three finished trials more than there are decisions; stopped ones are none."""
        study = study_with(finished, 0)
        params = dict.fromkeys(SPACE, 3)
        study.add_trial(
            optuna.create_trial(
                params=params, distributions=SPACE, state=TrialState.PRUNED, user_attrs={"curve": [0.1]}
            )
        )
        called = []
        for name in ("_teaches", "_worth"):
            monkeypatch.setattr(KnownCostSampler, name, lambda *_, name=name: called.append(name) or np.zeros(64))
        study.ask(SPACE)
        assert called == ["_teaches" if early else "_worth"]

    def test_trusts_a_stopped_trial_no_more_than_its_curve(self, monkeypatch: pytest.MonkeyPatch) -> None:
        seen: list[_Belief] = []
        monkeypatch.setattr(KnownCostSampler, "_worth", lambda _, belief, *__: seen.append(belief) or np.zeros(64))
        study, rng = study_with(0, 0), np.random.default_rng(0)
        for i in range(12):
            params, end = {"s0": i % 4, "s1": i // 4, "s2": 0}, float((i % 4 > 0) + rng.normal(0, 0.1))
            outcome: dict[str, Any] = {"values": [end, weights(params)]}
            if i == 5:
                outcome = {"state": TrialState.PRUNED}
            curve = list(end + rng.normal(0, 0.3, 1 if i == 5 else 4))
            study.add_trial(
                optuna.create_trial(params=params, distributions=SPACE, user_attrs={"curve": curve}, **outcome)
            )
        space = LevelSpace.of(SPACE, LEVELS)
        told = observe(study, space)
        assert (told.extra_variance > 0).sum() == 1
        study.ask(SPACE)
        features = Features(space.meanings)
        expected = fit(features, told.codes, told.value, extra_variance=told.extra_variance)
        trusting = fit(features, told.codes, told.value)
        np.testing.assert_allclose(seen[0].mean, expected.moments()[0])
        assert not np.allclose(seen[0].mean, trusting.moments()[0])
        assert seen[0].noise_variance == pytest.approx(expected.noise**2)

    def test_takes_a_running_trial_for_one_with_the_expected_outcome(self, monkeypatch: pytest.MonkeyPatch) -> None:
        seen: list[_Belief] = []
        monkeypatch.setattr(KnownCostSampler, "_worth", lambda _, belief, *__: seen.append(belief) or np.zeros(64))
        study = study_with(12, 0)
        study.ask(SPACE)
        study.ask(SPACE)
        before, after = seen
        phi = Features(LevelSpace.of(SPACE, LEVELS).meanings)(np.array([list(study.trials[12].params.values())]))[0]
        variance = phi @ before.cov @ phi
        np.testing.assert_allclose(after.mean, before.mean)
        assert after.noise_variance == pytest.approx(before.noise_variance)
        assert phi @ after.cov @ phi == pytest.approx(variance - variance**2 / (variance + before.noise_variance))

    def test_does_not_depend_on_the_cost_where_the_metric_is_the_only_objective(self) -> None:
        proposed = []
        for price in (weights, lambda params: -weights(params), lambda params: 1.0):
            sampler = KnownCostSampler(SPACE, price, levels=LEVELS, seed=0)
            study = optuna.create_study(direction="maximize", sampler=sampler)
            noise = np.random.default_rng(0)
            for _ in range(16):
                asked = study.ask(SPACE)
                study.tell(asked, (asked.params["s0"] > 0) + noise.normal(0, 0.3))
            proposed.append([tuple(t.params.values()) for t in study.trials])
        assert proposed[0] == proposed[1] == proposed[2]

    @pytest.mark.parametrize(("shortlist", "judges"), [(20, 400), (400, 40)], ids=["few proposed", "few judged"])
    def test_loses_little_by_looking_at_few(self, shortlist: int, judges: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """Of 400 placements those are considered that count: the one that is chosen is nearly the best of all."""
        kept = []
        for seed in range(8):
            rng = np.random.default_rng(seed)
            phi, root = rng.normal(size=(400, 6)), rng.normal(size=(6, 6))
            belief = _Belief(mean=rng.normal(size=6), cov=root @ root.T / 40, noise_variance=0.1, early=False)
            prices, open_ = rng.random((400, 1)), np.ones(400, dtype=bool)
            found = []
            for numbers in ((400, 400), (shortlist, judges)):
                for name, number in zip(("SHORTLIST", "JUDGES"), numbers, strict=True):
                    monkeypatch.setattr(f"se_nas.samplers.known_cost.{name}", number)
                sampler = KnownCostSampler(SPACE, weights, levels=LEVELS, seed=0)
                found.append(sampler._worth(belief, phi, prices, open_))
            kept.append(found[0][found[1].argmax()] / found[0].max())
        assert np.mean(kept) > 0.9, kept

    @pytest.mark.parametrize("scale", [0.01, 100.0])
    def test_does_not_depend_on_the_unit_of_the_metric(self, scale: float) -> None:
        assert proposals(scale) == proposals()

    @pytest.mark.parametrize("axes", [1, 2])
    def test_worth_is_the_expected_growth_of_the_believed_front(self, axes: int) -> None:
        """Each training is played with its possible outcomes: its noise is part of what is seen, not of what is true.

        With one cost all means move together, and outcomes are those of the ten slices that the sampler takes. With
        two, the closed form counts what the trained network alone would add, here by numerical integration.
        """
        rng = np.random.default_rng(1)
        n, p, noise = 12, 4, 0.7
        phi, root = rng.normal(size=(n, p)), rng.normal(size=(p, p))
        belief = _Belief(mean=rng.normal(size=p), cov=root @ root.T / 4, noise_variance=noise**2, early=False)
        cost = 1.0 + rng.permutation(n * axes).reshape(n, axes)
        cheapest = int(cost[:, 0].argmin())  # its mean is the height from which volume counts
        assert axes == 1 or cheapest != cost[:, 1].argmin()
        sampler = KnownCostSampler(SPACE, weights, levels=LEVELS, seed=0)
        worth = sampler._worth(belief, phi, cost, np.ones(n, dtype=bool))

        mean, cov = phi @ belief.mean, phi @ belief.cov @ phi.T
        reference = np.append(cost.max(axis=0) + 0.1 * np.ptp(cost, axis=0), 1e3 if axes == 1 else -mean[cheapest])

        def volume(*values: np.ndarray) -> float:
            return hypervolume(np.concatenate([np.column_stack([cost, -v]) for v in values]), reference)

        outcomes = np.array(NODES) if axes == 1 else np.linspace(-6, 6, 301)
        shares = np.full(10, 0.1) if axes == 1 else stats.norm.pdf(outcomes) * 0.04
        assert mean.min() < mean[cheapest]
        for i in range(n):
            variance = cov[i, i] + noise**2  # of what will be seen
            after = [mean + cov[i] / variance * np.sqrt(variance) * z for z in outcomes]
            if axes == 1:
                played = [volume(values) - volume(mean) for values in after]
            else:
                played = [volume(mean, np.where(np.arange(n) == i, v, mean)) - volume(mean) for v in after]
            assert worth[i] == pytest.approx(shares @ played, rel=2e-3, abs=1e-6), i
        assert np.ptp(worth) > 0.1


# What a placement costs, where a block runs more than once in a forward pass.


@pytest.mark.parametrize("position", ["standard", "pre", "identity", "inner"])
@pytest.mark.parametrize("bias", [False, True])
def test_a_block_that_runs_three_times_has_its_parameters_once(position: str, bias: bool) -> None:
    shape, model = (3, 16, 16), Recurrent()
    units = find_units(model, shape)
    site = units[0].site(position)
    assert site.uses == 3
    choice = Choice.se(site.channels, 2, position=position, bias=bias, init="plain")
    built = insert_se(model, Placement(choices={"block": choice}), input_shape=shape)
    known = CostModel(model, units, shape)
    found = known(Placement(choices={"block": choice}))
    assert found == cost(built, input_shape=shape)
    assert found.params == sum(p.numel() for p in built.parameters())
    c, s = site.channels, site.channels // 2
    assert found.params - known.backbone.params == 2 * c * s + bias * (c + s)
    assert found.activations - known.backbone.activations == 3 * (c + s)


# What a search goes on with.


class Evaluations:
    """In place of trainings: notes each placement, and makes its accuracy up."""

    def __init__(self) -> None:
        self.keys: list[str] = []

    def __call__(self, request: Request, channel: Channel) -> Result:
        self.keys.append(request.placement.key)
        value = 0.5 + int(request.placement.key, 16) % 1000 / 1e4
        return finished_with(request.trial, value, attempt=request.attempt)


def finished_with(number: int, value: float, **changes: Any) -> Result:
    return Result(
        trial=number, state="complete", metrics={"val_accuracy": Metric(value=value)},
        curve=(Epoch(epoch=1, metrics={"val_accuracy": value}),), **changes,
    )  # fmt: skip


@pytest.fixture
def evaluations(monkeypatch: pytest.MonkeyPatch) -> Evaluations:
    made_up = Evaluations()
    monkeypatch.setattr("se_nas.engine.driver.evaluate", made_up)
    return made_up


def study_of(run: Path) -> Study:
    study = Study.latest(f"sqlite:///{run / 'study.db'}", "search")
    assert study is not None
    return study


@pytest.mark.parametrize("owner", ["of this folder", "elsewhere:/run:1:2"])
def test_a_result_that_a_dead_driver_left_is_taken_in(
    tmp_path: Path, evaluations: Evaluations, monkeypatch: pytest.MonkeyPatch, owner: str
) -> None:
    monkeypatch.setattr(Study, "lease", 1.0)  # so that a driver elsewhere is not waited for
    run = search(tiny(tmp_path, budget=2)).folder
    study = study_of(run)
    levels = {"stage1.reduction": 1, "stage2.reduction": 0, "stage3.reduction": 1}
    study.enqueue(levels)
    asked, _ = study.ask(study.space)
    placement = study.space.placement(levels)
    dead = RunFolder(run)
    dead.lock()
    dead.unlock()
    before = study.trials()[0]
    left = study.start(
        asked,
        replace(before, placement=placement, identity=replace(before.identity, key=placement.key), state="running",
                counts=False, role="", metrics={}, curve=(), owner=dead.owner if owner == "of this folder" else owner),
    )  # fmt: skip
    file = run / "results" / f"{left.number}-1.json"
    write_atomically(file, to_json(finished_with(left.number, 0.123)))
    evaluations.keys.clear()

    result = search(tiny(tmp_path, budget=3))
    assert evaluations.keys == [], "it was the last of the budget"
    told = next(t for t in study_of(run).trials() if t.number == left.number)
    assert (told.state, told.counts, told.metrics["val_accuracy"].value) == ("complete", True, 0.123)
    assert not file.exists()
    assert result.trials["counts"].sum() == 3
    search(tiny(tmp_path, budget=8))
    assert placement.key not in evaluations.keys
    assert len(set(evaluations.keys)) == len(evaluations.keys) == 5


WIDE = "reductions: [none, 16, 8, 4]\ngate: [sigmoid, hard_sigmoid, tanh, relu]\nsqueeze: [avg, max]\n"


def test_a_resumed_sampler_does_not_repeat_its_first_draws(tmp_path: Path, evaluations: Evaluations) -> None:
    """In 32,768 placements a random sampler meets no known one but by drawing the same again."""
    space = write_space(tmp_path, WIDE)
    for budget in (6, 10):
        result = search(tiny(tmp_path, space=space, sampler=Target(target="random"), budget=budget))
    assert list(result.trials["state"]) == ["complete"] * 10
    assert len(set(evaluations.keys)) == 10


class Stuck(BaseSampler):
    """Proposes the first level of everything, again and again."""

    def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(self, study: Any, trial: Any, search_space: Any) -> dict[str, Any]:
        return {}

    def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
        return param_distribution.low


def test_a_resumed_search_does_not_draw_what_it_has_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a space too large to list, as many known draws in a row count as its end."""
    monkeypatch.setattr("se_nas.engine.proposer.DRAWS", 3)
    monkeypatch.setattr("se_nas.engine.proposer.ASKS", 1)
    gates = ["sigmoid", "hard_sigmoid", "tanh", "relu"]
    space = Space(read_space({"reductions": ["none", 16, 8, 4], "gate": gates, "squeeze": ["avg", "max"]}), UNITS8)
    objective = Objective(metric="val_accuracy", direction="maximize", cost="gflops")
    study = Study(f"sqlite:///{tmp_path / 'study.db'}", "search", objective, {"space": space.to_plain()})
    study.optuna.sampler = Stuck()
    costs = Pricing(CostModel(backbone_of("resnet8"), UNITS8, (1, 8, 8)))

    def record(placement: Placement, *, role: str, attempts: int, replicate: int) -> Trial:
        return trial(placement, role=role, attempts=attempts, costs=costs(placement))

    for trained in (5, 10):
        proposer = Proposer(study, space, costs, Limits(), seed=0, record=record)
        assert all(proposer.next(study.trials()) is not None for _ in range(5))
        assert len({t.placement.key for t in study.trials() if t.state == "running"}) == trained
