"""A run goes on with the start of its SE blocks that it began with; a new one starts them as the identity."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers import REPOSITORY

import se_nas
from se_nas.commands.plan import plan
from se_nas.commands.results import existing_run
from se_nas.commands.train import train_placement
from se_nas.core.config import SearchConfig, TrainConfig
from se_nas.core.errors import RunError
from se_nas.core.files import weights_file
from se_nas.core.overrides import configured
from se_nas.core.serialization import to_plain
from se_nas.core.trial import Recipe, Target, Trial
from se_nas.engine.kept_start import start_of, study_of
from se_nas.engine.problem import prepare
from se_nas.engine.run_folder import RunFolder
from se_nas.engine.study import Study
from se_nas.report.view import View
from se_nas.training.evaluate import evaluate

SETTINGS: dict[str, Any] = {
    "backbone": "resnet8", "data": "digits", "epochs": 2, "device": "cpu", "executor": "inline", "precision": "32",
    "keep_weights": "all",
}  # fmt: skip


def starts(trials: list[Trial]) -> set[str]:
    return {choice.init for t in trials for choice in t.placement.choices.values() if choice.kind == "se"}


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A run of version 0.1, all 8 placements of on and off; its study says ``init: default``, its file nothing."""
    folder = tmp_path / "golden"
    shutil.copytree(REPOSITORY / "tests" / "golden" / "run-0.1", folder)
    (folder / "weights").mkdir()
    assert "init" not in (folder / "config.yaml").read_text()
    return folder


def test_a_new_search_starts_its_blocks_as_the_identity(tmp_path: Path) -> None:
    found = se_nas.search(**SETTINGS, space="on-off", budget=2, out=str(tmp_path / "run"))
    assert starts(found.found.trials) == {"identity"}
    _, study = existing_run(tmp_path / "run")
    assert start_of(study) == "identity"
    assert start_of(study_of(SearchConfig(), RunFolder(tmp_path / "nowhere"))) is None
    assert not (tmp_path / "nowhere").exists()


def test_an_unfinished_run_of_before_trains_on_as_it_began(tmp_path: Path) -> None:
    """The next training is that of a search with the plain start, bit by bit: its key, its curve, its weights."""
    folder, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    config = configured(None, {**SETTINGS, "space": "{reductions: [none, 16], init: plain}", "budget": 2})
    se_nas.search(replace(config, out=str(folder)))
    study = Study.latest(RunFolder(folder).storage, "search")
    assert study is not None
    facts = study.optuna.user_attrs["facts"]
    facts["space"]["spec"]["init"] = "default"  # as it was written
    study.optuna.set_user_attr("facts", facts)
    config = replace(config, space="on-off", budget=3)
    found = se_nas.search(replace(config, out=str(folder)))
    new = found.found.trials[-1]
    assert (new.number, new.state) == (2, "complete")
    assert starts(found.found.trials) == {"plain"}
    problem = prepare(replace(config, space="{reductions: [none, 16], init: plain}"), elsewhere)
    placement = problem.space.parse(new.placement.label)
    again = replace(problem.trial(placement, owner="", role="", attempts=1), number=2)
    assert (again.identity.key, again.identity.seed) == (new.identity.key, new.identity.seed)
    result = evaluate(problem.request(again, elsewhere), Silent())
    assert result.curve == new.curve
    assert result.metrics == new.metrics
    assert weights_file(elsewhere, 2).read_bytes() == weights_file(folder, 2).read_bytes()
    assert prepare(config, elsewhere).space.parse(new.placement.label).key != new.identity.key
    wider = se_nas.search(replace(config, space="stagewise", budget=3, out=str(folder)))
    assert starts(wider.found.trials) == {"plain"}
    study = existing_run(folder)[1]
    assert (study.name, start_of(study)) == ("search, space 2", "plain")


class TestOldRun:
    def test_is_not_gone_on_with_as_the_identity(self, old: Path) -> None:
        with pytest.raises(RunError, match=r"space\.spec\.init: plain -> identity"):
            se_nas.search(**SETTINGS, space="{reductions: [none, 16], init: identity}", budget=9, out=str(old))

    @pytest.mark.parametrize("space", ["{reductions: [none, 16], init: default}", "{reductions: [none, 16]}"])
    def test_is_gone_on_with_by_its_own_files(self, old: Path, space: str) -> None:
        found = se_nas.search(**SETTINGS, space=space, budget=9, out=str(old))
        assert len(found.found.trials) == 8

    def test_is_confirmed_with_the_networks_that_it_trained(self, old: Path) -> None:
        _, study = existing_run(old)
        reference = next(t for t in study.trials() if t.role == "reference")
        confirmed = se_nas.confirm(old, top=1, seeds=1, device="cpu")
        assert {n.key for n in confirmed.networks} <= {t.placement.key for t in study.trials()}
        assert next(n.key for n in confirmed.networks if n.role == "reference") == reference.placement.key

    def test_is_planned_and_told_so(self, old: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert plan(**SETTINGS, space="on-off", budget=8, out=str(old)).trainings == 0
        config = configured(None, {**SETTINGS, "space": "on-off", "budget": 8, "out": str(old)})
        problem = prepare(config, old, init=start_of(study_of(config, RunFolder(old))))
        assert "SE blocks start as in the SE paper (init: plain), as they did when this run began" in problem.notes

    def test_a_study_that_does_not_say_is_plain(self, old: Path) -> None:
        study = Study.latest(RunFolder(old).storage, "search")
        assert study is not None
        facts = study.optuna.user_attrs["facts"]
        del facts["space"]["spec"]["init"]
        study.optuna.set_user_attr("facts", facts)
        _, study = existing_run(old)
        assert start_of(study) == "plain"
        assert {c.init for c in study.space.reference.choices.values()} == {"plain"}

    def test_its_networks_are_loaded_and_exported_as_they_were(self, old: Path) -> None:
        trials = existing_run(old)[1].trials()
        assert starts(trials) == {"plain"}
        assert all(t.placement.key == t.identity.key for t in trials)
        assert to_plain(trials[1].placement)["choices"]["layer1.0"]["gate_scale"] == 1.0


class TestTraining:
    @pytest.mark.parametrize("start", ["plain", "identity"])
    def test_goes_on_as_it_began(self, tmp_path: Path, start: str) -> None:
        config = TrainConfig(
            placement="stage1=8", backbone=Target(target="resnet8"), space=f"{{init: {start}}}", device="cpu",
            executor=Target(target="inline"), train=Recipe(epochs=1, precision="32"), out=str(tmp_path / "run"),
        )  # fmt: skip
        first = train_placement(config)
        again = train_placement(replace(config, space="stagewise"), view=View(quiet=True))
        assert again.trial == first.trial
        assert starts([again.trial]) == {start}


class Silent:
    def report(self, epoch: int, metrics: Any) -> Any:
        return "continue"
