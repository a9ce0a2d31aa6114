"""What a proposer lets pass, with a study that asks for what is written down."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from helpers import result_of, trial, unit
from test_proposer import COSTS, UNITS

from se_nas.core.config import Limits
from se_nas.core.errors import ExhaustedError
from se_nas.core.placement import Placement
from se_nas.core.trial import INTERRUPTED, LOST, Trial
from se_nas.engine import proposer as module
from se_nas.engine.proposer import ASKS, ATTEMPTS, Proposer, _failures, _known
from se_nas.space.space import Space
from se_nas.space.spec import read_space

SPACE = Space(read_space({"reductions": ["none", 16]}), UNITS)
LEVELS = list(SPACE.levels())
BASE = COSTS(SPACE.baseline)["params"].value


class Script:
    """Gives what is enqueued, then what is written down, and at its end says that nothing is left."""

    def __init__(self, asked: Iterator[dict[str, int]] | Sequence[dict[str, int]] = ()) -> None:
        self.asked, self.queue, self.asks = iter(asked), list[tuple[dict[str, int], str]](), 0
        self.rejected: list[Trial] = []
        self.told: list[Trial] = []

    def trials(self) -> list[Trial]:
        return self.told

    def waiting(self) -> int:
        return len(self.queue)

    def enqueued(self, role: str) -> bool:
        return any(known == role for _, known in self.queue)

    def enqueue(self, levels: dict[str, int], role: str = "") -> None:
        self.queue.append((levels, role))

    def ask(self, space: Space) -> tuple[Any, dict[str, int]]:
        assert space.size == 8
        self.asks += 1
        levels, role = self.queue.pop(0) if self.queue else (next(self.asked, None), "")
        if levels is None:
            raise ExhaustedError("nothing is left")
        return SimpleNamespace(number=100 + self.asks, user_attrs={"role": role} if role else {}), levels

    def start(self, asked: Any, record: Trial) -> Trial:
        assert record.number == asked.number
        return record

    def finish(self, record: Trial) -> None:
        self.rejected.append(record)


def proposer_of(
    script: Script, space: Space = SPACE, limits: Limits | None = None, costs: Any = COSTS, seed: int = 0
) -> Proposer:
    def record(placement: Placement, *, role: str, attempts: int, replicate: int) -> Trial:
        made = trial(placement, role=role, attempts=attempts)
        return replace(made, identity=replace(made.identity, replicate=replicate))

    return Proposer(script, space, costs, limits or Limits(), seed=seed, record=record)  # type: ignore[arg-type]


def known(levels: dict[str, int], state: str = "complete", reason: str = "", attempts: int = 1) -> Trial:
    return trial(SPACE.placement(levels), 7, attempts=attempts, **result_of(state, reason=reason))


class TestKnown:
    @pytest.mark.parametrize(
        ("state", "reason", "attempts", "is_known"),
        [
            ("complete", "", 1, True), ("stopped", "", 1, True), ("running", "", 1, True), ("rejected", "", 9, False),
            ("failed", "no", ATTEMPTS - 1, False), ("failed", "no", ATTEMPTS, True), ("failed", "no", 9, True),
            ("failed", INTERRUPTED, 9, False), ("failed", LOST, ATTEMPTS, False),
        ],
    )  # fmt: skip
    def test_is_what_needs_no_training(self, state: str, reason: str, attempts: int, is_known: bool) -> None:
        one = known(LEVELS[3], state, reason, attempts)
        assert _known([one]) == ({one.placement.key} if is_known else set())

    def test_failures_are_of_the_network_itself(self) -> None:
        own, other = (known(levels, "failed", "no") for levels in LEVELS[:2])
        blameless = [known(LEVELS[0], "failed", reason) for reason in (INTERRUPTED, LOST)]
        assert _failures([own, other, *blameless, known(LEVELS[0])], own.placement.key) == [own]


class TestNext:
    def test_a_trial_counts_its_failures_and_has_other_random_numbers_after_one_that_was_not_finite(self) -> None:
        reasons = ("RuntimeError: no", "non-finite val_loss", "RuntimeError: no")
        failed = [known(LEVELS[2], "failed", reason) for reason in reasons]
        found = proposer_of(Script([LEVELS[2]])).next(failed)
        assert found is not None
        assert (found.number, found.attempts, found.identity.replicate, found.role) == (101, 4, 1, "")
        assert found.placement == SPACE.placement(LEVELS[2])

    def test_what_is_known_is_rejected_with_its_reason_and_the_next_one_asked_for(self) -> None:
        script = Script([LEVELS[1], LEVELS[1], LEVELS[4]])
        found = proposer_of(script).next([known(LEVELS[1])])
        assert found is not None
        assert (found.number, found.placement) == (103, SPACE.placement(LEVELS[4]))
        assert [(t.number, t.state, t.reason) for t in script.rejected] == [
            (101, "rejected", "known already"), (102, "rejected", "known already"),
        ]  # fmt: skip

    def test_what_is_over_a_limit_is_rejected_but_a_reference_is_not(self) -> None:
        limits = Limits(params=BASE + 100)
        dear, cheap = SPACE.find(SPACE.reference), SPACE.find(SPACE.baseline)
        assert dear is not None
        assert cheap is not None
        script = Script([dear, cheap])
        found = proposer_of(script, limits=limits).next([])
        assert found is not None
        assert found.placement == SPACE.baseline
        assert [t.reason for t in script.rejected] == [f"params {BASE + 672} is over the limit {BASE + 100}"]
        script = Script()
        script.enqueue(dear, role="reference")
        found = proposer_of(script, limits=limits).next([])
        assert found is not None
        assert (found.role, found.placement) == ("reference", SPACE.reference)

    def test_a_reduction_that_only_the_reference_has_is_rejected(self) -> None:
        space = Space(read_space({"reductions": ["none", 4]}), UNITS)
        levels = space.find(space.reference)
        assert levels is not None
        script = Script([levels, next(space.levels())])
        assert proposer_of(script, space).next([]) is not None
        assert [t.reason for t in script.rejected] == ["only the reference placement uses this reduction"]

    def test_after_ten_in_vain_one_of_those_left_is_drawn(self) -> None:
        trained = [known(levels) for levels in LEVELS[:6]]
        drawn = set()
        for seed in range(12):
            script = Script(itertools.repeat(LEVELS[0]))
            found = proposer_of(script, seed=seed).next(trained)
            assert found is not None
            assert (script.asks, len(script.rejected)) == (ASKS + 1, ASKS)
            drawn.add(found.placement.key)
        assert drawn == {SPACE.placement(levels).key for levels in LEVELS[6:]}

    def test_a_sampler_with_nothing_left_is_not_asked_again(self) -> None:
        script = Script()
        found = proposer_of(script).next([known(levels) for levels in LEVELS[1:]])
        assert found is not None
        assert (found.placement, script.asks, script.rejected) == (SPACE.placement(LEVELS[0]), 2, [])

    def test_the_end_of_a_listed_space_asks_for_nothing_but_what_waits(self) -> None:
        script = Script(itertools.repeat(LEVELS[0]))
        trained = [known(levels) for levels in LEVELS]
        assert proposer_of(script).next(trained) is None
        assert script.asks == 0
        script.enqueue(LEVELS[3])
        assert proposer_of(script).next(trained) is None
        assert (len(script.rejected), script.waiting()) == (ASKS, 0)

    def test_the_end_of_a_limit_is_the_end_of_the_space(self) -> None:
        script = Script(itertools.repeat(LEVELS[0]))
        assert proposer_of(script, limits=Limits(macs=1)).next([]) is None
        assert script.asks == 0

    @pytest.mark.parametrize("listed", [True, False])
    def test_a_space_is_listed_up_to_its_bound(self, listed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        """A larger one is drawn from, within its limits and what is new, so often and no more."""
        monkeypatch.setattr(module, "ENUMERABLE", 8 if listed else 7)
        monkeypatch.setattr(module, "DRAWS", 200)
        draws = []
        monkeypatch.setattr(
            Space, "random_levels", lambda _, generator: draws.append(1) or LEVELS[generator.randrange(8)]
        )
        limits = Limits(params=BASE + 160)
        cheap = [levels for levels in LEVELS if COSTS(SPACE.placement(levels))["params"].value <= BASE + 160]
        assert len(cheap) == 4
        found = proposer_of(Script(), limits=limits).next([known(levels) for levels in cheap[1:]])
        assert found is not None
        assert found.placement == SPACE.placement(cheap[0])
        assert bool(draws) is not listed
        draws.clear()
        script = Script()
        assert proposer_of(script, limits=limits).next([known(levels) for levels in cheap]) is None
        assert (len(draws), script.asks) == ((0, 0) if listed else (200, 1))


class TestReferences:
    def test_are_enqueued_first_unless_they_are_known_or_wait_already(self) -> None:
        script = Script()
        proposer = proposer_of(script)
        baseline, reference = SPACE.find(SPACE.baseline), SPACE.find(SPACE.reference)
        proposer.begin([])
        proposer.begin([])
        assert script.queue == [(baseline, "baseline"), (reference, "reference")]
        script.queue.clear()
        proposer.begin([trial(SPACE.baseline, **result_of())])
        assert script.queue == [(reference, "reference")]

    def test_the_network_as_given_is_one_where_it_had_se(self) -> None:
        own = (unit("a", existing="a.se"), unit("b", "stage2", 32))
        space, script = Space(read_space({"reductions": ["none", 16]}), own), Script()
        costs = SimpleNamespace(over_limit=lambda *_: None)
        proposer_of(script, space, costs=costs).begin([])
        assert [role for _, role in script.queue] == ["baseline", "reference", "given"]
        assert space.placement(script.queue[2][0]).key == space.given.key


class TestRetry:
    @pytest.mark.parametrize(("failures", "again"), [(1, True), (ATTEMPTS - 1, True), (ATTEMPTS, False), (9, False)])
    def test_is_for_those_that_were_not_tried_too_often(self, failures: int, again: bool) -> None:
        script = Script()
        failed = replace(known(LEVELS[5], "failed", "no"), role="reference")
        script.told = [failed] * failures + [known(LEVELS[4], "failed", "no")] * 9
        proposer_of(script).retry(failed)
        assert script.queue == ([(LEVELS[5], "reference")] if again else [])

    def test_is_not_for_a_network_that_the_space_does_not_have(self) -> None:
        script = Script()
        strange = SPACE.parse("all:2")
        proposer_of(script).retry(trial(strange, **result_of("failed", reason="no")))
        assert script.queue == []


def test_the_end_in_words() -> None:
    assert (
        proposer_of(Script()).nothing_left(5) == "the space is exhausted: all 5 placements that it allows are trained"
    )


def test_draws_begin_anew_with_every_trial_of_the_study() -> None:
    """A resumed search does not draw what it has drawn, and the same study draws the same."""

    def drawn(trials: int, seed: int = 0) -> list[str]:
        found = []
        script = Script()
        script.told = [known(LEVELS[0])] * trials
        proposer = proposer_of(script, seed=seed)
        for _ in range(12):
            one = proposer.next([])
            assert one is not None
            found.append(one.placement.key)
        return found

    assert drawn(3) == drawn(3)
    assert drawn(3) != drawn(4)
    assert drawn(3) != drawn(3, seed=1)
