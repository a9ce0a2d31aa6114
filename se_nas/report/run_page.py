"""The report of a run as a page: verdict, front, effects, curves, progress, failures, and how to do it again."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from se_nas.analysis.confirmation import Confirmation
from se_nas.analysis.effects import EVERYWHERE
from se_nas.analysis.explanation import Explanation
from se_nas.analysis.findings import Findings
from se_nas.analysis.folded_points import FoldedPoint
from se_nas.analysis.summary import Summary
from se_nas.core.config import LIGHTNING, SearchConfig, as_command
from se_nas.core.serialization import to_plain
from se_nas.core.words import cost_name, in_words, reference_name
from se_nas.data.base import DataInfo
from se_nas.report.charts import curves_chart, effects_chart, effects_rows, progress_chart
from se_nas.report.checks_section import checks_sections
from se_nas.report.confirmed_section import confirmed_figures, confirmed_section, headline
from se_nas.report.diagram import BlockFacts, draw_network, network_svg
from se_nas.report.figures import cost_columns
from se_nas.report.front_chart import front_chart, runs_chart
from se_nas.report.gates_section import gates_section
from se_nas.report.metric import Metric
from se_nas.report.page import Block, Head, Page, Section, Table
from se_nas.report.rules_table import rules_section
from se_nas.report.trial_rows import failures_section, trial_columns, trial_heads


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What a run was made with. ``times``: when the first trial started and the last one ended, as text."""

    folder: Path
    config: SearchConfig
    data: DataInfo
    times: tuple[str, str]
    confirmation: Confirmation | None = None
    folded: tuple[FoldedPoint, ...] = ()
    explanation: Explanation | None = None


def run_page(found: Findings, summary: Summary, facts: RunFacts, *, refresh: float | None = None) -> Page:
    """The page of a run.

    Parameters
    ----------
    refresh:
        Seconds after which the page of a running search loads itself again; None when it has ended.
    """
    metric, confirmation, config = Metric(found), facts.confirmation, facts.config
    costs = cost_columns(found.complete, found.axes) or list(found.axes)
    columns = trial_columns(found, costs, metric)
    recommended = None if summary.recommended is None else summary.recommended.trial
    sections = [_verdict(summary)]
    sections += _network(found, summary, facts)
    if confirmation is not None:
        sections.append(confirmed_section(confirmation, metric, costs))
    sections += checks_sections(found.training_checks, summary, lambda text: _anywhere(text, summary))
    if len(found.complete):
        sections += _front_sections(found, summary, costs, metric, facts.folded)
    if (gates := gates_section(facts.explanation or summary.gates, facts.folder.name)) is not None:
        sections.append(gates)
    curves = curves_chart(found.trials, metric, _named(summary, recommended))
    if curves is not None:
        sections.append(
            Section(id="curves", title="Learning curves", short="Curves", chart=curves[0], tables=[curves[1]])
        )
    progress = progress_chart(found.complete, found.axes, metric) if len(found.complete) else None
    if progress is not None:
        chart, table, text = progress
        title = "Progress of the search"
        sections.append(Section(id="progress", title=title, short="Progress", text=[text], chart=chart, tables=[table]))
    sections.append(failures_section(found.trials))
    if found.trials:
        text = "Click a column header to sort. trials.csv in the run folder has all columns."
        paged = trial_heads(costs, metric, columns)
        sections.append(Section(id="trials", title="All trials", short="Trials", paged=paged, text=[text]))
    sections.append(_what_ran(found, facts))
    cautions = (_anywhere(caution.text, summary) for caution in summary.verdict.cautions)
    state = "Search in progress" if refresh else "confirmed" if confirmation is not None else summary.ended
    return Page(
        title=f"SE search: {_short(config.backbone.target)} on {_short(facts.data.target.target)}",
        lead=" ".join((f"{state[:1].upper()}{state[1:]}.", *cautions)),
        sections=sections,
        figures=_figures(summary, confirmation, metric),
        columns=columns,
        refresh=refresh,
    )


