"""The plan of a search: what is known of it before anything is trained, and a timed warm-up."""

from __future__ import annotations

import math
import os
import shutil
import statistics
from collections.abc import Collection, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import torch

from se_nas.analysis.detectable import detectable_effect
from se_nas.analysis.margin import margin_of
from se_nas.analysis.search_plan import Room, SearchPlan, Timing
from se_nas.analysis.summary import LIKELY
from se_nas.core.config import seconds
from se_nas.core.protocols import Executor
from se_nas.core.trial import Request, Result, Trial
from se_nas.data.shards import devices_of
from se_nas.engine.driver import KEPT_BYTES
from se_nas.engine.earlier_runs import earlier_noise
from se_nas.engine.patience import Patience, wait_for
from se_nas.engine.problem import Problem, unit_of
from se_nas.engine.proposer import ENUMERABLE, listed
from se_nas.executors.build import EXECUTORS
from se_nas.training.timed_steps import Steps, time_steps

OWN_LOOP = "the training loop is your own: the first training will tell"
OWN_EXECUTOR = "the executor is your own: the first training will tell"
TOGETHER = "several devices train one network together: the first training will tell"
WARM_UP = 1800.0
"""Seconds after which a timed warm-up is ended: some steps take minutes at most."""

NO_LENGTH = "the loaders do not say how many batches they have: the first training will tell"


def allowed_keys(problem: Problem) -> Collection[str] | None:
    """Keys of the networks that may be proposed; None for a space too large to list."""
    return listed(problem.space, problem.costs, problem.config.max) if problem.space.size <= ENUMERABLE else None


def plan_of(
    problem: Problem,
    folder: Path,
    trials: Sequence[Trial],
    *,
    allowed: Collection[str] | None,
    data_folder: Path | None = None,
) -> SearchPlan:
    """What is known of a search at once; `weighed` adds what it can tell, and `timed` what it takes.

    Parameters
    ----------
    folder:
        The run folder; it need not be there.
    trials:
        Those that the run has already.
    allowed:
        See `allowed_keys`.
    data_folder:
        Where the prepared data lie, if not in the run folder.
    """
    config, data = problem.config, problem.data
    space = problem.space
    networks = space.size if allowed is None else len(allowed)
    references = {space.baseline.key, space.reference.key, space.given.key}  # trained whatever the limits
    trained = sum(t.counts for t in trials)
    unit = unit_of(problem, trials)
    done = [t for t in trials if t.state == "complete"]
    return SearchPlan(
        folder=str(folder),
        backbone=config.backbone.target,
        data=data.target.target,
        input_shape=data.input_shape,
        classes=len(data.classes),
        images=None if data.kind != "arrays" else (data.train, data.val, data.test),
        decisions=len(space.decisions),
        networks=networks,
        listed=allowed is not None,
        budget=config.budget,
        trained=trained,
        trainings=int(max(0, min(config.budget - trained, _left(allowed, references, trials)))),
        epochs=config.train.epochs,
        batch_size=config.train.batch_size if data.kind == "arrays" and problem.loop is None else None,
        slots=len(problem.devices),
        metric=problem.objective.metric,
        unit=unit,
        margin=_margin(problem, done, unit),
        timing=_timing_of(done),
        untimed=_why_untimed(problem),
        max_seconds=seconds(config.max_time) if config.max_time else None,
        data_bytes=_bytes_in((data_folder or folder) / "data"),
        room=_room(problem, folder),
        notes=problem.notes,
    )


def weighed(plan: SearchPlan, problem: Problem, folder: Path) -> SearchPlan:
    """The plan with the noise of one training, by earlier runs or a guess, and the effect that this budget can tell."""
    noise = earlier_noise(problem, folder, plan.unit)
    margin = plan.margin / noise.sd if plan.margin and noise.sd else 0.0
    trainings = min(plan.budget, plan.networks)
    return replace(
        plan, noise=noise, effect_in_sd=detectable_effect(problem.space, trainings, level=LIKELY, margin=margin)
    )


