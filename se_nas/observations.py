"""What an Optuna study has seen, as arrays.

=========  =====================================================================================================
COMPLETE   an observation; its placement is known
PRUNED     its placement is never proposed again; with a curve (user attribute ``curve``, one value per epoch, or
           intermediate values) it is a stopped trial and informs the posterior as far as the curve tells its end
FAIL       no observation; the placement may be tried again, ``MAX_FAILURES`` times in all
RUNNING    pending, also when its parameters are proposed but not yet suggested
WAITING    pending: somebody has enqueued it
=========  =====================================================================================================

Trials that lack a parameter or have a value outside the space are skipped.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from se_nas.errors import RunError
from se_nas.features import Array
from se_nas.levels import Codes, LevelSpace
from se_nas.stopping import expected_ends

#: System attribute under which the sampler notes what it proposed, before anything is suggested.
PROPOSAL = "se_nas:proposal"
#: User attribute of a study: the metric in further trainings of finished networks, by their key (attribute ``key``).
REPEATS = "repeats"
#: A placement whose training failed this often is given up.
MAX_FAILURES = 3


@dataclass(frozen=True, kw_only=True)
class Observations:
    """Arrays for :func:`se_nas.posterior.fit`, and the placements that must not be proposed.

    ``codes`` (``n x d``), ``value`` (``n``, larger is better) and ``extra_variance`` (``n``) are the trials that
    count; ``pending`` (``m x d``) are running or waiting; ``complete`` are the placements with a finished trial and
    ``closed`` those that were stopped, rejected or failed too often.
    """

    codes: Codes
    value: Array
    extra_variance: Array
    pending: Codes
    complete: frozenset[tuple[int, ...]]
    closed: frozenset[tuple[int, ...]]


def observe(study: Study, space: LevelSpace, *, metric_index: int = 0, skip: int | None = None) -> Observations:
    """Read the trials of a study.

    Parameters
    ----------
    metric_index:
        Which of the study's objectives is the uncertain one. It is negated when the study minimises it.
    skip:
        Number of a trial to leave out: the one that is being proposed.

    Raises
    ------
    RunError
        When the study has no such objective, or when finished trials were trained for different numbers of epochs
        (user attribute ``epochs``): their values are not comparable.
    """
    if not 0 <= metric_index < len(study.directions):
        raise RunError(f"metric_index is {metric_index}, but the study has {len(study.directions)} objectives.")
    sign = 1.0 if study.directions[metric_index] == StudyDirection.MAXIMIZE else -1.0
    trials = [
        (trial, codes)
        for trial in study.get_trials(deepcopy=False)
        if trial.number != skip and (codes := space.encode(_params(trial))) is not None
    ]
    _check_epochs([trial for trial, _ in trials])
    complete = [(trial, codes) for trial, codes in trials if trial.state == TrialState.COMPLETE]
    pruned = [(trial, codes) for trial, codes in trials if trial.state == TrialState.PRUNED]
    failures = Counter(codes for trial, codes in trials if trial.state == TrialState.FAIL)
    pending = [codes for trial, codes in trials if trial.state in (TrialState.RUNNING, TrialState.WAITING)]
    rows = [(codes, sign * trial.values[metric_index], 0.0) for trial, codes in complete]
    rows += _repeated(study, complete, sign)
    rows += _stopped([trial for trial, _ in complete], pruned, metric_index, sign)
    return Observations(
        codes=_array([codes for codes, _, _ in rows], len(space.names)),
        value=np.array([value for _, value, _ in rows], dtype=np.float64),
        extra_variance=np.array([variance for _, _, variance in rows], dtype=np.float64),
        pending=_array(pending, len(space.names)),
        complete=frozenset(codes for _, codes in complete),
        closed=frozenset(codes for _, codes in pruned)
        | frozenset(codes for codes, count in failures.items() if count >= MAX_FAILURES),
    )


def curve_of(trial: FrozenTrial) -> Array:
    """The learning curve of a trial, one value per epoch; empty if it has none."""
    curve = trial.user_attrs.get("curve") or [trial.intermediate_values[i] for i in sorted(trial.intermediate_values)]
    return np.array(curve, dtype=np.float64)


def _params(trial: FrozenTrial) -> dict[str, Any]:
    fixed = trial.system_attrs.get("fixed_params", {})
    return {**trial.system_attrs.get(PROPOSAL, {}), **fixed, **trial.params}


def _array(codes: list[tuple[int, ...]], d: int) -> Codes:
    return np.array(codes, dtype=np.int64).reshape(-1, d)


def _check_epochs(trials: list[FrozenTrial]) -> None:
    finished = [t for t in trials if t.state == TrialState.COMPLETE]
    lengths = sorted({str(t.user_attrs["epochs"]) for t in finished if "epochs" in t.user_attrs})
    if len(lengths) > 1:
        raise RunError(
            f"the finished trials were trained for different numbers of epochs: {', '.join(lengths)}.",
            hint="use one study per length; accuracies of different lengths cannot be compared.",
        )


def _repeated(
    study: Study, complete: list[tuple[FrozenTrial, tuple[int, ...]]], sign: float
) -> list[tuple[tuple[int, ...], float, float]]:
    """Rows of further trainings of finished networks, such as a confirm's."""
    repeats = study.user_attrs.get(REPEATS, {})
    codes = {trial.user_attrs.get("key"): codes for trial, codes in complete}
    return [(codes[key], sign * value, 0.0) for key, values in repeats.items() if key in codes for value in values]


def _stopped(
    complete: list[FrozenTrial], pruned: list[tuple[FrozenTrial, tuple[int, ...]]], metric_index: int, sign: float
) -> list[tuple[tuple[int, ...], float, float]]:
    """Rows (codes, value, extra variance) of stopped trials whose curve tells where they would have ended."""
    finished = [(sign * curve_of(t), sign * t.values[metric_index]) for t in complete if len(curve_of(t))]
    curves, finals = [c for c, _ in finished], np.array([v for _, v in finished])
    ends = expected_ends(curves, finals, [sign * curve_of(trial) for trial, _ in pruned])
    return [(pruned[i][1], mean, variance) for i, (mean, variance) in ends.items()]
