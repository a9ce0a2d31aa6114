"""Where SE blocks may sit in a network: its units and their sites, with channels and spatial sizes."""

from __future__ import annotations

import difflib
import fnmatch
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import nn

from se_nas.core.errors import BackboneError, SpaceError
from se_nas.core.placement import POSITIONS, Site, Unit
from se_nas.insertion.anchors import Anchors
from se_nas.insertion.declared import checked, declared_units
from se_nas.insertion.existing import Existing
from se_nas.insertion.family import WHY
from se_nas.insertion.flow import Carrier, Flow
from se_nas.insertion.graph import Graph, Shape
from se_nas.insertion.recorder import record
from se_nas.insertion.rules import find_carriers

LEAST_CHANNELS = 4
"""The smallest reduction of the built-in spaces: with fewer channels nothing would be left."""


@dataclass(frozen=True, kw_only=True)
class Survey:
    """The units of a network, and the parts that could be one but for a reason."""

    units: tuple[Unit, ...]
    skipped: tuple[tuple[str, str], ...] = ()
    """Name and reason."""


def find_units(model: nn.Module, input_shape: Shape) -> tuple[Unit, ...]:
    """The units of a network, in the order in which they run.

    A network may name them itself: ``se_units(model)`` returns unit -> path of the module whose output is
    rescaled, or unit -> {position: path}; a path that ends in ``:input`` means the first input of that module.
    Otherwise they are found by the rules of the SE paper (see `se_nas.insertion.rules`).

    Stages are units of equal spatial size, named ``stage1``, ``stage2``, ... in running order.

    Parameters
    ----------
    input_shape:
        (channels, *size) of one image.

    Raises
    ------
    BackboneError
        If the network fails on the input, there are no units, or a declared module is not there, does not run or gives
        no (batch, channels, *size).
    """
    return survey(model, input_shape).units


def survey(model: nn.Module, input_shape: Shape) -> Survey:
    """The units of a network and what was skipped; see `find_units`."""
    return _survey(model, record(model, input_shape), input_shape)


def _survey(model: nn.Module, graph: Graph, input_shape: Shape) -> Survey:
    declare = getattr(model, "se_units", None)
    if declare is not None:
        return Survey(units=_staged(declared_units(model, graph, checked(declare()))))
    found = _Search(graph, Anchors(model, graph, input_shape)).result()
    if found.units:
        return found
    raise BackboneError(
        f"{type(model).__name__} has no place for an SE block that se-nas can find" + _reasons(graph, found.skipped),
        hint="give it a method se_units() that returns {unit name: path of the module whose output is rescaled}, "
        "or name the modules in the search space",
    )


def _reasons(graph: Graph, skipped: Sequence[tuple[str, str]]) -> str:
    if skipped:
        return ": " + "; ".join(f"{name}: {reason}" for name, reason in skipped[:3])
    if not any(node.is_convolution for node in graph.operations):
        return ": it has no convolution"
    return ": no residual block, Inception-like module, depthwise-separable or activated convolution"


def _staged(units: Sequence[Unit]) -> tuple[Unit, ...]:
    """The units with stages by spatial size, in the order given."""
    stages: dict[Shape, str] = {}
    return tuple(
        replace(unit, stage=stages.setdefault(unit.sites[0].size, f"stage{len(stages) + 1}")) for unit in units
    )


# Found by the rules


Spot = tuple[str, str, str]
"""Module, edge and place: the code of a site."""


def _spot(site: Site) -> Spot:
    return site.module, site.edge, site.place


