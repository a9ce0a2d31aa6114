"""What to do, in words: every sentence with the numbers that it rests on.

Only a confirm says that a network beats another: after a search alone the verdict is provisional (`summary`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from se_nas.analysis.confirmation import Confirmation, Confirmed, Difference, Sentence, Verdict
from se_nas.analysis.power import PROBABILITY, seeds_to_decide
from se_nas.core.costs import cost_facts
from se_nas.core.latency_names import is_latency
from se_nas.core.trial import CostValue
from se_nas.core.words import ALONE, TOGETHER, amount, counted, in_words, level_of, listed


def added_costs(
    costs: Mapping[str, CostValue], base: Mapping[str, CostValue], names: Sequence[str]
) -> dict[str, float]:
    """By how many percent costs are higher than those of the plain backbone, where both are known."""
    return {
        name: 100 * (costs[name].value / base[name].value - 1)
        for name in names
        if name in costs and name in base and base[name].value
    }


def price_text(added: Mapping[str, float]) -> str:
    """What costs are higher by, in percent by name, as the end of a sentence."""
    words = [_percent(value, name) for name, value in added.items()]
    return f" for {listed(words)}" if words else ""


def _percent(value: float, cost: str) -> str:
    """A difference of a cost in words.

    >>> _percent(10, "params"), _percent(-2.5, "params"), _percent(-2.5, "latency")
    ('10 % more parameters', '2.5 % fewer parameters', '2.5 % less latency')
    """
    facts = cost_facts(cost)
    fewer = "fewer" if facts.whole or cost == "gflops" else "less"
    return f"{abs(value):.2g} % {'more' if value >= 0 else fewer} {facts.word}"


def _names_of_costs(cost: str, known: Mapping[str, CostValue]) -> list[str]:
    return list(dict.fromkeys(["params", cost, *filter(is_latency, known)]))


def final_verdict(confirmation: Confirmation, *, run: str = "RUN") -> Verdict:
    """The verdict of a confirm, on the test set: one of three outcomes, or that nothing can be said.

    ``use``: a network beats the plain backbone, for all finalists at once with at most 5 % of false claims.
    ``without``: not worth it, since every network is shown to gain less than the margin, each by a one-sided test at
    5 % (an intersection-union test: Berger, Technometrics 24, 1982, needs no adjustment for their number).
    ``undecided``: neither is shown; ``run`` is the run folder that the next command names.
    """
    winner, base = confirmation.network(confirmation.winner), confirmation.of_role("baseline")
    difference = None if winner is None else winner.against.get("baseline")
    if winner is None or base is None or difference is None or difference.family_interval is None:
        return _unknown(confirmation, winner, difference)
    sign = -1.0 if confirmation.direction == "minimize" else 1.0
    beating = [n for n in confirmation.networks if "baseline" in n.against and n.against["baseline"].beats]
    if not beating:
        ceiling = max(_ceiling(n.against["baseline"], sign) for n in confirmation.networks if "baseline" in n.against)
        decided = ceiling < confirmation.margin
        first = _not_worth_it(confirmation, ceiling) if decided else _undecided(confirmation)
        sentences = [first, _shown_best(confirmation, winner, difference, sign)]
        if not decided:
            sentences.append(_what_would_decide(confirmation, winner, difference, sign, run))
        claim = "without" if decided else "undecided"
        return Verdict(
            phase="confirm",
            claim=claim,
            network=base.key,
            sentences=(*sentences, *_limits(confirmation), *_optimism(confirmation)),
        )
    chosen = winner if difference.beats else max(beating, key=lambda n: sign * n.validation.mean)
    return _use(confirmation, chosen, base, beating, sign)


def _gain(difference: Difference, sign: float) -> tuple[float, float, float]:
    """Gain and its family interval: larger is better, whatever the direction."""
    assert difference.family_interval is not None  # noqa: S101  # the caller has looked
    low, high = sorted(sign * end for end in difference.family_interval)
    return sign * difference.mean, low, high


def interval_text(low: float, high: float, unit: str) -> str:
    """A 90 % interval of differences of a metric that holds for all comparisons of a confirm at once."""
    ends = " to ".join(amount(end, unit, signed=False, name=False) for end in (low, high))
    return f"{TOGETHER} 90 % interval {ends}"


def _use(c: Confirmation, chosen: Confirmed, base: Confirmed, beating: Sequence[Confirmed], sign: float) -> Verdict:
    difference = chosen.against["baseline"]
    gain, low, high = _gain(difference, sign)
    added = added_costs(chosen.costs, base.costs, _names_of_costs(c.cost, chosen.costs))
    sentences = [
        Sentence(
            text=f"Use {in_words(chosen.label)}: {amount(gain, c.unit)}{_metric(c, sign)} "
            f"({interval_text(low, high, c.unit)}){price_text(added)}. It beats the plain backbone"
            f"{' on these test images' if _only_seeds(c) else ''}.",
            numbers={"gain": gain, "lower": low, "upper": high, **{f"{k}_percent": v for k, v in added.items()}},
        ),
        Sentence(
            text=f"Risk of a false claim: with no true effect, {_comparisons(c)} would show such a gain in "
            f"{_probability(difference.family_p)} of confirms ({_p(difference.family_p)}; "
            f"{counted(seeds_of(c, chosen), 'seed')}, {images_of(c)}).",
            numbers={"p": difference.family_p, "seeds": seeds_of(c, chosen), "test_images": c.test_images},
        ),
    ]
    if (against := chosen.against.get("reference")) is not None and against.family_interval is not None:
        gain, low, high = _gain(against, sign)
        judged = "beats it" if against.beats else "not distinguishable" if low <= 0 <= high else "is not proven"
        sentences.append(
            Sentence(
                text=f"Compared with SE everywhere: {amount(gain, c.unit)} ({interval_text(low, high, c.unit)}, "
                f"{_p(against.family_p)}): {judged}.",
                numbers={"gain": gain, "lower": low, "upper": high, "p": against.family_p},
            )
        )
    cost = chosen.costs.get(c.cost)
    cheaper = [
        n for n in beating if n is not chosen and cost and c.cost in n.costs and n.costs[c.cost].value < cost.value
    ]
    for other in cheaper:
        gain, low, high = _gain(other.against["baseline"], sign)
        sentences.append(
            Sentence(
                text=f"Cheaper, and beats it too: {in_words(other.label)}, {amount(gain, c.unit)} "
                f"({interval_text(low, high, c.unit)})"
                f"{price_text(added_costs(other.costs, base.costs, _names_of_costs(c.cost, other.costs)))}.",
                numbers={"gain": gain, "lower": low, "upper": high, "p": other.against["baseline"].family_p},
            )
        )
    return Verdict(phase="confirm", claim="use", network=chosen.key, sentences=(*sentences, *_limits(c), *_optimism(c)))


def _ceiling(difference: Difference, sign: float) -> float:
    """The largest gain that cannot be ruled out at 5 %: the upper end of the difference's own interval."""
    assert difference.interval is not None  # noqa: S101  # where one has an interval, all have
    return max(sign * end for end in difference.interval)


