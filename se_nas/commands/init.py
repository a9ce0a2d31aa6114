"""A commented configuration for the user's network and data: what a newcomer would change, with what was found."""

from __future__ import annotations

import re
import shlex
import textwrap
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from se_nas.analysis.search_plan import batch_for
from se_nas.commands.describe import Catalogue, describe
from se_nas.core.config import SearchConfig, yaml_word
from se_nas.core.errors import ConfigError, CostError
from se_nas.core.files import path_text, user_path, write_atomically
from se_nas.core.plain_text import visible
from se_nas.core.ranges import check_whole
from se_nas.core.serialization import to_plain
from se_nas.core.trial import Recipe, Target
from se_nas.core.version import __version__
from se_nas.core.words import counted
from se_nas.data.base import ADJECTIVE, PARTS, Plan, is_class_number
from se_nas.data.sizes import one_size, sizes_in
from se_nas.data.split import split_plan
from se_nas.data.store import open_source
from se_nas.engine.run_folder import default_folder

TEMPLATE = "search.yaml"
FOLDER = "folder:"
PRETRAINED = ("timm", "torchvision", "pytorchcv")
"""Libraries whose networks take ``pretrained``."""

LOOKED_AT = 64
"""Images to read, so that unusable data are reported now."""

COLUMN, WIDTH = 28, 118
"""Where comments behind values begin, and how wide comments are."""

CLASSES = 12
"""Classes that are named."""


@dataclass(frozen=True, kw_only=True)
class Begun:
    """A configuration that was written, and what was found for it."""

    file: str
    network: str
    data: str
    notes: tuple[str, ...] = ()

    @property
    def lines(self) -> list[str]:
        """What was found, and what to do next."""
        written = f"Written: {self.file}", f"Next: se-nas search --config {shlex.quote(self.file)} --plan"
        return [self.network, self.data, *self.notes, *written]

    def as_json(self) -> dict[str, Any]:
        """What ``se-nas init --json`` prints."""
        plain: dict[str, Any] = to_plain(self)
        return plain


def init(
    backbone: Target, data: Target, file: str | Path, *, budget: int = 50, epochs: int = 10, force: bool = False
) -> Begun:
    """Look at a network and a data set and write a configuration for their search.

    Raises
    ------
    ConfigError
        If the file is there already, and not `force`; or it cannot be written.
    SeNasError
        If the network or the data cannot be searched.
    """
    check_whole("budget", budget)
    check_whole("epochs", epochs)
    target = user_path(file)
    if target.exists() and not force:
        raise ConfigError(f"{path_text(target)!r} is there already", hint="give another --to, or --force to replace it")
    if target.suffix.lower() not in (".yaml", ".yml"):
        raise ConfigError(
            f"the configuration {path_text(target)!r} is not a YAML file", hint="give a name that ends in .yaml"
        )
    data, why = _with_size(data)
    catalogue = describe(backbone, data=data)
    plan, facts = _plan(data)
    config = SearchConfig(backbone=backbone, data=data, budget=budget, train=Recipe(epochs=epochs))
    text = _rendered(config, facts, why, target, {**_network(catalogue), **_amounts(plan), "cut": _is_cut(plan)})
    try:
        write_atomically(target, _aligned(text).encode())
    except OSError as error:
        raise ConfigError(f"cannot write {path_text(target)!r}: {error.strerror or error}") from error
    return Begun(
        file=path_text(target),
        network=f"Network: {catalogue.name}, {counted(len(catalogue.space.units), 'place')} for an SE block in "
        f"{counted(len(catalogue.space.decisions), 'stage')}, {counted(catalogue.space.size, 'placement')}.",
        data=f"Data: {_comment(data.target)}, images of {_shape(catalogue)}. {' '.join(facts[:1])}".rstrip(),
        notes=tuple(f"Chosen: {name} {data.args[name]} ({reason})." for name, reason in why.items()),
    )


