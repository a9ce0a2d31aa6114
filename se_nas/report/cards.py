"""The numbers on top of the page: of the confirm if it has a verdict, else what the search says so far."""

from __future__ import annotations

from se_nas.core.words import cost_name
from se_nas.report.confirmed_section import confirmed_figures, headline
from se_nas.report.reading import Reading

Card = tuple[str, str, str]
"""Name, value and note."""


def cards(reading: Reading) -> list[Card]:
    """How many trainings there are, and the recommended network with its numbers where there is one."""
    summary, confirmation = reading.summary, reading.confirmation
    failed = f"{summary.failed:,} failed" if summary.failed else "none failed"
    found = [("Number of trainings", f"{summary.trained:,} of {summary.budget:,}", failed)]
    if confirmation is not None and (confirmed := confirmation.network(confirmation.verdict.network)) is not None:
        return [*found, *confirmed_figures(confirmation, confirmed, reading.metric)]
    return found if reading.recommended is None else [*found, *_so_far(reading)]


def _so_far(reading: Reading) -> list[Card]:
    """The recommended network by the search alone."""
    chosen, base, metric = reading.recommended, reading.summary.baseline, reading.metric
    assert chosen is not None  # noqa: S101  # the caller has looked
    note = "one training"
    if chosen.mean is not None:
        note = f"model estimate, {metric.span(chosen.lower, chosen.upper)} (90 %)"
    found = [
        ("Recommended so far", headline(chosen.placement), f"trial {chosen.trial}"),
        (f"{metric.name}, validation set", metric.with_unit(chosen.value), note),
    ]
    if base is not None and base.trial != chosen.trial:
        name = reading.summary.objective.cost
        known = base.costs.get(name)
        added = f"{100 * (chosen.costs[name] / known - 1):+.2f} % {cost_name(name)}" if known else ""
        found.append(("vs. no SE", metric.gain_text(chosen.value - base.value), added))
    return found
