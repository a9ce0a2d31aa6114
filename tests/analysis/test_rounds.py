"""What a round decides: whether it is enough, and whom more seeds are of use for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from se_nas.analysis.confirmation import Confirmed
from se_nas.analysis.judge import estimate, judge
from se_nas.analysis.looks import Looks
from se_nas.analysis.rounds import Round, judge_round
from se_nas.core.placement import Placement

LOOKS = Looks(last=20)
ROLES = ("baseline", "reference", "finalist", "finalist")


def networks_of(table: np.ndarray, planned: tuple[int, ...]) -> list[Confirmed]:
    return [
        Confirmed(
            key=str(row), label="", placement=Placement(choices={}, label=""), role=ROLES[row],
            stopped_after=k if k < max(planned) else None,
            validation=estimate(dict(enumerate(table[row, :k].mean(axis=1)))),
        )
        for row, k in enumerate(planned)
    ]  # fmt: skip


def scores_of(table: np.ndarray, planned: tuple[int, ...]) -> dict[str, dict[int, np.ndarray]]:
    return {str(row): dict(enumerate(table[row, :k])) for row, k in enumerate(planned)}


def table_of(*gains: float, sd: float = 0.3, images: float = 0.02, seed: int = 0) -> np.ndarray:
    """Points, 20 seeds, 50 images."""
    rng = np.random.default_rng(seed)
    n = len(gains)
    by_image = images * np.sqrt(50) * rng.normal(size=(n, 1, 50))
    return np.asarray(np.reshape(gains, (n, 1, 1)) + sd * rng.normal(size=(n, 20, 1)) + by_image)


def judged(table: np.ndarray, *planned: int, margin: float = 0.3, direction: str = "maximize") -> Round:
    return judge_round(
        networks_of(table, planned), scores_of(table, planned), direction,  # type: ignore[arg-type]
        looks=LOOKS, seeds=max(planned), margin=margin,
    )  # fmt: skip


def test_a_gain_that_is_plain_is_enough() -> None:
    found = judged(table_of(0, 0, 5, 0), 4, 4, 4, 4)
    assert found.chance > 0.99
    assert "the test set decides with 100 %" in found.end


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_a_loss_is_judged_by_its_own_direction(direction: str) -> None:
    sign = 1 if direction == "maximize" else -1
    assert judged(sign * table_of(0, 0, 5, 0), 4, 4, 4, 4, direction=direction).chance > 0.99
    worse = judged(-sign * table_of(0, 5, 5, 5), 6, 6, 6, 6, direction=direction)
    assert worse.chance > 0.99, "all are far below the margin: not worth it"


def test_who_lies_behind_waits_while_the_best_may_be_shown_better() -> None:
    found = judged(table_of(0, -1.5, 0.5, -1.5, sd=0.4, seed=2), 4, 4, 4, 4)
    assert found.end == ""
    assert found.train == ("2",)


def test_who_is_settled_waits_while_nothing_helps() -> None:
    """The third network is far below the margin; the others may still gain it."""
    found = judged(table_of(0, 0.05, 0, -4, sd=0.25, seed=3), 9, 9, 9, 9)
    assert found.end == ""
    assert "3" not in found.train
    assert {"1", "2"} & set(found.train)


def test_who_waited_may_come_back() -> None:
    table = table_of(0, 0, 0.8, 0, seed=1)
    table[2, 4:] -= 2.0  # what led after four seeds falls behind
    assert judged(table, 4, 4, 4, 4).train == ("2",)
    after = judged(table, 13, 4, 13, 4)
    assert {"1", "3"} & set(after.train)


def test_images_alone_may_leave_it_undecided() -> None:
    """With hardly any noise of seeds, more of them say nothing more."""
    found = judged(table_of(0, 0.1, 0.15, 0.1, sd=0.01, images=0.5), 9, 9, 9, 9)
    assert found.chance < 0.5
    assert "more seeds hardly make a decision by the test set more probable" in found.end


def test_the_last_look_ends_it() -> None:
    found = judged(table_of(0, 0.2, 0.25, 0.2, sd=0.6), 20, 20, 20, 20)
    assert found.end
    assert judged(table_of(0, 0.2, 0.25, 0.2, sd=0.6), 6, 6, 6, 6).end == ""


def test_without_the_backbone_nothing_is_known_and_all_go_on() -> None:
    table = table_of(0, 1, 2, 3)
    networks, scores = networks_of(table, (3,) * 4)[1:], scores_of(table, (3,) * 4)
    found = judge_round(networks, {k: scores[k] for k in "123"}, "maximize", looks=LOOKS, seeds=3, margin=0.3)
    assert (found.chance, found.train, found.end) == (0.0, ("1", "2", "3"), "")
    last = judge_round([], {}, "maximize", looks=LOOKS, seeds=20, margin=0.3)
    assert last.end == "20 seeds are the most that may be trained"


def test_a_network_that_stopped_is_compared_by_its_own_seeds() -> None:
    table = table_of(0, 0.2, 0.6, 0.1)
    planned = (9, 4, 9, 4)
    found = judge(networks_of(table, planned), scores_of(table, planned), "maximize", LOOKS)
    for row, k in enumerate(planned[1:], 1):
        network = next(n for n in found.networks if n.key == str(row))
        mean = table[row, :k].mean() - table[0, :k].mean()
        assert network.against["baseline"].mean == pytest.approx(mean)
        assert network.test is not None
        assert len(network.test.values) == k
    last = next(n for n in found.networks if n.key == "3").against["reference"]
    assert last.mean == pytest.approx(table[3, :4].mean() - table[1, :4].mean())
    assert found.family == ("1", "2", "3")
    assert found.winner == "2"


def test_the_winner_is_chosen_by_the_seeds_that_it_shares_with_the_backbone() -> None:
    """A network that stopped early, when the seeds were kind to all, does not win by that."""
    table = table_of(0, 0, 0.5, 0.3, sd=0.05)
    table[:, :3] += 3.0
    planned = (13, 3, 13, 3)
    found = judge(networks_of(table, planned), scores_of(table, planned), "maximize", LOOKS)
    assert found.winner == "2"


@pytest.mark.parametrize("seed", range(60))
def test_whatever_fails_a_judgement_is_made(seed: int) -> None:
    """Trainings that fail leave holes anywhere; what has no partner is left out, and nothing is raised."""
    rng = np.random.default_rng(seed)
    planned = tuple(int(k) for k in rng.choice([3, 6, 9], 4))
    planned = (max(planned), *planned[1:])
    scores = scores_of(table_of(0, 0.2, 0.6, 0.1, seed=seed), planned)
    holes = rng.random() * 0.9
    scores = {key: {s: v for s, v in own.items() if rng.random() > holes} for key, own in scores.items()}
    networks = [
        replace(n, validation=estimate({s: float(v.mean()) for s, v in scores[n.key].items()}))
        for n in networks_of(table_of(0, 0.2, 0.6, 0.1, seed=seed), planned)
        if scores[n.key]
    ]
    found = judge(networks, scores, "maximize", LOOKS)
    for network in found.networks:
        for role, difference in network.against.items():
            assert np.isfinite(difference.mean)
            assert difference.family_interval is None or role in ("baseline", "reference")
    round_ = judge_round(networks, scores, "maximize", looks=LOOKS, seeds=max(planned), margin=0.3)
    assert 0 <= round_.chance <= 1
