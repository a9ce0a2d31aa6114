"""What a search with the user's own training loop can do, and what its data look like."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

from se_nas.core.config import OWN_DATA, SearchConfig, shape_of
from se_nas.core.errors import ConfigError, DataError
from se_nas.core.serialization import checksum
from se_nas.core.trial import Recipe, Target
from se_nas.data.base import DataInfo
from se_nas.data.store import keep_info
from se_nas.training.own_loop import OwnLoop

DEFAULT_DATA = SearchConfig().data

OF_DATA = ("batch_size", "augment")
"""Settings of a recipe that a loop heeds which iterates over the data set of the search."""


def check_trainer(config: SearchConfig, loop: OwnLoop | None) -> None:
    """ConfigError for settings that cannot work with who trains."""
    if loop is None:
        for name in ("input_shape", "num_classes"):
            if getattr(config, name) is not None:
                raise ConfigError(
                    f"{name} is given, but Lightning trains on a data set, which says it itself",
                    hint="it is for a trainer that brings its own data: --trainer file.py:train",
                )
        return
    for name, why, hint in _refused(config, loop):
        raise ConfigError(
            f"{name} is {getattr(config, name, None) or getattr(config.train, name, None)!r}, but {why}",
            where=f"trainer {config.trainer.target!r}",
            hint=hint,
        )


def _refused(config: SearchConfig, loop: OwnLoop) -> Iterator[tuple[str, str, str]]:
    """Name of each setting that is given in vain, the reason and what to do."""
    out = "leave it out"
    if config.task.target != "classification" or config.task.args:
        yield "task", "a task is what Lightning trains: the trainer says itself what for", out
    if config.graph != "plain":
        yield "graph", "only Lightning's trainings share one network", out
    if config.devices_per_trial > 1:
        yield "devices_per_trial", "only Lightning trains one network on several devices", out
    if config.logs:
        yield "logs", "only Lightning's trainings are logged", "write into the folder that the trainer is given"
    if config.train.precision == "bf16":
        yield "precision", "the trainer's own loop decides in which precision it computes", out
    usual = Recipe()
    heeded = {"epochs", "precision", *(OF_DATA if loop.takes_data else ())}
    for item in fields(Recipe):
        changed = getattr(config.train, item.name) != getattr(usual, item.name)
        if changed and item.name not in heeded and not loop.takes_recipe:
            hint = f"give the trainer a parameter recipe (recipe.{item.name}), or one of its own: --trainer.args.NAME"
            yield item.name, "the trainer's own loop does not look at it", hint


def brings_data(config: SearchConfig, loop: OwnLoop | None) -> bool:
    """Whether the trainer brings its own data: its loop has no parameter `data`, and no data set was named."""
    return loop is not None and not loop.takes_data and config.data in (DEFAULT_DATA, Target(target=OWN_DATA))


def own_data(config: SearchConfig, loop: OwnLoop, folder: Path, *, include_val: bool) -> DataInfo:
    """What is known of the data that a trainer brings; left in the folder for its workers.

    ConfigError if nothing says what its images look like, DataError for what only data sets of se-nas can.
    """
    where = f"trainer {config.trainer.target!r}"
    if include_val:
        raise DataError("a trainer that brings its own data says itself what is trained on", where=where,
                        hint="leave --include_val out")  # fmt: skip
    own = loop.part("input_shape", tuple, list)
    if config.input_shape is None and own is None:
        raise ConfigError(
            "nothing says what images the network gets: the trainer has no parameter data, so it brings its own",
            where=where,
            hint="give --input-shape 3,224,224 and --num-classes N, or write input_shape = (3, 224, 224) beside it; "
            "with a parameter data it is given the data set of --data",
        )
    shape = shape_of(config.input_shape or ",".join(map(str, own)))
    names = loop.part("classes", tuple, list) or ()
    number = config.num_classes or loop.part("num_classes", int) or len(names)
    classes = tuple(map(str, names)) if len(names) == number else tuple(str(label) for label in range(number))
    known = checksum([config.trainer, shape, classes, loop.part("fingerprint", str)])
    info = DataInfo(
        kind="own", target=config.trainer, classes=classes, input_shape=shape, target_type="other", fingerprint=known,
        checksum=known, split=known,
    )  # fmt: skip
    return keep_info(folder, info)


def trainer_note(config: SearchConfig, loop: OwnLoop, data: DataInfo) -> str:
    """What a search with this trainer is, and what it lacks."""
    own = "its own data, " if data.kind == "own" else f"{config.data.target}, "
    return (
        f"trained by {config.trainer.target} on {own}{' x '.join(map(str, data.input_shape))}; a training that is "
        "broken off begins again, since only those of Lightning have checkpoints"
        + ("" if loop.test is not None else f"; it {loop.why_no_test}, so that nothing can be confirmed")
    )
