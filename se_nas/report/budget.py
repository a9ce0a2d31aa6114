"""The network that one would take under a budget, for each cost and each budget, with the command that exports it.

The rule is that of ``se-nas export --select max-COST=X``: `se_nas.analysis.selection.budget_steps`.
"""

from __future__ import annotations

import shlex
from dataclasses import replace

from se_nas.analysis.confirmation import Confirmed
from se_nas.analysis.selection import budget_steps, limited_costs
from se_nas.analysis.summary import Network
from se_nas.core.costs import cost_facts
from se_nas.core.words import TOGETHER, chances_text, cost_name, cost_text, in_words
from se_nas.report.page import Budget, Chart, Offer
from se_nas.report.reading import RunReading


def budgets(reading: RunReading, chart: Chart) -> Chart:
    """The chart of the front with a slider for each of its views, which are those of the costs in their order."""
    found, limited = reading.found, limited_costs(reading.found)
    known = {name: budget_steps(found, name) if name in limited else ([], 0.0) for name in reading.costs}
    trials = list(dict.fromkeys(trial for steps, _ in known.values() for _, trial in steps))
    place = {int(trial): k for k, trial in enumerate(found.complete["trial"])}
    made: list[Budget | None] = []
    for name, (steps, high) in known.items():
        if not steps:
            made.append(None)
            continue
        base, wanted = reading.summary.baseline, reading.recommended
        zero = (base.costs.get(name) or 0.0) if base is not None else 0.0
        start = high if wanted is None else wanted.costs.get(f"{name}_high", wanted.costs.get(name, high))
        facts = cost_facts(name)
        made.append(
            Budget(
                name=facts.word if facts.whole else cost_name(name), unit=_unit(name), whole=facts.whole,
                low=steps[0][0], high=high, start=start, zero=zero, factor=100 / zero if zero else 1.0,
                steps=[(limit, trials.index(trial)) for limit, trial in steps],
            )
        )  # fmt: skip
    return replace(
        chart, budgets=made, offers=[_offer(Network.of(found.complete.iloc[place[trial]]), reading) for trial in trials]
    )


def _unit(name: str) -> str:
    """What follows an amount of a cost that is no count."""
    facts = cost_facts(name)
    return facts.word if name == "gflops" else f"{facts.unit} of {facts.word}" if facts.unit else facts.word


def _offer(network: Network, reading: RunReading) -> Offer:
    facts, confirmation = reading.facts, reading.confirmation
    confirmed = None if confirmation is None else confirmation.network(network.key)
    title = in_words(network.placement)
    said = [_value(network, reading, confirmed), _gain(network, reading, confirmed), _costs(network, reading),
            _beside(network, reading)]  # fmt: skip
    storage = "" if facts.storage is None else f" --storage {shlex.quote(facts.storage)}"
    command = f"se-nas export RUN --select trial={network.trial}{storage}"
    if network.trial not in facts.kept:
        said.append("Its weights are not in the run folder: it has to be trained again.")
        command = f"se-nas train --config RUN/config.yaml --placement {shlex.quote(network.placement)}"
    return Offer(
        title=f"{title} (trial {network.trial})",
        placement=network.placement.replace(",", ", "),
        facts=[text for text in said if text],
        command=command,
    )


def _value(network: Network, reading: RunReading, confirmed: Confirmed | None) -> str:
    """The metric by its best estimate, which is named."""
    metric = reading.metric
    if confirmed is not None:
        return metric.confirmed_text(confirmed)
    if network.mean is None:
        return f"{metric.name} {metric.with_unit(network.metric)} in one training"
    span = metric.span(network.lower, network.upper)
    return f"{metric.name} {metric.with_unit(network.mean)} (model estimate, 90 % interval {span})"


def _gain(network: Network, reading: RunReading, confirmed: Confirmed | None) -> str:
    """What it has over no SE: as confirmed on the test set, else by the model, else as seen."""
    base, metric = reading.summary.baseline, reading.metric
    if base is None or base.trial == network.trial:
        return ""
    difference = None if confirmed is None else confirmed.against.get("baseline")
    if difference is not None:
        ends = difference.family_interval or difference.interval
        span = "" if ends is None else f" ({TOGETHER} 90 % interval {metric.gain(ends[0])} to {metric.gain(ends[1])})"
        return f"{metric.gain_text(difference.mean)} vs. no SE on the test set{span}"
    if network.gain is None or network.gain_low is None or network.gain_high is None:
        return f"{metric.gain_text(network.metric - base.metric)} vs. no SE, one training each"
    chances = chances_text(network.p_better or 0.0, network.p_same or 0.0, network.p_worse or 0.0)
    span = metric.gain_span(network.gain_low, network.gain_high)
    return f"{metric.gain_text(network.gain)} vs. no SE (model estimate, 90 % interval {span}); {chances}"


def _costs(network: Network, reading: RunReading) -> str:
    known = [name for name in reading.costs if name in network.costs]
    units = {name: cost_facts(name).word if cost_facts(name).whole else _unit(name) for name in known}
    return ", ".join(f"{cost_text(network.costs[name], name)} {units[name]}" for name in known)


def _beside(network: Network, reading: RunReading) -> str:
    """How it stands to the recommended network, so that the page never seems to disagree with itself."""
    recommended = reading.recommended
    if recommended is None:
        return "Single trainings differ by luck: nothing can be recommended yet"
    if recommended.trial == network.trial:
        return "This is the recommended network"
    name = f"{in_words(recommended.placement)} (trial {recommended.trial})"
    return f"The recommended network is {name}; this one is not shown to be better"
