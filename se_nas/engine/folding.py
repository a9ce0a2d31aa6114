"""SE for free: which SE blocks of a trained network can be folded away, and what that changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from se_nas.analysis.excitation import Change, Paired
from se_nas.backbones.adapt import logits_of
from se_nas.backbones.forward import left_alone
from se_nas.core.errors import DataError
from se_nas.engine.explaining import Shown, look_at
from se_nas.engine.knock_outs import FROZEN, Fixed, Scored, Scoring, knock_out, paired_with
from se_nas.insertion.folding import Fold, fold_gates
from se_nas.insertion.gates import collect_gates, fixed_gates, gate_statistics
from se_nas.insertion.se_blocks import Watchable

MARGIN = 0.001
"""Loss of a share, such as accuracy, up to which a block is folded away where nobody says otherwise."""

EXACT = 1e-6
"""Variation of gates up to which they are one constant: that of rounding."""

EQUAL = 1e-5
"""Largest difference of the folded network from the one with fixed gates, over the largest output."""


@dataclass(frozen=True, kw_only=True)
class Folded:
    """A network whose constant SE blocks are folded into the neighbouring weights.

    Attributes
    ----------
    network:
        In eval mode; without the blocks that `folds` names with what took them in.
    folds:
        Every block of the network: folded, or with the reason why not.
    margin:
        In units of the metric.
    paired:
        The folded network beside the trained one, on the same images; None where images have no score.
    changed:
        Share of the predictions that differ (of classes), else the change of the output against its size.
    difference:
        Largest difference from the trained network with these gates fixed, over the largest output.
    """

    network: nn.Module
    folds: tuple[Fold, ...]
    images: int
    margin: float
    metric: str
    unit: str
    paired: Paired | None
    changed: float | None
    difference: float

    @property
    def blocks(self) -> tuple[str, ...]:
        """Modules of the blocks that are folded."""
        return tuple(fold.block for fold in self.folds if fold.into)


def fold_network(
    network: nn.Module, shown: Shown, *, scoring: Scoring | None, margin: float = MARGIN, classes: bool | None = None
) -> Folded:
    """Fold away the SE blocks of a trained network that can be replaced by a constant.

    A block is folded if its gates are one constant but for rounding; or if fixing them at their mean over the images
    costs less than the margin: alone, corrected for all blocks, and together with all others that are folded, corrected
    for the sets that are tried (the cheapest one, the two cheapest, ...). The network is left as it was.

    Parameters
    ----------
    shown:
        Images that the network was not trained on.
    scoring:
        How images are scored; None where nothing but exact constants can be folded.
    margin:
        In units of the metric.

    Raises
    ------
    BackboneError
        If the network fails on an image, or has no SE block that can be looked at.
    DataError
        If there are fewer than two images.
    """
    seen, like = look_at(network, shown)
    shape = tuple(shown.images.shape[1:])
    whether = shown.gives_classes if classes is None else classes
    with left_alone(seen.network, train=False):
        gates = collect_gates(seen.network, (images for images, _ in shown.batches(like)), kept=seen.kinds)
        means = {name: values.mean(0, keepdim=True) for name, values in gates.items()}
        variation = {block.block: block.variation for block in gate_statistics(gates)}
        own = {b.module: {n: g for n, g in means.items() if n.partition(" (")[0] == b.module} for b in seen.blocks}
        constant = {module for module, fixed in own.items() if all(variation[name] <= EXACT for name in fixed)}
        alone = _changes(seen, own, shown, like, scoring, whether)
        reasons: dict[str, str] = {}
        for module, change in alone.items():
            if module not in constant and not change.costs_less_than(margin):
                reasons[module] = _why_kept(change, scoring)
        can, plan = _foldable(network, {m: f for m, f in own.items() if m not in reasons}, shape)
        reasons |= can
        order = sorted(plan, key=lambda m: (m not in constant, _loss(alone[m])))
        sets = {str(k): {n: g for m in order[:k] for n, g in own[m].items()} for k in range(1, len(order) + 1)}
        together = _changes(seen, sets, shown, like, scoring, whether)
        exact = sum(m in constant for m in order)
        good = [k for k in range(1, len(order) + 1) if k <= exact or together[str(k)].costs_less_than(margin)]
        count = max(good, default=0)
        reasons |= dict.fromkeys(order[count:], "together with the others it may cost the margin")
        chosen = {module: own[module] for module in order[:count]}
        folded, folds = fold_gates(network, {m: _gate(fixed) for m, fixed in chosen.items()}, shape)
        fixed = {n: g for f in chosen.values() for n, g in f.items()}
        apart, changed, paired = _beside(seen, folded, fixed, shown, like, scoring, classes=whether)
    if apart > EQUAL:
        raise DataError(
            f"the folded network differs from the one with fixed gates by {apart:.1e} of its largest output",
            allowed=[f"at most {EQUAL:g}"],
            hint="the network does more with a folded tensor than its recorded run shows: leave it unfolded",
        )
    kept = tuple(Fold(block=b.module, reason=reasons[b.module]) for b in seen.blocks if b.module in reasons)
    others = tuple(Fold(block=path, reason=reason) for path, reason in seen.others)
    return Folded(
        network=folded, folds=(*folds, *kept, *others), images=len(shown.images), margin=margin,
        metric="" if scoring is None else scoring.metric, unit="" if scoring is None else scoring.unit,
        paired=paired, changed=changed, difference=apart,
    )  # fmt: skip


def _gate(fixed: Fixed) -> Tensor:
    return torch.stack([gate.flatten() for gate in fixed.values()]).mean(0)


def _loss(change: Change) -> float:
    return float(change.changed or 0.0) if change.paired is None else -change.paired.difference


def _why_kept(change: Change, scoring: Scoring | None) -> str:
    if change.paired is None or scoring is None:
        return "its gates vary, and images have no score that could say what that is worth"
    factor, unit = (100.0, " points") if scoring.unit == "share" else (1.0, f" {scoring.unit}".rstrip())
    seen = f"fixing its gates changes {scoring.metric} by {factor * change.paired.difference:+.2f}{unit}"
    return f"{seen}, and a loss of up to {factor * -change.paired.family_low:.2f}{unit} cannot be ruled out"


def _foldable(network: nn.Module, own: Mapping[str, Fixed], shape: tuple[int, ...]) -> tuple[dict[str, str], list[str]]:
    """Blocks that no layer beside them can take in, with the reason; and those that some can."""
    _, folds = fold_gates(network, {module: _gate(fixed) for module, fixed in own.items()}, shape)
    return {f.block: f.reason for f in folds if not f.into}, [f.block for f in folds if f.into]


def _changes(
    seen: Watchable, fixed: Mapping[str, Fixed], shown: Shown, like: Tensor, scoring: Scoring | None, classes: bool
) -> dict[str, Change]:
    """What becomes of the network with each of these sets of fixed gates, by name, as one family of claims."""
    if not fixed:
        return {}
    wanted = {(FROZEN, name): gates for name, gates in fixed.items()}
    found = knock_out(seen, wanted, shown.batches(like), scoring, classes=classes)
    return {name: change for (_, name), change in found.changes.items()}


def _beside(
    seen: Watchable,
    folded: nn.Module,
    fixed: Fixed,
    shown: Shown,
    like: Tensor,
    scoring: Scoring | None,
    *,
    classes: bool,
) -> tuple[float, float | None, Paired | None]:
    """The folded network beside the one with fixed gates (largest difference), and beside the trained one."""
    apart, largest, other, squares, total = 0.0, 0.0, 0, 0.0, 0.0
    scores: list[list[np.ndarray]] = [[], []]
    known = True
    runs = Scored(seen.network, scoring), Scored(folded, scoring)
    for images, labels in shown.batches(like):
        (whole, score), (after, score_after) = (run(images, labels) for run in runs)
        scores[0].append(score)
        scores[1].append(score_after)
        with fixed_gates(seen.network, fixed, kept=seen.kinds):
            frozen = logits_of(seen.network(images))
        if whole is None or after is None or frozen is None:
            known = False
            continue
        apart = max(apart, float((after - frozen).abs().max()))
        largest = max(largest, float(frozen.abs().max()))
        classes = classes and whole.dim() == 2
        if classes:
            other += int((whole.argmax(1) != after.argmax(1)).sum())
        squares += float((after - whole).double().square().sum())
        total += float(whole.double().square().sum())
    if not known:
        raise DataError("the network gives no single tensor", hint="only such a network can be shown to be equal")
    changed = other / len(shown.images) if classes else float(np.sqrt(squares / max(total, 1e-24)))
    paired = None if scoring is None else paired_with([np.concatenate(each) for each in scores], scoring)[0]
    return apart / max(largest, 1e-12), changed, paired
