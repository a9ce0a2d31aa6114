"""The model card of an export: what the network is, how good, what it costs, how to feed and load it."""

from __future__ import annotations

from collections.abc import Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined

from se_nas.core.trial import RunIdentity, Target
from se_nas.core.version import __version__
from se_nas.core.words import attention_in, blocks_in, level_of
from se_nas.exports.bundle import Exported
from se_nas.exports.formats import FORMATS
from se_nas.exports.proof import Proof

UNKNOWN_LICENSE = "unknown"
"""What the card says while nobody has chosen a license."""

_LOADING = {
    "safetensors": """
import se_nas

network = se_nas.load(".")  # this folder; reads JSON and safetensors only
""",
    "python": """
import network  # network.py of this folder; se-nas is not needed

model = network.load()
""",
    "pt2": """
import torch

model = torch.export.load("FILE").module()
""",
    "onnx": """
import onnxruntime

session = onnxruntime.InferenceSession("FILE")
outputs = session.run(None, {"images": images})[0]  # images: NumPy array
""",
}
"""How files are loaded, by the first part of a format's name."""


def model_card(record: Exported, proofs: Sequence[Proof], *, picture: str = "") -> str:
    """The card in Markdown, with the front matter that model hubs read: ``templates/card.md``, filled in.

    `picture` is the file of the folder that shows the network.
    """
    environment = Environment(  # noqa: S701  # it is Markdown
        loader=PackageLoader("se_nas.exports", "templates"), undefined=StrictUndefined, trim_blocks=True,
        keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters |= {
        "f": format,
        "numbers": _numbers,
        "level": level_of,
        "last_part": lambda path: path.rpartition("/")[2],
    }
    main = None if record.estimate is None else record.estimate.metric
    identity, data = record.identity, record.data
    looped = identity is not None and isinstance(identity.trainer, Target)
    return environment.get_template("card.md").render(
        record=record,
        version=__version__,
        estimate=record.estimate,
        identity=identity,
        data=data,
        looped=looped,
        judge=_judge(identity),
        classification=identity is None or identity.classifies,
        metrics=sorted(record.metrics.items(), key=lambda item: item[0] != main),
        # Images have one class, several labels, or a class for each pixel.
        judged=("images", "labels", "pixels")[min(len(data.target_shape) if data is not None else 0, 2)],
        proofs=proofs,
        picture=picture,
        attention=attention_in(record.placement.label),
        blocks=blocks_in(record.placement.label),
        folded_blocks="" if record.folded is None else _capital(blocks_in(record.folded.placement)),
        formats=FORMATS,
        loading=_LOADING,
        unknown=UNKNOWN_LICENSE,
    )


def _judge(identity: RunIdentity | None) -> str:
    """What knows the meaning of the network's outputs, where that is no classification."""
    if identity is None:
        return "its task"
    own = isinstance(identity.trainer, Target)
    target = identity.trainer if isinstance(identity.trainer, Target) else identity.task
    return f"the {'trainer' if own else 'task'} `{target.target.rpartition('/')[2]}`"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.6g}" for value in values)
