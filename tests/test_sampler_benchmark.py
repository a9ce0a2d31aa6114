"""The landscapes of the sampler benchmark."""

from __future__ import annotations

import numpy as np
import pytest
from landscapes import (
    RESNET50,
    Landscape,
    benchmark,
    best_score,
    by_block,
    development,
    merged_front,
    score,
    se_cost,
    true_front,
)
from rules import best_gain, gains_at, marked, rule_score, rules_of

from se_nas.samplers.pareto import rising_front


def test_cost_is_that_of_the_se_paper() -> None:
    """SE-ResNet-50 at r = 16 without biases has 28,071,976 weights, ResNet-50 has 25,557,032."""
    assert sum(se_cost(*block, 16)[0] for block in by_block(RESNET50)) == 28_071_976 - 25_557_032


@pytest.mark.parametrize("landscape", [ls for ls in development() if ls.decisions == 3], ids=lambda ls: ls.name)
def test_the_true_front_has_the_best_score(landscape: object) -> None:
    best = best_score(landscape)  # type: ignore[arg-type]
    codes = landscape.level_space.all()  # type: ignore[attr-defined]
    assert score(landscape, codes, landscape.gain(codes)) == pytest.approx(best)  # type: ignore[arg-type,attr-defined]
    rng = np.random.default_rng(0)
    for _ in range(20):
        assert score(landscape, codes, rng.normal(size=len(codes))) <= best + 1e-9  # type: ignore[arg-type]


def test_the_merged_front_is_the_front() -> None:
    landscape = next(ls for ls in development() if ls.name == "dev-sum-6-0")
    codes = merged_front(landscape)
    cost, gain = true_front(landscape)
    front = rising_front(landscape.costs(codes)[:, None], landscape.gain(codes))
    np.testing.assert_allclose(landscape.costs(codes)[front], cost)
    np.testing.assert_allclose(landscape.gain(codes)[front], gain)


def test_no_se_costs_and_gains_nothing() -> None:
    for landscape in benchmark() + development():
        none = np.zeros((1, landscape.decisions), dtype=np.int64)
        assert landscape.costs(none)[0] == 0
        assert landscape.gain(none + 0)[0] == pytest.approx(0), landscape.name


def test_benchmark_and_development_share_no_landscape() -> None:
    assert not {ls.name for ls in benchmark()} & {ls.name for ls in development()}


class TestRules:
    """Rules that need no search, on landscapes of ResNet-50."""

    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("paper-4-noise0.3", {"everywhere": "2222", "all but last": "2220", "early": "2200", "late": "0022",
                                  "widest": "0002"}),
            ("paper-8", {"everywhere": "1" * 8, "all but last": "11111100", "early": "11110000", "late": "00001111",
                         "widest": "00000011"}),
            ("paper-16", {"everywhere": "2" * 16, "all but last": "2" * 13 + "000", "early": "2" * 7 + "0" * 9,
                          "late": "0" * 7 + "2" * 9, "widest": "0" * 13 + "222"}),
        ],
    )  # fmt: skip
    def test_codes_written_out(self, name: str, expected: dict[str, str]) -> None:
        """Level 2 of (none, 32, 16, 8, 4) is r = 16, and level 1 of (none, 16, 8, 4); 3, 4, 6 and 3 units a stage."""
        codes = rules_of(next(ls for ls in benchmark() if ls.name == name))
        assert {rule: "".join(map(str, row[0])) for rule, row in codes.items()} == expected

    @pytest.mark.parametrize("landscape", benchmark(), ids=lambda ls: ls.name)
    def test_every_rule_has_the_cost_of_its_blocks(self, landscape: Landscape) -> None:
        """At r = 16 without biases, in thousand weights: SE-ResNet-50 less ResNet-50, and the same by its stages."""
        stages = [units * 2 * c * c // 16 / 1e3 for c, _, units in RESNET50]
        assert sum(stages) * 1e3 == 28_071_976 - 25_557_032
        expected = {"everywhere": stages, "all but last": stages[:3], "early": stages[:2], "late": stages[2:],
                    "widest": stages[3:]}  # fmt: skip
        costs = {name: landscape.costs(codes)[0] for name, codes in rules_of(landscape).items()}
        assert costs == pytest.approx({name: sum(parts) for name, parts in expected.items()})

    def test_the_score_is_the_area_from_the_rules_cost_on(self) -> None:
        """Whoever follows a rule ships it whether it gains or hurts."""
        by_name = {ls.name: ls for ls in benchmark()}
        top = sum(units * 2 * c * c // 4 for c, _, units in RESNET50) / 1e3  # everything at r = 4
        for name, rule, gain in (("paper-4-noise0.3", "all but last", 1.15), ("hurts-4", "everywhere", -0.75)):
            landscape = by_name[name]
            codes, best = rules_of(landscape)[rule], best_score(landscape)
            share = (top - landscape.costs(codes)[0]) / (best if best else top)
            assert rule_score(landscape, codes, best) == pytest.approx(gain * share)
        landscape = by_name["wrong-way-4"]
        assert rule_score(landscape, rules_of(landscape)["widest"], best_score(landscape)) < 0

    def test_the_best_gain_within_a_cost_is_that_of_all_placements(self) -> None:
        landscape = next(ls for ls in benchmark() if ls.name == "interactions-4")
        codes = landscape.level_space.all()
        costs, gains = landscape.costs(codes), landscape.gain(codes)
        for rule in rules_of(landscape).values():
            limit = landscape.costs(rule)[0]
            assert best_gain(landscape, limit) == pytest.approx(gains[costs <= limit].max())

    def test_a_search_is_judged_by_what_it_claims_within_the_cost(self) -> None:
        """Not by what is truly best there, nor by what costs more."""
        landscape = next(ls for ls in benchmark() if ls.name == "wrong-way-4")
        front = np.array([[0, 0, 0, 0], [0, 1, 0, 0], [1, 0, 0, 0], [4, 4, 4, 4]])
        costs = landscape.costs(front)
        claims = np.array([0.0, 0.5, 0.4, 9.0])
        assert gains_at(landscape, front, claims, costs[1]) == pytest.approx(-0.3)
        assert gains_at(landscape, front, claims, costs[2]) == pytest.approx(0.5 if costs[2] < costs[1] else -0.3)
        assert gains_at(landscape, front, claims, 0.0) == 0

    @pytest.mark.parametrize(
        ("mean", "sem", "rule", "text"),
        [(0.9, 0.02, 0.8, "0.90"), (0.7, 0.02, 0.8, "0.70 -"), (0.82, 0.02, 0.8, "0.82 ="), (0.0, 0.0, 0.0, "0.00 =")],
    )
    def test_ahead_behind_or_not_told(self, mean: float, sem: float, rule: float, text: str) -> None:
        assert marked(mean, sem, rule) == text
