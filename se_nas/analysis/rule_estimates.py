"""What rules that need no search cost and gain, by all trainings of a search: trained or not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from se_nas.analysis.estimates import Fitted, gains_over
from se_nas.core.costs import EXACT
from se_nas.core.placement import Placement
from se_nas.core.trial import Trial
from se_nas.space.exact_cost import NOTHING, Cost, block_cost
from se_nas.space.fixed_rules import FixedRule, fixed_rules
from se_nas.space.space import Space


@dataclass(frozen=True, kw_only=True)
class RuleEstimate:
    """A placement that needs no search: its costs, and what the model of all trainings says of it (None: nothing)."""

    rules: tuple[str, ...]
    """The names of the rules that give it."""
    key: str
    placement: str
    trial: int | None
    """Its training in the search; None where it was not trained."""
    costs: dict[str, float]
    """By name: all costs of its training, else the exact ones."""
    mean: float | None = None
    gain: float | None = None
    """Over the plain backbone, in units of the metric; ends of the 90 % interval as in `believe`."""
    gain_low: float | None = None
    gain_high: float | None = None
    p_better: float | None = None
    p_same: float | None = None
    p_worse: float | None = None


def rule_estimates(
    space: Space, trials: Sequence[Trial], told: Fitted | None, *, margin: float = 0.0
) -> tuple[RuleEstimate, ...]:
    """One row for each different placement of `fixed_rules`; none without a finished training of the backbone alone.

    Parameters
    ----------
    told:
        The posterior, None where the trainings are too few for one: then only costs are known.
    margin:
        As for `believe`.
    """
    done: dict[str, Trial] = {}
    for t in trials:
        if t.state == "complete":
            done.setdefault(t.placement.key, t)
    base, rules = done.get(space.baseline.key), fixed_rules(space)
    if base is None or not rules or any(name not in base.costs for name in EXACT):
        return ()
    gains: list[dict[str, float]] = [{}] * len(rules) if told is None else _gains(space, rules, told, margin)
    return tuple(
        RuleEstimate(
            rules=rule.names,
            key=rule.placement.key,
            placement=rule.placement.label,
            trial=None if (trained := done.get(rule.placement.key)) is None else trained.number,
            costs=_costs_of(trained) if trained is not None else _costs(space, rule.placement, base),
            **gain,
        )
        for rule, gain in zip(rules, gains, strict=True)
    )


def _gains(space: Space, rules: Sequence[FixedRule], told: Fitted, margin: float) -> list[dict[str, float]]:
    found = [space.find(placement) for placement in (space.baseline, *(rule.placement for rule in rules))]
    codes = np.array([[levels[name] for name in told.levels.names] for levels in found if levels is not None])
    columns = {
        "mean": told.sign * told.posterior.predict(codes[1:])[0],
        **gains_over(told, codes[1:], codes[:1], margin=margin),
    }
    return [{name: float(values[i]) for name, values in columns.items()} for i in range(len(rules))]


def _costs(space: Space, placement: Placement, base: Trial) -> dict[str, float]:
    """The exact costs: those of the plain backbone, and what each block adds."""
    added = sum((block_cost(unit, placement.choices[unit.name]) for unit in space.units), start=NOTHING)
    without = Cost(**{name: int(base.costs[name].value) for name in ("params", "macs", "activations")})
    return {name: cost.value for name, cost in (without + added).values().items()}


def _costs_of(trial: Trial) -> dict[str, float]:
    return {name: cost.value for name, cost in trial.costs.items()}
