"""What the person sees while a search runs: a live table in a terminal, plain lines elsewhere."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from se_nas.analysis.confirmation import Confirmation, Confirmed, Difference
from se_nas.analysis.explanation import Explanation
from se_nas.analysis.findings import Findings
from se_nas.analysis.summary import Summary, recommended_by, summarize
from se_nas.core.trial import BLAMELESS, Objective, Trial
from se_nas.core.words import amount, duration, in_words, level_of
from se_nas.report.compare_page import Comparison
from se_nas.report.console import console
from se_nas.report.front_table import front_display
from se_nas.report.gates_section import GATE_FILES, OPEN_ROWS, gates_display
from se_nas.report.rules_table import rules_display


@dataclass(frozen=True, kw_only=True)
class Status:
    """A moment of a search."""

    trials: Sequence[Trial]
    running: Sequence[Trial]
    epochs: dict[int, int]
    """Trial -> epochs that it has behind it."""
    budget: int
    slots: int
    objective: Objective
    ending: str = ""

    @property
    def trained(self) -> int:
        return sum(trial.counts for trial in self.trials)

    @property
    def failed(self) -> int:
        return sum(trial.state == "failed" and trial.reason not in BLAMELESS for trial in self.trials)

    @property
    def seconds_left(self) -> float | None:
        """From the mean time of a training, or None before the first."""
        times = [trial.seconds for trial in self.trials if trial.counts]
        if not times:
            return None
        return max(0, self.budget - self.trained) * sum(times) / len(times) / self.slots


class View:
    """Shows a search on standard error, so that standard output stays free for results.

    Parameters
    ----------
    quiet:
        Show nothing but warnings.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self.console = console(stderr=True)
        self._live: Live | None = None
        self._start = time.monotonic()

    def __enter__(self) -> View:
        if not self.quiet and self.console.is_terminal:
            self._live = Live(console=self.console, refresh_per_second=4, transient=True)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    @property
    def live(self) -> bool:
        """Whether there is a table that is drawn again and again."""
        return self._live is not None

    def say(self, *lines: str) -> None:
        """News, each in a line."""
        for line in () if self.quiet else lines:
            self.console.print(line, highlight=False, markup=False)

    def finished(self, trial: Trial, status: Status) -> None:
        """A trial ended: a line of its own where there is no live table."""
        if self._live is not None or self.quiet:
            return
        if trial.state == "complete":
            value = trial.metrics[status.objective.metric].value
            outcome = f"{status.objective.metric} {value:.4f}"
        else:
            outcome = f"{trial.state}: {trial.reason}"
        left = status.seconds_left
        eta = "" if left is None else f", about {duration(left)} left"
        self.say(
            f"[{status.trained}/{status.budget}] trial {trial.number} {trial.placement.label}: {outcome} "
            f"({trial.seconds:.1f} s{eta})"
        )

    def update(self, status: Status) -> None:
        """Draw the moment."""
        if self._live is not None:
            self._live.update(self._draw(status))

    def _draw(self, status: Status) -> Group:
        progress = Progress(
            TextColumn("{task.completed:.0f}/{task.total:.0f} trained"), BarColumn(), TextColumn("{task.description}")
        )
        left = status.seconds_left
        parts = [f"{len(status.running)} running", f"{status.failed} failed"]
        parts.append(f"{duration(time.monotonic() - self._start)} elapsed")
        parts.append("" if left is None else f"about {duration(left)} left")
        progress.add_task(", ".join(p for p in parts if p), total=status.budget, completed=status.trained)
        running = [
            f"  trial {t.number} {t.placement.label}: epoch {status.epochs.get(t.number, 0)}/{t.identity.epochs}"
            for t in status.running
        ]
        rows: list[object] = [progress, *running]
        found = Findings(trials=status.trials, objective=status.objective)
        summary = summarize(found, folder="", budget=status.budget, ended="")
        if summary.front:
            rows.append(front_display(summary, title="front so far (single runs)"))
        if status.ending:
            rows.append(status.ending)
        return Group(*rows)  # type: ignore[arg-type]  # rich's protocol is structural


