"""What a search is about to do, and what it can find out: known before anything is trained."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from se_nas.core.serialization import to_plain
from se_nas.core.words import amount, duration

GUESS = 0.004
"""Standard deviation of one training where nothing is known: 0.15 to 0.6 points were measured on CIFAR-10, CIFAR-100
and the digits, by length of the training."""

GUESSED_ERRORS = 0.1
"""Share of images that a network gets wrong, for the guess."""

OWN = 0.5
"""Part of the noise by the finite set of validation images that two trainings do not have in common. The digits have
less than 0.8 of it, CIFAR-10 at most 0.5."""


STEPS = 8
"""Steps that an epoch should have at least."""


def batch_for(images: int, usual: int) -> int:
    """The usual batch size, or a smaller power of two, 8 at least, that leaves an epoch `STEPS` steps.

    >>> batch_for(50_000, 128), batch_for(400, 128), batch_for(20, 128), batch_for(20, 4)
    (128, 32, 8, 4)
    """
    steps = max(1, images // STEPS)
    return min(usual, max(8, 1 << (steps.bit_length() - 1)))


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Standard deviation of one training around its network's mean, in the metric's unit; None if nobody knows.

    ``trainings`` in ``folder`` have shown it, or else it is ``guessed``.
    """

    sd: float | None
    trainings: int = 0
    folder: str = ""
    epochs: int = 0
    backbone: str = ""
    guessed: bool = False


def guessed_noise(unit: str, images: int) -> Noise:
    """A guess for a share, from the number of validation images; for other metrics there is none.

    With few images a training moves by whole ones: to `GUESS` comes a part of the standard error of a share of
    `GUESSED_ERRORS` among so many.

    >>> [round(guessed_noise("share", images).sd, 4) for images in (10_000, 100)], guessed_noise("nats", 100).sd
    ([0.0043, 0.0155], None)
    """
    if unit != "share" or images < 1:
        return Noise(sd=None, guessed=True)
    finite = OWN * math.sqrt(GUESSED_ERRORS * (1 - GUESSED_ERRORS) / images)
    return Noise(sd=math.hypot(GUESS, finite), guessed=True)


@dataclass(frozen=True, kw_only=True)
class Timing:
    """What one training takes.

    ``memory`` and ``weights`` are bytes: of one training at its worst moment (NaN if not known), and of its file.
    ``warm_up``: by timed steps in the executor; else by trainings of this run.
    """

    seconds: float
    memory: float = math.nan
    weights: float = math.nan
    warm_up: bool = True


@dataclass(frozen=True, kw_only=True)
class Room:
    """Bytes of memory and disk that are free; None if not known. ``device`` says whose memory it is."""

    memory: int | None
    disk: int
    device: str


@dataclass(frozen=True, kw_only=True)
class SearchPlan:
    """A search before it trains anything. Sizes are in bytes, times in seconds, effects in the metric's unit."""

    folder: str
    backbone: str
    data: str
    input_shape: tuple[int, ...]
    classes: int
    """0 if not known."""
    images: tuple[int, int, int] | None
    """Training, validation and test; None if only the trainer knows."""
    decisions: int
    networks: int
    """In the space, within the limits; of a space too large to list, assignments without regard to limits."""
    listed: bool
    budget: int
    trained: int
    """Of the budget, there already."""
    trainings: int
    """To come."""
    epochs: int
    batch_size: int | None = None
    """Images of a step of training; None if only the trainer knows."""
    slots: int
    """Trainings at a time."""
    metric: str
    unit: str
    margin: float | None
    """The smallest gain that is worth its cost; None if that depends on what is reached without SE."""
    noise: Noise = field(default_factory=lambda: Noise(sd=None))
    effect_in_sd: float | None = None
    """What the model estimate can tell, in standard deviations of one; see `detectable_effect`."""
    timing: Timing | None = None
    untimed: str = ""
    """Why there is no timing, in words."""
    max_seconds: float | None = None
    data_bytes: int = 0
    kept_bytes: float = math.nan
    """Of the weights that are kept."""
    room: Room | None = None
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """What it takes and what it can tell, on one line."""
        took = "not timed" if self.seconds is None else f"about {duration(self.seconds)}"
        told = "not known" if self.effect is None else amount(self.effect, self.unit, signed=False)
        return f"SearchPlan({self.trainings:,} trainings of {self.networks:,} networks, {took}, effect {told})"

    def as_json(self) -> dict[str, Any]:
        """What ``se-nas search --plan --json`` prints: all fields, and what follows from them."""
        return {**to_plain(self), "seconds": self.seconds, "effect": self.effect}

    @property
    def seconds(self) -> float | None:
        """Of all trainings to come; None if not known."""
        if self.timing is None or not math.isfinite(self.timing.seconds):
            return None
        total = self.trainings * self.timing.seconds / self.slots
        # The last round may be part empty, and a single training is never shorter than itself.
        total = max(total, self.timing.seconds if self.trainings else 0.0)
        return total if self.max_seconds is None else min(total, self.max_seconds)

    @property
    def effect(self) -> float | None:
        """The effect of SE everywhere that this search can tell from noise, in the metric's unit; None if not known."""
        return None if self.noise.sd is None or self.effect_in_sd is None else self.noise.sd * self.effect_in_sd