def _left(allowed: Collection[str] | None, references: set[str], trials: Sequence[Trial]) -> float:
    """Networks that are not trained yet."""
    return math.inf if allowed is None else len({*allowed, *references} - {t.placement.key for t in trials if t.counts})


def _margin(problem: Problem, done: Sequence[Trial], unit: str) -> float | None:
    base = [t.metrics[problem.objective.metric].value for t in done if t.role == "baseline"]
    given = problem.config.margin
    if given is None and unit != "share" and not base:
        return None
    return margin_of(given, unit=unit, baseline=base[0] if base else None)


def _timing_of(done: Sequence[Trial]) -> Timing | None:
    """By trainings that were done before, which know best."""
    times = [t.seconds for t in done if t.seconds > 0]
    return Timing(seconds=statistics.fmean(times), warm_up=False) if times else None


def _why_untimed(problem: Problem) -> str:
    """Why a training cannot be timed beforehand; empty if it can."""
    if problem.loop is not None:
        return OWN_LOOP
    name = problem.config.executor.target
    if name.partition(":")[0] not in {known.partition(":")[0] for known in EXECUTORS}:
        return OWN_EXECUTOR
    return TOGETHER if problem.config.devices_per_trial > 1 else ""


def timed(plan: SearchPlan, problem: Problem, folder: Path, executor: Executor) -> SearchPlan:
    """The plan with the time of a training, by some steps of SE everywhere in every slot of the executor at once.

    Trainings share memory and cores: alone, one would be faster than the search will ever see it.
    """
    slots = max(1, executor.slots)
    request = _request(problem, folder)
    futures = [executor.submit(time_steps, request, lambda *_: "continue") for _ in range(slots)]
    patience = Patience(problem.config)
    wait_for(executor, futures, math.inf if patience.off else min(patience.limit, WARM_UP), "the warm-up")
    results = [_result(future) for future in futures]
    steps = [found for result in results if (found := Steps.of(result)) is not None]
    if not steps:
        return replace(plan, untimed=f"the timed warm-up failed: {results[0].reason}")
    epoch = statistics.fmean(s.epoch_seconds for s in steps)
    if not math.isfinite(epoch):
        return replace(plan, untimed=NO_LENGTH)
    timing = Timing(
        seconds=statistics.fmean(s.start_seconds for s in steps) + plan.epochs * epoch,
        memory=max(s.memory for s in steps),
        weights=steps[0].weights,
    )
    return replace(plan, timing=timing, slots=slots, kept_bytes=_kept(problem, plan, timing.weights))


def _result(future: Future[Result]) -> Result:
    """What a slot says; a failed result where its worker died."""
    if (error := future.exception()) is None:
        return future.result()
    return Result(trial=-1, state="failed", reason=f"{type(error).__name__}: {error}")


def _request(problem: Problem, folder: Path) -> Request:
    """Steps of SE everywhere, which takes the most."""
    trial = problem.trial(problem.space.reference, owner="", role="", attempts=1)
    return problem.request(trial, folder)


def _kept(problem: Problem, plan: SearchPlan, weights: float) -> float:
    """Bytes of the weights that stay in the run folder."""
    every = plan.trainings * weights
    keep = problem.config.keep_weights
    if keep == "all" or (keep == "auto" and every < KEPT_BYTES):
        return every
    return min(every, max(KEPT_BYTES if keep == "auto" else 0, (3 + plan.decisions) * weights))


def _bytes_in(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*") if file.is_file()) if folder.is_dir() else 0


def _room(problem: Problem, folder: Path) -> Room:
    there = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    device = devices_of(problem.devices[0])[0]
    here = problem.config.executor.target.partition(":")[0] in ("local", "inline")
    return Room(
        memory=_free_memory(device) if here else None,
        disk=shutil.disk_usage(there).free,
        device=device,
    )


def _free_memory(device: str) -> int | None:
    """Bytes that trainings on a device may take; None if it does not say."""
    if device.startswith("cuda"):
        free: int = torch.cuda.mem_get_info(torch.device(device))[0]
        return free
    if device != "cpu":
        return None
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):  # systems that do not say
        return None
