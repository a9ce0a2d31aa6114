"""Trainings that hang are ended, and a search ends at its time: with real processes that never answer."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import helpers
import pytest
from helpers import alive, in_time, request, result_of, tiny, trial, until, write_npz

from se_nas.cli import main
from se_nas.commands.search import search
from se_nas.commands.train import train_placement
from se_nas.core.config import SearchConfig, TrainConfig
from se_nas.core.errors import ConfigError, RunError, TrainingError
from se_nas.core.placement import Placement
from se_nas.core.trial import OUT_OF_TIME, Recipe, Target, Verdict
from se_nas.engine import patience
from se_nas.engine.patience import FIRST, Patience, end, wait_for
from se_nas.executors.inline import InlineExecutor
from se_nas.executors.local import LocalExecutor
from se_nas.report.view import View

SLOW = """
import time
from pathlib import Path

from torch import nn

from se_nas.backbones.resnet import resnet
from se_nas.insertion.block import SEBlock

HERE = Path(__file__).parent


class Slow(nn.Module):
    '''Takes its time for each batch of more than one image; in training or in validation, as a file says.'''

    def __init__(self, num_classes, in_channels):
        super().__init__()
        self.network = resnet(depth=8, num_classes=num_classes, in_channels=in_channels)

    def forward(self, x):
        if len(x) > 1 and (HERE / ("slow-training" if self.training else "slow-validation")).exists():
            time.sleep(1)
        return self.network(x)


metric, direction, input_shape, num_classes = "val_accuracy", "maximize", (1, 8, 8), 10


def train(network, *, epochs, report):
    for _ in range(12):  # one epoch, of which nothing is told
        network.train()
        network(__import__("torch").rand(2, 1, 8, 8))
    for weight in network.parameters():
        weight.data.add_(0.01)
    return {"val_accuracy": 0.5}
"""

LOOP = """
import time
from pathlib import Path

from se_nas.insertion.block import SEBlock

HERE = Path(__file__).parent
metric, direction, input_shape, num_classes = "val_accuracy", "maximize", (1, 8, 8), 10


def train(network, *, epochs, report):
    blocks = [module for module in network.modules() if isinstance(module, SEBlock)]
    if blocks and (HERE / "hang").exists():
        (HERE / "hang").rename(HERE / "begun")
        while True:
            time.sleep(0.1)
    for weight in network.parameters():
        weight.data.add_(0.01)
    return {"val_accuracy": 0.5}
