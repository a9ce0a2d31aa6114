"""The contract of a trainer as tests: a plug-in's own test class inherits them, and pytest runs them."""

# ruff: noqa: S101  # they are tests

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from se_nas.core.trial import Direction, Target, Verdict
from se_nas.training.loop_run import LoopEnd, run_loop
from se_nas.training.own_loop import OwnLoop, Parts
from se_nas.training.trainers import open_loop


class TrainerContract:
    """What se-nas relies on. Set `trainer`, and `metric` and `direction` unless it says them; write `network`.

    `epochs` is a short schedule of at least 2, `device` where it runs, `same` the largest difference of a metric of two
    trainings with one seed, and `parts` what a parameter `data` of it is given.
    """

    trainer: Target
    metric: str | None = None
    direction: Direction | None = None
    epochs = 2
    device = "cpu"
    same = 1e-4

    def network(self) -> nn.Module:
        """A new network, always with the same weights."""
        raise NotImplementedError

    def parts(self) -> Parts:
        """The data set of the search, for a trainer that takes one."""
        return Parts()

    def test_it_trains_the_network_in_place_and_returns_its_metric(self) -> None:
        end, _ = self._trained()
        assert self._loop().metric in end.metrics
        assert not end.stopped

    def test_it_reports_its_epochs(self) -> None:
        _, seen = self._trained()
        assert seen, "nothing is reported: there are no curves, and no early stopping"
        assert seen == sorted(set(seen))
        assert seen[-1] <= self.epochs

    def test_it_stops_when_it_is_told_to(self) -> None:
        end, seen = self._trained(stop_after=1)
        assert end.stopped
        assert seen == [1]

    def test_equal_seeds_give_equal_metrics(self) -> None:
        name = self._loop().metric
        one, two = (self._trained()[0].metrics[name] for _ in range(2))
        assert abs(one - two) <= self.same

    def test_its_test_function_gives_the_metric(self) -> None:
        loop = self._loop()
        if loop.test is None:
            return
        with tempfile.TemporaryDirectory() as folder:
            facts = {"device": self.device, "seed": 0, "folder": Path(folder), "data": self.parts(), "without": None}
            assert loop.metric in loop.run_test(self.network().eval(), facts)

    def _loop(self) -> OwnLoop:
        loop = open_loop(self.trainer, metric=self.metric, direction=self.direction)
        assert loop is not None, "lightning is not a training loop of the user's own"
        return loop

    def _trained(self, stop_after: int | None = None) -> tuple[LoopEnd, list[int]]:
        """How a training ended, and the epochs that it reported."""
        channel = _Kept(stop_after)
        with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng(devices=[]):
            facts: dict[str, Any] = {"device": self.device, "folder": Path(folder), "data": self.parts()}
            end = run_loop(self._loop(), self.network(), facts, seed=1, epochs=self.epochs, channel=channel)
        return end, channel.epochs


class _Kept:
    """A channel that keeps the epochs it is told."""

    def __init__(self, stop_after: int | None) -> None:
        self.stop_after = stop_after
        self.epochs: list[int] = []

    def report(self, epoch: int, metrics: Mapping[str, float]) -> Verdict:
        self.epochs.append(epoch)
        return "stop" if epoch == self.stop_after else "continue"