def _not_worth_it(c: Confirmation, ceiling: float) -> Sentence:
    margin, number = amount(c.margin, c.unit, signed=False), len(c.family)
    none = f"none of the {number} compared placements gains" if number > 1 else "the compared placement does not gain"
    return Sentence(
        text=f"Not worth it: {none} {margin} or more over the "
        "plain backbone "
        f"(at most {amount(max(ceiling, 0.0), c.unit, signed=False)} by {ALONE} intervals; 5 % risk of error); "
        "ship the plain backbone.",
        numbers={"margin": c.margin, "ceiling": ceiling, "chance": 0.05},
    )


def _undecided(c: Confirmation) -> Sentence:
    return Sentence(
        text="Undecided: no placement has been shown to beat the plain backbone, and a gain of "
        f"{amount(c.margin, c.unit, signed=False)} (the margin) cannot be ruled out. Until this is decided, "
        "the plain backbone is recommended.",
        numbers={"margin": c.margin},
    )


def _shown_best(c: Confirmation, winner: Confirmed, difference: Difference, sign: float) -> Sentence:
    gain, low, high = _gain(difference, sign)
    return Sentence(
        text=f"The best on validation, {in_words(winner.label)}: {amount(gain, c.unit)}{_metric(c, sign)} on the "
        f"test set ({interval_text(low, high, c.unit)}, {_p(difference.family_p)}; "
        f"{counted(seeds_of(c, winner), 'seed')}, {images_of(c)}).",
        numbers={"gain": gain, "lower": low, "upper": high, "p": difference.family_p},
    )


def _what_would_decide(c: Confirmation, winner: Confirmed, difference: Difference, sign: float, run: str) -> Sentence:
    """How many seeds would decide, with their time and their command; or that no number of them does."""
    own, most = seeds_of(c, winner), len(c.seeds)
    seeds = seeds_to_decide(difference, seeds=own, after=most, margin=c.margin, sign=sign)
    if seeds is None:
        images = amount(difference.image_error or 0.0, c.unit, signed=False)
        return Sentence(
            text=f"More seeds would not settle it: {images_of(c)} alone make this difference "
            f"uncertain by {images} (one standard error). A larger test set would, or another --margin.",
            numbers={"image_error": difference.image_error},
        )
    missing = sum(max(seeds - len(n.validation.values), 0) for n in c.networks) / len(c.networks)
    minutes = missing * c.seed_seconds / 60
    return Sentence(
        text=f"If the true gain is what was seen, {seeds} seeds would decide with {100 * PROBABILITY:.0f} % "
        f"probability, about {max(minutes, 0.1):.1f} more minutes: se-nas confirm {run} --seeds {seeds}",
        numbers={"seeds": float(seeds), "minutes": minutes},
    )


