"""Changing one expression in a method of a module: where it stands, and the method with that expression changed.

Needed for tensors that no module gives or takes, such as ``F.relu(self.conv(x))``: the method is compiled again from
its source, with this one expression wrapped in a call of a submodule. All else of it stays, so that train and eval
mode, control flow, `torch.compile` and export see ordinary Python.
"""

from __future__ import annotations
import __future__

import ast
import copy
import functools
import inspect
import linecache
import re
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from se_nas.core.errors import SpaceError

_TORCH = str(Path(torch.__file__).parent)
_HERE = str(Path(__file__).parents[1])
"""The root of this package."""
_FUTURE = __future__.annotations.compiler_flag
Span = tuple[int, int, int, int]
_WALKS = frozenset(("children", "named_children", "modules", "named_modules", "_modules"))


@dataclass(frozen=True)
class Place:
    """An expression in a method: lines from the method's first line on, columns in bytes.

    >>> str(Place("forward", (3, 8, 3, 20)))
    'forward:3:8-3:20'
    >>> Place.read("forward:3:8-3:20#0.1")
    (Place(method='forward', span=(3, 8, 3, 20)), '#0.1')
    """

    method: str
    span: Span

    def __str__(self) -> str:
        line, column, end_line, end_column = self.span
        return f"{self.method}:{line}:{column}-{end_line}:{end_column}"

    @staticmethod
    def read(text: str) -> tuple[Place, str]:
        """A place and what follows it (empty for the expression itself).

        ``#`` and an operand stands for that operand, ``=`` and an operand for putting it in place of the expression.
        """
        method, *span, operand = re.split(r":(\d+):(\d+)-(\d+):(\d+)", text)
        line, column, end_line, end_column = map(int, span)
        return Place(method, (line, column, end_line, end_column)), operand


