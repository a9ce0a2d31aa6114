"""The study: what goes in comes out, in Optuna's own words too."""

from __future__ import annotations

import importlib.util
import sqlite3
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from helpers import result_of, trial, unit
from optuna.trial import TrialState

from se_nas.core.errors import RunError
from se_nas.core.serialization import to_plain
from se_nas.core.trial import CostValue, Epoch, Metric, Objective, Trial
from se_nas.engine.study import EARLIER, Study, study_names
from se_nas.space.exact_cost import Cost
from se_nas.space.space import Space
from se_nas.space.spec import read_space

OBJECTIVE = Objective(metric="val_accuracy", direction="maximize", cost="gflops")
UNITS = (unit("a", "stage1", 16), unit("b", "stage2", 32))
COSTS = Cost(params=10, macs=20, activations=30).values()


def space_of(*reductions: object) -> Space:
    return Space(read_space({"reductions": list(reductions)}), UNITS)


def url(folder: Path) -> str:
    return f"sqlite:///{folder / 'study.db'}"


def study_in(folder: Path, space: Space) -> Study:
    return Study(url(folder), "search", OBJECTIVE, {"space": space.to_plain()})


def run_one(study: Study, space: Space, levels: dict[str, int], **outcome: object) -> Trial:
    """Ask for one assignment, run it and tell."""
    study.enqueue(levels)
    asked, given = study.ask(space)
    assert given == levels
    started = study.start(asked, trial(space.placement(levels), costs=COSTS))
    finished = replace(started, **result_of(**outcome))
    assert study.finish(finished)
    return finished


def every_state(study: Study, space: Space) -> list[Trial]:
    levels = list(space.levels())
    return [
        run_one(study, space, levels[0], state="complete", value=0.5),
        run_one(study, space, levels[1], state="failed", reason="non-finite loss"),
        run_one(study, space, levels[2], state="stopped", reason="stopped early"),
        run_one(study, space, levels[3], state="rejected", reason="known already"),
    ]


class TestRoundTrip:
    def test_every_state(self, tmp_path: Path) -> None:
        space = space_of("none", 16, 8)
        study = study_in(tmp_path, space)
        told = every_state(study, space)
        assert study.trials() == told
        assert study_in(tmp_path, space).trials() == told

    def test_every_field(self, tmp_path: Path) -> None:
        file = Path(__file__).parents[1] / "golden" / "make.py"
        spec = importlib.util.spec_from_file_location("golden_make_for_study", file)
        assert spec is not None
        assert spec.loader is not None
        golden = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(golden)
        space = space_of("none", 16)
        study = study_in(tmp_path, space)
        asked, _ = study.ask(space)
        full = replace(
            golden.TRIAL, number=0, state="complete", metrics={"val_accuracy": Metric(value=0.25)},
            costs={**COSTS, "latency": CostValue(value=1.5, unit="ms", kind="measured", interval=(1.0, 2.0))},
            curve=(Epoch(epoch=1, metrics={"val_accuracy": 0.25}),),
        )  # fmt: skip
        study.start(asked, full)
        assert study.finish(full)
        assert study_in(tmp_path, space).trials() == [full]

    def test_running_trials_are_running_whatever_their_record_says(self, tmp_path: Path) -> None:
        space = space_of("none", 16)
        study = study_in(tmp_path, space)
        asked, levels = study.ask(space)
        started = study.start(asked, trial(space.placement(levels)))
        (found,) = study_in(tmp_path, space).trials()
        assert found == started
        assert found.lease > 0
        study.renew(replace(started, lease=0.0))
        assert study.trials()[0].lease >= found.lease

    def test_a_trial_is_told_once(self, tmp_path: Path) -> None:
        space = space_of("none", 16)
        study = study_in(tmp_path, space)
        done = run_one(study, space, next(space.levels()), state="complete", value=0.5)
        other = replace(done, metrics={"val_accuracy": Metric(value=0.9)})
        assert not study_in(tmp_path, space).finish(other)
        assert study_in(tmp_path, space).trials() == [done]

    def test_space(self, tmp_path: Path) -> None:
        space = Space(read_space({"reductions": ["none", 8], "gate": ["sigmoid", "tanh"]}), UNITS)
        study_in(tmp_path, space)
        again = Study.latest(url(tmp_path), "search")
        assert again is not None
        assert again.space.to_plain() == space.to_plain()
        assert again.space.parameters == space.parameters

    def test_facts_and_objective(self, tmp_path: Path) -> None:
        space = space_of("none", 16)
        study_in(tmp_path, space)
        found = Study.latest(url(tmp_path), "search")
        assert found is not None
        assert found.facts == {**EARLIER, "space": space.to_plain()}
        assert found.objective == OBJECTIVE
        assert Study.latest(url(tmp_path), "confirm") is None


class TestOptunaReadsIt:
    def test_states_values_and_names(self, tmp_path: Path) -> None:
        space = space_of("none", 16, 8)
        every_state(study_in(tmp_path, space), space)
        study = optuna.load_study(study_name="search", storage=url(tmp_path))
        assert [t.state for t in study.trials] == [
            TrialState.COMPLETE, TrialState.FAIL, TrialState.PRUNED, TrialState.PRUNED,
        ]  # fmt: skip
        assert study.trials[0].values == [0.5, 20 / 1e9]
        assert [d.name for d in study.directions] == ["MAXIMIZE", "MINIMIZE"]
        assert study.metric_names == ["val_accuracy", "gflops"]
        assert list(study.trials[0].params) == ["stage1.reduction", "stage2.reduction"]
        assert len(study.best_trials) == 1
        columns = study.trials_dataframe(multi_index=False).columns
        for name in ("values_val_accuracy", "user_attrs_key", "user_attrs_placement", "user_attrs_params (parameters)"):
            assert name in columns

    def test_a_rejected_trial_has_a_violated_constraint(self, tmp_path: Path) -> None:
        space = space_of("none", 16, 8)
        every_state(study_in(tmp_path, space), space)
        trials = optuna.load_study(study_name="search", storage=url(tmp_path)).trials
        assert trials[3].constraints == {"rejected": 1.0}
        assert trials[3].user_attrs["reason"] == "known already"
        assert not trials[0].constraints


