"""The report of a run as a page: verdict, front, effects, curves, progress, failures, and how to do it again."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from se_nas.charts import (
    Metric,
    cost_name,
    curves_chart,
    effects_chart,
    effects_rows,
    front_chart,
    progress_chart,
    runs_chart,
)
from se_nas.config import SearchConfig, as_command
from se_nas.confirmed import Confirmation, Confirmed, Estimate
from se_nas.data.base import DataInfo
from se_nas.effects import EVERYWHERE
from se_nas.figures import cost_columns, cost_text
from se_nas.page import Block, Column, Head, Page, Section, Table, escaped
from se_nas.records import Trial, to_plain
from se_nas.report import REFERENCES, reference_name
from se_nas.space import Space
from se_nas.study import INTERRUPTED, Objective
from se_nas.verdict import in_words

#: Failures in the table, at most: more of one kind say nothing new.
FAILURES = 50


def run_page(
    folder: Path,
    trials: Sequence[Trial],
    objective: Objective,
    space: Space,
    *,
    config: SearchConfig,
    data: DataInfo,
    content: dict[str, Any],
    done: pd.DataFrame,
    effects: pd.DataFrame | None,
    confirmation: Confirmation | None,
    times: tuple[str, str],
    refresh: float | None = None,
) -> Page:
    """The page of a run.

    Parameters
    ----------
    content, done, effects:
        `report.summary`, `report.complete_table` and `effects.effects_table` of the trials.
    times:
        When the first trial started and the last one ended, as text.
    refresh:
        Seconds after which the page of a running search loads itself again; None when it has ended.
    """
    metric = Metric(trials, objective)
    axes = (objective.cost, *objective.more)
    costs = cost_columns(done, axes) or list(axes)
    columns = _columns(trials, done, costs, metric)
    rows = np.flatnonzero([t.state == "complete" for t in trials])
    recommended = _recommended(content, confirmation)
    sections = [_verdict(content, confirmation)]
    if confirmation is not None:
        sections.append(_confirmed(confirmation, metric, costs))
    if len(done):
        # The first view is over the cost that the search was for.
        ordered = sorted(costs, key=lambda name: (name not in axes, axes.index(name) if name in axes else 0))
        chart = front_chart(done, rows, ordered, metric, recommended=recommended)
        sections.append(Section(id="front", title=f"{metric.name} against cost", short="Front", chart=chart))
        sections.append(_effects(effects, metric, len(space.decisions)))
    if done["mean"].notna().any():
        text = (
            "Differences between single trainings are partly luck. This is how far all of them together correct each."
        )
        sections.append(Section(id="runs", title="Single trainings and all together", short="Noise", text=[text],
                                chart=runs_chart(done, rows, metric)))  # fmt: skip
    curves = curves_chart(trials, metric, _named(content, recommended))
    if curves is not None:
        sections.append(
            Section(id="curves", title="Learning curves", short="Curves", chart=curves[0], tables=[curves[1]])
        )
    progress = progress_chart(done, axes, metric) if len(done) else None
    if progress is not None:
        chart, table, text = progress
        title = "Progress of the search"
        sections.append(Section(id="progress", title=title, short="Progress", text=[text], chart=chart, tables=[table]))
    sections.append(_failures(trials))
    if trials:
        text = "Click on a head to sort. trials.csv in the run folder has all columns."
        paged = _paged(costs, metric, columns)
        sections.append(Section(id="trials", title="All trials", short="Trials", paged=paged, text=[text]))
    sections.append(_what_ran(folder, trials, objective, space, config, data, times))
    state = "A search that is running" if refresh else "confirmed" if confirmation is not None else content["ended"]
    return Page(
        title=f"SE search: {_short(config.backbone.target)} on {_short(config.data.target)}",
        lead=f"{state[:1].upper()}{state[1:]}.",
        sections=sections,
        figures=_figures(content, confirmation, trials, metric),
        columns=columns,
        refresh=refresh,
    )


def _short(target: str) -> str:
    """A target without the folders of a path."""
    return target.rstrip("/").rpartition("/")[2] or target


def _recommended(content: dict[str, Any], confirmation: Confirmation | None) -> int | None:
    """The trial that the verdict names, else the best one or the cheaper one that it cannot be told apart from."""
    chosen = None if confirmation is None else confirmation.network(confirmation.verdict.network)
    if chosen is not None and chosen.trial is not None:
        return chosen.trial
    key = (content.get("verdict") or {}).get("network")
    rows = [*content["front"], *(content[role] for role in REFERENCES if content[role])]
    named = next((int(row["trial"]) for row in rows if key is not None and row["key"] == key), None)
    best = content["best"]
    if named is not None or best is None:
        return named
    return int(best["trial"] if best["tied_with"] is None else best["tied_with"])


def _named(content: dict[str, Any], recommended: int | None) -> dict[int, str]:
    """The trials whose learning curves are shown by name."""
    points = {role: content[role] for role in REFERENCES if content[role]}
    named = {int(row["trial"]): reference_name(role, row["placement"]) for role, row in points.items()}
    best = content["best"]
    for number, name in ((None if best is None else int(best["trial"]), "best"), (recommended, "recommended")):
        if number is not None:
            named[number] = f"{named[number]}, {name}" if number in named else f"{name} (trial {number})"
    return named


def _figures(
    content: dict[str, Any], confirmation: Confirmation | None, trials: Sequence[Trial], metric: Metric
) -> list[tuple[str, str, str]]:
    """The numbers on top of the page: of the confirm if it has a verdict, else what the search says so far."""
    failed = f"{content['failed']:,} failed" if content["failed"] else "none failed"
    figures = [("Trainings", f"{content['trained']:,} of {content['budget']:,}", failed)]
    if confirmation is not None and (chosen := confirmation.network(confirmation.verdict.network)) is not None:
        return [*figures, *_confirmed_figures(confirmation, chosen, metric)]
    recommended = _recommended(content, None)
    rows = [*content["front"], *(content[role] for role in REFERENCES if content[role])]
    row = next((r for r in rows if r["trial"] == recommended), None)
    if row is None:
        return figures
    believed = row["mean"] is not None
    value = row["mean"] if believed else row["metric"]
    note = f"{metric.span(row['lower'], row['upper'])} (90 %)" if believed else "one training"
    figures.append(("Recommended so far", _headline(str(row["placement"])), f"trial {row['trial']}"))
    figures.append((metric.name, f"{metric.value(value)} {metric.unit}".strip(), note))
    base = content["baseline"]
    if base is not None and base["trial"] != row["trial"]:
        gain = value - (base["mean"] if believed else base["metric"])
        name = content["objective"]["costs"][0]
        added = f"{100 * (row[name] / base[name] - 1):+.2f} % {cost_name(name)}" if base.get(name) else ""
        figures.append(("Against no SE", f"{metric.gain(gain)} {metric.difference}".strip(), added))
    return figures


def _confirmed_figures(found: Confirmation, chosen: Confirmed, metric: Metric) -> list[tuple[str, str, str]]:
    """What the confirm recommends, and its numbers on the test part."""
    seeds = f"confirmed with {len(found.seeds)} fresh seeds"
    figures = [("Recommended", _headline(chosen.label), seeds)]
    if chosen.test is not None:
        span = "" if chosen.test.interval is None else f"{metric.span(*chosen.test.interval)} (90 %)"
        value = f"{metric.value(chosen.test.mean)} {metric.unit}".strip()
        figures.append((f"{metric.name}, test part", value, span))
    base, difference = found.of_role("baseline"), chosen.against.get("baseline")
    if base is not None and difference is not None:
        cost = found.cost
        priced = cost in chosen.costs and cost in base.costs and base.costs[cost].value
        added = 100 * (chosen.costs[cost].value / base.costs[cost].value - 1) if priced else None
        note = "" if added is None else f"{added:+.2f} % {cost_name(cost)}"
        figures.append(("Against no SE", f"{metric.gain(difference.mean)} {metric.difference}".strip(), note))
    return figures


def _headline(label: str) -> str:
    words = in_words(label)
    return words[:1].upper() + words[1:]


def _verdict(content: dict[str, Any], confirmation: Confirmation | None) -> Section:
    """The verdict in sentences: that of a confirm if there was one, else the provisional one of the search."""
    if confirmation is not None:
        return Section(id="verdict", title="Verdict", text=[s.text for s in confirmation.verdict.sentences])
    # The page may be handed on: it names the run, not where it lies on this machine.
    name = Path(content["out"]).name
    sentences = [s["text"].replace(content["out"], name) for s in (content.get("verdict") or {}).get("sentences", ())]
    return Section(id="verdict", title="Verdict so far", short="Verdict", text=sentences or content["gained"])


def _confirmed(found: Confirmation, metric: Metric, costs: Sequence[str]) -> Section:
    """What fresh seeds and the test part say of the finalists."""

    def estimate(e: Estimate | None) -> list[str]:
        return ["", ""] if e is None else [metric.value(e.mean), "" if e.interval is None else metric.span(*e.interval)]

    rows: list[list[str]] = []
    marked: list[int] = []
    points = {role: found.of_role(role) for role in REFERENCES if role != "given"}
    names = {role: reference_name(role, point.label) for role, point in points.items() if point is not None}
    for network in found.networks:
        if network.key == found.verdict.network:
            marked.append(len(rows))
        cells = [network.label.replace(",", ", ")]
        cells[0] += f" ({reference_name(network.role, network.label)})" if network.role in REFERENCES else ""
        cells += [str(len(network.validation.values)), *estimate(network.validation), *estimate(network.test)]
        for role in names:
            difference = network.against.get(role)
            span = None if difference is None else difference.family_interval or difference.interval
            cells.append("" if difference is None else metric.gain(difference.mean))
            cells.append("" if span is None else f"{metric.gain(span[0])} to {metric.gain(span[1])}")
            chance = (
                None if difference is None else difference.family_p if difference.family_p is not None else difference.p
            )
            cells.append("" if chance is None else f"{chance:.3f}")
        cells.append(metric.gain(network.optimism))
        cells += [cost_text(network.costs[n].value, n) if n in network.costs else "" for n in costs]
        rows.append(cells)
    heads = [Head(label="network")]
    heads += [Head(label=label, number=True) for label in ("seeds", f"validation, {metric.head}", "90 % interval",
                                                           f"test, {metric.head}", "90 % interval")]  # fmt: skip
    for name in names.values():
        heads += [
            Head(label=label, number=True)
            for label in (f"test against {name}", "90 % interval, all finalists", "p, all finalists")
        ]
    heads.append(Head(label="optimism of the search", number=True))
    heads += [Head(label=cost_name(n), number=True) for n in costs]
    text = [
        f"Trained again with {len(found.seeds)} fresh seeds, the same for all, for {found.epochs} "
        f"{'epoch' if found.epochs == 1 else 'epochs'}. Chosen on "
        f"the validation part; the test part ({found.test_images:,} images) was opened {found.openings} "
        f"{'time' if found.openings == 1 else 'times'} in this run."
    ]
    if found.noise is not None:
        text.append(
            f"Noise of one training: {metric.value(found.noise.seed_sd)} {metric.difference}; by the finite test part: "
            f"{metric.value(found.noise.image_sd)} {metric.difference}."
        )
    table = Table(caption="Confirmed with fresh seeds, by rising cost", heads=heads, rows=rows, marked=tuple(marked))
    return Section(id="confirmed", title="Confirmed with fresh seeds", short="Confirmed", text=text, tables=[table])


def _effects(effects: pd.DataFrame | None, metric: Metric, decisions: int) -> Section:
    title = "What each stage and reduction does"
    if effects is None:
        text = f"Effects are shown from three finished trainings more than the {decisions} decisions of the space."
        return Section(id="effects", title=title, short="Effects", text=[text])
    everywhere = bool((effects["decision"] == EVERYWHERE).any())
    tables = [effects_rows(effects, metric, everywhere=False)]
    tables += [effects_rows(effects, metric, everywhere=True)] if everywhere else []
    text = (
        "Each effect is an average over all other decisions, by all trainings together; limits on costs do not count."
    )
    return Section(
        id="effects", title=title, short="Effects", text=[text], chart=effects_chart(effects, metric), tables=tables
    )


def _failures(trials: Sequence[Trial]) -> Section:
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
        Head(label="how often", number=True),
        Head(label="trials"),
        Head(label="first placement"),
    ]
    tables = [Table(caption="Failed, stopped early and rejected", heads=heads, rows=rows)] if rows else []
    return Section(id="failures", title="Failures", text=text, tables=tables)


def _columns(trials: Sequence[Trial], done: pd.DataFrame, costs: Sequence[str], metric: Metric) -> dict[str, list[Any]]:
    """The rows that charts and the table of all trials share: the metric as it is shown, None for no value."""
    told = done.set_index("trial")

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
        **{name: [_rounded(t.costs[name].value) if name in t.costs else None for t in trials] for name in costs},
        "epochs": [len(t.curve) for t in trials],
        "seconds": [round(t.seconds, 1) for t in trials],
        "reason": [t.reason for t in trials],
    }
    # Most networks need no second copy of their labels.
    return {**columns, "shown": columns["placement"]} if columns["shown"] == columns["placement"] else columns


def _rounded(value: float) -> float | None:
    return float(f"{value:.9g}") if np.isfinite(value) else None


def _paged(costs: Sequence[str], metric: Metric, columns: dict[str, list[Any]]) -> list[Column]:
    believed = any(v is not None for v in columns["mean"])
    heads = [
        Column(key="trial", label="trial", digits=0),
        Column(key="placement", label="placement", long=True),
        Column(key="state", label="state"),
        *([Column(key="role", label="reference", long=True)] if any(columns["role"]) else []),
        Column(key="metric", label=f"one training, {metric.head}", digits=metric.digits),
    ]
    if believed:
        heads.append(Column(key="mean", label=f"all trainings, {metric.head}", digits=metric.digits))
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


def _what_ran(
    folder: Path, trials: Sequence[Trial], objective: Objective, space: Space, config: SearchConfig, data: DataInfo,
    times: tuple[str, str],
) -> Section:  # fmt: skip
    """Config, data, versions, device, commit, seeds and times, and the command that does it again."""
    seconds = sum(t.seconds for t in trials)

    def counted(values: Sequence[str]) -> str:
        counts = Counter(v for v in values if v)
        return "; ".join(f"{v} ({n:,})" if len(counts) > 1 else v for v, n in counts.most_common(6)) or "not known"

    shape = " x ".join(str(n) for n in data.input_shape)
    facts = {
        "backbone": config.backbone.target,
        "data": f"{config.data.target}, {shape}",
        "images": f"{data.train:,} training, {data.val:,} validation, {data.test:,} test",
        "classes": f"{len(data.classes)}: {', '.join(data.classes[:20])}{' ...' if len(data.classes) > 20 else ''}",
        "checksums": f"data {data.checksum}, split {data.split}",
        "space": f"{len(space.units)} units, {len(space.decisions)} decisions, {space.size:,} placements",
        "metric": f"{objective.metric} ({objective.direction})",
        "cost": ", ".join((objective.cost, *objective.more)),
        "sampler": config.sampler.target,
        "executor": config.executor.target,
        "seed": str(config.seed),
        "first trial": times[0],
        "last trial": times[1],
        "time in trainings": _duration(seconds),
        "device": counted([t.device for t in trials]),
        "versions": counted([", ".join(f"{k} {v}" for k, v in t.versions.items()) for t in trials]),
        "commit": counted([t.commit for t in trials]),
    }
    table = Table(caption="Facts of the run", heads=[Head(label="what"), Head(label="value")],
                  rows=[[name, value] for name, value in facts.items()])  # fmt: skip
    command = shlex.join(as_command(config, out=f"runs/{folder.name}-again"))
    return Section(
        id="run",
        title="What was run",
        short="Run",
        tables=[table],
        blocks=[
            Block(title="The command that does it again", text=command),
            Block(title="The whole configuration", text=yaml.safe_dump(to_plain(config), sort_keys=False), closed=True),
        ],
    )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours:,} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"
    )
