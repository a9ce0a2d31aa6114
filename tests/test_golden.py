"""What must not change when code moves: a recorded search and confirm, and a run folder of version 0.1."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from helpers import REPOSITORY

import se_nas
from se_nas.analysis.confirmation import read_confirmed
from se_nas.cli import main
from se_nas.commands.results import existing_run, report_again
from se_nas.core.config import SearchConfig

GOLDEN = REPOSITORY / "tests" / "golden"
INDEPENDENT = ("key", "placement", "seed", "costs", "start", "data", "split")
"""What no rounding of a processor can change, of trials whose proposal does not depend on a metric."""
OPENING = 6


@pytest.fixture(scope="module")
def recorder() -> ModuleType:
    spec = importlib.util.spec_from_file_location("golden_search", GOLDEN / "search.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_search_and_a_confirm_are_as_recorded(recorder: ModuleType, tmp_path: Path) -> None:
    wanted: dict[str, Any] = json.loads((GOLDEN / "search.json").read_text())
    found = json.loads(json.dumps(recorder.recorded(tmp_path / "run")))
    assert len(found["trials"]) == len(wanted["trials"]) == 12
    for ours, theirs in list(zip(found["trials"], wanted["trials"], strict=True))[:OPENING]:
        assert {name: ours[name] for name in INDEPENDENT} == {name: theirs[name] for name in INDEPENDENT}
    if found["machine"] != wanted["machine"]:
        pytest.skip(f"recorded on {wanted['machine']}: bits are compared there only")
    assert found == wanted


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A run of version 0.1: 8 trainings of resnet8 on digits, on and off in three stages, and a confirm."""
    folder = tmp_path / "runs" / "golden"
    shutil.copytree(GOLDEN / "run-0.1", folder)
    (folder / "weights").mkdir()
    shutil.copy(folder / "best" / "model.safetensors", folder / "weights" / "0.safetensors")
    return folder


class TestOldRun:
    def test_opens_with_all_its_trials(self, old: Path) -> None:
        _, study = existing_run(old)
        trials = study.trials()
        assert [t.state for t in trials] == ["complete"] * 8
        assert all(t.placement.key == t.identity.key for t in trials), "keys of before are keys of now"
        assert {t.versions["se-nas"] for t in trials} == {"0.1.0"}

    def test_is_reported_as_it_was(self, old: Path) -> None:
        before = {name: (old / name).read_text() for name in ("trials.csv", "curves.csv")}
        found = report_again(old)
        assert found.summary.best is not None
        assert found.summary.best.placement == "none"
        assert found.summary.best.mean == pytest.approx(0.6200741971816502, rel=1e-6), "by the posterior of now"
        assert {name: (old / name).read_text() for name in before} == before
        assert "ship it without" in (old / "report.html").read_text()
        assert "graph: plain" in (old / "config.yaml").read_text()

    def test_its_confirm_is_read(self, old: Path) -> None:
        confirmed = read_confirmed(old)
        assert confirmed is not None
        assert confirmed.verdict.claim == "without"

    def test_is_exported_and_loaded(self, old: Path) -> None:
        done = se_nas.export(old, select="baseline", to=old / "plain")
        assert [proof.format for proof in done.proofs] == ["safetensors"]
        assert not se_nas.load(old / "best").training

    def test_goes_on(self, old: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        """The same command with a larger budget: the space is exhausted, and nothing is trained again."""
        monkeypatch.chdir(old.parents[1])
        code = main(["search", "--config", "runs/golden/config.yaml", "--budget", "12", "--out", "runs/golden"])
        assert code == 0, capsys.readouterr().err
        assert "8 trained" in capsys.readouterr().out

    def test_its_configuration_is_one_of_now(self, old: Path) -> None:
        _, study = existing_run(old)
        kept = study.optuna.user_attrs["config"]
        assert kept["graph"] == "auto"
        assert SearchConfig().graph == "plain"
