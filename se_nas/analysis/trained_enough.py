"""Whether trainings were long and good enough to compare networks at all: asked before anything is recommended."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from se_nas.analysis.chance import Chance, chance_of
from se_nas.analysis.checks import Check
from se_nas.analysis.confirmation import Sentence
from se_nas.analysis.margin import MARGIN
from se_nas.core.trial import Objective, Recipe, Trial
from se_nas.core.words import amount, level_of
from se_nas.data.base import DataInfo

NEAR = 0.05
"""Share of the way from chance to the best value within which a network has learned next to nothing."""

LEARNED = 0.25
"""The same of training images, from which on a network has learned these by heart."""

ERRORS = 3.0
"""Within so many standard errors of a share on the validation images a value is chance, too."""

SURE = 0.95
"""One-sided level from which on a rise or a lack counts."""

END = 10
"""The end of a schedule that lowers the learning rate: the last epoch of so many."""

CONSTANT_END = 4
"""The same where the learning rate is constant."""

FITTED = 0.7
"""A network that could learn its training images by heart should be so far from chance to all of them."""

ROOMY = 5.0
"""Parameters for each training image from which on it could (Zhang et al., "Understanding deep learning requires
rethinking generalization", ICLR 2017, have networks with a few parameters for each image learn random labels)."""

TRAIN_ACCURACY = "train_accuracy"
CHANCE = "chance"


@dataclass(frozen=True, kw_only=True)
class Trainings:
    """Complete trainings of one length, and what they were of. `margin` is in units of the metric."""

    trials: Sequence[Trial]
    objective: Objective
    data: DataInfo | None
    margin: float
    unit: str

    @property
    def recipe(self) -> Recipe:
        return self.trials[0].identity.recipe

    @property
    def epochs(self) -> int:
        return self.trials[0].identity.epochs

    @property
    def sign(self) -> float:
        return -1.0 if self.objective.direction == "minimize" else 1.0

    @property
    def classifies(self) -> bool:
        return self.trials[0].identity.classifies

    def chance(self) -> Chance | None:
        return chance_of(self.objective.metric, self.data) if self.classifies else None


def training_checks(trainings: Trainings) -> tuple[Check, ...]:
    """Near chance, still rising, far from fitted: each with its number."""
    if not trainings.trials:
        return ()
    near = _near_chance(trainings)
    return near, _still_rising(trainings), _far_from_fitted(trainings, learned=not _nothing_learned(near))


def cautions(checks: Sequence[Check]) -> tuple[Sentence, ...]:
    """What is to be read before anything that trainings are taken to say: the checks that hold.

    Where most trainings are near chance, that alone: it says what to change, whatever their curves do.
    """
    if nothing := [check for check in checks if _nothing_learned(check)]:
        return (nothing[0].sentence,)
    return tuple(check.sentence for check in checks if check.holds)


def _nothing_learned(check: Check) -> bool:
    """Whether most trainings are near chance."""
    return check.name == CHANCE and bool(check.holds) and 2 * check.numbers["near"] >= check.numbers["trainings"]


def _near_chance(t: Trainings) -> Check:
    check = functools.partial(Check, name=CHANCE, question="Is the metric near chance?")
    metric = t.objective.metric
    chance = t.chance()
    if chance is None:
        return check(holds=None, text=f"Not tested: what {metric} is by chance is not known.")
    values = np.array([trial.metrics[metric].value for trial in t.trials])
    near = t.sign * (values - chance.value) < max(ERRORS * chance.error, NEAR * chance.room)
    number, mean = int(near.sum()), float(values.mean())
    numbers = {"chance": chance.value, "mean": mean, "near": float(number), "trainings": float(len(values))}
    by_chance = f"by chance it is {level_of(chance.value, t.unit)}"
    if number * 2 < len(values):
        if not number:
            text = f"No: {metric} is {level_of(mean, t.unit)} on average, {by_chance}."
            return check(holds=False, text=text, numbers=numbers)
        text = (
            f"{number} of {len(values)} trainings failed to learn: their {metric} is near chance ({by_chance}), which "
            "makes their networks look worse than they are."
        )
        # While all still learn, the next check says for how much longer.
        advice = "" if _counts(t, _rise(t)) else f" Give a smaller --lr than {t.recipe.lr:g}."
        return check(holds=True, text=f"{text}{advice}", numbers=numbers)
    text = f"{metric} is near chance ({level_of(mean, t.unit)} on average of {len(values)} trainings; {by_chance})"
    return check(holds=True, text=_what_to_change(t, text), numbers=numbers)


def _what_to_change(t: Trainings, near: str) -> str:
    """Of trainings near chance: labels, epochs or the learning rate."""
    fitted = _train_accuracy(t)
    chance = chance_of("val_accuracy", t.data)
    if fitted is not None and chance is not None and fitted.mean() > chance.value + LEARNED * chance.room:
        return (
            f"Nothing is learned that generalises: {near}, and on training images the accuracy is "
            f"{level_of(float(fitted.mean()), 'share')}. Look at the labels, or bring more images."
        )
    rise = _rise(t)
    if rise is not None and _counts(t, rise):
        return f"Undertrained: {near}. Curves still rise: give --epochs {_more_epochs(t, rise)}."
    return (
        f"Undertrained: {near}. Try another --lr than {t.recipe.lr:g}: se-nas report RUN --probe-lr trains with a "
        "third and three times it."
    )


@dataclass(frozen=True, kw_only=True)
class _Rise:
    """How much the metric improves in an epoch at the end: mean over trainings, one-sided bound, and over how many."""

    mean: float
    low: float
    epochs: int
    trainings: int


def _still_rising(t: Trainings) -> Check:
    check = functools.partial(Check, name="curves", question="Are learning curves still rising at the end?")
    metric = t.objective.metric
    rise = _rise(t)
    if rise is None:
        why = "one epoch has no curve" if t.epochs == 1 else "there are no curves of two trainings"
        return check(holds=None, text=f"Not tested: {why}.")
    numbers = {"rise": rise.mean, "lower": rise.low, "epochs": float(rise.epochs), "trainings": float(rise.trainings)}
    each, least = (amount(t.sign * value, t.unit) for value in (rise.mean, rise.low))
    last = "the last epoch" if rise.epochs == 1 else f"the last {rise.epochs} epochs"
    over = f"({rise.trainings} trainings, {last}; {least} or better with {100 * SURE:.0f} % confidence)"
    if not _counts(t, rise):
        return check(holds=False, text=f"No: {metric} changes by {each} an epoch at the end {over}.", numbers=numbers)
    verb, size = "rise" if t.sign > 0 else "fall", amount(rise.mean, t.unit, signed=False)
    text = (
        f"Undertrained: curves of {metric} still {verb} by {size} an epoch at the end {over}: give --epochs "
        f"{_more_epochs(t, rise)}."
    )
    return check(holds=True, text=text, numbers=numbers)


def _counts(t: Trainings, rise: _Rise | None) -> bool:
    return rise is not None and rise.low > _enough(t)


def _constant(t: Trainings) -> bool:
    return t.classifies and t.recipe.schedule == "constant"


def _enough(t: Trainings) -> float:
    """The rise in an epoch that counts.

    Where the learning rate falls to zero, all curves flatten: only what one more epoch would change by more than the
    margin is a rise. Where it is constant, the next quarter of the epochs must change it by three margins. A margin
    above the default does not make trainings longer.
    """
    margin = min(t.margin, 0.01 * MARGIN) if t.unit == "share" else t.margin
    return margin if not _constant(t) else 3 * margin / max(1.0, t.epochs / CONSTANT_END)


def _rise(t: Trainings) -> _Rise | None:
    """At the end of the curves, in the direction that is better; None without two trainings that have curves.

    Two sources of error: trainings differ (t interval), and all share the validation images: a share that rises by r
    has at least r of the images changed, of which a set of n images has its root of r / n.
    """
    span = max(1, round(t.epochs / (CONSTANT_END if _constant(t) else END)))
    chance = t.chance()
    slopes, lengths = [], []
    for trial in t.trials:
        seen = [(e.epoch, e.metrics[t.objective.metric]) for e in trial.curve if t.objective.metric in e.metrics]
        if chance is not None and seen:
            seen.insert(0, (0, chance.value))
        before = [point for point in seen if point[0] <= seen[-1][0] - span]
        if before:
            (first, low), (last, high) = before[-1], seen[-1]
            slopes.append(t.sign * (high - low) / (last - first))
            lengths.append(last - first)
    if len(slopes) < 2:
        return None
    mean, length = float(np.mean(slopes)), float(np.mean(lengths))
    error = float(np.std(slopes, ddof=1)) / math.sqrt(len(slopes))
    images = t.data.val if t.data is not None and t.unit == "share" else 0
    by_images = math.sqrt(max(mean * length, 0.0) / images) / length if images else 0.0
    reach = float(stdtrit(len(slopes) - 1, SURE))
    return _Rise(
        mean=mean,
        low=mean - math.hypot(reach * error, float(stdtrit(1e6, SURE)) * by_images),
        epochs=round(length),
        trainings=len(slopes),
    )


def _more_epochs(t: Trainings, rise: _Rise) -> int:
    """After how many epochs the rise would be too small to count.

    The metric grows with the logarithm of the epochs, so that its rise in one of them falls as one over their number;
    at least twice as many as now, and at most three times or ten.
    """
    wanted = t.epochs * rise.mean / max(_enough(t), 1e-12)
    number = min(max(wanted, 2 * t.epochs), max(3 * t.epochs, 10))
    return round(number) if number < 20 else 10 * round(number / 10) if number > 50 else 2 * round(number / 2)


def _far_from_fitted(t: Trainings, *, learned: bool) -> Check:
    question = "Is the training accuracy far below what the network can fit?"
    check = functools.partial(Check, name="training accuracy", question=question)
    fitted, chance = _train_accuracy(t), chance_of("val_accuracy", t.data)
    if fitted is None or chance is None or t.data is None:
        return check(holds=None, text="Not tested: the accuracy in training is not recorded.")
    params = [trial.costs["params"].value for trial in t.trials if "params" in trial.costs]
    each = float(np.mean(params)) / max(1, t.data.train) if params else 0.0
    mean = float(fitted.mean())
    reached = (mean - chance.value) / chance.room
    numbers = {"train_accuracy": mean, "parameters_per_image": each}
    roomy = f"{each:,.1f} parameters for each training image"
    shown = f"the accuracy in training is {level_of(mean, 'share')}"
    if each < ROOMY:
        text = f"Not tested: {shown}, but with {roomy} the networks need not be able to learn them all."
        return check(holds=None, text=text, numbers=numbers)
    if reached >= FITTED:
        return check(holds=False, text=f"No: {shown}.", numbers=numbers)
    text = f"Undertrained: {shown} in the last epoch, and networks with {roomy} could learn them all."
    if learned:
        rise = _rise(t)
        epochs = _more_epochs(t, rise) if rise is not None and _counts(t, rise) else 2 * t.epochs
        text = f"{text} Give --epochs {epochs}, or another --lr than {t.recipe.lr:g}."
    return check(holds=True, text=text, numbers=numbers)


def _train_accuracy(t: Trainings) -> np.ndarray | None:
    """Of each training in its last epoch; None where it is not recorded."""
    found = [trial.curve[-1].metrics[TRAIN_ACCURACY] for trial in t.trials
             if trial.curve and TRAIN_ACCURACY in trial.curve[-1].metrics]  # fmt: skip
    return np.array(found) if t.classifies and found else None
