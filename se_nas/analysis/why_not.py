"""Why SE did not help: the usual reasons, each tested on the run, each with its number."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from se_nas.analysis.checks import Check
from se_nas.analysis.confirmation import Confirmation, Verdict
from se_nas.analysis.explanation import Explanation
from se_nas.analysis.findings import Findings
from se_nas.analysis.gain_curve import GainRise, paired_rise, searched_rise
from se_nas.analysis.gate_report import gate_check
from se_nas.analysis.probe_report import Probe, probe_check
from se_nas.core.config import Limits
from se_nas.core.costs import cost_facts
from se_nas.core.errors import PluginError
from se_nas.core.trial import Trial
from se_nas.core.words import ALONE, amount, in_words
from se_nas.space.exact_cost import NOTHING, Cost, se_cost
from se_nas.space.space import Decision, Part

CHEAP = 0.01
"""Share of the cost without SE that a cheap placement adds at most."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What the reasons are tested on.

    ``confirmed``: the trainings of the confirm, if there was one; ``gates`` of a network with SE, or ``no_gates``: why
    there are none; ``probe`` of the learning rate, or ``no_probe``: what to do for one; ``limits`` on costs.
    """

    found: Findings
    confirmation: Confirmation | None = None
    confirmed: Sequence[Trial] = ()
    gates: Explanation | None = None
    no_gates: str = ""
    probe: Probe | None = None
    no_probe: str = ""
    limits: Limits = field(default_factory=Limits)


def helped(verdict: Verdict) -> bool:
    """Whether there is nothing to explain: SE helps, or nobody knows anything yet."""
    return verdict.claim not in ("without", "undecided")


def why_not(evidence: Evidence) -> tuple[Check, ...]:
    """Noise, epochs, learning rate, gates, and cost: whether each is a reason that no placement was worth it."""
    found = evidence.found
    noise = None if found.told is None else found.told.posterior.noise
    return (
        _noise(evidence),
        _epochs(evidence),
        probe_check(evidence.probe, noise=noise, margin=_margin(evidence), why_not=evidence.no_probe),
        gate_check(evidence.gates, why_not=evidence.no_gates),
        _cost(found, evidence.limits),
    )


def _margin(evidence: Evidence) -> float:
    return evidence.found.margin if evidence.confirmation is None else evidence.confirmation.margin


def _noise(evidence: Evidence) -> Check:
    """Whether what is not known of the gain is more than the margin."""
    check = functools.partial(Check, name="noise", question="Does the noise exceed the margin?")
    unit = evidence.found.unit
    margin, seen = _margin(evidence), _half_width(evidence)
    if seen is None:
        return check(holds=None, text="Not tested: the trainings are too few for an interval.")
    half, what = seen
    one = _noise_of_one(evidence)
    numbers = {"half_width": half, "margin": margin} | ({} if one is None else {"noise": one})
    single = "" if one is None else amount(one, unit, signed=False)
    of_one = single and f", and the standard deviation of a single training is {single}"
    alone = "" if evidence.confirmation is None else f", {ALONE}"
    text = (
        f"the gain of {what} is known to {amount(half, unit, signed=False)} either way (90 %{alone}){of_one}; the "
        f"margin is {amount(margin, unit, signed=False)}"
    )
    if half <= margin:
        return check(holds=False, text=f"No: {text}.", numbers=numbers)
    more = "more seeds or test images" if evidence.confirmation is not None else "se-nas confirm, or more trainings"
    text = f"The noise exceeds the margin: {text}. Seeing such a gain takes {more}."
    return check(holds=True, text=text, numbers=numbers)


def _half_width(evidence: Evidence) -> tuple[float, str] | None:
    """Half of the 90 % interval of the gain that counts most, and whose it is."""
    confirmation, found = evidence.confirmation, evidence.found
    if confirmation is not None:
        winner = confirmation.network(confirmation.winner)
        difference = None if winner is None else winner.against.get("baseline")
        if winner is None or difference is None or difference.interval is None:
            return None
        low, high = difference.interval
        return abs(high - low) / 2, in_words(winner.label)
    table = found.complete
    others = table[(table["role"] != "baseline") & table["gain"].notna()]
    if others.empty:
        return None
    best = others.iloc[int((found.sign * others["gain"]).argmax())]
    return abs(float(best["gain_high"]) - float(best["gain_low"])) / 2, in_words(str(best["placement"]))


def _noise_of_one(evidence: Evidence) -> float | None:
    confirmation, told = evidence.confirmation, evidence.found.told
    if confirmation is not None and confirmation.noise is not None:
        return confirmation.noise.seed_sd
    return None if told is None else told.posterior.noise


def _epochs(evidence: Evidence) -> Check:
    """Whether the gain of SE still rises at the end of the trainings."""
    check = functools.partial(Check, name="epochs", question="Are there too few epochs for SE?")
    found = evidence.found
    metric, sign = found.objective.metric, found.sign
    rise = paired_rise(evidence.confirmed, metric, sign) if evidence.confirmed else None
    trials = evidence.confirmed
    if rise is None and found.space is not None:
        trials = [t for t in found.trials if t.state == "complete"]
        rise = searched_rise(trials, found.space, metric, sign)
    if rise is None:
        return check(holds=None, text="Not tested: there are too few learning curves.")
    numbers = {"rise": rise.rise, "lower": rise.low, "upper": rise.high, "gain": rise.gain}
    text = _rise_text(rise, found.unit)
    if rise.low <= 0:
        return check(holds=False, text=f"No, not by the curves: {text}.", numbers=numbers)
    more = 2 * trials[0].identity.epochs
    text = f"There are too few epochs for SE: {text}. Networks with SE still catch up: give --epochs {more}."
    return check(holds=True, text=text, numbers=numbers)


def _rise_text(rise: GainRise, unit: str) -> str:
    whose = "the gain vs. no SE" if rise.paired else "the gain of SE everywhere"
    of = f"{rise.number} seeds, the same for all networks" if rise.paired else f"{rise.number} trainings"
    last = "epoch" if rise.epochs == 1 else f"{rise.epochs} epochs"
    span = f"{amount(rise.low, unit, name=False)} to {amount(rise.high, unit, name=False)}"
    return (
        f"{whose} changes by {amount(rise.rise, unit)} an epoch over the last {last} (90 % interval {span}; {of}), to "
        f"{amount(rise.gain, unit)} at the end"
    )


def _cost(found: Findings, limits: Limits) -> Check:
    """Whether the space has a placement that costs next to nothing, within the limits."""
    check = functools.partial(Check, name="cost", question="Is there no cheap placement in the space?")
    name = cost_facts(found.objective.cost).word
    base = next((t for t in found.trials if t.role == "baseline" and t.state == "complete"), None)
    if base is None or not (options := list(_options(found, base, limits))):
        text = f"Not tested: what a placement adds in {name} is not known beforehand."
        return check(holds=None, text=text)
    allowed = [option for option in options if option.allowed]
    if not allowed:
        text = "The space has no cheap placement: none with SE is within the limits."
        return check(holds=True, text=text, numbers={"placements": 0.0})
    cheapest = min(allowed, key=lambda option: option.share)
    text = f"{in_words(cheapest.label)} adds {100 * cheapest.share:.2g} % {name}, the least of all"
    numbers = {"added": cheapest.share}
    if cheapest.share <= CHEAP:
        return check(holds=False, text=f"No: {text}.", numbers=numbers)
    text = (
        f"The space has no cheap placement: {text}. Offer larger reductions, or decide for each block (--space "
        "blockwise)."
    )
    return check(holds=True, text=text, numbers=numbers)


@dataclass(frozen=True, kw_only=True)
class _Option:
    """A placement with SE: its share of the cost without SE, added to that, and whether the limits allow it."""

    label: str
    share: float
    allowed: bool = True


_EXACT = {name: (name, 1.0) for name in ("params", "macs", "activations")} | {"gflops": ("macs", 1e9)}
"""Cost -> what the closed form calls it, and in which units."""


def _options(found: Findings, base: Trial, limits: Limits) -> Iterator[_Option]:
    """Placements with SE in one decision, by the closed form; of other costs the networks that were trained."""
    name = found.objective.cost
    before = {cost: value.value for cost, value in base.costs.items()}
    if not before.get(name):
        return
    if name not in _EXACT or found.space is None:
        trained = (t for t in found.trials if t.placement.blocks and name in t.costs)
        yield from (_Option(label=t.placement.label, share=t.costs[name].value / before[name] - 1) for t in trained)
        return
    for decision in found.space.decisions:
        for part in found.space.parts(decision).values():
            added = _added(decision, part)
            if added is None:
                continue
            costs = {cost: before[cost] + getattr(added, own) / scale for cost, (own, scale) in _EXACT.items()
                     if cost in before}  # fmt: skip
            within = all(value <= getattr(limits, cost) for cost, value in costs.items() if getattr(limits, cost))
            reduction = part.label[0] if isinstance(part.label[0], str) else f"{part.label[0]:g}"
            label = f"{decision.name}={reduction}"
            yield _Option(label=label, share=costs[name] / before[name] - 1, allowed=within)


def _added(decision: Decision, part: Part) -> Cost | None:
    """What the choices of a decision add; None without a block, or where that is not known.

    It is not of `keep`, nor of a block whose code is not at hand or not trusted.
    """
    total, blocks = NOTHING, 0
    for unit in decision.units:
        choice = part.choices[unit.name]
        if choice.kind == "keep":
            return None
        if choice.kind == "se":
            site = unit.site(choice.position)
            try:
                total += se_cost(site.channels, site.size, choice).times(site.uses)
            except PluginError:
                return None
            blocks += 1
    return total if blocks else None
