"""Signs of life: at most one a second, of the training's own thread, whatever is done with the network."""

from __future__ import annotations

import copy
import io
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import Recording, tiny
from torch import nn

from se_nas.core.trial import Verdict
from se_nas.engine.problem import prepare
from se_nas.training import pulse
from se_nas.training.evaluate import train_candidate
from se_nas.training.pulse import Pulse, heard


class Lively(Recording):
    """A channel that keeps signs of life."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Mapping[str, float]] = []

    @property
    def signs(self) -> int:
        return len(self.seen)

    def alive(self, seen: Mapping[str, float]) -> None:
        self.seen.append(seen)

    def report(self, epoch: int, metrics: Mapping[str, float]) -> Verdict:
        verdict: Verdict = super().report(epoch, metrics)
        return verdict


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(pulse.time, "monotonic", lambda: now[0])
    return now


class TestPulse:
    def test_is_one_a_second_at_most(self, clock: list[float]) -> None:
        channel = Lively()
        sign = Pulse(channel)
        for number in range(1, 31):
            clock[0] = 100 + number / 10
            sign()
        assert channel.signs == 3

    def test_says_where_the_training_is_and_asks_only_when_it_is_due(self, clock: list[float]) -> None:
        channel, asked = Lively(), []

        def seen() -> Mapping[str, float]:
            asked.append(clock[0])
            return {"epoch": 2.0, "batch": float(len(asked))}

        sign = Pulse(channel)
        for number in range(1, 26):
            clock[0] = 100 + number / 10
            sign(seen)
        assert channel.seen == [{"epoch": 2.0, "batch": 1.0}, {"epoch": 2.0, "batch": 2.0}]
        assert len(asked) == 2

    def test_of_another_thread_is_none(self, clock: list[float]) -> None:
        channel = Lively()
        sign = Pulse(channel)
        clock[0] += 10
        thread = threading.Thread(target=sign)
        thread.start()
        thread.join()
        assert channel.signs == 0
        sign()
        assert channel.signs == 1

    def test_a_channel_that_cannot_tell_it_is_left_alone(self, clock: list[float]) -> None:
        channel = Recording()
        sign = Pulse(channel)
        clock[0] += 10
        sign()
        assert channel.reports == []


class TestNetwork:
    @pytest.fixture
    def channel(self, monkeypatch: pytest.MonkeyPatch) -> Lively:
        monkeypatch.setattr(pulse, "EVERY", 0.0)
        return Lively()

    def test_each_call_and_each_step_is_heard(self, channel: Lively) -> None:
        network = nn.Linear(2, 2)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        with heard(network, Pulse(channel)):
            network(torch.zeros(1, 2)).sum().backward()
            assert channel.signs == 1
            optimizer.step()
            assert channel.seen == [{"step": 0.0}, {"step": 1.0}]
        network(torch.zeros(1, 2))
        optimizer.step()
        assert channel.signs == 2
        assert not network._forward_pre_hooks

    def test_copies_and_files_and_compilers_do_not_mind(self, channel: Lively) -> None:
        network = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
        file, images = io.BytesIO(), torch.ones(1, 2)
        with heard(network, Pulse(channel)):
            expected = network(images)
            average = copy.deepcopy(network)
            average(images)
            assert channel.signs == 2
            torch.save(network, file)
            compiled = torch.compile(network, fullgraph=True, backend="eager")
            torch.testing.assert_close(compiled(images), expected)
            assert torch.export.export(network, (images,)).graph_signature.user_inputs
        before = channel.signs
        average(images)  # outlives the training, and says no more of it
        file.seek(0)
        torch.testing.assert_close(torch.load(file, weights_only=False)(images), expected)
        assert channel.signs == before


def test_batches_of_training_and_of_validation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulse, "EVERY", 0.0)
    channel = Lively()
    problem = prepare(tiny(tmp_path), tmp_path / "run")
    record: Any = problem.trial(problem.space.parse("none"), owner="", role="", attempts=1)
    train_candidate(problem.request(record, tmp_path / "run"), channel)
    info = problem.data
    steps, looks = info.train // 256, -(-info.val // 256)
    places = [(seen["epoch"], seen["batch"], seen["batches"], seen.get("validating", 0)) for seen in channel.seen]
    trained, looked = ([(1, n, of, part) for n in range(1, of + 1)] for of, part in ((steps, 0), (looks, 1)))
    assert places == trained + looked
    losses = [seen["loss"] for seen in channel.seen if "validating" not in seen]
    assert sum(losses) / steps == pytest.approx(channel.reports[0][1]["train_loss"], rel=1e-5)


def test_the_loss_is_that_of_the_whole_batch_where_it_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulse, "EVERY", 0.0)
    channel = Lively()
    problem = prepare(tiny(tmp_path), tmp_path / "run")
    record: Any = problem.trial(problem.space.parse("none"), owner="", role="", attempts=1)
    train_candidate(problem.request(record, tmp_path / "run"), channel, pieces=2)
    losses = [seen["loss"] for seen in channel.seen if "loss" in seen]
    assert 1.5 < losses[0] < 4  # cross-entropy of ten classes at the start; half of it would be below
    assert [epoch for epoch, _ in channel.reports] == [1]
