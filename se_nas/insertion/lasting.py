"""SE blocks last: what would lose them without a word, raises.

Conversions of networks do not know of SE blocks. Those that fold a normalisation into the layer before it read its
running statistics, and forget the module; those that exchange a module register another one in its place. Both are
seen here by what they do, whatever they are called.
"""

from __future__ import annotations

import functools
import inspect
import sys
import types

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from se_nas.core.errors import SpaceError
from se_nas.insertion.rewrite import used_names, walks_children

_STATISTICS = frozenset(("running_mean", "running_var", "eps"))
"""What is read of a normalisation by code that folds it into another layer."""

_CARRIES = frozenset(("children", "named_children", "modules", "named_modules", "_modules", "add_module"))
"""What is used by code that makes another module of one, and may give it the children of the old one."""

_HINT = "do that first and put SE blocks in afterwards, or leave this layer out of it"


@functools.cache
def _folds(code: types.CodeType) -> bool:
    names = set(code.co_names)
    return names >= _STATISTICS and not names & _CARRIES


@functools.cache
def _own(cls: type) -> frozenset[types.CodeType]:
    """The code of all methods of a class."""
    members = (member for base in cls.__mro__ for member in vars(base).values())
    return frozenset(member.__code__ for member in members if isinstance(member, types.FunctionType))


def check_reader(module: nn.Module, frame: types.FrameType | None) -> None:
    """SpaceError if code that is not a method of a normalisation with an SE block is about to fold it into a layer."""
    if frame is not None and _folds(frame.f_code) and frame.f_code not in _own(type(module)):  # type: ignore[arg-type]  # classes do hash
        raise SpaceError(
            f"{frame.f_code.co_name} folds a {type(module).__name__} into another layer, and would lose its SE block",
            hint=_HINT,
        )


def check_copier(module: nn.Module, frame: types.FrameType | None) -> None:
    """The same for the layer that it is folded into, of which such code makes a copy; `frame` is that of `deepcopy`.

    A block at the output of that layer would come after the normalisation instead of before it.
    """
    reader = None if frame is None else frame.f_back
    if frame is None or reader is None or frame.f_code.co_name != "deepcopy":
        return
    if _folds(reader.f_code):
        raise SpaceError(
            f"{reader.f_code.co_name} folds another layer into a {type(module).__name__} with an SE block at its "
            "output, which lies between them",
            hint=_HINT,
        )


def check_exchange(parent: nn.Module, name: str, new: nn.Module | None) -> None:
    """SpaceError if a module takes the place of a layer with SE blocks and runs fewer of them.

    Whole parts of a network may be exchanged: who does that knows what is in them.
    """
    old = parent._modules.get(name)
    if old is None or new is old or not (blocks := _blocks(old)) or not _is_layer(old, blocks):
        return
    if new is None or len(_blocks(new)) < len(blocks):
        what = "nothing" if new is None else f"{type(new).__name__}, which does not run it"
        raise SpaceError(f"{name!r}, a {type(old).__name__} with an SE block, is exchanged for {what}", hint=_HINT)


def _blocks(module: nn.Module) -> list[nn.Module]:
    """The SE blocks in a module, but for those in children that its forward method cannot call."""
    cls = type(module)
    hooks = {own for _, own in getattr(cls, "_se_hooks", ())}
    known = inspect.isfunction(cls.forward) and not walks_children(module) and cls.forward is not nn.Module.forward
    found: list[nn.Module] = []
    for name, child in module._modules.items():
        if child is None or (known and name not in hooks and name not in used_names(cls)):  # type: ignore[arg-type]
            continue
        found += [block for block in child.modules() if hasattr(block, "_se_hook")]
    return found


def _is_layer(module: nn.Module, blocks: list[nn.Module]) -> bool:
    """Whether a module has parameters or statistics, and none of its children has, but for SE blocks."""
    inner = {id(tensor) for block in blocks for tensor in block.parameters()}
    own = {id(tensor) for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False))}
    return bool(own) and {id(tensor) for tensor in module.parameters()} <= own | inner


def statistics(base: type[nn.Module]) -> dict[str, property]:
    """Members of a class of modules with SE blocks, by which readers of running statistics are seen."""

    def running_var(self: nn.Module) -> torch.Tensor | None:
        if not torch.compiler.is_compiling():
            check_reader(self, sys._getframe(1))
        return self._buffers["running_var"]

    return {"running_var": property(running_var)} if issubclass(base, _NormBase) else {}
