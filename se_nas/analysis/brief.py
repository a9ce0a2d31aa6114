"""The verdict for those who decide: what to do, and how sure that is, in two sentences without statistics' words."""

from __future__ import annotations

from se_nas.analysis.confirmation import Confirmation
from se_nas.analysis.summary import Summary
from se_nas.analysis.verdict import added_costs, images_of, price_text, seeds_of, sign_note
from se_nas.core.words import amount, in_words, kinds_in, listed

TOO_SHORT = "Do not rely on it yet: the networks were not trained well enough to be compared (see Verdict)."


def in_brief(summary: Summary, confirmation: Confirmation | None = None) -> tuple[str, str]:
    """What to do, and how sure that is; the second sentence is a warning where the trainings say little."""
    verdict = summary.verdict
    confirmed = confirmation if verdict.phase == "confirm" else None
    first, second = _searched(summary) if confirmed is None else _confirmed(summary, confirmed)
    return first, TOO_SHORT if verdict.cautions and verdict.claim != "unknown" else second


def _searched(summary: Summary) -> tuple[str, str]:
    verdict, chosen = summary.verdict, summary.recommended
    name = summary.folder.rstrip("/").rpartition("/")[2] or "RUN"
    confirm = f"confirm it before you report or ship it: se-nas confirm {name}"
    if verdict.claim == "unknown" or chosen is None:
        count = f"{summary.complete:,} of {summary.budget:,}" if summary.budget else f"{summary.complete:,}"
        return (
            f"It is too early to say whether SE helps here: {count} trainings complete.",
            "Differences between single trainings are mostly luck, so more of them are needed.",
        )
    if verdict.claim == "use":
        sign = -1.0 if summary.objective.direction == "minimize" else 1.0
        gain = amount(sign * (chosen.gain or 0.0), summary.unit)
        kinds = kinds_in(chosen.placement)
        looks = f"{listed(kinds)} look{'s' * (len(kinds) == 1)} worth it"
        return (
            f"{looks}: {in_words(chosen.placement)}, {gain} vs. no SE{sign_note(sign)}.",
            f"This is a model estimate, and the best of many runs is optimistic: {confirm}.",
        )
    looks = "looks worth its cost" if verdict.claim == "without" else "is shown to be better than no SE"
    return (
        f"Keep the plain backbone for now: no placement {looks}.",
        f"This is a model estimate from {summary.complete:,} trainings: {confirm}.",
    )


def _confirmed(summary: Summary, found: Confirmation) -> tuple[str, str]:
    verdict, base = summary.verdict, found.of_role("baseline")
    chosen = found.network(verdict.network)
    seeds = len(found.seeds) if chosen is None else seeds_of(found, chosen)
    basis = f"with {seeds} fresh seeds on {images_of(found)}, which had no part in any choice"
    difference = None if chosen is None else chosen.against.get("baseline")
    if verdict.claim == "use" and chosen is not None and base is not None and difference is not None:
        sign = -1.0 if found.direction == "minimize" else 1.0
        price = price_text(added_costs(chosen.costs, base.costs, list(dict.fromkeys(["params", found.cost]))))
        gain = amount(sign * difference.mean, found.unit)
        return f"Use {in_words(chosen.label)}: {gain} vs. no SE{sign_note(sign)}{price}.", f"Confirmed {basis}."
    if verdict.claim == "without":
        margin = amount(found.margin, found.unit, signed=False)
        return (
            f"Ship the plain backbone: no placement gains {margin} or more, the smallest gain that counts here.",
            f"Confirmed {basis}.",
        )
    if verdict.claim == "undecided":
        first = "Ship the plain backbone for now: no placement is shown to be better, nor is a gain ruled out."
        return first, _what_decides(summary)
    why = verdict.sentences[0].text if verdict.sentences else ""
    one = "One seed gives no estimate of the noise: give --seeds 3 or more."
    return "Nothing can be said about SE here yet.", one if len(found.seeds) < 2 else why


def _what_decides(summary: Summary) -> str:
    known = [sentence.numbers for sentence in summary.verdict.sentences]
    for numbers in known:
        if "minutes" in numbers and numbers["seeds"] is not None:
            return (
                f"About {numbers['seeds']:.0f} seeds would decide it, {max(numbers['minutes'] or 0.0, 0.1):.1f} more "
                "minutes of training (the command is in Verdict)."
            )
    if any("image_error" in numbers for numbers in known):
        return "More seeds would not decide it; a larger test set would."
    return "More seeds or a larger test set would decide it."
