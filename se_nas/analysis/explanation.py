"""What the SE blocks of one trained network do: the record of ``se-nas explain``, with its tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from se_nas.analysis.class_share import ClassShare, Trend
from se_nas.analysis.excitation import Change, Excitation, Paired
from se_nas.analysis.excitation_words import Terms, all_sentence, block_sentence, count_sentence, trend_sentence
from se_nas.core.documents import LARGEST_JSON, UnreadableError, text_of
from se_nas.core.errors import RunError
from se_nas.core.serialization import SCHEMA_VERSION, from_json, to_plain
from se_nas.core.trial import Direction
from se_nas.core.words import blocks_in

FOLDER = "explain"
"""In a run folder: the record, tables and figures of its last ``se-nas explain``."""

RECORD = "explanation.json"


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """What the SE blocks of a network do, in running order, on so many images.

    ``classes`` says whether the network gives classes; ``shown`` are the numbers of the classes whose mean gates are
    kept, ``shown_names`` what they are called. ``value`` is the score of the whole network: the mean of ``metric`` over
    the images.
    """

    blocks: tuple[Excitation, ...]
    images: int
    schema: int = SCHEMA_VERSION
    classes: bool = True
    real: bool = True
    """Whether the images are of the data, and not noise in their place."""
    labelled: int = 0
    """Classes that the images have; 0 where they have no class numbers."""
    shown: tuple[int, ...] = ()
    shown_names: tuple[str, ...] = ()
    metric: str = ""
    unit: str = ""
    direction: Direction = "maximize"
    value: float | None = None
    all_frozen: Change | None = None
    all_removed: Change | None = None
    trend: Trend | None = None
    others: tuple[tuple[str, str], ...] = ()
    """SE blocks that cannot be looked at, with the reason."""
    trial: int | None = None
    phase: str = ""
    placement: str = ""
    key: str = ""
    note: str = ""
    """Why it is this network of the run."""
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def measured(self) -> bool:
        """Whether each block was frozen and taken out by itself."""
        return all(block.frozen is not None for block in self.blocks)

    @property
    def terms(self) -> Terms:
        """How its numbers are called."""
        return Terms(metric=self.metric, unit=self.unit, classes=self.classes)

    @property
    def sentences(self) -> tuple[str, ...]:
        """What the numbers say: of the network, then of each block."""
        return (*self.of_network, *self.of_blocks)

    @property
    def of_network(self) -> tuple[str, ...]:
        """The network as a whole: what its blocks are, all of them frozen at once, and early against late ones."""
        together = all_sentence(self.all_frozen, self.all_removed, len(self.blocks), self.terms)
        count = count_sentence(self.blocks, named=blocks_in(self.placement)) if self.measured else ""
        # The spread of a constant lies nowhere.
        trend = "" if any(block.does == "constant" for block in self.blocks) else trend_sentence(self.trend)
        others = (f"The block in {path} was not looked at: {reason}." for path, reason in self.others)
        return (*filter(None, (count, together, trend)), *others)

    @property
    def of_blocks(self) -> tuple[str, ...]:
        """One text for each block."""
        return tuple(block_sentence(block, self.terms) for block in self.blocks)

    def as_json(self) -> dict[str, Any]:
        """What ``se-nas explain --json`` prints."""
        return {**to_plain(self), "sentences": list(self.sentences)}

    def table(self) -> pd.DataFrame:
        """One row for each block; see `blocks_table`."""
        return blocks_table(self.blocks)

    def channels(self) -> pd.DataFrame:
        """One row for each channel of each block; see `channels_table`."""
        return channels_table(self)

    def __repr__(self) -> str:
        """The sentences."""
        return "\n  ".join((f"Explanation({len(self.blocks)} blocks, {self.images:,} images)", *self.sentences))


def blocks_table(blocks: Sequence[Excitation]) -> pd.DataFrame:
    """One row for each block, with every number of it; of what was not measured, nothing."""
    rows = []
    for block in blocks:
        row: dict[str, Any] = {
            "block": block.block, "module": block.module, "unit": block.unit, "channels": block.channels,
            "size": "x".join(map(str, block.size)), "runs": block.runs, "mean_gate": block.mean_gate,
            "variation": block.variation, "at_zero": block.saturation.at_zero, "at_one": block.saturation.at_one,
            "at_top": block.saturation.at_top, "does": block.does, "treats": block.treats,
            "params": block.params, "macs": block.macs,
            "milliseconds": None if block.milliseconds is None else block.milliseconds.value,
        }  # fmt: skip
        share = to_plain(block.between) if block.between is not None else dict.fromkeys(ClassShare.__annotations__)
        row |= {f"class_{name}": value for name, value in share.items()}
        for name, change in (("frozen", block.frozen), ("removed", block.removed)):
            row[f"{name}_changed"] = None if change is None else change.changed
            paired = None if change is None else change.paired
            facts = to_plain(paired) if paired is not None else dict.fromkeys(Paired.__annotations__)
            row |= {f"{name}_{fact}": value for fact, value in facts.items()}
        rows.append(row)
    return pd.DataFrame(rows)


def channels_table(found: Explanation) -> pd.DataFrame:
    """One row for each channel of each block: mean and sd over images, class share, and means of the shown classes."""
    rows = []
    for block in found.blocks:
        for channel, (mean, sd) in enumerate(zip(block.mean, block.sd, strict=True)):
            row: dict[str, Any] = {"block": block.block, "channel": channel, "mean": mean, "sd": sd}
            row["class_share"] = block.shares[channel] if block.shares else None
            means = zip(found.shown_names, block.class_means, strict=bool(block.class_means))
            row |= {f"mean_of_{name}": values[channel] for name, values in means}
            rows.append(row)
    return pd.DataFrame(rows)


def read_explanation(run: Path) -> Explanation | None:
    """What ``se-nas explain`` left in a run folder; None if there is nothing, RunError if it is broken."""
    file = run / FOLDER / RECORD
    if not file.is_file():
        return None
    hint = "remove it, or explain the run again"
    try:
        text = text_of(file, largest=LARGEST_JSON)
        return from_json(text, Explanation, where=str(file))
    except (OSError, UnreadableError, RunError) as error:
        raise RunError(f"{RECORD} is broken: {error}", where=str(file), hint=hint) from error
