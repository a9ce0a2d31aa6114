"""Recording a network's graph from one real forward pass.

A recording sees what runs, so that dynamic control flow, outputs that are not tensors, and code that `torch.fx` cannot
trace need no second way, and every shape is known. It uses hooks and a `TorchFunctionMode` for that one pass; nothing
of them stays in the network.
"""

from __future__ import annotations

import contextlib
import copy
import sys
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from se_nas.backbones.forward import forward_failed, left_alone, random_images
from se_nas.core.errors import BackboneError
from se_nas.insertion.graph import CONVOLUTIONS, Call, Graph, Node, Shape
from se_nas.insertion.rewrite import find_place


def record(model: nn.Module, input_shape: Shape) -> Graph:
    """The graph of a forward pass over one image, in eval mode and without gradients.

    Parameters
    ----------
    input_shape:
        (channels, *size) of one image.

    Raises
    ------
    BackboneError
        With the network's own message if it fails.
    """
    if isinstance(model, torch.jit.ScriptModule) or hasattr(model, "_orig_mod"):
        raise BackboneError(
            f"{type(model).__name__} is compiled, so nothing can be put into it",
            hint="give the network itself, and compile what se-nas builds from it",
        )
    try:
        return _recorded(model, random_images(model, input_shape, 1), train=False)
    except Exception as error:  # whatever a user's forward raises
        raise forward_failed(model, input_shape, error) from error


def train_executions(
    model: nn.Module, input_shape: Shape, expected: Counter[tuple[str, str]]
) -> Counter[tuple[str, str]] | None:
    """What `Graph.executions` is in train mode; None if the network fails there.

    A pass that lacks something expected is repeated twice, since networks may leave out blocks at random.
    """
    counts: Counter[tuple[str, str]] = Counter()
    model = copy.deepcopy(model)  # batch norms move their statistics
    for _ in range(3):
        try:
            counts |= _recorded(model, random_images(model, input_shape, 2), train=True).executions
        except Exception:  # a network that needs more than two images, or targets: then nothing is known
            return None
        if expected <= counts:
            break
    return counts


def _recorded(model: nn.Module, images: Tensor, *, train: bool) -> Graph:
    recorder = _Recorder(model)
    hooks: list[Any] = []
    try:
        for module in recorder.modules:
            if not isinstance(module, torch.jit.ScriptModule):  # takes no hooks: one unseen operation of the one around
                hooks.append(module.register_forward_pre_hook(recorder.enter, with_kwargs=True))
                hooks.append(module.register_forward_hook(recorder.exit, with_kwargs=True))
        with left_alone(model, train=train):
            recorder.track(images, recorder.new_value(images, None))
            with recorder:
                output = model(images)
            results = (recorder.find(tensor) for tensor, _ in _tensors(output))
            recorder.graph.results = [value for value in results if value is not None]
    finally:
        for hook in hooks:
            hook.remove()
    return recorder.graph


