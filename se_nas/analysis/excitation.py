"""One SE block of a trained network: its gates on images, and what becomes of the network without them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from se_nas.analysis.class_share import ClassShare
from se_nas.analysis.statistics import FAMILY_ERROR
from se_nas.core.trial import CostValue

STILL = 0.01
"""Share of predictions (or of the size of the output) that changes when gates are fixed, up to which they count as
constant."""

NEAR = 0.01
"""How near to an end of its range a gate is saturated; the range of a sigmoid is 0 to 1."""

ALIKE, SPECIFIC = 0.1, 0.5
"""Below the first adjusted share between classes a block treats all classes alike; from the second on it is
class-specific."""

Does = Literal["constant", "idle", "needed", "open"]
Treats = Literal["alike", "partly", "specific"]


@dataclass(frozen=True, kw_only=True)
class Paired:
    """The score of a changed network beside that of the whole one, on the same images.

    ``difference`` is what is gained by the change, whatever the direction of the metric: below 0 the changed network is
    worse. ``low`` and ``high`` are its 90 % interval, ``family_low`` and ``family_high`` that of all such changes at
    once, of which each side is missed in 5 % of cases. ``p`` is one-sided, for "the change costs nothing";
    ``family_p`` is corrected for all of them.
    """

    value: float
    """Of the changed network, in units of the metric."""
    difference: float
    low: float
    high: float
    family_low: float
    family_high: float
    p: float
    family_p: float


@dataclass(frozen=True, kw_only=True)
class Change:
    """What becomes of the network when a block is frozen or taken out.

    ``changed`` is the share of the predictions that are then others; where the network gives no class, the change of
    the output against its size; None where it gives no single tensor. ``paired`` is None where images have no score.
    """

    changed: float | None
    paired: Paired | None = None

    @property
    def costs(self) -> bool:
        """Whether the network is worse by more than noise."""
        return self.paired is not None and self.paired.family_p < FAMILY_ERROR

    def costs_less_than(self, margin: float) -> bool:
        """Whether a loss as large as the margin, in units of the metric, is excluded for all changes at once."""
        return self.paired is not None and self.paired.family_low > -margin


@dataclass(frozen=True, kw_only=True)
class Saturation:
    """Shares of the gates, over images and channels, that are within `NEAR` of 0, of 1, and of the end of their range.

    ``top`` is that end where the block is known to have one: 1 for a sigmoid, 2 for ``2 * sigmoid``; ``at_top`` is
    then measured in `NEAR` of it.
    """

    at_zero: float
    at_one: float
    top: float | None = None
    at_top: float | None = None


@dataclass(frozen=True, kw_only=True)
class Excitation:
    """One SE block of a network, on images.

    ``mean`` and ``sd`` are the gates of each channel over the images; a block that runs several times for an image has
    its channels as many times. ``shares`` is the share of each channel's spread that lies between classes, and
    ``class_means`` its mean gate for each of the shown classes (classes x channels); both are empty without labels.
    """

    block: str
    """The path of the block in the network, without its own name where the search put it there."""
    module: str
    """The path of its module; of a block without one, of the module that it is written in."""
    kind: Literal["block", "gate", "written"]
    """What the module gives: the rescaled tensor, the gate alone, or something else in which the block is written."""
    channels: int
    size: tuple[int, ...]
    mean: tuple[float, ...]
    sd: tuple[float, ...]
    variation: float
    """How much gates depend on the image: root mean square of ``sd`` over that of ``mean``; 0 for a constant."""
    saturation: Saturation
    runs: int = 1
    unit: str = ""
    """The unit of the search space that it stands in."""
    between: ClassShare | None = None
    shares: tuple[float, ...] = ()
    class_means: tuple[tuple[float, ...], ...] = ()
    frozen: Change | None = None
    """With every gate at its mean over the images; None if that was not measured."""
    removed: Change | None = None
    """With every gate at 1: the block taken out."""
    params: int | None = None
    macs: int | None = None
    """What the block costs; None if that cannot be said."""
    milliseconds: CostValue | None = None
    """Of one inference; None if that was not measured."""

    @property
    def mean_gate(self) -> float:
        return sum(self.mean) / len(self.mean)

    @property
    def does(self) -> Does:
        """``constant``: the gates do not vary; ``idle``: they do, but fixing them changes next to nothing; ``needed``:

        fixing them makes the network worse by more than noise; else ``open``. What was not frozen is constant or open.
        """
        still = self.variation <= STILL
        if self.frozen is None or self.frozen.changed is None:
            return "constant" if still else "open"
        if self.frozen.costs:
            return "needed"
        return "open" if self.frozen.changed > STILL else "constant" if still else "idle"

    @property
    def treats(self) -> Treats | None:
        """How the block treats classes; None where that is not known, and for a constant, which treats none."""
        if self.between is None or self.does == "constant":
            return None
        if self.between.family_p >= FAMILY_ERROR or self.between.adjusted < ALIKE:
            return "alike"
        return "specific" if self.between.adjusted >= SPECIFIC else "partly"
