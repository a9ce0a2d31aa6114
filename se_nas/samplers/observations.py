"""What trainings have shown, as arrays: `observed` of plain rows, `observe` of anybody's Optuna study.

=========  =====================================================================================================
COMPLETE   an observation; its placement is known; repeated trainings of its network (study attribute ``repeats``,
           values by user attribute ``key``) are further observations
PRUNED     its placement is never proposed again; with a curve (user attribute ``curve``, one value per epoch, or
           intermediate values) it is a stopped trial and informs the posterior as far as the curve tells its end
FAIL       no observation; the placement may be tried again, ``MAX_FAILURES`` times in all
RUNNING    pending, also when its parameters are proposed but not yet suggested
WAITING    pending: somebody has enqueued it
=========  =====================================================================================================

Trials that lack a parameter or have a value outside the space are skipped.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from se_nas.core.errors import RunError
from se_nas.samplers.features import Array
from se_nas.samplers.learning_curves import extrapolate
from se_nas.space.levels import Codes, LevelSpace

#: System attribute under which the sampler notes what it proposed, before anything is suggested.
PROPOSAL = "se_nas:proposal"
#: User attribute of a study: the metric in further trainings of finished networks, by their key (attribute ``key``).
REPEATS = "repeats"
#: With so many different costs a metric that is proportional to them is not a metric.
ENOUGH = 3
#: A placement whose training failed this often is given up.
MAX_FAILURES = 3

State = Literal["complete", "repeated", "stopped", "failed", "pending"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One training, or one that is to come.

    ``codes`` are the ``d`` levels of its placement; ``value`` (larger is better) is there for complete and repeated
    ones; ``curve`` has one value per epoch and may be empty. A ``repeated`` training is one that the study has no trial
    of, such as a confirm's.
    """

    codes: tuple[int, ...]
    state: State
    value: float = math.nan
    curve: Array = field(default_factory=lambda: np.empty(0))


@dataclass(frozen=True, kw_only=True)
class Observations:
    """Arrays for :func:`se_nas.samplers.posterior.fit`, and the placements that must not be proposed.

    ``codes`` (``n x d``), ``value`` (``n``, larger is better) and ``extra_variance`` (``n``) are the trainings that
    count: the complete ones, then the repeated ones, then the stopped ones; ``pending`` (``m x d``) are running or
    waiting; ``complete`` are the placements with a finished trial and ``closed`` those that were stopped, rejected or
    failed too often.
    """

    codes: Codes
    value: Array
    extra_variance: Array
    pending: Codes
    complete: frozenset[tuple[int, ...]]
    closed: frozenset[tuple[int, ...]]


def observed(rows: Sequence[Row], d: int) -> Observations:
    """What trainings of placements with ``d`` parameters say, in the order of the rows.

    A stopped one counts with the end that its curve lets expect, where the curves of complete ones can tell
    (:func:`se_nas.samplers.learning_curves.extrapolate`).
    """
    complete, repeated, stopped = ([r for r in rows if r.state == s] for s in ("complete", "repeated", "stopped"))
    drawn = [row for row in complete if len(row.curve)]
    curves, finals = [row.curve for row in drawn], np.array([row.value for row in drawn])
    counted = [(row.codes, row.value, 0.0) for row in (*complete, *repeated)]
    ends = [(row, extrapolate(curves, finals, row.curve)) for row in stopped if len(row.curve)]
    counted += [(row.codes, end.mean, end.variance) for row, end in ends if end is not None]
    failures = Counter(row.codes for row in rows if row.state == "failed")
    return Observations(
        codes=_array([codes for codes, _, _ in counted], d),
        value=np.array([value for _, value, _ in counted], dtype=np.float64),
        extra_variance=np.array([variance for _, _, variance in counted], dtype=np.float64),
        pending=_array([row.codes for row in rows if row.state == "pending"], d),
        complete=frozenset(row.codes for row in complete),
        closed=frozenset(row.codes for row in stopped)
        | frozenset(codes for codes, count in failures.items() if count >= MAX_FAILURES),
    )


def observe(
    study: Study, space: LevelSpace, *, metric_index: int | None = None, skip: int | None = None
) -> Observations:
    """Read the trials of a study.

    Parameters
    ----------
    metric_index:
        Which of the study's objectives is the uncertain one; default see `metric_of`. It is negated when the study
        minimises it.
    skip:
        Number of a trial to leave out: the one that is being proposed.

    Raises
    ------
    RunError
        When the study has no such objective, other objectives are no costs, or finished trials were trained for
        different numbers of epochs (user attribute ``epochs``): their values are not comparable.
    """
    return Reader(space, metric_index=metric_index)(study, skip=skip)


