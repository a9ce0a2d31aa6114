"""Evaluations in this very process, one after the other: for debugging and for live objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from se_nas.core.trial import Request, Result, Verdict
from se_nas.executors.slots import Evaluate, Report, carried


@dataclass(frozen=True)
class InlineChannel:
    """A channel that is a plain call."""

    answer: Report

    def report(self, epoch: int, metrics: Mapping[str, float]) -> Verdict:
        return self.answer(epoch, metrics)

    def alive(self, seen: Mapping[str, float]) -> None:
        self.answer(0, seen)


class InlineExecutor:
    """One slot, in this process; `submit` returns when the evaluation is over."""

    def __init__(self, devices: Sequence[str]) -> None:
        self.devices = tuple(devices[:1])
        self.slots = 1

    def submit(self, evaluate: Evaluate, request: Request, report: Report) -> Future[Result]:
        future: Future[Result] = Future()
        try:
            future.set_result(evaluate(request, InlineChannel(report)))
        except KeyboardInterrupt:  # of the user, in this very process
            raise
        except BaseException as error:  # carried to whoever asks for the result
            future.set_exception(carried(error))
        return future

    def shutdown(self, *, wait: bool = True) -> None:
        """Nothing to end."""
