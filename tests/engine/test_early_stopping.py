"""Early stopping inside a whole search: who is stopped, what the study says of it, and what becomes of it."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from helpers import findings, tiny

from se_nas.commands.search import search
from se_nas.core.trial import Recipe, Target
from se_nas.engine.study import Study

EPOCHS, BUDGET = 6, 22
CURVES = '''
"""An executor whose curves are made up: SE at r=4 in the last stage takes 30 points, each other block gives one."""

import math

from se_nas.executors.inline import InlineExecutor
from se_nas.core.trial import Epoch, Metric, Result


def made_up(request, channel):
    choices = [c for c in request.placement.choices.values() if c.kind == "se"]
    hopeless = any(c.reduction == 4 and c.squeeze_channels == 16 for c in choices)
    wobble = math.sin(7.0 * len(request.placement.key) + sum(map(ord, request.placement.key))) / 500
    end = 0.8 + 0.01 * len(choices) - 0.3 * hopeless + wobble
    curve = []
    for epoch in range(1, request.identity.epochs + 1):
        curve.append(Epoch(epoch=epoch, metrics={"val_accuracy": end * (1 - 0.5**epoch) + wobble / epoch}))
        if channel.report(epoch, curve[-1].metrics) == "stop":
            break
    stopped = len(curve) < request.identity.epochs
    return Result(
        trial=request.trial, attempt=request.attempt, state="stopped" if stopped else "complete",
        reason="stopped early" if stopped else "", curve=tuple(curve),
        metrics={"val_accuracy": Metric(value=curve[-1].metrics["val_accuracy"])},
    )


class Executor(InlineExecutor):
    def submit(self, evaluate, request, report):
        return super().submit(made_up, request, report)
'''


def searched(tmp_path: Path, sampler: str) -> Study:
    file = tmp_path / "curves.py"
    file.write_text(CURVES)
    config = tiny(
        tmp_path,
        space="stagewise",
        sampler=Target(target=sampler),
        executor=Target(target=f"{file}:Executor"),
        train=Recipe(epochs=EPOCHS, precision="32"),
        budget=BUDGET,
        early_stopping=True,
        out=str(tmp_path / "run"),
    )
    search(config)
    study = Study.latest(f"sqlite:///{config.out}/study.db", "search")
    assert study is not None
    return study


@pytest.mark.parametrize("sampler", ["known-cost", "tpe"])
def test_hopeless_trainings_are_stopped_and_no_sampler_repeats_them(tmp_path: Path, sampler: str) -> None:
    study = searched(tmp_path, sampler)
    trials = study.trials()
    stopped = [t for t in trials if t.state == "stopped"]
    assert stopped
    assert sum(t.counts for t in trials) == BUDGET, "the budget is spent"
    assert not [t for t in stopped if t.role], "reference points are never stopped"
    for trial in stopped:
        assert EPOCHS / 3 <= len(trial.curve) < EPOCHS
        assert trial.reason.startswith(f"stopped after epoch {len(trial.curve)}: ")
    keys = [t.placement.key for t in trials if t.counts]
    assert len(keys) == len(set(keys)), "nothing is trained twice"
    told = study.optuna.trials[stopped[0].number]
    assert told.state == optuna.trial.TrialState.PRUNED
    assert len(told.user_attrs["curve"]) == len(stopped[0].curve)

    informed = findings(trials, study.objective, study.space).complete
    without = findings([t for t in trials if t.state != "stopped"], study.objective, study.space).complete
    assert list(informed["trial"]) == list(without["trial"]), "only what was trained to its end can be shipped"
    assert (informed["mean"] - without["mean"]).abs().max() > 0, "the posterior knows of the stopped ones"
