"""Options of the commands that use a trained network: predict, evaluate."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Literal

from jsonargparse import ArgumentParser, Namespace

from se_nas.commands.early import absent, check_data, check_run
from se_nas.commands.shared_options import add_storage, add_trust, at_work, shown
from se_nas.core.errors import ConfigError, SeNasError
from se_nas.core.overrides import target_of
from se_nas.core.ranges import check_whole
from se_nas.core.trial import Target

SAID = 20
"""Errors of single images that are told; the others are counted."""


def _add_network(parser: ArgumentParser) -> None:
    parser.add_argument("run", type=str, help="run folder, or an export")
    parser.add_argument(
        "--select", type=str, default="recommended",
        help="recommended, observed-best, knee, baseline, reference, given, trial=N, max-params=X, max-COST=X",
    )  # fmt: skip
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda, cuda:N, mps, xpu")


def _add_last(parser: ArgumentParser) -> None:
    add_trust(parser)
    add_storage(parser)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def add_predict(parser: ArgumentParser) -> None:
    """The options of ``se-nas predict``."""
    _add_network(parser)
    add = parser.add_argument
    add("images", type=str, nargs="+", help="image files, or folders of them")
    add("--classes", type=int, default=3, help="classes to show for each image")
    add("--to", type=str | None, default=None, help="write all probabilities to this CSV file")
    _add_last(parser)


def run_predict(given: Namespace) -> int:
    """``se-nas predict``; the exit code: 2 if an image could not be used."""
    check_whole("classes", given.classes)
    if given.to is not None and not given.to.lower().endswith(".csv"):
        raise ConfigError(f"the file {given.to!r} is not a CSV file", hint="give a name that ends in .csv")
    check_run(given.run, storage=given.storage, select=given.select, or_export=True)
    if errors := absent(given.images):
        return _told(errors)
    with at_work(given) as view:
        from se_nas.commands.predict import check_classes, predict_files, write_predictions
        from se_nas.commands.trained_network import trained_network
        from se_nas.report.using import show_predictions

        view.stage("reading the network")
        trained = trained_network(given.run, select=given.select, trust=given.trust, storage=given.storage)
        check_classes(trained)
        view.stage("reading the images and predicting")
        found, errors = predict_files(trained, given.images, device=given.device)
        if given.to is not None:
            write_predictions(found, given.to)
    shown(given, found, lambda _: show_predictions(found, given.to, top=given.classes))
    return _told(errors)


def _told(errors: Sequence[SeNasError]) -> int:
    """Say what is wrong with single images; the exit code."""
    for error in errors[:SAID]:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
    if len(errors) > SAID:
        print(f"... and {len(errors) - SAID:,} more images that cannot be used", file=sys.stderr)
    return 2 if errors else 0


def add_evaluate(parser: ArgumentParser) -> None:
    """The options of ``se-nas evaluate``."""
    _add_network(parser)
    add = parser.add_argument
    add("--data", type=Target, help="labelled images: folder:PATH with one folder per class, npz:FILE, hf:NAME, ...")
    add(
        "--part",
        type=Literal["train", "val", "test"] | None,
        default=None,
        help="only this part of the data; default all",
    )
    _add_last(parser)


def run_evaluate(given: Namespace) -> int:
    """``se-nas evaluate``; the exit code."""
    data = target_of("data", given.data.as_dict())
    check_run(given.run, storage=given.storage, select=given.select, or_export=True)
    check_data(data)
    with at_work(given) as view:
        from se_nas.commands.evaluate import evaluate
        from se_nas.report.using import show_evaluation

        found = evaluate(
            given.run,
            data,
            part=given.part,
            select=given.select,
            device=given.device,
            trust=given.trust,
            storage=given.storage,
            view=view,
        )
    return shown(given, found, show_evaluation)
