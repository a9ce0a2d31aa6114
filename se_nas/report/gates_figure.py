"""The gates of a network as the SE paper draws them (section 7.2): by channel, a line for each class, by block."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from se_nas.analysis.excitation import Excitation
from se_nas.analysis.explanation import Explanation
from se_nas.report.figures import GREY, PALETTE, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLOCKS, CHANNELS = 12, 64
"""The most that are drawn; of more, so many that are evenly spaced, with the first and the last."""

COLUMNS = 3


@dataclass(frozen=True, kw_only=True)
class Panel:
    """What is drawn of a block: the gates of some channels, over all images and by class."""

    block: Excitation
    title: str
    channels: tuple[int, ...]
    mean: tuple[float, ...]
    sd: tuple[float, ...]
    by_class: tuple[tuple[str, tuple[float, ...]], ...]


def evenly(number: int, most: int) -> tuple[int, ...]:
    """Up to `most` of the numbers below a number, evenly spaced, with the first and the last.

    >>> evenly(3, 4), evenly(9, 3)
    ((0, 1, 2), (0, 4, 8))
    """
    return tuple(int(place) for place in np.linspace(0, number - 1, min(number, most)).round())


def panels(found: Explanation, *, blocks: int = BLOCKS) -> list[Panel]:
    """The blocks that are drawn, in running order."""
    return [_panel(found.blocks[place], found) for place in evenly(len(found.blocks), blocks)]


def _panel(block: Excitation, found: Explanation) -> Panel:
    shown = evenly(len(block.mean), CHANNELS)
    by_class = zip(found.shown_names, block.class_means, strict=bool(block.class_means))
    title = block.block
    if block.between is not None:
        title += f": {100 * block.between.share:.0f} % by class"
    return Panel(
        block=block, title=title, channels=shown, mean=tuple(block.mean[c] for c in shown),
        sd=tuple(block.sd[c] for c in shown),
        by_class=tuple((name, tuple(means[c] for c in shown)) for name, means in by_class),
    )  # fmt: skip


def subset_text(found: Explanation, drawn: int) -> str:
    """What of the blocks, classes and channels is drawn; empty if all of them are."""
    parts = []
    if drawn < len(found.blocks):
        parts.append(f"{drawn} of {len(found.blocks)} blocks")
    if found.labelled > len(found.shown):
        parts.append(f"{len(found.shown)} of {found.labelled:,} classes")
    widest = max(len(block.mean) for block in found.blocks)
    if widest > CHANNELS:
        parts.append(f"{CHANNELS} channels of blocks that have more")
    return f"Drawn are {', '.join(parts)}, evenly spaced by their numbers." if parts else ""


def save_gates(found: Explanation, stem: Path) -> list[Path]:
    """Write the figure as ``stem.png``, ``.svg`` and ``.pdf``."""
    return save_figure(draw_gates(found), stem)


def draw_gates(found: Explanation) -> Figure:
    """Mean gates by channel: over all images (grey, with the band of one sd) and for each class that is shown."""
    shown = panels(found)
    columns = min(COLUMNS, len(shown))
    rows = -(-len(shown) // columns)
    figure = new_figure(0.6 + 1.7 * rows)
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for axes in grid.flat[len(shown) :]:
        axes.remove()
    for axes, panel in zip(grid.flat, shown, strict=False):
        x, mean, sd = np.array(panel.channels), np.array(panel.mean), np.array(panel.sd)
        axes.fill_between(x, mean - sd, mean + sd, color=GREY, alpha=0.25, lw=0, label="all, one sd")
        axes.plot(x, mean, color="0.25", lw=1.4, label="all")
        for k, (name, means) in enumerate(panel.by_class):
            axes.plot(x, means, color=PALETTE[k % len(PALETTE)], lw=0.9, label=name.replace("$", r"\$"))
        axes.set_title(panel.title.replace("$", r"\$"), fontsize=7)
        axes.tick_params(labelsize=7)
        axes.locator_params(axis="x", integer=True, nbins=6)
        axes.grid(visible=True, alpha=0.25)
    figure.supxlabel("channel", fontsize=8)
    figure.supylabel("mean gate", fontsize=8)
    handles, labels = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=min(7, len(labels)), fontsize=7, frameon=False)
    return figure
