"""A training of which nothing is kept but what it reached."""

from __future__ import annotations

from dataclasses import replace

from se_nas.core.protocols import Channel
from se_nas.core.trial import Request, Result
from se_nas.training.answer import answer
from se_nas.training.evaluate import metrics_of, train_candidate
from se_nas.training.trainers import judged_by


def try_out(request: Request, channel: Channel) -> Result:
    """Train the candidate of a request as the search would, and tell its metrics; no file is written.

    A training that fails is a result with its reason.
    """

    def work(result: Result) -> Result:
        curve = train_candidate(request, channel).curve
        return replace(result, curve=curve, metrics=metrics_of(curve[-1].metrics, judged_by(request)))

    return answer(request, work)
