"""The names in a configuration and in what is known of its data, and whether a folder's may be followed."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import fields
from pathlib import Path

from se_nas.backbones.build import BACKBONES
from se_nas.core.blocks import BlockKind
from se_nas.core.config import OWN_DATA, SearchConfig
from se_nas.core.own_blocks import named_blocks, own_blocks
from se_nas.core.trial import Target
from se_nas.core.trust import Named, check_trust
from se_nas.data.base import DataInfo
from se_nas.data.store import DATASETS
from se_nas.engine.study import Study
from se_nas.executors.build import EXECUTORS
from se_nas.samplers.build import SAMPLERS
from se_nas.space.spec import blocks_named
from se_nas.training.tasks import TASKS
from se_nas.training.trainers import TRAINERS

TABLES = {
    "backbone": BACKBONES, "data": DATASETS, "task": TASKS, "trainer": TRAINERS, "sampler": SAMPLERS,
    "executor": EXECUTORS,
}  # fmt: skip


def names_in(config: SearchConfig) -> list[Named]:
    """Every name of a configuration that may lead to code, plug-ins of every kind, costs and the optimizer."""
    found = []
    for field in fields(config):
        target = getattr(config, field.name)
        if isinstance(target, Target) and (field.name, target.target) != ("data", OWN_DATA):
            found.append(_named(field.name, target))
    found += [_named("cost", Target(target=name)) for name in config.measure if ":" in name]
    if ":" in config.train.optimizer:
        found.append(_named("optimizer", Target(target=config.train.optimizer)))
    return found + named_blocks(blocks_named(config.space))


def blocks_of(study: Study) -> list[BlockKind]:
    """The blocks of the user's own in the space of a study, and in the placements of its trials."""
    choices = (choice for trial in study.trials() for choice in trial.placement.choices.values())
    return list(dict.fromkeys([*study.space.spec.own.values(), *own_blocks(choices)]))


def check_config(
    config: SearchConfig, *, where: Path, trust: bool, given: Collection[str] = (), only: Collection[str] | None = None,
    blocks: Iterable[BlockKind] = (),
) -> None:  # fmt: skip
    """PluginError if a configuration that was read from a folder names code that may not be followed.

    Parameters
    ----------
    given:
        Kinds whose name comes from the user now.
    only:
        Kinds that are asked about; default all.
    blocks:
        Blocks of the user's own in the space of a study and in its placements.
    """
    names = [n for n in names_in(config) if n.kind not in given and (only is None or n.kind in only)]
    names += named_blocks(blocks)
    check_trust(names, where=where, trust=trust)


def check_data(data: DataInfo, *, where: Path, trust: bool) -> None:
    """The same for the description of a data set."""
    check_trust([_named("trainer" if data.kind == "own" else "data", data.target)], where=where, trust=trust)


def _named(kind: str, target: Target) -> Named:
    return Named(kind=kind, target=target, builtins=TABLES.get(kind, {}))
