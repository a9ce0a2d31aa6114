"""Recording a network's graph from one real forward pass.

A recording sees what runs, so that dynamic control flow, outputs that are no tensors, and code that `torch.fx` cannot
trace need no second way, and every shape is known. It uses hooks and a `TorchFunctionMode` for that one pass; nothing
of them stays in the network.
"""

from __future__ import annotations

import contextlib
import copy
import random
import sys
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from se_nas.errors import BackboneError
from se_nas.graph import CONVOLUTIONS, Call, Graph, Node, Shape
from se_nas.rewrite import find_place


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
    recorder = _Recorder(model)
    try:
        recorder.attach()
        _run(model, _images(model, input_shape, 1), recorder, train=False)
    except Exception as error:  # whatever a user's forward raises
        raise _failed(model, input_shape, error) from error
    finally:
        recorder.detach()
    return recorder.graph


def train_executions(
    model: nn.Module, input_shape: Shape, expected: Counter[tuple[str, str]]
) -> Counter[tuple[str, str]] | None:
    """What `Graph.executions` is in train mode; None if the network fails there.

    A pass that lacks something expected is repeated twice, since networks may leave out blocks at random.
    """
    counts: Counter[tuple[str, str]] = Counter()
    model = copy.deepcopy(model)  # batch norms move their statistics
    for _ in range(3):
        recorder = _Recorder(model)
        try:
            recorder.attach()
            _run(model, _images(model, input_shape, 2), recorder, train=True)
        except Exception:  # a network that needs more than two images, or targets: then nothing is known
            return None
        finally:
            recorder.detach()
        counts |= recorder.graph.executions
        if expected <= counts:
            break
    return counts


def run_once(model: nn.Module, input_shape: Shape) -> Any:
    """Output of the network for one random image, in eval mode, without a trace left behind.

    BackboneError with the network's own message if it fails.
    """
    try:
        return _run(model, _images(model, input_shape, 1), contextlib.nullcontext(), train=False)
    except Exception as error:  # whatever a user's forward raises
        raise _failed(model, input_shape, error) from error


def _failed(model: nn.Module, input_shape: Shape, error: Exception) -> BackboneError:
    return BackboneError(
        f"{type(model).__name__} fails on one image of shape {tuple(input_shape)}: {type(error).__name__}: {error}",
        hint="give the input shape that the network expects",
    )


def _images(model: nn.Module, input_shape: Shape, count: int) -> Tensor:
    images = torch.rand(count, *input_shape, generator=torch.Generator().manual_seed(0))
    parameter = next((p for p in model.parameters() if p.is_floating_point()), None)
    return images if parameter is None else images.to(parameter.device, parameter.dtype)


