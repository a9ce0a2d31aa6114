"""The SE blocks of a trained network of a run, looked at on its validation images."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from se_nas.analysis.explanation import Explanation
from se_nas.analysis.findings import Findings
from se_nas.core.errors import RunError
from se_nas.core.files import weights_file
from se_nas.core.placement import Placement, Unit
from se_nas.core.trial import Objective, Target, Trial
from se_nas.data.base import DataInfo
from se_nas.engine.exam import task_facts
from se_nas.engine.explaining import Shown, explain_network
from se_nas.engine.knock_outs import Scoring
from se_nas.exports.images import MAX_IMAGES, part_images
from se_nas.insertion.insert import block_path, build_candidate
from se_nas.training.tasks import open_task

MACS = 1e11
"""Multiply-adds of a look at the gates alone, which a report takes: seconds on one core."""

MANY_MACS = 2e12
"""The same where each block is frozen and taken out: minutes on one core."""

FEWEST, MOST = 32, 1000
"""Images of a look at the gates alone; at least so many in any case."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a run knows of its networks."""

    run: Path
    backbone: Target
    units: tuple[Unit, ...]
    data: DataInfo
    objective: Objective

    def network(self, trial: Trial) -> nn.Module:
        """The trained network of a trial, in eval mode on the CPU; RunError if its weights are not of it."""
        data = self.data
        network = build_candidate(
            self.backbone, self.units, trial.placement,
            num_classes=len(data.classes) or None, input_shape=data.input_shape, seed=0,
        )  # fmt: skip
        file = weights_of(self.run, trial)
        try:
            network.load_state_dict(safetensors.torch.load_file(file))
        except (SafetensorError, RuntimeError) as error:
            raise RunError(
                f"weights/{file.name} does not fit the network: {str(error).splitlines()[0]}", where=str(self.run)
            ) from error
        return network.eval()

    def scoring(self, trial: Trial, network: nn.Module, shown: Shown) -> Scoring | None:
        """How images are scored: by the metric of the run, or else by accuracy.

        None if the task of the run says nothing of single images, or fails to.
        """
        if self.data.kind == "own" or not len(shown.labels):
            return None
        identity, objective = trial.identity, self.objective
        task = open_task(identity.task, metric=objective.metric, direction=objective.direction)

        def of(network: nn.Module, metric: str = objective.metric) -> _ImageScores:
            place = next(iter(network.parameters()), torch.empty(0)).device
            module = task.module(network, identity.recipe, **task_facts(self.data)).to(place).eval()
            return _ImageScores(module=module, metric=metric)

        try:
            known = of(network).all(*next(iter(shown.batches(torch.empty(0)))))
        except Exception:  # whatever the user's module raises outside of a trainer
            return None
        units = getattr(task, "units", {})
        for metric, direction in ((objective.metric, objective.direction), (ACCURACY, "maximize")):
            if metric in known:
                return Scoring(
                    of=functools.partial(of, metric=metric),
                    metric=metric, unit=units.get(metric, ""), direction=direction,
                )  # fmt: skip
        return None


ACCURACY = "val_accuracy"


@dataclass(frozen=True, kw_only=True)
class _ImageScores:
    """What a module's ``image_scores(batch)`` says of a metric; see `se_nas.engine.exam.examine`."""

    module: Any
    metric: str

    def all(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        if not hasattr(self.module, "image_scores"):
            return {}
        with torch.no_grad():
            return dict(self.module.image_scores((images, labels)))

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        return self.all(images, labels)[self.metric]


def weights_of(run: Path, trial: Trial) -> Path:
    """Where the weights of a trial lie, if they were kept."""
    return weights_file(run, trial.number, trial.identity.phase)


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
    return next((t for t in candidates if t.placement.blocks and weights_of(run, t).is_file()), None)


def explain_trial(
    trained: Trained, trial: Trial, *, each: bool, images: int | None = None, device: str = "cpu"
) -> Explanation:
    """What the SE blocks of the network of a trial do on validation images, in this process.

    Raises whatever the user's network or data raise.

    Parameters
    ----------
    each:
        Whether every block is frozen and taken out by itself, which takes two passes for each; else the gates are
        looked at, and the network with all of them frozen.
    images:
        At most so many; None for as many as take seconds, or with `each` minutes, on one core.
    """
    data = trained.data
    network = trained.network(trial)
    macs = trial.costs["macs"].value if "macs" in trial.costs else 1e9
    if images is None and not each:
        images = int(min(max(MACS / max(macs, 1.0), FEWEST), MOST))
    if images is None:
        passes = 4 + 2 * trial.placement.blocks
        images = MAX_IMAGES if device != "cpu" else int(max(MANY_MACS / max(macs, 1.0) / passes, FEWEST))
    part = part_images(trained.run, data, "val", limit=images)
    shown = Shown(images=part.images, labels=part.labels, classes=data.classes)
    scoring = trained.scoring(trial, network, shown)
    found = explain_network(network.to(device), shown, scoring=scoring, each=each)
    return replace(
        found,
        blocks=tuple(
            replace(b, unit=unit) if (unit := units_of_blocks(trained.units, trial.placement).get(b.module)) else b
            for b in found.blocks
        ),
        real=part.real, trial=trial.number, phase=trial.identity.phase, placement=trial.placement.label,
        key=trial.placement.key,
    )  # fmt: skip


def units_of_blocks(units: tuple[Unit, ...], placement: Placement) -> dict[str, str]:
    """Module of an SE block -> its unit."""
    named = {unit.name: unit for unit in units}
    found = {}
    for name, choice in placement.choices.items():
        if choice.kind == "se":
            found[block_path(named[name].site(choice.position))] = name
        elif choice.kind == "keep":
            found[named[name].sites[0].module] = name
    return found
