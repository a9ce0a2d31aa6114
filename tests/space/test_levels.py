"""Levels of Optuna spaces and their meaning."""

from __future__ import annotations

import numpy as np
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from se_nas.core.errors import SpaceError
from se_nas.samplers.features import Features
from se_nas.space.levels import LevelSpace

SPACE: dict[str, BaseDistribution] = {
    "a": IntDistribution(0, 3),
    "b": CategoricalDistribution((None, 16, 8)),
    "c": CategoricalDistribution(("standard", "pre")),
    "d": FloatDistribution(0.0, 1.0, step=0.5),
}


def test_encode_and_decode_are_inverse_on_the_whole_space() -> None:
    space = LevelSpace.of(SPACE)
    assert space.size == 4 * 3 * 2 * 3 == len(space.all())
    for row in space.all():
        assert space.encode(space.decode(row)) == tuple(row)


def test_meaning_of_levels() -> None:
    space = LevelSpace.of(SPACE, {"a": (None, 16, 8, 4)})
    assert space.meanings[0] == (None, 16.0, 8.0, 4.0)
    assert space.meanings[1] == (None, 16.0, 8.0)
    assert space.meanings[2] == ("standard", "pre")
    assert LevelSpace.of(SPACE).meanings[0][:2] == (None, 0.5)


@pytest.mark.parametrize("params", [{}, {"a": 9, "b": None, "c": "pre", "d": 0.5}])
def test_a_placement_outside_the_space_has_no_codes(params: dict[str, object]) -> None:
    assert LevelSpace.of(SPACE).encode(params) is None


def test_neighbours_change_one_parameter() -> None:
    space = LevelSpace.of(SPACE)
    rows = space.neighbours(np.zeros((1, 4), dtype=np.int64))
    assert len(rows) == 3 + 2 + 1 + 2
    assert ((rows != 0).sum(axis=1) == 1).all()


@pytest.mark.parametrize(
    ("space", "levels", "message"),
    [
        ({}, None, "no parameter"),
        ({"x": FloatDistribution(0, 1)}, None, "continuous"),
        ({"x": IntDistribution(0, 2)}, (None, 8), "must have 3 entries"),
        ({"x": IntDistribution(0, 2)}, (None, 8, -4), "cannot be negative"),
        ({"x": IntDistribution(0, 2)}, {"y": (None, 8, 4)}, "which the space does not have"),
    ],
)
def test_mistakes_are_named(space: dict[str, BaseDistribution], levels: object, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        LevelSpace.of(space, levels)  # type: ignore[arg-type]


def test_features_are_as_many_as_their_groups_and_scales() -> None:
    features = Features(LevelSpace.of(SPACE).meanings)
    assert features(LevelSpace.of(SPACE).all()).shape == (72, len(features.group))
    assert len(features.scale) == len(features.group)


def test_width_effects_are_smooth_in_log_reduction() -> None:
    features = Features([(None, 32.0, 16.0, 8.0, 4.0)])
    phi = features(np.arange(5)[:, None]) * features.scale
    width = phi[:, features.group == 2]
    distance = np.linalg.norm(width[1:, None] - width[None, 1:], axis=2)
    assert (np.diff(distance[0]) > 0).all()
    steps = np.diag(distance, 1)
    assert np.ptp(steps) < 0.3 * steps.max()
