"""The placements of a network and the networks of placements, for use in anybody's Optuna study."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from optuna.distributions import BaseDistribution
from torch import nn

from se_nas.core.errors import SpaceError
from se_nas.core.placement import Placement, Unit
from se_nas.insertion.discover import find_units, units_of
from se_nas.insertion.insert import insert_choices
from se_nas.space.levels import distributions
from se_nas.space.space import Space
from se_nas.space.spec import Reduction, read_space


class SearchSpace(Space):
    """The placements of a network, for use in your own Optuna study."""

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
            A built-in name, a YAML file, or a mapping with the content of such a file.
        """
        spec = read_space(space)
        return cls(spec, units_of(model, input_shape, spec.units))

    def suggest(self, trial: Any) -> Placement:
        """The placement that a trial proposes, with one ``suggest_int`` for each parameter.

        The value of a parameter is the index of a level in `parameters`, counting only the levels that may be proposed.
        These are all levels, unless the space leaves out `none` or the reduction of the reference placement (16).
        """
        params = {name: trial.suggest_int(name, 0, len(self.searched(name)) - 1) for name in self.parameters}
        return self.from_params(params)

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """What `suggest` draws from, for samplers that need the space, and for ``study.ask(distributions)``."""
        return distributions({name: self.searched(name) for name in self.parameters})

    def from_params(self, params: Mapping[str, Any]) -> Placement:
        """The placement of the parameters of a trial; parameters that do not belong to this space are ignored.

        SpaceError if one is missing or out of range.
        """
        levels = {}
        for name in self.parameters:
            allowed = self.searched(name)
            if (value := params.get(name)) not in range(len(allowed)):
                raise SpaceError(f"parameter {name!r} is {value!r}", allowed=[f"0 to {len(allowed) - 1}"])
            levels[name] = allowed[int(params[name])]
        return self.placement(levels)


def insert(
    model: nn.Module,
    placement: Placement | str | Mapping[str, Reduction],
    *,
    input_shape: tuple[int, ...] = (3, 224, 224),
    units: tuple[Unit, ...] | None = None,
    seed: int = 0,
    blocks: Sequence[str | Mapping[str, Any]] = (),
) -> nn.Module:
    """A copy of a network with the blocks of a placement; the network itself is not changed.

    >>> from se_nas.backbones.resnet import resnet
    >>> network = insert(resnet(depth=8), "layer3=16", input_shape=(3, 32, 32))
    >>> [name for name, _ in network.named_modules() if name.endswith("se_block")]
    ['layer3.0.bn2.se_block']

    Parameters
    ----------
    placement:
        A placement; text such as ``all:16``, ``layer3=16,layer4=8`` or ``layer3=eca,layer4=8:cbam`` with names of
        stages, units or modules that contain units, as `Space.parse` reads it; or a mapping of such names to
        reductions. Units that are not named get no block.
    input_shape:
        (channels, *size) of one image, used to find the sites.
    units:
        The units of the space of the placement, if that space names them itself.
    seed:
        Seed of the blocks' weights.
    blocks:
        Blocks of your own that the text may name, as a search space has them: ``["my_block.py:Mine"]``.

    Raises
    ------
    SpaceError
        If the placement belongs to another backbone, or its text cannot be read.
    """
    units = units or find_units(model, input_shape)
    if isinstance(placement, Mapping):
        placement = ",".join(f"{name}={reduction}" for name, reduction in placement.items()) or "none"
    if isinstance(placement, str):
        # A reduction that fits every width: what is searched does not limit what is given by hand.
        placement = Space(read_space({"reductions": ["none", 1], "blocks": ["se", *blocks]}), units).parse(placement)
    candidate = copy.deepcopy(model)
    insert_choices(candidate, units, placement.choices, seed=seed)
    return candidate


insert_se = insert
"""The earlier name, from before there were other blocks."""
