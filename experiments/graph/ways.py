"""Seconds of a forward and backward pass by each way that a network can run, and the price of getting ready.

python experiments/graph/ways.py resnet20 bf16 digits

On a CPU all seconds are CPU seconds, compilers included. Passes are interleaved.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
import warnings
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from se_nas.backbones.build import build_backbone
from se_nas.core.placement import Placement
from se_nas.core.plugins import absolute
from se_nas.core.trial import Recipe, Request, RunIdentity, Target
from se_nas.data.store import prepare_data, read_info
from se_nas.executors.memory import settle
from se_nas.insertion.discover import units_of
from se_nas.insertion.insert import build_candidate
from se_nas.space.space import Space
from se_nas.space.spec import read_space
from se_nas.training.execution import SharedRun
from se_nas.training.supernet import widest_choices
from se_nas.training.trainer import wants_channels_last


def main() -> None:
    """Print one line for each way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("backbone")
    parser.add_argument("precision", choices=("32", "bf16"))
    parser.add_argument("data")
    parser.add_argument("--repeats", type=int, default=20)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    settle()  # as every worker does
    device = "cuda:0" if torch.cuda.is_available() else "cpu"
    with tempfile.TemporaryDirectory() as folder:
        prepare_data(absolute(Target(target=given.data)), Path(folder))
        request = _request(given.backbone, given.precision, folder, device)
        data = read_info(Path(folder))
        classes, shape = len(data.classes), data.input_shape
        candidate, without = (
            build_candidate(request.backbone, request.units, placement, num_classes=classes, input_shape=shape, seed=0)
            for placement in (request.placement, Placement(choices={}))
        )
        ways = ("shared", "compiled") if device != "cpu" else ("compiled",)
        for way in ways:
            run = SharedRun(candidate, replace(request, graph=way), data)
            bare = SharedRun(without, replace(request, placement=Placement(choices={})), data)
            start = _spent(device)
            shared = run.network()
            price = _spent(device) - start
            networks = {"none": bare.own(), "candidate": run.own(), way: shared}
            seconds: dict[str, list[float]] = {name: [] for name in networks}
            for _ in range(given.repeats):
                for name, network in networks.items():
                    _seconds(run, network)  # the one before may have left the caches to others
                    seconds[name].append(_seconds(run, network))
            print(f"{given.backbone}, {given.precision}, {given.data}, {device}: {way} is ready after {price:.1f} s")
            for name, values in seconds.items():
                spread = statistics.quantiles(values, n=4)
                print(
                    f"  {name:10} median {1000 * statistics.median(values):.1f} ms, "
                    f"quartiles {1000 * spread[0]:.1f} to {1000 * spread[2]:.1f}, n = {len(values)}"
                )


def _spent(device: str) -> float:
    """Seconds so far; on a CPU those of this process and of its compilers."""
    return sum(os.times()[:4]) if device == "cpu" else time.perf_counter()


def _seconds(run: SharedRun, network: nn.Module) -> float:
    """Of a forward and backward pass; CPU seconds on a CPU, which others may use too."""
    images = run.images()
    start = _clock(run.device)
    run.step(network, images)
    return _clock(run.device) - start


def _clock(device: torch.device) -> float:
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def _request(backbone: str, precision: str, folder: str, device: str) -> Request:
    target, data = Target(target=backbone), read_info(Path(folder))
    spec = read_space({"init": "plain"})
    network = build_backbone(target, num_classes=len(data.classes), input_shape=data.input_shape, seed=0)
    units = units_of(network, data.input_shape, spec.units)
    space = Space(spec, units)
    placement = space.reference
    identity = RunIdentity(
        key=placement.key, seed=0, epochs=1, recipe=Recipe(), task=Target(target="classification"),
        data=data.checksum, split=data.split, precision=precision,
    )  # fmt: skip
    return Request(
        trial=0, placement=placement, units=units, identity=identity, backbone=target, folder=folder, device=device,
        channels_last=wants_channels_last(precision, torch.device(device)), offered=widest_choices(space),
    )  # fmt: skip


if __name__ == "__main__":
    main()
