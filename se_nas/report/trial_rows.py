"""The rows that charts and the table of all trials share, and the trials that did not end as they should."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from se_nas.analysis.findings import Findings
from se_nas.core.trial import INTERRUPTED, Trial
from se_nas.core.words import cost_name, percents, reference_name
from se_nas.report.metric import Metric
from se_nas.report.page import Column, Head, Section, Table, escaped

#: Failures in the table, at most: more of one kind say nothing new.
FAILURES = 50


def failures_section(trials: Sequence[Trial]) -> Section:
    """What did not end as it should, by reason."""
    groups: dict[tuple[str, str], list[Trial]] = {}
    for t in trials:
        if t.state in ("failed", "stopped", "rejected"):
            groups.setdefault((t.state, t.reason), []).append(t)
    text = []
    if not groups:
        text.append("No training failed, was stopped early or was rejected.")
    ordered = sorted(groups.items(), key=lambda item: (item[0][0] != "failed", -len(item[1])))
    rows = []
    for (state, reason), members in ordered[:FAILURES]:
        reason = "the search ended before it did" if reason == INTERRUPTED else reason
        numbers = ", ".join(str(t.number) for t in members[:8]) + (" ..." if len(members) > 8 else "")
        rows.append(
            [
                reason or "no reason given",
                state,
                f"{len(members):,}",
                numbers,
                members[0].placement.label.replace(",", ", "),
            ]
        )
    if len(ordered) > FAILURES:
        text.append(f"The {FAILURES} most frequent of {len(ordered):,} reasons; trials.csv has all.")
    heads = [
        Head(label="reason"),
        Head(label="state"),
        Head(label="count", number=True),
        Head(label="trials"),
        Head(label="first placement"),
    ]
    tables = [Table(caption="Failed, stopped early and rejected", heads=heads, rows=rows)] if rows else []
    return Section(id="failures", title="Failures", text=text, tables=tables)


def trial_columns(found: Findings, costs: Sequence[str], metric: Metric) -> dict[str, list[Any]]:
    """The rows that charts and the table of all trials share: the metric as it is shown, None for no value."""
    trials, told = found.trials, found.complete.set_index("trial")

    def scaled(name: str) -> list[float | None]:
        values = told[name].to_dict()
        return [_rounded(metric.factor * values.get(t.number, np.nan)) for t in trials]

    columns: dict[str, list[Any]] = {
        "trial": [t.number for t in trials],
        "placement": [t.placement.label.replace(",", ", ") for t in trials],
        "shown": [escaped(t.placement.label.replace(",", ", ")) for t in trials],
        "state": [t.state for t in trials],
        "role": [reference_name(t.role, t.placement.label) for t in trials],
        "metric": scaled("metric"),
        **{name: scaled(name) for name in ("mean", "lower", "upper")},
        **_chances(found),
        **{name: [_rounded(t.costs[name].value) if name in t.costs else None for t in trials] for name in costs},
        "epochs": [len(t.curve) for t in trials],
        "seconds": [round(t.seconds, 1) for t in trials],
        "reason": [t.reason for t in trials],
    }
    # Most networks need no second copy of their labels.
    return {**columns, "shown": columns["placement"]} if columns["shown"] == columns["placement"] else columns


def _chances(found: Findings) -> dict[str, list[int | None]]:
    """The chances against no SE of each trial, in whole percents that add up to 100; None where there are none."""
    names = ("better", "same", "worse")
    rows = found.complete[["trial", *(f"p_{name}" for name in names)]].itertuples(index=False)
    known = {trial: percents(*shares) for trial, *shares in rows if np.isfinite(shares[0])}
    return {name: [known[t.number][k] if t.number in known else None for t in found.trials]
            for k, name in enumerate(names)}  # fmt: skip


def _rounded(value: float) -> float | None:
    return float(f"{value:.9g}") if np.isfinite(value) else None


def trial_heads(costs: Sequence[str], metric: Metric, columns: dict[str, list[Any]]) -> list[Column]:
    """The columns of the table of all trials."""
    believed = any(v is not None for v in columns["mean"])
    heads = [
        Column(key="trial", label="trial", digits=0),
        Column(key="placement", label="placement", long=True),
        Column(key="state", label="state"),
        *([Column(key="role", label="reference", long=True)] if any(columns["role"]) else []),
        Column(key="metric", label=f"one training, {metric.head}", digits=metric.digits),
    ]
    if believed:
        heads.append(Column(key="mean", label=f"model estimate, {metric.head}", digits=metric.digits))
        heads.append(Column(key="lower", label="from (90 %)", digits=metric.digits))
        heads.append(Column(key="upper", label="to (90 %)", digits=metric.digits))
    heads += [Column(key=name, label=cost_name(name), digits=_digits(columns[name])) for name in costs]
    heads += [Column(key="epochs", label="epochs", digits=0), Column(key="seconds", label="seconds", digits=1)]
    return [*heads, *([Column(key="reason", label="reason", long=True)] if any(columns["reason"]) else [])]


def _digits(values: Sequence[float | None]) -> int:
    """Digits after the point that tell the values of a cost apart."""
    known = [abs(v) for v in values if v]
    if not known or all(float(v).is_integer() for v in known):
        return 0
    return int(max(0, 4 - np.floor(np.log10(max(known)))))
