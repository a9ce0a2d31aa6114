"""The charts of single trainings: the front over each cost, and single runs against the model estimate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd

from se_nas.analysis.confirmation import Confirmed
from se_nas.analysis.folded_points import FoldedPoint
from se_nas.analysis.rule_estimates import RuleEstimate
from se_nas.core.costs import cost_facts
from se_nas.core.words import ALONE, CHANCES, CHANCES_HEAD, cost_name, cost_text, reference_name
from se_nas.report.metric import Metric
from se_nas.report.page import MANY_POINTS, Chart, Head, Table, View, escaped
from se_nas.report.reading import Reading
from se_nas.samplers.pareto import Index, rising_front

MARKERS = {"baseline": "square-open", "reference": "triangle-up-open", "given": "diamond-open"}

#: Longer tables are folded.
OPEN_ROWS = 24


def points(table: pd.DataFrame) -> str:
    """The plotly type that can draw so many points."""
    return "scattergl" if len(table) > MANY_POINTS else "scatter"


def cloud(table: pd.DataFrame, color: str) -> dict[str, Any]:
    """Marks that are small and faint where they are many."""
    many = len(table) > MANY_POINTS
    return {"color": color, "size": 4 if many else 7, "opacity": 0.35 if many else 0.75}


def front_chart(reading: Reading, rows: Index, costs: Sequence[str]) -> Chart:
    """The front over each cost: single runs, the model estimate with intervals, confirmed values, reference points.

    Parameters
    ----------
    rows:
        Positions of the complete trials in the columns of the page.
    """
    done, metric = reading.found.complete, reading.metric
    believed = reading.found.estimated
    views = []
    for name in costs:
        view = _front_view(reading, rows, name, costs)
        view.traces.extend(_confirmed_marks(reading, name))
        if believed:
            view.traces.extend(_rule_marks(done, name, metric, reading.summary.rules))
        view.traces.extend(_folded_marks(done, name, metric, reading.folded, believed=believed))
        views.append(view)
    what = "by the model estimate, with 90 % intervals" if believed else "of single trainings"
    confirmed = " Filled diamonds: confirmed with fresh seeds." if reading.confirmed else ""
    return Chart(
        views=views,
        choose="Cost axis",
        height=480,
        alt=f"Scatter plot of {metric.name} against cost with the Pareto front {what}. The table has its numbers.",
        caption=(
            f"Validation set. Grey: one training each. Green: the model estimate from {reading.estimated_from}, for "
            f"the networks on the front, with the 90 % interval of the true value.{confirmed} Drag to zoom, "
            "double-click to reset; hover over a mark for its numbers."
            if believed
            else "Validation set. Grey: one training each; blue: the front of these single runs. There are too few "
            f"trainings for a model estimate.{confirmed}"
        ),
    )


def _front_view(reading: Reading, rows: Index, cost: str, costs: Sequence[str]) -> View:
    done, metric = reading.found.complete, reading.metric
    recommended = None if reading.recommended is None else reading.recommended.trial
    base, (zero, factor) = done[done["role"] == "baseline"], _origin(done, cost)
    x = {"name": cost, "zero": zero, "factor": factor} if zero else cost
    has = done[cost].notna().to_numpy()
    kind = points(done)  # one kind for all: marks of the graphics card lie above the others
    believed = reading.found.estimated
    hover = _hover(costs, metric, believed=believed, compared=bool(done["p_better"].notna().any()))

    def trace(where: Index, name: str, y: str, **more: Any) -> dict[str, Any]:
        return {
            "type": kind, "mode": "markers", "name": name, "rows": rows[where].tolist(),
            "columns": {"x": x, "y": y, "customdata": hover["columns"]}, "hovertemplate": hover["template"], **more,
        }  # fmt: skip

    def mark(where: Index, name: str, marker: dict[str, Any]) -> dict[str, Any]:
        """A single network, at its confirmed value where it has one."""
        found = trace(where, name, "mean" if believed else "metric", marker=marker)
        network = reading.confirmed.get(str(done["key"].iloc[where[0]]))
        if network is not None:
            found["columns"] = {name: source for name, source in found["columns"].items() if name != "y"}
            found["y"] = [metric.factor * network.validation.mean]
        return found

    every = np.flatnonzero(has)
    traces = [trace(every, f"one training ({len(every):,})", "metric", marker=cloud(done, "@raw"))]
    signed = metric.sign * done["metric"].to_numpy(float)
    seen = every[rising_front(done[cost].to_numpy(float)[every, None], signed[every])] if len(every) else every
    shape = {"shape": "hv", "color": "@seen", "width": 1.5}
    hidden = {"visible": "legendonly"} if believed else {}
    traces.append(trace(seen, "front of single runs", "metric", mode="lines+markers", line=shape,
                        marker={"color": "@seen", "size": 7}, **hidden))  # fmt: skip
    members = seen
    if believed:
        known = every[done["mean"].notna().to_numpy()[every]]
        mean = metric.sign * done["mean"].to_numpy(float)
        members = known[rising_front(done[cost].to_numpy(float)[known, None], mean[known])]
        table = done.iloc[members]
        error = {
            "type": "data", "symmetric": False, "thickness": 1.5, "width": 4, "color": "@best",
            "array": (metric.factor * (table["upper"] - table["mean"])).tolist(),
            "arrayminus": (metric.factor * (table["mean"] - table["lower"])).tolist(),
        }  # fmt: skip
        more = {"error_x": _cost_error(table, cost, factor)} if f"{cost}_low" in table else {}
        style: dict[str, Any] = {
            "line": {"color": "@best", "width": 2},
            "marker": {"color": "@best", "size": 9},
            "error_y": error,
        }
        traces.append(trace(members, "front by model estimate", "mean", mode="lines+markers", **style, **more))
    for role, symbol in MARKERS.items():
        where = every[(done["role"].to_numpy() == role)[every]][:1]
        if len(where):
            style = {"color": "@mark", "symbol": symbol, "size": 13, "line": {"width": 2}}
            traces.append(mark(where, reference_name(role, str(done["placement"].iloc[where[0]])), style))
    where = every[(done["trial"].to_numpy() == recommended)[every]]
    if len(where):
        style = {"color": "@best", "symbol": "circle-open", "size": 20, "line": {"width": 2.5}}
        traces.append(mark(where, "recommended", style))
    title = f"{cost_facts(cost).word} added vs. no SE (%)" if zero else cost_name(cost)
    return View(
        label=cost_name(cost),
        traces=traces,
        layout={"xaxis": {"title": {"text": escaped(title)}}, "yaxis": {"title": {"text": escaped(metric.head)}}},
        table=front_rows(done.iloc[members], base, costs, metric, recommended=recommended, cost=cost,
                         confirmed=reading.confirmed),
    )  # fmt: skip


def _confirmed_marks(reading: Reading, cost: str) -> list[dict[str, Any]]:
    """The confirmed networks at their means on the validation set, with 90 % intervals."""
    metric, done = reading.metric, reading.found.complete
    known = [network for network in reading.confirmed.values() if cost in network.costs]
    if not known:
        return []
    zero, factor = _origin(done, cost)
    ends = [n.validation.interval or (n.validation.mean, n.validation.mean) for n in known]
    return [{
        "type": points(done), "mode": "markers", "name": "confirmed with fresh seeds",
        "x": [factor * (n.costs[cost].value - zero) for n in known],
        "y": [metric.factor * n.validation.mean for n in known],
        "error_y": {
            "type": "data", "symmetric": False, "thickness": 1.5, "width": 4, "color": "@confirmed",
            "array": [metric.factor * (high - n.validation.mean) for n, (_, high) in zip(known, ends, strict=True)],
            "arrayminus": [metric.factor * (n.validation.mean - low) for n, (low, _) in zip(known, ends, strict=True)],
        },
        "text": [f"<b>{escaped(_spaced(n.label))}</b><br>{escaped(metric.confirmed_text(n))}" for n in known],
        "hovertemplate": "%{text}<extra></extra>",
        "marker": {"color": "@confirmed", "symbol": "diamond", "size": 10},
    }]  # fmt: skip


def _rule_marks(done: pd.DataFrame, cost: str, metric: Metric, rules: Sequence[RuleEstimate]) -> list[dict[str, Any]]:
    """One mark for each rule whose cost is known, whether it was trained or not, at what all trainings say of it."""
    known = [rule for rule in rules if rule.mean is not None and cost in rule.costs]
    if not known:
        return []
    zero, factor = _origin(done, cost)
    texts = [
        "<br>".join([
            *(f"<b>{escaped(name)}</b>" for name in rule.rules),
            escaped(_spaced(rule.placement)),
            "not trained" if rule.trial is None else f"trial {rule.trial}",
            f"model estimate: {escaped(f'{metric.value(rule.mean)} {metric.unit}'.strip())}",
        ])
        for rule in known
    ]  # fmt: skip
    return [{
        "type": points(done), "mode": "markers", "name": "rules that need no search",
        "x": [factor * (rule.costs[cost] - zero) for rule in known],
        "y": [metric.factor * rule.mean for rule in known if rule.mean is not None],
        "text": texts, "hovertemplate": "%{text}<extra></extra>",
        "marker": {"color": "@series4", "symbol": "star-open", "size": 11, "line": {"width": 1.5}},
    }]  # fmt: skip


def _folded_marks(
    done: pd.DataFrame, cost: str, metric: Metric, folded: Sequence[FoldedPoint], *, believed: bool
) -> list[dict[str, Any]]:
    """One mark for each folded network: the estimate of its training and what folding changed, at its own cost."""
    values = done.set_index("trial")["mean" if believed else "metric"]
    known = [point for point in folded if point.trial in values.index and cost in point.costs]
    if not known:
        return []
    zero, factor = _origin(done, cost)
    return [{
        "type": points(done), "mode": "markers", "name": "SE blocks folded away",
        "x": [factor * (point.costs[cost] - zero) for point in known],
        "y": [metric.factor * (float(values[point.trial]) + (point.difference or 0.0)) for point in known],
        "text": [escaped(point.sentence) for point in known], "hovertemplate": "%{text}<extra></extra>",
        "marker": {"color": "@link", "symbol": "hexagram", "size": 13},
    }]  # fmt: skip


def _origin(done: pd.DataFrame, cost: str) -> tuple[float, float]:
    """The cost without SE and the factor to percent of it, 0 and 1 where it is not known."""
    base = done[done["role"] == "baseline"]
    zero = float(base[cost].iloc[0]) if len(base) and pd.notna(base[cost].iloc[0]) else 0.0
    return zero, 100 / zero if zero else 1.0


def _cost_error(table: pd.DataFrame, cost: str, factor: float) -> dict[str, Any]:
    """The 90 % interval of a measured cost."""
    low, high = ((table[f"{cost}_{side}"].fillna(table[cost]) - table[cost]).abs() * factor for side in ("low", "high"))
    return {
        "type": "data", "symmetric": False, "array": high.tolist(), "arrayminus": low.tolist(), "color": "@best",
        "thickness": 1, "width": 3,
    }  # fmt: skip


def _hover(costs: Sequence[str], metric: Metric, *, believed: bool, compared: bool) -> dict[str, Any]:
    columns = ["placement", "trial", "metric"]
    lines = ["<b>%{customdata[0]}</b>", "trial %{customdata[1]}"]
    number = f":.{metric.digits}f"
    unit = f" {metric.unit}" if metric.unit else ""
    lines.append(f"single training: %{{customdata[2]{number}}}{escaped(unit)}")
    if believed:
        columns += ["mean", "lower", "upper"]
        lines.append(f"model estimate: %{{customdata[3]{number}}}{escaped(unit)}")
        lines.append(f"90 % interval: %{{customdata[4]{number}}} to %{{customdata[5]{number}}}")
    if compared:
        lines.append("vs. no SE: " + ", ".join(f"{n} %{{customdata[{len(columns) + k}]}} %"
                                                   for k, n in enumerate(CHANCES)))  # fmt: skip
        columns += ["better", "same", "worse"]
    for name in costs:
        form = ":,.0f" if cost_facts(name).whole else ":.5g"
        lines.append(f"{escaped(cost_name(name))}: %{{customdata[{len(columns)}]{form}}}")
        columns.append(name)
    # The shown name is escaped for plotly; the plain one stands in the table.
    columns[0] = "shown"
    return {"columns": columns, "template": "<br>".join(lines) + "<extra></extra>"}


def front_rows(
    front: pd.DataFrame,
    base: pd.DataFrame,
    costs: Sequence[str],
    metric: Metric,
    *,
    recommended: int | None,
    cost: str,
    confirmed: Mapping[str, Confirmed] = MappingProxyType({}),
) -> Table:
    """The members of a front as a table, each cost with what it adds to no SE, and `confirmed` values by key."""
    believed = bool(front["mean"].notna().any())
    value = "mean" if believed else "metric"
    zero = None if base.empty else base.iloc[0]
    unit = f" ({metric.unit})" if metric.unit else ""
    heads = [Head(label="placement"), Head(label="trial", number=True), Head(label=f"one training{unit}", number=True)]
    if believed:
        heads.append(Head(label=f"model estimate{unit}, 90 % interval", number=True))
    if confirmed:
        heads.append(Head(label=f"confirmed{unit}, {ALONE} 90 % interval", number=True))
    if believed:
        heads.append(Head(label="P(front)", number=True))
    heads.append(Head(label=f"{metric.gain_head}, {'model estimate' if believed else 'one training'}", number=True))
    chances = believed and zero is not None
    heads += [Head(label=CHANCES_HEAD, number=True)] if chances else []
    heads += [Head(label=cost_name(name), number=True) for name in costs]
    rows = []
    for _, row in front.iterrows():
        cells = [_spaced(row["placement"]), str(row["trial"]), metric.value(row["metric"])]
        if believed:
            cells.append(f"{metric.value(row['mean'])}\n{metric.span(row['lower'], row['upper'])}".rstrip())
        if confirmed:
            network = confirmed.get(row["key"])
            cells.append("" if network is None else metric.estimate(network.validation))
        if believed:
            cells.append("" if pd.isna(row["p_front"]) else f"{row['p_front']:.2f}")
        cells.append("" if zero is None else metric.gain(row[value] - zero[value]))
        cells += ["" if row["role"] == "baseline" else metric.chances(row)] if chances else []
        rows.append([*cells, *(_cost_cell(row, zero, name) for name in costs)])
    marked = tuple(np.flatnonzero(front["trial"].to_numpy() == recommended).tolist())
    what = "by the model estimate" if believed else "of single trainings"
    note = "; the recommended network is highlighted" if marked else ""
    caption = f"The front over {cost_name(cost)} {what}, on the validation set; gains and percents vs. no SE{note}."
    caption += f" {metric.chances_note()}." if chances else ""
    closed = f"The {len(rows)} networks of the front as a table" if len(rows) > OPEN_ROWS else ""
    return Table(caption=caption, heads=heads, rows=rows, marked=marked, closed=closed)


def _spaced(placement: object) -> str:
    return str(placement).replace(",", ", ")


def _cost_cell(row: pd.Series, zero: pd.Series | None, name: str) -> str:
    if pd.isna(row[name]):
        return ""
    text = cost_text(row[name], name)
    if zero is None or not zero[name] or pd.isna(zero[name]):
        return text
    return f"{text}\n{100 * (row[name] / zero[name] - 1):+.2f} %"


def runs_chart(done: pd.DataFrame, rows: Index, metric: Metric) -> Chart:
    """Single runs against the model estimate: how much of the raw spread is noise."""
    columns = ["shown", "trial", "metric", "mean", "lower", "upper"]
    known = done["mean"].notna().to_numpy()
    values = metric.factor * done.loc[known, ["metric", "mean"]].to_numpy(float)
    ends = [float(values.min()), float(values.max())]
    template = (
        "<b>%{customdata[0]}</b><br>trial %{customdata[1]}<br>single training: %{customdata[2]:.4g}<br>"
        "model estimate: %{customdata[3]:.4g} (%{customdata[4]:.4g} to %{customdata[5]:.4g})<extra></extra>"
    )
    return Chart(
        views=[
            View(
                traces=[
                    {"type": "scatter", "mode": "lines", "x": ends, "y": ends, "name": "equal", "hoverinfo": "skip",
                     "line": {"color": "@edge", "width": 1, "dash": "dash"}},
                    {"type": points(done), "mode": "markers", "name": "trained network", "rows": rows[known].tolist(),
                     "columns": {"x": "metric", "y": "mean", "customdata": columns}, "hovertemplate": template,
                     "marker": cloud(done, "@seen")},
                ],
                layout={
                    "xaxis": {"title": {"text": f"one training, {escaped(metric.head)}"}},
                    "yaxis": {"title": {"text": f"model estimate, {escaped(metric.head)}"}},
                },
            )
        ],
        height=400,
        alt="Scatter plot of single results against the model estimate. The table of all trials has both.",
        caption="A point far from the dashed line was lucky or unlucky in its single training.",
    )  # fmt: skip
