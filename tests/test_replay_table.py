"""Searches from a table of finished trainings, with an executor of one's own from a file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import helpers
import pandas as pd
import pytest
from helpers import REPOSITORY, identity, request, tiny

from se_nas.commands.confirm import confirm
from se_nas.commands.search import search
from se_nas.core.errors import RunError, SeNasError
from se_nas.core.placement import Choice, Placement
from se_nas.core.protocols import Executor
from se_nas.core.trial import Request, Result, Target, Verdict
from se_nas.executors.build import open_executor

BLANK = Target(target=f"{REPOSITORY}/experiments/controls/blank.py:blank", args={"shape": [1, 8, 8]})
PLACEMENT = Placement(choices={"a": Choice(kind="se", reduction=4, squeeze_channels=4)}, label="a=4")
ROW = {"key": PLACEMENT.key, "seed": 0, "epochs": 3, "epoch": 1, "val_accuracy": 0.1}


def write(folder: Path, rows: list[dict[str, object]]) -> Path:
    pd.DataFrame(rows).to_csv(folder / "table.csv", index=False)
    return folder / "table.csv"


def three_epochs(**more: object) -> list[dict[str, object]]:
    values = enumerate((0.1, 0.3, 0.4), 1)
    return [{**ROW, "seconds": 9.0, "epoch": e, "val_accuracy": v, "val_loss": 1 - v, **more} for e, v in values]


def wanted(**changes: object) -> Request:
    return request(PLACEMENT, identity=identity(PLACEMENT, epochs=3, **changes))


def go_on(epoch: int, metrics: Mapping[str, float]) -> Verdict:
    return "continue"


def table_target(file: Path, **args: object) -> Target:
    plug_in = REPOSITORY / "experiments" / "cifar100" / "replay_table.py"
    return Target(target=f"{plug_in}:TableExecutor", args={"address": str(file), **args})


def open_table(file: Path, **args: object) -> Executor:
    return open_executor(table_target(file, **args), ("cpu", "cpu"))


def ask(file: Path, asked: Request, **args: object) -> Result:
    return open_table(file, **args).submit(helpers.evaluate_mistake, asked, go_on).result(1)


class TestExecutor:
    def test_a_training_comes_back_epoch_by_epoch(self, tmp_path: Path) -> None:
        seen: list[tuple[int, dict[str, float]]] = []

        def report(epoch: int, metrics: Mapping[str, float]) -> Verdict:
            seen.append((epoch, dict(metrics)))
            return "continue"

        executor = open_table(write(tmp_path, three_epochs()[::-1]))  # in whatever order the rows are
        result = executor.submit(helpers.evaluate_mistake, wanted(), report).result(1)
        assert seen == [
            (1, {"val_accuracy": 0.1, "val_loss": 0.9}),
            (2, {"val_accuracy": 0.3, "val_loss": 0.7}),
            (3, {"val_accuracy": 0.4, "val_loss": 0.6}),
        ]
        assert result.state == "complete"
        assert [(e.epoch, e.metrics) for e in result.curve] == seen
        assert (result.metrics["val_accuracy"].value, result.metrics["val_accuracy"].direction) == (0.4, "maximize")
        assert result.metrics["val_loss"].direction == "minimize"
        assert (result.seconds, result.device) == (9.0, "table")

    def test_stop_reaches_it(self, tmp_path: Path) -> None:
        def report(epoch: int, metrics: Mapping[str, float]) -> Verdict:
            return "stop" if epoch == 2 else "continue"

        result = (
            open_table(write(tmp_path, three_epochs())).submit(helpers.evaluate_mistake, wanted(), report).result(1)
        )
        assert (result.state, len(result.curve), result.seconds) == ("stopped", 2, 6.0)
        assert result.metrics["val_accuracy"].value == 0.3

    def test_seed_and_replicate_tell_trainings_apart(self, tmp_path: Path) -> None:
        rows = (
            three_epochs(replicate=0)
            + three_epochs(seed=1, val_accuracy=0.7)
            + three_epochs(replicate=1, val_accuracy=0.8)
        )
        file = write(tmp_path, [{"replicate": 0, **row} for row in rows])
        assert ask(file, wanted()).metrics["val_accuracy"].value == 0.4
        assert ask(file, wanted(seed=1)).metrics["val_accuracy"].value == 0.7
        assert ask(file, wanted(), seed=1).metrics["val_accuracy"].value == 0.7
        assert ask(file, wanted(replicate=1)).metrics["val_accuracy"].value == 0.8

    def test_the_only_training_of_a_network_whatever_its_seed(self, tmp_path: Path) -> None:
        file = write(tmp_path, three_epochs(seed=5))
        assert ask(file, wanted()).metrics["val_accuracy"].value == 0.4
        with pytest.raises(RunError, match="no training of a=4 with seed 0"):
            ask(file, wanted(), seed=0)

    def test_another_metric(self, tmp_path: Path) -> None:
        asked = replace(wanted(), metric="val_loss", direction="minimize")
        assert ask(write(tmp_path, three_epochs()), asked).metrics["val_loss"].direction == "minimize"


class TestErrors:
    @pytest.mark.parametrize(
        ("rows", "message"),
        [
            ([{k: v for k, v in ROW.items() if k != "seed"}], "the table has no column 'seed'"),
            ([{**ROW, "val_accuracy": "high"}], "column 'val_accuracy' of the table has values that are no numbers"),
        ],
    )
    def test_no_such_table(self, tmp_path: Path, rows: list[dict[str, object]], message: str) -> None:
        with pytest.raises(RunError, match=message):
            open_table(write(tmp_path, rows))

    def test_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(RunError, match="there is no table"):
            open_table(tmp_path / "none.csv")
        (tmp_path / "empty.csv").touch()
        with pytest.raises(RunError, match="not a CSV file"):
            open_table(tmp_path / "empty.csv")

    @pytest.mark.parametrize(
        ("rows", "asked", "message"),
        [
            (three_epochs(seed=5) + three_epochs(seed=6), wanted(),
             "a=4 with seed 0(.|\n)*has seed 5, 6: give --executor.args.seed 5"),
            (three_epochs(key="other"), wanted(), "no training of a=4\n(.|\n)*hint: search the backbone"),
            (three_epochs(epochs=8), wanted(), "have 8 epochs, those of the search 3(.|\n)*--epochs 8"),
            (three_epochs()[:2], wanted(), "not each of the 3 epochs of a=4 with seed 0 once"),
            (three_epochs() * 2, wanted(), "not each of the 3 epochs"),
            (three_epochs(), replace(wanted(), metric="val_f1", direction="maximize"), "the table has no 'val_f1'"),
            (three_epochs(), wanted(phase="confirm"), "can only be searched"),
        ],
    )  # fmt: skip
    def test_no_such_training(
        self, tmp_path: Path, rows: list[dict[str, object]], asked: Request, message: str
    ) -> None:
        with pytest.raises(RunError) as error:
            ask(write(tmp_path, rows), asked)
        assert re.search(message, str(error.value)), str(error.value)


class TestSearch:
    def test_a_run_is_searched_again_without_its_data(self, finished: Path, tmp_path: Path) -> None:
        """Another sampler and seed, no images: each network has the very values that it had when it was trained."""
        replayed = search(
            tiny(
                tmp_path,
                data=BLANK,
                executor=table_target(finished / "curves.csv"),
                sampler=Target(target="random"),
                seed=3,
                budget=8,
            )
        )
        trained = pd.read_csv(finished / "trials.csv").query("state == 'complete'").set_index("key")
        again = replayed.trials.query("state == 'complete'").set_index("key")
        assert len(again) == len(trained) == 8
        columns = ["val_accuracy", "val_loss", "params", "macs"]
        pd.testing.assert_frame_equal(again[columns].sort_index(), trained[columns].sort_index(), check_dtype=False)
        assert not (replayed.folder / "weights").exists()
        assert replayed.front is not None
        assert len(replayed.front)
        with pytest.raises(SeNasError, match="can only be searched"):
            confirm(replayed.folder, top=1, seeds=2)

    def test_a_training_that_is_not_there_ends_the_search(self, finished: Path, tmp_path: Path) -> None:
        table = pd.read_csv(finished / "curves.csv")
        table[table["placement"] == "none"].to_csv(tmp_path / "few.csv", index=False)
        config = tiny(tmp_path, data=BLANK, executor=table_target(tmp_path / "few.csv"))
        with pytest.raises(RunError, match="the table has no training of all:16"):
            search(config)
