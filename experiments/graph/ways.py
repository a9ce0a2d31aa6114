"""Seconds of a forward and backward pass by each way that a network can run, and the price of getting ready.

python experiments/graph/ways.py resnet20 bf16 digits

On a CPU all seconds are CPU seconds, compilers included. Passes are interleaved.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import warnings
from pathlib import Path

import torch

from se_nas.backbones import build_backbone
from se_nas.candidate import build_candidate
from se_nas.data import prepare_data, read_info
from se_nas.executors.worker import settle
from se_nas.network import Bench
from se_nas.patterns import units_of
from se_nas.plugins import absolute
from se_nas.records import Recipe, Request, RunIdentity, Target
from se_nas.shared import widest_choices
from se_nas.space import Space
from se_nas.space_file import read_space
from se_nas.train import wants_channels_last


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
        candidate = build_candidate(
            request.backbone, request.units, request.placement, num_classes=classes, input_shape=shape, seed=0
        )
        ways = ("shared", "compiled") if device != "cpu" else ("compiled",)
        for way in ways:
            bench = Bench(candidate, request, data)
            start = bench.spent()
            shared = bench.ready(way)
            price = bench.spent() - start
            networks = {
                "none": bench.build({}),
                "candidate": bench.build(dict(request.placement.choices)),
                way: shared,
            }
            seconds: dict[str, list[float]] = {name: [] for name in networks}
            for _ in range(given.repeats):
                for name, value in zip(networks, bench.seconds(*networks.values(), warm=1, timed=1), strict=True):
                    seconds[name].append(value)
            print(f"{given.backbone}, {given.precision}, {given.data}, {device}: {way} is ready after {price:.1f} s")
            for name, values in seconds.items():
                spread = statistics.quantiles(values, n=4)
                print(
                    f"  {name:10} median {1000 * statistics.median(values):.1f} ms, "
                    f"quartiles {1000 * spread[0]:.1f} to {1000 * spread[2]:.1f}, n = {len(values)}"
                )


def _request(backbone: str, precision: str, folder: str, device: str) -> Request:
    target, data = Target(target=backbone), read_info(Path(folder))
    spec = read_space("stagewise")
    network = build_backbone(target, num_classes=len(data.classes), input_shape=data.input_shape, seed=0)
    units = units_of(network, data.input_shape, spec)
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
