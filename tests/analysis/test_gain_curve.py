"""Whether the gain of SE still rises: against scipy's regression and t interval, and against chance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from helpers import identity, trial, unit
from scipy import stats

from se_nas.analysis.gain_curve import paired_rise, searched_rise
from se_nas.core.placement import Placement
from se_nas.core.trial import Epoch, Trial
from se_nas.space.space import Space
from se_nas.space.spec import read_space

SPACE = Space(read_space({"reductions": ["none", 16, 8]}), tuple(unit(f"u{i}", f"s{i}", 32) for i in range(3)))
EPOCHS = 8
PLACEMENTS = list(SPACE.placements())
EVERYWHERE = next(p for p in PLACEMENTS if p.blocks == 3)


def training(placement: Placement, values: Sequence[float], *, seed: int = 0) -> Trial:
    curve = tuple(Epoch(epoch=e, metrics={"m": v}) for e, v in enumerate(values, start=1))
    return trial(placement, seed, identity=identity(placement, epochs=EPOCHS, seed=seed), state="complete", curve=curve)


def searched(rng: np.random.Generator, n: int, *, rise: float = 0.0, sign: float = 1.0) -> list[Trial]:
    """Noisy curves; the end of each rises by so much more for each epoch, where all decisions have SE."""
    found = []
    for i in range(n):
        placement = PLACEMENTS[0] if i == 0 else PLACEMENTS[int(rng.integers(len(PLACEMENTS)))]
        share = placement.blocks / 3
        late = np.maximum(0, np.arange(1, EPOCHS + 1) - EPOCHS + 2)
        values = 0.5 + 0.04 * np.arange(EPOCHS) + rise * share * late + rng.normal(0, 0.004, EPOCHS)
        found.append(training(placement, (sign * values).tolist(), seed=i))
    return found


class TestSearched:
    def test_is_the_regression_of_the_last_quarter(self) -> None:
        trials = searched(np.random.default_rng(0), 30, rise=0.01)
        found = searched_rise(trials, SPACE, "m", 1.0)
        assert found is not None
        share = [t.placement.blocks / 3 for t in trials]
        ends = [(t.curve[-1].metrics["m"] - t.curve[-3].metrics["m"]) / 2 for t in trials]
        by_scipy = stats.linregress(share, ends)
        reach = stats.t.ppf(0.95, 28) * by_scipy.stderr
        assert (found.rise, found.low, found.high) == pytest.approx(
            (by_scipy.slope, by_scipy.slope - reach, by_scipy.slope + reach)
        )
        assert found.gain == pytest.approx(stats.linregress(share, [t.curve[-1].metrics["m"] for t in trials]).slope)
        assert (found.number, found.epochs, found.paired) == (30, 2, False)
        assert found.low > 0

    def test_without_any_rise_one_in_twenty_looks_like_one(self) -> None:
        rng, runs = np.random.default_rng(1), 400
        found = [searched_rise(searched(rng, 12), SPACE, "m", 1.0) for _ in range(runs)]
        share = np.mean([f is not None and f.low > 0 for f in found])
        assert share == pytest.approx(0.05, abs=0.025)

    def test_of_a_loss_it_is_a_fall(self) -> None:
        trials = searched(np.random.default_rng(0), 30, rise=0.01, sign=-1.0)
        found = searched_rise(trials, SPACE, "m", -1.0)
        assert found is not None
        assert found.low > 0

    def test_says_nothing_of_too_few_or_equal_networks(self) -> None:
        rng = np.random.default_rng(0)
        assert searched_rise(searched(rng, 4), SPACE, "m", 1.0) is None
        alike = [training(EVERYWHERE, [0.1, 0.2, 0.3], seed=i) for i in range(9)]
        assert searched_rise(alike, SPACE, "m", 1.0) is None
        ended = [training(p, [0.5], seed=i) for i, p in enumerate(PLACEMENTS[:9])]
        assert searched_rise(ended, SPACE, "m", 1.0) is None, "one epoch has no end to compare"


class TestPaired:
    def trials(self, rises: Sequence[float], *, common: float = 0.0) -> list[Trial]:
        """No SE and SE everywhere with each seed; what a seed has in common cancels."""
        found = []
        for seed, rise in enumerate(rises):
            luck = common * (-1) ** seed
            none = np.linspace(0.3, 0.7, EPOCHS) + luck
            late = np.maximum(0, np.arange(1, EPOCHS + 1) - EPOCHS + 2)
            found.append(training(PLACEMENTS[0], none.tolist(), seed=seed))
            found.append(training(EVERYWHERE, (none - 0.02 + rise * late).tolist(), seed=seed))
        return found

    @pytest.mark.parametrize("common", [0.0, 0.1])
    def test_is_the_t_interval_over_seeds(self, common: float) -> None:
        rises = [0.004, 0.006, 0.011, 0.002]
        found = paired_rise(self.trials(rises, common=common), "m", 1.0)
        assert found is not None
        low, high = stats.ttest_1samp(rises, 0).confidence_interval(0.9)
        assert (found.rise, found.low, found.high) == pytest.approx((np.mean(rises), low, high))
        assert found.gain == pytest.approx(-0.02 + 2 * np.mean(rises))
        assert (found.number, found.paired) == (4, True)

    def test_several_networks_of_a_seed_are_one_pair(self) -> None:
        """They share the training without SE, and would not be independent."""
        more = [training(PLACEMENTS[5], [0.3 + 0.05 * e for e in range(EPOCHS)], seed=seed) for seed in range(2)]
        found = paired_rise([*self.trials([0.01, 0.02]), *more], "m", 1.0)
        assert found is not None
        assert found.number == 2

    def test_one_seed_or_no_partner_says_nothing(self) -> None:
        assert paired_rise(self.trials([0.01]), "m", 1.0) is None
        lonely = [t for t in self.trials([0.01, 0.02]) if t.placement.blocks]
        assert paired_rise(lonely, "m", 1.0) is None
