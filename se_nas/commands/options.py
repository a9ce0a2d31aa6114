"""The commands of the command line: the options of each, and what is called with them.

Heavy libraries are imported where a command runs, so that ``--help`` and a wrong option are answered at once.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from jsonargparse import ArgumentParser, Namespace

from se_nas.core.config import SearchConfig, TrainConfig, first_line
from se_nas.core.errors import ConfigError
from se_nas.core.overrides import build, configured, grouped, target_of
from se_nas.core.plain_text import visible
from se_nas.core.ranges import check_whole
from se_nas.core.serialization import to_plain
from se_nas.core.trial import Target

if TYPE_CHECKING:
    from se_nas.commands.describe import Catalogue

T = TypeVar("T")
Options = Callable[[ArgumentParser], None]
Run = Callable[[Namespace], int]


@dataclass(frozen=True, kw_only=True)
class Command:
    """One command: its options, and what it does with them; `run` returns the exit code."""

    help: str
    add_arguments: Options
    run: Run
    config: type | None = None
    """What a configuration file for it holds."""


def _shown(given: Namespace, content: T, show: Callable[[T], object]) -> int:
    if given.json:
        print(json.dumps(content.as_json() if hasattr(content, "as_json") else to_plain(content)))
    else:
        show(content)
    return 0


def _settings(given: Namespace, kind: type) -> dict[str, Any]:
    plain = given.as_dict()
    return {f.name: plain[f.name] for f in dataclasses.fields(kind)}


def _add_display(parser: ArgumentParser) -> None:
    parser.add_argument("--quiet", action="store_true", help="show nothing but errors and the result")
    parser.add_argument("--json", action="store_true", help="print the result as JSON on standard output")


def _add_storage(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--storage", type=str | None, default=None, help="the storage that the run folder names, if it names one"
    )


def _add_trust(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--trust", action="store_true",
        help="run code that the folder names, though you have not given its name on this machine before",
    )  # fmt: skip


def _add_search(parser: ArgumentParser) -> None:
    parser.add_argument("--config", action="config", help="YAML file with any of these options")
    parser.add_class_arguments(SearchConfig, None)
    parser.add_argument(
        "--plan", action="store_true",
        help="only say what the search would do, take and be able to tell; nothing is trained",
    )  # fmt: skip
    _add_display(parser)


def _search(given: Namespace) -> int:
    from se_nas.executors.local import warm_up  # the workers load their libraries while we load ours

    config = configured(None, _settings(given, SearchConfig))
    if not (given.quiet or given.json):  # what follows takes seconds to load
        print(first_line(config), file=sys.stderr, flush=True)
    if config.executor.target == "local":
        warm_up()
    if given.plan:
        from se_nas.commands.plan import plan
        from se_nas.report.plan_text import plan_lines

        return _shown(given, plan(config), lambda found: print("\n".join(plan_lines(found))))
    from se_nas.commands.search import search
    from se_nas.report.terminal import View, show_result

    result = search(config, view=View(quiet=given.quiet or given.json))
    _shown(given, result, lambda found: show_result(found.summary))
    return 130 if result.ended == "interrupted" else 0


def _add_backbone(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("--backbone", type=Target, default=Target(target="resnet20"), help="the CNN")
    add("--data", type=Target | None, default=None, help="take image shape and classes from a data set")
    add("--space", type=str, default="stagewise", help="stagewise, blockwise, on-off or a YAML file")
    add(
        "--input_shape", type=str, default=None,
        help="channels,height,width; default that of the digits for built-in backbones, else 3,224,224",
    )  # fmt: skip
    add("--num_classes", type=int, default=None, help="default: as the data set has, or the backbone")


def _add_sites(parser: ArgumentParser) -> None:
    _add_backbone(parser)
    parser.add_argument("--diagram", type=str | None, default=None, help="write a picture of the network: FILE.svg")
    _add_placement(parser, default="none")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _add_placement(parser: ArgumentParser, *, default: str) -> None:
    parser.add_argument("--placement", type=str, default=default, help="none, keep, all:R, STAGE=R,... or a .json file")


def _add_cost(parser: ArgumentParser) -> None:
    _add_backbone(parser)
    _add_placement(parser, default="all:16")
    _add_latency(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def _add_latency(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("--measure", type=list[str], default=[], help="latency and latency@RUNTIME, measured beside the backbone")
    add("--latency_batch", type=int, default=1, help="images at a time")
    add("--latency_threads", type=int, default=1, help="threads on a CPU")
    add("--latency_table", type=str | None, default=None, help="JSON files of other devices, with commas between")
    add("--device", type=str, default="auto", help="auto, cpu, cuda, cuda:N, mps, xpu")


def _catalogue(given: Namespace) -> Catalogue:
    from se_nas.commands.describe import describe

    return describe(
        target_of("backbone", given.backbone.as_dict()),
        data=None if given.data is None else target_of("data", given.data.as_dict()),
        input_shape=given.input_shape,
        num_classes=given.num_classes,
        space=given.space,
    )


def _sites(given: Namespace) -> int:
    from se_nas.commands.describe import show_sites, write_diagram

    catalogue = _catalogue(given)
    if given.diagram is not None:
        write_diagram(catalogue, given.placement, given.diagram)
    return _shown(given, catalogue.sites(), lambda _: show_sites(catalogue))


def _cost(given: Namespace) -> int:
    from se_nas.commands.describe import show_cost

    catalogue = _catalogue(given)
    content = catalogue.cost(given.placement)
    if given.measure or given.latency_table:
        from se_nas.commands.side_by_side import latency_beside

        content["latency"] = latency_beside(
            catalogue,
            given.placement,
            given.measure,
            batch=given.latency_batch,
            threads=given.latency_threads,
            tables=given.latency_table,
            device=given.device,
        )
    return _shown(given, content, show_cost)


def _add_confirm(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("run", type=str, help="run folder of a search")
    add("--top", type=int, default=3, help="finalists: members of the front, best first")
    add("--seeds", type=int | None, default=None, help="a fixed number of fresh seeds, the same for all networks")
    add(
        "--max_seeds", type=int | None, default=None,
        help="default: seeds are added until the answer stands, up to so many (20)",
    )  # fmt: skip
    add(
        "--margin", type=float | None, default=None,
        help="smallest gain that is worth its cost: points of a share, else in the metric's unit; default as searched",
    )  # fmt: skip
    add("--epochs", type=int | None, default=None, help="full schedule; default that of the search")
    add("--workers", type=int | None, default=None, help="trainings at a time; default as searched")
    add("--device", type=str | None, default=None, help="auto, cpu, cuda, cuda:N, mps, xpu; default as searched")
    add("--executor", type=Target | None, default=None, help="local, inline, ray; default as searched")
    _add_trust(parser)
    _add_storage(parser)
    _add_display(parser)


def _confirm(given: Namespace) -> int:
    from se_nas.executors.local import warm_up

    warm_up()
    from se_nas.commands.confirm import confirm
    from se_nas.report.terminal import View, show_confirmed

    result = confirm(
        given.run,
        top=given.top,
        seeds=given.seeds,
        max_seeds=given.max_seeds,
        margin=given.margin,
        epochs=given.epochs,
        workers=given.workers,
        device=given.device,
        executor=None if given.executor is None else target_of("executor", given.executor.as_dict()),
        trust=given.trust,
        storage=given.storage,
        view=View(quiet=given.quiet or given.json),
    )
    return _shown(given, to_plain(result), lambda _: show_confirmed(result, given.run))


def _add_train(parser: ArgumentParser) -> None:
    parser.add_argument("--config", action="config", help="YAML file with any of these options, or of a run")
    parser.add_class_arguments(TrainConfig, None)
    _add_trust(parser)
    _add_display(parser)


def _train(given: Namespace) -> int:
    config = build(grouped(_settings(given, TrainConfig), TrainConfig), TrainConfig)
    from se_nas.commands.train import train_placement
    from se_nas.report.terminal import View

    result = train_placement(config, view=View(quiet=given.quiet or given.json))
    placement = result.trial.placement
    content = {
        "out": str(result.folder), "placement": placement.label, "key": placement.key,
        "validation": result.trial.metrics[result.metric].value, "test": result.test,
        "openings": result.openings, "note": result.note,
    }  # fmt: skip
    return _shown(given, content, lambda _: print(visible("\n".join(result.sentences))))


def _add_report(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("run", type=str, help="run folder")
    add("--watch", action="store_true", help="write report.html again and again while the search runs")
    add("--every", type=float, default=5.0, help="seconds between two versions of a watched page")
    add(
        "--figures", type=str | None, default=None,
        help="folder for figures (PNG, SVG, PDF) and tables (CSV, Markdown, LaTeX) of front and effects",
    )  # fmt: skip
    add(
        "--probe_lr", action="store_true",
        help="first train no SE and SE everywhere, shortly, at a third of the learning rate, at it, and at 3 times it",
    )  # fmt: skip
    _add_trust(parser)
    _add_storage(parser)
    add("--json", action="store_true", help="print the result as JSON")


def _report(given: Namespace) -> int:
    from se_nas.commands.report import watch
    from se_nas.commands.results import report_again
    from se_nas.report.terminal import View, show_result

    figures = None if given.figures is None else Path(given.figures)
    if given.every <= 0:
        raise ConfigError(f"every is {given.every}", allowed=["a number of seconds above 0"])
    if given.probe_lr:
        from se_nas.commands.probe import probe_learning_rate

        if given.watch:
            raise ConfigError("probe_lr trains, and watch looks at a search that does", hint="give one of the two")
        probe_learning_rate(Path(given.run), trust=given.trust, storage=given.storage, view=View(quiet=given.json))
    if given.watch:
        view = View(quiet=given.json)
        result = watch(Path(given.run), every=given.every, view=view, figures=figures, storage=given.storage)
    else:
        result = report_again(Path(given.run), figures=figures, storage=given.storage)
    return _shown(given, result, lambda found: show_result(found.summary))


def _add_compare(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("runs", type=str, nargs="+", help="run folders, two or more")
    add("--cost", type=str | None, default=None, help="cost axis; default the first of the first run")
    add("--to", type=str, default="compare", help="folder for the page, the figures and the tables")
    _add_storage(parser)
    add("--json", action="store_true", help="print the result as JSON")


def _compare(given: Namespace) -> int:
    from se_nas.commands.compare import compare
    from se_nas.report.terminal import show_comparison

    content = compare([Path(run) for run in given.runs], Path(given.to), cost=given.cost, storage=given.storage)
    return _shown(given, content, show_comparison)


def _add_export(parser: ArgumentParser) -> None:
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
    add("--fold", action="store_true", help="fold SE blocks that are constants in effect into the weights beside them")
    add(
        "--fold_margin", type=float | None, default=None,
        help="with --fold: loss up to which a block is one, by a paired test on validation images (0.1 points)",
    )  # fmt: skip
    _add_trust(parser)
    _add_storage(parser)
    add("--json", action="store_true", help="print folder and proofs as JSON")


def _export(given: Namespace) -> int:
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
    )
    folded = done.record.folded
    content = {"folder": str(done.folder), "proofs": to_plain(done.proofs)}
    content |= {} if folded is None else {"folded": to_plain(folded)}
    said = () if folded is None else folded.sentences
    return _shown(given, content, lambda _: show_export(str(done.folder), content["proofs"], said))


def _add_explain(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("run", type=str, help="run folder")
    add(
        "--select", type=str | None, default=None,
        help="as for export; default the recommended network, or the best with SE that has its weights",
    )  # fmt: skip
    add("--trial", type=int | None, default=None, help="short for --select trial=N")
    add("--images", type=int | None, default=None, help="validation images, at most; default what takes minutes")
    add("--device", type=str, default="auto", help="auto, cpu, cuda, cuda:N, mps, xpu")
    _add_trust(parser)
    _add_storage(parser)
    add("--json", action="store_true", help="print the result as JSON")


def _explain(given: Namespace) -> int:
    from se_nas.commands.explain import explain_run
    from se_nas.report.terminal import show_explained

    if given.trial is not None and given.select is not None:
        raise ConfigError("trial and select both say which network is meant", hint="give one of the two")
    done = explain_run(
        given.run,
        select=given.select if given.trial is None else f"trial={given.trial}",
        images=given.images,
        device=given.device,
        trust=given.trust,
        storage=given.storage,
    )
    return _shown(given, done.found, lambda found: show_explained(found, str(done.folder)))


def _add_bench(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("action", type=Literal["export"], help="export: write networks with the script that times them elsewhere")
    add("folder", type=str, help="the folder to write")
    add("--run", type=str | None, default=None, help="run folder that backbone, space and images are taken from")
    _add_backbone(parser)
    add("--format", type=str, default="onnx", help="onnx, onnx-int8, pt2 (for torch); several with commas")
    add("--latency_batch", type=int | None, default=None, help="images at a time; default as in the run, or 1")
    add("--placements", type=int | None, default=None, help="beside no SE and the front, at most; default as it takes")
    _add_trust(parser)
    _add_storage(parser)
    add("--json", action="store_true", help="print the result as JSON")


def _bench(given: Namespace) -> int:
    from se_nas.commands.bench import bench_run, bench_space, show_bench

    check_whole("placements", given.placements)
    settings = {
        "formats": given.format, "batch": given.latency_batch, "most": given.placements, "quiet": given.json,
    }  # fmt: skip
    if given.run is None:
        content = bench_space(given.folder, _catalogue(given), **settings)
    else:
        content = bench_run(given.folder, given.run, trust=given.trust, storage=given.storage, **settings)
    return _shown(given, content, show_bench)


COMMANDS = {
    "search": Command(
        help="search, or go on with a search", add_arguments=_add_search, run=_search, config=SearchConfig
    ),
    "sites": Command(help="list where SE blocks may sit", add_arguments=_add_sites, run=_sites),
    "cost": Command(help="exact cost of a placement", add_arguments=_add_cost, run=_cost),
    "confirm": Command(
        help="retrain the finalists with fresh seeds, then open the test part", add_arguments=_add_confirm, run=_confirm
    ),
    "train": Command(
        help="train one placement for good, then open the test part",
        add_arguments=_add_train, run=_train, config=TrainConfig,
    ),
    "report": Command(
        help="make report.html and all other views again, from the study alone", add_arguments=_add_report, run=_report
    ),
    "compare": Command(
        help="fronts of several runs in one page, figure and table", add_arguments=_add_compare, run=_compare
    ),
    "explain": Command(
        help="what the SE blocks of a trained network do, and which of them multiply by a constant",
        add_arguments=_add_explain, run=_explain,
    ),
    "bench": Command(
        help="write networks to be timed on another device, for --latency-table", add_arguments=_add_bench, run=_bench
    ),
    "export": Command(
        help="write a network of a run to a folder, each format proven equal", add_arguments=_add_export, run=_export
    ),
}  # fmt: skip
