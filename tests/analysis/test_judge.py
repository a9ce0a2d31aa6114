"""From scores to what can be said of networks: what is compared, and what is left open."""

from __future__ import annotations

import numpy as np
import pytest
from test_decisions import difference_of, networks_of, scores_of

from se_nas.analysis.judge import judge


def test_no_se_alone_has_no_winner_and_nothing_to_beat() -> None:
    judged = judge(networks_of(0.5), scores_of(0.5), "maximize")
    assert (judged.winner, judged.family, judged.noise) == (None, (), None)
    assert judged.networks[0].against == {}
    assert judge([], {}, "maximize").networks == ()


def test_without_scores_of_no_se_nothing_is_compared_and_the_seeds_still_tell_their_noise() -> None:
    scores = scores_of(0.5, 0.6, 0.7)
    judged = judge(networks_of(0.5, 0.6, 0.7), {key: scores[key] for key in ("1", "2")}, "maximize")
    assert judged.family == ("1", "2")
    assert all(not n.against for n in judged.networks)
    assert judged.noise is not None
    values = np.array([[by_image.mean() for by_image in scores[key].values()] for key in ("1", "2")])
    assert judged.noise.seed_sd == pytest.approx(np.sqrt(values.var(axis=1, ddof=1).mean()))
    assert judged.noise.image_sd == 0.0


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_a_bare_difference_has_the_sign_of_the_metric_and_no_interval(direction: str) -> None:
    """One seed tells a difference and no noise, against both reference points."""
    names = networks_of(0.6, 0.6, 0.6, roles=("baseline", "reference"))
    judged = judge(names, scores_of(0.5, 0.7, 0.8, seeds=1), direction)  # type: ignore[arg-type]
    assert difference_of(judged, "1").mean == pytest.approx(0.2)
    assert difference_of(judged, "2").mean == pytest.approx(0.3)
    assert difference_of(judged, "2", "reference").mean == pytest.approx(0.1)
    for network in judged.networks:
        assert set(network.against) == {"0": set(), "1": {"baseline"}, "2": {"baseline", "reference"}}[network.key]
        for difference in network.against.values():
            assert (difference.interval, difference.family_interval, difference.p) == (None, None, None)
            assert not difference.beats
