"""What a study has seen."""

from __future__ import annotations

import numpy as np
import optuna
import pytest
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from se_nas.core.errors import RunError
from se_nas.samplers.observations import MAX_FAILURES, REPEATS, Reader, Row, observe, observed
from se_nas.space.levels import LevelSpace

SPACE: dict[str, BaseDistribution] = {"a": IntDistribution(0, 3), "b": IntDistribution(0, 3)}
LEVELS = LevelSpace.of(SPACE)


def study_with(
    *trials: optuna.trial.FrozenTrial, directions: tuple[str, str] = ("maximize", "minimize")
) -> optuna.Study:
    study = optuna.create_study(directions=list(directions))
    study.add_trials(trials)
    return study


def trial(a: int, b: int, value: float | None = None, **kwargs: object) -> optuna.trial.FrozenTrial:
    values = None if value is None else [value, float(a + b)]
    state = TrialState.COMPLETE if values else kwargs.pop("state")
    return create_trial(params={"a": a, "b": b}, distributions=SPACE, values=values, state=state, **kwargs)  # type: ignore[arg-type]


def test_every_state_is_read_as_documented() -> None:
    study = study_with(
        trial(0, 0, 70.0),
        trial(1, 1, state=TrialState.PRUNED),
        *[trial(2, 2, state=TrialState.FAIL)] * MAX_FAILURES,
        trial(3, 3, state=TrialState.FAIL),
        trial(3, 1, state=TrialState.RUNNING),
    )
    study.enqueue_trial({"a": 3, "b": 2})
    study.ask()
    study.add_trial(create_trial(params={"a": 1}, distributions={"a": SPACE["a"]}, values=[1.0, 1.0]))
    seen = observe(study, LEVELS)
    np.testing.assert_array_equal(seen.codes, [[0, 0]])
    assert seen.complete == {(0, 0)}
    assert seen.closed == {(1, 1), (2, 2)}
    assert {tuple(row) for row in seen.pending.tolist()} == {(3, 1), (3, 2)}


@pytest.mark.parametrize(("directions", "sign"), [(("maximize", "minimize"), 1), (("minimize", "minimize"), -1)])
def test_larger_is_better_inside(directions: tuple[str, str], sign: int) -> None:
    seen = observe(study_with(trial(0, 0, 0.7), directions=directions), LEVELS)
    assert seen.value[0] == sign * 0.7


def test_a_stopped_trial_enters_through_its_curve() -> None:
    rng = np.random.default_rng(0)
    ends = rng.uniform(60, 80, 10)
    growth = 1 - np.exp(-np.arange(1, 11) / 3)
    done = [
        trial(
            i % 4, i // 4, float(end), user_attrs={"curve": list(end * growth + rng.normal(0, 0.2, 10)), "epochs": 10}
        )
        for i, end in enumerate(ends)
    ]
    stopped = trial(3, 3, state=TrialState.PRUNED, user_attrs={"curve": list(50 * growth[:5])})
    seen = observe(study_with(*done, stopped), LEVELS)
    assert len(seen.value) == 11
    assert seen.value[-1] == pytest.approx(50, abs=3)
    assert seen.value[-1] > 50 * growth[4] + 3, "its last value is not final"
    assert seen.extra_variance[-1] > 0
    assert not seen.extra_variance[:-1].any()
    assert (3, 3) in seen.closed


def test_trials_of_different_length_are_not_mixed() -> None:
    trials = [trial(0, i, 70.0, user_attrs={"epochs": epochs}) for i, epochs in enumerate((10, 20))]
    with pytest.raises(RunError, match="different numbers of epochs: 10, 20"):
        observe(study_with(*trials), LEVELS)


def test_the_metric_must_exist() -> None:
    with pytest.raises(RunError, match="metric_index is 2"):
        observe(study_with(), LEVELS, metric_index=2)