class Reader:
    """Reads a study again and again; what has ended is read once, since it does not change any more.

    Parameters
    ----------
    space, metric_index:
        As for `observe`.
    """

    def __init__(self, space: LevelSpace, *, metric_index: int | None = None) -> None:
        self._space, self._metric_index = space, metric_index
        self._judged: tuple[int, float] | None = None
        self._ended: dict[int, tuple[FrozenTrial, Row | None]] = {}
        """By number: the trial, and its row; None for one that lies outside of the space."""

    def __call__(self, study: Study, *, skip: int | None = None) -> Observations:
        """What the trials of a study say by now; see `observe`."""
        index = metric_of(study, self._metric_index)
        sign = 1.0 if study.directions[index] == StudyDirection.MAXIMIZE else -1.0
        if self._judged != (index, sign):
            self._judged, self._ended = (index, sign), {}
        found = [self._read(trial, index, sign) for trial in study.get_trials(deepcopy=False) if trial.number != skip]
        trials = [(trial, row) for trial, row in found if row is not None]
        _check_epochs([trial for trial, _ in trials])
        rows = [row for _, row in trials]
        if repeats := study.user_attrs.get(REPEATS, {}):
            codes_of = {t.user_attrs.get("key"): row.codes for t, row in trials if t.state == TrialState.COMPLETE}
            rows += [
                Row(codes=codes_of[key], state="repeated", value=sign * value)
                for key, values in repeats.items()
                if key in codes_of
                for value in values
            ]
        return observed(rows, len(self._space.names))

    def _read(self, trial: FrozenTrial, index: int, sign: float) -> tuple[FrozenTrial, Row | None]:
        known = self._ended.get(trial.number)
        if known is not None and (known[0] is trial or known[0] == trial):  # else it is of another study
            return known
        codes = self._space.encode(_params(trial))
        read = trial, None if codes is None else _row(trial, codes, index, sign)
        if trial.state.is_finished():
            self._ended[trial.number] = read
        return read


def metric_of(study: Study, wanted: int | None) -> int:
    """Which objective of a study is the uncertain one: what is wanted, else the one that is maximised, else the first.

    RunError if there is no such objective, or another one is maximised: all others are costs, which are minimised.
    """
    directions = study.directions
    if wanted is not None and not 0 <= wanted < len(directions):
        raise RunError(f"metric_index is {wanted}, but the study has {len(directions)} objectives.")
    maximised = [i for i, direction in enumerate(directions) if direction == StudyDirection.MAXIMIZE]
    index = (maximised or [0])[0] if wanted is None else wanted
    if others := [i for i in maximised if i != index]:
        raise RunError(
            f"objective {others[0]} of the study is maximised, as is objective {index}: one is uncertain, and the "
            "others are costs."
            if index in maximised
            else f"metric_index is {index}, but objective {others[0]} of the study is maximised: it is not a cost.",
            hint="make each other objective a known cost that is minimised, or leave it out of the study.",
        )
    return index


def check_no_cost(seen: Observations, costs: Array, index: int) -> None:
    """RunError if what a study has as its metric is one of its costs: ``costs`` are those of the rows, ``n x c``."""
    full = seen.extra_variance == 0
    for cost in costs[full].T:
        if len(set(cost.tolist())) < ENOUGH or not (cost > 0).all():
            continue
        ratio = seen.value[full] / cost
        if ratio[0] != 0 and np.allclose(ratio, ratio[0], rtol=1e-6, atol=0.0):
            raise RunError(
                f"objective {index} of the study is the cost itself, not the metric.",
                hint="say which objective is the metric: metric_index=1 for the second.",
            )


_STATES: dict[TrialState, State] = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "stopped",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "pending",
    TrialState.WAITING: "pending",
}


def _row(trial: FrozenTrial, codes: tuple[int, ...], metric_index: int, sign: float) -> Row:
    state = _STATES[trial.state]
    if state in ("failed", "pending"):
        return Row(codes=codes, state=state)
    curve = trial.user_attrs.get("curve") or [trial.intermediate_values[i] for i in sorted(trial.intermediate_values)]
    value = sign * trial.values[metric_index] if state == "complete" else math.nan
    return Row(codes=codes, state=state, value=value, curve=sign * np.array(curve, dtype=np.float64))


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
