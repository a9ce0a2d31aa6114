"""Networks that have SE already: cost, references and search of each way in which people write it."""

from __future__ import annotations

from pathlib import Path

import networks
import pytest
from helpers import tiny, write_npz

from se_nas.commands.search import search
from se_nas.core.trial import Target
from se_nas.space.exact_cost import CostModel, cost
from se_nas.space.search_space import SearchSpace, insert_se

SHAPE = (3, 8, 8)
WAYS = ("expand", "gate", "inline")


def excited(way: str = "gate") -> object:
    return networks.excited(way)


@pytest.mark.parametrize("way", WAYS)
def test_closed_form_equals_a_full_trace_of_every_placement(way: str) -> None:
    model = networks.excited(way)
    raw = {"decide": "unit", "reductions": ["none", 4, "keep"]}
    space = SearchSpace.from_model(model, input_shape=SHAPE, space=raw)
    costs = CostModel(model, space.units, SHAPE)
    placements = list(space.placements())
    assert len(placements) == 9
    for placement in placements:
        candidate = insert_se(model, placement, input_shape=SHAPE)
        assert costs(placement) == cost(candidate, input_shape=SHAPE), placement.label
    assert costs(space.given) == cost(model, input_shape=SHAPE)
    assert costs(space.baseline).params < costs(space.given).params


@pytest.mark.parametrize("way", WAYS)
def test_the_network_as_given_is_a_reference_point(tmp_path: Path, way: str) -> None:
    data = Target(target=f"npz:{write_npz(tmp_path / 'data.npz')}")
    backbone = Target(target=f"{__file__}:excited", args={"way": way})
    result = search(tiny(tmp_path, backbone=backbone, data=data, space="stagewise", budget=3))
    assert list(result.trials["role"]) == ["baseline", "reference", "given"]
    assert (result.trials["state"] == "complete").all()
    assert result.summary.references["given"].placement == "all:keep"
    assert result.trials["params"].nunique() == 3
