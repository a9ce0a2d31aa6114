"""What all three ways share: data, recipe, networks, and how time and memory are taken."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from se_nas.backbones.build import build_backbone
from se_nas.core.placement import Placement
from se_nas.core.trial import Recipe, Target
from se_nas.data.store import open_part, read_info
from se_nas.insertion.discover import units_of
from se_nas.insertion.insert import insert_choices
from se_nas.space.space import Space
from se_nas.space.spec import read_space


@dataclass(frozen=True)
class Job:
    """What is to be trained, and from which prepared data."""

    folder: str
    backbone: str
    epochs: int
    candidates: int
    augment: str
    device: str = "cpu"
    workers: int = 1

    @property
    def recipe(self) -> Recipe:
        return Recipe(epochs=self.epochs, augment=self.augment)

    def arrays(self, part: str) -> tuple[np.ndarray, np.ndarray]:
        """Images (n, channels, height, width), uint8, and labels (n,), in memory."""
        found = open_part(Path(self.folder), part)
        return np.array(found.images), found.labels

    def statistics(self) -> tuple[torch.Tensor, torch.Tensor]:
        info = read_info(Path(self.folder))
        return torch.tensor(info.mean), torch.tensor(info.std)

    def space(self) -> Space:
        info = read_info(Path(self.folder))
        spec = read_space({"init": "plain"})
        return Space(spec, units_of(self.network(0), info.input_shape, spec.units))

    def network(self, seed: int, space: Space | None = None, placement: Placement | None = None) -> nn.Module:
        info = read_info(Path(self.folder))
        target = Target(target=self.backbone)
        model = build_backbone(target, num_classes=len(info.classes), input_shape=info.input_shape, seed=seed)
        if space is not None and placement is not None:
            insert_choices(model, space.units, placement.choices, seed=seed)
        return model


def listed(space: Space, number: int) -> list[dict[str, int]]:
    """The networks, in order: no SE, SE everywhere at r=16, and others drawn with a fixed seed."""
    first = [space.find(space.baseline), space.find(space.reference)]
    allowed = {name: space.searched(name) for name in space.parameters}
    others = [a for a in space.levels() if a not in first and all(a[n] in allowed[n] for n in a)]
    return [*first, *random.Random(0).sample(others, max(0, number - 2))][:number]


def descendants(pid: int) -> list[int]:
    """A process and all below it."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return sorted(found)


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and all below it, those that ended there included."""
    ticks = 0
    for one in descendants(pid):
        try:
            ticks += sum(map(int, Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()[11:15]))
        except OSError:
            continue
    return ticks / 100


def memory(pid: int) -> dict[str, float]:
    """MiB of a process: what it alone has, and its share of what it has together with others."""
    values = {"private": 0, "pss": 0}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name in ("Private_Clean", "Private_Dirty"):
            values["private"] += int(rest.split()[0])
        elif name == "Pss":
            values["pss"] += int(rest.split()[0])
    return {name: round(kib / 1024, 1) for name, kib in values.items()}


class Clock:
    """Wall and processor time of a process and all below it, from `start` to `stop`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.seconds = self.cpu = 0.0

    def start(self) -> None:
        self._wall, self._cpu = time.perf_counter(), cpu_seconds(self.pid)

    def stop(self) -> None:
        self.seconds, self.cpu = time.perf_counter() - self._wall, cpu_seconds(self.pid) - self._cpu
