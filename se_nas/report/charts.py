"""The charts of effects, learning curves and progress, as plotly traces and layouts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from se_nas.analysis.effects import EVERYWHERE
from se_nas.core.trial import Trial
from se_nas.core.words import CHANCES_HEAD, cost_name, cost_text, level_text
from se_nas.report.figures import shown_effects
from se_nas.report.front_chart import OPEN_ROWS
from se_nas.report.metric import Metric
from se_nas.report.page import SERIES, Chart, Head, Table, View, escaped
from se_nas.samplers.features import Array
from se_nas.samplers.pareto import hypervolume, non_dominated

#: Up to so many learning curves are drawn one by one.
MANY_CURVES = 60
#: Rows of a table beside a chart, at most.
TABLE_ROWS = 50


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
            "customdata": [
                [metric.gain_span(row["lower"], row["upper"]), metric.chances_text(row)] for _, row in rows.iterrows()
            ],
            "error_x": {
                "type": "data", "symmetric": False, "color": color, "thickness": 2, "width": 4,
                "array": (metric.factor * (rows["upper"] - rows["effect"])).tolist(),
                "arrayminus": (metric.factor * (rows["effect"] - rows["lower"])).tolist(),
            },
            "hovertemplate": "<b>%{y}</b><br>effect %{x:+.3g} (%{customdata[0]})<br>%{customdata[1]}<extra></extra>",
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
        caption="Points: effect vs. no SE there; bars: 90 % interval. A bar across zero does not prove an effect, and "
        "one that ends at zero may mean none at all.",
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
            metric.gain_span(row["lower"], row["upper"]), metric.chances(row), added,
            f"{row['trained']:,}",
        ])  # fmt: skip
    unit = f" ({metric.difference})" if metric.difference else ""
    names = [] if everywhere else [Head(label="decision")]
    what, than = ("Each stage, averaged over the others", "no SE there")
    if everywhere:
        what, than = ("One reduction in all stages, vs. no SE anywhere", "no SE")
    numbers = (f"effect{unit}", "90 % interval", CHANCES_HEAD, "parameters added", "number of trainings")
    return Table(
        caption=f"{what}. {metric.chances_note(against=than)}.",
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
        caption=f"{metric.name} on the validation set after each epoch.",
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
        lines["model estimate"] = -metric.sign * done["mean"].to_numpy(float)
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
    heads = [Head(label=name, number=True) for name in ("number of trainings", *shares)]
    corner = ", ".join(f"{cost_name(n)} {cost_text(v, n)}" for n, v in zip(axes, worst[1:], strict=True))
    text = (
        f"Reference point: the worst {metric.name} of a training ({metric.value(-metric.sign * worst[0])}"
        f"{f' {metric.unit}' if metric.unit else ''}) and the highest cost ({corner}). 1 would be the best value at "
        "the lowest cost. The model-estimate line uses all that is known now; single runs look better."
    )
    chart = Chart(
        views=[View(traces=traces, layout={
            "xaxis": {"title": {"text": "number of trainings"}},
            "yaxis": {"title": {"text": "hypervolume (share of the box)"}, "rangemode": "tozero"}})],
        alt="Hypervolume of the front against the number of trainings. The folded table below has the numbers.",
        caption="How much of the box between the reference point and the best corner the front dominates.",
        height=360,
    )  # fmt: skip
    table = Table(caption="Hypervolume by number of trainings", heads=heads, rows=rows, closed="Hypervolume as a table")
    return chart, table, text
