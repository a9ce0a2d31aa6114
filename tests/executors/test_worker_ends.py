"""User code that ends its process, in whatever way: its trial fails with what it said last, and nothing else does."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator, Mapping

import helpers
import pytest
from helpers import identity, in_time, request

from se_nas.core.errors import reason_of
from se_nas.core.placement import Placement
from se_nas.core.trial import Request, Verdict
from se_nas.executors.inline import InlineExecutor
from se_nas.executors.local import LocalExecutor
from se_nas.executors.output import last_lines
from se_nas.executors.slots import EndedByItselfError, WorkerDiedError

PATIENCE = 120


def go_on(epoch: int, metrics: Mapping[str, float]) -> Verdict:
    return "continue"


@pytest.fixture(scope="module")
def one() -> Iterator[LocalExecutor]:
    executor = LocalExecutor(("cpu",))
    yield executor
    in_time(executor.shutdown, PATIENCE, "the end of the executor")


def seeded(seed: int) -> Request:
    return request(identity=identity(Placement(choices={}), seed=seed))


def test_an_exit_is_told_with_the_last_lines(one: LocalExecutor) -> None:
    error = one.submit(helpers.evaluate_exit, request(), go_on).exception(PATIENCE)
    assert isinstance(error, WorkerDiedError)
    what, said = error.what.split("; its last output: ")
    assert what.endswith("ended with exit code 7")
    assert said == "reading the images | the licence server says no"


def test_a_crash_is_told_with_its_place(one: LocalExecutor) -> None:
    reason = reason_of(one.submit(helpers.evaluate_crash, request(), go_on).exception(PATIENCE) or Exception())
    assert "ended with exit code -11 (SIGSEGV); its last output: Fatal Python error: Segmentation fault" in reason
    assert "in string_at" in reason


def test_a_kill_is_told_by_its_name(one: LocalExecutor) -> None:
    error = one.submit(helpers.evaluate_suicide, request(), go_on).exception(PATIENCE)
    assert "exit code -9 (SIGKILL, perhaps for lack of memory); it printed nothing" in str(error)


ENDS = ["SystemExit: 3", "GeneratorExit: enough", "KeyboardInterrupt: now"]


@pytest.mark.parametrize("seed", range(3), ids=ENDS)
def test_an_evaluation_cannot_end_its_worker(one: LocalExecutor, seed: int) -> None:
    before = one.submit(helpers.evaluate_pid, request(), go_on).result(PATIENCE).reason
    error = one.submit(helpers.evaluate_ending, seeded(seed), go_on).exception(PATIENCE)
    assert isinstance(error, EndedByItselfError)
    said = f"the training ended its process by {ENDS[seed]}; its last output: usage: train.py [-h] ({before})"
    assert reason_of(error) == said
    assert one.submit(helpers.evaluate_pid, request(), go_on).result(PATIENCE).reason == before


def test_what_was_printed_before_is_of_another_evaluation(one: LocalExecutor) -> None:
    one.submit(helpers.evaluate_ending, seeded(0), go_on).exception(PATIENCE)
    error = one.submit(helpers.evaluate_suicide, request(), go_on).exception(PATIENCE)
    assert str(error).endswith("it printed nothing")


def test_nor_the_driver_that_trains_itself() -> None:
    error = InlineExecutor(("cpu",)).submit(helpers.evaluate_ending, seeded(0), go_on).exception(0)
    assert str(error) == "the training ended its process by SystemExit: 3"
    with pytest.raises(KeyboardInterrupt):  # there it is the user's own
        InlineExecutor(("cpu",)).submit(helpers.evaluate_ending, seeded(2), go_on)


def test_all_of_it_reaches_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    executor = LocalExecutor(("cpu",))
    executor.submit(helpers.evaluate_exit, request(), go_on).exception(PATIENCE)
    in_time(executor.shutdown, PATIENCE, "the end of the executor")
    assert "reading the images\nthe licence server says no\n" in capfd.readouterr().err


def test_where_a_picture_is_drawn_it_is_written_in_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []

    class Drawn(io.StringIO):
        def write(self, text: str) -> int:
            written.append(text)
            return len(text)

    monkeypatch.setattr(sys, "stderr", Drawn())
    executor = LocalExecutor(("cpu",))
    executor.submit(helpers.evaluate_exit, request(), go_on).exception(PATIENCE)
    in_time(executor.shutdown, PATIENCE, "the end of the executor")
    said = [text for text in written if text]
    assert "reading the images\nthe licence server says no\n" in "".join(said)
    assert all(text.endswith("\n") for text in said)


def test_lines_of_a_users_own_log_are_kept_and_those_of_ray_are_not() -> None:
    lines = [
        b"[2026-12-01 05:01:57,666 E 123 456] core_worker.cc:2899: The worker died\n",
        b"[2026-12-01 05:01:58] no images in photos\n",
    ]
    assert last_lines(lines) == "[2026-12-01 05:01:58] no images in photos"
