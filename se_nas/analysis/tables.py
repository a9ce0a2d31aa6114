"""Tables of the trials of a study. Nothing here is a truth of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from se_nas.analysis.estimates import BELIEFS, Fitted, believe
from se_nas.core.costs import COSTS, EXACT
from se_nas.core.errors import CostError
from se_nas.core.trial import Objective, Trial
from se_nas.samplers.pareto import non_dominated

COLUMNS = ["trial", "key", "state", "placement", "role", "metric"]
_LATER = [
    "seed",
    "replicate",
    "epochs",
    "seconds",
    "attempts",
    "counts",
    "reason",
    "device",
    "graph",
    "versions",
    "commit",
]

CURVE_COLUMNS = ["trial", "key", "placement", "seed", "replicate", "epochs", "seconds", "epoch"]


def trials_table(trials: Sequence[Trial], objective: Objective) -> pd.DataFrame:
    """One row for each trial: identity, metric (its name is in `metric_name`), all costs, and how it was obtained."""
    rows = []
    for t in trials:
        main = t.metrics.get(objective.metric)
        rows.append(
            {
                "trial": t.number,
                "key": t.placement.key,
                "state": t.state,
                "placement": t.placement.label,
                "role": t.role,
                "metric": np.nan if main is None else main.value,
                "metric_name": objective.metric,
                **{name: _cost(t, name) for name in EXACT},
                **_measured(t),
                **{name: m.value for name, m in t.metrics.items()},
                "seed": t.identity.seed,
                "replicate": t.identity.replicate,
                "epochs": t.identity.epochs,
                "seconds": round(t.seconds, 3),
                "attempts": t.attempts,
                "counts": t.counts,
                "reason": t.reason,
                "device": t.device,
                "graph": t.graph,
                "versions": " ".join(f"{name}={version}" for name, version in t.versions.items()),
                "commit": t.commit,
            }
        )
    columns = [*COLUMNS, "metric_name", *EXACT, *_LATER]
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=columns)


def curves_table(trials: Sequence[Trial]) -> pd.DataFrame:
    """One row for each epoch of each training: which training, the epoch, and what was logged after it.

    `seconds` and `epochs` are those of the whole training. `replay_table.py` of the CIFAR-100 experiment plays it back.
    """
    rows = [
        {
            "trial": t.number,
            "key": t.placement.key,
            "placement": t.placement.label,
            "seed": t.identity.seed,
            "replicate": t.identity.replicate,
            "epochs": t.identity.epochs,
            "seconds": round(t.seconds, 3),
            "epoch": epoch.epoch,
            **epoch.metrics,
        }
        for t in trials
        if t.counts
        for epoch in t.curve
    ]
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=CURVE_COLUMNS)


def _measured(trial: Trial) -> dict[str, Any]:
    """The costs that are not counted, each with its kind and 90 % interval where it has one."""
    columns: dict[str, Any] = {}
    for name, cost in trial.costs.items():
        if name not in EXACT:
            columns[name] = cost.value
            if cost.interval is not None:
                columns |= {
                    f"{name}_kind": cost.kind,
                    f"{name}_low": cost.interval[0],
                    f"{name}_high": cost.interval[1],
                }
            if isinstance(cost.conditions, str):
                columns[f"{name}_conditions"] = cost.conditions
    return columns


def _cost(trial: Trial, name: str) -> float | int:
    if name not in trial.costs:
        return np.nan
    value = trial.costs[name].value
    return int(value) if float(value).is_integer() and COSTS[name].whole else value


def complete_table(
    trials: Sequence[Trial], objective: Objective, told: Fitted | None, *, margin: float = 0.0
) -> pd.DataFrame:
    """One row for each complete trial: the columns of `trials_table`, and those of `believe` where it can tell."""
    table = trials_table([t for t in trials if t.state == "complete"], objective)
    beliefs = believe(told, objective, margin=margin)
    known: dict[Any, dict[Any, Any]] = {} if beliefs is None else beliefs.to_dict()
    for name, nothing in BELIEFS.items():
        table[name] = [known.get(name, {}).get(n, nothing) for n in table["trial"]]
    return table


def front_table(complete: pd.DataFrame, objective: Objective) -> pd.DataFrame:
    """The rows of a `complete_table` that are on one of two fronts, by rising cost, with their differences to no SE.

    `observed_front`: no other single run dominates it. `posterior_front`: by the model of all trainings, see `believe`.
    """
    if complete.empty:
        return complete
    sign = -1.0 if objective.direction == "maximize" else 1.0
    axes = [objective.cost, *objective.more]
    if unknown := [name for name in axes if name not in complete]:
        raise CostError(f"no trial has the cost {unknown[0]!r}", hint="name the measure that gives it: --measure")
    values = np.column_stack([sign * complete["metric"], *(complete[name] for name in axes)]).astype(float)
    table = complete.assign(observed_front=non_dominated(values)).sort_values([objective.cost, "trial"])
    table["observed_front"] &= ~table.duplicated(subset=["metric", *axes])
    front = table[table["observed_front"] | table["posterior_front"]].copy()
    base = table[table["role"] == "baseline"]
    if len(base):
        front["metric_gain"] = front["metric"] - base["metric"].iloc[0]
        for name in EXACT:
            front[f"{name}_added"] = front[name] - base[name].iloc[0]
    return front.reset_index(drop=True)


def best_row(front: pd.DataFrame, objective: Objective) -> pd.Series | None:
    """The row of the best posterior mean, without a posterior of the best single run; of equal ones the cheapest."""
    if front.empty:
        return None
    column = "mean" if front["mean"].notna().any() else "metric"
    return front.sort_values([column, objective.cost], ascending=[objective.direction == "minimize", True]).iloc[0]


def plain_row(row: pd.Series) -> dict[str, Any]:
    """A table row as JSON can hold it."""
    plain = {}
    for name, value in row.items():
        value = value.item() if isinstance(value, np.generic) else value
        plain[str(name)] = None if pd.isna(value) else value
    return plain
