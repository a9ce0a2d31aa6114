"""What the trials of a study say, each thing worked out once: tables, model estimates, fronts, effects."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from se_nas.analysis.checks import Check
from se_nas.analysis.confirmation import Sentence
from se_nas.analysis.effects import effects_table
from se_nas.analysis.estimates import Fitted, fitted
from se_nas.analysis.margin import margin_of
from se_nas.analysis.rule_estimates import RuleEstimate, rule_estimates
from se_nas.analysis.tables import best_row, complete_table, curves_table, front_table, trials_table
from se_nas.analysis.trained_enough import Trainings, cautions, training_checks
from se_nas.core.config import Limits
from se_nas.core.trial import Objective, Trial
from se_nas.data.base import DataInfo
from se_nas.space.latency_fit import LatencyFit
from se_nas.space.space import Space


@dataclass(frozen=True, kw_only=True)
class Findings:
    """The trials of a study with all that follows from them; nothing is computed before it is asked for, nor twice.

    Without the space of the study there is no posterior, and single runs stand for themselves. `asked` is the margin
    that was asked for, None for the default; see `se_nas.analysis.margin`. Without `data` nothing is said of whether
    the trainings were long enough.
    """

    trials: Sequence[Trial]
    objective: Objective
    space: Space | None = None
    asked: float | None = None
    data: DataInfo | None = None
    limits: Limits = field(default_factory=Limits)
    """Limits on cost that the search was given."""
    fits: Mapping[str, LatencyFit] = field(default_factory=dict)
    """Where latency was measured: how, and how good the predictions of it are."""

    @functools.cached_property
    def told(self) -> Fitted | None:
        """The posterior, or None where the trainings are too few; see `se_nas.analysis.estimates.fitted`."""
        return None if self.space is None else fitted(self.trials, self.objective, self.space)

    @functools.cached_property
    def table(self) -> pd.DataFrame:
        """One row for each trial; see `trials_table`."""
        return trials_table(self.trials, self.objective)

    @property
    def curves(self) -> pd.DataFrame:
        """One row for each epoch of each training; see `curves_table`."""
        return curves_table(self.trials)

    @functools.cached_property
    def complete(self) -> pd.DataFrame:
        """One row for each complete trial, with what the posterior says of it; see `complete_table`."""
        return complete_table(self.trials, self.objective, self.told, margin=self.margin)

    @functools.cached_property
    def front(self) -> pd.DataFrame:
        """The complete trials that are on a front; see `front_table`."""
        return front_table(self.complete, self.objective)

    @property
    def best(self) -> pd.Series | None:
        """The row of the front with the best posterior mean, or without a posterior with the best single run."""
        return best_row(self.front, self.objective)

    @functools.cached_property
    def effects(self) -> pd.DataFrame | None:
        """What each stage and reduction does; None where there is no posterior. See `effects_table`."""
        return None if self.space is None else effects_table(self.told, self.space, margin=self.margin)

    @functools.cached_property
    def rules(self) -> tuple[RuleEstimate, ...]:
        """What the rules that need no search cost and gain; see `rule_estimates`."""
        return () if self.space is None else rule_estimates(self.space, self.trials, self.told, margin=self.margin)

    @functools.cached_property
    def training_checks(self) -> tuple[Check, ...]:
        """Whether the trainings were long and good enough to compare networks; see `se_nas.analysis.trained_enough`."""
        if self.data is None:
            return ()
        done = tuple(t for t in self.trials if t.state == "complete")
        trainings = Trainings(trials=done, objective=self.objective, data=self.data, margin=self.margin, unit=self.unit)
        return training_checks(trainings)

    @property
    def cautions(self) -> tuple[Sentence, ...]:
        """What is to be read before any recommendation."""
        return cautions(self.training_checks)

    @property
    def estimated(self) -> bool:
        """Whether the posterior says something of the trained networks."""
        return bool(self.complete["mean"].notna().any())

    @property
    def unit(self) -> str:
        """The unit of the metric, as its task gave it: ``share`` for numbers between 0 and 1."""
        return next((t.metrics[m].unit for t in self.trials if (m := self.objective.metric) in t.metrics), "")

    @property
    def margin(self) -> float:
        """The smallest gain that is worth its cost, in units of the metric."""
        bases = (t for t in self.trials if t.role == "baseline" and t.state == "complete")
        values = (t.metrics[self.objective.metric].value for t in bases)
        return margin_of(self.asked, unit=self.unit, baseline=next(values, None))

    @property
    def sign(self) -> float:
        """1 where a larger metric is better, else -1."""
        return -1.0 if self.objective.direction == "minimize" else 1.0

    @property
    def axes(self) -> tuple[str, ...]:
        """The costs of the front."""
        return (self.objective.cost, *self.objective.more)
