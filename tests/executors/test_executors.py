"""Executors: reports and their answers, workers that die, and what a worker's process is like."""

from __future__ import annotations

import multiprocessing
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import helpers
import pytest
from helpers import alive, environment, in_time, request, run_python, until

from se_nas.core.errors import ConfigError, PluginError
from se_nas.core.protocols import Executor
from se_nas.core.trial import Target, Verdict
from se_nas.executors.build import open_executor
from se_nas.executors.inline import InlineExecutor
from se_nas.executors.local import LocalExecutor
from se_nas.executors.slots import WorkerDiedError

PATIENCE = 60


def go_on(epoch: int, metrics: Mapping[str, float]) -> Verdict:
    return "continue"


@pytest.fixture(params=["local", "inline"])
def any_executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    executor = open_executor(Target(target=request.param), ("cpu",))
    yield executor
    in_time(executor.shutdown, PATIENCE, "the end of the executor")


@pytest.fixture
def two() -> Iterator[LocalExecutor]:
    executor = LocalExecutor(("cpu", "cpu"))
    yield executor
    in_time(executor.shutdown, PATIENCE, "the end of the executor")


class TestContract:
    """What every executor must do."""

    def test_reports_reach_the_driver_in_order(self, any_executor: Executor) -> None:
        seen: list[tuple[int, float]] = []

        def report(epoch: int, metrics: Mapping[str, float]) -> Verdict:
            seen.append((epoch, metrics["value"]))
            return "continue"

        result = any_executor.submit(helpers.evaluate_reporting, request(trial=7), report).result(PATIENCE)
        assert seen == [(1, 0.1), (2, 0.2), (3, 0.3), (4, 0.4), (5, 0.5)]
        assert (result.trial, result.state) == (7, "complete")

    def test_signs_of_life_say_where_the_training_is(self, any_executor: Executor) -> None:
        seen: list[tuple[int, dict[str, float]]] = []

        def report(epoch: int, metrics: Mapping[str, float]) -> Verdict:
            seen.append((epoch, dict(metrics)))
            return "continue"

        assert any_executor.submit(helpers.evaluate_pulsing, request(), report).result(PATIENCE).state == "complete"
        signs = [(0, {"epoch": 1.0, "batch": batch, "loss": 0.1}) for batch in (1, 2, 3)]
        assert seen == [*signs, (1, {"value": 0.5}), (0, {})]

    def test_stop_reaches_the_training(self, any_executor: Executor) -> None:
        def report(epoch: int, metrics: Mapping[str, float]) -> Verdict:
            return "stop" if epoch == 2 else "continue"

        result = any_executor.submit(helpers.evaluate_reporting, request(), report).result(PATIENCE)
        assert (result.state, result.reason) == ("stopped", "after epoch 2")

    def test_an_error_arrives_whole_and_the_executor_goes_on(self, any_executor: Executor) -> None:
        future = any_executor.submit(helpers.evaluate_mistake, request(), go_on)
        error = future.exception(PATIENCE)
        assert isinstance(error, ConfigError)
        assert str(error) == "no such thing\n  in here\n  allowed: this, that\n  hint: look there"
        assert any_executor.submit(helpers.evaluate_reporting, request(), go_on).result(PATIENCE).state == "complete"

    def test_an_error_of_the_disk_arrives_too(self, any_executor: Executor) -> None:
        """An OSError of the evaluation is not a dead worker."""
        future = any_executor.submit(helpers.evaluate_full_disk, request(), go_on)
        error = in_time(lambda: future.exception(PATIENCE), 10, "the error of a full disk")
        assert isinstance(error, OSError)
        assert error.errno == 28
        assert any_executor.submit(helpers.evaluate_reporting, request(), go_on).result(PATIENCE).state == "complete"

    def test_request_gets_the_device_of_its_slot(self, any_executor: Executor) -> None:
        result = any_executor.submit(helpers.evaluate_reporting, request(device="cpu"), go_on).result(PATIENCE)
        assert result.device == "cpu"