class _Search:
    """Units from what the rules find, and from the SE blocks that the network has already."""

    def __init__(self, graph: Graph, anchors: Anchors) -> None:
        self.graph, self.anchors, self.flow = graph, anchors, Flow(graph)
        self.skipped: list[tuple[str, str]] = []
        self.units: list[tuple[int, Unit]] = []
        """With the node that ends each, which is their running order."""
        self.runs: dict[Spot, list[Site]] = {}
        """The sites of one code, which may run several times."""
        self.taken: set[int] = set()
        """Nodes of SE blocks of the network that belong to a unit."""

    def result(self) -> Survey:
        carriers = find_carriers(self.flow)
        for carrier, name in zip(carriers, _names(self.graph, carriers), strict=True):
            if inside := self.flow.blocks(carrier.region):
                blocks = [block for block in inside if block.node not in self.taken]
                if blocks:  # else it is another run of a unit that is there
                    self._take(blocks[0], carrier.join, self._with_block(carrier, name, blocks[0]))
            else:
                self._add(carrier, name)
        self.units = [(index, unit) for index, given in self.units if (unit := self._alike(given)) is not None]
        for block in self.flow.existing.values():
            if block.node not in self.taken:
                sites = (self._block_site(block.path, block),)
                self._take(
                    block, block.node, Unit(name=block.path, stage="", sites=sites, kind="se", existing=block.path)
                )
        units = [unit for _, unit in sorted(self.units, key=lambda item: item[0])]
        return Survey(units=_staged(units), skipped=tuple(self.skipped))

    def _add(self, carrier: Carrier, name: str) -> None:
        """A unit without an SE block, unless it is another run of one that is there."""
        sites = self._sites(carrier, name)
        if not sites or sites[0].position != "standard":
            reason = "its tensor is neither given nor taken by a module, nor a plain expression in a method"
        elif sites[0].channels < LEAST_CHANNELS:
            reason = f"{sites[0].channels} channels are too few to squeeze"
        else:
            runs = self.runs.setdefault(_spot(sites[0]), [])
            runs.append(sites[0])
            if len(runs) == 1:
                self.units.append((carrier.join, _unit(name, sites, carrier)))
            return
        self.skipped.append((name, reason))

    def _take(self, block: Existing, index: int, unit: Unit) -> None:
        """A unit with an SE block, whose module may run several times."""
        self.units.append((index, unit))
        self.taken.add(block.node)
        if block.kind != "inline":
            same = (block.path, block.kind)
            self.taken |= {other.node for other in self.flow.existing.values() if (other.path, other.kind) == same}

    def _sites(self, carrier: Carrier, name: str) -> list[Site]:
        sites = []
        for position in POSITIONS:
            for tap in carrier.taps.get(position, ()):
                anchor = self.anchors.find(tap)
                shape = self.flow.shape(tap.value)
                if anchor is not None and position == "pre" and anchor.edge != "input" and "#" not in anchor.place:
                    continue  # it would be the end of the unit before
                if anchor is not None and 3 <= len(shape) <= 5 and tap.value not in self.flow.pooled:
                    site = anchor.site(name, position, shape, self.anchors.executions(anchor))
                    sites.append(_squeezed(site, carrier))
                    break
        return sites

    def _alike(self, unit: Unit) -> Unit | None:
        """Code that runs several times is one unit, if all its runs are sites of one size; else it is skipped."""
        if unit.existing is not None:
            return unit
        site = unit.sites[0]
        runs = self.runs[_spot(site)]
        if len(runs) != site.uses or len({(run.channels, run.size) for run in runs}) > 1:
            reason = f"its code in module {site.module!r} runs {site.uses} times, not always alike"
            self.skipped.append((unit.name, reason))
            return None
        sites = tuple(s for s in unit.sites if s.uses == site.uses)
        kept = any(s.position == unit.position for s in sites)
        return replace(unit, sites=sites) if kept else replace(unit, sites=sites, default=None, why=None)

    def _with_block(self, carrier: Carrier, name: str, block: Existing) -> Unit:
        """A unit whose SE block is in the network already; its standard site is the place of that block."""
        inside = f"{block.path}." if block.kind != "inline" else "/"
        here = any(tap.value == block.value for tap in carrier.taps.get("family", ()))
        others = [
            site
            for site in self._sites(carrier, name)
            if site.position != "standard" and site.uses == 1 and not f"{site.module}.".startswith(inside)
            if site.position != "family" or not here
        ]
        removable = block.kind != "inline" or block.place
        own = self._block_site(name, block)
        family = [_squeezed(replace(own, position="family"), carrier)] if here else []
        sites = [own, *(others + family if removable else ())]
        return replace(_unit(name, sites, carrier, family=here and bool(removable)), existing=block.path)

    def _block_site(self, unit: str, block: Existing) -> Site:
        shape = self.flow.shape(block.value)
        return Site(
            unit=unit,
            position="standard",
            module=block.path,
            edge=block.kind,
            place=block.place,
            layers=block.layers,
            uses=1 if block.kind == "inline" else self.graph.executions[block.path, ""],
            channels=shape[1],
            size=shape[2:],
        )


