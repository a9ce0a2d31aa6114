"""Rules that need no search beside the networks of a search: a section of the page, and a table of the terminal."""

from __future__ import annotations

from se_nas.analysis.rule_estimates import RuleEstimate
from se_nas.analysis.summary import Network, Summary
from se_nas.core.words import CHANCES_HEAD, amount, chances_cell, chances_note, cost_name, gain_span, in_words
from se_nas.report.fitted_table import Column, FittedTable
from se_nas.report.page import Head, Section, Table

TITLE = "Rules that need no search"
COSTS = ("params", "macs")
HEADS = ("rule", "placement", "trial", "gain", "90 % interval", CHANCES_HEAD,
         *(f"{cost_name(name)} added" for name in COSTS))  # fmt: skip
RANKS = (0, 4, 6, 0, 3, 1, 5, 2)
"""Of the columns, in a terminal: those of a lower rank stay longer."""


def rules_section(summary: Summary) -> Section | None:
    """The rules as a section of the page; None where there is nothing to compare."""
    if not (rows := _cells(summary)):
        return None
    rule, placement, *numbers = HEADS
    text = [
        "What you would get without a search: rules that others ship or recommend, each with the reduction of the "
        "space that is nearest to 16. Gains are model estimates, also for networks that were not trained."
    ]
    table = Table(
        caption=f"{TITLE}, vs. no SE. {chances_note(summary.margin, summary.unit)}.",
        heads=[Head(label=rule), Head(label=placement), *(Head(label=name, number=True) for name in numbers)],
        rows=rows,
    )
    return Section(id="rules", title=TITLE, short="Rules", text=text, tables=[table])


def rules_display(summary: Summary) -> FittedTable | None:
    """The rules as a table of the terminal; None where there is nothing to compare."""
    if not (cells := _cells(summary)):
        return None
    return FittedTable(
        title=f"{TITLE} (model estimate from {summary.complete} trainings)",
        columns=[
            Column(head=head, cells=column, rank=rank, text=i < 2)
            for i, (head, rank, column) in enumerate(zip(HEADS, RANKS, zip(*cells, strict=True), strict=True))
        ],
        elsewhere="all of it: report.html",
    )


def _cells(summary: Summary) -> list[list[str]]:
    base = summary.baseline
    known = [rule for rule in summary.rules if rule.gain is not None]
    return [] if base is None else [_row(rule, base, summary.unit) for rule in known]


def _row(rule: RuleEstimate, base: Network, unit: str) -> list[str]:
    low, high = rule.gain_low or 0.0, rule.gain_high or 0.0
    return [
        "; ".join(rule.rules),
        in_words(rule.placement),
        "not trained" if rule.trial is None else str(rule.trial),
        amount(rule.gain or 0.0, unit),
        gain_span(low, high, unit),
        chances_cell(rule.p_better, rule.p_same, rule.p_worse),
        *(_added(rule.costs[name], base.costs[name]) for name in COSTS),
    ]


def _added(cost: float, without: float) -> str:
    share = f" ({100 * (cost / without - 1):+.2f} %)" if without else ""
    return f"{cost - without:+,.0f}{share}"
