"""Evaluate: one placement in, one result out, in any process on any machine."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from pytorch_lightning.utilities.memory import garbage_collection_cuda
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from se_nas.backbones.weights import start_from
from se_nas.core.errors import SeNasError, TrainingError, reason_of
from se_nas.core.files import atomically, is_ours, our_files, trial_name, weights_file, write_atomically
from se_nas.core.own_blocks import named_blocks, own_blocks
from se_nas.core.protocols import Channel, Judged
from se_nas.core.serialization import checksum, random_stream, to_json
from se_nas.core.trial import Epoch, Metric, Phase, Request, Result, Verdict
from se_nas.core.trust import follow
from se_nas.data.base import DataInfo
from se_nas.data.shards import Rank, devices_of
from se_nas.data.store import read_info
from se_nas.insertion.insert import build_candidate
from se_nas.training.checkpoint import FOLDER as CHECKPOINTS
from se_nas.training.checkpoint import Checkpoints
from se_nas.training.ddp import Ranks, synchronized
from se_nas.training.devices import threads
from se_nas.training.execution import Prepared, forget_network, prepare_network
from se_nas.training.loggers import opened_logs
from se_nas.training.loop_run import train_own
from se_nas.training.provenance import commit, device_name, versions
from se_nas.training.tasks import loss_rule, open_task
from se_nas.training.trainer import DeviceSettings, Job, more_pieces, out_of_memory, train
from se_nas.training.trainers import judged_by, loop_of


def evaluate(request: Request, channel: Channel) -> Result:
    """Train the candidate of a request and tell how good it is.

    Never raises for a training that fails: the result then says ``failed`` and why. Weights and result are written
    into the run folder before this returns, so a driver that dies loses nothing.
    """
    start = time.perf_counter()
    checkpoints = checkpoints_of(request)
    with threads(request.threads):
        result = _outcome(request, channel, checkpoints)
    result = replace(
        result,
        seconds=checkpoints.seconds_before + time.perf_counter() - start,
        device=device_name(request.device),
        versions=versions(),
        commit=commit(),
        notes=tuple(checkpoints.notes),
    )
    file = result_file(Path(request.folder), request.trial, request.attempt, request.identity.phase)
    write_atomically(file, to_json(result))
    checkpoints.remove()
    return result


def _outcome(request: Request, channel: Channel, checkpoints: Checkpoints) -> Result:
    """The result of a training, whose weights are written, or why there is none."""
    try:
        trained = _train(request, channel, checkpoints)
        result = Result(
            trial=request.trial,
            attempt=request.attempt,
            state="stopped" if trained.stopped else "complete",
            reason="stopped early" if trained.stopped else "",
            metrics=metrics_of(trained.metrics or trained.curve[-1].metrics, judged_by(request)),
            curve=trained.curve,
            graph=trained.way,
        )
        save_weights(trained.candidate, weights_file(Path(request.folder), request.trial, request.identity.phase))
        return result
    except Exception as error:  # a failed training is a result; the search goes on
        if is_ours(error, Path(request.folder)):  # the disk, not the candidate
            raise
        if not isinstance(error, SeNasError):  # the device or the network may be in any state
            forget_network()
        return Result(trial=request.trial, attempt=request.attempt, state="failed", reason=reason_of(error))


def checkpoints_of(request: Request) -> Checkpoints:
    """The checkpoints of this training: of whatever attempt has the same identity, with the same versions."""
    fingerprint = checksum([request.identity, request.backbone, versions()])
    file = Path(request.folder) / CHECKPOINTS / f"{checksum(request.identity)}.pt"
    return Checkpoints(file, fingerprint=fingerprint, minutes=request.checkpoint_minutes)


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A candidate after its training. `way` says how its network ran; see `se_nas.training.execution`."""

    candidate: nn.Module
    curve: tuple[Epoch, ...]
    stopped: bool
    way: str = "plain"
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Of the network as it is, where they need not be those of the last epoch."""


def _train(request: Request, channel: Channel, checkpoints: Checkpoints) -> Trained:
    """Train, from the checkpoint if there is one; with ever smaller pieces of a batch if memory does not do.

    The user's own loop trains once, from the beginning.
    """
    if loop_of(request) is not None:
        return _train_own(request, channel, checkpoints)
    data = read_info(Path(request.folder))
    batch = min(request.identity.recipe.batch_size, data.train)
    ranks = len(devices_of(request.device))
    checkpoints.read()
    pieces = checkpoints.pieces
    while True:
        try:
            return train_candidate(request, channel, checkpoints=checkpoints, pieces=pieces)
        except Exception as error:
            if not out_of_memory(error):
                raise
            fewer = more_pieces(batch // ranks, pieces)
            if fewer is None:
                what = "one image at a time" if batch else "the batches of the data module, which cannot be cut"
                raise TrainingError(f"out of memory with {what}") from error
        # Out of the handler, whose traceback keeps the tensors alive.
        pieces = fewer
        checkpoints.notes.append(
            f"out of memory: batches of {batch // pieces} with gradients of {pieces} added up "
            f"(the same {batch} images a step; BatchNorm sees {batch // pieces})"
        )
        checkpoints.drop_state()
        forget_network()
        garbage_collection_cuda()


def _train_own(request: Request, channel: Channel, checkpoints: Checkpoints) -> Trained:
    """Train with the user's own loop."""
    loop = loop_of(request)
    assert loop is not None  # noqa: S101  # the caller has looked
    data, seed = read_info(Path(request.folder)), _seed(request)
    candidate = candidate_of(request, data, seed)
    end = train_own(loop, candidate, request, seed, channel)
    checkpoints.notes += end.notes
    return Trained(candidate=candidate, curve=end.curve, stopped=end.stopped, metrics=end.metrics)


