"""A trained network with SE blocks frozen or taken out, beside the whole one, on the same images.

All networks run on the same batches, one after the other, so that scores are paired image by image and outputs need
not be kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from se_nas.analysis.excitation import Change, Paired
from se_nas.analysis.paired import losses_of
from se_nas.backbones.adapt import logits_of
from se_nas.core.trial import Direction
from se_nas.insertion.gates import fixed_gates
from se_nas.insertion.se_blocks import Watchable
from se_nas.samplers.features import Array

Score = Callable[[Tensor, Tensor], Tensor]
"""Runs a network on images (batch, channels, *size) with their labels; gives what each image contributes to the metric:
(batch,)."""

Fixed = Mapping[str, Tensor]
"""Gates by the path of a block's module: (1, channels), the same for every image."""

FROZEN, REMOVED = "frozen", "removed"
"""Kinds of changes; those of one kind are one family of claims."""

Name = tuple[str, str]
"""Kind of a change, and the module of its block; empty for all blocks at once."""


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """How the images of a network are scored: `of` makes the score of a network."""

    of: Callable[[nn.Module], Score]
    metric: str
    unit: str
    direction: Direction


@dataclass(frozen=True, kw_only=True)
class KnockOuts:
    """What the changes do. ``classes``: whether the network gives classes; ``value``: the score of the whole one."""

    changes: dict[Name, Change]
    classes: bool
    value: float | None


def wanted_changes(seen: Watchable, gates: Mapping[str, Tensor], *, each: bool) -> dict[Name, Fixed]:
    """All blocks frozen at once; with `each` also every block frozen, every one taken out, and all taken out."""
    frozen = {name: values.mean(0, keepdim=True) for name, values in gates.items()}
    removed = {name: torch.ones_like(values) for name, values in frozen.items()}
    if not each:
        return {(FROZEN, ""): frozen}
    changes: dict[Name, Fixed] = {}
    for kind, fixed in ((FROZEN, frozen), (REMOVED, removed)):
        for block in seen.blocks:
            own = {name: gate for name, gate in fixed.items() if name.partition(" (")[0] == block.module}
            changes[kind, block.module] = own
        changes[kind, ""] = fixed
    return changes


def knock_out(
    seen: Watchable,
    changes: Mapping[Name, Fixed],
    batches: Iterable[tuple[Tensor, Tensor]],
    scoring: Scoring | None,
    *,
    classes: bool,
) -> KnockOuts:
    """Run the network, whole and with each change, on batches of images and labels; without gradients.

    The network is in eval mode. `scoring` None leaves the change of the output alone; `classes` says that an output
    (batch, n) is one of classes.
    """
    network = seen.network
    run = Scored(network, scoring)
    outputs = {name: _Outputs() for name in changes}
    scores: dict[Name | None, list[Array]] = {name: [] for name in (None, *changes)}
    for images, labels in batches:
        whole, score = run(images, labels)
        scores[None].append(score)
        classes = classes and whole is not None and whole.dim() == 2
        for name, fixed in changes.items():
            with fixed_gates(network, fixed, kept=seen.kinds):
                output, score = run(images, labels)
            scores[name].append(score)
            outputs[name].add(whole, output)
    every = {name: np.concatenate(values) for name, values in scores.items()}
    paired = {} if scoring is None else _paired(every, scoring)
    return KnockOuts(
        changes={n: Change(changed=o.changed(classes=classes), paired=paired.get(n)) for n, o in outputs.items()},
        classes=classes,
        value=None if scoring is None else float(every[None].mean()),
    )


class Scored:
    """Runs a network on a batch: its logits, if they are one tensor, and the score of each image, if there is one."""

    def __init__(self, network: nn.Module, scoring: Scoring | None) -> None:
        self._network, self._score = network, None if scoring is None else scoring.of(network)
        self._logits: Tensor | None = None

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor | None, Array]:
        handle = self._network.register_forward_hook(self._keep)
        try:
            if self._score is None:
                self._network(images)
                return self._logits, np.empty(0)
            scores = self._score(images, labels)
            return self._logits, scores.detach().double().cpu().numpy()
        finally:
            handle.remove()

    def _keep(self, _: nn.Module, __: object, output: object) -> None:
        logits = logits_of(output)
        self._logits = None if logits is None else logits.detach().float()


class _Outputs:
    """How much the outputs of a changed network differ from those of the whole one."""

    def __init__(self) -> None:
        self._images, self._other = 0, 0
        self._squares, self._apart = 0.0, 0.0
        self._known = True

    def add(self, whole: Tensor | None, changed: Tensor | None) -> None:
        if whole is None or changed is None:
            self._known = False
            return
        self._images += len(whole)
        if whole.dim() == 2:
            self._other += int((whole.argmax(1) != changed.argmax(1)).sum())
        self._squares += float(whole.double().square().sum())
        self._apart += float((changed.double() - whole.double()).square().sum())

    def changed(self, *, classes: bool) -> float | None:
        if not self._known:
            return None
        if classes:
            return self._other / self._images
        return float(np.sqrt(self._apart / max(self._squares, 1e-24)))


def _paired(scores: Mapping[Name | None, Array], scoring: Scoring) -> dict[Name, Paired]:
    """Scores by change, and of the whole network under None, with the differences of each family."""
    found: dict[Name, Paired] = {}
    for kind in (FROZEN, REMOVED):
        names = [name for name in scores if name is not None and name[0] == kind]
        if not names:
            continue
        found |= zip(names, paired_with([scores[name] for name in (None, *names)], scoring), strict=True)
    return found


def paired_with(scores: Sequence[Array], scoring: Scoring) -> list[Paired]:
    """The scores of changed networks beside those of the whole one, which comes first, as one family of claims."""
    sign = -1.0 if scoring.direction == "minimize" else 1.0
    loss = losses_of(sign * np.stack(scores))
    return [
        Paired(
            value=float(changed.mean()), difference=0.0 - float(loss.mean[k]),
            low=0.0 - float(loss.high[k]), high=0.0 - float(loss.low[k]),
            family_low=0.0 - float(loss.family_high[k]), family_high=0.0 - float(loss.family_low[k]),
            p=float(loss.p[k]), family_p=float(loss.family_p[k]),
        )
        for k, changed in enumerate(scores[1:])
    ]  # fmt: skip
