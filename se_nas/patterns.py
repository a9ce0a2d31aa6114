"""Units that a search space names by patterns of module paths."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import nn

from se_nas.declared import declared_units
from se_nas.errors import BackboneError, SpaceError
from se_nas.graph import Graph
from se_nas.recorder import record
from se_nas.records import Unit
from se_nas.sites import find_units
from se_nas.space_file import SpaceSpec

Shape = tuple[int, ...]


def units_of(model: nn.Module, input_shape: Shape, spec: SpaceSpec) -> tuple[Unit, ...]:
    """The units that a search space names; those that are found, where it names none."""
    return select_units(model, input_shape, spec.units) if spec.units else find_units(model, input_shape)


def select_units(model: nn.Module, input_shape: Shape, stages: Mapping[str, str | Sequence[str]]) -> tuple[Unit, ...]:
    """The units that patterns name, in running order, with the stages that they are listed under.

    A pattern is matched part by part against dotted paths: ``layer[1-4].*.bn3`` stands for ``layer1.0.bn3`` but not for
    ``layer1.0.body.bn3``; ``**`` stands for any number of parts. It may match the name of a unit that `find_units`
    finds, or the module of its standard site, which gives that unit with all its positions; any other module that it
    matches is a unit whose output (with ``:input`` at the end: whose first input) is rescaled.

    Raises
    ------
    SpaceError
        If a pattern matches nothing (the nearest paths are shown), or two stages name one unit.
    """
    graph = record(model, input_shape)
    try:
        known = {unit.name: unit for unit in find_units(model, input_shape)}
    except BackboneError:
        known = {}
    by_module = {unit.sites[0].module: unit for unit in known.values() if unit.sites[0].edge != "expression"}
    paths = [path for path, _ in model.named_modules() if path and graph.executions[path, ""]]
    chosen: dict[str, Unit] = {}
    for stage, patterns in stages.items():
        for pattern in [patterns] if isinstance(patterns, str) else patterns:
            for unit in _matching(model, graph, pattern, known, by_module, paths):
                if chosen.setdefault(unit.name, replace(unit, stage=stage)).stage != stage:
                    raise SpaceError(f"unit {unit.name!r} is named by stage {chosen[unit.name].stage!r} and {stage!r}")
    return tuple(sorted(chosen.values(), key=lambda unit: _order(graph, unit)))


def _matching(
    model: nn.Module,
    graph: Graph,
    pattern: str,
    known: Mapping[str, Unit],
    by_module: Mapping[str, Unit],
    paths: Sequence[str],
) -> list[Unit]:
    wanted, _, edge = pattern.partition(":")
    if edge not in ("", "input"):
        raise SpaceError(f"pattern {pattern!r} ends with {edge!r}", allowed=["nothing", ":input"])
    if not edge and (units := [unit for name, unit in known.items() if _matches(name, wanted)]):
        return units
    found = []
    for path in paths:
        if _matches(path, wanted):
            if not edge and path in by_module:
                found.append(by_module[path])
            else:
                suffix = ":input" if edge else ""
                found += declared_units(model, graph, {path: {"standard": path + suffix}})
    if not found:
        near = _nearest_paths(wanted, [*known, *paths])
        raise SpaceError(
            f"pattern {pattern!r} matches no module of the network", hint=f"the nearest are: {', '.join(near)}"
        )
    return found


def _matches(path: str, pattern: str) -> bool:
    def match(parts: list[str], wanted: list[str]) -> bool:
        if not wanted:
            return not parts
        if wanted[0] == "**":
            return any(match(parts[i:], wanted[1:]) for i in range(len(parts) + 1))
        return bool(parts) and fnmatch.fnmatchcase(parts[0], wanted[0]) and match(parts[1:], wanted[1:])

    return match(path.split("."), pattern.split("."))


def _nearest_paths(pattern: str, paths: Sequence[str]) -> list[str]:
    return difflib.get_close_matches(pattern, list(dict.fromkeys(paths)), n=4, cutoff=0.0)


def _order(graph: Graph, unit: Unit) -> int:
    site = unit.sites[0]
    return next((call.index for call in graph.calls if call.path == site.module), 0)
