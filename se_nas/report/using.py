"""What `se-nas predict` and `se-nas evaluate` print."""

from __future__ import annotations

from rich.table import Table

from se_nas.analysis.evaluation import Evaluation
from se_nas.analysis.predictions import Predictions
from se_nas.core.words import level_of
from se_nas.report.console import console

SHOWN = 50
"""Images, and classes, that a terminal is given."""


def show_predictions(found: Predictions, file: str | None, *, top: int = 3) -> None:
    """Print the likeliest classes of each image, of many the first ones, and where the file with all is."""
    out = console(width=140, highlight=False)
    table = Table(title=f"By {found.network}", title_justify="left")
    for name in ("image", "class", "probability", *(["then"] if top > 1 and len(found.classes) > 1 else [])):
        table.add_column(name, justify="right" if name == "probability" else "left", overflow="fold")
    rows = list(found.likeliest(top))
    for ranked, image in rows[:SHOWN]:
        (name, share), *others = ranked
        table.add_row(image, name, f"{share:.3f}", *([", ".join(f"{n} {p:.3f}" for n, p in others)] if others else []))
    if rows:
        out.print(table)
    if len(rows) > SHOWN:
        out.print(f"... and {len(rows) - SHOWN:,} more{'' if file else ': --to FILE.csv has all'}")
    if file:
        out.print(f"File: {file}", soft_wrap=True)


def show_evaluation(found: Evaluation) -> None:
    """Print the metric with its interval, in all and by class, and what is to be known of the images."""
    out = console(width=100, highlight=False)
    out.print(f"{found.network} on {found.images:,} images of {found.data}", soft_wrap=True)
    for sentence in found.sentences:
        out.print(sentence)
    there = [one for one in found.classes if one.score is not None]
    if not there:
        return
    worst = sorted(there, key=lambda one: one.score.value if one.score else 0.0)
    few = len(there) <= SHOWN
    table = Table(title="By class" if few else f"The {SHOWN} classes with the lowest values", title_justify="left")
    for name in ("class", "images", there[0].score.metric if there[0].score else "", "90 % interval"):
        table.add_column(name, justify="left" if name == "class" else "right", overflow="fold")
    for one in there if few else worst[:SHOWN]:
        if one.score is not None:
            low, high = (level_of(end, one.score.unit) for end in (one.score.low, one.score.high))
            table.add_row(one.name, f"{one.images:,}", level_of(one.score.value, one.score.unit), f"{low} to {high}")
    out.print(table)
