"""One training, or one test, with the user's own loop: what it reports and returns, checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from se_nas.core.errors import TrainingError
from se_nas.core.files import trial_name
from se_nas.core.protocols import Channel
from se_nas.core.trial import Epoch, Request, Verdict
from se_nas.data.base import DataInfo
from se_nas.data.batches import Batches
from se_nas.data.store import open_part, open_source, read_info
from se_nas.training.own_loop import OwnLoop, Parts, missing_metric, numbers, seeded
from se_nas.training.pulse import Pulse, heard
from se_nas.training.trainer import DeviceSettings, array_batches, validation_batch

FOLDER = "trainings"
"""Folder of a run for what loops leave, a folder for each training."""


class StopError(Exception):
    """A loop went on after it was told to stop."""


@dataclass
class Reports:
    """What a loop calls after each epoch: keeps the curve and asks whether to go on."""

    metric: str
    epochs: int
    channel: Channel
    curve: list[Epoch] = field(default_factory=list)
    stopped: bool = False

    def __call__(self, epoch: int, metrics: Mapping[str, float]) -> Verdict:
        """Tell what was seen after an epoch, counted from 1; ``stop`` says that the training should end."""
        if self.stopped:
            raise StopError
        last = self.curve[-1].epoch if self.curve else 0
        if isinstance(epoch, bool) or int(epoch) != epoch or not last < epoch <= self.epochs:
            raise TrainingError(
                f"the loop reported epoch {epoch!r} after epoch {last} of {self.epochs}",
                hint="count epochs from 1, and train for as many as the loop is given",
            )
        seen = self.checked(metrics, int(epoch), "the loop reported")
        self.curve.append(Epoch(epoch=int(epoch), metrics=seen))
        verdict = self.channel.report(int(epoch), seen)
        self.stopped = verdict == "stop" and epoch < self.epochs
        return verdict

    def checked(self, metrics: Any, epoch: int, what: str) -> dict[str, float]:
        """Metrics as finite numbers; TrainingError if the one that is compared, or a loss, is not among them."""
        found = numbers(metrics, what=what)
        if self.metric not in found:
            raise missing_metric(self.metric, found, what=what)
        needed = [name for name in found if name == self.metric or name.endswith("loss")]
        if wrong := [name for name in needed if not math.isfinite(found[name])]:
            raise TrainingError(f"non-finite {wrong[0]} in epoch {epoch}")
        return {name: value for name, value in found.items() if math.isfinite(value)}


@dataclass(frozen=True, kw_only=True)
class LoopEnd:
    """How a loop ended: its curve, the metrics of the network as it is now, and whether it was told to stop."""

    curve: tuple[Epoch, ...]
    metrics: dict[str, float]
    stopped: bool
    notes: tuple[str, ...] = ()


def train_own(loop: OwnLoop, network: nn.Module, request: Request, seed: int, channel: Channel) -> LoopEnd:
    """Train the candidate of a request in place with the user's loop; see `run_loop`."""
    own = Path(request.folder) / FOLDER / trial_name(request.trial, request.identity.phase)
    own.mkdir(parents=True, exist_ok=True)
    info = read_info(Path(request.folder))
    offered = {**_facts(request, info, seed, own), "recipe": request.identity.recipe}
    if loop.takes_data:
        offered["data"] = _training_parts(request, info, seed)
    return run_loop(loop, network, offered, seed=seed, epochs=request.identity.epochs, channel=channel)


def run_loop(
    loop: OwnLoop, network: nn.Module, facts: Mapping[str, Any], *, seed: int, epochs: int, channel: Channel
) -> LoopEnd:
    """Train a network in place with the user's loop, given seed, epochs, `report` and what it takes of the facts.

    The metrics are what the loop returns; what it reported last, if it returns nothing or had to be stopped.

    Raises
    ------
    TrainingError
        If the loop fails, its metric is missing or not finite, or the network is not trained in place.
    """
    reports = Reports(loop.metric, epochs, channel)
    before = {name: value.detach().clone() for name, value in network.state_dict().items()}
    returned = None
    with seeded(seed), heard(network, Pulse(channel)):
        try:
            returned = loop.run(network, {**facts, "seed": seed % 2**32, "epochs": epochs, "report": reports})
        except TrainingError:
            if not reports.stopped:
                raise
    _check_trained(network, before)
    if returned is None and not reports.curve:
        raise TrainingError("the loop reported no epoch and returned no metrics")
    last = reports.curve[-1].epoch if reports.curve else epochs
    metrics = reports.curve[-1].metrics if returned is None else reports.checked(returned, last, "the loop returned")
    curve = tuple(reports.curve) or (Epoch(epoch=epochs, metrics=metrics),)
    early = () if reports.stopped or last == epochs else (f"the loop ended by itself after epoch {last} of {epochs}",)
    return LoopEnd(curve=curve, metrics=metrics, stopped=reports.stopped, notes=early)


