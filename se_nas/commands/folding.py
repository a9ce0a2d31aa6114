"""Export of a network whose constant SE blocks are folded away: SE in training, none in what is shipped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn

from se_nas.analysis.folded_points import FoldedPoint
from se_nas.analysis.margin import margin_of
from se_nas.backbones.adapt import logits_of
from se_nas.backbones.build import build_backbone
from se_nas.commands.explain import shown_images
from se_nas.core.errors import RunError
from se_nas.core.placement import NONE, Placement
from se_nas.core.trial import Trial
from se_nas.core.words import blocks_in
from se_nas.engine.block_times import before_and_after
from se_nas.engine.explaining import ACCURACY, Shown
from se_nas.engine.folding import EQUAL, MARGIN, Folded, fold_network
from se_nas.engine.gates import Trained, units_of_blocks
from se_nas.exports.bundle import Exported, FoldedBlock, FoldedFrom
from se_nas.exports.images import part_images
from se_nas.insertion.insert import build_candidate
from se_nas.runtimes.table import open_runtimes
from se_nas.space.exact_cost import CostModel
from se_nas.space.space import Space

TRAINED_ON = "The network was also trained on these images; new images may give another result."


@dataclass(frozen=True, kw_only=True)
class FoldedExport:
    """What is exported: the record of the folded network, and its weights by name."""

    record: Exported
    weights: dict[str, torch.Tensor]

    def point(self, trial: Trial) -> FoldedPoint:
        """What the report of the run shows of it."""
        facts = self.record.folded
        assert facts is not None  # noqa: S101  # it is what makes it one
        return FoldedPoint(
            trial=trial.number, key=trial.placement.key, placement=trial.placement.label,
            left=self.record.placement.label, folded=len(facts.taken), blocks=len(facts.blocks), images=facts.images,
            margin=facts.margin, costs={name: cost.value for name, cost in self.record.costs.items()},
            metric=facts.metric, unit=facts.unit, difference=facts.difference, low=facts.low, high=facts.high,
        )  # fmt: skip

    def write_weights(self, file: Path) -> Path:
        safetensors.torch.save_file(self.weights, file)
        return file


def fold(
    network: nn.Module,
    images: torch.Tensor | Iterable[Any],
    labels: torch.Tensor | Sequence[int] | None = None,
    *,
    margin: float = MARGIN,
) -> Folded:
    """Fold effectively constant SE blocks of any network into the neighbouring weights.

    The network itself is not changed; `Folded.network` is the folded copy, `Folded.folds` says what was done with each
    block.

    Parameters
    ----------
    network, images, labels:
        As for `se_nas.explain`. Without labels only blocks with exactly constant gates are folded.
    margin:
        Loss of accuracy, between 0 and 1, up to which a block is folded; see `se_nas.engine.folding.fold_network`.

    Raises
    ------
    SeNasError
        If the network fails on an image or has no SE block, or labels do not fit.
    """
    shown = shown_images(images, labels)
    return fold_network(network, shown, scoring=ACCURACY if shown.numbered else None, margin=margin)


def fold_trial(
    trained: Trained,
    trial: Trial,
    record: Exported,
    *,
    space: Space,
    margin: float | None,
    runtimes: Sequence[str] = (),
) -> FoldedExport:
    """Fold the network of a trial on its validation images, and describe what is left.

    Parameters
    ----------
    record:
        Of the network as it was trained.
    margin:
        Loss up to which a block is folded: points where the metric is a share, else in its unit; see `fold_network`.
        None for the default: 0.1 points, and exact constants only for another metric.

    runtimes:
        Latencies that are measured before and after, by the names of their costs.

    Raises
    ------
    RunError
        If no block can be folded.
    """
    if not trial.placement.blocks:
        raise RunError(f"trial {trial.number} has no SE block to fold", hint="choose a trial with SE: --select trial=N")
    network = trained.network(trial)
    part = part_images(trained.run, trained.data, "val")
    shown = Shown(images=part.images, labels=part.labels, classes=trained.data.classes)
    scoring = trained.scoring(trial, network, shown) if part.real else None
    unit = "" if scoring is None else scoring.unit
    limit = margin_of(margin, unit=unit, baseline=None) if margin is not None else MARGIN if unit == "share" else 0.0
    folded = fold_network(network, shown, scoring=scoring, margin=limit)
    if not folded.blocks:
        reasons = "\n  ".join(f"{fold.block}: {fold.reason}" for fold in folded.folds[:5])
        more = "" if len(folded.folds) <= 5 else f"\n  and {len(folded.folds) - 5} more"
        one = blocks_in(trial.placement.label).removesuffix("s")
        raise RunError(
            f"no {one} of trial {trial.number} can be folded away within the margin, judged on {folded.images} "
            f"validation images\n  {reasons}{more}",
            hint="se-nas explain says what each block does; --fold-margin X allows a larger loss",
        )
    units = units_of_blocks(trained.units, trial.placement)
    placement = _without(trial.placement, [units[block] for block in folded.blocks], space)
    weights = _weights_of(folded, trained, placement)
    data = trained.data
    backbone = build_backbone(
        trained.backbone, num_classes=len(data.classes) or None, input_shape=data.input_shape, seed=0
    )
    costs = CostModel(backbone, trained.units, data.input_shape)
    before, after = costs(trial.placement), costs(placement)
    facts = _facts(folded, trial.placement, note=TRAINED_ON if data.includes_val else "")
    open_on = open_runtimes(runtimes, device=torch.device("cpu"), threads=1)
    facts = replace(
        facts, params_saved=before.params - after.params, macs_saved=before.macs - after.macs,
        milliseconds=tuple(
            before_and_after(network, folded.network, data.input_shape, runtime) for runtime in open_on.values()
        ),
    )  # fmt: skip
    return FoldedExport(
        record=replace(
            record, key=placement.key, placement=placement, costs=after.values(), metrics={}, estimate=None,
            folded=facts,
        ),
        weights=weights,
    )  # fmt: skip


def _without(placement: Placement, folded: list[str], space: Space) -> Placement:
    """The placement without the blocks of some units."""
    choices = {**placement.choices, **dict.fromkeys(folded, NONE)}
    left = Placement(choices=choices)
    if (levels := space.find(left)) is not None:
        return space.placement(levels)
    shown = [f"{name}={choice.label}" for name, choice in choices.items() if choice.kind != "none"]
    return replace(left, label=",".join(shown) or "none")


def _weights_of(folded: Folded, trained: Trained, placement: Placement) -> dict[str, torch.Tensor]:
    """The weights under the names that the network of the placement has for them; RunError if it has others."""
    data = trained.data
    bare = build_candidate(
        trained.backbone, trained.units, placement,
        num_classes=len(data.classes) or None, input_shape=data.input_shape, seed=0,
    )  # fmt: skip
    state = folded.network.state_dict()
    if lacking := sorted(bare.state_dict().keys() - state.keys()):
        raise RunError(f"the network without the folded blocks has a weight {lacking[0]!r}, which was not trained")
    weights = {name: state[name].contiguous().clone() for name in bare.state_dict()}
    bare.load_state_dict(weights)
    _check_equal(bare.eval(), folded, data.input_shape)
    return weights


def _check_equal(bare: nn.Module, folded: Folded, input_shape: tuple[int, ...]) -> None:
    images = torch.randn(4, *input_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        given, wanted = (logits_of(network(images)) for network in (bare, folded.network))
    if given is None or wanted is None:
        raise RunError("the network gives no single tensor", hint="only such a network can be shown to be equal")
    if float((given - wanted).abs().max()) > EQUAL * float(wanted.abs().max()):
        raise RunError("the network without the folded blocks is not the folded one", hint="export it unfolded")


def _facts(folded: Folded, placement: Placement, *, note: str) -> FoldedFrom:
    facts = FoldedFrom(
        placement=placement.label, key=placement.key,
        blocks=tuple(FoldedBlock(block=f.block, into=f.into, reason=f.reason) for f in folded.folds),
        images=folded.images, margin=folded.margin, metric=folded.metric, unit=folded.unit, changed=folded.changed,
        apart=folded.difference, note=note,
    )  # fmt: skip
    if (paired := folded.paired) is None:
        return facts
    return replace(facts, value=paired.value, difference=paired.difference, low=paired.low, high=paired.high)
