"""How a data set is split into train, validation and test set."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from se_nas.core.errors import DataError
from se_nas.core.serialization import checksum
from se_nas.data.base import PartName, Plan, Source, is_class_number


@dataclass(frozen=True, kw_only=True)
class Split:
    """How parts that a source lacks are cut from its `train`: each a share of all images there, between 0 and 1."""

    val_fraction: float = 0.2
    test_fraction: float = 0.2
    split_seed: int = 0

    def __post_init__(self) -> None:
        for name in ("val_fraction", "test_fraction"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not 0 < value < 1:
                raise DataError(f"{name} is {value!r}", allowed=["a number between 0 and 1"])


def split_plan(source: Source, split: Split) -> Plan:
    """Which image of the source goes to which part; parts that the source lacks are cut from its `train`.

    The cut is stratified by class, where targets are class numbers, and depends on `split_seed` alone.

    Raises
    ------
    DataError
        If there is nothing to train on, a part is too small, or targets do not fit each other or the classes.
    """
    labels = source.labels("train")
    if labels is None or len(labels) == 0:
        raise DataError("the data set has no training images")
    plan: Plan = {}
    rest = np.arange(len(labels))
    generator = np.random.default_rng(split.split_seed)
    missing: tuple[tuple[PartName, float], ...] = (("test", split.test_fraction), ("val", split.val_fraction))
    for part, fraction in missing:
        own = source.labels(part)
        if own is not None and len(own):
            plan[part] = (part, np.arange(len(own)), own)
            continue
        strata = labels[rest] if is_class_number(labels) else np.zeros(len(rest))
        taken = _stratified(strata, float(fraction), len(labels), generator)
        plan[part] = ("train", rest[taken], labels[rest[taken]])
        rest = rest[~taken]
    if len(rest) == 0:
        raise DataError(
            f"val_fraction {split.val_fraction} and test_fraction {split.test_fraction} leave nothing to train on"
        )
    plan["train"] = ("train", rest, labels[rest])
    _check_plan(plan, source.classes)
    return plan


def _stratified(labels: np.ndarray, fraction: float, total: int, generator: np.random.Generator) -> np.ndarray:
    """Mask of a share of the images, the same share of `total` from every class."""
    order = generator.permutation(len(labels))
    chosen = np.zeros(len(labels), dtype=bool)
    share = fraction * total / len(labels)
    for label in np.unique(labels):
        members = order[labels[order] == label]
        chosen[members[: round(share * len(members))]] = True
    return chosen


def _check_plan(plan: Plan, classes: tuple[str, ...]) -> None:
    labels = plan["train"][2]
    for name, (_, _, part_labels) in plan.items():
        if name != "test" and len(part_labels) < 2:
            raise DataError(f"the {name} set has {len(part_labels)} images: too few")
        if part_labels.shape[1:] != labels.shape[1:]:
            raise DataError(f"{name} targets have shape {part_labels.shape[1:]}, training targets {labels.shape[1:]}")
    if not is_class_number(labels):
        return  # what the targets mean is the business of the user's task
    if len(classes) < 2 or len(np.unique(labels)) < 2:
        raise DataError(
            f"the training set has only the class {classes[0] if classes else '(none)'!r}",
            hint="classification needs at least two classes",
        )
    for name, (_, _, part_labels) in plan.items():
        if len(part_labels) and not 0 <= part_labels.min() <= part_labels.max() < len(classes):
            raise DataError(f"the {name} set has labels outside 0 to {len(classes) - 1}")


def split_checksum(plan: Plan) -> str:
    """Says which image went to which part, by its number in the source."""
    return checksum({part: [origin, indices.tolist()] for part, (origin, indices, _) in plan.items()})
