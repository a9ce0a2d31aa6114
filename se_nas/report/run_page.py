"""The report of a run as a page: verdict, network, front, classes, effects, curves, and how to reproduce it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from se_nas.analysis.brief import in_brief
from se_nas.analysis.effects import EVERYWHERE
from se_nas.analysis.findings import Findings
from se_nas.analysis.summary import Summary
from se_nas.core.words import blocks_in, in_words, reference_name
from se_nas.report.budget import budgets
from se_nas.report.cards import cards
from se_nas.report.charts import curves_chart, effects_chart, effects_rows, progress_chart
from se_nas.report.checks_section import checks_sections
from se_nas.report.classes_section import classes_section
from se_nas.report.confirmed_section import confirmed_section
from se_nas.report.diagram import BlockFacts, draw_network, network_svg
from se_nas.report.files_section import files_section
from se_nas.report.front_chart import front_chart, runs_chart
from se_nas.report.gates_section import gates_section
from se_nas.report.page import Page, Section
from se_nas.report.reading import RunFacts, RunReading
from se_nas.report.rules_table import rules_section
from se_nas.report.run_section import run_section
from se_nas.report.trial_rows import failures_section, trial_columns, trial_heads


def run_page(found: Findings, summary: Summary, facts: RunFacts, *, refresh: float | None = None) -> Page:
    """The page of a run.

    Parameters
    ----------
    refresh:
        Seconds after which the page of a running search loads itself again; None when it has ended.
    """
    reading = RunReading.of(found, summary, facts)
    columns = trial_columns(found, reading.costs, reading.metric)
    groups: list[Callable[[RunReading], list[Section]]] = [
        _verdict, _network, _confirm, _checks, _front, _gates, _training,
    ]  # fmt: skip
    sections = [section for group in groups for section in group(reading)]
    if found.trials:
        text = "Click a column header to sort. trials.csv in the run folder has all columns."
        paged = trial_heads(reading.costs, reading.metric, columns)
        sections.append(Section(id="trials", title="All trials", short="Trials", paged=paged, text=[text]))
    sections.append(run_section(reading))
    cautions = (_anywhere(caution.text, summary) for caution in summary.verdict.cautions)
    state = "Search in progress" if refresh else "confirmed" if facts.confirmation is not None else summary.ended
    return Page(
        title=f"SE search: {_short(facts.config.backbone.target)} on {_short(facts.data.target.target)}",
        brief=tuple(_anywhere(text, summary) for text in in_brief(summary, facts.confirmation)),
        lead=" ".join((f"{state[:1].upper()}{state[1:]}.", *cautions)),
        sections=sections,
        figures=cards(reading),
        columns=columns,
        refresh=refresh,
        folder=facts.folder.name,
    )


def _verdict(reading: RunReading) -> list[Section]:
    """The verdict in sentences: that of a confirm if there was one, else the provisional one of the search."""
    summary = reading.summary
    text = [_anywhere(text, summary) for text in summary.verdict.texts] or list(summary.gained)
    text += [] if reading.recommended is None else [summary.recommendation]
    title = "Verdict" if summary.verdict.phase == "confirm" else "Verdict so far"
    return [Section(id="verdict", title=title, short="Verdict", text=text)]


def _network(reading: RunReading) -> list[Section]:
    """The network that is recommended, as a picture, what was found to be free, and its files."""
    found, facts, chosen = reading.found, reading.facts, reading.recommended
    files = files_section(reading)
    rest = [] if files is None else [files]
    trial = None if chosen is None else next(t for t in found.trials if t.number == chosen.trial)
    if trial is None or found.space is None:
        return rest
    units, blocks = found.space.units, trial.placement.blocks
    only_se = blocks_in(trial.placement.label) == "SE blocks"
    one = "an SE block" if only_se else "a block"
    text = f"Each box is a unit that could have {one}, stage by stage; {blocks} of {len(units)} have one."
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
            seen=f"The stages and {blocks_in(trial.placement.label)} of the network",
        ),
        *rest,
    ]  # fmt: skip


def _confirm(reading: RunReading) -> list[Section]:
    confirmation = reading.confirmation
    return [] if confirmation is None else [confirmed_section(confirmation, reading.metric, reading.costs)]


def _checks(reading: RunReading) -> list[Section]:
    summary = reading.summary
    return checks_sections(reading.found.training_checks, summary, lambda text: _anywhere(text, summary))


def _front(reading: RunReading) -> list[Section]:
    """The front with its budgets, the rules beside it, the classes, the effects, and what the model corrects."""
    found, metric = reading.found, reading.metric
    if not len(found.complete):
        return []
    done, rows = found.complete, np.flatnonzero([t.state == "complete" for t in found.trials])
    chart = budgets(reading, front_chart(reading, rows, reading.costs))
    rules, classes = rules_section(reading.summary), classes_section(reading)
    title = f"{metric.name} against cost"
    sections = [
        Section(id="front", title=title, short="Front", chart=chart, text=list(reading.summary.latency)),
        *([] if rules is None else [rules]),
        *([] if classes is None else [classes]),
        _effects(reading),
    ]
    if found.estimated:
        text = "Differences between single trainings are partly luck. This is how far the model estimate corrects them."
        sections.append(Section(id="runs", title="Single trainings and model estimate", short="Noise", text=[text],
                                chart=runs_chart(done, rows, metric)))  # fmt: skip
    return sections


def _effects(reading: RunReading) -> Section:
    found, metric = reading.found, reading.metric
    title = "What each stage and reduction does"
    effects = found.effects
    if effects is None:
        decisions = 0 if found.space is None else len(found.space.decisions)
        text = f"Effects are shown once there are three finished trainings more than the {decisions} decisions."
        return Section(id="effects", title=title, short="Effects", text=[text])
    everywhere = bool((effects["decision"] == EVERYWHERE).any())
    tables = [effects_rows(effects, metric, everywhere=False)]
    tables += [effects_rows(effects, metric, everywhere=True)] if everywhere else []
    text = (
        f"Model estimates from {reading.estimated_from}. Each effect is an average over all other decisions, limits on "
        "costs left aside."
    )
    return Section(
        id="effects", title=title, short="Effects", text=[text], chart=effects_chart(effects, metric), tables=tables
    )


def _gates(reading: RunReading) -> list[Section]:
    facts = reading.facts
    section = gates_section(facts.explanation or reading.summary.gates, facts.folder.name)
    return [] if section is None else [section]


def _training(reading: RunReading) -> list[Section]:
    """Learning curves, the progress of the search, and what failed."""
    found, sections = reading.found, []
    curves = curves_chart(found.trials, reading.metric, _named(reading))
    if curves is not None:
        chart, table = curves
        sections.append(Section(id="curves", title="Learning curves", short="Curves", chart=chart, tables=[table]))
    progress = progress_chart(found.complete, found.axes, reading.metric) if len(found.complete) else None
    if progress is not None:
        chart, table, text = progress
        title = "Progress of the search"
        sections.append(Section(id="progress", title=title, short="Progress", text=[text], chart=chart, tables=[table]))
    return [*sections, failures_section(found.trials)]


def _named(reading: RunReading) -> dict[int, str]:
    """The trials whose learning curves are shown by name."""
    summary, recommended = reading.summary, reading.recommended
    named = {n.trial: reference_name(role, n.placement) for role, n in summary.references.items()}
    for network, name in ((summary.best, "best"), (recommended, "recommended")):
        if network is not None:
            number = network.trial
            named[number] = f"{named[number]}, {name}" if number in named else f"{name} (trial {number})"
    return named


def _short(target: str) -> str:
    """A target without the folders of a path."""
    return target.rstrip("/").rpartition("/")[2] or target


def _anywhere(text: str, summary: Summary) -> str:
    """Text of a page that may be handed on: it names the run, not where it lies on this machine."""
    return text.replace(summary.folder, Path(summary.folder).name) if summary.folder else text
