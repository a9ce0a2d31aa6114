"""The gates of a trained network of a run, measured on its validation images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from se_nas.analysis.findings import Findings
from se_nas.analysis.gate_report import BlockVariation, GateReport
from se_nas.backbones.adapt import logits_of
from se_nas.core.files import weights_file
from se_nas.core.placement import Unit
from se_nas.core.trial import Target, Trial
from se_nas.data.base import DataInfo
from se_nas.exports.images import part_images
from se_nas.insertion.gates import collect_gates, fixed_gates, gate_statistics, kept_blocks
from se_nas.insertion.insert import build_candidate

MACS = 1e11
"""Multiply-adds that all images take together, in one pass: seconds on one core."""

FEWEST, MOST = 32, 1000
"""Images."""

BATCH = 32


def network_to_look_at(found: Findings, run: Path, confirmed: Sequence[Trial] = ()) -> Trial | None:
    """The training with SE whose gates say most: with all its weights there, the best by the confirm or the model.

    Of a confirm its finalists come first, then SE everywhere; of a search the best by the posterior mean.
    """
    candidates = list(confirmed)
    if len(table := found.complete):
        value = found.sign * table["mean"].fillna(table["metric"])
        best_first = table.loc[value.sort_values(ascending=False, kind="stable").index, "trial"]
        trials = {t.number: t for t in found.trials}
        candidates += [trials[int(number)] for number in best_first]
    return next((t for t in candidates if t.placement.blocks and _weights(run, t).is_file()), None)


def measure_gates(run: Path, trial: Trial, *, backbone: Target, units: tuple[Unit, ...], data: DataInfo) -> GateReport:
    """Gates of the network of a trial whose weights are in the run folder, in this process.

    Raises whatever the user's network or data raise.
    """
    network = build_candidate(
        backbone, units, trial.placement, num_classes=len(data.classes) or None, input_shape=data.input_shape, seed=0
    )
    network.load_state_dict(load_file(_weights(run, trial)))
    network.eval()
    macs = trial.costs["macs"].value if "macs" in trial.costs else 1e9
    shown = part_images(run, data, "val", limit=int(min(max(MACS / max(macs, 1.0), FEWEST), MOST)))
    batches = torch.split(shown.images, BATCH)
    kept = kept_blocks(units, trial.placement)
    gates = collect_gates(network, batches, kept=kept)
    before = _outputs(network, batches)
    with fixed_gates(network, gates, kept=kept):
        after = _outputs(network, batches)
    classes = before is not None and before.dim() == 2 and bool(data.classes)
    return GateReport(
        placement=trial.placement.label,
        trial=trial.number,
        images=len(shown.images),
        blocks=tuple(
            BlockVariation(block=_shown(b.block), variation=b.variation, mean=float(b.mean.mean()))
            for b in gate_statistics(gates)
        ),
        changed=_changed(before, after, classes=classes),
        classes=classes,
        seen=shown.real,
    )


def _outputs(network: nn.Module, batches: Sequence[Tensor]) -> Tensor | None:
    """What the network gives for all images; None if that is no single tensor."""
    with torch.no_grad():
        found = [logits_of(network(images)) for images in batches]
    tensors = [output for output in found if output is not None]
    return torch.cat(tensors).float() if len(tensors) == len(found) else None


def _changed(before: Tensor | None, after: Tensor | None, *, classes: bool) -> float | None:
    if before is None or after is None:
        return None
    if classes:
        return float((before.argmax(1) != after.argmax(1)).double().mean())
    return float((after - before).norm() / before.norm().clamp(min=1e-12))


def _shown(block: str) -> str:
    """The path of a block without its own name."""
    head, _, name = block.rpartition(".")
    return head if head and name.startswith("se_block") else block


def _weights(run: Path, trial: Trial) -> Path:
    return weights_file(run, trial.number, trial.identity.phase)
