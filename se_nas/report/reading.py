"""What a page of a run is made of: the findings, what was made of them in words, and the facts of the run."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from se_nas.analysis.confirmation import Confirmation, Confirmed
from se_nas.analysis.explanation import Explanation
from se_nas.analysis.findings import Findings
from se_nas.analysis.folded_points import FoldedPoint
from se_nas.analysis.summary import Network, Summary
from se_nas.core.config import SearchConfig
from se_nas.data.base import DataInfo
from se_nas.report.figures import cost_columns
from se_nas.report.metric import Metric


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What a run was made with. ``times``: when the first trial started and the last one ended, as text."""

    folder: Path
    config: SearchConfig
    data: DataInfo
    times: tuple[str, str]
    confirmation: Confirmation | None = None
    folded: tuple[FoldedPoint, ...] = ()
    explanation: Explanation | None = None
    kept: frozenset[int] = frozenset()
    """Trials whose weights are in the run folder."""
    storage: str | None = None
    """The storage that commands have to name, without its password; None where the study is in the folder."""
    best: Mapping[str, int] | None = None
    """Files of ``best/`` with their bytes; None where there is no such folder."""
    best_key: str = ""
    """Key of the network in it."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The findings of a study as they are shown, with what a confirm found of them."""

    found: Findings
    summary: Summary
    confirmation: Confirmation | None = None
    folded: tuple[FoldedPoint, ...] = ()

    @functools.cached_property
    def metric(self) -> Metric:
        """How its metric is shown."""
        return Metric(self.found)

    @functools.cached_property
    def costs(self) -> list[str]:
        """The costs that are shown, those that the search was for first."""
        names = cost_columns(self.found.complete, self.found.axes) or list(self.found.axes)
        axes = self.found.axes
        return sorted(names, key=lambda name: (name not in axes, axes.index(name) if name in axes else 0))

    @property
    def recommended(self) -> Network | None:
        """The network that the page recommends; None while the verdict is that nothing can be said."""
        return None if self.summary.verdict.claim == "unknown" else self.summary.recommended

    @functools.cached_property
    def confirmed(self) -> Mapping[str, Confirmed]:
        """By key, the networks whose confirmed values may stand beside those of the search: of the same schedule."""
        known = self.confirmation
        if known is None or known.epochs != known.search_epochs:
            return {}
        return {network.key: network for network in known.networks}

    @property
    def estimated_from(self) -> str:
        """What the model was fitted on, in words."""
        told = self.found.told
        trials = () if told is None else told.trials
        repeats = sum(len(trial.repeats) for trial in trials)
        more = f" and {repeats} of the confirm (validation set)" if repeats else ""
        return f"{len(trials):,} trainings of the search{more}"


@dataclass(frozen=True, kw_only=True)
class RunReading(Reading):
    """The findings of a run, with its facts."""

    facts: RunFacts

    @classmethod
    def of(cls, found: Findings, summary: Summary, facts: RunFacts) -> RunReading:
        """With what the facts say of a confirm and of folded networks."""
        return cls(found=found, summary=summary, facts=facts, confirmation=facts.confirmation, folded=facts.folded)
