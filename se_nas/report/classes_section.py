"""Where SE helps: accuracy and mistakes class by class, with SE and without, as a section of the page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from se_nas.analysis.by_class import ByClass, Shift
from se_nas.analysis.confirmation import Confirmation
from se_nas.core.config import LIGHTNING
from se_nas.core.words import TOGETHER, in_words
from se_nas.report.page import Chart, Head, Section, Table, View, escaped
from se_nas.report.reading import RunReading

LARGEST = 10
"""Rows that are shown without being asked for: the largest differences."""

WRITTEN = 12
"""Classes up to which the matrix has its numbers written in it."""

CUT = 100
"""Rows of the folded rest, at most."""


def classes_section(reading: RunReading) -> Section | None:
    """Per-class accuracy and confusions; a line that says how to get them before a confirm; None without classes."""
    confirmation, facts = reading.confirmation, reading.facts
    classifies = facts.config.task.target == "classification" and facts.config.trainer.target == LIGHTNING
    if confirmation is None or confirmation.by_class is None:
        if not classifies or len(facts.data.classes) < 2 or not reading.found.estimated:
            return None
        return _section([_how_to_get_it(confirmation, facts.folder.name)])
    found = confirmation.by_class
    network = confirmation.network(found.network)
    name = "the network with SE" if network is None else in_words(network.label)
    text = [
        f"{name[:1].upper()}{name[1:]} against no SE: the same {confirmation.test_images:,} test images, means of "
        f"{found.seeds} fresh seeds.",
        _shown(found.classes, "class", "classes"),
        _shown(found.mistakes, "kind of mistake", "kinds of mistakes") if found.mistakes else "",
    ]
    if network is not None and network.key != confirmation.verdict.network:
        text.insert(1, "It is the best with SE on the validation set; the recommended network has no SE.")
    tables = [
        *_tables(found.classes, "Accuracy by class", mistakes=False),
        *_tables(found.mistakes, "Mistakes, as shares of their class", mistakes=True),
    ]
    return _section([line for line in text if line], _matrix(found, name), tables)


def _section(text: list[str], chart: Chart | None = None, tables: Sequence[Table] = ()) -> Section:
    return Section(
        id="classes", title="Where SE helps: class by class", short="Classes", text=text, chart=chart,
        tables=list(tables),
    )  # fmt: skip


def _how_to_get_it(confirmation: Confirmation | None, run: str) -> str:
    if confirmation is None:
        return f"Classes are compared on the test set, with fresh seeds: se-nas confirm {run}"
    if len(confirmation.seeds) < 2:
        return f"Classes are compared from two fresh seeds on: se-nas confirm {run} --seeds 3"
    return (
        "This confirm kept no predictions, as those of earlier versions. To compare classes, remove "
        f"{run}/confirm and confirm again with the same options: networks are evaluated again, not trained."
    )


def _shown(shifts: Sequence[Shift], one: str, many: str) -> str:
    """How many differ by more than noise, and which way."""
    shown = sorted((s for s in shifts if s.shown), key=lambda s: -abs(s.difference))
    if not shown:
        return f"None of the {len(shifts):,} {many} differs by more than noise."
    named = ", ".join(f"{_name(s)} ({100 * s.difference:+.1f} points)" for s in shown[:5])
    rest = f" and {len(shown) - 5:,} more" if len(shown) > 5 else ""
    differ = f"1 {one} differs" if len(shown) == 1 else f"{len(shown):,} {many} differ"
    return f"{differ} by more than noise, of {len(shifts):,} compared: {named}{rest}."


def _name(shift: Shift) -> str:
    return shift.true if shift.true == shift.predicted else f"{shift.true} taken for {shift.predicted}"


def _tables(shifts: Sequence[Shift], title: str, *, mistakes: bool) -> list[Table]:
    """The largest differences, and the rest folded and cut."""
    ordered = sorted(shifts, key=lambda s: -abs(s.difference))
    shown, rest = ordered[:LARGEST], ordered[LARGEST:]
    heads = [Head(label="class"), *([Head(label="taken for")] if mistakes else [])]
    heads += [
        Head(label=label, number=True)
        for label in ("images", "no SE, %", "with SE, %", "difference, points", "90 % interval", "p")
    ]
    note = f"{TOGETHER} 90 % intervals and one-sided p: for all that are compared at once (Bonferroni)"

    def table(part: Sequence[Shift], caption: str, closed: str = "") -> Table:
        marked = tuple(k for k, shift in enumerate(part) if shift.shown)
        return Table(caption=caption, heads=heads, rows=[_row(s, mistakes=mistakes) for s in part],
                     closed=closed, marked=marked)  # fmt: skip

    if not shown:
        return []
    largest = f"the {len(shown)} largest differences of {len(ordered):,}" if rest else "largest differences first"
    tables = [table(shown, f"{title}, {largest}. {note}; what is more than noise is highlighted.")]
    if rest:
        cut = f", cut after {CUT} of {len(rest):,}; confirm.json has all" if len(rest) > CUT else ""
        tables.append(table(rest[:CUT], f"{title}: the rest{cut}", f"{title}: the other {min(len(rest), CUT)}"))
    return tables


def _row(shift: Shift, *, mistakes: bool) -> list[str]:
    names = [shift.true, shift.predicted] if mistakes else [shift.true]
    span = f"{100 * shift.low:+.1f} to {100 * shift.high:+.1f}"
    shares = [f"{100 * share:.1f}" for share in (shift.without, shift.value)]
    p = "<0.001" if shift.p < 0.001 else f"{shift.p:.3f}"
    return [*names, f"{shift.images:,}", *shares, f"{100 * shift.difference:+.1f}", span, p]


def _matrix(found: ByClass, name: str) -> Chart | None:
    """The matrix of confusions: what SE changes, and both networks; None with too many classes to draw."""
    if not found.matrices:
        return None
    without, value = ([[100 * share for share in row] for row in table] for table in found.matrices)
    change = [[b - a for a, b in zip(*rows, strict=True)] for rows in zip(without, value, strict=True)]
    labels = [escaped(label) for label in found.names]
    written = len(labels) <= WRITTEN
    reach = max((abs(cell) for row in change for cell in row), default=0.0) or 1.0

    def view(label: str, cells: list[list[float]], form: str, **more: Any) -> View:
        trace = {
            "type": "heatmap", "x": labels, "y": labels, "z": cells, "xgap": 1, "ygap": 1,
            "texttemplate": f"%{{z:{form}}}" if written else "", "showscale": not written,
            "hovertemplate": f"class %{{y}} taken for %{{x}}: %{{z:{form}}} %<extra></extra>", **more,
        }  # fmt: skip
        axis = {"type": "category", "showgrid": False}
        return View(label=label, traces=[trace], layout={
            "xaxis": {**axis, "title": {"text": "predicted class"}},
            "yaxis": {**axis, "title": {"text": "true class"}, "autorange": "reversed"},
        })  # fmt: skip

    shares = {"colorscale": [[0, "@paper"], [1, "@seen"]], "zmin": 0, "zmax": 100}
    changes = {"colorscale": [[0, "@mark"], [0.5, "@paper"], [1, "@seen"]], "zmin": -reach, "zmax": reach}
    return Chart(
        views=[
            view("what SE changes (points)", change, "+.1f", **changes),
            view(f"{name} (%)", value, ".1f", **shares),
            view("no SE (%)", without, ".1f", **shares),
        ],
        alt="Matrix of confusions. The tables below have the largest differences.",
        caption="Of the images of a class (row), the share that was taken for another (column). On the diagonal more "
        "is better, beside it less.",
        choose="Shares of",
        height=max(340, min(640, 150 + 26 * len(labels))),
    )  # fmt: skip
