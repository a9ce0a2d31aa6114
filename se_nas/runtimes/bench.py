"""A folder to carry to another device: networks of a space as files, and the script that times them there."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import nn

from se_nas.core.errors import ConfigError, RunError, did_you_mean
from se_nas.core.files import write_atomically
from se_nas.core.placement import Placement
from se_nas.core.serialization import to_json
from se_nas.core.version import __version__
from se_nas.exports.bundle import folder_whole
from se_nas.exports.names import PACKAGES
from se_nas.runtimes import bench_script
from se_nas.runtimes.files import WRITERS, write_network
from se_nas.runtimes.latency_table import BenchFacts, Entry, Manifest
from se_nas.space.latency_model import Terms, plan_measurements
from se_nas.space.space import Space

MANIFEST, SCRIPT, NETWORKS, README = "bench.json", "measure.py", "networks", "README.txt"

SUFFIXES = {"onnx": ".onnx", "onnx-int8": "-int8.onnx", "pt2": ".pt2"}
"""Of files, by format."""


def check_bench_formats(text: str) -> tuple[str, ...]:
    """The formats of a benchmark, given with commas; ConfigError for an unknown one, or one that lacks a package."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in names:
        if name not in WRITERS:
            raise ConfigError(f"unknown format {name!r}", allowed=WRITERS, hint=did_you_mean(name, WRITERS))
        lacking = [p for p in PACKAGES if importlib.util.find_spec(p) is None] if name != "pt2" else []
        if lacking:
            raise ConfigError(
                f"the format {name} needs {', '.join(lacking)}", hint="pip install 'se-nas[export]', or --format pt2"
            )
    if not names:
        raise ConfigError("no format is given", allowed=WRITERS)
    return names


def entries_of(space: Space, front: Sequence[Placement] = (), *, most: int | None = None) -> list[Entry]:
    """The networks to be measured: no SE, what a model of the space needs and is tested on, and those of a front."""
    planned = plan_measurements(space, Terms(space))[:most]
    entries = [Entry(key=space.baseline.key, placement=space.baseline)]
    entries += [Entry(key=p.placement.key, placement=p.placement, held_out=p.held_out) for p in planned]
    known = {entry.key for entry in entries}
    more = {p.key: p for p in front if p.key not in known}
    return entries + [Entry(key=key, placement=placement) for key, placement in more.items()]


def export_bench(
    folder: Path,
    build: Callable[[Placement], nn.Module],
    entries: Sequence[Entry],
    facts: BenchFacts,
    *,
    formats: Sequence[str],
    say: Callable[[str], object] = lambda _: None,
) -> Manifest:
    """Write the networks with their script to a folder, which is there whole or not at all.

    Raises
    ------
    RunError
        If the folder is there already.
    CostError
        If a network cannot be written in a format.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise RunError(f"{str(folder)!r} is there already", hint="give another folder, or remove it")
    written = []
    with folder_whole(folder) as temporary:
        (temporary / NETWORKS).mkdir()
        for number, entry in enumerate(entries):
            files = {form: f"{NETWORKS}/{entry.key}{SUFFIXES[form]}" for form in formats}
            network = build(entry.placement).eval()
            for form, name in files.items():
                write_network(network, facts.input_shape, temporary / name, form)
            say(f"network {number + 1} of {len(entries)}: {entry.placement.label or 'none'}")
            written.append(Entry(key=entry.key, placement=entry.placement, held_out=entry.held_out, files=files))
        manifest = Manifest(
            backbone=facts.backbone, input_shape=facts.input_shape, batch=facts.batch, params=facts.params,
            macs=facts.macs, baseline=entries[0].key, networks=tuple(written), formats=tuple(formats),
            made_by=f"se-nas {__version__}",
        )  # fmt: skip
        write_atomically(temporary / MANIFEST, to_json(manifest, indent=1))
        shutil.copyfile(bench_script.__file__, temporary / SCRIPT)
        write_atomically(temporary / README, _readme(manifest).encode())
    return manifest


def _readme(manifest: Manifest) -> str:
    needs = "onnxruntime" if any(form.startswith("onnx") for form in manifest.formats) else "torch"
    return (
        f"{len(manifest.networks)} networks of {manifest.backbone.target}, to be timed on another device.\n\n"
        f"Copy this folder there. It needs Python 3.9, numpy and {needs}, and nothing else:\n\n"
        f"    pip install numpy {needs}\n"
        f"    python {SCRIPT} --out DEVICE.json\n\n"
        "Bring DEVICE.json back: se-nas search ... --latency-table DEVICE.json --cost latency@DEVICE\n"
        f"The batch is {manifest.batch}: search with --latency-batch {manifest.batch}. "
        f"python {SCRIPT} --help has threads, formats and execution providers.\n"
    )
