"""What executors with workers have in common: slots, each of which is supervised by a thread of the driver.

The thread hands its worker one evaluation after the other and answers the reports. How a worker is started, spoken to
and ended is up to the executor.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from se_nas.core.errors import TrainingError, WorkerLostError
from se_nas.core.files import write_atomically
from se_nas.core.protocols import Channel
from se_nas.core.trial import Request, Result, Verdict

Evaluate = Callable[[Request, Channel], Result]
Report = Callable[[int, Mapping[str, float]], Verdict]


class WorkerDiedError(TrainingError):
    """A worker process ended in the middle of an evaluation."""


class EndedByItselfError(TrainingError):
    """An evaluation asked for the end of its process, by ``sys.exit`` or the like."""


def carried(error: BaseException) -> Exception:
    """What is told of an error: itself, or that the evaluation asked for an end where a worker may not end for it."""
    if isinstance(error, Exception):
        return error
    return EndedByItselfError(f"the training ended its process by {type(error).__name__}: {error}")


@dataclass(frozen=True, kw_only=True)
class Message:
    """What a worker says: the report of an epoch (number and metrics), a sign of life (where the training is), the
    result, or an error.

    A report is answered, and the worker waits for that; after a sign of life it goes on.

    `files` are those that are new or changed (or gone: None), in the order of writing, where the worker has a folder of
    its own.
    """

    kind: Literal["report", "alive", "result", "error"]
    content: Any = None
    files: dict[str, bytes | None] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Task:
    """An evaluation that waits for a slot."""

    evaluate: Evaluate
    request: Request
    report: Report
    future: Future[Result]


class SlotExecutor(ABC):
    """One worker for each device given; a worker that dies fails its own evaluation only.

    The threads start here, so a subclass is ready when it calls this constructor. `_workers` has the worker of each
    slot that has one.
    """

    def __init__(self, devices: Sequence[str]) -> None:
        self.devices = tuple(devices)
        self.slots = len(self.devices)
        self._tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._ending = False
        self._workers: dict[int, Any] = {}
        self._tasks_of: dict[int, Future[Result]] = {}
        self._why_ended: dict[Future[Result], str] = {}
        self._threads = [
            threading.Thread(target=self._serve, args=(slot,), name=f"se-nas slot {slot}", daemon=True)
            for slot in range(self.slots)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, evaluate: Evaluate, request: Request, report: Report) -> Future[Result]:
        """Queue an evaluation. `report` is called in a thread of this process, at each epoch and sign of life."""
        future: Future[Result] = Future()
        self._tasks.put(Task(evaluate=evaluate, request=request, report=report, future=future))
        return future

    def end(self, future: Future[Result], reason: str) -> bool:
        """End the worker of an evaluation, which fails with this reason; False if no worker is at it."""
        slot = next((slot for slot, task in list(self._tasks_of.items()) if task is future), None)
        worker = None if slot is None else self._workers.get(slot)
        if worker is None or future.done():
            return False
        self._why_ended[future] = reason
        self._kill(worker)
        return True

    def shutdown(self, *, wait: bool = True) -> None:
        """End all workers: after what they are doing, or (`wait` false) at once."""
        self._ending = True
        for _ in self._threads:
            self._tasks.put(None)
        if not wait:
            for worker in list(self._workers.values()):
                self._kill(worker)
        for thread in self._threads:
            thread.join()

    def _serve(self, slot: int) -> None:
        """Hand the worker of this slot one task after the other."""
        try:
            while self._ready(slot) and (task := self._tasks.get()) is not None:
                if self._ending:
                    task.future.cancel()
                    continue
                self._tasks_of[slot] = task.future
                try:
                    result = self._converse(slot, task)
                except (WorkerDiedError, WorkerLostError) as error:
                    self._drop(slot)
                    reason = self._why_ended.pop(task.future, None)
                    task.future.set_exception(error if reason is None else TrainingError(reason))
                except Exception as error:  # of the evaluation: carried to whoever asks for the result
                    task.future.set_exception(error)
                else:
                    task.future.set_result(result)
        finally:
            if slot in self._workers:
                self._close(slot)

    def _converse(self, slot: int, task: Task) -> Result:
        """Send a task, answer its reports, return its result or raise its error."""
        message = self._begin(slot, task.evaluate, replace(task.request, device=self.devices[slot]))
        while message.kind in ("report", "alive"):
            _keep(Path(task.request.folder), message)
            try:
                answer = task.report(*(message.content if message.kind == "report" else (0, message.content)))
            except Exception as error:  # the worker waits for an answer that will not come
                raise WorkerDiedError(f"the report of an epoch failed: {type(error).__name__}: {error}") from error
            message = self._answer(slot, answer) if message.kind == "report" else self._next(slot)
        if message.kind == "error":
            raise message.content
        _keep(Path(task.request.folder), message)
        result: Result = message.content
        return result

    def _drop(self, slot: int) -> None:
        """Have no worker at this slot any more."""
        if (worker := self._workers.pop(slot, None)) is not None:
            self._kill(worker)

    def _ready(self, slot: int) -> bool:
        """Wait until the slot can take a task; False at the end."""
        return True

    @abstractmethod
    def _begin(self, slot: int, evaluate: Evaluate, request: Request) -> Message:
        """Send an evaluation to the worker of a slot; what it says first."""

    @abstractmethod
    def _answer(self, slot: int, verdict: Verdict) -> Message:
        """Answer a report; what the worker says next."""

    @abstractmethod
    def _next(self, slot: int) -> Message:
        """What the worker of a slot says next, after a sign of life."""

    @abstractmethod
    def _kill(self, worker: Any) -> None:
        """End a worker at once."""

    @abstractmethod
    def _close(self, slot: int) -> None:
        """End the worker of a slot that has nothing to do."""


def _keep(folder: Path, message: Message) -> None:
    """Write the files that came with a message into the run folder."""
    for name, content in message.files.items():
        if content is None:
            (folder / name).unlink(missing_ok=True)
        else:
            write_atomically(folder / name, content)


@contextlib.contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Start processes with these variables; those of this process are put back."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