class TestQueue:
    def test_enqueued_come_first_with_their_facts(self, tmp_path: Path) -> None:
        space = space_of("none", 16, 8)
        study = study_in(tmp_path, space)
        study.enqueue({"stage1.reduction": 2, "stage2.reduction": 1}, role="reference")
        assert study.waiting() == 1
        assert study.enqueued("reference")
        assert not study.enqueued("baseline")
        asked, levels = study.ask(space)
        assert levels == {"stage1.reduction": 2, "stage2.reduction": 1}
        assert asked.user_attrs["role"] == "reference"
        assert study.waiting() == 0

    def test_trials_that_never_started_are_failed(self, tmp_path: Path) -> None:
        space = space_of("none", 16)
        study = study_in(tmp_path, space)
        study.ask(space)
        study.fail_unrecorded()
        assert study.optuna.get_trials()[0].state == TrialState.FAIL
        assert study.trials() == []


class TestWidening:
    def test_keeps_numbers_keys_and_records(self, tmp_path: Path) -> None:
        narrow, wide = space_of("none", 16, 4), space_of("none", 16, 8, 4, 2)
        study = study_in(tmp_path, narrow)
        told = every_state(study, narrow)
        study.enqueue({"stage1.reduction": 2, "stage2.reduction": 2}, role="x")
        wider = study.widen({"space": wide.to_plain()}, wide)
        assert wider.trials() == told
        for record, frozen in zip(told, wider.optuna.get_trials(), strict=False):
            assert wide.placement(frozen.params).key == record.placement.key
            assert frozen.number == record.number
        assert wider.waiting() == 1
        _, levels = wider.ask(wide)
        assert wide.placement(levels).key == narrow.placement(dict.fromkeys(levels, 2)).key
        latest = Study.latest(url(tmp_path), "search")
        assert latest is not None
        assert latest.name == wider.name == "search, space 2"
        assert latest.facts == {**EARLIER, "space": wide.to_plain()}

    def test_samplers_go_on_in_the_wider_space(self, tmp_path: Path) -> None:
        narrow, wide = space_of("none", 16), space_of("none", 16, 4)
        study = study_in(tmp_path, narrow)
        every_state(study, narrow)
        wider = study.widen({"space": wide.to_plain()}, wide)
        seen = {tuple(wider.ask(wide)[1].values()) for _ in range(30)}
        assert any(2 in levels for levels in seen)

    def test_a_copy_that_was_cut_short_is_made_again(self, tmp_path: Path) -> None:
        narrow, wide = space_of("none", 16), space_of("none", 16, 4)
        study = study_in(tmp_path, narrow)
        told = every_state(study, narrow)
        half = Study(url(tmp_path), "search, space 2", OBJECTIVE, {"space": wide.to_plain()})
        half.optuna.set_user_attr("carried over", False)
        latest = Study.latest(url(tmp_path), "search")
        assert latest is not None
        assert latest.name == "search"
        assert latest.trials() == told
        assert study_names(url(tmp_path)) == ["search"]


class TestErrors:
    def test_a_study_of_somebody_else(self, tmp_path: Path) -> None:
        optuna.create_study(study_name="search", storage=url(tmp_path))
        with pytest.raises(RunError, match="study 'search' was not made by se-nas search"):
            Study.latest(url(tmp_path), "search")

    @pytest.mark.parametrize("content", [b"no database at all", b"SQLite format 3\x00" + b"\xff" * 200])
    def test_a_file_that_is_no_database(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "study.db").write_bytes(content)
        with pytest.raises(RunError, match="cannot use the study storage"):
            Study.latest(url(tmp_path), "search")

    def test_a_url_that_leads_nowhere(self) -> None:
        with pytest.raises(RunError, match=r"cannot use the study storage 'sqlite:////no/such/folder/x\.db'"):
            study_names("sqlite:////no/such/folder/x.db")
        with pytest.raises(RunError, match="cannot use the study storage 'nonsense'"):
            study_names("nonsense")

    def test_a_newer_schema_is_refused(self, tmp_path: Path) -> None:
        space = space_of("none", 16)
        study = study_in(tmp_path, space)
        asked, levels = study.ask(space)
        plain = to_plain(trial(space.placement(levels)))
        asked.set_user_attr("record", {**plain, "schema": 99})
        with pytest.raises(RunError, match="schema version 99 is newer") as caught:
            study_in(tmp_path, space).trials()
        assert "trial 0" in str(caught.value)


def test_a_row_that_is_no_record_is_an_error_in_words(tmp_path: Path) -> None:
    """A number of 5,000 digits is valid JSON, and no number of Python."""
    study = study_in(tmp_path, space_of("none", 16))
    run_one(study, space_of("none", 16), {"stage1.reduction": 0, "stage2.reduction": 0})
    with sqlite3.connect(tmp_path / "study.db") as connection:
        connection.execute("UPDATE trial_user_attributes SET value_json = ? WHERE key = 'record'", ["9" * 5000])
    with pytest.raises(RunError, match="cannot use the study storage"):
        study_in(tmp_path, space_of("none", 16)).trials()