class TestWithoutAForkServer:
    """Windows has none: workers are spawned, and load the libraries themselves."""

    @pytest.fixture
    def spawned(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalExecutor]:
        monkeypatch.setattr(multiprocessing, "get_all_start_methods", lambda: ["spawn"])
        executor = LocalExecutor(("cpu", "cpu"))
        assert executor._context.get_start_method() == "spawn"
        yield executor
        in_time(executor.shutdown, PATIENCE, "the end of the executor")

    def test_spawned_workers_evaluate_report_and_may_die(self, spawned: LocalExecutor) -> None:
        seen: list[int] = []

        def report(epoch: int, metrics: Mapping[str, float]) -> Verdict:
            seen.append(epoch)
            return "stop" if epoch == 2 else "continue"

        result = spawned.submit(helpers.evaluate_reporting, request(trial=7), report).result(PATIENCE)
        assert (result.trial, result.state, seen) == (7, "stopped", [1, 2])
        futures = [spawned.submit(helpers.evaluate_pid, request(trial=n), go_on) for n in range(4)]
        assert str(os.getpid()) not in {future.result(PATIENCE).reason for future in futures}
        with pytest.raises(WorkerDiedError):
            spawned.submit(helpers.evaluate_suicide, request(), go_on).result(PATIENCE)
        assert spawned.submit(helpers.evaluate_reporting, request(), go_on).result(PATIENCE).state == "complete"


class TestWorkers:
    def test_a_worker_serves_many_evaluations_and_two_work_at_once(self, two: LocalExecutor) -> None:
        futures = [two.submit(helpers.evaluate_pid, request(trial=n), go_on) for n in range(8)]
        pids = {future.result(PATIENCE).reason for future in futures}
        assert 1 <= len(pids) <= 2
        assert str(os.getpid()) not in pids
        assert two.slots == 2

    def test_a_killed_worker_fails_its_evaluation_only(self, two: LocalExecutor) -> None:
        futures = [
            two.submit(helpers.evaluate_suicide if n == 1 else helpers.evaluate_reporting, request(trial=n), go_on)
            for n in range(5)
        ]
        error = futures[1].exception(PATIENCE)
        assert isinstance(error, WorkerDiedError)
        assert "ended with exit code -9" in str(error)
        assert [futures[n].result(PATIENCE).trial for n in (0, 2, 3, 4)] == [0, 2, 3, 4]

    def test_the_slot_of_a_killed_worker_is_filled_again(self, any_executor: Executor) -> None:
        if isinstance(any_executor, InlineExecutor):
            pytest.skip("it would kill this very process")
        first = any_executor.submit(helpers.evaluate_pid, request(), go_on).result(PATIENCE).reason
        assert any_executor.submit(helpers.evaluate_suicide, request(), go_on).exception(PATIENCE) is not None
        second = any_executor.submit(helpers.evaluate_pid, request(), go_on).result(PATIENCE).reason
        assert first != second

    def test_a_worker_that_dies_between_evaluations_costs_none(self) -> None:
        executor = LocalExecutor(("cpu",))
        try:
            pid = int(executor.submit(helpers.evaluate_pid, request(), go_on).result(PATIENCE).reason)
            os.kill(pid, signal.SIGKILL)
            assert executor.submit(helpers.evaluate_pid, request(), go_on).result(PATIENCE).state == "complete"
        finally:
            in_time(executor.shutdown, PATIENCE, "the end of the executor")

    def test_workers_that_cannot_start_are_an_error(self, any_executor: Executor) -> None:
        if isinstance(any_executor, InlineExecutor):
            pytest.skip("it starts none")
        assert any_executor.submit(helpers.evaluate_suicide, request(), go_on).exception(PATIENCE) is not None

        def full(slot: int) -> None:
            raise OSError(11, "Resource temporarily unavailable")

        start, any_executor._start = any_executor._start, full
        assert isinstance(any_executor.submit(helpers.evaluate_pid, request(), go_on).exception(PATIENCE), OSError)
        any_executor._start = start
        assert any_executor.submit(helpers.evaluate_pid, request(), go_on).result(PATIENCE).state == "complete"

    def test_nothing_of_a_training_stays(self) -> None:
        executor = LocalExecutor(("cpu",))
        try:
            said = [
                executor.submit(helpers.evaluate_circle, request(), go_on).result(PATIENCE).reason for _ in range(2)
            ]
        finally:
            in_time(executor.shutdown, PATIENCE, "the end of the executor")
        assert said == ["nothing", "gone"]

    def test_one_thread(self, two: LocalExecutor) -> None:
        assert two.submit(helpers.evaluate_threads, request(), go_on).result(PATIENCE).reason == "1"

    def test_ctrl_c_does_not_reach_a_worker(self, two: LocalExecutor) -> None:
        result = two.submit(helpers.evaluate_after_sigint, request(), go_on).result(PATIENCE)
        assert result.reason == "still here"

    def test_environment_of_this_process_is_left_alone(self) -> None:
        before = dict(os.environ)
        executor = LocalExecutor(("cpu",))
        executor.submit(helpers.evaluate_pid, request(), go_on).result(PATIENCE)
        in_time(executor.shutdown, PATIENCE, "the end of the executor")
        assert dict(os.environ) == before
        assert sys.modules["__main__"].__name__ == "__main__"

    def test_shutdown_ends_the_workers(self) -> None:
        executor = LocalExecutor(("cpu",))
        pid = int(executor.submit(helpers.evaluate_pid, request(), go_on).result(PATIENCE).reason)
        assert alive(pid)
        in_time(executor.shutdown, PATIENCE, "the end of the executor")
        until(lambda: not alive(pid), timeout=10, what="the end of the worker")

    def test_shutdown_without_waiting_kills(self, tmp_path: Path) -> None:
        executor = LocalExecutor(("cpu",))
        future = executor.submit(helpers.evaluate_endless, request(folder=str(tmp_path)), go_on)
        until(lambda: (tmp_path / "0.pid").exists(), timeout=PATIENCE, what="the evaluation")
        in_time(lambda: executor.shutdown(wait=False), 20, "the end at once")
        assert isinstance(future.exception(1), WorkerDiedError)


