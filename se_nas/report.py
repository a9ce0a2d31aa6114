"""Tables of a study, and what they say in a few lines. Nothing here is a truth of its own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from se_nas.belief import BELIEFS, believe
from se_nas.cost import COST_UNITS
from se_nas.errors import CostError
from se_nas.pareto import non_dominated
from se_nas.records import Trial
from se_nas.space import Space
from se_nas.study import BLAMELESS, Objective
from se_nas.verdict import amount

REFERENCES = {"baseline": "no SE", "reference": "SE everywhere at r=16", "given": "the network as given"}
"""Role -> what the reference point is called."""


def reference_name(role: str, label: str) -> str:
    """What a trial with a role is called; its placement where r=16 leaves no hidden channel.

    >>> reference_name("reference", "all:16")
    'SE everywhere at r=16'
    >>> reference_name("reference", "stage1=8,stage2=16")
    'SE everywhere (stage1=8, stage2=16)'
    """
    if role == "reference" and set(re.findall(r"[=:](\d+)", label)) - {"16"}:
        return f"SE everywhere ({', '.join(re.split(', *', label))})"
    return REFERENCES.get(role, role)


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
                **{name: _cost(t, name) for name in COST_UNITS},
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
    columns = [*COLUMNS, "metric_name", *COST_UNITS, *_LATER]
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=columns)


def curves_table(trials: Sequence[Trial]) -> pd.DataFrame:
    """One row for each epoch of each training: which training, the epoch, and what was logged after it.

    `seconds` and `epochs` are those of the whole training. `se_nas.table` plays such a table back.
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
        if name not in COST_UNITS:
            columns[name] = cost.value
            if cost.interval is not None:
                columns |= {
                    f"{name}_kind": cost.kind,
                    f"{name}_low": cost.interval[0],
                    f"{name}_high": cost.interval[1],
                }
    return columns


def _cost(trial: Trial, name: str) -> float | int:
    if name not in trial.costs:
        return np.nan
    value = trial.costs[name].value
    return int(value) if float(value).is_integer() and name != "gflops" else value


def complete_table(trials: Sequence[Trial], objective: Objective, space: Space | None = None) -> pd.DataFrame:
    """One row for each complete trial: the columns of `trials_table`, and those of `believe` where it can tell.

    Without the space of the study there is no posterior.
    """
    complete = [t for t in trials if t.state == "complete"]
    table = trials_table(complete, objective)
    beliefs = None if space is None else believe(trials, objective, space)
    told: dict[Any, dict[Any, Any]] = {} if beliefs is None else beliefs.to_dict()
    for name, nothing in BELIEFS.items():
        table[name] = [told.get(name, {}).get(n, nothing) for n in table["trial"]]
    return table


def front_table(
    trials: Sequence[Trial], objective: Objective, space: Space | None = None, *, done: pd.DataFrame | None = None
) -> pd.DataFrame:
    """The complete trials of two fronts, by rising cost, with their differences to no SE.

    `observed_front`: no other single run dominates it. `posterior_front`: by all trainings together, see `believe`.
    `done` is their `complete_table`, where it is there already.
    """
    table = complete_table(trials, objective, space) if done is None else done
    if table.empty:
        return table
    sign = -1.0 if objective.direction == "maximize" else 1.0
    axes = [objective.cost, *objective.more]
    if unknown := [name for name in axes if name not in table]:
        raise CostError(f"no trial has the cost {unknown[0]!r}", hint="name the measure that gives it: --measure")
    values = np.column_stack([sign * table["metric"], *(table[name] for name in axes)]).astype(float)
    table = table.assign(observed_front=non_dominated(values)).sort_values([objective.cost, "trial"])
    table["observed_front"] &= ~table.duplicated(subset=["metric", *axes])
    front = table[table["observed_front"] | table["posterior_front"]].copy()
    base = table[table["role"] == "baseline"]
    if len(base):
        front["metric_gain"] = front["metric"] - base["metric"].iloc[0]
        for name in COST_UNITS:
            front[f"{name}_added"] = front[name] - base[name].iloc[0]
    return front.reset_index(drop=True)