def _seed(request: Request) -> int:
    """The seed of a training: a repeat that replaces a failed one has another."""
    identity = request.identity
    return identity.seed if identity.replicate == 0 else random_stream(identity.seed, "replicate", identity.replicate)


def train_steps(request: Request, number: int) -> None:
    """Train for so many batches of a request, with one validation batch after each epoch; nothing is kept."""
    train_candidate(request, _Silent(), steps=number)


class _Silent:
    """A channel to nobody."""

    def report(self, epoch: int, metrics: Mapping[str, float]) -> Verdict:
        return "continue"


def train_candidate(
    request: Request,
    channel: Channel,
    *,
    checkpoints: Checkpoints | None = None,
    pieces: int = 1,
    steps: int = 0,
    rank: Rank | None = None,
) -> Trained:
    """Build and train the candidate of a request: on its device, on its devices together, or as one of their ranks."""
    identity, folder = request.identity, Path(request.folder)
    data, seed = read_info(folder), _seed(request)
    candidate = candidate_of(request, data, seed, rank)
    if rank is None and len(devices_of(request.device)) > 1:
        with Ranks(request, pieces=pieces) as ranks:
            curve, stopped = ranks.train(channel)
            candidate.load_state_dict(load_file(ranks.weights))
        return Trained(candidate=candidate, curve=curve, stopped=stopped)
    ordinary = rank is None and pieces == 1 and not steps
    prepared = prepare_network(candidate, request, data) if ordinary else Prepared(network=candidate)
    task = open_task(identity.task, metric=request.metric, direction=request.direction)
    job = Job(task=task, recipe=identity.recipe, data=data, folder=folder, seed=seed)
    settings = DeviceSettings(
        device=torch.device(request.device if rank is None else rank.devices[rank.index]),
        precision=identity.precision,
        channels_last=request.channels_last,
        pieces=pieces,
        limit=steps,
        rank=rank,
    )
    quiet = replace(request, logs=()) if steps else request
    with opened_logs(quiet, task.metric) as loggers:
        curve, stopped = train(
            prepared.network, job, settings, channel=channel, checkpoints=checkpoints, loggers=loggers
        )
    if not curve and not steps:
        raise TrainingError("the training ended before its first validation")
    prepared.finish()
    return Trained(candidate=candidate, curve=curve, stopped=stopped, way=prepared.way)


def candidate_of(request: Request, data: DataInfo, seed: int, rank: Rank | None = None) -> nn.Module:
    """The candidate of a request, from its start weights if it has some."""
    follow(named_blocks(own_blocks(request.placement.choices.values())))  # whoever sends a request has checked them
    folder, identity = Path(request.folder), request.identity
    start = start_file(folder, identity.start_weights) if identity.initialisation == "weights" else None

    def prepare(backbone: nn.Module) -> nn.Module:
        if start is not None:
            with our_files():
                start_from(backbone, start)
        return synchronized(backbone) if rank is not None and request.device.startswith("cuda") else backbone

    return build_candidate(
        request.backbone, request.units, request.placement,
        num_classes=len(data.classes) or None, input_shape=data.input_shape, seed=seed, prepare=prepare,
    )  # fmt: skip


def metrics_of(values: Mapping[str, float], judged: Judged) -> dict[str, Metric]:
    """Metrics of a training; losses are better when smaller. Units are what the task or the loop says, if it does."""
    units: Mapping[str, str] = getattr(judged, "units", {})
    return {
        name: Metric(
            value=value,
            direction=judged.direction if name == judged.metric else loss_rule(name),
            unit=units.get(name, ""),
        )
        for name, value in values.items()
    }


def result_file(folder: Path, trial: int, attempt: int, phase: Phase = "search") -> Path:
    """Where a worker leaves its result."""
    return folder / "results" / f"{trial_name(trial, phase)}-{attempt}.json"


def start_file(folder: Path, checksum: str | None) -> Path:
    """Where the weights lie that every candidate starts from; workers on other machines need this file, too."""
    return folder / "data" / f"start-{checksum}.safetensors"


def save_weights(network: nn.Module, file: Path) -> None:
    """State dict of a network as safetensors, atomically."""
    save_state(network.state_dict(), file)


def save_state(state: Mapping[str, Tensor], file: Path) -> None:
    """Tensors by name as safetensors, atomically."""
    weights = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    with atomically(file) as temporary:
        try:
            save_file(weights, temporary)
        except SafetensorError as error:  # it words errors of the disk itself
            raise OSError(str(error)) from error
