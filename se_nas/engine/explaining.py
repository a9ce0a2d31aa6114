"""What the SE blocks of a trained network do, measured on images."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from se_nas.analysis.class_share import Numbers, can_be_shared, class_shares, is_constant, share_between
from se_nas.analysis.excitation import NEAR, Excitation, Saturation
from se_nas.analysis.explanation import Explanation
from se_nas.backbones.adapt import logits_of
from se_nas.backbones.forward import left_alone
from se_nas.core.errors import BackboneError, CostError, DataError
from se_nas.engine.knock_outs import FROZEN, REMOVED, Score, Scoring, knock_out, wanted_changes
from se_nas.insertion.attention.base import ChannelGate
from se_nas.insertion.attention.build import Gate
from se_nas.insertion.block import SEBlock
from se_nas.insertion.gates import collect_gates, gate_statistics
from se_nas.insertion.insert import remove_block
from se_nas.insertion.se_blocks import FoundBlock, Watchable, watchable
from se_nas.samplers.features import Array
from se_nas.space.exact_cost import cost
from se_nas.training.provenance import versions

BATCH = 32

SHOWN = 5
"""Classes whose mean gates are kept, as many as the SE paper shows: evenly spaced by their numbers."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """The images on which a network is explained.

    ``images`` (n, channels, *size), as the network takes them; ``labels`` (n, ...), empty if there are none;
    ``classes``: the names of the classes, by their numbers.
    """

    images: Tensor
    labels: Tensor = field(default_factory=lambda: torch.empty(0))
    classes: tuple[str, ...] = ()

    @property
    def numbers(self) -> Numbers | None:
        """The class of each image; None where labels are no class numbers, or say nothing of these images."""
        if not self.numbered:
            return None
        numbers = self.labels.cpu().numpy().astype(np.int64)
        return numbers if can_be_shared(numbers) else None

    @property
    def gives_classes(self) -> bool:
        """Whether what a network gives for them is a class each."""
        return bool(self.classes) or self.numbered

    @property
    def numbered(self) -> bool:
        """Whether labels are class numbers."""
        return len(self.labels) > 0 and self.labels.dim() == 1 and not self.labels.is_floating_point()

    def name(self, number: int) -> str:
        return self.classes[number] if 0 <= number < len(self.classes) else str(number)

    def batches(self, like: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Images and labels, `BATCH` at a time, on the device and in the type of a weight."""
        pairs = torch.split(self.images, BATCH), torch.split(self.labels, BATCH)
        for number, images in enumerate(pairs[0]):
            labels = pairs[1][number] if len(self.labels) else self.labels
            yield images.to(like.device, like.dtype), labels.to(like.device)


def right(network: nn.Module) -> Score:
    """Whether the likeliest class of each image is its label: 0 or 1."""

    def score(images: Tensor, labels: Tensor) -> Tensor:
        logits = logits_of(network(images))
        if logits is None or logits.dim() != 2:
            raise DataError(
                f"{type(network).__name__} gives no logits (batch, classes) to compare class numbers with",
                hint="leave the labels out: then only the change of the output is measured",
            )
        return (logits.argmax(1) == labels).float()

    return score


ACCURACY = Scoring(of=right, metric="accuracy", unit="share", direction="maximize")


def look_at(network: nn.Module, shown: Shown) -> tuple[Watchable, Tensor]:
    """The network with its SE blocks, and a weight whose device and type images must have.

    DataError for fewer than two images; BackboneError if the network fails on them, or no block can be looked at.
    """
    if len(shown.images) < 2:
        raise DataError(f"gates cannot be looked at on {len(shown.images)} images", allowed=["at least two images"])
    seen = watchable(network, tuple(shown.images.shape[1:]))
    if not seen.blocks:
        reasons = "; ".join(f"{path}: {reason}" for path, reason in seen.others)
        raise BackboneError(f"no SE block of {type(network).__name__} can be looked at: {reasons}")
    return seen, next((p for p in network.parameters() if p.is_floating_point()), torch.empty(0))


