"""Near chance, still rising, far from fitted: what is said of trainings that say little, and not of those that do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers import OBJECTIVE, REPOSITORY, identity, trial
from sklearn.metrics import f1_score, log_loss, top_k_accuracy_score

from se_nas.analysis.chance import chance_of
from se_nas.analysis.checks import Check
from se_nas.analysis.trained_enough import Trainings, cautions, training_checks
from se_nas.core.placement import Placement
from se_nas.core.trial import CostValue, Epoch, Metric, Recipe, Target
from se_nas.data.base import DataInfo

CURVES = Path(__file__).parent / "curves"
DATA = DataInfo(
    target=Target(target="digits"), classes=tuple("abcdefghij"), input_shape=(1, 8, 8), fingerprint="f", checksum="c",
    split="s", train=1000, val=400, test=400, val_counts=(40,) * 10,
)  # fmt: skip


MANY = replace(DATA, val=100_000)


def trainings(
    curves: Sequence[Sequence[float]], *, metric: str = "val_accuracy", direction: Any = "maximize",
    data: DataInfo | None = DATA, recipe: Recipe | None = None, task: str = "classification",
    train: float | None = 0.97, params: float = 100_000.0, unit: str = "share", margin: float = 0.003,
) -> Trainings:  # fmt: skip
    epochs = len(curves[0])
    recipe = replace(recipe or Recipe(), epochs=epochs)
    placement = Placement(choices={})
    known = identity(placement, epochs=epochs, recipe=recipe, task=Target(target=task))
    trials = []
    for number, values in enumerate(curves):
        more = {} if train is None else {"train_accuracy": train}
        curve = tuple(Epoch(epoch=e, metrics={metric: v, **more}) for e, v in enumerate(values, start=1))
        trials.append(
            trial(
                placement,
                number,
                identity=known,
                state="complete",
                curve=curve,
                metrics={metric: Metric(value=values[-1], direction=direction, unit=unit)},
                costs={"params": CostValue(value=params, unit="params")},
            )
        )
    objective = replace(OBJECTIVE, metric=metric, direction=direction)
    return Trainings(trials=trials, objective=objective, data=data, margin=margin, unit=unit)


def checks(*args: Any, **more: Any) -> dict[str, Check]:
    return {check.name: check for check in training_checks(trainings(*args, **more))}


def flat(n: int = 10, epochs: int = 10, end: float = 0.9, rise: float = 0.0, sd: float = 0.003) -> list[list[float]]:
    """Curves that rise to a value, and at the end by so much in each of the last epochs."""
    rng = np.random.default_rng(n)
    start = np.concatenate([np.linspace(0.3, end - 2 * rise, epochs - 2), [end - rise, end]])
    return [list(start + rng.normal(0, sd, epochs)) for _ in range(n)]


class TestRecordedRuns:
    def test_the_default_search_gives_no_alarm(self) -> None:
        table = pd.read_csv(CURVES / "digits.csv", index_col="trial")
        data = replace(DATA, train=1081, val=357, val_counts=(36, 37, 36, 36, 36, 36, 35, 35, 34, 36))
        found = checks((table.to_numpy() / 357).tolist(), data=data, params=272_000.0)
        assert {name: check.holds for name, check in found.items()} == dict.fromkeys(found, False)
        assert "No: val_accuracy changes by +0.19 points an epoch" in found["curves"].text

    def test_eight_epochs_of_cifar_100_are_few(self) -> None:
        """There the accuracy rises by three points in the last epoch, and the network can do more."""
        table = pd.read_csv(REPOSITORY / "experiments" / "cifar100" / "results-cpu" / "curves.csv")
        curves = table.pivot_table(index=["key", "seed"], columns="epoch", values="val_accuracy").to_numpy().tolist()
        data = replace(DATA, classes=tuple(map(str, range(100))), train=40_000, val=10_000, val_counts=(100,) * 100)
        found = checks(curves, data=data, train=None, params=84_000.0)
        assert (found["chance"].holds, found["training accuracy"].holds) == (False, None)
        assert found["curves"].holds
        assert found["curves"].numbers["rise"] == pytest.approx(0.03, abs=0.001)
        assert found["curves"].text.endswith("give --epochs 24.")
        assert "curves of val_accuracy still rise by 3.00 points an epoch at the end" in found["curves"].text


class TestRising:
    def test_flat_curves_give_an_alarm_in_one_of_twenty_at_most(self) -> None:
        """Trainings differ, and all of them are judged on the same few images."""
        rng, alarms, runs = np.random.default_rng(0), 0, 300
        for _ in range(runs):
            changed = rng.binomial(400, 0.01) / 400 - rng.binomial(400, 0.01) / 400  # in common to all trainings
            last = 0.9 + rng.normal(0, 0.004, (12, 2)) + np.array([0.0, changed])
            curves = np.concatenate([np.tile(np.linspace(0.2, 0.9, 8), (12, 1)), last], axis=1)
            alarms += bool(checks(curves.tolist())["curves"].holds)
        assert alarms / runs <= 0.05

    def test_a_rise_is_said_with_what_to_change(self) -> None:
        found = checks(flat(rise=0.008, epochs=8, sd=1e-5), data=MANY)["curves"]
        assert found.holds
        # By the logarithm of the epochs: 8 epochs at 0.8 points, until it is the margin of 0.3.
        assert found.text.endswith("give --epochs 22.")
        assert checks(flat(rise=0.05, epochs=8))["curves"].text.endswith("give --epochs 24."), "three times at most"

    def test_a_larger_margin_does_not_make_trainings_longer(self) -> None:
        assert checks(flat(rise=0.02), margin=0.1)["curves"].holds

    def test_few_images_or_few_trainings_tell_less(self) -> None:
        assert checks(flat(rise=0.012), data=MANY)["curves"].holds
        assert not checks(flat(rise=0.012), data=replace(DATA, val=60))["curves"].holds
        assert not checks([[0.1, 0.2, 0.85, 0.86], [0.1, 0.2, 0.88, 0.95]])["curves"].holds
        assert checks(flat(n=1))["curves"].holds is None

    def test_losses_fall(self) -> None:
        curves = [[2.0 - 0.1 * e + 0.001 * n for e in range(10)] for n in range(6)]
        found = checks(curves, metric="val_loss", direction="minimize", unit="nats", margin=0.01)["curves"]
        assert "curves of val_loss still fall by 0.1 nats an epoch" in found.text
        rising = [[-v for v in c] for c in curves]
        assert not checks(rising, metric="val_loss", direction="minimize", unit="nats", margin=0.01)["curves"].holds

    def test_at_a_constant_learning_rate_a_slow_rise_counts_over_many_epochs(self) -> None:
        slow = [[0.5 + 0.0006 * e + 0.0005 * n for e in range(100)] for n in range(8)]
        assert checks(slow, recipe=Recipe(schedule="constant"), data=MANY)["curves"].holds
        assert not checks(slow, data=MANY)["curves"].holds

    def test_one_epoch_has_risen_from_chance(self) -> None:
        found = checks([[0.5], [0.55], [0.52]])["curves"]
        assert found.holds
        assert found.text.endswith("give --epochs 10.")
        own = checks([[0.5], [0.55], [0.52]], task="my.py:Task")["curves"]
        assert (own.holds, own.text) == (None, "Not tested: one epoch has no curve.")


class TestChance:
    def test_is_what_learning_nothing_reaches(self) -> None:
        """By many draws: always the likeliest classes, and classes drawn by their frequency."""
        rng, counts = np.random.default_rng(0), (600, 200, 80, 60, 30, 20, 10)
        data = replace(DATA, classes=tuple("abcdefg"), val=1000, val_counts=counts)
        labels, shares = np.repeat(np.arange(7), counts), np.array(counts) / 1000
        scores = np.tile(shares, (1000, 1))
        drawn = np.mean([f1_score(labels, rng.choice(7, 1000, p=shares), average="macro") for _ in range(50)])
        always = f1_score(labels, np.zeros(1000), average="macro", zero_division=0)
        expected = {
            "val_accuracy": 0.6,
            "val_top5": top_k_accuracy_score(labels, scores, k=5),
            "val_f1": max(drawn, always),
            "val_loss": log_loss(labels, scores),
        }
        for metric, value in expected.items():
            found = chance_of(metric, data)
            assert found is not None
            assert found.value == pytest.approx(value, abs=0.01), metric

    def test_is_not_known_of_other_metrics_or_targets(self) -> None:
        assert chance_of("val_dice", DATA) is None
        for changes in ({"target_shape": (5,)}, {"target_type": "float"}, {"classes": ()}):
            assert chance_of("val_accuracy", replace(DATA, **changes)) is None
        assert chance_of("val_accuracy", None) is None
        unknown = chance_of("val_accuracy", replace(DATA, val_counts=()))
        assert unknown is not None
        assert unknown.value == pytest.approx(0.1)

    def test_accuracy_near_that_of_the_most_frequent_class(self) -> None:
        unfair = replace(DATA, classes=("a", "b"), val_counts=(320, 80))
        near = checks(flat(end=0.81), data=unfair, train=0.81)["chance"]
        assert near.holds
        assert "near chance (81.0" in near.text
        assert "by chance it is 80.00 %" in near.text
        assert not checks(flat(end=0.81))["chance"].holds, "with ten equal classes that is far above"
        tiny = replace(unfair, val=25, val_counts=(20, 5))
        assert checks(flat(end=0.96), data=tiny)["chance"].holds, "25 images do not tell 96 from 80 %"

    def test_what_to_change_is_labels_epochs_or_the_learning_rate(self) -> None:
        text = checks(flat(end=0.1), train=0.99)["chance"].text
        assert text.startswith("Nothing is learned that generalises: val_accuracy is near chance (10.0")
        assert "on training images the accuracy is 99.00 %. Look at the labels" in text
        still = [[0.1] * 9 + [0.105 + 0.0001 * n] for n in range(5)]
        assert "se-nas report RUN --probe-lr" in checks(still, train=0.1)["chance"].text
        rising = [[0.02 * e for e in range(1, 7)] for _ in range(9)]
        assert (
            "Curves still rise: give --epochs"
            in checks(rising, train=0.12, data=replace(DATA, val=9000))["chance"].text
        )

    def test_a_few_that_failed_are_counted(self) -> None:
        found = checks([*flat(n=9), [0.1] * 10])["chance"]
        assert found.holds
        assert found.text.startswith("1 of 10 trainings failed to learn")
        assert found.text.endswith("Give a smaller --lr than 0.1.")
        rising = checks([*flat(n=9, rise=0.1), [0.1] * 10])["chance"].text
        assert rising.endswith("look worse than they are."), "more epochs come first"

    def test_losses_near_the_entropy_of_the_classes(self) -> None:
        curves = [[2.3 + 0.001 * n] * 4 for n in range(4)]
        more = {"metric": "val_loss", "direction": "minimize", "unit": "nats", "margin": 0.01}
        assert checks(curves, **more)["chance"].holds
        assert not checks([[v - 1.0 for v in c] for c in curves], **more)["chance"].holds


class TestFitted:
    def test_far_under_what_so_many_parameters_can_learn(self) -> None:
        found = checks(flat(), train=0.55)["training accuracy"]
        assert found.holds
        assert "the accuracy in training is 55.00 % in the last epoch, and networks with 100.0 parameters" in found.text
        assert "Give --epochs 20, or another --lr than 0.1." in found.text
        assert not checks(flat(), train=0.9)["training accuracy"].holds

    def test_a_small_network_need_not_learn_all(self) -> None:
        found = checks(flat(), train=0.55, params=2000.0)["training accuracy"]
        assert found.holds is None
        assert "with 2.0 parameters for each training image" in found.text

    def test_is_left_out_where_it_is_not_recorded(self) -> None:
        for more in ({"train": None}, {"task": "my.py:Task"}):
            found = checks(flat(), **more)["training accuracy"]
            assert (found.holds, found.text) == (None, "Not tested: the accuracy in training is not recorded.")


def test_cautions_are_the_checks_that_hold() -> None:
    assert cautions(training_checks(trainings(flat(end=0.95)))) == ()
    first, second = cautions(training_checks(trainings(flat(rise=0.1), train=0.5)))
    assert first.text.startswith("Undertrained: curves")
    assert second.text.startswith("Undertrained: the accuracy in training")
    assert first.numbers["trainings"] == 10.0


def test_of_trainings_near_chance_only_that_is_said() -> None:
    """Their curves and their training accuracy would have other things changed."""
    found = training_checks(trainings(flat(end=0.1), train=0.12))
    assert [check.holds for check in found] == [True, False, True]
    (only,) = cautions(found)
    assert only.text.startswith("Undertrained: val_accuracy is near chance")
    assert "Give --epochs" not in found[2].text


def test_without_trainings_nothing_is_said() -> None:
    assert training_checks(replace(trainings(flat()), trials=[])) == ()
