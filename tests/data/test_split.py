"""Which image goes to which part: a partition, the same share of every class, by the seed alone."""

from __future__ import annotations

import functools
import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from se_nas.core.errors import DataError
from se_nas.data.arrays import Reader, Readers
from se_nas.data.base import PartName
from se_nas.data.split import Plan, Split, split_checksum, split_plan

NUMBERS = np.arange(40) % 4


def source(classes: int = 4, **parts: np.ndarray | list[int]) -> Readers:
    """A source of targets alone."""
    readers: dict[PartName, Reader] = {
        part: Reader(targets=functools.partial(np.array, targets), images=lambda _: iter(()))  # type: ignore[misc]
        for part, targets in parts.items()
    }
    return Readers(readers, classes=[f"class {i}" for i in range(classes)], fingerprint="")


def fails(split: Split | None = None, classes: int = 4, **parts: np.ndarray | list[int]) -> str:
    with pytest.raises(DataError) as caught:
        split_plan(source(classes, **parts), split or Split())
    return str(caught.value)


def indices(plan: Plan) -> dict[str, list[int]]:
    return {part: rows.tolist() for part, (_, rows, _) in plan.items()}


class TestShares:
    @given(
        sizes=st.lists(st.integers(12, 40), min_size=2, max_size=4),
        val=st.sampled_from([0.1, 0.2, 0.3]), test=st.sampled_from([0.1, 0.25, 0.4]), seed=st.integers(0, 99),
    )  # fmt: skip
    def test_are_those_of_all_images_of_the_source_in_every_class(
        self, sizes: list[int], val: float, test: float, seed: int
    ) -> None:
        """Both fractions are of the whole: what the test set took does not make the validation set smaller."""
        labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
        plan = split_plan(
            source(len(sizes), train=labels), Split(val_fraction=val, test_fraction=test, split_seed=seed)
        )
        assert sorted(itertools.chain(*indices(plan).values())) == list(range(len(labels)))
        for part, fraction in (("val", val), ("test", test), ("train", 1 - val - test)):
            origin, rows, own = plan[part]  # type: ignore[index]
            assert origin == "train"
            np.testing.assert_array_equal(own, labels[rows])
            # One rounding each; the validation set is cut from what the rounded test set left of the class.
            for label, size in enumerate(sizes):
                assert abs((own == label).sum() - fraction * size) <= 1.2, (part, label)

    def test_round_to_the_nearest_image(self) -> None:
        """Of 10 images of each class a quarter is 2 (half to even), of the 8 that remain 0.1 of 10 is 1."""
        plan = split_plan(source(train=NUMBERS), Split(val_fraction=0.1, test_fraction=0.25))
        assert {part: np.bincount(own).tolist() for part, (_, _, own) in plan.items()} == {
            "test": [2] * 4, "val": [1] * 4, "train": [7] * 4,
        }  # fmt: skip

    def test_of_targets_that_are_no_class_numbers_are_of_all_together(self) -> None:
        for targets in (NUMBERS.astype(float), np.zeros((40, 2, 2), dtype=int)):
            plan = split_plan(source(0, train=targets), Split(val_fraction=0.2, test_fraction=0.3))
            assert {part: len(rows) for part, rows in indices(plan).items()} == {"test": 12, "val": 8, "train": 20}

    def test_every_image_is_drawn_as_often_as_any_other(self) -> None:
        counts = {part: np.zeros(40) for part in ("val", "test")}
        for seed in range(400):
            plan = split_plan(source(train=NUMBERS), Split(val_fraction=0.2, test_fraction=0.2, split_seed=seed))
            for part, count in counts.items():
                count[plan[part][1]] += 1  # type: ignore[index]
        for part, count in counts.items():
            assert count.sum() == 400 * 8, part
            assert np.abs(count / 400 - 0.2).max() < 0.09, part  # 4.5 standard errors

    def test_depend_on_the_seed_alone(self) -> None:
        one, again, other = (split_plan(source(train=NUMBERS), Split(split_seed=seed)) for seed in (0, 0, 1))
        assert indices(one) == indices(again)
        assert all(indices(one)[part] != indices(other)[part] for part in ("train", "val", "test"))
        assert indices(split_plan(source(train=NUMBERS), Split())) == indices(one)

    def test_that_are_not_given_are_a_fifth(self) -> None:
        assert {part: len(rows) for part, rows in indices(split_plan(source(train=NUMBERS), Split())).items()} == {
            "test": 8, "val": 8, "train": 24,
        }  # fmt: skip