class _Recorder(TorchFunctionMode):
    """Sees every function of torch that runs, and every call of a module of one network."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.graph = Graph()
        self.modules = {module: path for path, module in model.named_modules()}
        self.owners = {
            id(parameter): path for path, module in model.named_modules() for parameter in module.parameters(False)
        }
        self.stack: list[int] = []
        self.open: list[nn.Module] = []
        self.live: dict[int, tuple[weakref.ref[Tensor], int]] = {}
        self.filled: dict[int, list[tuple[Tensor, int]]] = {}
        """Memory of tensors that nobody follows, by its address: the parts of it that got values of the network."""
        self.paused = False

    # Values

    def new_value(self, tensor: Tensor, producer: int | None) -> int:
        self.graph.shapes.append(tuple(tensor.shape))
        self.graph.producer.append(producer)
        return len(self.graph.shapes) - 1

    def track(self, tensor: Tensor, value: int) -> None:
        self.live[id(tensor)] = weakref.ref(tensor), value

    def find(self, tensor: Tensor) -> int | None:
        entry = self.live.get(id(tensor))
        if entry is not None and entry[0]() is tensor:
            return entry[1]
        parts = self.filled.get(tensor.untyped_storage().data_ptr()) if self.filled else None
        if parts is None:
            return None
        # A batch that was made empty and filled image by image, as detectors do.
        node = self._node("unseen", [(value, "") for _, value in parts])
        node.outputs = (self.new_value(tensor, node.index),)
        self.track(tensor, node.outputs[0])
        return node.outputs[0]

    def _changed(self, tensor: Tensor, value: int) -> None:
        """A tensor was changed in place: whoever holds the same memory in the same shape holds the new value."""
        pointer = tensor.untyped_storage().data_ptr()
        for key, (reference, _) in list(self.live.items()):
            other = reference()
            if other is None:
                del self.live[key]
            elif other.shape == tensor.shape and other.untyped_storage().data_ptr() == pointer:
                self.live[key] = reference, value
        self.track(tensor, value)

    def _node(self, name: str, inputs: list[tuple[int, str]]) -> Node:
        node = Node(
            index=len(self.graph.nodes),
            name=name,
            inputs=tuple(value for value, _ in inputs),
            operands=tuple(operand for _, operand in inputs),
            outputs=(),
            call=self.stack[-1] if self.stack else 0,
        )
        self.graph.nodes.append(node)
        return node

    def _boundary(self, name: str, tensor: Tensor, value: int, operand: str, *, plain: bool) -> Tensor:
        node = self._node(name, [(value, operand)])
        node.plain = plain
        alias = tensor.view_as(tensor)
        node.outputs = (self.new_value(alias, node.index),)
        self.track(alias, node.outputs[0])
        return alias

    @contextlib.contextmanager
    def _paused(self) -> Iterator[None]:
        """While the recorder itself computes, it does not record."""
        before, self.paused = self.paused, True
        try:
            yield
        finally:
            self.paused = before

    # Module calls

    def enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        place = find_place(sys._getframe(1), self.open[-1]) if self.open else None
        call = Call(
            len(self.graph.calls), self.modules[module], self.stack[-1] if self.stack else None, place, type(module)
        )
        self.graph.calls.append(call)
        self.stack.append(call.index)
        self.open.append(module)
        with self._paused():
            aliased = tuple(
                self._boundary("enter", a, value, str(number), plain=number == 0)
                if isinstance(a, Tensor) and (value := self.find(a)) is not None
                else a
                for number, a in enumerate(args)
            )
        return aliased, kwargs

    def exit(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        if not self.open or self.open[-1] is not module:
            raise BackboneError(f"module {self.modules[module]!r} was left before the modules that it had called")
        with self._paused():
            given = [(value, "") for tensor, _ in _given(args, kwargs) if (value := self.find(tensor)) is not None]

            def alias(tensor: Tensor) -> Tensor:
                value = self.find(tensor)
                if value is None:
                    if not given:
                        return tensor
                    # Computed where torch functions are not seen, such as TorchScript or autograd functions.
                    node = self._node("unseen", given)
                    value = self.new_value(tensor, node.index)
                    node.outputs = (value,)
                return self._boundary("exit", tensor, value, "0", plain=isinstance(output, Tensor))

            result = _replaced(output, alias)
        self.stack.pop()
        self.open.pop()
        return result

    # Functions

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self.paused:
            return func(*args, **kwargs)
        given = list(_given(args, kwargs))
        inputs = [(value, operand) for tensor, operand in given if (value := self.find(tensor)) is not None]
        name = _operation_name(func)
        if not inputs or name.startswith("new_") or name.endswith("_like"):  # of some they only take the shape
            return func(*args, **kwargs)
        if name.endswith("_as"):
            inputs = inputs[:1]
        versions = [(tensor, tensor._version) for tensor, _ in given]
        output = func(*args, **kwargs)
        written = [tensor for tensor, version in versions if tensor._version != version]
        if not written and not any(True for _ in _tensors(output)):
            return output
        with self._paused():
            node = self._node(name, [(value, _operand(func, operand)) for value, operand in inputs])
            node.place = find_place(sys._getframe(1), self.open[-1]) if self.open else None
            if node.name in CONVOLUTIONS or node.name == "linear":
                weight = args[1] if len(args) > 1 else kwargs.get("weight")
                if isinstance(weight, Tensor):
                    node.weight, node.owner = tuple(weight.shape), self.owners.get(id(weight))
            return self._given_out(node, output, written)

    def _given_out(self, node: Node, output: Any, written: list[Tensor]) -> Any:
        """What an operation gives, with new values for its results and for the tensors that it changed in place."""
        results = {id(tensor) for tensor, _ in _tensors(output)}
        changed = {id(tensor) for tensor in written}
        outputs = []

        def place(tensor: Tensor) -> Tensor:
            if id(tensor) not in changed and self.find(tensor) is not None:
                node.name = "same" if len(results) == 1 else node.name
                tensor = tensor.view_as(tensor)
            entry = self.live.get(id(tensor))
            outputs.append(value := self.new_value(tensor, node.index))
            if id(tensor) in changed and tensor._is_view() and (entry is None or entry[0]() is not tensor):
                self.filled.setdefault(tensor.untyped_storage().data_ptr(), []).append((tensor, value))
            (self._changed if id(tensor) in changed else self.track)(tensor, value)
            return tensor

        for tensor in written:
            if id(tensor) not in results:
                place(tensor)
        output = _replaced(output, place)
        node.outputs = tuple(outputs)
        return output


def _operation_name(func: Callable[..., Any]) -> str:
    raw = getattr(func, "__name__", "") or type(func).__name__
    name = raw.strip("_")
    if raw.startswith("__") and name[:1] in ("i", "r") and name[1:] in ("add", "sub", "mul", "truediv", "div"):
        name = name[1:]
    return name


def _operand(func: Callable[..., Any], operand: str) -> str:
    """Where an argument stands in the source: a method's first argument stands before the dot."""
    if not hasattr(func, "__objclass__"):
        return operand
    first, dot, rest = operand.partition(".")
    if not first.isdigit():
        return operand
    return "self" if first == "0" else f"{int(first) - 1}{dot}{rest}"


