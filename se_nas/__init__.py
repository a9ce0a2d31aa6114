"""se-nas: where to put Squeeze-and-Excitation blocks in a CNN, and what they cost."""

from __future__ import annotations

import importlib
import sys
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from se_nas.candidate import SearchSpace, insert_se
    from se_nas.config import SearchConfig
    from se_nas.confirm import confirm
    from se_nas.cost import cost
    from se_nas.export import load
    from se_nas.front import recommend_front
    from se_nas.samplers.known_cost import KnownCostSampler
    from se_nas.search import search

__all__ = [
    "KnownCostSampler",
    "SearchConfig",
    "SearchSpace",
    "confirm",
    "cost",
    "insert_se",
    "load",
    "recommend_front",
    "search",
]

_HOME = {
    "KnownCostSampler": "samplers.known_cost",
    "SearchConfig": "config",
    "SearchSpace": "candidate",
    "confirm": "confirm",
    "insert_se": "candidate",
    "cost": "cost",
    "load": "export",
    "recommend_front": "front",
    "search": "search",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is asked for: torch and Lightning take seconds."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"se_nas.{_HOME[name]}"), name)


class _Package(types.ModuleType):
    """Keeps the functions `confirm`, `cost` and `search` from being hidden by modules of these names once imported."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOME and isinstance(value, types.ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
