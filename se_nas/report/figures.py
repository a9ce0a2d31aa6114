"""Figures and tables as files: the views of a run folder, and what a paper wants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from se_nas.analysis.effects import EVERYWHERE
from se_nas.analysis.findings import Findings
from se_nas.core.costs import SHOWN
from se_nas.core.files import atomically, write_atomically
from se_nas.core.latency_names import is_latency
from se_nas.core.plain_text import as_cell
from se_nas.core.trial import Objective
from se_nas.core.words import (
    ANY,
    CHANCES_HEAD,
    REFERENCES,
    chances_cell,
    cost_text,
    cost_with_unit,
    gain_span,
    level_text,
    reference_name,
    scale_of,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which people with any colour vision can tell apart.
BLUE, GREEN, RED, GREY = "#0072B2", "#009E73", "#D55E00", "#999999"
PALETTE = (BLUE, RED, GREEN, "#CC79A7", "#E69F00", "#56B4E9")
FORMATS = ("png", "svg", "pdf")
#: Above this many decisions the figure of effects shows one row for each.
MANY_DECISIONS = 12


def write_views(folder: Path, found: Findings) -> list[Path]:
    """Write ``trials.csv``, ``curves.csv``, ``front.csv``, ``front.png`` and ``front.svg``; return their paths."""
    files = [folder / "trials.csv", folder / "curves.csv", folder / "front.csv"]
    for frame, file in zip((found.table, found.curves, found.front), files, strict=True):
        write_atomically(file, csv_of(frame).encode())
    if not found.front.empty:
        files += save_figure(draw_front(found), folder / "front", ("png", "svg"))
    return files


def write_paper(folder: Path, found: Findings) -> list[Path]:
    """Write front and effects as figures (PNG, SVG, PDF) and tables (CSV, Markdown, LaTeX); return their paths.

    Without a complete trial there is nothing to write, with few of them no effects.
    """
    if found.front.empty:
        return []
    files = save_figure(draw_front(found), folder / "front") + save_table(paper_front(found), folder / "front")
    if found.effects is not None:
        files += save_figure(draw_effects(found.effects, found.objective, found.unit), folder / "effects")
        files += save_table(paper_effects(found.effects, found.unit), folder / "effects")
    return files


def save_figure(figure: Figure, stem: Path, formats: Sequence[str] = FORMATS) -> list[Path]:
    """A figure as ``stem.FORMAT``, each in one piece."""
    files = [stem.with_name(f"{stem.name}.{suffix}") for suffix in formats]
    for file in files:
        with atomically(file) as temporary:
            figure.savefig(temporary, dpi=150)
    return files


def save_table(frame: pd.DataFrame, stem: Path) -> list[Path]:
    """A table of text as ``stem.csv``, ``stem.md`` and ``stem.tex`` (booktabs; ``\\usepackage{booktabs}``)."""
    left = "".join("l" if frame[name].map(_is_word).any() else "r" for name in frame)
    texts = {
        "csv": csv_of(frame),
        "md": frame.map(lambda text: str(text).replace("|", "\\|")).to_markdown(
            index=False, colalign=["left" if side == "l" else "right" for side in left], disable_numparse=True
        )
        + "\n",
        "tex": frame.to_latex(index=False, escape=True, column_format=left),
    }
    files = []
    for suffix, text in texts.items():
        files.append(stem.with_name(f"{stem.name}.{suffix}"))
        write_atomically(files[-1], text.encode())
    return files


def csv_of(frame: pd.DataFrame) -> str:
    """A table as CSV in which no cell is a formula for a spreadsheet."""
    texts = frame.select_dtypes(exclude=["number", "bool"])
    safe = frame.assign(**{str(name): texts[name].map(as_cell) for name in texts})
    return safe.rename(columns=as_cell).to_csv(index=False)


def _is_word(text: str) -> bool:
    return any(c.isalpha() for c in text)


def paper_front(found: Findings) -> pd.DataFrame:
    """The front as a paper prints it: text with units in the heads, values of all costs that the run has."""
    front, objective = found.front, found.objective
    factor, percent, difference = scale_of(found.unit)
    head = f"{objective.metric} ({percent})" if percent else objective.metric
    believed = bool(front["posterior_front"].any())
    rows = front[front["posterior_front"]] if believed else front
    table = pd.DataFrame({"placement": rows["placement"].astype(str)})
    table[f"{head}, one run"] = [f"{factor * v:.2f}" for v in rows["metric"]]
    if believed:
        table[f"{head}, model estimate"] = [f"{factor * v:.2f}" for v in rows["mean"]]
        table["90 % interval"] = [
            f"{factor * a:.2f} to {factor * b:.2f}" for a, b in zip(rows["lower"], rows["upper"], strict=True)
        ]
    if "metric_gain" in rows:
        base = front.loc[front["role"] == "baseline", "mean" if believed else "metric"]
        gain = rows["mean"] - base.iloc[0] if believed and len(base) else rows["metric_gain"]
        table[f"vs. no SE ({difference})" if difference else "vs. no SE"] = [f"{factor * v:+.2f}" for v in gain]
    for name in cost_columns(front, found.axes):
        table[cost_with_unit(name)] = [cost_text(v, name) for v in rows[name]]
    return table.reset_index(drop=True)


def cost_columns(table: pd.DataFrame, axes: Sequence[str]) -> list[str]:
    """The costs that a table of trials has values of, in the order in which they are shown: ours, then other axes."""
    names = dict.fromkeys((*SHOWN, *filter(is_latency, map(str, table.columns)), *axes))
    return [name for name in names if name in table and table[name].notna().any()]


def paper_effects(effects: pd.DataFrame, unit: str) -> pd.DataFrame:
    """The effects as a paper prints them: text, differences in points for shares."""
    factor, _, difference = scale_of(unit)
    return pd.DataFrame(
        {
            "decision": effects["decision"].astype(str),
            "level": [level_text(s, v) for s, v in zip(effects["setting"], effects["level"], strict=True)],
            "against": effects["against"].astype(str),
            f"effect ({difference})" if difference else "effect": [f"{factor * v:+.2f}" for v in effects["effect"]],
            "90 % interval": [gain_span(a, b, unit) for a, b in zip(effects["lower"], effects["upper"], strict=True)],
            CHANCES_HEAD: [
                chances_cell(*row) for row in effects[["p_better", "p_same", "p_worse"]].itertuples(index=False)
            ],
            "params added": [f"{v:+,.0f}" if np.isfinite(v) else "" for v in effects["params_added"]],
            "trained": [str(v) for v in effects["trained"]],
        }
    )


def new_figure(height: float) -> Figure:
    """An empty figure as wide as a page, and so many inches high."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # slow to import, and only figures need it
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def draw_front(found: Findings) -> Figure:
    """The figure of the front: all trials, the front as steps, the reference points by name."""
    done, front, objective = found.complete, found.front, found.objective
    figure = new_figure(4.5)
    axes = figure.add_subplot()
    base = done[done["role"] == "baseline"]
    zero = float(base[objective.cost].iloc[0]) if len(base) else 0.0
    share = 100 / zero if zero else 1.0

    def x(frame: pd.DataFrame) -> Any:
        return (frame[objective.cost].astype(float) - zero) * share

    axes.scatter(x(done), done["metric"], s=18, color="0.65", label=f"trained once ({len(done)})", rasterized=True)
    seen, believed = front[front["observed_front"]], front[front["posterior_front"]]
    axes.step(x(seen), seen["metric"], where="post", color=BLUE, lw=1.2)
    axes.scatter(x(seen), seen["metric"], s=34, color=BLUE, zorder=3, label="observed front (single runs)")
    if len(believed):
        error = np.abs(believed[["lower", "upper"]].to_numpy(float).T - believed["mean"].to_numpy(float))
        axes.errorbar(x(believed), believed["mean"].astype(float), error, fmt="o-", ms=5, lw=1.2, capsize=3,
                      color=GREEN, zorder=5, label=f"model estimate ({len(done)} trainings), 90 %")  # fmt: skip
    for role, marker in zip(REFERENCES, "s^D", strict=True):
        rows = done[done["role"] == role]
        if rows.empty:
            continue
        axes.scatter(x(rows), rows["metric"], s=80, marker=marker, facecolors="none", edgecolors=RED,
                     linewidths=1.6, zorder=4, label=reference_name(role, rows["placement"].iloc[0]))  # fmt: skip
    axes.set_xlabel(f"{objective.cost} added to the plain backbone (%)" if zero else objective.cost)
    axes.set_ylabel(f"{objective.metric} (validation)")
    axes.grid(visible=True, alpha=0.25)
    axes.legend(fontsize=8)
    return figure


