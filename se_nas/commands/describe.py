"""What is known of a backbone before any training: its sites, and the cost of every placement."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from se_nas.backbones.build import BACKBONES, build_backbone
from se_nas.core.blocks import SE
from se_nas.core.config import shape_of
from se_nas.core.errors import ConfigError, CostError, SpaceError
from se_nas.core.files import user_path, write_atomically
from se_nas.core.placement import Placement, Site, Unit
from se_nas.core.plugins import absolute
from se_nas.core.ranges import check_whole
from se_nas.core.trial import Target
from se_nas.core.words import counted, flops_told_apart, in_words
from se_nas.data.store import open_source
from se_nas.insertion.discover import survey, units_of
from se_nas.insertion.insert import insert_choices
from se_nas.report.console import WIDTH, console
from se_nas.report.diagram import draw_network, network_file
from se_nas.report.fitted_table import Column, FittedTable
from se_nas.space.exact_cost import CostModel, se_cost
from se_nas.space.space import Space
from se_nas.space.spec import Reduction, read_space

IMAGENET = (3, 224, 224)

COUNTS = ("params", "macs", "activations")

TABULATED = 10**6
"""Spaces up to this size are priced as a whole, which takes milliseconds."""


@dataclass(frozen=True, kw_only=True)
class Catalogue:
    """A backbone with its space and its costs."""

    name: str
    input_shape: tuple[int, ...]
    space: Space
    costs: CostModel | CostError
    """An error where the backbone has no price: its sites are known all the same."""
    backbone: Target
    model: nn.Module
    skipped: tuple[tuple[str, str], ...] = ()
    """Parts of the backbone that would be units, and why they are not."""

    def sites(self) -> dict[str, Any]:
        """All sites as plain data, stage by stage and one by one."""
        base = None if isinstance(self.costs, CostError) else self.costs.backbone
        return {
            "backbone": self.name,
            "input_shape": list(self.input_shape),
            **{name: getattr(base, name, None) for name in ("params", "macs", "gflops")},
            **({"unpriced": self.costs.what} if isinstance(self.costs, CostError) else {}),
            "units": len(self.space.units),
            "stages": {
                decision.name: {"units": [u.name for u in decision.units], "reductions": list(decision.reductions)}
                for decision in self.space.decisions
            },
            "skipped": [{"unit": name, "reason": reason} for name, reason in self.skipped],
            "sites": [_site(unit, site) for unit in self.space.units for site in unit.sites],
        }

    def cost(self, text: str) -> dict[str, Any]:
        """Exact cost of a placement, given as people write it; CostError where the backbone has none."""
        if isinstance(self.costs, CostError):
            raise self.costs
        placement = self.space.parse(text)
        cost, base = self.costs(placement), self.costs.backbone
        added = cost - base
        return {
            "backbone": self.name,
            "input_shape": list(self.input_shape),
            "placement": placement.label or text,
            "key": placement.key,
            **{name: getattr(cost, name) for name in ("params", "macs", "gflops", "activations")},
            "squeeze_channels": {
                name: choice.squeeze_channels
                for name, choice in placement.choices.items()
                if choice.kind == "se" and choice.of.width
            },
            **_other_blocks(placement),
            "without_se": {name: getattr(base, name) for name in COUNTS},
            "added": {name: getattr(added, name) for name in COUNTS},
        }

    def network(self, placement: Placement) -> nn.Module:
        """A network of its own with the blocks of a placement."""
        network = copy.deepcopy(self.model)
        insert_choices(network, self.space.units, placement.choices, seed=0)
        return network

    def added_params(self, unit: Unit, reduction: Reduction) -> int | None:
        """Parameters of an SE block at a unit; None where the reduction leaves no hidden channel."""
        try:
            choice = self.space.choice(unit, reduction)
        except SpaceError:
            return None
        site = unit.site(choice.position)
        return se_cost(site.channels, site.size, choice).params


def _site(unit: Unit, site: Site) -> dict[str, Any]:
    return {
        "unit": unit.name,
        "stage": unit.stage,
        "kind": unit.kind,
        "position": site.position,
        "default": site.position == unit.position,
        "why": unit.why if site.position == unit.position else None,
        "module": site.module,
        "edge": site.edge,
        "channels": site.channels,
        "squeezed_from": site.width,
        "size": list(site.size),
        "existing": unit.existing,
    }


def describe(
    backbone: Target,
    *,
    data: Target | None = None,
    input_shape: str | None = None,
    num_classes: int | None = None,
    space: str | Mapping[str, Any] = "stagewise",
) -> Catalogue:
    """The catalogue of a backbone.

    Image shape and number of classes come from the data set if one is given, else from the arguments, else they are
    those of the digits for built-in backbones and (3, 224, 224) with the backbone's own classes for others.
    """
    check_whole("num_classes", num_classes)
    if data is None and input_shape is None and backbone.target in BACKBONES:
        data = Target(target="digits")
    if data is not None:
        source, _ = open_source(data)
        if hasattr(source, "train_dataloader"):
            from se_nas.data.datamodule import describe_module  # imports Lightning, which arrays do not need

            info = describe_module(source, data)
            shape, classes = info.input_shape, len(info.classes)
        else:
            first = next(iter(source.images("train", range(1))))
            shape, classes = tuple(first.shape[1:]), len(source.classes)
    else:
        shape, classes = IMAGENET if input_shape is None else shape_of(input_shape), 0
    model = build_backbone(backbone, num_classes=num_classes or classes or None, input_shape=shape, seed=0)
    spec = read_space(space)
    units = units_of(model, shape, spec.units)
    skipped = () if spec.units else survey(model, shape).skipped
    return Catalogue(
        name=backbone.target,
        input_shape=shape,
        space=Space(spec, units),
        costs=_costs(model, units, shape),
        backbone=absolute(backbone),
        model=model,
        skipped=skipped,
    )


def _costs(model: nn.Module, units: tuple[Unit, ...], shape: tuple[int, ...]) -> CostModel | CostError:
    try:
        return CostModel(model, units, shape)
    except CostError as error:
        return error


def write_diagram(catalogue: Catalogue, placement: str, file: str | Path) -> Path:
    """Write a picture of the backbone with the SE blocks of a placement, as an SVG file.

    ConfigError for a file of another kind, or one that cannot be written.
    """
    target = user_path(file)
    if target.suffix.lower() != ".svg":
        raise ConfigError(f"the diagram {str(file)!r} is not an SVG file", hint="give a name that ends in .svg")
    chosen = catalogue.space.parse(placement)
    figure = draw_network(catalogue.space.units, chosen, title=f"{catalogue.name}: {in_words(chosen.label)}")
    try:
        write_atomically(target, network_file(figure))
    except OSError as error:
        raise ConfigError(f"cannot write the diagram {str(file)!r}: {error.strerror or error}") from error
    return target


def show_sites(catalogue: Catalogue) -> None:
    """Print the units as a table, and the range of what all placements cost."""
    out = console(soft_wrap=False, width=WIDTH, highlight=False)
    out.print(_sites_table(catalogue))
    space, costs = catalogue.space, catalogue.costs
    if isinstance(costs, CostError):
        out.print(f"{counted(len(space.units), 'unit')}, {counted(space.size, 'placement')}; no prices: {costs.what}")
        return
    base = costs.backbone
    if space.size <= TABULATED:
        table = costs.table(space)
        params, ends = table["params"], [float(table["gflops"].min()), float(table["gflops"].max())]
        unit, (least, most) = flops_told_apart(ends)
        out.print(f"from {params.min():,} to {params.max():,} params and {least} to {most} {unit}")
    unit, (flops,) = flops_told_apart([base.gflops])
    places = f"{counted(len(space.units), 'unit')}, {counted(space.size, 'placement')}"
    out.print(f"{places}; without SE {base.params:,} params, {flops} {unit}")


def _sites_table(catalogue: Catalogue) -> FittedTable:
    """Stage, size and channels of the units, and the parameters that SE adds at each reduction."""
    space = catalogue.space
    units = space.units
    reductions = sorted({r for d in space.decisions for r in d.reductions if not isinstance(r, str)}, reverse=True)
    sites = [unit.site(space.spec.position[0]) for unit in units]
    first = [i == 0 or units[i - 1].stage != unit.stage for i, unit in enumerate(units)]
    notes = [f"default position {unit.position}: {unit.why}" for unit in units if unit.why][:1]
    if catalogue.skipped:
        name, reason = catalogue.skipped[0]
        notes.append(f"{len(catalogue.skipped)} parts are not searched, such as {name}: {reason}")
    columns = [
        Column(head="stage", text=True, cells=[u.stage if new else "" for u, new in zip(units, first, strict=True)]),
        Column(head="unit", text=True, cells=[unit.name for unit in units]),
        Column(head="position", text=True, rank=2, cells=[site.position for site in sites]),
        Column(head="module", text=True, rank=4, cells=[site.module for site in sites]),
        Column(head="channels", rank=1, cells=[str(site.channels) for site in sites]),
        Column(head="size", text=True, rank=2, cells=[" x ".join(map(str, site.size)) for site in sites]),
        *(Column(head=f"params r={r:g}", rank=3, cells=[_added(catalogue, u, r) for u in units]) for r in reductions),
    ]
    if all(unit.position == "standard" for unit in units):
        del columns[2]
    return FittedTable(
        title=f"{catalogue.name}, {' x '.join(map(str, catalogue.input_shape))}",
        columns=columns,
        sections=frozenset(i for i, new in enumerate(first) if new and i),
        note="\n".join(notes),
        elsewhere="all of it: --json",
    )


def _added(catalogue: Catalogue, unit: Unit, reduction: Reduction) -> str:
    params = catalogue.added_params(unit, reduction)
    return "-" if params is None else f"{params:+,}"


def _other_blocks(placement: Placement) -> dict[str, Any]:
    """Unit -> block, if any is not SE."""
    blocks = {name: choice.block for name, choice in placement.choices.items() if choice.kind == "se"}
    return {"blocks": blocks} if set(blocks.values()) - {SE} else {}


def show_cost(content: dict[str, Any]) -> None:
    """Print a cost as people read it, with the difference to the plain backbone."""
    out = console(soft_wrap=True, highlight=False)
    out.print(f"{content['backbone']}, {content['placement']} (key {content['key']})")
    for name in COUNTS:
        base, added = content["without_se"][name], content["added"][name]
        share = f"{100 * added / base:+.3f} %" if base else ""
        out.print(f"  {name:12} {content[name]:>15,}   {added:+,} ({share}) vs. no SE")
    unit, (flops,) = flops_told_apart([content["gflops"]])
    out.print(f"  {unit:12} {flops:>15}")
    for name, seen in content.get("latency", {}).items():
        low, high = (100 * (bound - 1) for bound in seen["ratio_interval"])
        how = "beside" if seen["kind"] == "measured" else "predicted from measurements beside"
        out.print(
            f"  {name}: {seen['value']:.4g} ms, {how} no SE with {seen['without_se']:.4g} ms: "
            f"{100 * (seen['ratio'] - 1):+.1f} % (90 % interval {low:+.1f} to {high:+.1f} %; "
            f"GFLOPs {seen['gflops_percent']:+.2f} %)"
        )
        out.print(f"    {seen['conditions']}")
    widths = ", ".join(f"{unit} {width}" for unit, width in content["squeeze_channels"].items())
    out.print(f"  squeeze channels: {widths or 'none'}")
    if "blocks" in content:
        out.print(f"  blocks: {', '.join(f'{unit} {block}' for unit, block in content['blocks'].items())}")
