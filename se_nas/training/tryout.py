"""A training of which nothing is kept but what it reached."""

from __future__ import annotations

import time
from dataclasses import replace

from se_nas.core.errors import reason_of
from se_nas.core.protocols import Channel
from se_nas.core.trial import Request, Result
from se_nas.training.devices import threads
from se_nas.training.evaluate import metrics_of, train_candidate
from se_nas.training.trainers import judged_by


def try_out(request: Request, channel: Channel) -> Result:
    """Train the candidate of a request as the search would, and tell its metrics; no file is written.

    A training that fails is a result with its reason.
    """
    start = time.perf_counter()
    result = Result(trial=request.trial, attempt=request.attempt, state="complete")
    try:
        with threads(request.threads):
            trained = train_candidate(request, channel)
        result = replace(result, curve=trained.curve, metrics=metrics_of(trained.curve[-1].metrics, judged_by(request)))
    except OSError:  # the disk, not the candidate
        raise
    except Exception as error:  # a recipe that diverges is a finding, too
        result = replace(result, state="failed", reason=reason_of(error))
    return replace(result, seconds=time.perf_counter() - start)
