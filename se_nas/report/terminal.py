"""What a command says at its end: tables as wide as the terminal, sentences, and where the files are."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from se_nas.analysis.confirmation import Confirmation, Confirmed, Difference
from se_nas.analysis.explanation import Explanation
from se_nas.analysis.summary import Summary, recommended_by
from se_nas.core.words import (
    ALONE,
    TOGETHER,
    amount,
    cost_with_unit,
    counted,
    flops_told_apart,
    in_words,
    level_of,
    within,
)
from se_nas.report.compare_page import Comparison
from se_nas.report.console import WIDTH, console
from se_nas.report.fitted_table import Column, FittedTable
from se_nas.report.front_table import front_display
from se_nas.report.gates_section import GATE_FILES, OPEN_ROWS, gates_display
from se_nas.report.rules_table import rules_display


def show_result(summary: Summary, dashboard: str = "") -> None:
    """Print the end of a search: why it ended, the front, rules beside it, what was gained, and where the files are.

    `dashboard` is the command that shows the study in optuna-dashboard.
    """
    out = console(width=WIDTH)
    say = functools.partial(out.print, highlight=False, markup=False)
    failed = f", {counted(summary.failed, 'training')} failed" if summary.failed else ""
    say(f"Ended: {summary.ended} ({summary.trained} trained{failed}).")
    if summary.front:
        what = (
            f"mean: model estimate from {summary.complete} trainings; {summary.objective.metric}: single training"
            if summary.estimated
            else "single runs"
        )
        elsewhere = "all of it: report.html, front.csv"
        out.print(front_display(summary, title=f"Pareto front ({what})", elsewhere=elsewhere))
    if (rules := rules_display(summary)) is not None:
        out.print(rules)
    for line in summary.lines:
        say(line)
    best = ", best/" if (Path(summary.folder) / "best").is_dir() else ""  # a replayed search has no weights
    say(f"Files: {summary.folder} (report.html, trials.csv, curves.csv, front.csv, front.png, study.db{best})")
    if dashboard:
        needs = "" if find_spec("optuna_dashboard") else " (pip install 'se-nas[dashboard]')"
        out.print(f"Dashboard{needs}: {dashboard}", highlight=False, markup=False, soft_wrap=True)  # to be copied


def show_export(folder: str, proofs: Sequence[dict[str, Any]], said: Sequence[str] = ()) -> None:
    """Print which network it is and what was folded, the proof of each file, and the folder as the last line."""
    out = console(width=WIDTH)
    for sentence in said:
        out.print(sentence, highlight=False, markup=False)
    first = proofs[0]
    heads = ("file", "KiB", "largest difference", "same predictions", "accuracy", "latency, ms (90 % interval)")
    rows = [_proof_cells(proof) for proof in proofs]
    table = FittedTable(
        title=f"Proven on {first['images']} validation images, each file in a process of its own",
        columns=[
            Column(head=head, cells=[row[i] for row in rows], text=i == 0, rank=rank)
            for i, (head, rank) in enumerate(zip(heads, (0, 5, 1, 2, 3, 4), strict=True))
        ],
        elsewhere="all of it: proof.json",
    )
    out.print(table)
    if first["trained_accuracy"] is not None:
        out.print(f"Accuracy of the trained network on these images: {level_of(first['trained_accuracy'], 'share')}",
                      highlight=False)  # fmt: skip
    out.print(folder, highlight=False, markup=False)


def _proof_cells(proof: dict[str, Any]) -> list[str]:
    latency = proof["latency"]
    return [
        proof["file"],
        f"{proof['bytes'] / 1024:,.0f}",
        f"{proof['difference']:.2g} of {proof['scale']:.3g}",
        f"{100 * proof['agreement']:.2f} %",
        "" if proof["accuracy"] is None else level_of(proof["accuracy"], "share"),
        f"{latency['value']:.3f} ({latency['interval'][0]:.3f} to {latency['interval'][1]:.3f})",
    ]


def show_explained(found: Explanation, folder: str) -> None:
    """Print what the SE blocks of a network do: a table, sentences, and where the files are."""
    out = console(width=80)
    say = functools.partial(out.print, highlight=False, markup=False)
    trial = "" if found.trial is None else f" (trial {found.trial})"
    say(f"Explained: {in_words(found.placement)}{trial}.")
    if found.note:
        say(found.note)
    out.print(gates_display(found))
    for sentence in found.of_network if len(found.blocks) > OPEN_ROWS else found.sentences:
        say(sentence)
    say(f"Files: {folder} ({GATE_FILES})", soft_wrap=True)


CONFIRMED_RANKS = (0, 7, 5, 1, 6, 0, 2, 3, 4, 8, 9, 10)
"""Of the columns of `show_confirmed`: those of a lower rank stay longer."""


def show_confirmed(result: Confirmation, run: str) -> None:
    """Print what a confirm found: the table of networks, the verdict, and where the files are."""
    out = console(width=WIDTH)
    say = functools.partial(out.print, highlight=False, markup=False)
    images = f"{result.test_images:,}" if result.test_images else "the trainer's own"
    up_to = "" if result.rounds is None else "up to "
    trained = f"{counted(len(result.seeds), 'fresh seed')}, {counted(result.epochs, 'epoch')}"
    title = f"Confirmed: {up_to}{trained}, {images} test images"
    heads = ("placement", "seeds", result.metric, "test", f"90 % ({ALONE})", "vs. no SE", f"90 % ({TOGETHER})", "p",
             "vs. SE everywhere", "p", "predicted", "overestimated by")  # fmt: skip
    rows = [_confirmed_cells(network, result) for network in result.networks]
    out.print(
        FittedTable(
            title=title,
            columns=[
                Column(head=head, cells=[row[i] for row in rows], text=i == 0, rank=rank)
                for i, (head, rank) in enumerate(zip(heads, CONFIRMED_RANKS, strict=True))
            ],
            elsewhere="all of it: report.html, confirm.json",
        )
    )
    if result.noise is not None:
        finite = result.noise.image_sd
        by_images = "unknown" if finite is None else amount(finite, result.unit, signed=False)
        say(
            f"Noise: sd over seeds {amount(result.noise.seed_sd, result.unit, signed=False)}, of a difference by the "
            f"finite test set {by_images}, correlation of equal seeds "
            f"{result.noise.seed_correlation:.2f}."
        )
        say(
            f"{ALONE}: the interval holds for this network alone; {TOGETHER}: intervals and p-values (one-sided) hold "
            f"for all {counted(len(result.family), 'comparison')} at once."
        )
    for text in result.verdict.texts:
        say(text)
    if (chosen := result.network(result.verdict.network)) is not None and chosen.trial is not None:
        say(f"Recommended {recommended_by(result.verdict)}: {chosen.label} (trial {chosen.trial}).")
    say(f"Files: {run}/confirm.json, {run}/test_openings.jsonl")


def _confirmed_cells(network: Confirmed, result: Confirmation) -> list[str]:
    unit = result.unit
    role = {"baseline": " (no SE)", "reference": " (reference)"}.get(network.role, "")
    cells = [network.label.replace(",", " ") + role, str(len(network.validation.values))]
    cells.append(level_of(network.validation.mean, unit))
    test = network.test
    span = None if test is None or test.interval is None else within(*test.interval, unit)
    cells += ["", ""] if test is None else [level_of(test.mean, unit), _range(span, unit)]
    for role in ("baseline", "reference"):
        difference = network.against.get(role)
        if difference is None:
            cells += ["", "", ""] if role == "baseline" else ["", ""]
            continue
        cells.append(amount(difference.mean, unit))
        if role == "baseline":
            cells.append(_range(difference.family_interval or difference.interval, unit))
        cells.append("" if difference.family_p is None else _p(difference))
    cells.append("" if network.promised is None else level_of(network.promised, unit))
    return [*cells, "" if network.optimism is None else amount(network.optimism, unit)]


def _p(difference: Difference) -> str:
    p = difference.family_p or 0.0
    return ("<0.001" if p < 0.001 else f"{p:.3f}") + ("*" if difference.beats else "")


def _range(interval: tuple[float, float] | None, unit: str) -> str:
    return "" if interval is None else " to ".join(amount(end, unit, signed=False, name=False) for end in interval)


def show_comparison(found: Comparison) -> None:
    """Print what `se_nas.commands.compare.compare` found."""
    out = console(width=WIDTH)
    flops = found.cost == "gflops"
    unit, texts = flops_told_apart([row.cost for row in found.runs]) if flops else (
        cost_with_unit(found.cost), [f"{row.cost:.5g}" for row in found.runs])  # fmt: skip
    table = FittedTable(
        title=f"{found.metric} against {found.cost}",
        columns=[
            Column(head="run", cells=[row.run for row in found.runs], text=True),
            Column(head="backbone", cells=[row.backbone for row in found.runs], text=True, rank=3),
            Column(head="data", cells=[row.data for row in found.runs], text=True, rank=4),
            Column(head="sampler", cells=[row.sampler for row in found.runs], text=True, rank=6),
            Column(head="trained", cells=[str(row.trained) for row in found.runs], rank=5),
            Column(head="best network", cells=[row.best.replace(",", " ") for row in found.runs], text=True, rank=1),
            Column(head=found.metric, cells=[level_of(row.value, found.unit) for row in found.runs]),
            Column(head=unit, cells=texts),
            Column(head="hypervolume", cells=[f"{row.hypervolume:.4f}" for row in found.runs], rank=2),
        ],
        elsewhere="all of it: compare.html",
    )
    out.print(table)
    for note in found.notes:
        out.print(note, highlight=False, markup=False)
    out.print(f"Files: {found.out} (compare.html, .png, .svg, .pdf, .csv, .md, .tex)", highlight=False, markup=False)