def explain_network(
    network: nn.Module, shown: Shown, *, scoring: Scoring | None = None, each: bool = True
) -> Explanation:
    """What the SE blocks of a network do on images; the network is left as it was.

    Parameters
    ----------
    scoring:
        None leaves the change of the output alone.
    each:
        Whether every block is frozen and taken out by itself, too: two passes over the images for each block.

    Raises
    ------
    BackboneError
        If the network fails on an image, or has no SE block that can be looked at.
    DataError
        If there are fewer than two images.
    """
    seen, like = look_at(network, shown)
    input_shape = tuple(shown.images.shape[1:])
    with left_alone(seen.network, train=False):
        gates = collect_gates(seen.network, (images for images, _ in shown.batches(like)), kept=seen.kinds)
        found = knock_out(
            seen, wanted_changes(seen, gates, each=each), shown.batches(like), scoring, classes=shown.gives_classes
        )
    values = [_of_images(gates, block.module) for block in seen.blocks]
    numbers = shown.numbers
    shares, trend = ([None] * len(values), None) if numbers is None else class_shares(values, numbers)
    kept = () if numbers is None else _evenly(numbers)
    return Explanation(
        blocks=tuple(
            Excitation(
                block=_path(network, block), module=block.path, size=block.size,
                kind="written" if block.layers else block.kind,
                channels=block.channels, runs=block.runs, **_statistics(value),
                saturation=_saturation(seen.network.get_submodule(block.module), value), between=share,
                **_by_class(value, numbers, kept), **_costs(network, block, input_shape),
                frozen=found.changes.get((FROZEN, block.module)), removed=found.changes.get((REMOVED, block.module)),
            )
            for block, value, share in zip(seen.blocks, values, shares, strict=True)
        ),
        images=len(shown.images), classes=found.classes, labelled=0 if numbers is None else len(np.unique(numbers)),
        shown=kept, shown_names=tuple(map(shown.name, kept)), metric="" if scoring is None else scoring.metric,
        unit="" if scoring is None else scoring.unit,
        direction="maximize" if scoring is None else scoring.direction, value=found.value,
        all_frozen=found.changes.get((FROZEN, "")), all_removed=found.changes.get((REMOVED, "")), trend=trend,
        others=seen.others, versions=versions(),
    )  # fmt: skip


def _of_images(gates: Mapping[str, Tensor], module: str) -> Array:
    """The gates of a block (images, channels); of one that runs several times, those of its runs side by side."""
    runs = [values for name, values in gates.items() if name.partition(" (")[0] == module]
    return torch.cat(runs, dim=1).double().numpy()


def _statistics(values: Array) -> dict[str, Any]:
    (found,) = gate_statistics({"": torch.from_numpy(values)})
    return {"mean": tuple(found.mean.tolist()), "sd": tuple(found.sd.tolist()), "variation": found.variation}


def _saturation(module: nn.Module, values: Array) -> Saturation:
    ends: dict[str, float] = {}
    if isinstance(module, SEBlock) and module.gate != "relu":  # which has no end
        top = module.gate_offset + module.gate_scale
        ends = {"top": top, "at_top": float((np.abs(values - top) <= NEAR * abs(module.gate_scale)).mean())}
    elif isinstance(module, ChannelGate) and (most := module.top) is not None:
        ends = {"top": most, "at_top": float((np.abs(values - most) <= NEAR * most).mean())}
    at_zero, at_one = (float((np.abs(values - end) <= NEAR).mean()) for end in (0, 1))
    return Saturation(at_zero=at_zero, at_one=at_one, **ends)


def _evenly(numbers: Numbers) -> tuple[int, ...]:
    """Up to `SHOWN` of the classes that there are."""
    there = np.unique(numbers)
    places = np.linspace(0, len(there) - 1, min(SHOWN, len(there))).round().astype(int)
    return tuple(int(number) for number in there[places])


def _by_class(values: Array, numbers: Numbers | None, kept: tuple[int, ...]) -> dict[str, Any]:
    """The class share of each channel, and the mean gates of the classes that are shown."""
    if numbers is None:
        return {}
    shares = (0.0 if is_constant(channel[:, None]) else share_between(channel, numbers) for channel in values.T)
    return {"shares": tuple(shares), "class_means": tuple(tuple(values[numbers == n].mean(0).tolist()) for n in kept)}


def _costs(network: nn.Module, block: FoundBlock, input_shape: tuple[int, ...]) -> dict[str, Any]:
    """Parameters and multiply-adds that the block adds, as the exact cost model counts them; nothing if it cannot."""
    try:
        if block.layers:
            without = copy.deepcopy(network)
            remove_block(without, block.site)
            found = cost(network, input_shape=input_shape) - cost(without, input_shape=input_shape)
        else:
            alone = cost(network.get_submodule(block.path), input_shape=(block.channels, *block.size))
            found = alone.times(block.runs)
    except CostError:
        return {}
    return {"params": found.params, "macs": found.macs}


def _path(network: nn.Module, block: FoundBlock) -> str:
    """The path of a block, without its own name where it was put there."""
    head, _, name = block.path.rpartition(".")
    ours = not block.layers and isinstance(network.get_submodule(block.path), Gate)
    return head if ours and head and name.startswith("se_") else block.path
