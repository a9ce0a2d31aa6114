"""The sections of what was asked of a run: whether its trainings were long enough, and why SE did not help."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from se_nas.analysis.checks import Check
from se_nas.analysis.summary import Summary
from se_nas.report.page import Head, Section, Table

ANSWERS = {True: "yes", False: "no", None: "not tested"}


def checks_sections(training: Sequence[Check], summary: Summary, shown: Callable[[str], str]) -> list[Section]:
    """One section for each group of checks that there is; `shown` is applied to each text."""
    sections = []
    if training:
        text = "Undertrained networks cannot be compared. A yes here matters more than anything else."
        title = "Were the networks trained enough?"
        sections.append(
            Section(id="trained", title=title, short="Trained", text=[text], tables=[_table(title, training, shown)])
        )
    if summary.reasons:
        text = "The usual reasons why no placement pays, each tested on this run."
        title = "Why SE did not help here"
        tables = [_table(title, summary.reasons, shown)]
        sections.append(Section(id="why", title=title, short="Why not", text=[text], tables=tables))
    return sections


def _table(caption: str, checks: Sequence[Check], shown: Callable[[str], str]) -> Table:
    rows = [[check.question, ANSWERS[check.holds], shown(check.text)] for check in checks]
    marked = tuple(number for number, check in enumerate(checks) if check.holds)
    heads = [Head(label="question"), Head(label="answer"), Head(label="what was seen")]
    return Table(caption=caption, heads=heads, rows=rows, marked=marked)
