"""What is known of a backbone before any training: its sites, and the cost of every placement."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from se_nas.backbones import BACKBONES, build_backbone
from se_nas.cost import CostModel, se_cost
from se_nas.data import open_source
from se_nas.errors import ConfigError, SpaceError
from se_nas.patterns import units_of
from se_nas.records import Target
from se_nas.sites import survey
from se_nas.space import Space
from se_nas.space_file import read_space

IMAGENET = (3, 224, 224)

TABULATED = 10**6
"""Spaces up to this size are priced as a whole, which takes milliseconds."""


@dataclass(frozen=True, kw_only=True)
class Catalogue:
    """A backbone with its space and its costs."""

    name: str
    input_shape: tuple[int, ...]
    space: Space
    costs: CostModel
    skipped: tuple[tuple[str, str], ...] = ()
    """Parts of the backbone that would be units, and why they are not."""

    def sites(self) -> dict[str, Any]:
        """All sites as plain data, with what an SE block there adds at each reduction of the space."""
        return {
            "backbone": self.name,
            "input_shape": list(self.input_shape),
            "params": self.costs.backbone.params,
            "macs": self.costs.backbone.macs,
            "gflops": self.costs.backbone.gflops,
            "units": len(self.space.units),
            "stages": {
                decision.name: {"units": [u.name for u in decision.units], "reductions": list(decision.reductions)}
                for decision in self.space.decisions
            },
            "skipped": [{"unit": name, "reason": reason} for name, reason in self.skipped],
            "sites": [
                {
                    "unit": unit.name,
                    "stage": unit.stage,
                    "kind": unit.kind,
                    "position": site.position,
                    "module": site.module,
                    "edge": site.edge,
                    "channels": site.channels,
                    "size": list(site.size),
                    "existing": unit.existing,
                }
                for unit in self.space.units
                for site in unit.sites
            ],
        }

    def cost(self, text: str) -> dict[str, Any]:
        """Exact cost of a placement, given as people write it."""
        placement = self.space.parse(text)
        cost, base = self.costs(placement), self.costs.backbone
        added = cost - base
        return {
            "backbone": self.name,
            "input_shape": list(self.input_shape),
            "placement": placement.label or text,
            "key": placement.key,
            "params": cost.params,
            "macs": cost.macs,
            "gflops": cost.gflops,
            "activations": cost.activations,
            "squeeze_channels": {
                name: choice.squeeze_channels for name, choice in placement.choices.items() if choice.kind == "se"
            },
            "without_se": {"params": base.params, "macs": base.macs, "activations": base.activations},
            "added": {"params": added.params, "macs": added.macs, "activations": added.activations},
        }

    def show_sites(self) -> None:
        """Print the units as a table: stage, size, channels, and the parameters that SE adds at each reduction."""
        reductions = list(
            dict.fromkeys(r for d in self.space.decisions for r in d.reductions if r not in ("none", "keep"))
        )
        table = Table(title=f"{self.name}, {' x '.join(map(str, self.input_shape))}", title_justify="left")
        for name in ("stage", "unit", "module", "channels", "size"):
            table.add_column(name, justify="right" if name == "channels" else "left", overflow="fold")
        for reduction in reductions:
            table.add_column(f"params, r={reduction:g}", justify="right")
        stage = ""
        for unit in self.space.units:
            site = unit.sites[0]
            if stage and unit.stage != stage:
                table.add_section()
            cells = [unit.stage if unit.stage != stage else "", unit.name, site.module, str(site.channels)]
            cells.append(" x ".join(map(str, site.size)))
            table.add_row(*cells, *(self._added(unit, reduction) for reduction in reductions))
            stage = unit.stage
        if self.skipped:
            name, reason = self.skipped[0]
            table.caption = f"{len(self.skipped)} parts are not searched, such as {name}: {reason}"
        console = Console(width=None if sys.stdout.isatty() else 140)
        console.print(table)
        base = self.costs.backbone
        if self.space.size <= TABULATED:
            table_of = self.costs.table(self.space)
            low, high = table_of["params"].min(), table_of["params"].max()
            least, most = table_of["gflops"].min(), table_of["gflops"].max()
            console.print(f"from {low:,} to {high:,} params and {least:.6f} to {most:.6f} GFLOPs", highlight=False)
        console.print(
            f"{len(self.space.units)} units, {self.space.size:,} placements; without SE {base.params:,} params, "
            f"{base.gflops:.6f} GFLOPs",
            highlight=False,
        )

    def _added(self, unit: Any, reduction: Any) -> str:
        try:
            choice = self.space.choice(unit, reduction)
        except SpaceError:
            return "-"
        return f"{se_cost(unit.sites[0].channels, unit.sites[0].size, choice).params:+,}"


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
    if data is None and input_shape is None and backbone.target in BACKBONES:
        data = Target(target="digits")
    if data is not None:
        source, _ = open_source(data)
        if hasattr(source, "train_dataloader"):
            from se_nas.data.module import describe_module  # imports Lightning, which arrays do not need

            info = describe_module(source, data)
            shape, classes = info.input_shape, len(info.classes)
        else:
            first = next(iter(source.images("train", range(1))))
            shape, classes = tuple(first.shape[1:]), len(source.classes)
    else:
        shape, classes = _shape(input_shape), 0
    model = build_backbone(backbone, num_classes=num_classes or classes or None, input_shape=shape, seed=0)
    spec = read_space(space)
    units = units_of(model, shape, spec)
    skipped = () if spec.units else survey(model, shape).skipped
    return Catalogue(
        name=backbone.target,
        input_shape=shape,
        space=Space(spec, units),
        costs=CostModel(model, units, shape),
        skipped=skipped,
    )


def _shape(text: str | None) -> tuple[int, ...]:
    if text is None:
        return IMAGENET
    try:
        shape = tuple(int(part) for part in text.replace("x", ",").split(","))
    except ValueError:
        shape = ()
    if len(shape) < 2 or min(shape) < 1:
        raise ConfigError(f"input_shape is {text!r}", allowed=["channels,height,width such as 3,224,224"])
    return shape


def show_cost(content: dict[str, Any]) -> None:
    """Print a cost as people read it, with the difference to the backbone without SE."""
    console = Console(soft_wrap=True)
    console.print(f"{content['backbone']}, {content['placement']} (key {content['key']})", highlight=False)
    for name in ("params", "macs", "activations"):
        base, added = content["without_se"][name], content["added"][name]
        share = f"{100 * added / base:+.3f} %" if base else ""
        console.print(f"  {name:12} {content[name]:>15,}   {added:+,} ({share}) over no SE", highlight=False)
    console.print(f"  {'gflops':12} {content['gflops']:>15.6f}", highlight=False)
    widths = ", ".join(f"{unit} {width}" for unit, width in content["squeeze_channels"].items())
    console.print(f"  squeeze channels: {widths or 'none'}", highlight=False)
