"""The model card of an export: what the network is, how good, what it costs, how to feed and load it."""

from __future__ import annotations

import json
from collections.abc import Sequence

from se_nas.export import WEIGHTS, Exported
from se_nas.formats import FORMATS
from se_nas.proof import Proof

UNKNOWN_LICENSE = "unknown"
"""What the card says while nobody has chosen a license."""

_LOADING = {
    "safetensors": """```python
import se_nas

network = se_nas.load(".")  # this folder; reads JSON and safetensors only
```""",
    "python": """```python
import network  # network.py of this folder; se-nas is not needed

model = network.load()
```""",
    "pt2": """```python
import torch

model = torch.export.load("network.pt2").module()
```""",
    "onnx": """```python
import onnxruntime

session = onnxruntime.InferenceSession("network.onnx")
outputs = session.run(None, {"images": images})[0]  # images: NumPy array
```""",
    "torchscript": """```python
import torch

model = torch.jit.load("network.torchscript.pt")
```""",
}


def model_card(record: Exported, proofs: Sequence[Proof]) -> str:
    """The card in Markdown, with the front matter that model hubs read."""
    parts = [
        _front_matter(record),
        f"# {_backbone(record)} with Squeeze-and-Excitation\n",
        f"Placement: `{record.placement.label or record.key}` (key `{record.key}`"
        + (f", trial {record.trial}" if record.trial is not None else "")
        + "), found with se-nas.\n",
        "## How good\n\n" + _quality(record, proofs),
        "## What it costs\n\n" + _costs(record),
        "## Input and output\n\n" + _interface(record),
        "## Data and training\n\n" + _training(record),
        "## Files, and the proof of each\n\n" + _proofs(proofs),
        "## How to load\n\n" + _loading(proofs),
        "## License\n\n"
        + (record.license or "Not chosen yet: give it with `se-nas export --license`, or write it here.")
        + "\n",
    ]
    return "\n".join(parts)


def _backbone(record: Exported) -> str:
    return record.backbone.target.rpartition("/")[2]


def _front_matter(record: Exported) -> str:
    license_text = json.dumps(record.license or UNKNOWN_LICENSE)
    return f"---\nlicense: {license_text}\nlibrary_name: pytorch\ntags: [squeeze-and-excitation, se-nas]\n---\n"


def _quality(record: Exported, proofs: Sequence[Proof]) -> str:
    lines = []
    if record.estimate is not None:
        e = record.estimate
        lines.append(
            f"- {e.metric} by all {e.trainings} trainings of the search together: {e.mean:.4f}, 90 % interval "
            f"{e.lower:.4f} to {e.upper:.4f} (validation; the mean over seeds of this network, not of these weights)"
        )
    main = record.estimate.metric if record.estimate is not None else None
    for name, metric in sorted(record.metrics.items(), key=lambda item: item[0] != main):
        lines.append(f"- {name} of these weights, at the end of their training: {metric.value:.4f} ({metric.unit})")
    if proofs and (accuracy := proofs[0].trained_accuracy) is not None:
        lines.append(
            f"- accuracy of these weights in float32 (share of right {_judged(record)}), on the {proofs[0].images} "
            f"validation images of the proof: {accuracy:.4f}"
        )
    lines.append("\nThese are validation figures: the network was chosen by them. The test part was not read for this.")
    return "\n".join(lines) + "\n"


def _judged(record: Exported) -> str:
    """What accuracy is a share of: images have one class, several labels, or a class for each pixel."""
    targets = () if record.data is None else record.data.target_shape
    return ("images", "labels", "pixels")[min(len(targets), 2)]


def _costs(record: Exported) -> str:
    rows = ["| cost | value | kind | 90 % interval |", "|---|---|---|---|"]
    for name, cost in record.costs.items():
        interval = "" if cost.interval is None else f"{cost.interval[0]:.6g} to {cost.interval[1]:.6g}"
        value = f"{cost.value:,.0f}" if float(cost.value).is_integer() else f"{cost.value:.6g}"
        rows.append(f"| {name} | {value} {cost.unit} | {cost.kind} | {interval} |")
    return "\n".join(rows) + "\n"


def _interface(record: Exported) -> str:
    shape = ", ".join(str(side) for side in record.input_shape)
    lines = [f"Input: float32, (batch, {shape}), any batch size of 1 and more, channels first."]
    if record.mean:
        lines.append(
            f"The graph takes normalised images: `(image - mean) / std` per channel, in the units of the stored images,"
            f" with\n\n- mean: {_numbers(record.mean)}\n- std: {_numbers(record.std)}\n"
        )
    else:
        lines.append("The images are as the data module of the search gives them, its transforms included.")
    classes = record.classes[:20]
    more = f" and {len(record.classes) - 20} more (in placement.json)" if len(record.classes) > 20 else ""
    named = f" Classes: {', '.join(classes)}{more}." if classes else ""
    if record.identity is None or record.identity.task.target == "classification":
        lines.append(f"Output: float32, one value per class, before softmax.{named}")
    else:
        task = record.identity.task.target.rpartition("/")[2]
        lines.append(f"Output: float32, as the network gives it to the task `{task}`, which knows its meaning.{named}")
    return "\n".join(lines) + "\n"


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.6g}" for value in values)


def _training(record: Exported) -> str:
    lines = []
    if (data := record.data) is not None:
        counts = f"{data.train} train, {data.val} validation, {data.test} test images; " if data.train else ""
        lines.append(f"- data: `{data.target.target.rpartition('/')[2]}`, {counts}checksum `{data.checksum}`")
    if (identity := record.identity) is not None:
        r = identity.recipe
        lines.append(
            f"- training: {identity.epochs} epochs, {r.optimizer}, lr {r.lr:g}, batch {r.batch_size}, "
            f"augmentation {r.augment}, precision {identity.precision}, seed {identity.seed}"
        )
    lines.append("- versions: " + (", ".join(f"{name} {version}" for name, version in record.versions.items()) or "?"))
    return "\n".join(lines) + "\n"


def _proofs(proofs: Sequence[Proof]) -> str:
    rows = [
        "| file | format | size (KiB) | largest difference | same predictions | accuracy (trained) | latency, ms |",
        "|---|---|---|---|---|---|---|",
    ]
    for proof in proofs:
        low, high = proof.latency.interval or (proof.latency.value,) * 2
        accuracy = "" if proof.accuracy is None else f"{proof.accuracy:.4f} ({proof.trained_accuracy:.4f})"
        rows.append(
            f"| `{proof.file}` | {FORMATS[proof.format].what} | {proof.bytes / 1024:,.0f} | {proof.difference:.2g} | "
            f"{100 * proof.agreement:.2f} % | {accuracy} | {proof.latency.value:.3f} ({low:.3f} to {high:.3f}) |"
        )
    if proofs:
        rows.append(
            f"\nEach file was loaded in a process of its own and run on {proofs[0].images} real validation images "
            f"beside the trained network, whose largest output is {proofs[0].scale:.3g}. Latency: median of single "
            f"images on one CPU thread, 90 % interval. The figures are in `proof.json`."
        )
    return "\n".join(rows) + "\n"


def _loading(proofs: Sequence[Proof]) -> str:
    """How each file is loaded; variants load as their plain format does."""
    texts = []
    for proof in proofs:
        kind, _, variant = proof.format.partition("-")
        plain = FORMATS[kind].file
        text = _LOADING[kind].replace(plain, proof.file) if variant else _LOADING[kind]
        texts.append(f"`{proof.file}`:\n\n{text}\n")
    return "\n".join(texts) or f"`se_nas.load` reads this folder ({WEIGHTS}).\n"
