"""The landscapes of the sampler benchmark."""

from __future__ import annotations

import numpy as np
import pytest
from landscapes import benchmark, best_score, by_block, development, merged_front, score, se_cost, true_front

from se_nas.samplers.pareto import rising_front


def test_cost_is_that_of_the_se_paper() -> None:
    """SE-ResNet-50 at r = 16 without biases has 28,071,976 weights, ResNet-50 has 25,557,032."""
    from landscapes import RESNET50

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
