"""Names and paths that are wrong, found before the libraries of a command are loaded, which takes seconds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from se_nas.core.config import OWN_DATA, SearchConfig, TrainConfig
from se_nas.core.errors import DataError
from se_nas.core.files import path_text, user_path
from se_nas.core.trial import Target
from se_nas.core.ways import check_way
from se_nas.exports.names import PLACEMENT


def check_run(run: str, *, storage: str | None = None, select: str | None = None, or_export: bool = False) -> None:
    """RunError if there is no run folder, or `select` names no network; with `or_export` an export folder will do."""
    from se_nas.engine.run_folder import RunFolder  # SQLAlchemy and Optuna's storages, for a third of a second

    if select is not None and select != "folded":
        check_way(select)
    folder = user_path(run)
    if not (or_export and (folder / PLACEMENT).is_file() and not (folder / "study.db").is_file()):
        RunFolder(Path(run)).find_storage(storage)


def check_data(data: Target) -> None:
    """DataError if a data set is a folder that is not there."""
    kind, _, path = data.target.partition(":")
    if kind == "folder" and path and not user_path(path).is_dir():
        raise DataError(f"there is no folder {path_text(path)!r}")


def absent(names: Sequence[str]) -> list[DataError]:
    """That there is no such file, for each name, if there is not one of them."""
    if any(user_path(name).exists() for name in names):
        return []
    return [DataError(f"there is no file {path_text(name)!r}") for name in names]


def check_names(config: SearchConfig | TrainConfig) -> None:
    """PluginError for a backbone, data set, sampler, ... that is neither built in nor installed nor a path to code."""
    from se_nas.backbones.build import in_libraries  # torch: a second or two, of what follows anyway
    from se_nas.core.plugins import check_name
    from se_nas.data.store import as_path
    from se_nas.engine.trusted import TABLES

    elsewhere: dict[str, Callable[[str], list[str]]] = {"backbone": in_libraries, "data": as_path}
    for kind, table in TABLES.items():
        target = getattr(config, kind, None)
        if isinstance(target, Target) and (kind, target.target) != ("data", OWN_DATA):
            check_name(kind, target.target, table, elsewhere=elsewhere.get(kind, lambda _: []))
