"""Where SE blocks may sit in a network: its units and their sites, with channels and spatial sizes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import nn

from se_nas.anchors import Anchor, Anchors
from se_nas.declared import checked, declared_units, site_of
from se_nas.errors import BackboneError
from se_nas.existing import Existing
from se_nas.flow import Flow
from se_nas.graph import Graph
from se_nas.parts import Candidate, common_call
from se_nas.recorder import record, run_once
from se_nas.records import POSITIONS, Site, Unit
from se_nas.rules import find_candidates

__all__ = ["Survey", "find_units", "run_once", "survey"]

Shape = tuple[int, ...]

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
    Otherwise they are found by the rules of the SE paper (see `se_nas.rules`).

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
    """The units of a network and what was passed over; see `find_units`."""
    graph = record(model, input_shape)
    declare = getattr(model, "se_units", None)
    if declare is not None:
        return Survey(units=_staged(declared_units(model, graph, checked(declare()))))
    found = _discovered(model, graph, input_shape)
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


def _discovered(model: nn.Module, graph: Graph, input_shape: Shape) -> Survey:
    flow = Flow(graph)
    candidates = find_candidates(flow)
    anchors = Anchors(model, graph, input_shape)
    skipped: list[tuple[str, str]] = []
    runs: dict[Anchor, list[Site]] = {}
    order: list[tuple[int, Unit]] = []
    taken: set[int] = set()
    for candidate, name in zip(candidates, _names(graph, candidates), strict=True):
        inside = flow.blocks(candidate.region)
        if inside:
            blocks = [block for block in inside if block.node not in taken]
            if blocks:  # else it is another run of a unit that is there
                taken |= _all_runs(flow, blocks[0])
                order.append((candidate.join, _with_existing(flow, anchors, candidate, name, blocks[0])))
            continue
        sites = _sites(flow, anchors, candidate, name)
        if not sites or sites[0].position != "standard":
            skipped.append(
                (name, "its tensor is neither given nor taken by a module, nor a plain expression in a method")
            )
            continue
        if sites[0].channels < LEAST_CHANNELS:
            skipped.append((name, f"{sites[0].channels} channels are too few to squeeze"))
            continue
        same = runs.setdefault(_anchor(sites[0]), [])
        same.append(sites[0])
        if len(same) == 1:
            order.append((candidate.join, Unit(name=name, stage="", sites=tuple(sites), kind=candidate.kind)))
    order, more = _shared(order, runs)
    for block in flow.existing.values():
        if block.node not in taken:
            taken |= _all_runs(flow, block)
            order.append((block.node, _alone(flow, block)))
    units = [unit for _, unit in sorted(order, key=lambda item: item[0])]
    return Survey(units=_staged(units), skipped=(*skipped, *more))


def _all_runs(flow: Flow, block: Existing) -> set[int]:
    """The nodes of a block, whose module may run several times."""
    if block.kind == "inline":
        return {block.node}
    return {other.node for other in flow.existing.values() if other.path == block.path and other.kind == block.kind}


def _anchor(site: Site) -> Anchor:
    assert site.edge in ("input", "output", "expression")  # noqa: S101  # others are not made from candidates
    return Anchor(site.module, site.edge, site.place)


def _sites(flow: Flow, anchors: Anchors, candidate: Candidate, name: str) -> list[Site]:
    sites = []
    for position in POSITIONS:
        for target in candidate.targets.get(position, ()):
            anchor = anchors.find(target)
            shape = flow.shape(target.value)
            if anchor is not None and position == "pre" and anchor.edge != "input" and "#" not in anchor.place:
                continue  # it would be the end of the unit before
            if anchor is not None and 3 <= len(shape) <= 5 and target.value not in flow.pooled:
                sites.append(site_of(name, position, anchor, shape, anchors.executions(anchor)))
                break
    return sites


def _shared(
    order: list[tuple[int, Unit]], found: Mapping[Anchor, Sequence[Site]]
) -> tuple[list[tuple[int, Unit]], list[tuple[str, str]]]:
    """Code that runs several times is one unit, if all its runs are sites of one size; otherwise it is passed over."""
    kept, skipped = [], []
    for index, unit in order:
        if unit.existing is None:
            site = unit.sites[0]
            runs = found[_anchor(site)]
            if len(runs) != site.uses or len({(run.channels, run.size) for run in runs}) > 1:
                reason = f"its code in module {site.module!r} runs {site.uses} times, not always alike"
                skipped.append((unit.name, reason))
                continue
            unit = replace(unit, sites=tuple(s for s in unit.sites if s.uses == site.uses))
        kept.append((index, unit))
    return kept, skipped


def _with_existing(flow: Flow, anchors: Anchors, candidate: Candidate, name: str, block: Existing) -> Unit:
    """A unit whose SE block is in the network already; its standard site is the place of that block."""
    inside = f"{block.path}." if block.kind != "inline" else "/"
    others = [
        site
        for site in _sites(flow, anchors, candidate, name)
        if site.position != "standard" and site.uses == 1 and not f"{site.module}.".startswith(inside)
    ]
    removable = block.kind != "inline" or block.place
    sites = (_existing_site(flow, name, block), *(others if removable else ()))
    return Unit(name=name, stage="", sites=sites, kind=candidate.kind, existing=block.path)


def _existing_site(flow: Flow, name: str, block: Existing) -> Site:
    shape = flow.shape(block.value)
    return Site(
        unit=name,
        position="standard",
        module=block.path,
        edge=block.kind,
        place=block.place,
        layers=block.layers,
        uses=1 if block.kind == "inline" else flow.graph.executions[block.path, ""],
        channels=shape[1],
        size=shape[2:],
    )


def _alone(flow: Flow, block: Existing) -> Unit:
    name = block.path
    return Unit(name=name, stage="", sites=(_existing_site(flow, name, block),), kind="se", existing=block.path)


def _names(graph: Graph, candidates: Sequence[Candidate]) -> list[str]:
    """Path of the module that holds a candidate and no other; else of its last convolution; else that and a number."""
    blocks = [graph.calls[common_call(graph, candidate.region)].path for candidate in candidates]
    layers = []
    for candidate in candidates:
        owners = [graph.nodes[i].owner for i in sorted(candidate.region) if graph.nodes[i].owner is not None]
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
