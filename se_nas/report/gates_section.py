"""What the SE blocks of a network do: a section of the page, and a table of the terminal."""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE_HEAD

from se_nas.analysis.excitation import Change, Excitation
from se_nas.analysis.explanation import Explanation
from se_nas.core.words import amount, blocks_in, gain_span, in_words, scale_of, trial_name
from se_nas.report.fitted_table import Column, FittedTable
from se_nas.report.gates_figure import Panel, panels, subset_text
from se_nas.report.page import SERIES, Block, Chart, Head, Section, Table, View, escaped

GATE_FILES = "blocks.csv, channels.csv, gates.png, gates.svg, gates.pdf, explanation.json"

OPEN_ROWS = 12
"""Blocks that the page shows without being asked for."""

DRAWN = 60
"""Blocks of which the page has a chart each."""

TREATS = {"alike": "alike", "partly": "in part", "specific": "specific", None: ""}


def gates_section(found: Explanation | None, run: str) -> Section | None:
    """What the SE blocks of a network of the run do; None where nothing is known of that."""
    if found is None or not found.blocks:
        return None
    over = f"{found.images:,} {'validation images' if found.real else 'images of noise (the trainer shows none)'}"
    text = [f"{_who(found)}, on {over}.", *filter(None, [found.note]), *found.of_network]
    many = len(found.blocks) > OPEN_ROWS
    words = Block(title=f"All {len(found.blocks)} blocks in words", text="\n".join(found.of_blocks), closed=True)
    text += () if many else found.of_blocks
    if not found.measured:
        text.append(f"For the effect of each single block, run se-nas explain {run}.")
    title = "What the gates do"
    caption = (
        "Mean gate of each channel, over all images and for single classes, as in section 7.2 of the SE paper; the "
        "band is one standard deviation over images. Where class lines coincide, the block treats all classes alike."
    )
    drawn = panels(found, blocks=DRAWN)
    chart = Chart(
        views=[View(label=panel.title, traces=_traces(panel), layout=_layout()) for panel in drawn],
        alt="Mean gates of a block by channel and class. The table below has the numbers of each block.",
        caption=" ".join(filter(None, [caption, subset_text(found, len(drawn))])),
        choose="Block",
        height=360,
    )
    return Section(id="gates", title=title, short="Gates", text=text, chart=chart, tables=[_table(found)],
                   blocks=[words] if many else [])  # fmt: skip


def _who(found: Explanation) -> str:
    trial = "" if found.trial is None else f" ({trial_name(found.trial, found.phase)})"
    placement = in_words(found.placement)
    return f"{placement[:1].upper()}{placement[1:]}{trial}"


def _traces(panel: Panel) -> list[dict[str, Any]]:
    x = list(panel.channels)
    line: dict[str, Any] = {"type": "scatter", "mode": "lines", "x": x}
    mean = [round(value, 4) for value in panel.mean]
    ends = [[round(m + side * s, 4) for m, s in zip(panel.mean, panel.sd, strict=True)] for side in (-1, 1)]
    bound = {**line, "line": {"width": 0}, "hoverinfo": "skip"}
    return [
        {**bound, "y": ends[0], "showlegend": False},
        {**bound, "y": ends[1], "fill": "tonexty", "fillcolor": "@band", "name": "all images, one sd"},
        {**line, "y": mean, "name": "all images", "line": {"color": "@ink", "width": 2}},
        *(
            {**line, "y": [round(value, 4) for value in values], "name": escaped(name),
             "line": {"color": f"@series{k % SERIES}", "width": 1.2}}
            for k, (name, values) in enumerate(panel.by_class)
        ),
    ]  # fmt: skip


def _layout() -> dict[str, Any]:
    return {"xaxis": {"title": {"text": "channel"}}, "yaxis": {"title": {"text": "mean gate"}}}


