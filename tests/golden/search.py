"""Records a search of 12 trials and its confirm: what must stay equal, bit by bit on one machine, when code is moved.

``python tests/golden/search.py`` writes ``search.json`` anew: do that when a change of numbers is meant, and say so in
the changelog.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

import se_nas
from se_nas.core.serialization import to_plain

FILE = Path(__file__).with_name("search.json")
SETTINGS: dict[str, Any] = {
    "backbone": "resnet8", "data": "digits", "budget": 12, "epochs": 2, "device": "cpu", "executor": "inline",
    "keep_weights": "all", "precision": "32",
}  # fmt: skip


def machine(device: str) -> dict[str, str]:
    """What the bits depend on: processors of one name can differ in what they can do."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    family = [" ".join(line.split()) for line in lines if line.startswith(("cpu family", "model\t", "stepping"))][:3]
    return {
        "device": device,
        "processor": ", ".join([*family, torch.backends.cpu.get_cpu_capability()]),
        "torch": torch.__version__,
    }


def weights_hash(file: Path) -> str:
    """SHA-256 of the tensors of a file by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(load_file(file).items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()[:16]


def _lasting(text: str, folder: Path) -> str:
    """A sentence without the place of the run and the time that more seeds would take."""
    return re.sub(r"about [\d.]+ more", "about N more", text.replace(str(folder), "RUN"))


def recorded(folder: Path) -> dict[str, Any]:
    """What a search and a confirm in a folder decide and find."""
    result = se_nas.search(out=str(folder), **SETTINGS)
    confirmed = se_nas.confirm(folder, top=2, seeds=2)
    trials = [
        {
            "key": t.placement.key, "placement": t.placement.label, "seed": t.identity.seed,
            "costs": {name: cost.value for name, cost in t.costs.items()},
            "start": t.identity.start_weights, "data": t.identity.data, "split": t.identity.split,
            "metrics": {name: metric.value for name, metric in t.metrics.items()},
            "curve": [epoch.metrics["val_accuracy"] for epoch in t.curve],
            "weights": weights_hash(folder / "weights" / f"{t.number}.safetensors"),
        }
        for t in result.found.trials
    ]  # fmt: skip
    columns = ["trial", "mean", "lower", "upper", "p_front", "gain", "recommended", "observed_front"]
    return {
        "machine": machine(result.found.trials[0].device),
        "trials": trials,
        "front": json.loads(result.front[columns].to_json(orient="records", double_precision=15)),
        "confirmed": {
            network.label: {
                "validation": network.validation.values,
                "test": None if network.test is None else network.test.values,
                "against": to_plain(network.against),
            }
            for network in confirmed.networks
        },
        "verdict": [_lasting(sentence.text, folder) for sentence in confirmed.verdict.sentences],
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        FILE.write_text(json.dumps(recorded(Path(scratch) / "run"), indent=1) + "\n")