def test_repeated_trainings_count_for_networks_that_are_complete() -> None:
    study = study_with(trial(0, 1, 70.0, user_attrs={"key": "x"}), trial(1, 1, 71.0, user_attrs={"key": "y"}))
    study.set_user_attr(REPEATS, {"y": [72.0, 73.0], "elsewhere": [1.0], "x": [69.0]})
    seen = observe(study, LEVELS)
    np.testing.assert_array_equal(seen.codes, [[0, 1], [1, 1], [1, 1], [1, 1], [0, 1]])
    np.testing.assert_array_equal(seen.value, [70.0, 71.0, 72.0, 73.0, 69.0])
    assert not seen.extra_variance.any()
    assert seen.complete == {(0, 1), (1, 1)}


class TestReader:
    def test_what_has_ended_is_read_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        study, read = study_with(trial(0, 0, 70.0), trial(0, 1, 71.0)), []
        encode = LevelSpace.encode
        monkeypatch.setattr(LevelSpace, "encode", lambda self, params: read.append(params) or encode(self, params))
        reader = Reader(LEVELS)
        reader(study)
        study.add_trial(trial(2, 2, 72.0))
        asked = study.ask(SPACE)
        seen = reader(study)
        assert read == [{"a": 0, "b": 0}, {"a": 0, "b": 1}, {"a": 2, "b": 2}, asked.params]
        np.testing.assert_array_equal(seen.codes, observe(study, LEVELS).codes)
        study.tell(asked, [73.0, 1.0])
        seen = reader(study)
        np.testing.assert_array_equal(seen.value, [70.0, 71.0, 72.0, 73.0])

    def test_another_study_is_read_anew(self) -> None:
        reader = Reader(LEVELS)
        for studies in (study_with(trial(0, 0, 70.0)), study_with(trial(1, 1, 80.0))):
            seen, alone = reader(studies), observe(studies, LEVELS)
            np.testing.assert_array_equal(seen.codes, alone.codes)
            np.testing.assert_array_equal(seen.value, alone.value)

    def test_the_direction_counts(self) -> None:
        reader = Reader(LEVELS)
        assert reader(study_with(trial(0, 0, 0.7)))
        assert reader(study_with(trial(0, 0, 0.7), directions=("minimize", "minimize"))).value[0] == -0.7


class TestRows:
    def test_the_complete_come_first_then_the_repeated_then_the_stopped(self) -> None:
        ends = np.random.default_rng(0).uniform(60, 80, 8)
        growth = 1 - np.exp(-np.arange(1, 7) / 2)
        rows = [
            Row(codes=(3, 3), state="stopped", curve=50 * growth[:3]),
            Row(codes=(0, 0), state="repeated", value=66.0),
            *(
                Row(codes=(i % 4, i // 4), state="complete", value=end, curve=end * growth)
                for i, end in enumerate(ends)
            ),
            Row(codes=(2, 3), state="pending"),
        ]
        seen = observed(rows, 2)
        np.testing.assert_array_equal(seen.value[:9], [*ends, 66.0])
        assert seen.value[9] == pytest.approx(50 * growth[-1] / growth[-1])
        assert [tuple(row) for row in seen.codes[8:].tolist()] == [(0, 0), (3, 3)]
        assert seen.extra_variance[9] > 0 == seen.extra_variance[:9].max()
        assert seen.pending.tolist() == [[2, 3]]
        assert (0, 0) in seen.complete
        assert seen.closed == {(3, 3)}

    def test_complete_trainings_without_a_curve_say_nothing_about_ends(self) -> None:
        rows = [Row(codes=(i % 4, i // 4), state="complete", value=70.0 + i) for i in range(8)]
        seen = observed([*rows, Row(codes=(3, 3), state="stopped", curve=np.array([1.0, 2.0]))], 2)
        assert len(seen.value) == 8

    def test_nothing_seen_has_the_shape_of_the_space(self) -> None:
        seen = observed([], 2)
        assert seen.codes.shape == seen.pending.shape == (0, 2)
        assert len(seen.value) == len(seen.extra_variance) == 0
