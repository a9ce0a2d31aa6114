"""What a search found, in a few lines: counts, the best network, the reference points, and what was gained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import pandas as pd

from se_nas.analysis.checks import Check
from se_nas.analysis.confirmation import Confirmation, Sentence, Verdict
from se_nas.analysis.explanation import Explanation
from se_nas.analysis.findings import Findings
from se_nas.analysis.gate_report import gates_in_brief
from se_nas.analysis.rule_estimates import RuleEstimate
from se_nas.analysis.tables import best_row, plain_row
from se_nas.analysis.verdict import price_text
from se_nas.core.serialization import to_plain
from se_nas.core.trial import BLAMELESS, Objective
from se_nas.core.words import (
    REFERENCES,
    amount,
    chances_text,
    counted,
    few,
    gain_span,
    in_words,
    level_of,
    levels_of,
    reference_name,
)
from se_nas.samplers.front import TOLD_APART
from se_nas.space.latency_fit import LatencyFit
from se_nas.space.pricing import limits_given, over_limit

LIKELY, UNLIKELY = 0.9, 0.1
"""A search says that a network looks better where it gains more than the margin with the first probability at least,
and that nothing looks worth its cost where every trained network does so with the second at most."""


@dataclass(frozen=True, kw_only=True)
class Network:
    """A trained network of a search: one training, and what the model of all trainings says of it (None: nothing)."""

    trial: int
    key: str
    placement: str
    role: str
    metric: float
    """Of its one training."""
    costs: dict[str, float]
    mean: float | None = None
    lower: float | None = None
    upper: float | None = None
    p_front: float | None = None
    gain: float | None = None
    gain_low: float | None = None
    gain_high: float | None = None
    p_better: float | None = None
    p_same: float | None = None
    p_worse: float | None = None
    tied_with: int | None = None
    p_beats: float | None = None
    observed_front: bool = False
    posterior_front: bool = False
    recommended: bool = False

    @property
    def value(self) -> float:
        """The model's estimate of the metric where there is one, else that of the one training."""
        return self.metric if self.mean is None else self.mean

    @property
    def interval(self) -> tuple[float, float]:
        """The 90 % interval of the estimate; 0 where there is none."""
        return self.lower or 0.0, self.upper or 0.0

    @classmethod
    def of(cls, row: pd.Series) -> Network:
        """The network of a row of `Findings.complete` or `Findings.front`."""
        plain = plain_row(row)
        own = {f.name for f in fields(cls)} - {"costs"}
        costs = {name: value for name, value in plain.items() if name not in own and isinstance(value, int | float)}
        known = {name: plain[name] for name in own if name in plain}
        if known.get("tied_with") is not None:  # beside missing values pandas makes it a float
            known["tied_with"] = int(known["tied_with"])
        return cls(**known, costs=costs)


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a search found. ``folder`` is the run folder as it was given; ``ended`` says why the search ended."""

    folder: str
    ended: str
    budget: int
    trained: int
    failed: int
    complete: int
    objective: Objective
    unit: str
    best: Network | None
    front: tuple[Network, ...]
    references: dict[str, Network]
    """Role -> reference point, of those in `REFERENCES` that are trained."""
    margin: float = 0.0
    """The smallest gain that is worth its cost, in units of the metric."""
    rules: tuple[RuleEstimate, ...] = ()
    """The placements of rules that need no search, trained or not."""
    likeliest: Network | None = None
    """Of the networks with SE the likeliest to be better than the backbone without, where the model can tell."""
    gained: tuple[str, ...] = ()
    """What the best network has over the reference points, in sentences."""
    verdict: Verdict = field(default_factory=lambda: Verdict(phase="search", claim="unknown"))
    reasons: tuple[Check, ...] = ()
    """What was tested as a reason that SE did not help; empty where there is nothing to explain."""
    gates: Explanation | None = None
    """The gates of the network that was looked at for it."""
    latency: tuple[str, ...] = ()
    """How latency was measured, and how good its predictions are, in sentences."""
    recommended: Network | None = None
    """The one network that is recommended: by the confirm where there was one, else by the model of the search. None
    where nothing can be said: there are too few trainings, or none is within the limits on cost."""
    leading: Network | None = None
    """What ``best/`` has: the recommended network, or while there is none the best one so far."""
    over: Mapping[int, str] = field(default_factory=dict)
    """Trial -> the limit on cost that it is over: of reference points, which are trained whatever they cost."""

    @property
    def baseline(self) -> Network | None:
        return self.references.get("baseline")

    @property
    def estimated(self) -> bool:
        """Whether the model of all trainings says something of the networks."""
        return self.best is not None and self.best.mean is not None

    @property
    def lines(self) -> tuple[str, ...]:
        """All of it in sentences: what to be careful of, what was gained, the verdict, and the recommendation."""
        cautions = tuple(sentence.text for sentence in self.verdict.cautions)
        return (*cautions, *self.gained, *self.latency, *self.verdict.texts[len(cautions) :], self.recommendation)

    @property
    def recommendation(self) -> str:
        """The recommended network in a sentence, or that there is none; empty before a training is complete."""
        if self.recommended is None:
            leads = self.leading
            if leads is None:
                return "Recommended: none." if self.over else ""
            return f"Recommended: none yet. The best so far: {leads.placement} (trial {leads.trial})."
        by = recommended_by(self.verdict)
        return f"Recommended {by}: {self.recommended.placement} (trial {self.recommended.trial})."

    @property
    def confirmed(self) -> bool:
        """Whether a confirm decided; else the verdict is the provisional one of the search, or undecided."""
        return self.verdict.phase == "confirm" and self.verdict.claim in ("use", "without")


def summarize(
    found: Findings, *, folder: str = "", budget: int = 0, ended: str = "", confirmation: Confirmation | None = None
) -> Summary:
    """What a study says, with the verdict of its confirm where there is one, else the provisional one of the search."""
    best, over = found.best, over_limits(found)
    within = found.complete[~found.complete["trial"].isin(list(over))]
    roles = {role: found.complete[found.complete["role"] == role] for role in REFERENCES}
    summary = Summary(
        folder=folder,
        ended=ended,
        budget=budget,
        trained=sum(t.counts for t in found.trials),
        failed=sum(t.state == "failed" and t.reason not in BLAMELESS for t in found.trials),
        complete=len(found.complete),
        objective=found.objective,
        unit=found.unit,
        best=None if best is None else Network.of(best),
        front=tuple(Network.of(row) for _, row in found.front.iterrows()),
        references={role: Network.of(rows.iloc[0]) for role, rows in roles.items() if len(rows)},
        margin=found.margin,
        rules=found.rules,
        likeliest=_likeliest(within),
        over=over,
        latency=tuple(_latency_text(fit, found.complete) for fit in found.fits.values()),
    )
    named = tuple(replace(s, text=s.text.replace(" RUN ", f" {folder or 'RUN'} ")) for s in found.cautions)
    provisional = replace(provisional_verdict(summary), cautions=named)
    verdict = provisional if confirmation is None else confirmation.verdict
    summary = replace(summary, gained=tuple(_gained(summary)), verdict=verdict)
    leading = _leading(summary, within)
    nothing = verdict.claim == provisional.claim == "unknown"  # a confirm that can say nothing leaves it to the search
    return replace(summary, leading=leading, recommended=None if nothing else leading)


def over_limits(found: Findings) -> dict[int, str]:
    """The complete trials that are over a limit on cost, and which: reference points are trained whatever they cost."""
    given = limits_given(found.limits)
    known = {t.number: over_limit(t.costs, {n: limit for n, limit in given.items() if n in t.costs})
             for t in found.trials if t.state == "complete"}  # fmt: skip
    return {number: text for number, text in known.items() if text is not None}


def _latency_text(fit: LatencyFit, complete: pd.DataFrame) -> str:
    """How a latency was measured, and for how many of the trained networks."""
    if f"{fit.name}_kind" not in complete:
        return fit.text
    measured = int((complete[f"{fit.name}_kind"] == "measured").sum())
    return f"{fit.text} Of the {len(complete):,} trained networks {measured:,} were measured."


def _likeliest(complete: pd.DataFrame) -> Network | None:
    others = complete[(complete["role"] != "baseline") & complete["p_better"].notna()]
    return Network.of(others.iloc[int(others["p_better"].argmax())]) if len(others) else None


def recommended_by(verdict: Verdict) -> str:
    """On what a recommendation rests, in words."""
    if verdict.phase == "search" or verdict.claim == "unknown":
        return "so far (search only)"
    return "until this is decided" if verdict.claim == "undecided" else "by the confirm"


def _leading(summary: Summary, within: pd.DataFrame) -> Network | None:
    """Of the networks within the limits the one that the verdict names, else the best or the cheaper one as good."""
    named = within[within["key"] == summary.verdict.network]
    best = best_row(within, summary.objective)
    if len(named) or best is None:
        return Network.of(named.iloc[0]) if len(named) else None
    leader = Network.of(best)
    return next((n for n in summary.front if n.trial == leader.tied_with and n.trial not in summary.over), leader)


def as_json(summary: Summary, found: Findings) -> dict[str, Any]:
    """A summary as ``--json`` prints it: each network with all columns of its row."""
    rows = {int(row["trial"]): plain_row(row) for _, row in found.complete.iterrows()}
    front = [plain_row(row) for _, row in found.front.iterrows()]
    best = summary.best
    return {
        "out": summary.folder, "ended": summary.ended, "budget": summary.budget, "trained": summary.trained,
        "failed": summary.failed,
        "objective": {"metric": found.objective.metric, "direction": found.objective.direction, "unit": found.unit,
                      "costs": list(found.axes)},
        "best": None if best is None else next(row for row in front if row["trial"] == best.trial),
        "complete": summary.complete, "front": front,
        **{role: rows[n.trial] if (n := summary.references.get(role)) else None for role in REFERENCES},
        "rules": to_plain(summary.rules), **({"latency": to_plain(found.fits)} if found.fits else {}),
        "gained": list(summary.gained), "verdict": to_plain(summary.verdict),
        "checks": {"trained": to_plain(found.training_checks), "reasons": to_plain(summary.reasons),
                   "gates": None if summary.gates is None else gates_in_brief(summary.gates)},
        "recommended": None if summary.recommended is None else rows[summary.recommended.trial],
    }  # fmt: skip


def _gained(summary: Summary) -> list[str]:
    """What the best network gains over no SE and over SE everywhere, and what it costs, in sentences."""
    best = summary.best
    if best is None:
        return ["No training is complete yet."]
    name = f"{best.placement} (trial {best.trial}), {summary.objective.metric}"
    unit = summary.unit
    lines = [f"Best observed: {name} {level_of(best.metric, unit)}."]
    if best.mean is not None:
        lines = [
            f"Best by the model estimate ({counted(summary.complete, 'training')}): {name} "
            f"{level_of(best.mean, unit)}, 90 % interval {levels_of(*best.interval, unit)}, "
            f"observed {level_of(best.metric, unit)}."
        ]
        if best.tied_with is not None:
            rival = next(n for n in summary.front if n.trial == best.tied_with)
            lines.append(
                f"It is not distinguishable from the cheaper {rival.placement} (trial {rival.trial}): "
                f"it is better with probability {100 * (best.p_beats or 0.0):.0f} %; "
                f"{100 * TOLD_APART:.0f} % is required."
            )
    for role, other in summary.references.items():
        if other.trial == best.trial:
            continue
        lines.append(
            f"Compared with {reference_name(role, other.placement)} ({level_of(other.value, unit)}): "
            f"{amount(best.value - other.value, unit)}, "
            f"params {_percent(best.costs, other.costs, 'params')}, MACs {_percent(best.costs, other.costs, 'macs')}."
        )
    lines.append(
        "Validation metric: the best of many runs is optimistic; confirm with fresh seeds before reporting."
        if summary.estimated
        else "Each number is a single training: a difference may be noise until it is confirmed with fresh seeds."
    )
    return lines


def _percent(costs: Mapping[str, float], base: Mapping[str, float], name: str) -> str:
    return f"{100 * (costs[name] / base[name] - 1):+.3f} %"


def provisional_verdict(summary: Summary) -> Verdict:
    """The verdict of a search alone: which network looks best, and how sure that is."""
    best, base = summary.best, summary.baseline
    confirm = Sentence(
        text=f"Only fresh seeds and the sealed test set can decide. Next: se-nas confirm {summary.folder}"
    )
    if summary.over and len(summary.over) == summary.complete:
        return Verdict(phase="search", claim="unknown", sentences=(_none_within(summary),))
    if best is None or base is None or best.gain is None:
        text = f"Provisional: {few(summary.trained)} too few to say whether SE helps here."
        return Verdict(phase="search", claim="unknown", sentences=(Sentence(text=text), confirm))
    sign = -1.0 if summary.objective.direction == "minimize" else 1.0
    recommended = [n for n in summary.front if n.posterior_front and n.recommended] or [best]
    worthy = [n for n in recommended if n.key != base.key and n.trial not in summary.over]
    likely = [n for n in worthy if (n.p_better or 0.0) >= LIKELY]
    chosen = max(likely, key=lambda n: sign * n.value, default=None)
    shown = chosen or summary.likeliest or base
    if chosen is not None:
        claim, text = "use", _looks_better(chosen, base, summary, sign)
    elif shown is not base and (shown.p_better or 0.0) <= UNLIKELY:
        claim, text = "without", f"no placement looks worth its cost.{_at_most(shown, base, summary, sign)}"
    else:
        told = "no placement is distinguishable from the plain backbone."
        claim, text = "undecided", f"{told}{_at_most(shown, base, summary, sign)}"
    low, high = sorted(sign * (end or 0.0) for end in (shown.gain_low, shown.gain_high))
    numbers = {
        "gain": sign * (shown.gain or 0.0), "lower": low, "upper": high,
        "better": shown.p_better, "same": shown.p_same, "worse": shown.p_worse, "margin": summary.margin,
    }  # fmt: skip
    first = Sentence(text=f"Provisional: {text}", numbers=numbers)
    return Verdict(phase="search", claim=claim, network=(chosen or base).key, sentences=(first, confirm))


def _none_within(summary: Summary) -> Sentence:
    """That no trained network is within the limits on cost, and what to do."""
    least = summary.over.get(summary.baseline.trial if summary.baseline is not None else -1)
    even = f": even of the plain backbone, {least}" if least else ""
    text = f"Provisional: no trained network is within the limits on cost{even}."
    return Sentence(text=f"{text} Give a higher limit, or search a smaller backbone.")


def _looks_better(chosen: Network, base: Network, summary: Summary, sign: float) -> str:
    names = dict.fromkeys(["params", summary.objective.cost])
    added = {name: 100 * (chosen.costs[name] / base.costs[name] - 1) for name in names if base.costs.get(name)}
    return (
        f"{in_words(chosen.placement)} looks better than the plain backbone{price_text(added)}. "
        f"Model estimate from {summary.complete} trainings: {_against_none(chosen, summary, sign)}."
    )


def _at_most(likeliest: Network, base: Network, summary: Summary, sign: float) -> str:
    """What the likeliest network to be better has, and whether no SE is the best itself; empty for no SE alone."""
    text = ""
    if likeliest is not base:
        text = f" The most promising, {in_words(likeliest.placement)}: {_against_none(likeliest, summary, sign)}."
    if summary.best is not None and summary.best.key == base.key:
        text += " By the model estimate the plain backbone itself is best."
    return text


def _against_none(network: Network, summary: Summary, sign: float) -> str:
    """Gain over the plain backbone, its interval, and the three chances."""
    low, high = sorted(sign * (end or 0.0) for end in (network.gain_low, network.gain_high))
    chances = chances_text(network.p_better or 0.0, network.p_same or 0.0, network.p_worse or 0.0)
    return (
        f"{amount(sign * (network.gain or 0.0), summary.unit)} (90 % interval {gain_span(low, high, summary.unit)}); "
        f"{chances}, by a margin of {amount(summary.margin, summary.unit, signed=False)}"
    )