def test_workers_end_when_the_driver_is_killed(tmp_path: Path) -> None:
    script = (
        "import helpers\n"
        "from se_nas.executors.local import LocalExecutor\n"
        "executor = LocalExecutor(('cpu', 'cpu'))\n"
        "go_on = lambda epoch, metrics: 'continue'\n"
        f"requests = [helpers.request(trial=n, folder={str(tmp_path)!r}) for n in range(2)]\n"
        "futures = [executor.submit(helpers.evaluate_endless, r, go_on) for r in requests]\n"
        "futures[0].result()\n"
    )
    tests = str(Path(__file__).parents[1])
    env = environment()
    env["PYTHONPATH"] = os.pathsep.join([env["PYTHONPATH"], tests])
    process = subprocess.Popen([sys.executable, "-c", script], env=env)
    try:
        files = [tmp_path / f"{n}.pid" for n in range(2)]
        until(lambda: all(f.exists() and f.read_text() for f in files), timeout=100, what="two evaluations")
        pids = [int(file.read_text()) for file in files]
        assert all(alive(pid) for pid in pids)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=20)
    until(lambda: not any(alive(pid) for pid in pids), timeout=15, what="the end of the workers")


@pytest.mark.parametrize("how", ["file", pytest.param("standard input", marks=pytest.mark.slow)])
def test_a_script_without_main_guard_starts_one_search(tmp_path: Path, how: str) -> None:
    """Standard input stands for notebooks, whose main module has no file either."""
    (tmp_path / "space.yaml").write_text("reductions: [none, 16]\n")
    script = (
        "from pathlib import Path\n"
        "with Path('starts.txt').open('a') as log: log.write('x')\n"
        "import se_nas\n"
        "from se_nas.core.config import SearchConfig\n"
        "from se_nas.core.trial import Recipe, Target\n"
        "result = se_nas.search(SearchConfig(backbone=Target(target='resnet8'), budget=2, workers=2, out='run',\n"
        "                       space='space.yaml', train=Recipe(epochs=1)))\n"
        "print(len(result.trials), result.ended)\n"
    )
    (tmp_path / "script.py").write_text(script)
    done = run_python("script.py", cwd=tmp_path) if how == "file" else run_python("-", cwd=tmp_path, input=script)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "2 the budget of 2 trainings is spent\n"
    assert (tmp_path / "starts.txt").read_text() == "x"


def test_unknown_executor_is_named() -> None:
    with pytest.raises(PluginError) as caught:
        open_executor(Target(target="locl"), ("cpu",))
    assert "unknown executor 'locl'" in str(caught.value)
    assert "did you mean 'local'?" in str(caught.value)


def test_executor_by_import_path() -> None:
    executor = open_executor(Target(target="se_nas.executors.inline:InlineExecutor"), ("cpu", "cpu"))
    assert isinstance(executor, InlineExecutor)
    assert executor.slots == 1


FAULTS = """
import resource, threading, torch
from se_nas.executors.memory import settle
torch.set_num_threads(1)
settle()
def batch():
    kept = [torch.ones(1_000_000) for _ in range(8)]
def batches():
    for _ in range(3):
        batch()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        batch()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
batches()
thread = threading.Thread(target=batches)  # as in a worker on another machine
thread.start()
thread.join()
"""
"""Pages that are got again for 20 batches of 32 MB, in a process's main thread and in another one."""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc's allocator")
def test_a_settled_worker_keeps_freed_memory_for_the_next_batch() -> None:
    done = run_python("-c", FAULTS)
    assert not done.stderr
    assert max(map(int, done.stdout.split())) < 1000, done.stdout  # 7,800 pages a batch: 19,000 and more otherwise
