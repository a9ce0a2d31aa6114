"""What a worker answers to a request that is no training of the search: a result, whatever happens."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from se_nas.core.errors import reason_of
from se_nas.core.files import is_ours
from se_nas.core.trial import Request, Result
from se_nas.training.devices import threads


def answer(request: Request, work: Callable[[Result], Result]) -> Result:
    """The result that `work` makes of an empty one, with its seconds and with the threads of the request.

    A failure is a result with its reason; only errors of the run's own files are raised.
    """
    start = time.perf_counter()
    result = Result(trial=request.trial, attempt=request.attempt, state="complete")
    try:
        with threads(request.threads):
            result = work(result)
    except Exception as error:  # whatever a network, its data or a user's module raise
        if is_ours(error, Path(request.folder)):  # the disk, not the network
            raise
        result = replace(result, state="failed", reason=reason_of(error))
    return replace(result, seconds=time.perf_counter() - start)
