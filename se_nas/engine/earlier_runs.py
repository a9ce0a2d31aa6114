"""The noise of one training, from runs of the same data in this folder and beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import SQLAlchemyError

from se_nas.analysis.search_plan import Noise, guessed_noise
from se_nas.core.documents import UnreadableError, from_yaml, text_of
from se_nas.core.errors import SeNasError
from se_nas.core.serialization import to_plain
from se_nas.engine.problem import Problem
from se_nas.engine.run_folder import STUDY, RunFolder
from se_nas.engine.study import Study

LOOKED_AT = 12
"""Folders beside the run, at most: the latest ones."""

ALIKE = ("data", "task", "trainer")
"""Settings that a run must have in common to be looked at."""


@dataclass(frozen=True, kw_only=True)
class _Found:
    noise: Noise
    same_backbone: bool
    same_recipe: bool


def earlier_noise(problem: Problem, folder: Path, unit: str) -> Noise:
    """The noise of one training by the posterior of an earlier search, or a guess.

    Earlier searches count that are of the same images, split and metric, in the folder itself or in those beside it:
    first those of the same backbone and recipe, then of the same backbone, then the others; of equals the one with
    most trainings.
    """
    found = [noise for path in _folders(problem, folder) if (noise := _noise_of(path, problem)) is not None]
    if not found:
        return guessed_noise(unit, problem.data.val)
    return max(found, key=lambda f: (f.same_backbone and f.same_recipe, f.same_backbone, f.noise.trainings)).noise


def _folders(problem: Problem, folder: Path) -> list[Path]:
    """The folder, and those beside it whose configuration is of the same data, the latest first."""
    beside = [path.parent for path in folder.absolute().parent.glob("*/study.db") if path.parent != folder.absolute()]
    beside = sorted(beside, key=lambda path: (path / "study.db").stat().st_mtime, reverse=True)
    wanted = {name: to_plain(getattr(problem.config, name)) for name in ALIKE}
    own = [folder] if (folder / "study.db").is_file() else []
    return own + [path for path in beside if _is_alike(path, wanted)][:LOOKED_AT]


def _is_alike(folder: Path, wanted: dict[str, Any]) -> bool:
    try:
        raw = from_yaml(text_of(folder / "config.yaml"))
    except (OSError, UnreadableError):
        return False
    # A run on a server is another matter than a file that can be looked at.
    return isinstance(raw, dict) and not raw.get("storage") and all(raw.get(n, v) == v for n, v in wanted.items())


def _noise_of(folder: Path, problem: Problem) -> _Found | None:
    """What a run says; None if it is of something else, too short, or cannot be read."""
    try:
        study = Study.latest(RunFolder(folder).storage, STUDY, read_only=True)
        if study is None:
            return None
        facts, ours = study.facts, problem.facts
        if facts["data"] != ours["data"] or study.objective.metric != problem.objective.metric:
            return None
        told = study.findings().told
    except (SeNasError, SQLAlchemyError, StorageInternalError, OSError, KeyError):
        return None
    if told is None:
        return None
    noise = Noise(
        sd=told.posterior.noise,
        trainings=len(told.trials),
        folder=str(folder),
        epochs=facts["train"]["epochs"],
        backbone=facts["backbone"]["target"],
    )
    return _Found(
        noise=noise, same_backbone=facts["backbone"] == ours["backbone"], same_recipe=facts["train"] == ours["train"]
    )
