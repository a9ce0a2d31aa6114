"""Logs of trainings for other tools: one run for each, grouped by search, with placement and costs."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from helpers import environment, tiny

from se_nas.cli import main
from se_nas.commands.search import search
from se_nas.core.errors import ConfigError
from se_nas.training import loggers
from se_nas.training.loggers import begin_logs, check_logs

MISSING = {"wandb": "the extra wandb is not installed", "mlflow": "the extra mlflow is not installed"}


def needs(package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=MISSING[package])


def test_costs_are_hyperparameters(tmp_path: Path) -> None:
    result = search(tiny(tmp_path, budget=2, logs="csv"))
    for trial in result.found.trials:
        facts = yaml.safe_load((result.folder / f"logs/csv/trial-{trial.number}/hparams.yaml").read_text())
        assert facts["placement"] == trial.placement.label
        assert {name: facts[name] for name in trial.costs} == {name: cost.value for name, cost in trial.costs.items()}
        assert facts["seed"] == trial.identity.seed


def test_a_training_of_its_own_is_logged_too(tmp_path: Path) -> None:
    out = tmp_path / "train"
    arguments = ["--placement", "all:16", "--backbone", "resnet8", "--epochs", "1", "--executor", "inline"]
    assert main(["train", *arguments, "--logs", "csv", "--out", str(out), "--quiet"]) == 0
    assert (out / "logs/csv/train-0/metrics.csv").is_file()


@pytest.mark.parametrize("name", ["wandb", "mlflow", "tensorboard"])
def test_a_missing_package_is_one_clear_error(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loggers.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=f"logs {name!r} needs the package {name!r}") as caught:
        check_logs([name])
    assert caught.value.hint == f"pip install 'se-nas[{name}]'"


def test_a_file_of_this_machine_is_none_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loggers.importlib.util, "find_spec", lambda _: True)
    monkeypatch.delenv(loggers.TRACKING, raising=False)
    with pytest.raises(ConfigError, match="trainings on other machines cannot write to a file of this one"):
        check_logs(["mlflow"], elsewhere=True)
    check_logs(["mlflow"])
    monkeypatch.setenv(loggers.TRACKING, "http://localhost:5000")
    check_logs(["mlflow"], elsewhere=True)


def test_nothing_is_made_where_nothing_is_logged(tmp_path: Path) -> None:
    begin_logs(["csv", "wandb"], tmp_path)
    assert list(tmp_path.iterdir()) == []


def searched_with(logs: str, folder: Path, **variables: str) -> None:
    """A search in a process of its own: these packages start services that stay."""
    command = [sys.executable, "-m", "se_nas.cli", "search", "--backbone", "resnet8", "--budget", "2", "--epochs", "1"]
    done = subprocess.run(
        [*command, "--logs", logs, "--out", str(folder), "--progress", "plain"],
        env=environment(**variables), capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "failed" not in done.stdout, done.stdout


@needs("mlflow")
def test_mlflow(tmp_path: Path) -> None:
    folder = tmp_path / "digits"
    searched_with("mlflow", folder, MLFLOW_TRACKING_URI="")
    code = (
        "import json, sys, logging; logging.disable(); from mlflow import MlflowClient\n"
        "client = MlflowClient(sys.argv[1]); found = client.get_experiment_by_name('digits')\n"
        "runs = client.search_runs([found.experiment_id])\n"
        "print(json.dumps([[r.info.run_name, r.info.status, r.data.params, list(r.data.metrics)] for r in runs]))\n"
    )
    asked = [sys.executable, "-c", code, f"sqlite:///{folder}/logs/mlflow.db"]
    done = subprocess.run(asked, env=environment(), capture_output=True, text=True, timeout=100, check=True)
    runs = json.loads(done.stdout.splitlines()[-1])
    assert sorted(run[0] for run in runs) == ["trial-0", "trial-1"]
    for _, status, parameters, metrics in runs:
        assert status == "FINISHED"
        assert {"placement", "key", "seed", "params", "gflops"} <= parameters.keys()
        assert "val_accuracy" in metrics


@needs("wandb")
def test_wandb_offline(tmp_path: Path) -> None:
    folder = tmp_path / "digits"
    searched_with("wandb", folder, WANDB_MODE="offline")
    runs = sorted(folder.glob("logs/wandb/offline-run-*/run-*.wandb"))
    assert len(runs) == 2
    written = b"".join(run.read_bytes() for run in runs)
    for text in (b"trial-0", b"trial-1", b"digits", b"placement", b"gflops", b"val_accuracy"):
        assert text in written


@needs("wandb")
def test_nobody_is_asked_for_a_key(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "se_nas.cli", "search", "--logs", "wandb", "--out", str(tmp_path / "run")]
    variables = environment(WANDB_MODE="online", WANDB_API_KEY="", HOME=str(tmp_path), NETRC=str(tmp_path / "none"))
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 2
    assert "nobody is logged in there" in done.stderr
    assert "WANDB_MODE=offline" in done.stderr