def _network(found: Findings, summary: Summary, facts: RunFacts) -> list[Section]:
    """The network that is recommended, as a picture, and what was found to be free."""
    chosen = summary.recommended
    trial = None if chosen is None else next(t for t in found.trials if t.number == chosen.trial)
    if trial is None or found.space is None:
        return []
    units, blocks = found.space.units, trial.placement.blocks
    text = f"Each box is a unit that could have an SE block, stage by stage; {blocks} of {len(units)} have one."
    known: dict[str, BlockFacts] = {}
    if facts.explanation is not None and facts.explanation.key == trial.placement.key:
        for block in facts.explanation.blocks:
            time = None if block.milliseconds is None else block.milliseconds.value
            known[block.unit] = BlockFacts(milliseconds=time, gate=f"gate: {block.does}")
    return [
        Section(
            id="network", title=f"The network: {in_words(trial.placement.label)}", short="Network",
            text=[text, *(point.sentence for point in facts.folded)],
            picture=network_svg(draw_network(units, trial.placement, facts=known)),
            seen="The stages and SE blocks of the network",
        )
    ]  # fmt: skip


def _front_sections(
    found: Findings, summary: Summary, costs: Sequence[str], metric: Metric, folded: Sequence[FoldedPoint]
) -> list[Section]:
    """The front, the rules beside it, the effects, and what the model corrects of single trainings."""
    done, axes = found.complete, found.axes
    rows = np.flatnonzero([t.state == "complete" for t in found.trials])
    # The first view is over the cost that the search was for.
    ordered = sorted(costs, key=lambda name: (name not in axes, axes.index(name) if name in axes else 0))
    recommended = None if summary.recommended is None else summary.recommended.trial
    chart = front_chart(done, rows, ordered, metric, recommended=recommended, rules=summary.rules, folded=folded)
    rules = rules_section(summary)
    sections = [
        Section(
            id="front", title=f"{metric.name} against cost", short="Front", chart=chart, text=list(summary.latency)
        ),
        *([] if rules is None else [rules]),
        _effects(found, metric),
    ]
    if found.estimated:
        text = "Differences between single trainings are partly luck. This is how far the model estimate corrects them."
        sections.append(Section(id="runs", title="Single trainings and model estimate", short="Noise", text=[text],
                                chart=runs_chart(done, rows, metric)))  # fmt: skip
    return sections


def _short(target: str) -> str:
    """A target without the folders of a path."""
    return target.rstrip("/").rpartition("/")[2] or target


def _named(summary: Summary, recommended: int | None) -> dict[int, str]:
    """The trials whose learning curves are shown by name."""
    named = {n.trial: reference_name(role, n.placement) for role, n in summary.references.items()}
    best = None if summary.best is None else summary.best.trial
    for number, name in ((best, "best"), (recommended, "recommended")):
        if number is not None:
            named[number] = f"{named[number]}, {name}" if number in named else f"{name} (trial {number})"
    return named


def _figures(summary: Summary, confirmation: Confirmation | None, metric: Metric) -> list[tuple[str, str, str]]:
    """The numbers on top of the page: of the confirm if it has a verdict, else what the search says so far."""
    failed = f"{summary.failed:,} failed" if summary.failed else "none failed"
    figures = [("Trainings", f"{summary.trained:,} of {summary.budget:,}", failed)]
    if confirmation is not None and (confirmed := confirmation.network(confirmation.verdict.network)) is not None:
        return [*figures, *confirmed_figures(confirmation, confirmed, metric)]
    chosen, base = summary.recommended, summary.baseline
    if chosen is None:
        return figures
    note = f"{metric.span(chosen.lower, chosen.upper)} (90 %)" if chosen.mean is not None else "one training"
    figures.append(("Recommended so far", headline(chosen.placement), f"trial {chosen.trial}"))
    figures.append((metric.name, f"{metric.value(chosen.value)} {metric.unit}".strip(), note))
    if base is not None and base.trial != chosen.trial:
        name = summary.objective.cost
        known = base.costs.get(name)
        added = f"{100 * (chosen.costs[name] / known - 1):+.2f} % {cost_name(name)}" if known else ""
        gain = f"{metric.gain(chosen.value - base.value)} {metric.difference}".strip()
        figures.append(("Against no SE", gain, added))
    return figures