class TestOwnParts:
    def test_are_taken_as_they_are(self) -> None:
        plan = split_plan(source(train=NUMBERS, val=[3, 1, 2], test=[0, 1]), Split())
        assert {part: (origin, rows.tolist(), own.tolist()) for part, (origin, rows, own) in plan.items()} == {
            "test": ("test", [0, 1], [0, 1]),
            "val": ("val", [0, 1, 2], [3, 1, 2]),
            "train": ("train", list(range(40)), NUMBERS.tolist()),
        }

    @pytest.mark.parametrize("missing", ["val", "test"])
    def test_one_that_is_missing_or_empty_is_cut_from_train(self, missing: str) -> None:
        other = {"val": "test", "test": "val"}[missing]
        lacking = split_plan(source(train=NUMBERS, **{other: [0, 1, 2]}), Split())
        empty = split_plan(source(train=NUMBERS, **{other: [0, 1, 2], missing: np.zeros(0, dtype=int)}), Split())
        assert indices(lacking) == indices(empty)
        assert {part: (origin, len(rows)) for part, (origin, rows, _) in lacking.items()} == {
            other: (other, 3), missing: ("train", 8), "train": ("train", 32),
        }  # fmt: skip


class TestErrors:
    @pytest.mark.parametrize("name", ["val_fraction", "test_fraction"])
    @pytest.mark.parametrize("value", [0, 1, -0.1, 1.5, "half", None])
    def test_a_fraction_is_between_0_and_1(self, name: str, value: object) -> None:
        with pytest.raises(DataError) as caught:
            Split(**{name: value})
        assert str(caught.value) == f"{name} is {value!r}\n  allowed: a number between 0 and 1"

    def test_nothing_to_train_on(self) -> None:
        assert fails(train=np.zeros(0, dtype=int)) == fails(val=[0, 1]) == "the data set has no training images"
        assert fails(Split(val_fraction=0.6, test_fraction=0.6), train=NUMBERS) == (
            "val_fraction 0.6 and test_fraction 0.6 leave nothing to train on"
        )

    def test_too_few_images_but_of_the_test_part_one_is_enough(self) -> None:
        assert fails(train=NUMBERS, val=[1], test=[0]) == "the val set has 1 images: too few"
        assert fails(train=[0], val=[0, 1], test=[0, 1]) == "the train set has 1 images: too few"
        assert len(split_plan(source(train=[0, 1], val=[0, 1], test=[2]), Split())["test"][1]) == 1

    @pytest.mark.parametrize("part", ["val", "test"])
    def test_targets_of_another_shape(self, part: str) -> None:
        assert fails(train=NUMBERS, **{part: np.zeros((5, 2), dtype=int)}) == (
            f"{part} targets have shape (2,), training targets ()"
        )

    def test_one_class_alone(self) -> None:
        words = "the training set has only the class {}\n  hint: classification needs at least two classes"
        assert fails(train=np.zeros(20, dtype=int)) == words.format("'class 0'")
        assert fails(classes=1, train=NUMBERS) == words.format("'class 0'")
        assert len(split_plan(source(2, train=NUMBERS % 2), Split())) == 3

    @pytest.mark.parametrize("part", ["train", "val", "test"])
    @pytest.mark.parametrize("label", [-1, 4])
    def test_labels_that_are_no_class(self, part: str, label: int) -> None:
        parts = {name: [0, 1, 2, 3] for name in ("train", "val", "test")}
        assert len(split_plan(source(**parts), Split())) == 3
        parts[part] = [0, 1, 2, label]
        assert fails(**parts) == f"the {part} set has labels outside 0 to 3"

    def test_what_other_targets_mean_is_left_to_the_task(self) -> None:
        assert len(split_plan(source(0, train=np.full(20, 7.5)), Split())) == 3


def test_the_checksum_is_of_who_went_where() -> None:
    plan = split_plan(source(train=NUMBERS, val=[3, 1, 2]), Split())
    known = split_checksum(plan)
    assert known == split_checksum(split_plan(source(train=NUMBERS, val=[3, 1, 2]), Split()))
    origin, rows, labels = plan["test"]
    for changed in (("val", rows, labels), (origin, rows[::-1], labels), (origin, rows[1:], labels[1:])):
        assert split_checksum({**plan, "test": changed}) != known  # type: ignore[dict-item]
    assert split_checksum({**plan, "test": (origin, rows, labels[::-1])}) == known
    assert known != split_checksum(split_plan(source(train=NUMBERS, val=[3, 1, 2]), replace(Split(), split_seed=1)))
