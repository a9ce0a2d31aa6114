"""What a confirm found, as ``RUN/confirm.json`` holds it.

Numbers are in the metric's own unit and sign. What is not known is null: with one seed there is no noise estimate.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from se_nas.analysis.by_class import ByClass
from se_nas.analysis.looks import Looks
from se_nas.core.errors import RunError
from se_nas.core.files import write_atomically
from se_nas.core.placement import Placement
from se_nas.core.serialization import SCHEMA_VERSION, from_json, to_json
from se_nas.core.trial import CostValue, Direction

CONFIRMED = "confirm.json"


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The metric of a network over fresh seeds, on one part of the data."""

    values: dict[str, float]
    """By seed."""
    mean: float
    sd: float | None = None
    """Over seeds."""
    interval: tuple[float, float] | None = None
    """90 %. On the validation set by seeds; on the test set by seeds and the finite set of images."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A network against another one, on the test set: network minus other."""

    mean: float
    interval: tuple[float, float] | None = None
    """90 %, of this difference by itself."""
    family_interval: tuple[float, float] | None = None
    """90 %, for all finalists at once: what a claim rests on."""
    p: float | None = None
    """One-sided, of this difference by itself."""
    family_p: float | None = None
    """One-sided, adjusted for all finalists."""
    beats: bool = False
    error: float | None = None
    """Standard error of the mean."""
    image_error: float | None = None
    """The part of it by the finite set of test images, which more seeds do not reduce."""


@dataclass(frozen=True, kw_only=True)
class Confirmed:
    """One network of a confirm."""

    key: str
    label: str
    placement: Placement
    role: str
    trial: int | None = None
    """Its trial in the search."""
    trials: dict[str, int] = field(default_factory=dict)
    """Seed -> trial of the confirm, whose weights are ``weights/confirm-N.safetensors``."""
    costs: dict[str, CostValue] = field(default_factory=dict)
    validation: Estimate
    test: Estimate | None = None
    promised: float | None = None
    """Posterior mean of the search, on the validation set."""
    observed: float | None = None
    """Its single training in the search."""
    optimism: float | None = None
    """By how much the promise was too good: positive when it was, whatever the direction of the metric."""
    observed_optimism: float | None = None
    against: dict[str, Difference] = field(default_factory=dict)
    failed: int = 0
    """Seeds with which every attempt failed."""
    stopped_after: int | None = None
    """After so many seeds it was trained no more, since it was settled or beaten; None if it had all seeds."""


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Standard deviations on the test set, pooled over networks."""

    seed_sd: float
    image_sd: float | None
    """Of a difference of two networks, by the finite set of images: the median over the comparisons.

    Null if a trainer's test gives one number for all images: intervals and claims then hold for these very images.
    """
    seed_correlation: float
    degrees: float


@dataclass(frozen=True, kw_only=True)
class Sentence:
    """A statement with the numbers that it rests on."""

    text: str
    numbers: dict[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What to do, in words. ``search``: provisional."""

    phase: str
    claim: str
    """``use``; ``without``: not worth it; ``undecided``: neither is shown; ``unknown``: nothing can be said."""
    network: str | None = None
    """Key of the network that is recommended."""
    sentences: tuple[Sentence, ...] = ()
    cautions: tuple[Sentence, ...] = ()
    """Why the trainings may say little, whatever the claim is: to be read before it."""
    reasons: tuple[Sentence, ...] = ()
    """Why SE may not have helped, where the claim is that it did not, or that nobody can tell."""

    @property
    def texts(self) -> tuple[str, ...]:
        """All of it in the order in which it is to be read."""
        return tuple(sentence.text for sentence in (*self.cautions, *self.sentences, *self.reasons))


@dataclass(frozen=True, kw_only=True)
class Rounds:
    """A confirm that added seeds until the answer stood: after which it could end, and why it ended where it did."""

    looks: Looks
    ended: str = ""


@dataclass(frozen=True, kw_only=True)
class Confirmation:
    """All that a confirm found."""

    schema: int = SCHEMA_VERSION
    metric: str
    direction: Direction
    unit: str
    cost: str
    epochs: int
    search_epochs: int
    seeds: tuple[int, ...]
    level: float = 0.9
    family: tuple[str, ...] = ()
    test_images: int
    """0 if only the trainer knows."""
    openings: int
    winner: str | None = None
    rounds: Rounds | None = None
    """How the number of seeds came about; None if it was fixed beforehand."""
    margin: float = 0.0
    """The smallest gain that is worth its cost, in the metric's unit."""
    seed_seconds: float = 0.0
    """What one more seed for all networks takes, with as many trainings at a time as this confirm had."""
    noise: Noise | None = None
    networks: tuple[Confirmed, ...]
    verdict: Verdict
    by_class: ByClass | None = None
    """Where SE helps, class by class; None where that is not known."""
    seconds: float = 0.0
    started: str = ""
    command: str = ""
    device: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    commit: str = ""

    def __repr__(self) -> str:
        """The verdict and what it rests on, on one screen."""
        head = (
            f"Confirmation({len(self.networks)} networks x {len(self.seeds)} seeds, {self.test_images:,} test images)"
        )
        return "\n  ".join((head, *self.verdict.texts))

    def network(self, key: str | None) -> Confirmed | None:
        """The network of a key."""
        return next((n for n in self.networks if n.key == key), None)

    def of_role(self, role: str) -> Confirmed | None:
        """The reference point of a role."""
        return next((n for n in self.networks if n.role == role), None)


def write_confirmed(folder: Path, confirmation: Confirmation) -> None:
    """Keep what a confirm found in the run folder."""
    write_atomically(folder / CONFIRMED, to_json(confirmation, indent=2))


def read_confirmed(folder: Path) -> Confirmation | None:
    """What the last confirm of a run found, or None; RunError if the file is broken or newer."""
    file = folder / CONFIRMED
    try:
        return from_json(file.read_bytes(), Confirmation, where=str(file))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RunError(f"cannot read {str(file)!r}: {error.strerror}") from error
