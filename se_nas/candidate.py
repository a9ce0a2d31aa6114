"""Candidates: backbone + placement -> network."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import nn

from se_nas.backbones import build_backbone
from se_nas.patterns import units_of
from se_nas.records import Placement, Target, Unit
from se_nas.se import insert_choices
from se_nas.sites import find_units
from se_nas.space import Space
from se_nas.space_file import read_space


def build_candidate(
    backbone: Target,
    units: tuple[Unit, ...],
    placement: Placement,
    *,
    num_classes: int | None,
    input_shape: tuple[int, ...],
    seed: int,
) -> nn.Module:
    """The network of a placement, in train mode.

    The same seed gives every candidate the same backbone weights: each SE block has its own random stream.
    """
    model = build_backbone(backbone, num_classes=num_classes, input_shape=input_shape, seed=seed)
    insert_choices(model, units, placement.choices, seed=seed)
    return model


def insert_se(
    model: nn.Module,
    placement: Placement,
    *,
    input_shape: tuple[int, ...] = (3, 224, 224),
    units: tuple[Unit, ...] | None = None,
    seed: int = 0,
) -> nn.Module:
    """A copy of a network with the SE blocks of a placement; the network itself is left alone.

    Parameters
    ----------
    input_shape:
        (channels, *size) of one image, for finding the sites.
    units:
        The units of the space that the placement is of, where that names them by hand.
    seed:
        Of the blocks' weights.

    Raises
    ------
    SpaceError
        If the placement is of another backbone.
    """
    candidate = copy.deepcopy(model)
    insert_choices(candidate, units or find_units(model, input_shape), placement.choices, seed=seed)
    return candidate


class SearchSpace(Space):
    """The placements of a network, for use in anybody's Optuna study."""

    @classmethod
    def from_model(
        cls,
        model: nn.Module,
        *,
        input_shape: tuple[int, ...] = (3, 224, 224),
        space: str | Mapping[str, Any] = "stagewise",
    ) -> SearchSpace:
        """The space of a network.

        Parameters
        ----------
        input_shape:
            (channels, *size) of one image.
        space:
            A built-in name, a YAML file, or the mapping that such a file holds.
        """
        spec = read_space(space)
        return cls(spec, units_of(model, input_shape, spec))

    def suggest(self, trial: Any) -> Placement:
        """The placement that a trial proposes, by one ``suggest_int`` for each parameter.

        Levels that only the reference placement uses are not offered.
        """
        levels = {}
        for name in self.parameters:
            allowed = self.searched(name)
            levels[name] = allowed[trial.suggest_int(name, 0, len(allowed) - 1)]
        return self.placement(levels)
