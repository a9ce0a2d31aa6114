"""What the SE blocks of a network do, in sentences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from se_nas.analysis.class_share import Trend
from se_nas.analysis.excitation import ALIKE, SPECIFIC, Change, Excitation
from se_nas.analysis.statistics import FAMILY_ERROR
from se_nas.core.words import amount, gain_span, listed

MOST = 0.5
"""Share of saturated gates from which on it is said."""


@dataclass(frozen=True, kw_only=True)
class Terms:
    """How the numbers of a network are called: its metric with the unit, and whether it gives classes."""

    metric: str
    unit: str
    classes: bool


def count_sentence(blocks: Sequence[Excitation], *, named: str = "SE blocks") -> str:
    """How many blocks, which are `named` so, are constant, idle, needed and open; empty for a single one."""
    counts = Counter(block.does for block in blocks)
    kinds = [f"{counts[kind]} {kind}" for kind in ("constant", "idle", "needed", "open") if counts[kind]]
    return f"Of {len(blocks)} {named}: {', '.join(kinds)}." if len(blocks) > 1 else ""


def trend_sentence(trend: Trend | None) -> str:
    """Whether early blocks treat classes alike and late ones do not; empty where that is not known."""
    if trend is None:
        return ""
    shares = (
        f"beyond chance, classes explain {_percent(trend.early)} of the spread of the gates in the early half of the "
        f"blocks and {_percent(trend.late)} in the late half (difference {100 * trend.difference:+.0f} points, "
        f"90 % interval {100 * trend.low:+.0f} to {100 * trend.high:+.0f})"
    )
    if trend.low > 0 and trend.early < ALIKE and trend.late >= SPECIFIC:
        return f"Early blocks treat classes alike and late ones do not, as in the SE paper (section 7.2): {shares}."
    if trend.low > 0:
        return f"Late blocks are more class-specific than early ones, as in the SE paper (section 7.2): {shares}."
    if trend.high < 0:
        return f"Early blocks are more class-specific than late ones, other than in the SE paper: {shares}."
    return f"Early and late blocks do not differ in how they treat classes, other than in the SE paper: {shares}."


def all_sentence(frozen: Change | None, removed: Change | None, blocks: int, terms: Terms) -> str:
    """What becomes of the network when all blocks are frozen, and when all are taken out; empty if not known."""
    if frozen is None or frozen.changed is None or blocks < 2:
        return ""
    out = "" if removed is None else f" With {'both' if blocks == 2 else 'all'} taken out, {_becomes(removed, terms)}."
    every = "both" if blocks == 2 else f"all {blocks}"
    return f"With {every} blocks frozen at once, {_becomes(frozen, terms)}.{out}"


def block_sentence(block: Excitation, terms: Terms) -> str:
    """What a block does with images, and with classes."""
    return " ".join(filter(None, (_image_sentence(block, terms), _class_sentence(block), _ends_sentence(block))))


def _image_sentence(block: Excitation, terms: Terms) -> str:
    name, change = f"The block in {block.block}", block.frozen
    if change is None or change.changed is None:
        varies = f"its gates vary by {100 * block.variation:.1f} % from image to image"
        return f"{name} multiplies by a constant: {varies}." if block.does == "constant" else f"{name}: {varies}."
    if block.does in ("constant", "idle"):
        seen = f"frozen at its mean gates, {_changes(change.changed, terms)}"
        saved = [f"{block.params:,} parameters"] if block.params else []
        saved += [f"{block.milliseconds.value:.2g} ms"] if block.milliseconds is not None else []
        fold = f"Folding it away would save {listed(saved)}" if saved else "It may be folded away"
        is_one = "multiplies by a constant"
        if block.does == "idle":
            is_one = f"might as well multiply by a constant: its gates vary by {100 * block.variation:.1f} %, but"
        colon = ":" if block.does == "constant" else ""
        return f"{name} {is_one}{colon} {seen}. {fold}, if se-nas export --fold finds no loss."
    becomes = f"frozen at its mean gates, {_becomes(change, terms)}"
    return f"{name} is needed: {becomes}." if block.does == "needed" else f"{name}: {becomes}."


def _becomes(change: Change, terms: Terms) -> str:
    paired = change.paired
    changes = _changes(change.changed or 0.0, terms)
    if paired is None:
        return changes
    span = f"90 % interval {gain_span(paired.low, paired.high, terms.unit)}"
    told = change.costs or paired.difference == 0
    noise = "" if told else ", which may be noise"
    changes = "" if change.costs else f"; {changes}"
    return f"{terms.metric} is {_worse(paired.difference, terms.unit)} ({span}){noise}{changes}"


def _worse(difference: float, unit: str) -> str:
    if difference == 0:
        return "the same"
    return f"{'better' if difference > 0 else 'worse'} by {amount(abs(difference), unit, signed=False)}"


def _changes(changed: float, terms: Terms) -> str:
    share = f"{100 * changed:.1f} %"
    return f"{share} of the predictions change" if terms.classes else f"the output changes by {share} of its size"


def _class_sentence(block: Excitation) -> str:
    share = block.between
    if share is None or block.does == "constant":
        return ""  # of next to no spread it does not matter where it lies
    seen = (
        f"classes explain {_percent(share.share)} of the spread of its gates ({_percent(share.expected)} by chance, "
        f"p {share.family_p:.3f})"
    )
    nearly = "all classes alike" if share.family_p >= FAMILY_ERROR else "classes nearly alike"
    treats = {"alike": f"It treats {nearly}", "partly": "It tells classes apart in part",
              "specific": "It is class-specific"}  # fmt: skip
    return f"{treats[block.treats or 'alike']}: {seen}."


def _ends_sentence(block: Excitation) -> str:
    ends = block.saturation
    shares = {"0": ends.at_zero, "1": ends.at_one}
    if ends.top is not None and ends.at_top is not None and ends.top != 1:
        shares[f"{ends.top:g}, the most that they can be"] = ends.at_top
    return " ".join(f"{_percent(share)} of its gates are at {end}." for end, share in shares.items() if share >= MOST)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
