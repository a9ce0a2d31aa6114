"""Where SE helps, class by class: shares against counting, noise against simulation, and what is cut."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from se_nas.analysis.by_class import DRAWN, MOST, compare_classes
from se_nas.analysis.statistics import FAMILY_ERROR

NAMES = [str(k) for k in range(10)]


def made_up(
    rng: np.random.Generator,
    *,
    right: float = 0.85,
    images: int = 36,
    shape: tuple[int, int] = (3, 3),
    classes: int = 10,
    seed_sd: float = 0.03,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Predictions of networks that differ by nothing but noise, of seeds and of images that are hard for all."""
    true = np.repeat(np.arange(classes), images)
    easy = rng.beta(4 * right, 4 * (1 - right), len(true))
    luck = rng.normal(0, seed_sd, (*shape, classes))[:, :, true]
    hit = rng.random((*shape, len(true))) < np.clip(easy + luck, 0, 1)
    other = (true + rng.integers(1, classes, hit.shape)) % classes
    return np.where(hit, true, other), true


class TestShares:
    def test_are_those_of_counting(self) -> None:
        predicted, true = made_up(np.random.default_rng(0))
        found = compare_classes(predicted, true, NAMES, network="k")
        assert [shift.true for shift in found.classes] == NAMES
        for c, shift in enumerate(found.classes):
            own = [[sum(p == c for p, t in zip(run, true, strict=True) if t == c) / 36 for run in n] for n in predicted]
            assert shift.without == pytest.approx(np.mean(own[0]))
            assert shift.value == pytest.approx(np.mean(own[1]))
            assert shift.difference == pytest.approx(np.mean(own[1]) - np.mean(own[0]))
            assert shift.low <= shift.difference <= shift.high
        for mistake in found.mistakes:
            a, b = int(mistake.true), int(mistake.predicted)
            assert a != b
            assert mistake.value == pytest.approx((predicted[1][:, true == a] == b).mean())
        sizes = [abs(mistake.difference) for mistake in found.mistakes]
        assert sizes == sorted(sizes, reverse=True)

    def test_rows_of_the_matrices_add_up_to_one(self) -> None:
        predicted, true = made_up(np.random.default_rng(1))
        found = compare_classes(predicted, true, NAMES, network="k")
        for table in found.matrices:
            assert np.array(table).sum(axis=1) == pytest.approx(np.ones(10), abs=1e-4)
        assert np.diag(found.matrices[1]) == pytest.approx([shift.value for shift in found.classes], abs=1e-6)

    def test_a_class_of_one_image_is_left_out_and_one_that_is_not_known_is_a_mistake(self) -> None:
        true = np.array([0] * 20 + [1] * 20 + [2])
        predicted = np.tile(true, (2, 2, 1))
        predicted[:, :, 0] = 7  # of a network with more outputs than there are classes
        found = compare_classes(predicted, true, ["a", "b", "c"], network="k")
        assert [(s.true, s.images, s.without) for s in found.classes] == [("a", 20, 0.95), ("b", 20, 1.0)]
        assert found.mistakes == ()


class TestNoise:
    @pytest.mark.parametrize(
        ("shape", "images", "right", "seed_sd"),
        [((3, 2), 36, 0.95, 0.0), ((2, 2), 36, 0.9, 0.05), ((3, 5), 100, 0.7, 0.03), ((3, 3), 5, 0.8, 0.05)],
    )
    def test_nothing_is_found_where_nothing_is(
        self, shape: tuple[int, int], images: int, right: float, seed_sd: float
    ) -> None:
        """One class or more said to gain, where none does: in 5 % of confirms at most, and as many said to lose."""
        rng, helped, hurt, searches = np.random.default_rng(2), 0, 0, 100
        for _ in range(searches):
            data = made_up(rng, shape=shape, images=images, right=right, seed_sd=seed_sd)
            shown = [s for s in compare_classes(*data, NAMES, network="k").classes if s.shown]
            helped += any(s.difference > 0 for s in shown)
            hurt += any(s.difference < 0 for s in shown)
        allowed = FAMILY_ERROR * searches + 3 * np.sqrt(searches * FAMILY_ERROR * (1 - FAMILY_ERROR))
        assert helped <= allowed
        assert hurt <= allowed

    def test_a_class_that_gains_is_found_and_no_other(self) -> None:
        predicted, true = made_up(np.random.default_rng(3), right=0.7, seed_sd=0.0, images=60)
        predicted[1][:, true == 4] = 4
        found = compare_classes(predicted, true, NAMES, network="k")
        assert [s.true for s in found.classes if s.shown] == ["4"]
        assert found.classes[4].low > 0
        assert all(s.low <= 0 <= s.high for s in found.classes if s.true != "4")

    def test_networks_that_never_differ_are_not_known_to_be_equal(self) -> None:
        true = np.repeat(np.arange(10), 36)
        found = compare_classes(np.tile(true, (3, 3, 1)), true, NAMES, network="k")
        assert all(s.difference == 0 and s.p == 1 and s.low < -0.01 and s.high > 0.01 for s in found.classes)


@pytest.mark.parametrize("classes", [DRAWN, 100])
def test_many_classes_have_no_matrix_and_the_most_frequent_mistakes(classes: int) -> None:
    predicted, true = made_up(np.random.default_rng(4), classes=classes, images=10, right=0.3)
    found = compare_classes(predicted, true, [str(k) for k in range(classes)], network="k")
    assert len(found.classes) == classes
    assert bool(found.matrices) == bool(found.names) == (classes <= DRAWN)
    assert len(found.mistakes) <= MOST