def _given(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[tuple[Tensor, str]]:
    """Tensors in arguments, with their places: ``0``, ``0.2`` or ``name=``."""
    yield from _tensors(args)
    for name, item in kwargs.items():
        yield from _tensors(item, f"{name}=")


def _tensors(tree: Any, path: str = "") -> Iterator[tuple[Tensor, str]]:
    """Tensors in nested tuples, lists and dictionaries, with their places."""
    if isinstance(tree, Tensor):
        yield tree, path
    elif isinstance(tree, (tuple, list)):
        for number, item in enumerate(tree):
            yield from _tensors(item, f"{path}.{number}" if path else str(number))
    elif isinstance(tree, dict):
        for key, item in tree.items():
            yield from _tensors(item, f"{path}[{key}]")


def _replaced(tree: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same structure with changed tensors; dictionaries are changed in place, so that they keep their class."""
    if isinstance(tree, Tensor):
        return change(tree)
    if isinstance(tree, tuple) and type(tree) is not tuple and not hasattr(tree, "_fields"):
        return tree  # such as torch.Size, or what torch.max returns
    if isinstance(tree, tuple):
        items = [_replaced(item, change) for item in tree]
        return type(tree)(*items) if hasattr(tree, "_fields") else tuple(items)
    if isinstance(tree, list):
        tree[:] = [_replaced(item, change) for item in tree]
    elif isinstance(tree, dict):
        for key in list(tree):
            if tree[key] is not None:
                tree[key] = _replaced(tree[key], change)
    return tree
