"""Which trial of a run is meant: by name, by number, or by what it may cost."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from se_nas.analysis.confirmation import Confirmation
from se_nas.analysis.findings import Findings
from se_nas.analysis.summary import summarize
from se_nas.analysis.tables import best_row
from se_nas.core.costs import EXACT
from se_nas.core.errors import RunError, did_you_mean
from se_nas.core.latency_names import canonical, is_latency, milliseconds
from se_nas.core.trial import Objective, Trial
from se_nas.core.ways import check_way
from se_nas.core.words import REFERENCES

_GO_ON = "let the search go on: give its command again"


def select(found: Findings, how: str, confirmation: Confirmation | None = None) -> Trial:
    """The trial that is meant by one of `se_nas.core.ways.WAYS`.

    ``recommended`` (or ``best``, as the folder with it is called) is what the verdict of the confirm names where there
    was one, else what the search leads to (`Summary.leading`); ``observed-best`` is the luckiest single run,
    ``max-COST=X`` the best one among the networks that cost at most X (measured
    costs: the upper end of their interval), ``knee`` bends the front most (`knee_row`). With too few trainings for a
    posterior, the observed metric stands for its mean.

    Raises
    ------
    RunError
        If there is no such trial, or it is not complete.
    """
    check_way(how)
    name, _, value = how.partition("=")
    if how in REFERENCES:
        named = [t for t in found.trials if t.role == how and t.state == "complete"]
        if not named:
            raise RunError(f"the run has no finished training of {REFERENCES[how]} ({how})", hint=_GO_ON)
        return named[0]
    if name == "trial":
        return _numbered(found.trials, value)
    if how in ("recommended", "best"):
        summary = summarize(found, confirmation=confirmation)
        chosen = summary.leading
        if chosen is None and summary.over:
            raise RunError(
                "no trained network is within the limits on cost of the search",
                hint="choose baseline, reference or trial=N, or search again with higher limits",
            )
        row = None if chosen is None else found.complete[found.complete["trial"] == chosen.trial].iloc[0]
    elif how == "observed-best":
        row = observed_best(found)
    elif how == "knee":
        row = knee_row(found.front, found.objective)
    else:
        cost, at, runtime = name[4:].partition("@")
        row = _within(found, canonical(cost.replace("-", "_") + at + runtime), value)
    if row is None:
        raise RunError("the run has no finished training yet", hint=_GO_ON)
    return next(t for t in found.trials if t.number == int(row["trial"]))


def observed_best(found: Findings) -> pd.Series | None:
    """The row of the best single run, of equal ones the cheapest: lucky, more often than good."""
    if found.complete.empty:
        return None
    rising = [found.objective.direction == "minimize", True]
    return found.complete.sort_values(["metric", found.objective.cost], ascending=rising).iloc[0]


def _numbered(trials: Sequence[Trial], value: str) -> Trial:
    found = next((t for t in trials if str(t.number) == value), None)
    if found is None:
        last = max((t.number for t in trials), default=-1)
        raise RunError(f"the run has no trial {value!r}", allowed=[f"0 to {last}"] if last >= 0 else [])
    if found.state != "complete":
        because = f": {found.reason}" if found.reason else ""
        raise RunError(
            f"trial {value} is not finished: its state is {found.state}{because}",
            hint="choose a complete trial, or train its placement to the end with se-nas train",
        )
    return found


def _within(found: Findings, cost: str, value: str) -> pd.Series:
    """The best of the networks that cost at most a limit."""
    try:
        limit = float(milliseconds(value) if is_latency(cost) else value)  # type: ignore[arg-type]  # or the error
    except ValueError as error:
        allowed = ["a number", "5ms", "0.005s"] if is_latency(cost) else ["a number"]
        raise RunError(f"the limit of {cost} is {value!r}", allowed=allowed) from error
    table, costs = found.complete, limited_costs(found)
    if cost not in costs:
        raise RunError(f"no trial of the run has the cost {cost!r}", allowed=costs, hint=did_you_mean(cost, costs))
    upper = _upper(table, cost)
    row = best_row(table[upper <= limit], found.objective)
    if row is None:
        raise RunError(f"no trained network has {cost} of at most {limit:g}", hint=f"the smallest has {upper.min():g}")
    return row


def limited_costs(found: Findings) -> list[str]:
    """The costs that ``max-COST=X`` takes, in the order of the table."""
    table = found.complete
    measured = {str(name)[:-5] for name in table.columns if str(name).endswith("_kind")}
    return [
        str(name)
        for name in table.columns
        if name in {*EXACT, *found.axes, *measured} and pd.api.types.is_numeric_dtype(table[name])
    ]


def _upper(table: pd.DataFrame, cost: str) -> pd.Series:
    """What a network costs at most: the upper end of its interval where the cost is measured."""
    return table[f"{cost}_high"].fillna(table[cost]) if f"{cost}_high" in table else table[cost]


def budget_steps(found: Findings, cost: str) -> tuple[list[tuple[float, int]], float]:
    """What ``max-COST=X`` selects for every X: from which limit on which trial, by rising limit; the highest cost.

    Below the first limit no trained network is cheap enough.
    """
    table, objective = found.complete, found.objective
    sign = -1.0 if objective.direction == "maximize" else 1.0
    known = table["mean"].notna()
    # As `best_row`: the model estimate where there is one in reach, else single runs; of equal ones the cheapest.
    values = sign * table["mean"].where(known, table["metric"])
    ranks = list(zip(~known, values, table[objective.cost], range(len(table)), strict=True))
    upper = _upper(table, cost).to_numpy(float)
    steps: dict[float, int] = {}
    best = None
    for row in np.argsort(upper, kind="stable")[: int(np.isfinite(upper).sum())]:
        if best is None or ranks[row] < best:
            best, steps[float(upper[row])] = ranks[row], int(table["trial"].iloc[row])
    return list(steps.items()), float(np.nanmax(upper)) if steps else 0.0


def knee_row(front: pd.DataFrame, objective: Objective) -> pd.Series | None:
    """The knee of the posterior front: where a little more cost stops to bring much.

    Cost and posterior mean are scaled to 0..1 over the front. The knee is the network with the largest distance to the
    straight line through the cheapest and the best network, on the side of better networks.

    Source: Das, "On characterizing the 'knee' of the Pareto curve based on Normal-Boundary Intersection", Structural
    Optimization 18, 1999.

    Raises
    ------
    RunError
        If the front has no knee: fewer than three networks, or none above the line.
    """
    if front.empty:
        return None
    believed = bool(front["posterior_front"].any())
    members = front[front["posterior_front" if believed else "observed_front"].astype(bool)]
    quality = members["mean" if believed else "metric"].to_numpy(float)
    quality = -quality if objective.direction == "minimize" else quality
    cost = members[objective.cost].to_numpy(float)
    hint = "choose recommended, baseline or max-COST=X"
    if len(members) < 3:
        raise RunError(f"the front has {len(members)} networks, and a knee needs three", hint=hint)
    # With both axes scaled the line runs from (0, 0) to (1, 1), and the distance to it grows with y - x.
    above = _scaled(quality) - _scaled(cost)
    if above.max() <= 1e-9:
        raise RunError("the front has no knee: no network lies above the line from the cheapest to the best", hint=hint)
    return members.iloc[int(above.argmax())]


def _scaled(values: np.ndarray) -> np.ndarray:
    reach = float(np.ptp(values))
    return (values - values.min()) / reach if reach else np.zeros_like(values)
