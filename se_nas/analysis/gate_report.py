"""What the gates of a trained network do: how much they vary from image to image, and what becomes of it."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from se_nas.analysis.checks import Check
from se_nas.core.words import in_words, listed

STILL = 0.01
"""Share of predictions (or of the size of the output) that changes when all gates are fixed, up to which they count as
constant."""

_check = functools.partial(Check, name="gates", question="Did the gates become constant?")


@dataclass(frozen=True, kw_only=True)
class BlockVariation:
    """One SE block. ``variation``: standard deviation of its gates over images against their size; ``mean``: of all."""

    block: str
    variation: float
    mean: float


@dataclass(frozen=True, kw_only=True)
class GateReport:
    """The gates of one trained network, on so many images."""

    placement: str
    trial: int
    images: int
    blocks: tuple[BlockVariation, ...]
    changed: float | None
    """Share of predictions that change when every gate is fixed at its mean over the images; where the network gives no
    class, the change of the output against its size. None where it gives no single tensor."""
    classes: bool = True
    seen: bool = True
    """Whether the images are of the data, and not noise in their place."""


def gate_check(report: GateReport | None, *, why_not: str = "") -> Check:
    """Whether the gates of the network with SE are, in effect, constant."""
    if report is None or not report.blocks:
        return _check(holds=None, text=f"Not tested: {why_not or 'no network with SE has weights'}.")
    low, high = (f(block.variation for block in report.blocks) for f in (min, max))
    numbers = {"images": float(report.images), "least": low, "most": high}
    over = f"{report.images:,} {'validation images' if report.seen else 'images of noise (the trainer shows none)'}"
    span = f"{100 * low:.1f}" if round(1000 * low) == round(1000 * high) else f"{100 * low:.1f} to {100 * high:.1f}"
    mean = sum(block.mean for block in report.blocks) / len(report.blocks)
    moves = f"the gates are {mean:.2f} on average, and vary by {span} % from image to image"
    if report.changed is None:
        text = f"Not tested: the network gives no single tensor; {moves}."
        return _check(holds=None, text=text, numbers=numbers)
    numbers["changed"] = report.changed
    who, share = f"{in_words(report.placement)} (trial {report.trial})", f"{100 * report.changed:.1f} %"
    changes = f"the output of {who} changes by {share}"
    if report.classes:
        changes = f"{share} of the predictions of {who} change"
    seen = f"with each fixed at its mean over {over}, {changes}; {moves}"
    if report.changed > STILL:
        return _check(holds=False, text=f"No: {seen}.", numbers=numbers)
    still = [block.block for block in sorted(report.blocks, key=lambda b: b.variation)[:3]]
    text = (
        f"The gates became constant: {seen}, the least in {listed(still)}. Such a block is a fixed rescaling, which "
        "the layers around it can do without it."
    )
    return _check(holds=True, text=text, numbers=numbers)