def _table(found: Explanation) -> Table:
    """Every block with its numbers, folded where there are many; the constant ones stand out."""
    _, _, difference = scale_of(found.unit)
    unit = f" ({difference})" if difference else ""
    timed = any(block.milliseconds is not None for block in found.blocks)
    numbers = ["channels", "mean gate", "variation, %", "between classes, %", "by chance, %", "p", "at 0, %", "at 1, %"]
    if found.measured:
        numbers += [f"frozen{unit}", "90 % interval", f"taken out{unit}", "90 % interval"]
    numbers += ["parameters", "MACs", *(["ms"] if timed else [])]
    heads = [Head(label="block"), Head(label="it is"), Head(label="treats classes")]
    return Table(
        caption=f"{_named(found)} of {in_words(found.placement)}. {_note(found)}",
        heads=[*heads, *(Head(label=name, number=True) for name in numbers)],
        rows=[_row(block, found, timed=timed) for block in found.blocks],
        closed=f"All {len(found.blocks)} blocks" if len(found.blocks) > OPEN_ROWS else "",
        marked=tuple(k for k, block in enumerate(found.blocks) if block.does == "needed"),
    )


def _note(found: Explanation) -> str:
    _, _, difference = scale_of(found.unit)
    scored = f"change of {found.metric}{f' in {difference}' if difference else ''}"
    change = scored if found.value is not None else "change of the output in %"
    return (
        f"Frozen: {change} with every gate at its mean over the images; (taken) out: with every gate at 1. Constant: "
        "gates do not vary; idle: they do, but freezing them changes next to nothing; needed: it costs more than "
        "noise; else that is open. Variation: sd of the gates over images against their size."
    )


def _row(block: Excitation, found: Explanation, *, timed: bool) -> list[str]:
    share = None if block.does == "constant" else block.between
    between = ["", "", ""] if share is None else [
        f"{100 * share.share:.1f}", f"{100 * share.expected:.1f}", f"{share.family_p:.3f}"]  # fmt: skip
    cells = [
        block.block, block.does, TREATS[block.treats], str(block.channels), f"{block.mean_gate:.3f}",
        f"{100 * block.variation:.1f}", *between, *(f"{100 * s:.0f}" for s in (block.saturation.at_zero,
        block.saturation.at_one)),
    ]  # fmt: skip
    if found.measured:
        for change in (block.frozen, block.removed):
            cells += _change(change, found.unit)
    cells += ["" if value is None else f"{value:,}" for value in (block.params, block.macs)]
    time = block.milliseconds
    return [*cells, *(["" if time is None else f"{time.value:.3g}"] if timed else [])]


def _change(change: Change | None, unit: str) -> list[str]:
    """A change as difference and interval; where there is no score, what of the output changes."""
    if change is None or (change.paired is None and change.changed is None):
        return ["", ""]
    if change.paired is None:
        return [f"{100 * (change.changed or 0.0):.1f} %", ""]
    paired = change.paired
    return [amount(paired.difference, unit, name=False), gain_span(paired.low, paired.high, unit)]


def _class_share(block: Excitation) -> str:
    """What classes explain of the spread of the gates; empty for a constant, which has next to none."""
    return "" if block.treats is None or block.between is None else f"{100 * block.between.share:.0f}"


def gates_display(found: Explanation) -> FittedTable:
    """The blocks as a table of the terminal."""
    blocks = found.blocks
    changes = [[_change(change, found.unit)[0] for change in (b.frozen, b.removed)] for b in blocks]
    return FittedTable(
        title=f"{_named(found)} on {found.images:,} {'validation images' if found.real else 'images of noise'}",
        columns=[
            Column(head="block", text=True, cells=[b.block for b in blocks]),
            Column(head="it is", text=True, cells=[b.does for b in blocks]),
            Column(head="gate", rank=1, cells=[f"{b.mean_gate:.2f}" for b in blocks]),
            Column(head="vary %", rank=1, cells=[f"{100 * b.variation:.1f}" for b in blocks]),
            Column(head="class %", rank=2, cells=[_class_share(b) for b in blocks]),
            Column(head="frozen", rank=1, cells=[frozen for frozen, _ in changes]),
            Column(head="out", rank=1, cells=[out for _, out in changes]),
            Column(head="params", rank=3, cells=["" if b.params is None else f"{b.params:,}" for b in blocks]),
        ],
        note=_note(found),
        box=SIMPLE_HEAD,
        elsewhere="all of it: blocks.csv",
    )  # fmt: skip


def _named(found: Explanation) -> str:
    """The blocks at the beginning of a sentence."""
    name = blocks_in(found.placement)
    return f"{name[:1].upper()}{name[1:]}"
