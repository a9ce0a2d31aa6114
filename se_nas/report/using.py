"""What `se-nas predict` and `se-nas evaluate` print."""

from __future__ import annotations

from se_nas.analysis.evaluation import Evaluation
from se_nas.analysis.predictions import Predictions
from se_nas.core.words import level_of
from se_nas.report.console import WIDTH, console
from se_nas.report.fitted_table import Column, FittedTable

SHOWN = 50
"""Images, and classes, that a terminal is given."""


def show_predictions(found: Predictions, file: str | None, *, top: int = 3) -> None:
    """Print the likeliest classes of each image, of many the first ones, and where the file with all is."""
    out = console(width=WIDTH, highlight=False)
    rows = list(found.likeliest(top))
    shown = rows[:SHOWN]
    columns = [
        Column(head="image", text=True, cells=[image for _, image in shown]),
        Column(head="class", text=True, cells=[ranked[0][0] for ranked, _ in shown]),
        Column(head="probability", cells=[f"{ranked[0][1]:.3f}" for ranked, _ in shown]),
    ]
    if top > 1 and len(found.classes) > 1:
        then = [", ".join(f"{name} {share:.3f}" for name, share in ranked[1:]) for ranked, _ in shown]
        columns.append(Column(head="then", text=True, rank=1, cells=then))
    if rows:
        out.print(FittedTable(title=f"By {found.network}", columns=columns))
    if len(rows) > SHOWN:
        out.print(f"... and {len(rows) - SHOWN:,} more{'' if file else ': --to FILE.csv has all'}")
    if file:
        out.print(f"File: {file}", soft_wrap=True)


def show_evaluation(found: Evaluation) -> None:
    """Print the metric with its interval, in all and by class, and what is to be known of the images."""
    out = console(width=WIDTH, highlight=False)
    out.print(f"{found.network} on {found.images:,} images of {found.data}", soft_wrap=True)
    for sentence in found.sentences:
        out.print(sentence)
    there = [one for one in found.classes if one.score is not None]
    if not there:
        return
    worst = sorted(there, key=lambda one: one.score.value if one.score else 0.0)
    few = len(there) <= SHOWN
    shown = [(one, one.score) for one in (there if few else worst[:SHOWN]) if one.score is not None]
    table = FittedTable(
        title="By class" if few else f"The {SHOWN} classes with the lowest values",
        columns=[
            Column(head="class", text=True, cells=[one.name for one, _ in shown]),
            Column(head="images", rank=1, cells=[f"{one.images:,}" for one, _ in shown]),
            Column(head=shown[0][1].metric, cells=[level_of(score.value, score.unit) for _, score in shown]),
            Column(head="90 % interval", rank=1, cells=[
                " to ".join(level_of(end, score.unit) for end in (score.low, score.high)) for _, score in shown]),
        ],
    )  # fmt: skip
    out.print(table)
