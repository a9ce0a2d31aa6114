"""How far trainings are, how long all of it takes, and what is said of it where."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import helpers
import pytest
from helpers import OBJECTIVE, identity, result_of

from se_nas.core.errors import ConfigError
from se_nas.core.placement import Placement
from se_nas.core.trial import Trial
from se_nas.report import view as view_module
from se_nas.report.progress import Status, Training
from se_nas.report.view import View


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def trial(number: int, epochs: int = 1) -> Trial:
    """One of no SE that took 20 seconds."""
    placement = Placement(choices={})
    done = result_of("complete", 0.9, seconds=20.0)
    return helpers.trial(placement, number, identity=identity(placement, epochs=epochs), **done)


def training(clock: Clock, number: int = 0, epochs: int = 10) -> Training:
    return Training(number=number, label="all:16", epochs=epochs, metric="val_accuracy", clock=clock)


class TestTraining:
    def test_by_its_batches(self, clock: Clock) -> None:
        one = training(clock)
        assert (one.done, one.seconds_left, one.current, one.at) == (0, None, 0, "")
        one.tell(0, {"epoch": 1, "batch": 10, "batches": 40, "loss": 2.3})
        assert one.done == pytest.approx(0.025)
        assert (one.seconds_left, one.current, one.at, one.loss) == (None, 1, "10/40", 2.3)
        clock.now += 3
        one.tell(0, {"epoch": 1, "batch": 40, "batches": 40, "loss": 1.9})
        assert one.done == pytest.approx(0.1)
        assert one.seconds_left == pytest.approx(3 / 0.075 * 0.9)
        clock.now += 6
        assert one.seconds_left == pytest.approx(30.0), "it goes on while nothing is told"

    def test_by_its_epochs(self, clock: Clock) -> None:
        one = training(clock)
        for epoch in (1, 2, 3):
            clock.now += 5
            one.tell(epoch, {"val_accuracy": epoch / 10, "train_loss": 1 / epoch})
        assert (one.epoch, one.value, one.loss, one.current) == (3, 0.3, 1 / 3, 4)
        assert one.seconds_left == pytest.approx(7 * 5)

    def test_validation_and_steps_of_other_loops(self, clock: Clock) -> None:
        one = training(clock)
        one.tell(0, {"epoch": 2, "batch": 1, "batches": 3, "validating": 1})
        assert (one.at, one.done) == ("validating 1/3", 0.2)
        one.tell(0, {"step": 17})
        assert one.at == "step 17"
        one.tell(0, {})
        assert one.at == ""

    def test_a_checkpoint_that_is_told_again_says_nothing_of_the_speed(self, clock: Clock) -> None:
        one = training(clock)
        for epoch in range(1, 6):
            clock.now += 0.001
            one.tell(epoch, {"val_accuracy": 0.5})
        assert one.seconds_left is None
        clock.now += 10
        one.tell(6, {"val_accuracy": 0.5})
        assert one.seconds_left == pytest.approx(40)


def status(done: int, budget: int, slots: int = 2, beyond: int = 0) -> Status:
    trials = [trial(number) for number in range(done)]
    return Status(trials=trials, budget=budget, slots=slots, objective=OBJECTIVE, beyond=beyond)


class TestTimeLeft:
    def test_by_the_plan_then_by_what_runs_then_by_what_ended(self, clock: Clock) -> None:
        running = [training(clock, 0), training(clock, 1)]
        assert status(0, 10).seconds_left(running) is None
        assert status(0, 10).seconds_left(running, expected=6.0) == pytest.approx(10 * 6 / 2)
        for one in running:
            one.tell(1, {})
        clock.now += 3
        for one in running:
            one.tell(4, {})
        # a tenth takes one second: ten a training, of which six are left of two
        assert status(0, 10).seconds_left(running, expected=99.0) == pytest.approx((2 * 6 + 8 * 10) / 2)
        assert status(4, 10).seconds_left(running) == pytest.approx((2 * 6 + 4 * 20) / 2)

    def test_is_never_less_than_that_of_the_last_training(self, clock: Clock) -> None:
        one = training(clock)
        one.tell(1, {})
        clock.now += 3
        one.tell(2, {})
        assert status(9, 10, slots=4).seconds_left([one]) == pytest.approx(24)

    def test_is_never_more_than_the_search_may_still_take(self) -> None:
        for allowed, left in ((7.0, 7.0), (50.0, 30.0), (None, 30.0)):
            now = replace(status(0, 10), allowed=lambda allowed=allowed: allowed)
            assert now.seconds_left([], expected=6.0) == pytest.approx(left)

    def test_at_the_end_there_is_none(self) -> None:
        assert status(10, 10).seconds_left([]) == 0


class TestLines:
    """What a log gets."""

    @pytest.fixture
    def said(self, capsys: pytest.CaptureFixture[str]) -> pytest.CaptureFixture[str]:
        return capsys

    def test_stages_epochs_and_ends(self, said: pytest.CaptureFixture[str]) -> None:
        with View(progress="plain") as view:
            view.stage("reading the data")
            running = trial(0, epochs=3)
            view.begun(running, "val_accuracy", "share")
            view.update(status(0, 1))
            view.told(0, 0, {"epoch": 1, "batch": 1, "batches": 4, "loss": 2.0})
            view.told(0, 1, {"val_accuracy": 0.5})
            view.told(0, 2, {"val_accuracy": 0.625, "train_loss": 0.25})
            view.told(0, 3, {"val_accuracy": 0.75})
            view.finished(running, status(0, 1))
        lines = said.readouterr().err.splitlines()
        assert lines[0] == "reading the data ..."
        assert lines[1].endswith(": epoch 1/3, loss 2, val_accuracy 50.00 %")
        assert ": epoch 2/3, loss 0.25, val_accuracy 62.50 %" in lines[2]
        assert lines[3].endswith(": val_accuracy 90.00 % (20.0 s)")
        assert len(lines) == 4, "the last epoch is the end"

    def test_of_many_trainings_not_every_epoch(self, said: pytest.CaptureFixture[str]) -> None:
        with View(progress="plain") as view:
            view.begun(trial(0, epochs=100), "val_accuracy")
            view.update(status(0, 50))
            for epoch in range(1, 60):
                view.told(0, epoch, {"val_accuracy": 0.5})
        assert len(said.readouterr().err.splitlines()) == 1

    def test_silence_ends(self, said: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(view_module, "SILENCE", 0.2)
        with View(progress="plain") as view:
            view.stage("measuring")
            time.sleep(2.6)
            view.begun(trial(0, epochs=9), "val_accuracy")
            view.update(status(0, 5))
            view.told(0, 0, {"epoch": 3, "batch": 7, "batches": 40, "loss": 0.5})
            time.sleep(1.3)
        lines = said.readouterr().err.splitlines()
        assert lines[0] == "measuring ..."
        assert any(line.startswith("measuring ... (") for line in lines)
        assert lines[-1].endswith("epoch 3/9, batch 7/40, loss 0.5")

    @pytest.mark.parametrize("view", [View(quiet=True), View(progress="none"), View(quiet=True, progress="plain")])
    def test_nothing_where_nothing_is_wanted(self, view: View, said: pytest.CaptureFixture[str]) -> None:
        with view:
            view.say("news")
            view.stage("reading")
            view.begun(trial(0), "val_accuracy")
            view.finished(trial(0), status(1, 2))
        assert view.quiet
        assert said.readouterr() == ("", "")

    def test_entered_again_it_goes_on(self, said: pytest.CaptureFixture[str]) -> None:
        before = threading.active_count()
        with View(progress="plain") as view:
            with view:
                view.say("inside")
            assert threading.active_count() == before + 1
            view.say("still there")
        assert threading.active_count() == before
        assert said.readouterr().err == "inside\nstill there\n"


class TestPython:
    def test_where_nobody_looks_nothing_is_shown(self) -> None:
        assert View.of("auto").quiet
        assert View.of(False).quiet
        assert not View.of(True).quiet
        assert not View.of("plain").quiet

    def test_other_words_are_refused(self) -> None:
        with pytest.raises(ConfigError, match="progress is 'lots'"):
            View.of("lots")  # type: ignore[arg-type]
