"""Logs of single trainings for other tools, by Lightning's own loggers; off unless asked for.

One run for each training, grouped by search, with placement, seed and costs as its hyperparameters.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from se_nas.core.errors import ConfigError, did_you_mean
from se_nas.core.trial import Request

if TYPE_CHECKING:
    from pytorch_lightning.loggers import Logger

FOLDER = "logs"
PROJECT = "se-nas"
"""Project at Weights & Biases, unless the variable WANDB_PROJECT names another."""
TRACKING = "MLFLOW_TRACKING_URI"
Settings = dict[str, str | int | float]


@dataclass(frozen=True, kw_only=True)
class Log:
    """The log of one training: its folder, its name, the search that it is of, and what is known beforehand.

    ``metric`` is what is compared.
    """

    folder: Path
    name: str
    search: str
    metric: str
    settings: Settings


def _csv(log: Log) -> Logger:
    from pytorch_lightning.loggers import CSVLogger  # heavy, and only trainings that log need it

    logger = CSVLogger(log.folder, name="csv", version=log.name)
    logger.log_hyperparams(log.settings)
    return logger


def _tensorboard(log: Log) -> Logger:
    from pytorch_lightning.loggers import TensorBoardLogger  # heavy, and only trainings that log need it
    from torch.utils.tensorboard.summary import hparams

    logger = TensorBoardLogger(log.folder, name="tensorboard", version=log.name, default_hp_metric=False)
    logger.log_hyperparams(log.settings)  # a file beside the log
    # Lightning would log a value of the metric with them, before there is one; only its name is needed.
    for summary in hparams(log.settings, {log.metric: None}):  # type: ignore[no-untyped-call]  # torch has no types
        logger.experiment.file_writer.add_summary(summary)
    return logger


def _wandb(log: Log) -> Logger:
    import wandb  # heavy, and only trainings that log need it
    from pytorch_lightning.loggers import WandbLogger

    log.folder.mkdir(parents=True, exist_ok=True)
    logger = WandbLogger(
        project=os.environ.get("WANDB_PROJECT", PROJECT), group=log.search, name=log.name, save_dir=log.folder,
        settings=wandb.Settings(silent=True, console="off"),  # what a worker prints comes between the driver's lines
    )  # fmt: skip
    logger.log_hyperparams(log.settings)
    return logger


def _mlflow(log: Log) -> Logger:
    from pytorch_lightning.loggers import MLFlowLogger  # heavy, and only trainings that log need it

    with _hushed():
        logger = MLFlowLogger(experiment_name=log.search, run_name=log.name, tracking_uri=_tracking(log.folder))
        logger.log_hyperparams(log.settings)
    return logger


def _tracking(folder: Path) -> str:
    """Where MLflow writes: a database in the folder of logs, unless its variable says otherwise."""
    return os.environ.get(TRACKING) or f"sqlite:///{folder.absolute() / 'mlflow.db'}"


def begin_logs(names: Iterable[str], run: Path) -> None:
    """Make what all trainings of a run write into: two at once cannot make the database, or the experiment."""
    if "mlflow" not in names:
        return
    from mlflow import MlflowClient  # heavy, and only searches that log need it

    (run / FOLDER).mkdir(parents=True, exist_ok=True)
    with _hushed():
        client = MlflowClient(_tracking(run / FOLDER))
        if client.get_experiment_by_name(run.name) is None:
            client.create_experiment(run.name)


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """Without what MLflow and Alembic tell of their work, whatever levels they set."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


LOGGERS: dict[str, tuple[Callable[[Log], Logger], str]] = {
    "csv": (_csv, ""),
    "tensorboard": (_tensorboard, "tensorboard"),
    "wandb": (_wandb, "wandb"),
    "mlflow": (_mlflow, "mlflow"),
}
"""Name -> (how to open it, the package that it needs beside ours, which is also the name of our extra)."""


def log_names(text: str) -> tuple[str, ...]:
    """The names in ``csv,tensorboard``."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def check_logs(names: Iterable[str], *, elsewhere: bool = False) -> None:
    """ConfigError for a log that is not known, whose package is not installed, or that could not be written.

    `elsewhere` is whether trainings run on other machines.
    """
    for name in names:
        if name not in LOGGERS:
            raise ConfigError(f"logs is {name!r}", allowed=LOGGERS, hint=did_you_mean(name, LOGGERS))
        package = LOGGERS[name][1]
        if package and importlib.util.find_spec(package) is None:
            raise ConfigError(
                f"logs {name!r} needs the package {package!r}, which is not installed",
                hint=f"pip install 'se-nas[{package}]'",
            )
        if name == "mlflow" and elsewhere and not os.environ.get(TRACKING):
            raise ConfigError(
                "logs is 'mlflow', and trainings on other machines cannot write to a file of this one",
                hint=f"set {TRACKING} to the address of a tracking server, here and for the workers",
            )
        if name == "wandb":
            _check_login()


def _check_login() -> None:
    """ConfigError where Weights & Biases would ask each training who you are."""
    import wandb  # heavy, and only trainings that log need it

    if os.environ.get("WANDB_MODE", "online") == "online" and not wandb.login(prompt=False):
        raise ConfigError(
            "logs is 'wandb', and nobody is logged in there",
            hint="wandb login, or WANDB_MODE=offline, which writes to the run folder, to be sent later with wandb sync",
        )


@contextlib.contextmanager
def opened_logs(request: Request, metric: str) -> Iterator[list[Logger]]:
    """The loggers of one training, in ``logs/NAME/trial-N`` of the run folder (``confirm-N`` in a confirm).

    TensorBoard shows placement and seed beside the last value of the metric in its tab HPARAMS.
    """
    identity = request.identity
    phase = "trial" if identity.phase == "search" else identity.phase
    again = f"-attempt-{request.attempt}" if request.attempt > 1 else ""
    settings: Settings = {
        "placement": request.placement.label, "key": request.placement.key, "seed": identity.seed,
        "replicate": identity.replicate, "epochs": identity.epochs, **request.costs,
    }  # fmt: skip
    log = Log(
        folder=Path(request.folder) / FOLDER, name=f"{phase}-{request.trial}{again}", search=request.search,
        metric=metric, settings=settings,
    )  # fmt: skip
    loggers: list[Logger] = []
    try:
        for name in request.logs:
            loggers.append(LOGGERS[name][0](log))  # noqa: PERF401  # those that are open are closed in any case
        yield loggers
    finally:
        for logger in loggers:  # those of W&B go on until they are told
            if (finish := getattr(getattr(logger, "experiment", None), "finish", None)) is not None:
                finish()
