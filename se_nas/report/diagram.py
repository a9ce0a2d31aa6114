"""A picture of a network: its stages and units in the order of the forward pass, and the SE blocks of a placement."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from se_nas.core.errors import PluginError
from se_nas.core.placement import Choice, Placement, Unit
from se_nas.report.page import DARK, LIGHT
from se_nas.space.exact_cost import block_cost

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ACROSS = 10
"""Units side by side; a longer stage goes on in the next row."""

WIDTH, GAP = 1.0, 0.14
"""Of a box, and between two, in inches; the stage's name stands at the left in the width of a box and a half."""

LINE = 0.15
"""Height of a line of text, in inches."""

LONGEST = 15
"""Letters of a name that a box has room for."""


@dataclass(frozen=True, kw_only=True)
class BlockFacts:
    """What is known of an SE block beside its cost: milliseconds that it takes, and what its gate does, in a word."""

    milliseconds: float | None = None
    gate: str = ""


@dataclass(frozen=True, kw_only=True)
class _Box:
    unit: Unit
    choice: Choice
    facts: BlockFacts

    @property
    def name(self) -> str:
        short = self.unit.name.removeprefix(f"{self.unit.stage}.")
        return short if len(short) <= LONGEST else f"…{short[1 - LONGEST :]}"

    @property
    def lines(self) -> list[str]:
        """What the box says of its SE block; nothing without one."""
        if self.choice.kind == "none":
            return []
        if self.choice.kind == "keep":
            lines = ["SE: its own"]
        else:
            ratio = "" if self.choice.reduction is None else f"r={self.choice.reduction:g}, "
            title = {"coord": "Coord"}.get(self.choice.block, self.choice.of.title)
            title = title if len(title) <= LONGEST else f"{title[: LONGEST - 1]}…"
            lines = [f"{title}: {ratio}{self.choice.squeeze_channels} ch" if self.choice.of.width else title]
            with contextlib.suppress(PluginError):  # the code of the user's own block is not here, or not trusted
                cost = block_cost(self.unit, self.choice)
                lines += [f"+{_counted(cost.params)} params", f"+{_counted(cost.macs)} MACs"]
        if self.facts.milliseconds is not None:
            lines.append(f"{self.facts.milliseconds:+.2g} ms")
        return [*lines, self.facts.gate] if self.facts.gate else lines


def _counted(number: int) -> str:
    """A count in at most five letters: ``816``, ``12.3 k``, ``1.2 M``."""
    from matplotlib.ticker import EngFormatter

    return str(number) if abs(number) < 1000 else str(EngFormatter(places=1)(number))


def draw_network(
    units: Sequence[Unit], placement: Placement, *, facts: Mapping[str, BlockFacts] | None = None, title: str = ""
) -> Figure:
    """The figure of a network with the SE blocks of a placement.

    Parameters
    ----------
    units:
        All units of the backbone, in the order of the forward pass.
    facts:
        By unit, what else is known of its SE block.
    """
    from matplotlib.backends.backend_svg import FigureCanvasSVG  # slow to import, and only figures need it
    from matplotlib.figure import Figure

    none, known = Choice(), facts or {}
    boxes = [
        _Box(unit=u, choice=placement.choices.get(u.name, none), facts=known.get(u.name, BlockFacts())) for u in units
    ]
    rows = [
        (stage if first == 0 else "", group[first : first + ACROSS])
        for stage, members in groupby(boxes, key=lambda box: box.unit.stage)
        for group in [list(members)]
        for first in range(0, len(group), ACROSS)
    ]
    heights = [LINE * (2.4 + max(len(box.lines) for box in row)) for _, row in rows]
    across = max((len(row) for _, row in rows), default=1)
    width = 1.5 * WIDTH + across * (WIDTH + GAP)
    height = sum(heights) + GAP * len(rows) + (0.4 if title else 0.1)
    figure = Figure(figsize=(width, height))
    FigureCanvasSVG(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    top = 0.1
    if title:
        _text(axes, 0.08, 0.2, title, size=10, color="ink", weight="bold")
        top = 0.4
    for (stage, row), high in zip(rows, heights, strict=True):
        _draw_row(axes, stage, row, top, high)
        top += high + GAP
    return figure


def network_svg(figure: Figure) -> Markup:
    """The figure as one `<svg>` element whose colours are those of the page's theme (``var(--ink)``, ...)."""
    import matplotlib as mpl

    file = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "se-nas", "font.family": "sans-serif"}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    for name in _COLORS:
        text = text.replace(f": {LIGHT[name]}", f": var(--{name})")
    return Markup(text)  # noqa: S704  # matplotlib escapes what it writes


def network_file(figure: Figure) -> bytes:
    """The figure as an SVG file of its own, light or dark as its reader is."""

    def themed(theme: Mapping[str, str]) -> str:
        return " ".join(f"--{name}: {theme[name]};" for name in _COLORS)

    style = (
        f"<style>svg {{ {themed(LIGHT)} background: var(--paper); }} "
        f"@media (prefers-color-scheme: dark) {{ svg {{ {themed(DARK)} }} }}</style>"
    )
    svg = network_svg(figure)
    end = svg.index(">") + 1
    return f'<?xml version="1.0" encoding="utf-8"?>\n{svg[:end]}{style}{svg[end:]}'.encode()


_COLORS = ("ink", "soft", "line", "edge", "panel", "paper", "mark", "best", "link")


def _draw_row(axes: Axes, stage: str, row: Sequence[_Box], top: float, high: float) -> None:
    from matplotlib.patches import FancyBboxPatch

    site = row[0].unit.chosen
    if stage:
        size = " × ".join(str(n) for n in (site.channels, *site.size))
        _text(axes, 0.08, top + LINE, stage if len(stage) <= LONGEST else f"…{stage[1 - LONGEST :]}", weight="bold")
        _text(axes, 0.08, top + 2 * LINE, size, color="soft", size=7)
    for k, box in enumerate(row):
        left = 1.5 * WIDTH + k * (WIDTH + GAP)
        has_se = box.choice.kind != "none"
        shape = FancyBboxPatch(
            (left + 0.03, top + 0.03), WIDTH - 0.06, high - 0.06, boxstyle="round,pad=0.03,rounding_size=0.06",
            facecolor=LIGHT["panel" if has_se else "paper"], edgecolor=LIGHT["mark" if has_se else "line"],
            linewidth=1.4 if has_se else 0.9,
        )  # fmt: skip
        axes.add_patch(shape)
        if k:
            axes.plot([left - GAP, left], [top + high / 2] * 2, color=LIGHT["edge"], linewidth=0.8)
        _text(axes, left + 0.07, top + 1.1 * LINE, box.name, color="ink" if has_se else "soft", size=7.5)
        for i, line in enumerate(box.lines):
            _text(axes, left + 0.07, top + LINE * (2.2 + i), line, color="mark" if i == 0 else "soft", size=6.5)


def _text(axes: Axes, x: float, y: float, text: str, *, color: str = "ink", size: float = 8.0, **settings: Any) -> None:
    axes.text(x, y, text, color=LIGHT[color], fontsize=size, va="center", parse_math=False, clip_on=True, **settings)
