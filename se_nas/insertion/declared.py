"""Units that are named by module paths, whether by the network itself or by hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from se_nas.core.errors import BackboneError, did_you_mean
from se_nas.core.placement import POSITIONS, Site, Unit
from se_nas.insertion.anchors import Anchor
from se_nas.insertion.graph import Graph
from se_nas.insertion.rewrite import walks_children


def checked(declared: Any) -> dict[str, dict[str, str]]:
    """Unit -> {position: path} from what `se_units` returned; BackboneError if it is something else."""
    if not isinstance(declared, Mapping) or not declared:
        raise BackboneError("se_units() must return a non-empty mapping of unit names to module paths")
    units = {}
    for unit, sites in declared.items():
        sites = dict(sites) if isinstance(sites, Mapping) else {"standard": sites}
        for position, path in sites.items():
            if position not in POSITIONS or not isinstance(path, str):
                raise BackboneError(
                    f"se_units() gives unit {unit!r} the site {position!r}: {path!r}", allowed=POSITIONS
                )
        units[str(unit)] = sites
    return units


def declared_units(model: nn.Module, graph: Graph, declared: Mapping[str, Mapping[str, str]]) -> list[Unit]:
    """Units from unit -> {position: path}, in running order, without stages.

    BackboneError if a module is not there, does not run, or has no tensor of (batch, channels, *size) there.
    """
    modules = dict(model.named_modules())
    order: dict[str, int] = {}
    units = []
    for name, paths in declared.items():
        sites = []
        for position, path in sorted(paths.items(), key=lambda item: POSITIONS.index(item[0])):
            module, _, edge = path.partition(":")
            if module not in modules:
                raise BackboneError(
                    f"unit {name!r} names module {module!r}, which the network does not have",
                    hint=did_you_mean(module, modules),
                )
            anchor = _inside(modules, graph, Anchor(module, "input" if edge == "input" else "output"), name)
            index, site = _edge_site(graph, name, position, anchor)
            order.setdefault(name, index)
            sites.append(site)
        units.append(Unit(name=name, stage="", sites=tuple(sites)))
    return sorted(units, key=lambda unit: order[unit.name])


def _inside(modules: Mapping[str, nn.Module], graph: Graph, anchor: Anchor, unit: str) -> Anchor:
    """The same edge of a child, for a module that would run through an SE block among its children."""
    module = modules[anchor.module]
    if not walks_children(module):
        return anchor
    children = list(module._modules)
    if type(module).forward is nn.Sequential.forward and children:
        child = f"{anchor.module}.{children[0 if anchor.edge == 'input' else -1]}".lstrip(".")
        if child in modules and graph.executions[child, ""] == graph.executions[anchor.module, ""]:
            return _inside(modules, graph, replace(anchor, module=child), unit)
    raise BackboneError(
        f"module {anchor.module!r} runs through its children, so that no SE block can be put into it",
        where=f"unit {unit}",
        hint="name the module inside it that gives the tensor, or the one around it",
    )


def _edge_site(graph: Graph, unit: str, position: str, anchor: Anchor) -> tuple[int, Site]:
    """Running order and site of a module's edge; BackboneError if no tensor of (batch, channels, *size) is there."""
    name = "enter" if anchor.edge == "input" else "exit"
    boundaries = [
        node
        for node in graph.nodes
        if node.name == name and node.plain and graph.calls[node.call].path == anchor.module
    ]
    shapes = {graph.shapes[node.inputs[0]] for node in boundaries}
    shape = next(iter(shapes), ())
    if len(shapes) != 1 or len(shape) < 3:
        given = f": its {anchor.edge} has shape {' and '.join(map(str, sorted(shapes)))}" if shapes else ""
        raise BackboneError(
            f"module {anchor.module!r} did not run, or gave no tensor of shape (batch, channels, *size){given}",
            where=f"unit {unit}",
        )
    return boundaries[0].index, anchor.site(unit, position, shape, len(boundaries))