def examine_own(
    loop: OwnLoop, network: nn.Module, request: Request, info: DataInfo, *, groups: int
) -> tuple[np.ndarray, dict[str, float]]:
    """Scores and metrics of a trained network by the loop's own test function.

    Scores are those of the images, if the function gives an array of them in place of their mean; pseudo-values of so
    many `groups` of images, if it can leave out one of them; else the one number that there is.
    """
    own = Path(request.folder) / FOLDER / trial_name(request.trial, request.identity.phase)
    data = _test_part(request, info) if info.kind != "own" else None
    offered = {**_facts(request, info, request.identity.seed, own), "data": data, "without": None}
    with seeded(request.identity.seed):
        found = loop.run_test(network.eval(), offered)
        scores, metrics = _scores(loop, found)
        if len(scores) == 1 and loop.leaves_out:
            others = [loop.run_test(network, {**offered, "without": group}) for group in range(groups)]
            left = np.array([_scores(loop, other)[0][0] for other in others])
            scores = groups * scores[0] - (groups - 1) * left
    return scores, metrics


def _scores(loop: OwnLoop, found: Any) -> tuple[np.ndarray, dict[str, float]]:
    what = "the test function returned"
    if not isinstance(found, Mapping) or loop.metric not in found:
        raise missing_metric(loop.metric, numbers(found, what=what), what=what)
    value = found[loop.metric]
    own = value.detach().cpu().double().numpy() if isinstance(value, Tensor) else np.asarray(value, dtype=np.float64)
    scores = own.reshape(-1)
    if not len(scores) or not np.isfinite(scores).all():
        raise TrainingError(f"{what} a non-finite {loop.metric}")
    return scores, numbers({**found, loop.metric: float(scores.mean())}, what=what)


def _facts(request: Request, info: DataInfo, seed: int, folder: Path) -> dict[str, Any]:
    """What a loop and its test function may be given beside the data."""
    return {
        "seed": seed % 2**32, "device": request.device, "folder": folder, "classes": info.classes,
        "num_classes": len(info.classes) or None, "input_shape": info.input_shape,
    }  # fmt: skip


def _training_parts(request: Request, info: DataInfo, seed: int) -> Parts:
    if info.kind == "module":
        module = _set_up(info, "fit")
        return Parts(train=module.train_dataloader(), val=module.val_dataloader())
    settings = DeviceSettings(device=torch.device(request.device))
    train, val = array_batches(info, Path(request.folder), request.identity.recipe, settings, seed=seed)
    return Parts(train=train, val=val)


def _test_part(request: Request, info: DataInfo) -> Parts:
    """The test set of the data set of the search, which `open_test` has opened."""
    if info.kind == "module":
        return Parts(test=_set_up(info, "test").test_dataloader())
    device = torch.device(request.device)
    part = open_part(Path(request.folder), "test")
    size = validation_batch(device)
    return Parts(test=Batches(part, batch_size=size, mean=info.mean, std=info.std, device=device))


def _set_up(info: DataInfo, stage: Literal["fit", "test"]) -> Any:
    """The user's LightningDataModule, ready to give its loaders."""
    module, _ = open_source(info.target)
    module.prepare_data()
    module.setup(stage)
    return module


def _check_trained(network: nn.Module, before: Mapping[str, Tensor]) -> None:
    """TrainingError if the loop has changed the layers of the network, or none of its weights."""
    after = network.state_dict()
    changed = {n: v.shape for n, v in before.items()}.items() ^ {n: v.shape for n, v in after.items()}.items()
    if changed:
        name = sorted(changed, key=str)[0][0]
        raise TrainingError(
            f"the loop has changed the layers of the network ({len(changed)} tensors, such as {name!r})",
            hint="fuse, prune or wrap a copy",
        )
    trained = dict(network.named_parameters())
    if all(torch.equal(before[name].to(value.device, value.dtype), value) for name, value in trained.items()):
        raise TrainingError(
            "the loop has not trained the network that it was given: its weights are as before",
            hint="train that very network, or load the trained weights into it: network.load_state_dict(...)",
        )