def _run(model: nn.Module, images: Tensor, recorder: contextlib.AbstractContextManager[Any], *, train: bool) -> Any:
    modes = {module: module.training for module in model.modules()}
    state = random.getstate()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            model.train(train)
            if not isinstance(recorder, _Recorder):
                return model(images)
            recorder.give(images)
            with recorder:
                output = model(images)
            recorder.take(output)
            return output
    finally:
        random.setstate(state)
        for module, mode in modes.items():
            module.training = mode


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
        self.hooks: list[Any] = []
        self.paused = False

    def attach(self) -> None:
        for module in self.modules:
            if isinstance(module, torch.jit.ScriptModule):
                continue  # takes no hooks; what it gives is one unseen operation of the module around it
            self.hooks.append(module.register_forward_pre_hook(self._enter, with_kwargs=True))
            self.hooks.append(module.register_forward_hook(self._exit, with_kwargs=True))

    def detach(self) -> None:
        for hook in self.hooks:
            hook.remove()

    def give(self, image: Tensor) -> None:
        self._track(image, self._value(image, None))

    def take(self, output: Any) -> None:
        self.graph.results = [v for tensor, _ in _tensors(output) if (v := self._find(tensor)) is not None]

    # Values

    def _value(self, tensor: Tensor, producer: int | None) -> int:
        self.graph.shapes.append(tuple(tensor.shape))
        self.graph.producer.append(producer)
        return len(self.graph.shapes) - 1

    def _track(self, tensor: Tensor, value: int) -> None:
        self.live[id(tensor)] = weakref.ref(tensor), value

    def _find(self, tensor: Tensor) -> int | None:
        entry = self.live.get(id(tensor))
        return entry[1] if entry is not None and entry[0]() is tensor else None

    def _changed(self, tensor: Tensor, value: int) -> None:
        """A tensor was changed in place: whoever holds the same memory in the same shape holds the new value."""
        pointer = tensor.untyped_storage().data_ptr()
        for key, (reference, _) in list(self.live.items()):
            other = reference()
            if other is None:
                del self.live[key]
            elif other.shape == tensor.shape and other.untyped_storage().data_ptr() == pointer:
                self.live[key] = reference, value
        self._track(tensor, value)

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
        node.outputs = (self._value(alias, node.index),)
        self._track(alias, node.outputs[0])
        return alias

    # Module calls

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        place = find_place(sys._getframe(1), self.open[-1]) if self.open else None
        call = Call(len(self.graph.calls), self.modules[module], self.stack[-1] if self.stack else None, place)
        self.graph.calls.append(call)
        self.stack.append(call.index)
        self.open.append(module)
        with _Pause(self):
            aliased = tuple(
                self._boundary("enter", a, value, str(number), plain=number == 0)
                if isinstance(a, Tensor) and (value := self._find(a)) is not None
                else a
                for number, a in enumerate(args)
            )
        return aliased, kwargs

    def _exit(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        if not self.open or self.open[-1] is not module:
            raise BackboneError(f"module {self.modules[module]!r} was left before the modules that it had called")
        with _Pause(self):
            given = [(value, "") for tensor, _ in _given(args, kwargs) if (value := self._find(tensor)) is not None]

            def alias(tensor: Tensor) -> Tensor:
                value = self._find(tensor)
                if value is None:
                    if not given:
                        return tensor
                    # Computed where torch functions are not seen, such as TorchScript or autograd functions.
                    node = self._node("unseen", given)
                    value = self._value(tensor, node.index)
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
        inputs = [(value, operand) for tensor, operand in given if (value := self._find(tensor)) is not None]
        name = _operation_name(func)
        if not inputs or name.startswith("new_") or name.endswith("_like"):  # of some they only take the shape
            return func(*args, **kwargs)
        if name.endswith("_as"):
            inputs = inputs[:1]
        versions = [(tensor, tensor._version) for tensor, _ in given]
        output = func(*args, **kwargs)
        written = [tensor for tensor, version in versions if tensor._version != version]
        results = [tensor for tensor, _ in _tensors(output)]
        if not results and not written:
            return output
        with _Pause(self):
            return self._operation(func, args, kwargs, inputs, output, results, written)

    def _operation(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        inputs: list[tuple[int, str]],
        output: Any,
        results: list[Tensor],
        written: list[Tensor],
    ) -> Any:
        node = self._node(_operation_name(func), [(value, _operand(func, operand)) for value, operand in inputs])
        node.place = find_place(sys._getframe(2), self.open[-1]) if self.open else None
        if node.name in CONVOLUTIONS or node.name == "linear":
            weight = args[1] if len(args) > 1 else kwargs.get("weight")
            if isinstance(weight, Tensor):
                node.weight, node.owner = tuple(weight.shape), self.owners.get(id(weight))
        outputs = []
        for tensor in written:
            if not any(tensor is result for result in results):
                outputs.append(value := self._value(tensor, node.index))
                self._changed(tensor, value)

        def place(tensor: Tensor) -> Tensor:
            known = self._find(tensor) is not None
            if known and not any(tensor is other for other in written):
                node.name = "same" if len(results) == 1 else node.name
                tensor = tensor.view_as(tensor)
            outputs.append(value := self._value(tensor, node.index))
            (self._changed if any(tensor is other for other in written) else self._track)(tensor, value)
            return tensor

        output = _replaced(output, place)
        node.outputs = tuple(outputs)
        return output


class _Pause:
    """While the recorder itself computes, it does not record."""

    def __init__(self, recorder: _Recorder) -> None:
        self.recorder = recorder

    def __enter__(self) -> None:
        self.before, self.recorder.paused = self.recorder.paused, True

    def __exit__(self, *_: object) -> None:
        self.recorder.paused = self.before


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
