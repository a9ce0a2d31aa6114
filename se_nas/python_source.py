"""A network as a Python file of its own: the user's backbone, and its SE blocks in plain torch.

The backbone is built as its library or file builds it; where the network differs from that (other classes, other first
layer, SE blocks), the file says so line by line. Expressions that were rewritten (see `se_nas.rewrite`) stand there as
methods of subclasses. Nothing of se-nas is needed to run it.
"""

from __future__ import annotations

import ast
import builtins
import copy
import importlib.metadata
import inspect
import re
import types
from dataclasses import dataclass, field

from torch import nn

from se_nas.backbones.plain import PlainCall
from se_nas.errors import BackboneError
from se_nas.rewrite import edited
from se_nas.se import OpenGate, SEBlock

_TORCH_LAYERS = "torch.nn.modules."
_GATES = {
    "sigmoid": "torch.sigmoid",
    "hard_sigmoid": "nn.functional.hardsigmoid",
    "tanh": "torch.tanh",
    "relu": "torch.relu",
}

# Names that the file itself uses.
_TAKEN = {
    "torch": ("torch", ""),
    "nn": ("torch.nn", ""),
    **{name: ("", name) for name in ("Path", "load_file", "sys", "SEBlock", "SEGate", "OpenGate", "Logits", "rescale")},
    **{name: ("", name) for name in ("build", "load")},
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

_GATE = '''
class SEGate(SEBlock):
    """An SE block that leaves the multiplication to the network."""

    def forward(self, u):
        return self.gates(u)

'''

_OPEN = '''
class OpenGate(nn.Module):
    """Ones, in place of a gate that is not wanted."""

    def forward(self, u):
        return u.new_ones(u.shape[:2] + (1,) * (u.dim() - 2))

'''

_LOGITS = '''
class Logits(nn.Module):
    """Gives only the logits of a network that gives more."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        output = self.model(images)
        return output if isinstance(output, torch.Tensor) else output.logits

'''

_RESCALE = '''
def rescale(module, with_se, **blocks):
    """Give a module its SE blocks: its class becomes one that calls them, all else of it stays."""
    module.__class__ = with_se
    for name, block in blocks.items():
        module.add_module(name, block)

'''

_END = '''

def load(file=Path(__file__).with_name({weights!r})):
    """The trained network, in eval mode."""
    network = build()
    network.load_state_dict(load_file(file))
    return network.eval()
'''


@dataclass
class _Writer:
    """Collects what the file needs while the network is compared with what the plain call gives."""

    call: PlainCall
    own_file: str
    """Name by which the user's backbone file is imported here; empty if there is none."""
    imports: dict[str, tuple[str, str]] = field(default_factory=lambda: dict(_TAKEN))
    """Local name -> (module, attribute), attribute empty for a module."""
    classes: dict[tuple[type, tuple[tuple[str, str], ...]], str] = field(default_factory=dict)
    sources: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    used: set[str] = field(default_factory=set)
    """Helpers that the file needs: SEBlock, SEGate, OpenGate, rescale."""
    done: dict[int, str] = field(default_factory=dict)
    """Modules that were written already -> their path."""

    def imported(self, module: str, attribute: str) -> str:
        """The local name of something that is imported; another one if the name is taken by something else."""
        wanted = (module, attribute)
        name = stem = attribute or module.rpartition(".")[2]
        number = 1
        while self.imports.get(name, wanted) != wanted:
            number += 1
            name = f"{stem}_{number}"
        self.imports[name] = wanted
        return name

    def class_name(self, cls: type) -> str:
        """How the file names a class."""
        if "<locals>" in cls.__qualname__:
            raise BackboneError(
                f"class {cls.__qualname__!r} is defined in a function, so a file of its own cannot import it",
                hint="define it at the top of its module, or choose another format",
            )
        if cls.__module__.startswith(_TORCH_LAYERS) and getattr(nn, cls.__name__, None) is cls:
            return f"nn.{cls.__name__}"
        if cls.__module__.startswith("se_nas."):  # its source is included
            return cls.__qualname__
        first, _, rest = cls.__qualname__.partition(".")
        return ".".join(filter(None, (self.imported(self.module_name(cls.__module__), first), rest)))

    def module_name(self, name: str) -> str:
        return self.own_file if name.startswith("se_nas_file_") else name

    def compare(self, path: str, plain: nn.Module | None, module: nn.Module) -> None:
        """Write what makes a module of the plain call into that of the network, and so for its children."""
        if id(module) in self.done:
            if plain is None or _differs(plain, module):
                self.lines.append(f"network.set_submodule({path!r}, network.get_submodule({self.done[id(module)]!r}))")
            return
        self.done[id(module)] = path
        if plain is None or _differs(plain, module):
            self.lines.append(f"network.set_submodule({path!r}, {self.constructor(path, module)})")
            return
        blocks = {}
        for name, child in module.named_children():
            if isinstance(child, SEBlock) and name not in plain._modules:
                blocks[name] = self.constructor(path, child)
            else:
                self.compare(f"{path}.{name}".lstrip("."), plain._modules.get(name), child)
        if hasattr(type(module), "_se_base"):
            self.used.add("rescale")
            target = f"network.get_submodule({path!r})" if path else "network"
            given = [target, self.subclass(type(module)), *(f"{name}={block}" for name, block in blocks.items())]
            self.lines.append(f"rescale({', '.join(given)})")

    def constructor(self, path: str, module: nn.Module) -> str:
        """The call that makes a module which the plain call does not have."""
        if isinstance(module, SEBlock):
            self.used |= {"SEBlock", type(module).__name__}
            return _block_call(module)
        if isinstance(module, OpenGate):
            self.used.add("OpenGate")
            return "OpenGate()"
        if type(module).__module__.startswith(_TORCH_LAYERS) and not module._modules:
            return f"nn.{module!r}"  # torch writes its layers as their constructor
        raise BackboneError(
            f"module {path!r} of the network is a {type(module).__name__}, which its factory does not make: "
            "the format python cannot write it",
            hint="choose another format",
        )

    def subclass(self, cls: type) -> str:
        """The name of the class that calls the SE blocks; its source is written the first time."""
        base: type[nn.Module] = cls._se_base  # type: ignore[attr-defined]
        anchors: tuple[tuple[str, str], ...] = cls._se_anchors  # type: ignore[attr-defined]
        if (base, anchors) not in self.classes:
            count = sum(known is base for known, _ in self.classes)
            name = f"{base.__name__}WithSE" + (str(count + 1) if count else "")
            self.classes[base, anchors] = name
            self.sources.append(self._class_source(name, base, anchors))
        return self.classes[base, anchors]

    def _class_source(self, name: str, base: type[nn.Module], anchors: tuple[tuple[str, str], ...]) -> str:
        edges = ("input", "output")
        methods = edited(base, {place: block for place, block in anchors if place not in edges})
        before = [block for place, block in anchors if place == "input"]
        after = [block for place, block in anchors if place == "output"]
        inner = "super().forward"
        parts = []
        for method, (function, definition) in methods.items():
            text = self._method_source(function, definition)
            if method == "forward" and (before or after):
                text, inner = text.replace("def forward(", "def _forward(", 1), "self._forward"
            parts.append(text)
        if before or after:
            value = "first"
            for block in before:
                value = f"self.{block}({value})"
            value = f"{inner}({value}, *args, **kwargs)"
            for block in after:
                value = f"self.{block}({value})"
            parts.append(f"def forward(self, first, *args, **kwargs):\n    return {value}")
        body = "\n\n".join(parts)
        indented = "\n".join(f"    {line}" if line else "" for line in body.splitlines())
        return f"class {name}({self.class_name(base)}):\n{indented}\n"

    def _method_source(self, function: types.FunctionType, definition: ast.FunctionDef) -> str:
        """A changed method as source, its names made to hold outside of its module and class."""
        definition = copy.deepcopy(definition)
        closure = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
        owner = closure.pop("__class__", None)
        if closure:
            raise BackboneError(
                f"{function.__qualname__} uses {sorted(closure)} of the function around it, "
                "so it cannot stand in a file of its own",
                hint="choose another format",
            )
        names = {node.id for node in ast.walk(definition) if isinstance(node, ast.Name)}
        renamed = {}
        for name in sorted(names & set(function.__globals__) - set(function.__code__.co_varnames)):
            value = function.__globals__[name]
            if name in vars(builtins) and vars(builtins)[name] is value:
                continue
            renamed[name] = self._global(function, name, value)
        mangling = function.__qualname__.rpartition(".")[0].rpartition(".")[2].lstrip("_")
        parent = self.class_name(owner.cell_contents) if owner is not None else ""
        _Outside(renamed, mangling, parent).visit(definition)
        return ast.unparse(ast.fix_missing_locations(definition))

    def _global(self, function: types.FunctionType, name: str, value: object) -> str:
        if inspect.ismodule(value):
            known = self.imports.setdefault(name, (value.__name__, ""))
            return name if known == (value.__name__, "") else self.imported(value.__name__, "")
        if isinstance(value, type) and not value.__module__.startswith("se_nas."):
            return self.class_name(value)
        home = function.__globals__["__name__"]
        return name if home.startswith("se_nas.") else self.imported(self.module_name(home), name)


class _Outside(ast.NodeTransformer):
    """Makes a method independent of where it stood: imported names, private names, ``super()``, annotations."""

    def __init__(self, renamed: dict[str, str], mangling: str, parent: str) -> None:
        self.renamed = renamed
        self.mangling = mangling
        self.parent = parent

    def visit_Name(self, node: ast.Name) -> ast.expr:
        new = self.renamed.get(node.id, node.id)
        if "." in new:
            return ast.copy_location(ast.parse(new, mode="eval").body, node)
        return ast.copy_location(ast.Name(new, node.ctx), node)

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        self.generic_visit(node)
        if node.attr.startswith("__") and not node.attr.endswith("__"):
            node.attr = f"_{self.mangling}{node.attr}"
        return node

    def visit_Call(self, node: ast.Call) -> ast.expr:
        bare = isinstance(node.func, ast.Name) and node.func.id == "super" and not node.args
        self.generic_visit(node)
        if bare and self.parent:
            node.args = [ast.parse(self.parent, mode="eval").body, ast.Name("self", ast.Load())]
        return node

    def visit_arg(self, node: ast.arg) -> ast.arg:
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.stmt | None:
        self.generic_visit(node)
        if node.value is None:
            return None
        return ast.copy_location(ast.Assign([node.target], node.value), node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        self.generic_visit(node)
        node.returns = None
        return node


def _differs(plain: nn.Module, module: nn.Module) -> bool:
    """Whether a module must be made anew; SE blocks inside do not count."""
    if type(plain).__qualname__ != type(module).__qualname__ or isinstance(module, (SEBlock, OpenGate)):
        return True
    return not module._modules and plain.extra_repr() != module.extra_repr()


def _block_call(block: SEBlock) -> str:
    settings = {
        "squeeze": (repr(block.squeeze), "'avg'"),
        "gate": (_GATES[block.gate], "torch.sigmoid"),
        "scale": (repr(block.gate_scale), "1.0"),
        "offset": (repr(block.gate_offset), "0.0"),
        "bias": (repr(block.fc1.bias is not None), "False"),
    }
    given = [f"{name}={value}" for name, (value, default) in settings.items() if value != default]
    return f"{type(block).__name__}({', '.join([str(block.fc1.in_features), str(block.fc1.out_features), *given])})"


def python_source(
    network: nn.Module, call: PlainCall, *, title: str, facts: dict[str, object], weights: str, own_file: str = ""
) -> str:
    """The source of a file with ``build()`` and ``load()``.

    Parameters
    ----------
    network:
        The network that the file shall give.
    call:
        What builds its backbone.
    title:
        First line of the docstring.
    facts:
        Constants that the file states, such as ``MEAN``.
    weights:
        Name of the safetensors file beside it.
    own_file:
        Module name of the user's backbone file, which lies beside it; empty if there is none.

    Raises
    ------
    BackboneError
        If the network has parts that cannot be written as source.
    """
    writer = _Writer(call, own_file)
    module = own_file or call.module
    expression = call.expression
    for name in call.names:
        local = writer.imported(module, name)
        expression = re.sub(rf"\b{name}\b(?=[.(])", local, expression)
    writer.compare("", call.network, network)
    helpers = [text for name, text in
               (("SEBlock", _BLOCK), ("SEGate", _GATE), ("OpenGate", _OPEN), ("rescale", _RESCALE))
               if name in writer.used]  # fmt: skip
    logits = _LOGITS if "Logits(" in expression else ""
    body = [f"    network = {expression}", *(f"    {line}" for line in writer.lines), "    return network"]
    parts = [
        _header(title, writer, call, facts, own_file),
        f"\n\n# The backbone, as se-nas builds it.\n{call.source.strip()}\n" if call.source else "",
        *(f"\n{part.rstrip()}\n" for part in (logits, *helpers)),
        *(f"\n\n{source.rstrip()}\n" for source in writer.sources),
        '\n\ndef build():\n    """The network with random weights, in train mode."""\n',
        "\n".join(body) + "\n",
        _END.format(weights=weights),
    ]
    return "".join(parts)


def _header(title: str, writer: _Writer, call: PlainCall, facts: dict[str, object], own_file: str) -> str:
    needs = ", ".join(["torch", "safetensors", *(_with_version(package) for package in call.packages)])
    lines = [f'"""{title}', "", f"Needs {needs}. Its `load()` gives the trained network in eval mode.", '"""', ""]
    lines += ["import sys"] * bool(own_file) + ["from pathlib import Path", ""]
    lines += ["import torch", "from safetensors.torch import load_file", "from torch import nn"]
    if own_file:
        lines += ["", "sys.path.insert(0, str(Path(__file__).parent))  # the backbone's own file lies beside this one"]
    for name, (module, attribute) in sorted(writer.imports.items(), key=lambda item: (item[1], item[0])):
        if name in _TAKEN:
            continue
        what, original = (f"from {module} import {attribute}", attribute) if attribute else (f"import {module}", module)
        lines.append(what if name == original else f"{what} as {name}")
    lines += ["", *(f"{name} = {value!r}" for name, value in facts.items())]
    return "\n".join(lines) + "\n"


def _with_version(package: str) -> str:
    try:
        return f"{package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        return package
