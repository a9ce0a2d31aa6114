"""A page of text, charts and tables as one HTML file that needs nothing else: no network, no other file.

Charts are drawn by plotly.js, which is written into the page. What users named (classes, files, units, reasons) is
only ever text: jinja2 escapes it in the markup, `escaped` in the charts, and the page's own policy runs no script but
those that were written here.
"""

from __future__ import annotations

import html
import secrets
from dataclasses import dataclass, field
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from se_nas.core.files import write_atomically
from se_nas.core.version import __version__

# Text on paper has a contrast of 4.5 at least in both themes; the series are Okabe and Ito's, lighter on black.
LIGHT = {
    "paper": "#ffffff", "panel": "#f4f5f7", "ink": "#1c2024", "soft": "#596069", "line": "#e3e6ea", "edge": "#8a929c",
    "link": "#005a94", "focus": "#0072b2", "raw": "#9aa1a9", "seen": "#0072b2", "best": "#00795a", "mark": "#c24a00",
    "confirmed": "#a04a80", "band": "rgba(0, 114, 178, 0.16)",
    "series0": "#0072b2", "series1": "#c24a00", "series2": "#00795a", "series3": "#a04a80", "series4": "#9a6a00",
    "series5": "#3a8fc4",
}  # fmt: skip
DARK = {
    "paper": "#14171a", "panel": "#1f2428", "ink": "#e8eaed", "soft": "#a7afb8", "line": "#2c3238", "edge": "#6d7680",
    "link": "#7cc4f2", "focus": "#7cc4f2", "raw": "#79818a", "seen": "#56b4e9", "best": "#2fc79a", "mark": "#ff9455",
    "confirmed": "#e0a0c8", "band": "rgba(86, 180, 233, 0.22)",
    "series0": "#56b4e9", "series1": "#ff9455", "series2": "#2fc79a", "series3": "#e0a0c8", "series4": "#e6b84a",
    "series5": "#8fb4ff",
}  # fmt: skip
SERIES = 6

#: Charts with more points than this are drawn by the graphics card.
MANY_POINTS = 2000
PAGED_ROWS = 25


@dataclass(frozen=True, kw_only=True)
class Head:
    """A column of a table."""

    label: str
    number: bool = False


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of text. `closed` is the line that opens it where it is folded; `marked` rows are highlighted.

    A cell of a number may have a second line.
    """

    caption: str
    heads: list[Head]
    rows: list[list[str]]
    closed: str = ""
    marked: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class View:
    """One way to see a chart: plotly traces and layout, and the table that says the same.

    A colour ``@name`` is that of the theme. ``columns`` of a trace, such as ``{"x": "gflops"}``, are taken from the
    columns of the page, at its ``rows`` if it has some; ``{"name": n, "zero": z, "factor": f}`` is ``(n - z) * f``.
    """

    label: str = ""
    traces: list[dict[str, Any]]
    layout: dict[str, Any] = field(default_factory=dict)
    table: Table | None = None


@dataclass(frozen=True, kw_only=True)
class Offer:
    """A network that one would take under a budget.

    In its `command`, ``RUN`` stands for the run folder, which the page finds out from where it lies.
    """

    title: str
    placement: str
    facts: list[str]
    command: str


@dataclass(frozen=True, kw_only=True)
class Budget:
    """A slider for one cost: from each limit on an offer, by its index. All limits are in the unit of the cost.

    ``whole``: a count; ``start``: where the slider stands at first; ``(limit - zero) * factor`` is the place of a limit
    on the axis of the chart.
    """

    name: str
    unit: str
    whole: bool
    low: float
    high: float
    start: float
    zero: float
    factor: float
    steps: list[tuple[float, int]]


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A chart with a choice of views. `alt` says to those who cannot see it what it shows.

    With `budgets`, one for each view, a slider below it names one of the `offers`.
    """

    views: list[View]
    alt: str
    caption: str
    choose: str = ""
    height: int = 420
    budgets: list[Budget | None] = field(default_factory=list)
    offers: list[Offer] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of the table of all rows: `digits` after the point for numbers, None for text, which may be `long`."""

    key: str
    label: str
    digits: int | None = None
    long: bool = False


@dataclass(frozen=True, kw_only=True)
class Block:
    """Text to copy, folded where `closed`."""

    title: str
    text: str
    closed: bool = False


@dataclass(frozen=True, kw_only=True)
class Link:
    """A file beside the page: `path` is relative to it."""

    path: str
    note: str


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the page under a heading. `picture` is an SVG element, with `seen` for those who cannot see it."""

    id: str
    title: str
    short: str = ""
    text: list[str] = field(default_factory=list)
    picture: Markup | None = None
    seen: str = ""
    chart: Chart | None = None
    tables: list[Table] = field(default_factory=list)
    paged: list[Column] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Page:
    """A whole page. `columns` hold the rows that charts and the paged table share.

    With `refresh` the page loads itself again after so many seconds, which a button pauses. `brief` are the sentences
    above all else; `folder` is the name of the folder that the page lies in, as commands name it.
    """

    title: str
    lead: str
    sections: list[Section]
    brief: tuple[str, ...] = ()
    folder: str = ""
    figures: list[tuple[str, str, str]] = field(default_factory=list)
    """Name, value and note of the numbers on top."""
    columns: dict[str, list[Any]] = field(default_factory=dict)
    refresh: float | None = None
    made: str = field(default_factory=lambda: datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %Z"))


def escaped(text: object) -> str:
    """Text for plotly, which reads some HTML in its texts."""
    return html.escape(str(text), quote=False)


def write_page(page: Page, file: Path) -> Path:
    """Write a page in one piece."""
    write_atomically(file, render(page).encode())
    return file


def render(page: Page) -> str:
    """The page as HTML."""
    from plotly.offline import get_plotlyjs  # only pages need it

    environment = Environment(
        loader=PackageLoader("se_nas.report", "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    charts = {
        section.id: {
            "height": section.chart.height,
            "views": [{"traces": view.traces, "layout": view.layout} for view in section.chart.views],
            "budgets": section.chart.budgets,
            "offers": section.chart.offers,
        }
        for section in page.sections
        if section.chart is not None
    }
    paged = {
        section.id: {
            "caption": section.title,
            "size": PAGED_ROWS,
            "heads": [
                {"key": c.key, "label": c.label, "long": c.long, **({} if c.digits is None else {"digits": c.digits})}
                for c in section.paged
            ],
        }
        for section in page.sections
        if section.paged
    }
    data = {
        "charts": charts, "paged": paged, "columns": page.columns, "refresh": page.refresh,
        "light": LIGHT, "dark": DARK, "folder": page.folder,
    }  # fmt: skip
    return environment.get_template("page.html").render(
        page=page,
        data=_script_json(data),
        light=LIGHT,
        dark=DARK,
        css=Markup(_template("page.css")),  # noqa: S704  # our own file
        script=Markup(_template("page.js")),  # noqa: S704  # our own file
        plotly=Markup(get_plotlyjs()),  # noqa: S704  # plotly's own file
        nonce=secrets.token_urlsafe(16),
        version=__version__,
    )


def _script_json(data: Any) -> Markup:
    """JSON that no HTML parser takes for the end of a script; what is not a number is null."""
    text = msgspec.json.encode(data).decode()
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)  # noqa: S704  # escaped above


def _template(name: str) -> str:
    return resources.files("se_nas.report").joinpath("templates", name).read_text(encoding="utf-8")
