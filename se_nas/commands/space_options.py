"""Options of the commands that know a backbone before anything is trained: sites, cost, bench."""

from __future__ import annotations

from typing import Literal

from jsonargparse import ArgumentParser, Namespace

from se_nas.commands.early import check_run
from se_nas.commands.shared_options import (
    add_backbone,
    add_storage,
    add_trust,
    at_work,
    catalogue_of,
    shown,
)
from se_nas.core.ranges import check_whole


def add_sites(parser: ArgumentParser) -> None:
    """The options of ``se-nas sites``."""
    add_backbone(parser)
    parser.add_argument("--diagram", type=str | None, default=None, help="write a picture of the network: FILE.svg")
    _add_placement(parser, default="none")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _add_placement(parser: ArgumentParser, *, default: str) -> None:
    parser.add_argument("--placement", type=str, default=default, help="none, keep, all:R, STAGE=R,... or a .json file")


def add_cost(parser: ArgumentParser) -> None:
    """The options of ``se-nas cost``."""
    add_backbone(parser)
    _add_placement(parser, default="all:16")
    _add_latency(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def _add_latency(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("--measure", type=list[str], default=[], help="latency and latency@RUNTIME, measured beside the backbone")
    add("--latency_batch", type=int, default=1, help="images at a time")
    add("--latency_threads", type=int, default=1, help="threads on a CPU")
    add("--latency_table", type=str | None, default=None, help="JSON files of other devices, with commas between")
    add("--device", type=str, default="auto", help="auto, cpu, cuda, cuda:N, mps, xpu")


def run_sites(given: Namespace) -> int:
    """``se-nas sites``; the exit code."""
    with at_work(given) as view:
        from se_nas.commands.describe import show_sites, write_diagram

        catalogue = catalogue_of(given, view)
        if given.diagram is not None:
            write_diagram(catalogue, given.placement, given.diagram)
    return shown(given, catalogue.sites(), lambda _: show_sites(catalogue))


def run_cost(given: Namespace) -> int:
    """``se-nas cost``; the exit code."""
    with at_work(given) as view:
        from se_nas.commands.describe import show_cost

        catalogue = catalogue_of(given, view)
        content = catalogue.cost(given.placement)
        if given.measure or given.latency_table:
            view.stage("measuring latency")
            from se_nas.commands.side_by_side import latency_beside

            content["latency"] = latency_beside(
                catalogue,
                given.placement,
                given.measure,
                batch=given.latency_batch,
                threads=given.latency_threads,
                tables=given.latency_table,
                device=given.device,
            )
    return shown(given, content, show_cost)


def add_bench(parser: ArgumentParser) -> None:
    """The options of ``se-nas bench``."""
    add = parser.add_argument
    add("action", type=Literal["export"], help="export: write networks with the script that times them elsewhere")
    add("folder", type=str, help="the folder to write")
    add("--run", type=str | None, default=None, help="run folder that backbone, space and images are taken from")
    add_backbone(parser)
    add("--format", type=str, default="onnx", help="onnx, onnx-int8, pt2 (for torch); several with commas")
    add("--latency_batch", type=int | None, default=None, help="images at a time; default as in the run, or 1")
    add("--placements", type=int | None, default=None, help="beside no SE and the front, at most; default as it takes")
    add_trust(parser)
    add_storage(parser)
    add("--json", action="store_true", help="print the result as JSON")


def run_bench(given: Namespace) -> int:
    """``se-nas bench``; the exit code."""
    check_whole("placements", given.placements)
    if given.run is not None:
        check_run(given.run, storage=given.storage)
    with at_work(given) as view:
        from se_nas.commands.bench import bench_run, bench_space, show_bench

        settings = {
            "formats": given.format, "batch": given.latency_batch, "most": given.placements, "view": view,
        }  # fmt: skip
        if given.run is None:
            content = bench_space(given.folder, catalogue_of(given, view), **settings)
        else:
            content = bench_run(given.folder, given.run, trust=given.trust, storage=given.storage, **settings)
    return shown(given, content, show_bench)
