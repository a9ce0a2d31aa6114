"""SE blocks and others as source: the classes that an exported file needs, and the calls that make its blocks."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TypeGuard

from torch import nn

from se_nas.backbones.libraries import Logits
from se_nas.core.blocks import BLOCKS, SE
from se_nas.core.plugins import load
from se_nas.insertion.attention.base import Attention, ChannelGate
from se_nas.insertion.attention.build import gate_only, gives_gates
from se_nas.insertion.attention.own import OwnBlock, OwnGate
from se_nas.insertion.block import OpenGate, SEBlock, SEGate

_GATES = {
    "sigmoid": "torch.sigmoid",
    "hard_sigmoid": "nn.functional.hardsigmoid",
    "tanh": "torch.tanh",
    "relu": "torch.relu",
}

_BLOCK = '''
class SEBlock(nn.Module):
    """Squeeze-and-Excitation (Hu et al., arXiv 1709.01507): each channel times a gate that sees the whole tensor."""

    def __init__(self, channels, hidden, *, squeeze="avg", gate=torch.sigmoid, scale=1.0, offset=0.0, bias=False):
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden, bias=bias)
        self.fc2 = nn.Linear(hidden, channels, bias=bias)
        self.squeeze, self.gate, self.scale, self.offset = squeeze, gate, scale, offset

    def gates(self, u):
        size = tuple(range(2, u.dim()))
        z = u.mean(size) if self.squeeze == "avg" else u.amax(size)
        s = self.offset + self.scale * self.gate(self.fc2(torch.relu(self.fc1(z))))
        return s.reshape(s.shape + (1,) * len(size))

    def forward(self, u):
        return u * self.gates(u)

'''

_RESCALE = '''
def rescale(module, with_se, **blocks):
    """Give a module its SE blocks: its class becomes one that calls them, all else of it stays."""
    module.__class__ = with_se
    for name, block in blocks.items():
        module.add_module(name, block)

'''

_OTHERS: dict[str, type[Attention]] = {
    made.__name__: made for name, kind in BLOCKS.items() if name != SE for made in [load(kind.made)]
}
"""Name of the class -> blocks other than SE."""

_OWN: dict[str, type[Attention]] = {made.__name__: made for made in (OwnBlock, OwnGate)}
"""What holds a block of the user's own."""

HELPERS = {
    "Logits": inspect.getsource(Logits),
    "SEBlock": _BLOCK,
    "SEGate": inspect.getsource(SEGate),
    "OpenGate": inspect.getsource(OpenGate),
    "rescale": _RESCALE,
    "Attention": inspect.getsource(Attention),
    "ChannelGate": inspect.getsource(ChannelGate),
    "gate_only": inspect.getsource(gate_only),
    **{name: inspect.getsource(made) for name, made in {**_OTHERS, **_OWN}.items()},
}
"""Name -> source, which uses nothing but ``torch``, ``nn`` and ``Tensor``."""


def is_block(module: nn.Module) -> TypeGuard[SEBlock | Attention]:
    """Whether a module is a block whose source is here."""
    return isinstance(module, SEBlock) or type(module) in (*_OTHERS.values(), *_OWN.values())


def needed_for(block: SEBlock | Attention) -> set[str]:
    """The helpers that the call of a block uses."""
    if isinstance(block, SEBlock):
        return {"SEBlock", type(block).__name__}
    gate = {"ChannelGate"} if isinstance(block, ChannelGate) else set()
    return {"Attention", type(block).__name__} | gate | ({"gate_only"} if gives_gates(block) else set())


def block_call(block: SEBlock | Attention, imported: Callable[[str, str], str]) -> str:
    """The call that makes a block of the settings of another, as source; what is the default is left out.

    `imported` gives the local name of what is imported, from module and attribute.
    """
    if isinstance(block, Attention):
        made = f"{type(block).__name__}({_own_call(block, imported)}{block.extra_repr()})"
        return f"gate_only({made})" if gives_gates(block) else made
    settings = {
        "squeeze": (repr(block.squeeze), "'avg'"),
        "gate": (_GATES[block.gate], "torch.sigmoid"),
        "scale": (repr(block.gate_scale), "1.0"),
        "offset": (repr(block.gate_offset), "0.0"),
        "bias": (repr(block.fc1.bias is not None), "False"),
    }
    given = [f"{name}={value}" for name, (value, default) in settings.items() if value != default]
    return f"{type(block).__name__}({', '.join([str(block.fc1.in_features), str(block.fc1.out_features), *given])})"


def _own_call(block: Attention, imported: Callable[[str, str], str]) -> str:
    """The call that makes the module in a block of the user's own, as the first argument; nothing for others."""
    if not isinstance(block, OwnBlock | OwnGate) or block.source is None:
        return ""
    module, attribute, args = block.source
    first, _, rest = attribute.partition(".")
    name = ".".join(filter(None, (imported(module, first), rest)))
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in args.items())}), "