def _verdict(summary: Summary) -> Section:
    """The verdict in sentences: that of a confirm if there was one, else the provisional one of the search."""
    text = [_anywhere(text, summary) for text in summary.verdict.texts] or list(summary.gained)
    title = "Verdict" if summary.verdict.phase == "confirm" else "Verdict so far"
    return Section(id="verdict", title=title, short="Verdict", text=[*text, summary.recommendation])


def _anywhere(text: str, summary: Summary) -> str:
    """Text of a page that may be handed on: it names the run, not where it lies on this machine."""
    return text.replace(summary.folder, Path(summary.folder).name)


def _effects(found: Findings, metric: Metric) -> Section:
    title = "What each stage and reduction does"
    effects = found.effects
    if effects is None:
        decisions = 0 if found.space is None else len(found.space.decisions)
        text = f"Effects are shown from three finished trainings more than the {decisions} decisions of the space."
        return Section(id="effects", title=title, short="Effects", text=[text])
    everywhere = bool((effects["decision"] == EVERYWHERE).any())
    tables = [effects_rows(effects, metric, everywhere=False)]
    tables += [effects_rows(effects, metric, everywhere=True)] if everywhere else []
    text = "Each effect is an average over all other decisions, by the model estimate; limits on costs do not count."
    return Section(
        id="effects", title=title, short="Effects", text=[text], chart=effects_chart(effects, metric), tables=tables
    )


def _what_ran(found: Findings, facts: RunFacts) -> Section:
    """Config, data, versions, device, commit, seeds and times, and the command that does it again."""
    config, data, trials = facts.config, facts.data, found.trials
    space = found.space
    sizes = (
        ""
        if space is None
        else (f"{len(space.units)} units, {len(space.decisions)} decisions, {space.size:,} placements")
    )

    def counted(values: Sequence[str]) -> str:
        counts = Counter(v for v in values if v)
        return "; ".join(f"{v} ({n:,})" if len(counts) > 1 else v for v, n in counts.most_common(6)) or "not known"

    shape = " x ".join(str(n) for n in data.input_shape)
    own = data.kind == "own"
    rows = {
        "backbone": config.backbone.target,
        "data": f"{'the own data of ' if own else ''}{data.target.target}, {shape}",
        "images": "not known" if own else f"{data.train:,} training, {data.val:,} validation, {data.test:,} test",
        **({"data as read": "; ".join(note.removeprefix("data: ") for note in data.notes)} if data.notes else {}),
        "classes": f"{len(data.classes)}: {', '.join(data.classes[:20])}{' ...' if len(data.classes) > 20 else ''}",
        "checksums": f"data {data.checksum}, split {data.split}",
        **({} if config.trainer.target == LIGHTNING else {"trainer": config.trainer.target}),
        "space": sizes,
        "metric": f"{found.objective.metric} ({found.objective.direction})",
        "cost": ", ".join(found.axes),
        "sampler": config.sampler.target,
        "executor": config.executor.target,
        "seed": str(config.seed),
        "first trial": facts.times[0],
        "last trial": facts.times[1],
        "time in trainings": _duration(sum(t.seconds for t in trials)),
        "device": counted([t.device for t in trials]),
        "versions": counted([", ".join(f"{k} {v}" for k, v in t.versions.items()) for t in trials]),
        "commit": counted([t.commit for t in trials]),
    }
    table = Table(caption="Run details", heads=[Head(label="what"), Head(label="value")],
                  rows=[[name, value] for name, value in rows.items()])  # fmt: skip
    command = shlex.join(as_command(config, out=f"runs/{facts.folder.name}-again"))
    return Section(
        id="run",
        title="What was run",
        short="Run",
        tables=[table],
        blocks=[
            Block(title="Reproduce", text=command),
            Block(title="The whole configuration", text=yaml.safe_dump(to_plain(config), sort_keys=False), closed=True),
        ],
    )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours:,} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"
    )