def find_place(frame: types.FrameType | None, module: nn.Module) -> Place | None:
    """The expression in a method of the module that led to the frame, or None if other code lies between."""
    while frame is not None:
        code = frame.f_code
        if code.co_argcount and frame.f_locals.get(code.co_varnames[0]) is module:
            if code.co_filename.startswith(_HERE) or _is_module_call(code):
                frame = frame.f_back
                continue
            break
        if not code.co_filename.startswith((_TORCH, _HERE)):
            return None
        frame = frame.f_back
    if frame is None or frame.f_code.co_filename.startswith(_TORCH):
        return None
    line, end_line, column, end_column = list(frame.f_code.co_positions())[frame.f_lasti // 2]
    if line is None or end_line is None or column is None or end_column is None:
        return None
    first = frame.f_code.co_firstlineno
    return Place(frame.f_code.co_name, (line - first, column, end_line - first, end_column))


def _is_module_call(code: types.CodeType) -> bool:
    return code.co_filename.startswith(_TORCH) and code.co_name in ("_call_impl", "_wrapped_call_impl", "inner")


def walks_children(module: nn.Module) -> bool:
    """Whether a module runs through its children, so that one more of them would change what it computes."""
    cls = type(module)
    walks = not _WALKS.isdisjoint(used_names(cls))  # type: ignore[arg-type]  # classes do hash
    return walks or hasattr(cls, "__iter__") or hasattr(cls, "__getitem__")


@functools.cache
def used_names(cls: type) -> frozenset[str]:
    """The names of attributes and functions in the forward method of a class and in the methods that it calls."""
    waiting, seen = ["forward"], {"forward"}
    found: set[str] = set()
    while waiting:
        method = inspect.getattr_static(cls, waiting.pop(), None)
        names = _names(method.__code__) if isinstance(method, types.FunctionType) else set()
        found |= names
        own = {name for name in names - seen if not hasattr(nn.Module, name)}
        seen |= own
        waiting += own
    return frozenset(found)


def _names(code: types.CodeType) -> set[str]:
    inner = (constant for constant in code.co_consts if isinstance(constant, types.CodeType))
    return set(code.co_names).union(*(_names(constant) for constant in inner))


def rewritten(base: type[nn.Module], edits: Mapping[str, str]) -> dict[str, Callable[..., Any]]:
    """Methods of a module class with some expressions changed.

    Parameters
    ----------
    edits:
        Place, with ``#`` or ``=`` and an operand (see `Place.read`) -> name of the submodule that is called on it, or
        an empty name for none.

    Raises
    ------
    SpaceError
        If a method's source is not there, or does not have that expression.
    """
    return {name: _compiled(function, definition) for name, (function, definition) in edited(base, edits).items()}


def edited(base: type[nn.Module], edits: Mapping[str, str]) -> dict[str, tuple[types.FunctionType, ast.FunctionDef]]:
    """What `rewritten` compiles: for each method that changes, the method as it is and its changed definition."""
    methods: dict[str, dict[tuple[Span, str], str]] = {}
    for text, attribute in edits.items():
        place, operand = Place.read(text)
        methods.setdefault(place.method, {})[place.span, operand] = attribute
    return {name: _edited(base, name, wanted) for name, wanted in methods.items()}


@functools.lru_cache(maxsize=256)
def _parsed(filename: str, text: str) -> ast.Module:
    return ast.parse(text, filename)


def _definition(function: types.FunctionType) -> ast.FunctionDef:
    code = function.__code__
    linecache.checkcache(code.co_filename)
    lines = linecache.getlines(code.co_filename, function.__globals__)
    if not lines:
        raise SpaceError(f"the source of {function.__qualname__} is not available, so it cannot be rewritten")
    for node in ast.walk(_parsed(code.co_filename, "".join(lines))):
        if not isinstance(node, ast.FunctionDef) or node.name != code.co_name:
            continue
        if min([node.lineno, *(d.lineno for d in node.decorator_list)]) == code.co_firstlineno:
            return node
    raise SpaceError(f"the source of {function.__qualname__} has changed since it was imported")


def _edited(
    base: type[nn.Module], name: str, wanted: Mapping[tuple[Span, str], str]
) -> tuple[types.FunctionType, ast.FunctionDef]:
    function = inspect.getattr_static(base, name, None)
    if not isinstance(function, types.FunctionType) or hasattr(function, "__wrapped__"):
        raise SpaceError(
            f"method {name!r} of {base.__name__} is decorated or not a plain function, so it cannot be rewritten"
        )
    code = function.__code__
    definition = copy.deepcopy(_definition(function))
    definition.decorator_list = []
    edit = _Edit(code.co_varnames[0], code.co_firstlineno, wanted)
    edit.visit(definition)
    if missing := [span for span in wanted if span not in edit.done]:
        place = Place(name, missing[0][0])
        raise SpaceError(f"{function.__qualname__} has no expression at {place} that can be changed")
    return function, definition


def _compiled(function: types.FunctionType, definition: ast.FunctionDef) -> Callable[..., Any]:
    code = function.__code__
    compiled = compile(_module(definition, function), code.co_filename, "exec", code.co_flags & _FUTURE, True)
    new_code = _find_code(compiled, code.co_name)
    cells = dict(zip(code.co_freevars, function.__closure__ or (), strict=True))
    closure = tuple(cells[variable] for variable in new_code.co_freevars)
    new = types.FunctionType(new_code, function.__globals__, code.co_name, function.__defaults__, closure)
    new.__kwdefaults__ = function.__kwdefaults__
    new.__qualname__, new.__module__, new.__doc__ = function.__qualname__, function.__module__, function.__doc__
    new.__annotations__ = function.__annotations__
    return new


def _module(definition: ast.FunctionDef, function: types.FunctionType) -> ast.Module:
    """The definition in a class of the same name (for private names) in a function (for closures)."""
    owner = function.__qualname__.rpartition(".")[0].rpartition(".")[2] or "_"
    free = ", ".join(variable for variable in function.__code__.co_freevars if variable != "__class__")
    module = ast.parse(f"def outer({free}):\n class {owner}:\n  pass")
    holder: Any = module.body[0].body[0]  # type: ignore[attr-defined]  # the class in the function
    holder.body = [definition]
    return ast.fix_missing_locations(module)


def _find_code(code: types.CodeType, name: str) -> types.CodeType:
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            return constant if constant.co_name == name else _find_code(constant, name)
    raise LookupError(name)


class _Edit(ast.NodeTransformer):
    """Wraps expressions at given spans in ``self.<attribute>(...)``."""

    def __init__(self, owner: str, first: int, wanted: Mapping[tuple[Span, str], str]) -> None:
        self.owner = owner
        self.first = first
        self.wanted = wanted
        self.done: set[tuple[Span, str]] = set()

    def visit(self, node: ast.AST) -> Any:
        span = self._span(node)
        result: Any = self.generic_visit(node)
        # Operands first: they are inside what the expression itself gives.
        for key in sorted((key for key in self.wanted if key[0] == span and key not in self.done), reverse=True):
            mark, operand = key[1][:1], key[1][1:]
            if not mark:
                changed = self._result(result, key)
            elif isinstance(result, list):
                changed = None
            else:
                changed = (self._operand if mark == "#" else self._only)(result, operand, key)
            if changed is not None:
                result = changed
                self.done.add(key)
        return result

    def _span(self, node: ast.AST) -> Span | None:
        if not isinstance(node, (ast.expr, ast.AugAssign)) or node.end_lineno is None or node.end_col_offset is None:
            return None
        return node.lineno - self.first, node.col_offset, node.end_lineno - self.first, node.end_col_offset

    def _wrapped(self, node: ast.expr, key: tuple[Span, str]) -> ast.expr:
        if not self.wanted[key]:
            return node
        block = ast.Attribute(ast.Name(self.owner, ast.Load()), self.wanted[key], ast.Load())
        return ast.copy_location(ast.Call(block, [node], []), node)

    def _result(self, node: Any, key: tuple[Span, str]) -> Any:
        if isinstance(node, ast.expr):
            return self._wrapped(node, key) if isinstance(getattr(node, "ctx", ast.Load()), ast.Load) else None
        statements = node if isinstance(node, list) else [node]
        target = statements[-1].target
        return [*statements, self._assigned(target, key)] if isinstance(target, ast.Name) else None

    def _assigned(self, target: ast.Name, key: tuple[Span, str], value: ast.expr | None = None) -> ast.Assign:
        """``target = self.<attribute>(value)``, by default of the target itself."""
        given = value or ast.copy_location(ast.Name(target.id, ast.Load()), target)
        return ast.copy_location(ast.Assign([ast.Name(target.id, ast.Store())], self._wrapped(given, key)), target)

    def _operand(self, node: ast.AST, operand: str, key: tuple[Span, str]) -> Any:
        """The node with one of its operands wrapped, or None if it is not written out."""
        if isinstance(node, ast.AugAssign) and operand == "self":
            return [self._assigned(node.target, key), node] if isinstance(node.target, ast.Name) else None
        if (slot := _slot(node, operand)) is None:
            return None
        holder, place = slot
        holder[place] = self._wrapped(holder[place], key)
        return node

    def _only(self, node: ast.AST, operand: str, key: tuple[Span, str]) -> Any:
        """One operand, wrapped, in place of the node, or None if it is not written out."""
        if isinstance(node, ast.AugAssign):
            if not isinstance(node.target, ast.Name):
                return None
            return self._assigned(node.target, key, None if operand == "self" else node.value)
        if (slot := _slot(node, operand)) is None:
            return None
        holder, place = slot
        return self._wrapped(holder[place], key)


def _slot(node: ast.AST, operand: str) -> tuple[Any, Any] | None:
    """Where an operand stands: ``holder[place]`` gives and takes it. None if it is not written out."""
    first, _, item = operand.partition(".")
    if isinstance(node, ast.AugAssign):  # ``a += b`` calls a method of a
        return (vars(node), "value") if operand == "0" else None
    if isinstance(node, ast.BinOp):
        side = {"self": "left", "0": "right"}.get(operand)
        return None if side is None else (vars(node), side)
    if not isinstance(node, ast.Call):
        return None
    if operand == "self":
        return (vars(node.func), "value") if isinstance(node.func, ast.Attribute) else None
    if not first.isdigit() or int(first) >= len(node.args) or any(isinstance(a, ast.Starred) for a in node.args):
        return None
    if not item:
        return node.args, int(first)
    items = node.args[int(first)]
    if not isinstance(items, (ast.List, ast.Tuple)) or any(isinstance(e, ast.Starred) for e in items.elts):
        return None
    return items.elts, int(item)