def _squeezed(site: Site, carrier: Carrier) -> Site:
    """The site with the channels that a hidden width is a share of, at the position `family`."""
    if site.position != "family" or carrier.squeezed_from in (None, site.channels):
        return site
    return replace(site, squeezed_from=carrier.squeezed_from)


def _unit(name: str, sites: Sequence[Site], carrier: Carrier, *, family: bool = True) -> Unit:
    """A unit without a stage, whose default position is `family` if it has that and that is wanted."""
    if not family or not any(site.position == "family" for site in sites):
        return Unit(name=name, stage="", sites=tuple(sites), kind=carrier.kind)
    return Unit(name=name, stage="", sites=tuple(sites), kind=carrier.kind, default="family", why=WHY)


def _names(graph: Graph, carriers: Sequence[Carrier]) -> list[str]:
    """Path of the module that holds a carrier and no other; else of its last convolution; else that and a number."""
    blocks = [graph.calls[graph.common_call(carrier.region)].path for carrier in carriers]
    layers = []
    for carrier in carriers:
        owners = [graph.nodes[i].owner for i in sorted(carrier.region) if graph.nodes[i].owner is not None]
        layers.append(owners[-1] or "" if owners else "")
    names = []
    distinct = set(zip(blocks, layers, strict=True))
    for block, layer in zip(blocks, layers, strict=True):
        holds = sum(other == block or other.startswith(f"{block}.") for other, _ in distinct)
        names.append(block if block and holds == 1 else layer or block or "unit")
    numbers: Counter[str] = Counter()
    for index, name in enumerate(names):
        numbers[name] += 1
        names[index] = name if numbers[name] == 1 else f"{name}:{numbers[name]}"
    return names


def units_of(
    model: nn.Module, input_shape: Shape, patterns: Mapping[str, str | Sequence[str]] | None = None
) -> tuple[Unit, ...]:
    """The units that the patterns of a search space name (see `select_units`); without patterns those of `find_units`.

    `input_shape` is the shape of one image, (channels, *size).
    """
    return select_units(model, input_shape, patterns) if patterns else find_units(model, input_shape)


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
        known = _survey(model, graph, input_shape).units
    except BackboneError:
        known = ()
    chosen: dict[str, Unit] = {}
    for stage, patterns in stages.items():
        for pattern in [patterns] if isinstance(patterns, str) else patterns:
            for unit in _matching(model, graph, pattern, known):
                if chosen.setdefault(unit.name, replace(unit, stage=stage)).stage != stage:
                    raise SpaceError(f"unit {unit.name!r} is named by stage {chosen[unit.name].stage!r} and {stage!r}")
    started = {call.path: call.index for call in reversed(graph.calls)}
    return tuple(sorted(chosen.values(), key=lambda unit: started.get(unit.sites[0].module, 0)))


def _matching(model: nn.Module, graph: Graph, pattern: str, known: Sequence[Unit]) -> list[Unit]:
    wanted, _, edge = pattern.partition(":")
    if edge not in ("", "input"):
        raise SpaceError(f"pattern {pattern!r} ends with {edge!r}", allowed=["nothing", ":input"])
    if not edge and (units := [unit for unit in known if _matches(unit.name, wanted)]):
        return units
    by_module = {unit.sites[0].module: unit for unit in known if unit.sites[0].edge != "expression" and not edge}
    paths = [path for path, _ in model.named_modules() if path and graph.executions[path, ""]]
    found: list[Unit] = []
    for path in paths:
        if not _matches(path, wanted):
            continue
        if path in by_module:
            found.append(by_module[path])
        else:
            found += declared_units(model, graph, {path: {"standard": f"{path}:input" if edge else path}})
    if not found:
        names = list(dict.fromkeys([*(unit.name for unit in known), *paths]))
        near = difflib.get_close_matches(wanted, names, n=4, cutoff=0.0)
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
