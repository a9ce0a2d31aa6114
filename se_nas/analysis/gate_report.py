"""Whether the gates of a trained network became constant: a check of why SE did not help."""

from __future__ import annotations

import functools
from typing import Any

from se_nas.analysis.checks import Check
from se_nas.analysis.excitation import STILL
from se_nas.analysis.explanation import Explanation
from se_nas.core.words import in_words, listed, trial_name

_check = functools.partial(Check, name="gates", question="Did the gates become constant?")


def gate_check(report: Explanation | None, *, why_not: str = "") -> Check:
    """Whether the gates of the network with SE are, in effect, constant."""
    if report is None or not report.blocks:
        return _check(holds=None, text=f"Not tested: {why_not or 'no network with SE has weights'}.")
    low, high = (f(block.variation for block in report.blocks) for f in (min, max))
    numbers = {"images": float(report.images), "least": low, "most": high}
    over = f"{report.images:,} {'validation images' if report.real else 'images of noise (the trainer shows none)'}"
    span = f"{100 * low:.1f}" if round(1000 * low) == round(1000 * high) else f"{100 * low:.1f} to {100 * high:.1f}"
    mean = sum(block.mean_gate for block in report.blocks) / len(report.blocks)
    moves = f"the gates are {mean:.2f} on average, and vary by {span} % from image to image"
    changed = None if report.all_frozen is None else report.all_frozen.changed
    if changed is None:
        text = f"Not tested: the network gives no single tensor; {moves}."
        return _check(holds=None, text=text, numbers=numbers)
    numbers["changed"] = changed
    who = f"{in_words(report.placement)} ({trial_name(report.trial, report.phase)})"
    share = f"{100 * changed:.1f} %"
    changes = f"the output of {who} changes by {share}"
    if report.classes:
        changes = f"{share} of the predictions of {who} change"
    seen = f"with each fixed at its mean over {over}, {changes}; {moves}"
    if changed > STILL:
        return _check(holds=False, text=f"No: {seen}.", numbers=numbers)
    still = [block.block for block in sorted(report.blocks, key=lambda b: b.variation)[:3]]
    text = (
        f"The gates became constant: {seen}, the least in {listed(still)}. Such a block is a fixed rescaling, which "
        "the neighbouring layers can absorb."
    )
    return _check(holds=True, text=text, numbers=numbers)


def gates_in_brief(report: Explanation) -> dict[str, Any]:
    """The numbers that the check rests on, as ``--json`` prints them."""
    return {
        "placement": report.placement, "trial": report.trial, "images": report.images,
        "blocks": [{"block": b.block, "variation": b.variation, "mean": b.mean_gate} for b in report.blocks],
        "changed": None if report.all_frozen is None else report.all_frozen.changed, "classes": report.classes,
        "seen": report.real,
    }  # fmt: skip