def _rendered(config: SearchConfig, facts: list[str], why: dict[str, str], target: Path, found: dict[str, Any]) -> str:
    """The text of the file."""
    environment = Environment(  # noqa: S701  # it is YAML
        loader=PackageLoader("se_nas.commands", "templates"), undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    backbone, data = config.backbone, config.data
    return environment.get_template(TEMPLATE).render(
        version=__version__,
        file=_comment(shlex.quote(path_text(target))),
        backbone=yaml_word(backbone.target),
        backbone_args=[(name, yaml_word(value)) for name, value in backbone.args.items()],
        library=backbone.target.partition(":")[0] in PRETRAINED,
        data=yaml_word(data.target),
        data_args=[(name, yaml_word(value), why.get(name, "")) for name, value in data.args.items()],
        facts=facts,
        budget=config.budget,
        epochs=config.train.epochs,
        out=_comment(default_folder(config)),
        **found,
    )


def _is_cut(plan: Plan | None) -> bool:
    """Whether se-nas splits off the validation and test set."""
    return plan is not None and {plan[part][0] for part in ("val", "test")} == {"train"}


def _with_size(data: Target) -> tuple[Target, dict[str, str]]:
    """The data set with a size for its images if they have several, and why."""
    if not data.target.startswith(FOLDER) or "size" in data.args:
        return data, {}
    root = user_path(data.target.removeprefix(FOLDER))
    sizes = sizes_in(root) if root.is_dir() else Counter()
    if len(sizes) < 2:
        return data, {}
    smallest, largest = (" x ".join(map(str, size)) for size in (min(sizes), max(sizes)))
    chosen = replace(data, args={**data.args, "size": one_size(sizes)})
    return chosen, {
        "size": f"images have {len(sizes)} sizes, {smallest} to {largest} pixels: all are resized to this square"
    }


def _plan(data: Target) -> tuple[Plan | None, list[str]]:
    """How the data set is split, as far as it says so, and its classes in words."""
    source, split = open_source(data)
    if hasattr(source, "train_dataloader"):
        return None, []
    plan = split_plan(source, split)
    origin, indices, _ = plan["train"]
    for _ in source.images(origin, indices[:: max(1, len(indices) // LOOKED_AT)][:LOOKED_AT]):
        pass  # a broken image, or one of another size, raises here
    labels = np.concatenate([targets for _, _, targets in plan.values()])
    if not is_class_number(labels):
        return plan, ["The targets are not class numbers: give your own LightningModule with --task file.py:Class."]
    counts = np.bincount(labels.astype(np.int64), minlength=len(source.classes))
    named = [f"{_comment(name)} ({count:,})" for name, count in zip(source.classes, counts.tolist(), strict=False)]
    more = ", ..." if len(named) > CLASSES else ""
    return plan, [f"{len(named):,} classes (with their images): {', '.join(named[:CLASSES])}{more}."]


def _network(catalogue: Catalogue) -> dict[str, Any]:
    """What the template says of a network."""
    base = catalogue.costs.backbone if not isinstance(catalogue.costs, CostError) else None
    return {
        "units": len(catalogue.space.units),
        "placements": f"{catalogue.space.size:,}",
        "stages": list(_stages(catalogue)),
        "cost": f"{base.params:,} parameters, {base.gflops:.4g} GFLOPs" if base is not None else "",
        "limit": int(1.05 * base.params) if base is not None else 0,
        "shape": _shape(catalogue),
    }


def _stages(catalogue: Catalogue) -> Iterator[str]:
    for decision in catalogue.space.decisions:
        sites = [unit.site(catalogue.space.spec.position[0]) for unit in decision.units]
        channels = sorted({site.channels for site in sites})
        size = " x ".join(map(str, sites[0].size))
        several = f"{channels[0]} to {channels[-1]}" if len(channels) > 1 else str(channels[0])
        choices = ", ".join(f"{r:g}" if isinstance(r, float) else str(r) for r in decision.reductions)
        places = counted(len(sites), "place")
        yield f"{_comment(decision.name)}: {places}, {several} channels, {size} pixels; choices: {choices}"


def _shape(catalogue: Catalogue) -> str:
    channels, *size = catalogue.input_shape
    return f"{' x '.join(map(str, reversed(size)))} pixels, {channels} channel{'s' * (channels > 1)}"


def _amounts(plan: Plan | None) -> dict[str, Any]:
    """What the template says of the number of images: the parts, and a batch that leaves an epoch enough steps."""
    usual = SearchConfig().train.batch_size
    if plan is None:
        return {"parts": "", "batch": usual, "steps": ""}
    counts = {part: len(plan[part][1]) for part in PARTS}
    batch = batch_for(counts["train"], usual)
    steps = max(1, counts["train"] // batch)
    return {
        "parts": ", ".join(f"{number:,} {ADJECTIVE[part]} images" for part, number in counts.items()),
        "batch": batch,
        "steps": f"{steps:,} step{'s' * (steps > 1)} an epoch",
    }


def _aligned(text: str) -> str:
    """The text with its comments behind values below each other, and long lines of comments in several."""
    lines = []
    for line in text.splitlines():
        found = re.fullmatch(r"( *(?:# )?\w+: .*?) +# (.*)", line)
        if found:
            lines.append(f"{found[1]:<{COLUMN}}  # {found[2]}")
        elif len(line) > WIDTH and line.startswith("#"):
            lines += textwrap.wrap(line, WIDTH, subsequent_indent="#     ", break_long_words=False)
        else:
            lines.append(line)
    return "\n".join([*lines, ""])


def _comment(text: object) -> str:
    """Text of one line, as a comment can have it."""
    return " ".join(visible(path_text(str(text))).split())