def show_result(summary: Summary) -> None:
    """Print the end of a search: why it ended, the front, rules beside it, what was gained, and where the files are."""
    out = console(width=180)
    say = functools.partial(out.print, highlight=False, markup=False)
    failed = f", {summary.failed} trainings failed" if summary.failed else ""
    say(f"Ended: {summary.ended} ({summary.trained} trained{failed}).")
    if summary.front:
        what = (
            f"mean: by all {summary.complete} trainings together; beside it: one run"
            if summary.estimated
            else "single runs"
        )
        out.print(front_display(summary, title=f"Pareto front ({what})"))
    if (rules := rules_display(summary)) is not None:
        out.print(rules)
    for line in summary.lines:
        say(line)
    best = ", best/" if (Path(summary.folder) / "best").is_dir() else ""  # a replayed search has no weights
    say(f"Files: {summary.folder} (report.html, trials.csv, curves.csv, front.csv, front.png, study.db{best})")


def show_export(folder: str, proofs: Sequence[dict[str, Any]], folded: Sequence[str] = ()) -> None:
    """Print what was folded, the proof of each exported file, and the folder as the last line."""
    out = console(width=180)
    for sentence in folded:
        out.print(sentence, highlight=False, markup=False)
    first = proofs[0]
    table = Table(title=f"Proven on {first['images']} validation images, each file in a process of its own",
                  title_justify="left")  # fmt: skip
    for name in ("file", "KiB", "largest difference", "same predictions", "accuracy", "latency, ms (90 % interval)"):
        table.add_column(name, justify="left" if name == "file" else "right", overflow="fold")
    for proof in proofs:
        latency = proof["latency"]
        table.add_row(
            proof["file"],
            f"{proof['bytes'] / 1024:,.0f}",
            f"{proof['difference']:.2g} of {proof['scale']:.3g}",
            f"{100 * proof['agreement']:.2f} %",
            "" if proof["accuracy"] is None else f"{proof['accuracy']:.4f}",
            f"{latency['value']:.3f} ({latency['interval'][0]:.3f} to {latency['interval'][1]:.3f})",
        )
    out.print(table)
    if first["trained_accuracy"] is not None:
        out.print(f"Accuracy of the trained network on these images: {first['trained_accuracy']:.4f}",
                      highlight=False)  # fmt: skip
    out.print(folder, highlight=False, markup=False)


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


def show_confirmed(result: Confirmation, run: str) -> None:
    """Print what a confirm found: the table of networks, the verdict, and where the files are."""
    out = console(width=180)
    say = functools.partial(out.print, highlight=False, markup=False)
    images = f"{result.test_images:,}" if result.test_images else "the trainer's own"
    up_to = "" if result.rounds is None else "up to "
    title = f"Confirmed: {up_to}{len(result.seeds)} fresh seeds, {result.epochs} epochs, {images} test images"
    table = Table(title=title, title_justify="left")
    names = ("placement", "seeds", f"{result.metric}", "test", "90 % interval", "to no SE", "90 % interval", "p",
             "to SE everywhere", "p", "promised", "overestimated by")  # fmt: skip
    for name in names:
        table.add_column(name, justify="left" if name == "placement" else "right", overflow="fold")
    for network in result.networks:
        table.add_row(*_confirmed_cells(network, result))
    out.print(table)
    if result.noise is not None:
        finite = result.noise.image_sd
        by_images = "unknown" if finite is None else amount(finite, result.unit, signed=False)
        say(
            f"Noise: sd over seeds {amount(result.noise.seed_sd, result.unit, signed=False)}, of a difference by the "
            f"finite test set {by_images}, correlation of equal seeds "
            f"{result.noise.seed_correlation:.2f}. p: one-sided, for all {len(result.family)} compared at once."
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
    cells += ["", ""] if test is None else [level_of(test.mean, unit), _range(test.interval, unit)]
    for role in ("baseline", "reference"):
        difference = network.against.get(role)
        if difference is None:
            cells += ["", "", ""] if role == "baseline" else ["", ""]
            continue
        cells.append(amount(difference.mean, unit))
        if role == "baseline":
            cells.append(_range(difference.interval, unit))
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
    out = console(width=180)
    table = Table(title=f"{found.metric} against {found.cost}", title_justify="left")
    values = (found.metric, found.cost, "hypervolume")
    for name in ("run", "backbone", "data", "sampler", "trained", "best network", *values):
        table.add_column(name, justify="right" if name == "trained" or name in values else "left", overflow="fold")
    for row in found.runs:
        table.add_row(
            row.run, row.backbone, row.data, row.sampler, str(row.trained), row.best.replace(",", " "),
            f"{row.value:.4f}", f"{row.cost:.5g}", f"{row.hypervolume:.4f}",
        )  # fmt: skip
    out.print(table)
    for note in found.notes:
        out.print(note, highlight=False, markup=False)
    out.print(f"Files: {found.out} (compare.html, .png, .svg, .pdf, .csv, .md, .tex)", highlight=False, markup=False)
