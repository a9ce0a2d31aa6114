"""Networks of a run whose SE blocks were folded away: the accuracy of SE at the cost of what is left of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from se_nas.core.documents import LARGEST_JSON, UnreadableError, text_of
from se_nas.core.errors import RunError
from se_nas.core.files import write_atomically
from se_nas.core.serialization import from_json, to_json
from se_nas.core.words import blocks_in, in_words, kinds_in, listed, scale_of

FILE = "folded.json"
"""In a run folder: what its exports folded, the last one of each network."""


@dataclass(frozen=True, kw_only=True)
class FoldedPoint:
    """A trained network of the run that was folded.

    ``placement`` is that of the training, ``left`` what is left of it; ``costs`` are the exact ones of the folded
    network. ``difference``, ``low`` and ``high`` (90 % interval) are what folding gains, in units of ``metric``;
    None where images have no score. ``margin`` is the loss that was allowed.
    """

    trial: int
    key: str
    placement: str
    left: str
    folded: int
    blocks: int
    images: int
    margin: float
    costs: dict[str, float]
    metric: str = ""
    unit: str = ""
    difference: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def free(self) -> bool:
        """Whether no SE block is left: each was one constant, or fixing its gates cost less than the margin."""
        return self.folded == self.blocks

    @property
    def sentence(self) -> str:
        """What it means for who ships the network."""
        factor, _, unit = scale_of(self.unit)
        kind = blocks_in(self.placement)
        who = f"{in_words(self.placement)} (trial {self.trial})"
        if self.difference is None or self.low is None or self.high is None:
            same = "the same outputs"
        else:
            span = f"{factor * self.low:+.2f} to {factor * self.high:+.2f}"
            same = f"{self.metric} {factor * self.difference:+.2f} {unit}".rstrip() + f" ({span})"
            same += f" against the network as it was trained, on {self.images:,} validation images"
        if self.free:
            return (
                f"Train with {listed(kinds_in(self.placement))}, ship without: all {self.blocks} {kind} of {who} fold "
                f"away, {same}, cost of no SE."
            )
        return f"{self.folded} of {self.blocks} {kind} of {who} fold away: {same}; {in_words(self.left)} is left."


def read_folded(run: Path) -> tuple[FoldedPoint, ...]:
    """The folded networks of a run; RunError if their file is broken."""
    file = run / FILE
    if not file.is_file():
        return ()
    try:
        return from_json(text_of(file, largest=LARGEST_JSON), tuple[FoldedPoint, ...], where=str(file))
    except (OSError, UnreadableError, RunError) as error:
        raise RunError(f"{FILE} is broken: {error}", where=str(file), hint="remove it, or export again") from error


def keep_folded(run: Path, point: FoldedPoint) -> None:
    """Add a folded network to those of the run, in place of an earlier one of the same training."""
    others = tuple(known for known in read_folded(run) if known.trial != point.trial)
    write_atomically(run / FILE, to_json((*others, point), indent=1))
