"""Logs of single trainings for other tools, by Lightning's own loggers; off unless asked for."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from se_nas.core.errors import ConfigError, did_you_mean
from se_nas.core.trial import Request

if TYPE_CHECKING:
    from pytorch_lightning.loggers import Logger

FOLDER = "logs"
Settings = dict[str, str | int]


def _csv(folder: Path, name: str, settings: Settings, metric: str) -> Logger:
    from pytorch_lightning.loggers import CSVLogger  # heavy, and only trainings that log need it

    logger = CSVLogger(folder, name="csv", version=name)
    logger.log_hyperparams(settings)
    return logger


def _tensorboard(folder: Path, name: str, settings: Settings, metric: str) -> Logger:
    from pytorch_lightning.loggers import TensorBoardLogger  # heavy, and only trainings that log need it
    from torch.utils.tensorboard.summary import hparams

    logger = TensorBoardLogger(folder, name="tensorboard", version=name, default_hp_metric=False)
    logger.log_hyperparams(settings)  # a file beside the log
    # Lightning would log a value of the metric with them, before there is one; only its name is needed.
    for summary in hparams(settings, {metric: None}):  # type: ignore[no-untyped-call]  # torch has no types for it
        logger.experiment.file_writer.add_summary(summary)
    return logger


LOGGERS: dict[str, tuple[Callable[[Path, str, Settings, str], Logger], str]] = {
    "csv": (_csv, ""),
    "tensorboard": (_tensorboard, "tensorboard"),
}
"""Name -> (how to open it, the package that it needs beside ours)."""


def log_names(text: str) -> tuple[str, ...]:
    """The names in ``csv,tensorboard``."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def check_logs(names: Iterable[str]) -> None:
    """ConfigError for a log that is not known, or whose package is not installed."""
    for name in names:
        if name not in LOGGERS:
            raise ConfigError(f"logs is {name!r}", allowed=LOGGERS, hint=did_you_mean(name, LOGGERS))
        package = LOGGERS[name][1]
        if package and importlib.util.find_spec(package) is None:
            raise ConfigError(
                f"logs {name!r} needs the package {package!r}, which is not installed",
                hint=f"pip install 'se-nas[{package}]'",
            )


def open_logs(request: Request, metric: str) -> list[Logger]:
    """The loggers of one training, in ``logs/NAME/trial-N`` of the run folder (``confirm-N`` in a confirm).

    TensorBoard shows placement and seed beside the last value of the metric in its tab HPARAMS.
    """
    phase = "trial" if request.identity.phase == "search" else request.identity.phase
    again = f"-attempt-{request.attempt}" if request.attempt > 1 else ""
    name = f"{phase}-{request.trial}{again}"
    settings: Settings = {
        "placement": request.placement.label, "key": request.placement.key, "seed": request.identity.seed,
        "replicate": request.identity.replicate, "epochs": request.identity.epochs,
    }  # fmt: skip
    return [LOGGERS[log][0](Path(request.folder) / FOLDER, name, settings, metric) for log in request.logs]
