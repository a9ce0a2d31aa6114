"""Evaluations in processes of this machine: one single-threaded worker for each slot, supervised.

Workers start from a fork server that has the heavy libraries loaded, so a new one is there at once. Each serves
one slot: it takes a request from its pipe, sends a report after every epoch and waits for the answer, and sends
the result. A worker that dies fails its own evaluation only, and its slot gets a new one.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import signal
import sys
import threading
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from multiprocessing import connection, forkserver
from typing import Any

from se_nas.errors import TrainingError
from se_nas.executors.worker import settle, tidy
from se_nas.plugins import Channel
from se_nas.records import Request, Result, Verdict

PRELOAD = ["se_nas.evaluate", "se_nas.tasks.classification"]

Report = Callable[[int, Mapping[str, float]], Verdict]
_Task = tuple[Callable[[Request, Channel], Result], Request, Report, "Future[Result]"]


class WorkerDiedError(TrainingError):
    """A worker process ended in the middle of an evaluation."""


class PipeChannel:
    """The worker's end of a slot."""

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe

    def report(self, epoch: int, metrics: Mapping[str, float]) -> Verdict:
        self._pipe.send(("report", epoch, dict(metrics)))
        answer: Verdict = self._pipe.recv()
        return answer


class LocalExecutor:
    """One worker process for each device given; several workers may have the same device.

    Parameters
    ----------
    devices:
        One for each slot, such as ``("cpu", "cpu")`` or ``("cuda:0", "cuda:1")``.
    """

    def __init__(self, devices: Sequence[str]) -> None:
        self.devices = tuple(devices)
        self.slots = len(self.devices)
        self._context = warm_up()
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._ending = False
        self._workers: dict[int, Any] = {}
        self._threads = [
            threading.Thread(target=self._serve, args=(slot,), name=f"se-nas slot {slot}", daemon=True)
            for slot in range(self.slots)
        ]
        for thread in self._threads:
            thread.start()

    def submit(
        self, evaluate: Callable[[Request, Channel], Result], request: Request, report: Report
    ) -> Future[Result]:
        """Queue an evaluation. `report` is called in a thread of this process, between epochs."""
        future: Future[Result] = Future()
        self._tasks.put((evaluate, request, report, future))
        return future

    def shutdown(self, *, wait: bool = True) -> None:
        """End all workers: after what they are doing, or (`wait` false) at once."""
        self._ending = True
        for _ in self._threads:
            self._tasks.put(None)
        if not wait:
            for process in list(self._workers.values()):
                process.kill()
        for thread in self._threads:
            thread.join()

    def _serve(self, slot: int) -> None:
        """Keep a worker at this slot and hand it one task after the other."""
        process: Any = None
        pipe: Any = None
        with contextlib.suppress(OSError):  # the first task tries again, and says why not
            process, pipe = self._start(slot)
        try:
            while (task := self._tasks.get()) is not None:
                evaluate, request, report, future = task
                if self._ending:
                    future.cancel()
                    continue
                request = replace(request, device=self.devices[slot])
                try:
                    if process is None or not _answers(process, pipe):  # it fell at its last task, or after it
                        process, pipe = self._start(slot)
                    future.set_result(_converse(process, pipe, (evaluate, request), report))
                except Exception as error:  # of the worker or of the evaluation: carried to whoever asks
                    future.set_exception(error)
        finally:
            if process is not None:
                pipe.close()  # the worker ends when its pipe does
                process.join()

    def _start(self, slot: int) -> tuple[Any, Any]:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_work, args=(theirs,), daemon=True, name=f"se-nas worker {slot}")
        with _start_lock, _hidden_main(), _single_threaded():
            process.start()
        theirs.close()
        self._workers[slot] = process
        return process, ours


def warm_up() -> Any:
    """Have the fork server load the libraries now, in its own process; returns the context that it serves.

    Where there are no fork servers (Windows), workers load the libraries themselves.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    with _single_threaded():
        forkserver.ensure_running()
    return context


def _converse(process: Any, pipe: Any, task: Any, report: Report) -> Result:
    """Send a task, answer its reports, return its result or raise its error; WorkerDiedError if the worker ends."""
    message = _exchange(process, pipe, task)
    while message[0] == "report":
        try:
            answer = report(message[1], message[2])
        except Exception as error:  # the worker waits for an answer that will not come
            process.kill()
            process.join()
            raise WorkerDiedError(f"the report of an epoch failed: {type(error).__name__}: {error}") from error
        message = _exchange(process, pipe, answer)
    if message[0] == "error":
        raise message[1]
    result: Result = message[1]
    return result


def _answers(process: Any, pipe: Any) -> bool:
    """Whether a worker is there for a task: one that is just ending may still look alive."""
    try:
        return _exchange(process, pipe, None) is None
    except WorkerDiedError:
        return False


def _exchange(process: Any, pipe: Any, message: Any) -> Any:
    """Send a message to a worker and wait for its next one."""
    try:
        pipe.send(message)
        if pipe in connection.wait([pipe, process.sentinel]):
            return pipe.recv()
    except (EOFError, OSError):
        pass
    process.kill()  # it may be alive with a broken pipe
    process.join()
    raise WorkerDiedError(f"worker {process.pid} ended with exit code {process.exitcode}")


def _work(pipe: Any) -> None:
    """Main function of a worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the driver, and the driver decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    channel = PipeChannel(pipe)
    settle()
    while True:
        try:
            task = pipe.recv()
        except EOFError:
            return
        if task is None:
            pipe.send(None)
            continue
        evaluate, request = task
        try:
            pipe.send(("result", evaluate(request, channel)))
        except (BrokenPipeError, EOFError):
            return
        except Exception as error:  # the driver decides what it means
            pipe.send(("error", error))
        tidy()


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


_start_lock = threading.Lock()


@contextlib.contextmanager
def _hidden_main() -> Iterator[None]:
    """Start processes without the user's main module.

    multiprocessing imports it in every new process; a notebook or a script without a main guard would then start
    a second search there. Requests are plain data and need nothing from it.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextlib.contextmanager
def _single_threaded() -> Iterator[None]:
    """The environment in which workers start: one thread each, or two workers on two cores are three times slower."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
