"""Options of the commands that look at a run or give it away: report, compare, explain, export."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from se_nas.commands.early import check_run
from se_nas.commands.shared_options import (
    add_storage,
    add_trust,
    at_work,
    shown,
)
from se_nas.core.errors import ConfigError
from se_nas.core.serialization import to_plain
from se_nas.core.words import costs_text
from se_nas.exports.names import check_formats, listed_names


def add_report(parser: ArgumentParser) -> None:
    """The options of ``se-nas report``."""
    add = parser.add_argument
    add("run", type=str, help="run folder")
    add("--watch", action="store_true", help="rewrite report.html continuously while the search runs")
    add("--every", type=float, default=5.0, help="seconds between two versions of a watched page")
    add(
        "--figures", type=str | None, default=None,
        help="folder for figures (PNG, SVG, PDF) and tables (CSV, Markdown, LaTeX) of front and effects",
    )  # fmt: skip
    add(
        "--probe_lr", action="store_true",
        help="first train no SE and SE everywhere briefly at 1/3, 1 and 3 times the learning rate",
    )  # fmt: skip
    add_trust(parser)
    add_storage(parser)
    add("--json", action="store_true", help="print the result as JSON")


def run_report(given: Namespace) -> int:
    """``se-nas report``; the exit code."""
    figures = None if given.figures is None else Path(given.figures)
    if given.every <= 0:
        raise ConfigError(f"every is {given.every}", allowed=["a number of seconds above 0"])
    if given.probe_lr and given.watch:
        raise ConfigError("probe_lr trains, and watch looks at a search that does", hint="give one of the two")
    if not given.watch:
        check_run(given.run, storage=given.storage)
    with at_work(given) as view:
        from se_nas.commands.report import watch
        from se_nas.commands.results import report_again
        from se_nas.report.terminal import show_result

        if given.probe_lr:
            from se_nas.commands.probe import probe_learning_rate

            probe_learning_rate(Path(given.run), trust=given.trust, storage=given.storage, view=view)
        view.stage("writing the report")
        if given.watch:
            result = watch(Path(given.run), every=given.every, view=view, figures=figures, storage=given.storage)
        else:
            result = report_again(Path(given.run), figures=figures, storage=given.storage)
    return shown(given, result, lambda found: show_result(found.summary, found.dashboard))


def add_compare(parser: ArgumentParser) -> None:
    """The options of ``se-nas compare``."""
    add = parser.add_argument
    add("runs", type=str, nargs="+", help="run folders, two or more")
    add("--cost", type=str | None, default=None, help="cost axis; default the first of the first run")
    add("--to", type=str, default="compare", help="folder for the page, the figures and the tables")
    add_storage(parser)
    add("--json", action="store_true", help="print the result as JSON")


def run_compare(given: Namespace) -> int:
    """``se-nas compare``; the exit code."""
    for run in given.runs if len({Path(run).resolve() for run in given.runs}) == len(given.runs) > 1 else ():
        check_run(run, storage=given.storage)
    with at_work(given) as view:
        from se_nas.commands.compare import compare
        from se_nas.report.terminal import show_comparison

        view.stage("comparing the runs")
        content = compare([Path(run) for run in given.runs], Path(given.to), cost=given.cost, storage=given.storage)
    return shown(given, content, show_comparison)


def add_export(parser: ArgumentParser) -> None:
    """The options of ``se-nas export``."""
    add = parser.add_argument
    add("run", type=str, help="run folder")
    add(
        "--select", type=str, default="recommended",
        help="recommended, folded, observed-best, knee, baseline, reference, given, trial=N, max-params=X, max-COST=X",
    )  # fmt: skip
    add(
        "--format", type=str, default="safetensors",
        help="safetensors, python, pt2, pt2-half, onnx, onnx-half, onnx-int8; several with commas",
    )  # fmt: skip
    add("--to", type=str, default=None, help="folder to write; default RUN/export-KEY")
    add("--force", action="store_true", help="replace an export that is there already")
    add("--license", type=str, default="", help="license for the model card, such as apache-2.0")
    add("--opset", type=int, default=20, help="version of the ONNX operator set")
    add("--max_drop", type=float, default=0.02, help="accuracy that half precision and int8 may lose (0.02: 2 points)")
    add("--fold", action="store_true", help="fold effectively constant SE blocks into the neighbouring weights")
    add(
        "--fold_margin", type=float | None, default=None,
        help="with --fold: largest accepted loss per block, by a paired test on validation images (0.1 points)",
    )  # fmt: skip
    add_trust(parser)
    add_storage(parser)
    add("--json", action="store_true", help="print folder and proofs as JSON")


def run_export(given: Namespace) -> int:
    """``se-nas export``; the exit code."""
    check_formats(listed_names(given.format))
    check_run(given.run, storage=given.storage, select=given.select)
    with at_work(given) as view:
        from se_nas.commands.export import export
        from se_nas.report.terminal import show_export

        done = export(
            given.run,
            select=given.select,
            formats=given.format,
            to=given.to,
            force=given.force,
            license=given.license,
            opset=given.opset,
            max_drop=given.max_drop,
            fold=given.fold,
            fold_margin=given.fold_margin,
            trust=given.trust,
            storage=given.storage,
            view=view,
        )
    folded = done.record.folded
    costs = costs_text({name: cost.value for name, cost in done.record.costs.items()})
    said = [f"Exported: {done.record.name}, {costs}."]
    said += [] if folded is None else folded.sentences
    return shown(given, done, lambda _: show_export(str(done.folder), to_plain(done.proofs), said))


def add_explain(parser: ArgumentParser) -> None:
    """The options of ``se-nas explain``."""
    add = parser.add_argument
    add("run", type=str, help="run folder")
    add(
        "--select", type=str | None, default=None,
        help="as for export; default the recommended network, or the best with SE that has its weights",
    )  # fmt: skip
    add("--trial", type=int | None, default=None, help="short for --select trial=N")
    add("--images", type=int | None, default=None, help="validation images, at most; default what takes minutes")
    add("--device", type=str, default="auto", help="auto, cpu, cuda, cuda:N, mps, xpu")
    add_trust(parser)
    add_storage(parser)
    add("--json", action="store_true", help="print the result as JSON")


def run_explain(given: Namespace) -> int:
    """``se-nas explain``; the exit code."""
    if given.trial is not None and given.select is not None:
        raise ConfigError("trial and select both say which network is meant", hint="give one of the two")
    select = given.select if given.trial is None else f"trial={given.trial}"
    check_run(given.run, storage=given.storage, select=select)
    with at_work(given) as view:
        from se_nas.commands.explain import explain_run
        from se_nas.report.terminal import show_explained

        done = explain_run(
            given.run,
            select=select,
            images=given.images,
            device=given.device,
            trust=given.trust,
            storage=given.storage,
            view=view,
        )
    return shown(given, done.found, lambda found: show_explained(found, str(done.folder)))
