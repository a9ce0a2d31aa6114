"""How a backbone is built without se-nas: the call as Python source, and what it gives."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import inspect
import pprint
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from se_nas.backbones.build import BACKBONES, FIXED, source_file
from se_nas.backbones.libraries import Logits
from se_nas.core.errors import BackboneError, ConfigError
from se_nas.core.plugins import accepted, resolve
from se_nas.core.trial import Target

Settings = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class PlainCall:
    """A call that builds a backbone before it is made to fit the data."""

    expression: str
    module: str
    """What the names in the call are imported from; empty for a backbone of se-nas, whose `source` is included."""
    names: tuple[str, ...]
    network: nn.Module
    """What the call gives."""
    source: str = ""
    packages: tuple[str, ...] = ()
    """Packages that it needs beside torch."""


def plain_call(target: Target, candidate: nn.Module, *, num_classes: int, input_shape: tuple[int, ...]) -> PlainCall:
    """The call that gives the network which a candidate was made from.

    Raises
    ------
    BackboneError
        If the arguments cannot be written as source.
    """
    library = next((name for name in _LIBRARIES if target.target.startswith(name)), None)
    offered: Settings = {"num_classes": num_classes, "in_channels": input_shape[0], "input_shape": tuple(input_shape)}
    settings = {name: value for name, value in target.args.items() if name != "pretrained"}
    with torch.random.fork_rng(devices=[]):
        if library is not None:
            module, expressions = _LIBRARIES[library](target.target.partition(":")[2], settings, offered, candidate)
            return _first(target, module, expressions)
        factory, _ = resolve("backbone", target.target, BACKBONES)
        args = {**FIXED.get(target.target, {}), **accepted(factory, offered), **target.args}
        return _of_factory(target, factory, args)


def _of_factory(target: Target, factory: Any, args: Settings) -> PlainCall:
    builtin = str(getattr(factory, "__module__", "")).startswith("se_nas.")
    path = target.target if ":" in target.target else _entry_point(target.target)
    module, _, name = path.rpartition(":")
    if builtin:
        return PlainCall(
            expression=f"{factory.__name__}({_written(args)})",
            module="",
            names=(),
            network=factory(**args),
            source=_without_header(inspect.getsource(inspect.getmodule(factory) or factory)),
        )
    file = module.endswith(".py")
    return PlainCall(
        expression=f"{name}({_written(args)})",
        module=Path(module).stem if file else module,
        names=(name.partition(".")[0],),
        network=factory(**args),
        packages=() if file else (module.partition(".")[0],),
    )


def _entry_point(name: str) -> str:
    return next((p.value for p in importlib.metadata.entry_points(group="se_nas.backbone") if p.name == name), "")


def _first(target: Target, module: str, expressions: list[str]) -> PlainCall:
    """The first of several ways to write a call that the library takes."""
    library = importlib.import_module(module)
    problem: Exception | None = None
    for expression in expressions:
        words = {node.id for node in ast.walk(ast.parse(expression)) if isinstance(node, ast.Name)}
        names = tuple(sorted(words - {"Logits"}))
        namespace = {"Logits": Logits, **{name: getattr(library, name) for name in names}}
        try:
            network = eval(expression, namespace)  # noqa: S307  # written above, its values are literals
        except TypeError as error:
            problem = error
            continue
        package = module.partition(".")[0]
        return PlainCall(expression=expression, module=module, names=names, network=network, packages=(package,))
    raise BackboneError(f"{target.target!r} cannot be built by a plain call: {problem}") from problem


def _timm(name: str, settings: Settings, offered: Settings, _: nn.Module) -> tuple[str, list[str]]:
    given = {"in_chans": offered["in_channels"], "num_classes": offered["num_classes"], **settings}
    return "timm", [f"create_model({name!r}, {_written(given)})"]


def _torchvision(name: str, settings: Settings, offered: Settings, model: nn.Module) -> tuple[str, list[str]]:
    given = {"weights": None, "num_classes": offered["num_classes"], **settings}
    forms = ({"aux_logits": False, **given}, given)
    wrap = "Logits({})" if type(model) is Logits else "{}"
    return "torchvision.models", [wrap.format(f"get_model({name!r}, {_written(form)})") for form in forms]


def _pytorchcv(name: str, settings: Settings, offered: Settings, _: nn.Module) -> tuple[str, list[str]]:
    given = {"in_channels": offered["in_channels"], "num_classes": offered["num_classes"], **settings}
    return "pytorchcv.model_provider", [f"get_model({name!r}, {_written(given)})"]


def _hf(name: str, settings: Settings, offered: Settings, model: nn.Module) -> tuple[str, list[str]]:
    """From the configuration that the network carries, so that neither hub nor files are needed."""
    config: Any = model.model.config  # type: ignore[union-attr]  # of transformers
    left_out = {"model_type", "transformers_version", "architectures", "_name_or_path", "dtype", "torch_dtype"}
    fields = {key: value for key, value in config.to_diff_dict().items() if key not in left_out}
    text = pprint.pformat(fields, width=100, sort_dicts=False)
    made = f"AutoConfig.for_model({config.model_type!r}, **{text})"
    return "transformers", [f"Logits(AutoModelForImageClassification.from_config({made}))"]


_LIBRARIES = {"timm:": _timm, "torchvision:": _torchvision, "pytorchcv:": _pytorchcv, "hf:": _hf}


def _written(args: Settings) -> str:
    """Keyword arguments as source; BackboneError if one is not a literal."""
    for name, value in args.items():
        try:
            if ast.literal_eval(repr(value)) == value:
                continue
        except (ValueError, SyntaxError):
            pass
        raise BackboneError(f"the argument {name}={value!r} of the backbone cannot be written as source")
    return ", ".join(f"{name}={value!r}" for name, value in args.items())


def _without_header(source: str) -> str:
    """A module's source after its docstring and its imports of the future."""
    for index, node in enumerate(ast.parse(source).body):
        future = isinstance(node, ast.ImportFrom) and node.module == "__future__"
        if not future and not (index == 0 and isinstance(node, ast.Expr)):
            return "\n".join(source.splitlines()[node.lineno - 1 :]) + "\n"
    return ""


def source_files(target: Target) -> dict[str, Path]:
    """The file of a backbone given as ``path/to/file.py:attribute``, and those beside it that it imports.

    Relative path -> file; a package beside it comes whole. Empty for other backbones.
    """
    first = source_file(target)
    if first is None or not first.is_file():
        return {}
    found = {first.name: first}
    waiting = [first]
    while waiting:
        for name in _imported(waiting.pop()):
            for file in _beside(first.parent, name):
                relative = str(file.relative_to(first.parent))
                if relative not in found:
                    found[relative] = file
                    waiting.append(file)
    return found


def check_apart(targets: Iterable[Target]) -> None:
    """ConfigError if files of different code would lie under one name beside an exported network."""
    known: dict[str, Path] = {}
    for target in targets:
        for name, file in source_files(target).items():
            other = known.setdefault(name, file)
            if other != file and other.read_bytes() != file.read_bytes():
                raise ConfigError(
                    f"two files are called {name!r}, and both would lie beside an exported network: {other} and {file}",
                    hint="give one of them another name",
                )


def _beside(folder: Path, name: str) -> Iterator[Path]:
    if (folder / f"{name}.py").is_file():
        yield folder / f"{name}.py"
    elif (folder / name / "__init__.py").is_file():
        yield from sorted((folder / name).rglob("*.py"))


def _imported(file: Path) -> set[str]:
    """First names of the absolute imports in a file."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names
