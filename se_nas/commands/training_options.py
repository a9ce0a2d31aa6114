"""Options of the commands that train: search, confirm, train."""

from __future__ import annotations

from jsonargparse import ArgumentParser, Namespace

from se_nas.commands.early import check_names, check_run
from se_nas.commands.shared_options import (
    LOADING,
    add_display,
    add_storage,
    add_trust,
    settings_of,
    shown,
    view_of,
)
from se_nas.core.config import SearchConfig, TrainConfig, first_line
from se_nas.core.overrides import build, configured, grouped, target_of
from se_nas.core.plain_text import visible
from se_nas.core.serialization import to_plain
from se_nas.core.trial import Target
from se_nas.core.words import counted


def add_search(parser: ArgumentParser) -> None:
    """The options of ``se-nas search``."""
    parser.add_argument("--config", action="config", help="YAML file with any of these options")
    parser.add_class_arguments(SearchConfig, None)
    parser.add_argument(
        "--plan", action="store_true",
        help="only show what the search would do, how long it takes and what it can detect; nothing is trained",
    )  # fmt: skip
    add_display(parser)


def run_search(given: Namespace) -> int:
    """``se-nas search``; the exit code."""
    from se_nas.executors.local import warm_up  # the workers load their libraries while we load ours

    config = configured(None, settings_of(given, SearchConfig))
    with view_of(given, first_line(config)) as view:
        view.stage(LOADING)
        if config.executor.target == "local":
            warm_up()
        check_names(config)
        if given.plan:
            from se_nas.commands.plan import plan

            found = plan(config, view=view)
        else:
            from se_nas.commands.search import search

            result = search(config, view=view)
    if given.plan:
        from se_nas.report.plan_text import plan_lines

        return shown(given, found, lambda content: print("\n".join(plan_lines(content))))
    from se_nas.report.terminal import show_result

    shown(given, result, lambda content: show_result(content.summary, content.dashboard))
    return 130 if result.ended == "interrupted" else 0


def add_confirm(parser: ArgumentParser) -> None:
    """The options of ``se-nas confirm``."""
    add = parser.add_argument
    add("run", type=str, help="run folder of a search")
    add("--top", type=int | None, default=None, help="finalists: members of the front, best first (default: 3)")
    add(
        "--finalists", type=str, nargs="+", default=[],
        help="confirm these instead, beside the plain backbone; as all:16, stage2=8,stage3=4 or a .json file",
    )  # fmt: skip
    add("--seeds", type=int | None, default=None, help="a fixed number of fresh seeds, the same for all networks")
    add(
        "--max_seeds", type=int | None, default=None,
        help="default: seeds are added until the answer is settled, up to this many (20)",
    )  # fmt: skip
    add(
        "--margin", type=float | None, default=None,
        help="smallest gain that is worth its cost: points of a share, else in the metric's unit; default as searched",
    )  # fmt: skip
    add("--epochs", type=int | None, default=None, help="full schedule; default that of the search")
    add("--workers", type=int | None, default=None, help="trainings at a time; default as searched")
    add("--device", type=str | None, default=None, help="auto, cpu, cuda, cuda:N, mps, xpu; default as searched")
    add("--executor", type=Target | None, default=None, help="local, inline, ray; default as searched")
    add_trust(parser)
    add_storage(parser)
    add_display(parser)


def run_confirm(given: Namespace) -> int:
    """``se-nas confirm``; the exit code."""
    from se_nas.executors.local import warm_up

    with view_of(given, f"Confirm: the finalists of {given.run}, trained again with fresh seeds") as view:
        check_run(given.run, storage=given.storage)
        view.stage(LOADING)
        warm_up()
        from se_nas.commands.confirm import confirm

        result = confirm(
            given.run,
            top=given.top,
            finalists=given.finalists,
            seeds=given.seeds,
            max_seeds=given.max_seeds,
            margin=given.margin,
            epochs=given.epochs,
            workers=given.workers,
            device=given.device,
            executor=None if given.executor is None else target_of("executor", given.executor.as_dict()),
            trust=given.trust,
            storage=given.storage,
            view=view,
        )
    from se_nas.report.terminal import show_confirmed

    return shown(given, to_plain(result), lambda _: show_confirmed(result, given.run))


def add_train(parser: ArgumentParser) -> None:
    """The options of ``se-nas train``."""
    parser.add_argument("--config", action="config", help="YAML file with any of these options, or of a run")
    parser.add_class_arguments(TrainConfig, None)
    add_trust(parser)
    add_display(parser)


def run_train(given: Namespace) -> int:
    """``se-nas train``; the exit code."""
    from se_nas.executors.local import warm_up

    config = build(grouped(settings_of(given, TrainConfig), TrainConfig), TrainConfig)
    epochs = counted(config.train.epochs, "epoch")
    with view_of(given, f"Train: {config.placement} of {config.backbone.target}, {epochs}, in {config.out}") as view:
        view.stage(LOADING)
        if config.executor.target == "local":
            warm_up()
        check_names(config)
        from se_nas.commands.train import train_placement

        result = train_placement(config, view=view)
    placement = result.trial.placement
    content = {
        "out": str(result.folder), "placement": placement.label, "key": placement.key,
        "validation": result.trial.metrics[result.metric].value, "test": result.test,
        "openings": result.openings, "note": result.note,
    }  # fmt: skip
    return shown(given, content, lambda _: print(visible("\n".join(result.sentences))))
