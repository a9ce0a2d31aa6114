"""A network as a Python file of its own: the user's backbone, and its SE blocks in plain torch.

The backbone is built as its library or file builds it; where the network differs from that (other classes, other first
layer, SE blocks), the file says so line by line. Expressions that were rewritten (see `se_nas.insertion.rewrite`) stand
there as methods of subclasses. Nothing of se-nas is needed to run it.
"""

from __future__ import annotations

import ast
import builtins
import importlib.metadata
import inspect
import re
import sys
import types
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from se_nas.core.errors import BackboneError
from se_nas.core.plugins import FILE_MODULE
from se_nas.exports.block_source import HELPERS, block_call, is_block, needed_for
from se_nas.exports.method_source import method_source, names_in
from se_nas.exports.plain_call import PlainCall
from se_nas.insertion.block import OpenGate
from se_nas.insertion.rewrite import edited

_TORCH_LAYERS = "torch.nn.modules."
# Names that the file itself uses.
_TAKEN = {
    "torch": ("torch", ""),
    "nn": ("torch.nn", ""),
    "Tensor": ("torch", "Tensor"),
    **{name: ("", name) for name in ("Path", "load_file", "sys", "build", "load", *HELPERS)},
}

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
    beside: bool
    """Whether files of the user's own, which lie beside this one, are imported."""
    imports: dict[str, tuple[str, str]] = field(default_factory=lambda: dict(_TAKEN))
    """Local name -> (module, attribute), attribute empty for a module."""
    classes: dict[tuple[type, tuple[tuple[str, str], ...]], str] = field(default_factory=dict)
    sources: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    used: set[str] = field(default_factory=set)
    """Names in `HELPERS` that the file needs."""
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
        """The name by which the file imports a module: a file of the user's own lies beside it."""
        if not name.startswith(FILE_MODULE):
            return name
        self.beside = True
        return Path(str(sys.modules[name].__file__)).stem

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
            if is_block(child) and name not in plain._modules:
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
        if is_block(module):
            self.used |= needed_for(module)
            return block_call(module, lambda name, attribute: self.imported(self.module_name(name), attribute))
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
        anchors: tuple[tuple[str, str], ...] = cls._se_hooks  # type: ignore[attr-defined]
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
        closure = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
        owner = closure.pop("__class__", None)
        if closure:
            raise BackboneError(
                f"{function.__qualname__} uses {sorted(closure)} of the function around it, "
                "so it cannot stand in a file of its own",
                hint="choose another format",
            )
        found = {name: function.__globals__.get(name) for name in names_in(function, definition)}
        renamed = {
            name: self._global(function, name, value)
            for name, value in sorted(found.items())
            if not (name in vars(builtins) and vars(builtins)[name] is value)
        }
        parent = self.class_name(owner.cell_contents) if owner is not None else ""
        return method_source(function, definition, renamed, parent=parent)

    def _global(self, function: types.FunctionType, name: str, value: object) -> str:
        if inspect.ismodule(value):
            known = self.imports.setdefault(name, (value.__name__, ""))
            return name if known == (value.__name__, "") else self.imported(value.__name__, "")
        if isinstance(value, type) and not value.__module__.startswith("se_nas."):
            return self.class_name(value)
        home = function.__globals__["__name__"]
        return name if home.startswith("se_nas.") else self.imported(self.module_name(home), name)


def _differs(plain: nn.Module, module: nn.Module) -> bool:
    """Whether a module must be made anew; SE blocks inside do not count."""
    if type(plain).__name__ != type(module).__name__ or is_block(module) or isinstance(module, OpenGate):
        return True
    return not module._modules and plain.extra_repr() != module.extra_repr()


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
    writer = _Writer(call, bool(own_file))
    module = own_file or call.module
    expression = call.expression
    for name in call.names:
        local = writer.imported(module, name)
        expression = re.sub(rf"\b{name}\b(?=[.(])", local, expression)
    writer.compare("", call.network, network)
    if "Logits(" in expression:
        writer.used.add("Logits")
    body = [f"    network = {expression}", *(f"    {line}" for line in writer.lines), "    return network"]
    content = "".join([
        f"\n\n# The backbone, as se-nas builds it.\n{call.source.strip()}\n" if call.source else "",
        *(f"\n\n{text.strip()}\n" for name, text in HELPERS.items() if name in writer.used),
        *(f"\n\n{source.rstrip()}\n" for source in writer.sources),
        '\n\ndef build():\n    """The network with random weights, in train mode."""\n',
        "\n".join(body) + "\n",
        _END.format(weights=weights),
    ])  # fmt: skip
    from_torch = "Tensor, nn" if re.search(r"\bTensor\b", content) else "nn"
    return _header(title, writer, facts, from_torch) + content


def _header(title: str, writer: _Writer, facts: dict[str, object], from_torch: str) -> str:
    needs = ", ".join(["torch", "safetensors", *(_with_version(package) for package in writer.call.packages)])
    lines = [f'"""{title}', "", f"Needs {needs}. Its `load()` gives the trained network in eval mode.", '"""', ""]
    lines += ["import sys"] * writer.beside + ["from pathlib import Path", ""]
    lines += ["import torch", "from safetensors.torch import load_file", f"from torch import {from_torch}"]
    if writer.beside:
        lines += ["", "sys.path.insert(0, str(Path(__file__).parent))  # your own files lie beside this one"]
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
