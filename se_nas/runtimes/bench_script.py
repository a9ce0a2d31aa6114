"""Times the networks of this folder on this machine, and writes one JSON file, which se-nas uses as a cost.

python measure.py --out pixel8.json [--format onnx] [--threads 1] [--provider CPUExecutionProvider] [--rounds 30]

Needs Python 3.9, numpy, and onnxruntime (networks/*.onnx) or torch (networks/*.pt2); nothing of se-nas. Each run of a
network is beside one of the network without SE, in several passes over all networks, so that a device that changes its
speed in between changes nothing. Call it again after an interruption: what is in the file is not measured again.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

MIN_RUN = 0.004  # seconds that one timed run takes at least
PASSES = 3  # over all networks

Call = Callable[[], object]
Opened = Any  # loader, versions, name of the runtime


def main() -> None:
    options = arguments()
    folder = Path(__file__).resolve().parent
    manifest = json.loads((folder / "bench.json").read_text(encoding="utf-8"))
    if options.format is None:
        options.format = manifest["formats"][0]
    if options.format not in manifest["formats"]:
        sys.exit(f"this folder has no networks as {options.format}, only as {', '.join(manifest['formats'])}")
    load, versions, runtime = (torch_loader if options.format == "pt2" else onnx_loader)(options)
    images = np.zeros([manifest["batch"]] + manifest["input_shape"], np.float32)
    result = dict(
        manifest, kind="se-nas latencies", format=options.format, runtime=runtime, versions=versions,
        device=options.device or device(), threads=options.threads, rounds=options.rounds, seconds=0.0, measured={},
    )  # fmt: skip
    result.update(before(options.out, result))
    ratios = {key: list(seen["ratios"]) for key, seen in result["measured"].items()}
    start, spent = time.perf_counter(), result["seconds"]
    files = {n["key"]: str(folder / n["files"][options.format]) for n in manifest["networks"]}
    base = load(files[manifest["baseline"]], images)
    bases = result.setdefault("base_seconds", [])
    each = -(-options.rounds // PASSES)
    for turn in range(PASSES):
        for place, network in enumerate(manifest["networks"]):
            key = network["key"]
            if len(ratios.get(key, [])) >= min(options.rounds, each * (turn + 1)):
                continue
            other = base if key == manifest["baseline"] else load(files[key], images)
            seen, times = beside(base, other, each)
            ratios.setdefault(key, []).extend(seen)
            bases.extend(times)
            result["measured"][key] = summary(ratios[key])
            result["seconds"] = spent + time.perf_counter() - start
            result["base"] = summary(bases)
            result["base"].pop("ratios")
            write(result, options.out)
            sys.stderr.write(
                f"pass {turn + 1} of {PASSES}, network {place + 1} of {len(manifest['networks'])}: "
                f"{network['placement']['label']} {result['measured'][key]['median']:.3f}\n"
            )
    print(
        f"Wrote {options.out}: the network without SE takes {1000 * result['base']['median']:.3f} ms "
        f"({runtime}, batch {manifest['batch']}, threads: {options.threads})."
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, help="file to write; its name is the name of the cost")
    parser.add_argument("--format", help="onnx, onnx-int8 or pt2; default the first that the folder has")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--provider", default="CPUExecutionProvider", help="execution provider of onnxruntime")
    parser.add_argument("--device", help="what to call this device; default what the system says")
    parser.add_argument("--rounds", type=int, default=30, help="timed runs of each network")
    options = parser.parse_args()
    if options.rounds < PASSES or options.threads < 1:
        parser.error(f"--rounds is at least {PASSES} and --threads at least 1")
    return options


def onnx_loader(options: argparse.Namespace) -> Opened:
    import onnxruntime

    if options.provider not in onnxruntime.get_available_providers():
        there = ", ".join(onnxruntime.get_available_providers())
        sys.exit(f"onnxruntime has no {options.provider} here, only {there}")

    def load(file: str, images: np.ndarray) -> Call:
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads, settings.inter_op_num_threads = options.threads, 1
        session = onnxruntime.InferenceSession(file, settings, providers=[options.provider])
        feed = {session.get_inputs()[0].name: images}
        return lambda: session.run(None, feed)

    where = options.provider.replace("ExecutionProvider", "")
    int8 = " int8" if options.format == "onnx-int8" else ""
    runtime = f"onnxruntime {onnxruntime.__version__}{int8} ({where})"
    return load, {"onnxruntime": onnxruntime.__version__}, runtime


def torch_loader(options: argparse.Namespace) -> Opened:
    import torch

    torch.set_num_threads(options.threads)

    def load(file: str, images: np.ndarray) -> Call:
        network, given = torch.export.load(file).module(), torch.from_numpy(images)

        def call() -> object:
            with torch.inference_mode():
                return network(given)

        return call

    return load, {"torch": torch.__version__}, f"torch {torch.__version__} (torch.export)"


def beside(base: Call, other: Call, rounds: int) -> tuple[list[float], list[float]]:
    """Ratios of runs of one network to runs of the other, the first of each pair in turn, and seconds of the base."""
    for _ in range(3):
        timed(other, 1)
        once = timed(base, 1)
    calls = max(1, round(MIN_RUN / max(once, 1e-9)))
    ratios, times = [], []
    for turn in range(rounds):
        if turn % 2:
            second = timed(other, calls)
            first = timed(base, calls)
        else:
            first = timed(base, calls)
            second = timed(other, calls)
        ratios.append(second / first)
        times.append(first)
    return ratios, times


def timed(call: Call, calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - start) / calls


def summary(values: list[float]) -> dict[str, Any]:
    """Median and its 90 % interval, from order statistics of the binomial distribution."""
    ordered, chance, below, low = sorted(values), 0.5 ** len(values), 0.0, 0
    for place in range(len(values)):
        below += chance
        if below > 0.05:
            break
        low = place + 1
        chance *= (len(values) - place) / (place + 1)
    low = max(low - 1, 0)
    return {"median": float(np.median(ordered)), "interval": [ordered[low], ordered[-1 - low]], "ratios": values}


def before(file: str, result: dict[str, Any]) -> dict[str, Any]:
    """What the file has already, if it was measured in the same way."""
    if not Path(file).exists():
        return {}
    old = json.loads(Path(file).read_text(encoding="utf-8"))
    ignored = ("measured", "seconds", "base", "base_seconds", "rounds")
    for name, value in result.items():
        if name not in ignored and old.get(name) != value:
            sys.exit(f"{file} was measured in another way ({name}); give another --out")
    return {name: old[name] for name in ("measured", "seconds", "base", "base_seconds") if name in old}


def write(result: dict[str, Any], file: str) -> None:
    part = Path(file + ".part")
    part.write_text(json.dumps(result), encoding="utf-8")
    part.replace(file)


def device() -> str:
    try:
        lines = [line.partition(":") for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()]
        for wanted in ("model name", "hardware", "model"):
            for name, _, value in lines:
                if name.strip().lower() == wanted and value.strip():
                    return value.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