def best_row(front: pd.DataFrame, objective: Objective) -> pd.Series | None:
    """The row of the best posterior mean, without a posterior of the best single run; of equal ones the cheapest."""
    if front.empty:
        return None
    column = "mean" if front["mean"].notna().any() else "metric"
    return front.sort_values([column, objective.cost], ascending=[objective.direction == "minimize", True]).iloc[0]


def metric_unit(trials: Sequence[Trial], objective: Objective) -> str:
    """The unit of the metric, as its task gave it: ``share`` for numbers between 0 and 1."""
    units = [t.metrics[objective.metric].unit for t in trials if objective.metric in t.metrics]
    return units[0] if units else ""


def summary(
    trials: Sequence[Trial],
    objective: Objective,
    *,
    folder: Path,
    budget: int,
    ended: str,
    space: Space | None = None,
    done: pd.DataFrame | None = None,
) -> dict[str, Any]:
    """What a search found, as plain data: counts, front, best network, reference points, and what was gained."""
    done = complete_table(trials, objective, space) if done is None else done
    front = front_table(trials, objective, space, done=done)
    best = best_row(front, objective)
    content: dict[str, Any] = {
        "out": str(folder),
        "ended": ended,
        "budget": budget,
        "trained": sum(t.counts for t in trials),
        "failed": sum(t.state == "failed" and t.reason not in BLAMELESS for t in trials),
        "objective": {
            "metric": objective.metric,
            "direction": objective.direction,
            "unit": metric_unit(trials, objective),
            "costs": [objective.cost, *objective.more],
        },
        "best": None if best is None else plain_row(best),
        "complete": len(done),
        "front": [plain_row(row) for _, row in front.iterrows()],
    }
    for role in REFERENCES:
        rows = done[done["role"] == role]
        content[role] = plain_row(rows.iloc[0]) if len(rows) else None
    content["gained"] = _gained(content)
    return content


def _gained(content: dict[str, Any]) -> list[str]:
    """What the best network has over no SE and over SE everywhere, and what it costs, in sentences."""
    best = content["best"]
    if best is None:
        return ["No training is complete yet."]
    believed, unit = best["mean"] is not None, content["objective"]["unit"]
    value = "mean" if believed else "metric"
    lines = _best_believed(content) if believed else [f"Best observed: {_named(best)} {best['metric']:.4f}."]
    for role in REFERENCES:
        if (other := content[role]) is None:
            continue
        name = reference_name(role, other["placement"])
        lines.append(
            f"Against {name} ({other[value]:.4f}): {amount(best[value] - other[value], unit)}, "
            f"params {_percent(best['params'], other['params'])}, MACs {_percent(best['macs'], other['macs'])}."
        )
    lines.append(
        "Validation metric: its best of many is too high; confirm with fresh seeds what is to be claimed."
        if believed
        else "Each number is one training: a difference may be noise until it is confirmed with fresh seeds."
    )
    return lines


def _named(row: dict[str, Any]) -> str:
    return f"{row['placement']} (trial {row['trial']}), {row['metric_name']}"


def _best_believed(content: dict[str, Any]) -> list[str]:
    """The best network by all trainings together, and whether a cheaper one is as good as far as one can tell."""
    best = content["best"]
    lines = [
        f"Best by all {content['complete']} trainings together: {_named(best)} {best['mean']:.4f}, "
        f"90 % interval {best['lower']:.4f} to {best['upper']:.4f}, observed {best['metric']:.4f}."
    ]
    if best["tied_with"] is not None:
        rival = next(row for row in content["front"] if row["trial"] == best["tied_with"])
        lines.append(
            f"It cannot be told apart from the cheaper {rival['placement']} (trial {rival['trial']}): "
            f"{100 * best['p_better']:.0f} % chance to be better. Recommended: {rival['placement']}."
        )
    return lines


def _percent(value: float, base: float) -> str:
    return f"{100 * (value / base - 1):+.3f} %"


def plain_row(row: pd.Series) -> dict[str, Any]:
    """A table row as JSON can hold it."""
    plain = {}
    for name, value in row.items():
        value = value.item() if isinstance(value, np.generic) else value
        plain[str(name)] = None if pd.isna(value) else value
    return plain