def _unknown(c: Confirmation, winner: Confirmed | None, difference: Difference | None) -> Verdict:
    if winner is None or difference is None:
        text = "Nothing can be said: the plain backbone or all others have no finished training."
        return Verdict(phase="confirm", claim="unknown", sentences=(Sentence(text=text),))
    text = (
        f"One seed gives no estimate of the noise: {in_words(winner.label)} has {amount(difference.mean, c.unit)} "
        f"against the plain backbone on the test set, and nothing can be claimed. Give --seeds 3 or more."
    )
    return Verdict(
        phase="confirm", claim="unknown", sentences=(Sentence(text=text, numbers={"gain": difference.mean}),)
    )


def _only_seeds(c: Confirmation) -> bool:
    """Whether the noise by the finite set of test images is not known."""
    return c.noise is not None and c.noise.image_sd is None


def seeds_of(c: Confirmation, network: Confirmed) -> int:
    """With how many seeds a network was trained."""
    return len(c.seeds) if network.stopped_after is None else network.stopped_after


def images_of(c: Confirmation) -> str:
    """The images of the test set, in words."""
    return f"{c.test_images:,} test images" if c.test_images else "the trainer's own test images"


def _limits(c: Confirmation) -> list[Sentence]:
    """How the confirm came to its end, and what the intervals leave out."""
    found = []
    if c.rounds is not None:
        looks = listed([str(k) for k in c.rounds.looks.seeds])
        text = (
            f"Seeds were added in rounds, judged on the validation set after {looks}, up to {len(c.seeds)}: "
            f"{c.rounds.ended}. Intervals and p-values hold wherever the rounds end."
        )
        found.append(Sentence(text=text, numbers={"seeds": len(c.seeds), "most": c.rounds.looks.last}))
    if c.openings > 1:
        chance = min(5 * c.openings, 100)
        text = (
            f"The test set was evaluated {c.openings} times; every evaluation is another chance of a false claim, "
            f"at most {chance} % for all of them together."
        )
        found.append(Sentence(text=text, numbers={"openings": c.openings, "chance": chance / 100}))
    return [*found, *_only_these_images(c)]


def _only_these_images(c: Confirmation) -> list[Sentence]:
    if not _only_seeds(c):
        return []
    text = (
        "The trainer's test gives one number for all its images: intervals and p-values cover seed noise only, "
        "and hold for exactly these images. What other images would give is not known; for that a test function has to "
        "return a score for each image, or to be able to leave out a group of them."
    )
    return [Sentence(text=text)]


def _optimism(c: Confirmation) -> list[Sentence]:
    """What the search predicted for its best network, and what was confirmed."""
    promised = [n for n in c.networks if n.role == "finalist" and n.optimism is not None]
    if not promised:
        return []
    sign = -1.0 if c.direction == "minimize" else 1.0
    best = max(promised, key=lambda n: sign * (n.promised or 0.0))
    raw = "" if best.observed_optimism is None else f", its single run {_missed(best.observed_optimism, c.unit)}"
    return [
        Sentence(
            text=f"The search predicted {level_of(best.promised or 0.0, c.unit)} for {in_words(best.label)}; confirmed "
            f"{level_of(best.validation.mean, c.unit)} on the same validation set: "
            f"{_missed(best.optimism or 0.0, c.unit)}{raw}.",
            numbers={"promised": best.promised, "confirmed": best.validation.mean, "optimism": best.optimism},
        )
    ]


def _missed(optimism: float, unit: str) -> str:
    """How far a prediction was off.

    >>> _missed(0.0125, "share"), _missed(-0.0125, "share")
    ('overestimated by 1.25 points', 'underestimated by 1.25 points')
    """
    return f"{'under' if optimism < 0 else 'over'}estimated by {amount(abs(optimism), unit, signed=False)}"


def _metric(c: Confirmation, sign: float) -> str:
    """The metric by name, unless it is accuracy; which way is better, where less is."""
    name = "" if c.metric == "val_accuracy" else f" of {c.metric}"
    return name + sign_note(sign)


def sign_note(sign: float) -> str:
    """Which way is better, where less is."""
    return " (less is better; + is better here)" if sign < 0 else ""


def _comparisons(c: Confirmation) -> str:
    return f"the best of {len(c.family)} comparisons" if len(c.family) > 1 else "the comparison"


def _p(p: float | None) -> str:
    """A p value.

    >>> _p(0.0123), _p(1e-5), _p(None)
    ('p = 0.012', 'p < 0.0001', 'p unknown')
    """
    return "p unknown" if p is None else f"p = {p:.2g}" if p >= 1e-4 else "p < 0.0001"


def _probability(p: float | None) -> str:
    return "?" if p is None else f"{100 * p:.2g} %" if p >= 1e-4 else "less than 0.01 %"
