"""Evaluate: one placement in, one result out, in any process on any machine."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import platform
import subprocess
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from se_nas.candidate import build_candidate
from se_nas.data import read_info
from se_nas.errors import SeNasError, TrainingError
from se_nas.files import atomically, write_atomically
from se_nas.logs import open_logs
from se_nas.plugins import Channel, Task
from se_nas.records import Direction, Epoch, Metric, Phase, Request, Result, random_stream, to_json
from se_nas.tasks import open_task
from se_nas.train import train


def evaluate(request: Request, channel: Channel) -> Result:
    """Train the candidate of a request and tell how good it is.

    Never raises for a training that fails: the result then says ``failed`` and why. Weights and result are written
    into the run folder before this returns, so a driver that dies loses nothing.
    """
    torch.set_num_threads(request.threads)
    folder = Path(request.folder)
    start = time.perf_counter()
    try:
        candidate, curve, stopped = _train(request, folder, channel)
        result = Result(
            trial=request.trial,
            attempt=request.attempt,
            state="stopped" if stopped else "complete",
            reason="stopped early" if stopped else "",
            metrics=_metrics(curve[-1], _task(request)),
            curve=curve,
        )
        save_weights(candidate, weights_file(folder, request.trial, request.identity.phase))
    except OSError:  # the disk, not the candidate
        raise
    except Exception as error:  # a failed training is a result; the search goes on
        reason = error.what if isinstance(error, SeNasError) else f"{type(error).__name__}: {error}"
        result = Result(
            trial=request.trial, attempt=request.attempt, state="failed", reason=reason.splitlines()[0][:500]
        )
    result = replace(
        result,
        seconds=time.perf_counter() - start,
        device=device_name(request.device),
        versions=versions(),
        commit=commit(),
    )
    write_atomically(result_file(folder, request.trial, request.attempt, request.identity.phase), to_json(result))
    return result


def _train(request: Request, folder: Path, channel: Channel) -> tuple[nn.Module, tuple[Epoch, ...], bool]:
    identity = request.identity
    data = read_info(folder)
    seed = identity.seed if identity.replicate == 0 else random_stream(identity.seed, "replicate", identity.replicate)
    candidate = build_candidate(
        request.backbone,
        request.units,
        request.placement,
        num_classes=len(data.classes) or None,
        input_shape=data.input_shape,
        seed=seed,
    )
    curve, stopped = train(
        candidate,
        task=_task(request),
        recipe=identity.recipe,
        data=data,
        folder=folder,
        seed=seed,
        device=torch.device(request.device),
        precision=identity.precision,
        channels_last=request.channels_last,
        channel=channel,
        loggers=open_logs(request),
    )
    if not curve:
        raise TrainingError("the training ended before its first validation")
    return candidate, curve, stopped


def _task(request: Request) -> Task:
    return open_task(request.identity.task, metric=request.metric, direction=request.direction)


def _metrics(last: Epoch, task: Task) -> dict[str, Metric]:
    """The metrics of the last epoch; losses are better when smaller. Units are what the task says, if it does."""
    found = {}
    units: Mapping[str, str] = getattr(task, "units", {})
    for name, value in last.metrics.items():
        loss = name.endswith("loss")
        direction: Direction = "minimize" if loss else "maximize"
        found[name] = Metric(
            value=value,
            direction=task.direction if name == task.metric else direction,
            unit=units.get(name, ""),
        )
    return found


def result_file(folder: Path, trial: int, attempt: int, phase: Phase = "search") -> Path:
    """Where a worker leaves its result."""
    return folder / "results" / f"{_name(trial, phase)}-{attempt}.json"


def weights_file(folder: Path, trial: int, phase: Phase = "search") -> Path:
    """Where a worker leaves the trained weights."""
    return folder / "weights" / f"{_name(trial, phase)}.safetensors"


def _name(trial: int, phase: Phase) -> str:
    """Each phase counts its trials from 0."""
    return str(trial) if phase == "search" else f"{phase}-{trial}"


def save_weights(network: nn.Module, file: Path) -> None:
    """State dict of a network as safetensors, atomically."""
    weights = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    with atomically(file) as temporary:
        try:
            save_file(weights, temporary)
        except SafetensorError as error:  # it words errors of the disk itself
            raise OSError(str(error)) from error


@functools.cache
def versions() -> dict[str, str]:
    """Versions of what decides a result."""
    names = ("se-nas", "torch", "pytorch-lightning", "optuna", "fvcore")
    found = {"python": platform.python_version()}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


@functools.cache
def commit() -> str:
    """Git commit of the folder that the command runs in, with ``+`` if it has changes; empty outside a checkout."""
    try:
        head = _git("rev-parse", "--short=12", "HEAD")
        return head + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return ""


def _git(*args: str) -> str:
    done = subprocess.run(["git", *args], capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()


@functools.cache
def device_name(device: str) -> str:
    """Name of the hardware, such as ``cpu (AMD EPYC)``."""
    if device.startswith("cuda"):
        return f"{device} ({torch.cuda.get_device_name(torch.device(device))})"
    name = torch.cpu.get_capabilities().get("cpu_name") if hasattr(torch.cpu, "get_capabilities") else None
    return f"{device} ({name or platform.machine()})"
