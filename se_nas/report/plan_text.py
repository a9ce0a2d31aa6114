"""The plan of a search as lines of text."""

from __future__ import annotations

import math
from pathlib import Path

from se_nas.analysis.detectable import POWER
from se_nas.analysis.search_plan import SearchPlan, batch_for
from se_nas.core.words import amount, counted, duration, few, listed, size_text

NONE_WITHIN = (
    "limits: no network of the space is within the limits on cost, so only the reference points are trained, and none "
    "can be recommended; give a higher limit, or search a smaller backbone"
)


def what_lines(plan: SearchPlan) -> list[str]:
    """What is searched on what: known as soon as data and network are read."""
    shape = " x ".join(str(n) for n in plan.input_shape)
    images = "those of your trainer"
    if plan.images is not None:
        train, val, test = plan.images
        images = f"{train:,} to train on, {val:,} to validate on, {test:,} in the sealed test set"
    classes = f"; {plan.classes:,} classes" if plan.classes else ""
    size = f"{plan.networks:,}" + ("" if plan.listed else " assignments")
    there = f" ({plan.trained:,} of {plan.budget:,} are there)" if plan.trained else ""
    fewer = plan.trainings + plan.trained < plan.budget and plan.networks
    all_of_them = f": all that the space has, fewer than the budget of {plan.budget:,}" if fewer else ""
    return [
        f"images: {images}{classes}, {shape}",
        f"space: {counted(plan.networks, 'network')}, {counted(plan.decisions, 'decision')}" if plan.listed else
        f"space: {size}, {counted(plan.decisions, 'decision')}",
        *([NONE_WITHIN] if plan.listed and not plan.networks else []),
        *_batch(plan),
        f"trainings: {plan.trainings:,}{there} of {counted(plan.epochs, 'epoch')}{all_of_them}",
    ]  # fmt: skip


def _batch(plan: SearchPlan) -> list[str]:
    """A warning where an epoch has few steps, with what to give instead."""
    if plan.images is None or plan.batch_size is None:
        return []
    train, given = plan.images[0], plan.batch_size
    better = batch_for(train, given)
    if better == given:
        return []
    used = f"all {train:,} training images (batch_size is {given:,})" if train < given else f"{given:,} images"
    return [
        f"batch: {used}, {counted(max(1, train // given), 'step')} an epoch, in which networks learn little: give "
        f"--batch-size {better}"
    ]


def cost_lines(plan: SearchPlan) -> list[str]:
    """What it takes, and what it can find out: known after the timed warm-up."""
    return [line for line in (_time(plan), _effect(plan), _noise(plan), _memory(plan), _disk(plan)) if line]


def plan_lines(plan: SearchPlan) -> list[str]:
    """The whole plan."""
    return [
        f"{plan.backbone} on {plan.data}, to be searched into {plan.folder} (nothing was trained):",
        *(f"  {line}" for line in (*plan.notes, *what_lines(plan), *cost_lines(plan))),
    ]


def _time(plan: SearchPlan) -> str:
    if not plan.trainings:
        return "time: none, all of it is there"
    if plan.timing is None or plan.seconds is None:
        return f"time: not known before; {plan.untimed}" if plan.untimed else ""
    by = "by a timed warm-up" if plan.timing.warm_up else "as the trainings that are there"
    at_a_time = f", {plan.slots} at a time" if plan.slots > 1 else ""
    limit = " (max_time)" if plan.max_seconds is not None and plan.seconds >= plan.max_seconds else ""
    return (
        f"time: about {duration(plan.seconds)}{limit} ({counted(plan.trainings, 'training')} of "
        f"{_seconds(plan.timing.seconds)}{at_a_time}; {by})"
    )


def _effect(plan: SearchPlan) -> str:
    """What this budget tells from noise."""
    if plan.effect_in_sd is None:
        return (
            f"effect: {few(plan.budget)} too few to distinguish any effect of SE from noise in a space of "
            f"{counted(plan.decisions, 'decision')}"
        )
    times = f"{plan.effect_in_sd:.1f} times the noise of one training"
    size = times if plan.effect is None else f"{amount(plan.effect, plan.unit, signed=False)} or more ({times})"
    told = (
        f"effect: {100 * POWER:.0f} % of such searches distinguish SE everywhere from no SE if it changes "
        f"{plan.metric} by {size}"
    )
    if plan.margin is None or plan.effect is None or plan.effect <= plan.margin:
        return told
    return f"{told}; for {amount(plan.margin, plan.unit, signed=False)} (the margin) it takes se-nas confirm"


def _noise(plan: SearchPlan) -> str:
    """How noisy one training is, and who says so."""
    noise = plan.noise
    if noise.sd is None:
        return "noise of one training: not known yet, since no run in this folder or beside it is of these data"
    sd = f"noise of one training: {amount(noise.sd, plan.unit, signed=False)}"
    if noise.guessed:
        images = f" for {counted(plan.images[1], 'validation image')}" if plan.images is not None else ""
        return f"{sd}, a guess{images}, since no run in this folder or beside it is of these data"
    other = [noise.backbone] if noise.backbone != plan.backbone else []
    other += [counted(noise.epochs, "epoch")] if noise.epochs != plan.epochs else []
    return f"{sd}, by {listed([f'{noise.trainings:,} trainings in {Path(noise.folder).name}', *other])}"


def _memory(plan: SearchPlan) -> str:
    if plan.timing is None or not math.isfinite(plan.timing.memory):
        return ""
    whose = "on the GPU" if plan.room is not None and plan.room.device.startswith("cuda") else "for each worker"
    total = plan.timing.memory * plan.slots
    line = f"memory: {size_text(plan.timing.memory)} {whose}, {size_text(total)} for {plan.slots}"
    free = None if plan.room is None else plan.room.memory
    if free is None:
        return line
    much = ", which is less: give fewer --workers" if total > free else ""
    return f"{line}; {size_text(free)} are free{much}"


def _disk(plan: SearchPlan) -> str:
    parts = {"images": float(plan.data_bytes), "weights": plan.kept_bytes}
    known = {name: value for name, value in parts.items() if math.isfinite(value)}
    total = sum(known.values())
    line = f"disk: {size_text(total)} ({', '.join(f'{name} {size_text(value)}' for name, value in known.items())})"
    if plan.room is None:
        return line
    much = ", which is less: give --keep-weights front" if total > plan.room.disk else ""
    return f"{line}; {size_text(plan.room.disk)} are free{much}"


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else duration(seconds)