"""


def hanging(folder: Path, **changes: Any) -> SearchConfig:
    """A search of two networks at a time, with a loop that hangs once, where there is an SE block."""
    (folder / "loop.py").write_text(LOOP)
    (folder / "hang").touch()
    settings: dict[str, Any] = {
        "trainer": Target(target=f"{folder / 'loop.py'}:train"), "executor": Target(target="local"), "workers": 2,
        "train": Recipe(epochs=1),
    }  # fmt: skip
    return tiny(folder, **{**settings, **changes})


def go_on(epoch: int, metrics: Mapping[str, float]) -> Verdict:
    return "continue"


class TestLimit:
    def trained(self, seconds: float, **changes: Any) -> Any:
        return replace(trial(Placement(choices={}), 0, **result_of(**changes)), seconds=seconds)

    def test_is_generous_before_a_training_has_ended(self) -> None:
        assert Patience(SearchConfig()).limit == FIRST == 43_200
        failed = Patience(SearchConfig(), [self.trained(5.0, state="failed")])
        assert failed.limit == FIRST

    @pytest.mark.parametrize(("slowest", "limit"), [(1.0, 600.0), (59.9, 600.0), (100.0, 1000.0)])
    def test_is_ten_times_the_slowest_and_at_least_ten_minutes(self, slowest: float, limit: float) -> None:
        watch = Patience(SearchConfig(), [self.trained(slowest), self.trained(slowest / 2)])
        assert watch.limit == limit
        watch.learn([self.trained(200.0)])
        assert watch.limit == 2000.0
        assert watch.rule == "trial_timeout auto: 10 times the slowest training so far, at least 10 min 00 s"

    def test_is_what_was_asked_for(self) -> None:
        assert Patience(SearchConfig(trial_timeout="5m"), [self.trained(500.0)]).limit == 300.0
        with pytest.raises(ConfigError) as caught:
            SearchConfig(trial_timeout="soon")
        assert str(caught.value) == "trial_timeout is 'soon'\n  allowed: auto, off, 90s, 10m, 2h"

    def test_only_those_without_a_sign_of_life_are_silent(self) -> None:
        watch, never = Patience(SearchConfig(trial_timeout="1.2s")), Patience(SearchConfig(trial_timeout="off"))
        for number in (1, 2):
            watch.sign(number)
            never.sign(number)
        time.sleep(2.6)
        watch.sign(2)
        # How long it was, not how long it might have been.
        assert watch.silent([1, 2, 3]) == {1: "no sign of life for 3 s (trial_timeout 1.2s), so it was ended"}
        assert never.silent([1, 2]) == {}


class TestEnding:
    @pytest.fixture
    def one(self) -> Any:
        executor = LocalExecutor(("cpu",))
        yield executor
        in_time(executor.shutdown, 60, "the end of the executor")

    def test_kills_the_worker_and_goes_on_with_another(self, one: LocalExecutor, tmp_path: Path) -> None:
        future = one.submit(helpers.evaluate_endless, request(trial=3, folder=str(tmp_path)), go_on)
        waiting = one.submit(helpers.evaluate_pid, request(trial=4), go_on)
        file = tmp_path / "3.pid"
        pid = int(until(lambda: file.is_file() and file.read_text(), timeout=60, what="the training"))
        assert not end(one, waiting, "too early")  # it has no worker yet
        assert end(one, future, "for this reason")
        with pytest.raises(TrainingError, match=r"^for this reason$"):
            future.result(60)
        assert not alive(pid)
        assert waiting.result(60).reason not in ("too early", str(pid))
        assert not end(one, future, "too late")

    def test_of_all_that_take_too_long_together(self, one: LocalExecutor, tmp_path: Path) -> None:
        futures = [
            one.submit(helpers.evaluate_endless, request(trial=number, folder=str(tmp_path)), go_on)
            for number in range(2)
        ]
        in_time(lambda: wait_for(one, futures, 3.0, "it"), 100, "the end of both")
        for future in futures:
            assert str(future.exception(0)) == "it took more than 3 s, so it was ended"

    def test_is_not_for_an_executor_that_cannot(self) -> None:
        assert not end(InlineExecutor(("cpu",)), Future(), "a reason")


class TestTrain:
    def test_ends_what_hangs_and_says_so_when_it_gives_up(self, tmp_path: Path) -> None:
        (tmp_path / "loop.py").write_text(LOOP.replace('(HERE / "hang").rename(HERE / "begun")', "pass"))
        (tmp_path / "hang").touch()
        config = TrainConfig(
            placement="all:4", backbone=Target(target="resnet8"),
            trainer=Target(target=f"{tmp_path / 'loop.py'}:train"),
            train=Recipe(epochs=1), device="cpu", out=str(tmp_path / "run"), trial_timeout="2s",
        )  # fmt: skip
        with pytest.raises(RunError) as caught:
            in_time(lambda: train_placement(config), 200, "the end of a training that hangs")
        reason = r"no sign of life for [2-9] s \(trial_timeout 2s\), so it was ended"
        assert re.match(rf"the training failed 3 times: {reason}\n", str(caught.value))
        assert caught.value.hint == "try a longer --trial-timeout"
        (tmp_path / "hang").unlink()
        with pytest.raises(RunError, match="failed 3 times"):  # no fourth one, in this folder
            train_placement(config)

    def test_the_option_is_that_of_a_search(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["train", "--placement", "none", "--trial-timeout", "soon"]) == 2
        assert "trial_timeout is 'soon'\n  allowed: auto, off, 90s, 10m, 2h" in capsys.readouterr().err
        assert TrainConfig(placement="none", trial_timeout="2h").search().trial_timeout == "2h"


class TestSearch:
    def test_ends_what_hangs_and_trains_the_rest(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        config = hanging(tmp_path, budget=3, trial_timeout="5s")
        found = in_time(lambda: search(config, view=View()), 200, "the end of a search that hangs")
        assert (tmp_path / "begun").exists()
        assert found.ended == "the budget of 3 trainings is spent"
        failed = found.trials[found.trials["state"] == "failed"]
        (reason,) = failed["reason"]
        assert re.fullmatch(r"no sign of life for [5-9] s \(trial_timeout 5s\), so it was ended", reason)
        assert f"failed: {reason}" in " ".join("".join(capsys.readouterr()).split())
        assert not failed["counts"].any()

    @pytest.mark.parametrize("part", ["training", "validation"])
    def test_an_epoch_of_many_batches_is_no_hang(self, tmp_path: Path, part: str) -> None:
        """Eleven batches of a second, where eight seconds are too long."""
        (tmp_path / "slow.py").write_text(SLOW)
        (tmp_path / f"slow-{part}").touch()
        write_npz(tmp_path / "data.npz", n=60 if part == "training" else 4_000)
        share = {"test_fraction": 0.1, "val_fraction": 0.1 if part == "training" else 0.8}
        config = tiny(
            tmp_path, backbone=Target(target=f"{tmp_path / 'slow.py'}:Slow"), budget=1, trial_timeout="8s", workers=1,
            data=Target(target=f"npz:{tmp_path / 'data.npz'}", args=share),
            executor=Target(target="local"), train=Recipe(epochs=1, batch_size=4 if part == "training" else 512),
        )  # fmt: skip
        found = in_time(lambda: search(config), 200, "a search of slow networks")
        assert list(found.trials["state"]) == ["complete"]
        assert found.trials["seconds"].iloc[0] > 8

    def test_a_loop_of_the_users_lives_while_it_calls_its_network(self, tmp_path: Path) -> None:
        (tmp_path / "slow.py").write_text(SLOW)
        (tmp_path / "slow-training").touch()
        file = tmp_path / "slow.py"
        config = hanging(
            tmp_path, budget=1, trial_timeout="8s", trainer=Target(target=f"{file}:train"), workers=1,
            backbone=Target(target=f"{file}:Slow"),
        )  # fmt: skip
        found = in_time(lambda: search(config), 200, "a search with a slow loop")
        assert list(found.trials["state"]) == ["complete"]
        assert found.trials["seconds"].iloc[0] > 8

    def test_in_this_very_process_it_is_said_that_nothing_can_be_ended(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        config = hanging(tmp_path, budget=1, trial_timeout="5s", executor=Target(target="inline"), workers=None)
        search(config, view=View())
        said = " ".join("".join(capsys.readouterr()).split())
        assert "the executor 'inline' cannot end a training: trial_timeout has no effect" in said

    def test_ends_at_its_time_and_goes_on_later(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(patience, "LEAST_GRACE", 2.0)
        config = hanging(tmp_path, budget=2, max_time="8s")
        first = in_time(lambda: search(config, view=View()), 200, "the end of a search beyond its time")
        assert (tmp_path / "begun").exists()
        assert first.ended == "the time of 8s is over"
        said = " ".join("".join(capsys.readouterr()).split())
        assert "the time of 8s is over: what runs is ended in 2 s, and goes on with the same command" in said
        ended = first.trials[first.trials["reason"] == OUT_OF_TIME]
        assert list(ended["state"]) == ["failed"]
        second = search(replace(config, max_time=None))
        again = second.trials[second.trials["key"] == ended["key"].iloc[0]]
        assert sorted(again["state"]) == ["complete", "failed"]
        assert second.trials["counts"].sum() == 2
