"""The blocks of a real network by its library's own classes: what the units that se-nas finds are judged by.

The module tree is walked from the top. Containers, and modules that only hold others (stages, backbones), are walked
through; the first other module that holds a convolution is a part, and its class says what kind of part.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from torch import nn

from se_nas.core.placement import Unit

HOLDERS = re.compile(
    r"Stage|Layers$|Encoder|Backbone|Features|DenseBlock$|CrossStage|Net$|NetV|Model|HighResolutionModule|Tree$|Root"
    r"|Level|SequentialList|MaxxVitBlock$|MaxVitBlock$|MaxVitLayer$|PatchEmbed$|MaxVit$|HybridEmbed$|LevitDistilled|RepVitDownsample"
)
"""Classes that are walked through, beside containers."""

OTHERS = re.compile(
    r"Conv2d|^Conv(Norm|BN|Layer|Mlp|BnAct$)|^Conv$|^(?!Cell).*Stem|Head|Downsampl|[Tt]ransition|Embed|^PatchMerging"
    r"|^Downsample|Separable(Conv2d|ConvNormAct)$|InceptionAux|Dct|^(Detect|Segment|Classify|Pose|OBB|Concat|ADown|AConv)"
    r"|^(SCDown|v10Detect|Focus|DWConv|GhostConv|Proto|CBLinear|CBFuse)|PosEnc|PosConv|Positional|RepCPE|SPPBottleneck"
    r"|LearnableDct|Mixed_5b$|Mixed3a|Mixed4a|Mixed5a"
)
"""Classes of stems, heads and transitions: no block."""

ATTENTION = re.compile(
    r"Attn|Attention|Transformer|XCA|Serial|Parallel|MobileVit|SpatialBlock|ChannelBlock|FeatureBlock|SplitTranspose"
    r"|MultiScale|EfficientVi[tTM]|ResidualDrop|Levit|LowFormer|CPUBone|SHMA|^FFN$|C2PSA|^PSA$|A2C2f|TinyVit|FocalNet|^PartitionAttention"
    r"|MetaBlock|EfficientFormer|^Residual$|ResidualBlock"
)
"""Classes of blocks with attention between positions, and of parts of them: a unit there is neither right nor wrong."""

PLAIN = re.compile(r"Conv2d|ConvBlock|^Conv$|SPPF")


@dataclass(frozen=True)
class Verdict:
    """How the units of a network agree with its library's blocks."""

    blocks: int
    right: int
    """Blocks with exactly one unit."""
    missing: int
    """Blocks without one."""
    wrong: int
    """Units in no block, and all but one of those in one block."""
    undecided: int
    """Units in blocks with attention."""
    classes: str


def parts(model: nn.Module) -> list[tuple[str, str]]:
    """Path and class of every part of a network."""
    found: list[tuple[str, str]] = []

    def walk(module: nn.Module, path: str) -> None:
        for name, child in module.named_children():
            inner = f"{path}.{name}" if path else name
            if not any(isinstance(m, nn.Conv2d) for m in child.modules()):
                continue
            kind = type(child).__name__
            container = isinstance(child, (nn.Sequential, nn.ModuleList, nn.ModuleDict))
            if (container and type(child).__module__.startswith("torch.")) or HOLDERS.search(kind):
                walk(child, inner)
            else:
                found.append((inner, f"{kind} with skip" if kind == "ConvBnAct" and child.has_skip else kind))

    walk(model, "")
    return found


def judge(model: nn.Module, units: tuple[Unit, ...]) -> Verdict:
    """Compare the units of a network with its parts."""
    every = parts(model)
    blocks = [(p, k) for p, k in every if not OTHERS.search(k) and not ATTENTION.search(k)]
    undecided = [p for p, k in every if ATTENTION.search(k) and not OTHERS.search(k)]
    if len(blocks) < 2 and not undecided:  # a chain, such as VGG
        blocks = [(p, k) for p, k in every if PLAIN.search(k)]
    homes = Counter(home(unit, [p for p, _ in blocks] + undecided) for unit in units)
    counts = [homes[path] for path, _ in blocks]
    return Verdict(
        blocks=len(blocks),
        right=sum(count == 1 for count in counts),
        missing=sum(count == 0 for count in counts),
        wrong=homes[""] + sum(count - 1 for count in counts if count > 1),
        undecided=sum(homes[path] for path in undecided),
        classes=" ".join(f"{kind}:{count}" for kind, count in Counter(kind for _, kind in blocks).items()),
    )


def home(unit: Unit, paths: list[str]) -> str:
    """The part that holds a unit: its name, or the module of its site, lies in it; empty if none does."""
    names = [f"{name}." for name in (unit.sites[0].module, unit.name.partition(":")[0])]
    return next((path for path in paths if any(name.startswith(f"{path}.") for name in names)), "")
