"""The charts of the report, as plotly traces and layouts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from se_nas.cost import COST_UNITS
from se_nas.effects import EVERYWHERE
from se_nas.features import Array
from se_nas.figures import cost_text, level_text, scale_of, shown_effects
from se_nas.page import MANY_POINTS, SERIES, Chart, Head, Table, View, escaped
from se_nas.pareto import Index, hypervolume, non_dominated, rising_front
from se_nas.records import Trial
from se_nas.report import metric_unit, reference_name
from se_nas.study import Objective

COST_NAMES = {
    "params": "parameters", "gflops": "GFLOPs", "latency": "latency (ms)", "memory": "peak memory (MiB)",
    "macs": "multiply-adds", "activations": "activations",
}  # fmt: skip
#: Up to so many learning curves are drawn one by one.
MANY_CURVES = 60
#: Rows of a table beside a chart, at most.
TABLE_ROWS = 50
#: Longer tables are folded.
OPEN_ROWS = 24
MARKERS = {"baseline": "square-open", "reference": "triangle-up-open", "given": "diamond-open"}


class Metric:
    """How the metric of a study is shown: percent and points for shares, else as it is."""

    def __init__(self, trials: Sequence[Trial], objective: Objective) -> None:
        self.name = objective.metric
        self.sign = -1.0 if objective.direction == "minimize" else 1.0
        self.factor, self.unit, self.difference = scale_of(metric_unit(trials, objective))
        self.digits = 2 if self.factor == 100.0 else 4

    def value(self, value: float | None) -> str:
        return "" if value is None or pd.isna(value) else f"{self.factor * value:.{self.digits}f}"

    def gain(self, value: float | None) -> str:
        return "" if value is None or pd.isna(value) else f"{self.factor * value:+.{self.digits}f}"

    def span(self, low: float | None, high: float | None) -> str:
        return f"{self.value(low)} to {self.value(high)}" if low is not None and not pd.isna(low) else ""

    @property
    def head(self) -> str:
        return f"{self.name} ({self.unit})" if self.unit else self.name

    @property
    def gain_head(self) -> str:
        return f"gain ({self.difference})" if self.difference else "gain"


def cost_name(name: str) -> str:
    """A cost as a head or an axis says it."""
    return COST_NAMES.get(name, name)


def points(table: pd.DataFrame) -> str:
    """The plotly type that can draw so many points."""
    return "scattergl" if len(table) > MANY_POINTS else "scatter"


def cloud(table: pd.DataFrame, color: str) -> dict[str, Any]:
    """Marks that are small and faint where they are many."""
    many = len(table) > MANY_POINTS
    return {"color": color, "size": 4 if many else 7, "opacity": 0.35 if many else 0.75}


def front_chart(
    done: pd.DataFrame, rows: Index, costs: Sequence[str], metric: Metric, *, recommended: int | None
) -> Chart:
    """The front over each cost: single runs, what all runs together say with intervals, and the reference points.

    Parameters
    ----------
    done:
        The complete trials, as `complete_table` gives them.
    rows:
        Their positions in the columns of the page.
    recommended:
        The trial to point at.
    """
    believed = bool(done["mean"].notna().any())
    views = [_front_view(done, rows, name, costs, metric, recommended=recommended) for name in costs]
    what = "by all trainings together, with 90 % intervals" if believed else "of single trainings"
    return Chart(
        views=views,
        choose="Cost axis",
        height=480,
        alt=f"Scatter plot of {metric.name} against cost with the Pareto front {what}. The table has its numbers.",
        caption=(
            "Grey: one training each. Green: what all trainings together say of the networks on the front, with the "
            "90 % interval of the true value. Drag to zoom, double-click to go back; point at a mark for its numbers."
            if believed
            else "Grey: one training each; blue: the front of these single runs. There are too few trainings to judge "
            "them together."
        ),
    )


def _front_view(
    done: pd.DataFrame, rows: Index, cost: str, costs: Sequence[str], metric: Metric, *, recommended: int | None
) -> View:
    base = done[done["role"] == "baseline"]
    zero = float(base[cost].iloc[0]) if len(base) and pd.notna(base[cost].iloc[0]) else 0.0
    factor = 100 / zero if zero else 1.0
    x = {"name": cost, "zero": zero, "factor": factor} if zero else cost
    has = done[cost].notna().to_numpy()
    kind = points(done)  # one kind for all: marks of the graphics card lie above the others
    believed = bool(done["mean"].notna().any())
    hover = _hover(costs, metric, believed=believed)

    def trace(where: Index, name: str, y: str, **more: Any) -> dict[str, Any]:
        return {
            "type": kind, "mode": "markers", "name": name, "rows": rows[where].tolist(),
            "columns": {"x": x, "y": y, "customdata": hover["columns"]}, "hovertemplate": hover["template"], **more,
        }  # fmt: skip

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
        traces.append(trace(members, "front by all trainings", "mean", mode="lines+markers", **style, **more))
    for role, symbol in MARKERS.items():
        where = every[(done["role"].to_numpy() == role)[every]][:1]
        if len(where):
            style = {"color": "@mark", "symbol": symbol, "size": 13, "line": {"width": 2}}
            name = reference_name(role, str(done["placement"].iloc[where[0]]))
            traces.append(trace(where, name, "mean" if believed else "metric", marker=style))
    where = every[(done["trial"].to_numpy() == recommended)[every]]
    if len(where):
        style = {"color": "@best", "symbol": "circle-open", "size": 20, "line": {"width": 2.5}}
        traces.append(trace(where, "recommended", "mean" if believed else "metric", marker=style))
    title = f"{cost_name(cost)} added to no SE (%)" if zero else cost_name(cost)
    return View(
        label=cost_name(cost),
        traces=traces,
        layout={"xaxis": {"title": {"text": escaped(title)}}, "yaxis": {"title": {"text": escaped(metric.head)}}},
        table=front_rows(done.iloc[members], base, costs, metric, recommended=recommended, cost=cost),
    )


def _cost_error(table: pd.DataFrame, cost: str, factor: float) -> dict[str, Any]:
    """The 90 % interval of a measured cost."""
    low, high = ((table[f"{cost}_{side}"].fillna(table[cost]) - table[cost]).abs() * factor for side in ("low", "high"))
    return {
        "type": "data", "symmetric": False, "array": high.tolist(), "arrayminus": low.tolist(), "color": "@best",
        "thickness": 1, "width": 3,
    }  # fmt: skip


def _hover(costs: Sequence[str], metric: Metric, *, believed: bool) -> dict[str, Any]:
    columns = ["placement", "trial", "metric"]
    lines = ["<b>%{customdata[0]}</b>", "trial %{customdata[1]}"]
    number = f":.{metric.digits}f"
    unit = f" {metric.unit}" if metric.unit else ""
    lines.append(f"one training: %{{customdata[2]{number}}}{escaped(unit)}")
    if believed:
        columns += ["mean", "lower", "upper"]
        lines.append(f"all trainings: %{{customdata[3]{number}}}{escaped(unit)}")
        lines.append(f"90 % interval: %{{customdata[4]{number}}} to %{{customdata[5]{number}}}")
    for name in costs:
        form = ":,.0f" if name in COST_UNITS and name != "gflops" else ":.5g"
        lines.append(f"{escaped(cost_name(name))}: %{{customdata[{len(columns)}]{form}}}")
        columns.append(name)
    # The shown name is escaped for plotly; the plain one stands in the table.
    columns[0] = "shown"
    return {"columns": columns, "template": "<br>".join(lines) + "<extra></extra>"}


def front_rows(
    front: pd.DataFrame, base: pd.DataFrame, costs: Sequence[str], metric: Metric, *, recommended: int | None, cost: str
) -> Table:
    """The members of a front as a table, each cost with what it adds to no SE."""
    believed = bool(front["mean"].notna().any())
    value = "mean" if believed else "metric"
    zero = None if base.empty else base.iloc[0]
    unit = f" ({metric.unit})" if metric.unit else ""
    heads = [Head(label="placement"), Head(label="trial", number=True), Head(label=f"one training{unit}", number=True)]
    if believed:
        heads += [Head(label=f"all trainings{unit}", number=True), Head(label="90 % interval", number=True)]
        heads.append(Head(label="P(front)", number=True))
    heads.append(Head(label=metric.gain_head, number=True))
    heads += [Head(label=cost_name(name), number=True) for name in costs]
    rows = []
    for _, row in front.iterrows():
        cells = [_spaced(row["placement"]), str(row["trial"]), metric.value(row["metric"])]
        if believed:
            chance = "" if pd.isna(row["p_front"]) else f"{row['p_front']:.2f}"
            cells += [metric.value(row["mean"]), metric.span(row["lower"], row["upper"]), chance]
        cells.append("" if zero is None else metric.gain(row[value] - zero[value]))
        rows.append([*cells, *(_cost_cell(row, zero, name) for name in costs)])
    marked = tuple(np.flatnonzero(front["trial"].to_numpy() == recommended).tolist())
    what = "by all trainings together" if believed else "of single trainings"
    note = "; the recommended network is set off" if marked else ""
    caption = f"The front over {cost_name(cost)} {what}; gains and percents against no SE{note}."
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
    return f"{text} ({100 * (row[name] / zero[name] - 1):+.2f} %)"


def runs_chart(done: pd.DataFrame, rows: Index, metric: Metric) -> Chart:
    """Single runs against what all runs together say: how much of the raw spread is noise."""
    columns = ["shown", "trial", "metric", "mean", "lower", "upper"]
    known = done["mean"].notna().to_numpy()
    values = metric.factor * done.loc[known, ["metric", "mean"]].to_numpy(float)
    ends = [float(values.min()), float(values.max())]
    template = (
        "<b>%{customdata[0]}</b><br>trial %{customdata[1]}<br>one training: %{customdata[2]:.4g}<br>"
        "all trainings: %{customdata[3]:.4g} (%{customdata[4]:.4g} to %{customdata[5]:.4g})<extra></extra>"
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
                    "yaxis": {"title": {"text": f"all trainings, {escaped(metric.head)}"}},
                },
            )
        ],
        height=400,
        alt="Scatter plot of single results against what all trainings together say. The table of all trials has both.",
        caption="A point far from the dashed line was lucky or unlucky in its one training.",
    )  # fmt: skip


def effects_chart(effects: pd.DataFrame, metric: Metric) -> Chart:
    """Each stage and reduction with the 90 % interval of its effect."""
    shown = shown_effects(effects).iloc[::-1]
    decisions = list(dict.fromkeys(effects["decision"]))
    traces = []
    for k, decision in enumerate(decisions):
        rows = shown[shown["decision"] == decision]
        color = f"@series{k % SERIES}"
        labels = [
            escaped(f"{decision}, {level_text(s, v)}") for s, v in zip(rows["setting"], rows["level"], strict=True)
        ]
        traces.append({
            "type": "scatter", "mode": "markers", "name": escaped(decision), "showlegend": False, "y": labels,
            "x": (metric.factor * rows["effect"]).tolist(), "marker": {"color": color, "size": 9},
            "customdata": [[metric.gain(a), metric.gain(b)] for a, b in zip(rows["lower"], rows["upper"], strict=True)],
            "error_x": {
                "type": "data", "symmetric": False, "color": color, "thickness": 2, "width": 4,
                "array": (metric.factor * (rows["upper"] - rows["effect"])).tolist(),
                "arrayminus": (metric.factor * (rows["effect"] - rows["lower"])).tolist(),
            },
            "hovertemplate": "<b>%{y}</b><br>effect %{x:+.3g} (%{customdata[0]} to %{customdata[1]})<extra></extra>",
        })  # fmt: skip
    labels = [escaped(f"{d}, {level_text(s, v)}")
              for d, s, v in zip(shown["decision"], shown["setting"], shown["level"], strict=True)]  # fmt: skip
    unit = f" ({escaped(metric.difference)})" if metric.difference else ""
    zero = {"type": "line", "x0": 0, "x1": 0, "yref": "paper", "y0": 0, "y1": 1, "line": {"color": "@edge", "width": 1}}
    return Chart(
        views=[
            View(
                traces=traces,
                layout={
                    "xaxis": {"title": {"text": f"effect on {escaped(metric.name)}{unit}"}, "zeroline": False},
                    "yaxis": {"categoryorder": "array", "categoryarray": labels},
                    "shapes": [zero],
                },
            )
        ],
        height=90 + 26 * len(shown),
        alt="Effects of each stage and reduction with 90 % intervals. The table below has the numbers.",
        caption="Points: effect against no SE there; bars: 90 % interval. A bar across zero is no proof of an effect.",
    )


def effects_rows(effects: pd.DataFrame, metric: Metric, *, everywhere: bool) -> Table:
    """Effects as a table: by stage, or of one reduction in all stages."""
    table = effects[(effects["decision"] == EVERYWHERE) == everywhere]
    rows = []
    for _, row in table.iterrows():
        added = "" if pd.isna(row["params_added"]) else f"{row['params_added']:+,.0f}"
        cells = [] if everywhere else [str(row["decision"])]
        rows.append([
            *cells, level_text(row["setting"], row["level"]).replace(" ", "\u00a0"), metric.gain(row["effect"]),
            f"{metric.gain(row['lower'])} to {metric.gain(row['upper'])}", f"{row['p_better']:.2f}", added,
            f"{row['trained']:,}",
        ])  # fmt: skip
    unit = f" ({metric.difference})" if metric.difference else ""
    names = [] if everywhere else [Head(label="decision")]
    numbers = (f"effect{unit}", "90 % interval", "P(better)", "parameters added", "trainings")
    return Table(
        caption="One reduction in all stages, against no SE anywhere"
        if everywhere
        else "Each stage, averaged over the others",
        heads=[*names, Head(label="level"), *(Head(label=name, number=True) for name in numbers)],
        rows=rows,
        closed="" if len(rows) <= OPEN_ROWS else f"All {len(rows)} effects",
    )


def curves_chart(trials: Sequence[Trial], metric: Metric, named: dict[int, str]) -> tuple[Chart, Table] | None:
    """Learning curves: one by one while they are few, else their middle 90 %; the `named` trials always."""
    curves = {
        t.number: [(e.epoch, metric.factor * e.metrics[metric.name]) for e in t.curve if metric.name in e.metrics]
        for t in trials
        if t.state in ("complete", "stopped", "running")
    }
    curves = {number: curve for number, curve in curves.items() if curve}
    if not curves:
        return None
    epochs = sorted({epoch for curve in curves.values() for epoch, _ in curve})
    at: dict[int, list[float]] = {epoch: [] for epoch in epochs}
    for curve in curves.values():
        for epoch, value in curve:
            at[epoch].append(value)
    low, middle, high = (np.array([np.quantile(at[e], q) for e in epochs]) for q in (0.05, 0.5, 0.95))
    traces: list[dict[str, Any]] = []
    if len(curves) <= MANY_CURVES:
        others = [(*curve, (None, None)) for number, curve in curves.items() if number not in named]
        x, y = ([pair[k] for curve in others for pair in curve] for k in (0, 1))  # None ends a line
        traces.append({"type": "scatter", "mode": "lines", "x": x, "y": y, "opacity": 0.55, "hoverinfo": "skip",
                       "name": f"other trainings ({len(curves):,} in all)",
                       "line": {"color": "@raw", "width": 1}})  # fmt: skip
    else:
        band = {"type": "scatter", "mode": "lines", "line": {"width": 0}, "hoverinfo": "skip"}
        traces += [
            {**band, "x": epochs, "y": low.tolist(), "showlegend": False},
            {**band, "x": epochs, "y": high.tolist(), "fill": "tonexty", "fillcolor": "@band",
             "name": f"middle 90 % of {len(curves):,} trainings"},
            {"type": "scatter", "mode": "lines", "x": epochs, "y": middle.tolist(), "name": "median",
             "line": {"color": "@seen", "width": 1.5, "dash": "dot"}},
        ]  # fmt: skip
    shown = {number: label for number, label in named.items() if number in curves}
    for k, (number, label) in enumerate(shown.items()):
        curve = curves[number]
        traces.append({
            "type": "scatter", "mode": "lines+markers" if len(curve) < 30 else "lines", "name": escaped(label),
            "x": [epoch for epoch, _ in curve], "y": [value for _, value in curve],
            "line": {"color": f"@series{(k + 1) % SERIES}", "width": 2},
        })  # fmt: skip
    step = max(1, -(-len(epochs) // TABLE_ROWS))
    kept = [i for i in range(len(epochs)) if i % step == 0 or i == len(epochs) - 1]
    by_trial = [dict(curves[number]) for number in shown]
    rows = [
        [str(epochs[i]), *(f"{v:.{metric.digits}f}" for v in (low[i], middle[i], high[i])),
         *(f"{c[epochs[i]]:.{metric.digits}f}" if epochs[i] in c else "" for c in by_trial)]
        for i in kept
    ]  # fmt: skip
    heads = [Head(label=name, number=True) for name in ("epoch", "5 %", "median", "95 %", *shown.values())]
    chart = Chart(
        views=[View(traces=traces, layout={
            "xaxis": {"title": {"text": "epoch"}}, "yaxis": {"title": {"text": escaped(metric.head)}}})],
        alt="Learning curves of the trainings. The folded table below has the numbers.",
        caption=f"{metric.name} on the validation part after each epoch.",
        height=400,
    )  # fmt: skip
    caption = f"{metric.head} by epoch: the middle 90 % of all trainings, and single ones"
    return chart, Table(caption=caption, heads=heads, rows=rows, closed="Learning curves as a table")


def hypervolume_progress(losses: Array, reference: Array) -> Array:
    """Hypervolume of the first 1, 2, ... ``n`` rows of ``n x k`` losses (minimised) below a reference point: ``n``.

    It is only counted again when a row joins the front.
    """
    front, volume, progress = losses[:0], 0.0, np.empty(len(losses))
    for i, row in enumerate(losses):
        if (row < reference).all() and not (front <= row).all(axis=1).any():
            front = np.vstack([front, row])
            front = front[non_dominated(front)]
            volume = hypervolume(front, reference)
        progress[i] = volume
    return progress


def progress_chart(done: pd.DataFrame, axes: Sequence[str], metric: Metric) -> tuple[Chart, Table, str] | None:
    """Hypervolume of the front against trainings, as a share of the box between its best and worst corners."""
    done = done.sort_values("trial")
    costs = done[list(axes)].to_numpy(float)
    lines = {"single runs": -metric.sign * done["metric"].to_numpy(float)}
    if done["mean"].notna().all():
        lines["all trainings together"] = -metric.sign * done["mean"].to_numpy(float)
    raw = np.column_stack([lines["single runs"], costs])
    worst, best = raw.max(axis=0), raw.min(axis=0)
    if len(done) < 2 or not np.isfinite(raw).all() or not (worst > best).all():
        return None
    count = np.arange(1, len(done) + 1)
    shares = {
        name: hypervolume_progress((np.column_stack([loss, costs]) - best) / (worst - best), np.ones(len(worst)))
        for name, loss in lines.items()
    }  # fmt: skip
    # A step for each change is enough to draw the line.
    traces = []
    for (name, share), color in zip(shares.items(), ("@seen", "@best"), strict=False):
        kept = np.flatnonzero(np.r_[True, np.diff(share) != 0] | (count == len(share)))
        traces.append({"type": "scatter", "mode": "lines", "name": name, "x": count[kept].tolist(),
                       "y": share[kept].tolist(), "line": {"shape": "hv", "color": color, "width": 2}})  # fmt: skip
    rows_at = np.unique(np.linspace(0, len(count) - 1, min(len(count), TABLE_ROWS)).astype(int))
    rows = [[str(count[i]), *(f"{share[i]:.4f}" for share in shares.values())] for i in rows_at]
    heads = [Head(label=name, number=True) for name in ("trainings", *shares)]
    corner = ", ".join(f"{cost_name(n)} {cost_text(v, n)}" for n, v in zip(axes, worst[1:], strict=True))
    text = (
        f"Reference point: the worst {metric.name} of a training ({metric.value(-metric.sign * worst[0])}"
        f"{f' {metric.unit}' if metric.unit else ''}) and the highest cost ({corner}). 1 would be the best value at "
        "the lowest cost. The line of all trainings together uses what is known now; single runs look better."
    )
    chart = Chart(
        views=[View(traces=traces, layout={
            "xaxis": {"title": {"text": "trainings"}},
            "yaxis": {"title": {"text": "hypervolume (share of the box)"}, "rangemode": "tozero"}})],
        alt="Hypervolume of the front against the number of trainings. The folded table below has the numbers.",
        caption="How much of the box between the reference point and the best corner the front dominates.",
        height=360,
    )  # fmt: skip
    table = Table(caption="Hypervolume by trainings", heads=heads, rows=rows, closed="Hypervolume as a table")
    return chart, table, text
