"""Evaluations in processes of this machine: one single-threaded worker for each slot, supervised.

Workers start from a fork server that has the heavy libraries loaded, so a new one is there at once. Each serves
one slot: it takes a request from its pipe, sends a report after every epoch and waits for the answer, and sends
the result. A worker that dies fails its own evaluation only, and its slot gets a new one.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing import connection
from typing import Any

from se_nas.core.trial import Request, Verdict
from se_nas.executors.memory import settle, tidy
from se_nas.executors.output import Output, redirect, with_output
from se_nas.executors.slots import (
    EndedByItselfError,
    Evaluate,
    Message,
    SlotExecutor,
    WorkerDiedError,
    carried,
    environment,
)

PRELOAD = ["se_nas.training.evaluate", "se_nas.training.classification"]

THREADS = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
"""The environment in which workers start: one thread each, or two workers on two cores are three times slower."""


class PipeChannel:
    """The worker's end of a slot."""

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe

    def report(self, epoch: int, metrics: Mapping[str, float]) -> Verdict:
        self._pipe.send(Message(kind="report", content=(epoch, dict(metrics))))
        answer: Verdict = self._pipe.recv()
        return answer

    def alive(self, seen: Mapping[str, float]) -> None:
        self._pipe.send(Message(kind="alive", content=dict(seen)))


@dataclass(frozen=True)
class _Worker:
    """A worker process and our end of its pipe."""

    process: Any
    pipe: Any
    output: Output | None

    def exchange(self, message: Any) -> Any:
        """Send it a message and wait for its next one; WorkerDiedError if it ends."""
        with contextlib.suppress(OSError):  # it has ended, which is said where its answer is waited for
            self.pipe.send(message)
        return self.next()

    def next(self) -> Any:
        """Wait for its next message; WorkerDiedError if it ends."""
        try:
            if self.pipe in connection.wait([self.pipe, self.process.sentinel]):
                return self._with_output(self.pipe.recv())
        except (EOFError, OSError):
            pass
        self.process.kill()  # it may be alive with a broken pipe
        self.process.join()
        code = self.process.exitcode
        raise WorkerDiedError(self._said(f"worker {self.process.pid} ended with exit code {_code_text(code)}"))

    def _with_output(self, message: Any) -> Any:
        """A message; one of an evaluation that ended its process, or tried to, with what was printed before."""
        if isinstance(message, Message) and isinstance(error := message.content, EndedByItselfError):
            return replace(message, content=EndedByItselfError(self._said(error.what)))
        return message

    def _said(self, what: str) -> str:
        return with_output(what, "" if self.output is None else self.output.tail())

    def answers(self) -> bool:
        """Whether it is there for a task: one that is just ending may still look alive."""
        try:
            return self.exchange(None) is None
        except WorkerDiedError:
            return False


class LocalExecutor(SlotExecutor):
    """One worker process for each device given; several workers may have the same device.

    Parameters
    ----------
    devices:
        One for each slot, such as ``("cpu", "cpu")`` or ``("cuda:0", "cuda:1")``.
    """

    def __init__(self, devices: Sequence[str]) -> None:
        self._context = warm_up()
        super().__init__(devices)

    def _serve(self, slot: int) -> None:
        with contextlib.suppress(OSError):  # the first task tries again, and says why not
            self._start(slot)
        super()._serve(slot)

    def _start(self, slot: int) -> None:
        ours, theirs = self._context.Pipe()
        # Elsewhere than on POSIX systems a connection is not a file that a process could print to.
        reader, writer = self._context.Pipe(duplex=False) if os.name == "posix" else (None, None)
        process = self._context.Process(target=_work, args=(theirs, writer), daemon=True, name=f"se-nas worker {slot}")
        with _start_lock, _hidden_main(), environment(THREADS):
            process.start()
        theirs.close()
        if writer is not None:
            writer.close()
        self._workers[slot] = _Worker(process, ours, None if reader is None else Output(reader))

    def _begin(self, slot: int, evaluate: Evaluate, request: Request) -> Message:
        if slot not in self._workers or not self._workers[slot].answers():  # it fell at its last task, or after it
            self._drop(slot)
            self._start(slot)
        if (output := self._workers[slot].output) is not None:
            output.forget()
        message: Message = self._workers[slot].exchange((evaluate, request))
        return message

    def _answer(self, slot: int, verdict: Verdict) -> Message:
        message: Message = self._workers[slot].exchange(verdict)
        return message

    def _next(self, slot: int) -> Message:
        message: Message = self._workers[slot].next()
        return message

    def _kill(self, worker: _Worker) -> None:
        worker.process.kill()

    def _close(self, slot: int) -> None:
        worker = self._workers[slot]
        worker.pipe.close()  # the worker ends when its pipe does
        worker.process.join()


def warm_up() -> Any:
    """Have the fork server load the libraries now, in its own process; returns the context that it serves.

    Where there are no fork servers (Windows), workers load the libraries themselves.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    from multiprocessing import forkserver  # which Windows does not have

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    with environment(THREADS):
        forkserver.ensure_running()
    return context


def _code_text(code: int | None) -> str:
    """An exit code, with the signal that it stands for."""
    name = signal.Signals(-code).name if code is not None and -code in set(signal.Signals) else ""
    hint = ", perhaps for lack of memory" if name == "SIGKILL" else ""
    return f"{code} ({name}{hint})" if name else str(code)


def _work(pipe: Any, output: Any) -> None:
    """Main function of a worker."""
    if output is not None:
        redirect(output)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the driver, and the driver decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    # A daemon, so that it ends with the driver; but the loaders of a user's training may have workers of their own.
    multiprocessing.process.current_process()._config["daemon"] = False  # type: ignore[attr-defined]
    # Those start as they do in a script of the user's: the way in which this process came to be is not asked for.
    multiprocessing.set_start_method(None, force=True)
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
            pipe.send(Message(kind="result", content=evaluate(request, channel)))
        except (BrokenPipeError, EOFError):
            return
        except BaseException as error:  # the driver decides what it means; this process goes on
            pipe.send(Message(kind="error", content=carried(error)))
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