def draw_fronts(fronts: Mapping[str, pd.DataFrame], cost: str, value: str, metric: str, unit: str) -> Figure:
    """Fronts of several runs by name, with 90 % intervals where `value` is ``mean``."""
    factor, percent, _ = scale_of(unit)
    figure = new_figure(4.5)
    axes = figure.add_subplot()
    for k, (name, front) in enumerate(fronts.items()):
        y, error = factor * front[value].to_numpy(float), None
        if value == "mean":
            error = np.abs(factor * front[["lower", "upper"]].to_numpy(float).T - y)
        axes.errorbar(front[cost].to_numpy(float), y, error, fmt="-" + "osD^vP"[k % 6], ms=5, lw=1.2, capsize=3,
                      color=PALETTE[k % len(PALETTE)], label=name.replace("$", r"\$"))  # fmt: skip
    axes.set_xlabel(cost)
    axes.set_ylabel(f"{metric} ({percent})" if percent else metric)
    axes.grid(visible=True, alpha=0.25)
    axes.legend(fontsize=8)
    return figure


def shown_effects(effects: pd.DataFrame) -> pd.DataFrame:
    """The rows that a figure shows: all, or with many decisions one for each."""
    single = effects[effects["level"] != ANY]
    if effects["decision"].nunique() <= MANY_DECISIONS:
        return single
    means = effects[(effects["level"] == ANY) | (effects["decision"] == EVERYWHERE)]
    return means if len(means) > len(effects["decision"].unique()) / 2 else single


def draw_effects(effects: pd.DataFrame, objective: Objective, unit: str) -> Figure:
    """Effects with their 90 % intervals, one row each, a colour for each decision."""
    factor, _, difference = scale_of(unit)
    rows = shown_effects(effects).iloc[::-1]
    figure = new_figure(1.2 + 0.24 * len(rows))
    axes = figure.add_subplot()
    decisions = list(dict.fromkeys(effects["decision"]))
    for y, (_, row) in enumerate(rows.iterrows()):
        color = PALETTE[decisions.index(row["decision"]) % len(PALETTE)]
        axes.plot([factor * row["lower"], factor * row["upper"]], [y, y], color=color, lw=1.8)
        axes.plot(factor * row["effect"], y, "o", color=color, ms=5)
    axes.axvline(0, color="0.4", lw=0.8)
    axes.set_yticks(
        range(len(rows)),
        [f"{d}, {level_text(s, v)}" for d, s, v in zip(rows["decision"], rows["setting"], rows["level"], strict=True)],
        fontsize=8,
    )
    axes.set_xlabel(f"effect on {objective.metric}{f' ({difference})' if difference else ''}, 90 % interval")
    axes.grid(visible=True, axis="x", alpha=0.25)
    return figure
