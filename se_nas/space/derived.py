"""What an operation counts that has no handle: derived from what torch says of it, and from the parts it is made of.

An operation of a trace is called again on tensors of the same shapes, without memory where that is possible, and the
operations of torch that do the work are watched. So `dropout_`, an LSTM or a scripted function count what their parts
count. Of those parts

* matrix products count their multiply-adds: half of what `torch.utils.flop_counter` says, where anybody can register
  the formula of an operator, or a formula from here where torch has none;
* what torch tags as pointwise counts as activation functions do, and as a product if it is one;
* what torch tags as a reduction counts as pooling does;
* what takes fewer than two tensors of real numbers multiplies none: it makes, moves, sorts or accumulates, for nothing;
* so does what only moves, compares or normalises several.

Anything else (factorisations, Fourier transforms, operators of others) is unknown.
"""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from se_nas.space.operations import HANDLES, Handle

_TAGS: tuple[tuple[str, str], ...] = (("pointwise", "relu"), ("reduction", "sum"))
"""Tag of torch and the operation whose handle stands for all that have it."""

_REDUCTIONS = frozenset(
    "argmax argmin linalg_vector_norm logsumexp median nanmean nansum norm prod std std_mean var var_mean".split()
)
"""Reductions, for releases of torch that have no tag for them."""

_NEITHER = re.compile(r"(linalg|fft|cholesky|pdist|cdist|euclidean_dist|geqrf|ormqr|triangular)")
"""Start of the names of operators that compute, but neither element by element nor as one product."""

_MOVES = re.compile(
    r"scatter|index_|put|copy|cat|stack|grid_sampler|norm|loss|cross_entropy|complex|searchsorted|bucketize|isin|rrelu"
    r"|fill|embedding|nms|roi_"
)
"""In the names of operators that take several tensors, but move, compare, sample or normalise only."""


_NUMBERS = frozenset(("IntType", "FloatType", "BoolType", "NumberType", "NoneType", "StringType", "DeviceObjType"))


def _rows(weight: int, channels: int) -> Callable[[list[Tensor], Tensor], int]:
    """Each position of an output, whose channels are on this axis, meets all weights: the argument of this number."""
    return lambda given, made: given[weight].numel() * made.numel() // made.shape[channels]


_MATRIX_PRODUCTS: dict[str, Callable[[list[Tensor], Tensor], int]] = {
    "mv": lambda given, _: given[0].numel(),
    "addmv": lambda given, _: given[1].numel(),
    "dot": lambda given, _: given[0].numel(),
    "vdot": lambda given, _: given[0].numel(),
    "addr": lambda _, made: made.numel(),
    "addbmm": lambda given, _: given[1].numel() * given[2].shape[-1],
    "trilinear": _rows(1, -1),
    "conv_tbc": _rows(1, -1),
    "deform_conv2d": _rows(1, 1),
}
"""Multiply-adds of products for which torch has no formula, from the tensors that an operator takes and makes."""


class UnknownOperationError(Exception):
    """An operation whose cost cannot be derived; the argument is its name."""


def derived_handles(kinds: Iterable[str], unknown: Counter[str]) -> dict[str, Handle]:
    """Handles of operations of a trace, such as ``aten::dropout_``; they count in `unknown` what cannot be derived."""

    def noting(kind: str) -> Handle:
        def handle(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
            try:
                return _derived(kind, inputs, outputs)
            except UnknownOperationError as error:
                unknown[str(error)] += 1
                return Counter()

        return handle

    return {kind: noting(kind) for kind in kinds}


def _derived(kind: str, inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    tensors = [value for value in outputs if value.type().kind() not in _NUMBERS and str(value.type()) != "int[]"]
    if not tensors:
        return Counter()
    node = tensors[0].node()
    if kind.startswith("prim::PythonOp"):  # a torch.autograd.Function: its forward pass was traced, too
        return _of_graph(node, kind)
    plain = HANDLES.get(kind.removesuffix("_"))
    return plain(inputs, outputs) if plain is not None else _of_call(node, kind)


def _of_graph(node: Any, kind: str) -> Counter[str]:
    if not node.hasAttribute("Subgraph"):
        raise UnknownOperationError(kind)
    total: Counter[str] = Counter()
    for part in node.g("Subgraph").nodes():
        name, sides = part.kind(), (list(part.inputs()), list(part.outputs()))
        if name in HANDLES:
            total += HANDLES[name](*sides)
        elif not name.startswith("prim::") or name in ("prim::PythonOp", "prim::CallFunction"):
            total += _derived(f"{name}.{part.pyname()}" if name == "prim::PythonOp" else name, *sides)
    return total


def _of_call(node: Any, kind: str) -> Counter[str]:
    """What the parts of an operation count, on tensors of the shapes in the trace."""
    function, values = _function(node, kind), list(node.inputs())[kind == "prim::CallFunction" :]
    for device, number in (("meta", 0), ("cpu", 0), ("cpu", 1)):  # some operators need numbers, some positive ones
        try:
            arguments, named = _arguments(function, [_example(value, device, number) for value in values])
            with torch.no_grad(), _Parts() as parts:
                function(*arguments, **named)
            return Counter({"parts": parts.count})
        except UnknownOperationError:
            raise
        except Exception:  # noqa: S112  # arguments that no trace keeps, or no such kernel
            continue
    if not isinstance(function, torch._ops.OpOverload):
        raise UnknownOperationError(kind)
    arguments, named = _arguments(function, [_shaped(value) for value in values])
    return Counter({"parts": part_count(function, arguments, named, [_shaped(value) for value in node.outputs()])})


def _arguments(function: Any, values: list[Any]) -> tuple[list[Any], dict[str, Any]]:
    """What is given by position, and what an operator takes by name only."""
    declared = function._schema.arguments if isinstance(function, torch._ops.OpOverload) else ()
    named = {a.name: value for a, value in zip(declared, values, strict=False) if a.kwarg_only}
    return values[: len(values) - len(named)], named


def _function(node: Any, kind: str) -> Callable[..., Any]:
    """What a node of a trace calls: an operator of torch, or a scripted function."""
    if kind == "prim::CallFunction":
        name = next(node.inputs()).type().annotation_str
        function: Callable[..., Any] | None = torch.jit._state._python_cu.find_function(name)
    else:
        space, _, name = kind.partition("::")
        overload = re.match(r"[\w:]+\.?(\w*)", node.schema()) if node.schema() != "(no schema)" else None
        packet = getattr(getattr(torch.ops, space), name, None)
        function = getattr(packet, (overload and overload[1]) or "default", None)
    if function is None:
        raise UnknownOperationError(kind)
    return function


def _example(value: Any, device: str, number: int) -> Any:
    """An argument as in the trace, tensors full of a number; LookupError for an argument that it does not keep."""
    node = value.node()
    if value.isCompleteTensor():
        sizes = value.type().sizes()
        with contextlib.suppress(LookupError):
            number = number if sizes else _number(value)
        return torch.full(sizes, number, dtype=value.type().dtype(), device=device)
    if node.kind() in ("prim::ListConstruct", "prim::TupleConstruct"):
        return [_example(element, device, number) for element in node.inputs()]
    constant = _number(value)
    return torch.device(device) if isinstance(constant, torch.device) else constant


def _number(value: Any) -> Any:
    """A constant of a trace, or a size of a tensor in it; LookupError for anything else."""
    node = value.node()
    if node.kind() == "prim::Constant":
        return value.toIValue()
    given = list(node.inputs())
    if node.kind() == "aten::size" and len(given) > 1 and given[0].isCompleteTensor():
        return given[0].type().sizes()[_number(given[1])]
    if node.kind() in ("prim::NumToTensor", "aten::Int", "aten::ScalarImplicit", "aten::scalar_tensor"):
        return _number(given[0])
    raise LookupError(str(value))


def _shaped(value: Any) -> Any:
    """A tensor without memory of a value's shape, or None."""
    return _example(value, "meta", 0) if value.isCompleteTensor() else None


class _Parts(TorchDispatchMode):  # type: ignore[no-untyped-call]  # of torch
    """Watches the operators of torch that run, and sums what they count."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # of torch
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        self.count += part_count(func, args, kwargs or {}, made)
        return made


def part_count(operator: Any, args: Any, kwargs: Mapping[str, Any], made: Any) -> int:
    """Multiply-adds of one call of an operator of torch, by the conventions of `se_nas.space.exact_cost`.

    UnknownOperationError if it neither multiplies matrices by a known formula nor is free of products.
    """
    packet, name = operator.overloadpacket, operator._schema.name.partition("::")[2]
    plain = name.strip("_").removeprefix("native_")
    given = [leaf for leaf in tree_leaves((args, dict(kwargs))) if isinstance(leaf, Tensor)]
    results = [leaf for leaf in tree_leaves(made) if isinstance(leaf, Tensor)]
    if not results:
        return 0
    if packet in flop_registry:
        return int(flop_registry[packet](*args, **kwargs, out_val=made)) // 2
    if plain in _MATRIX_PRODUCTS:
        return _MATRIX_PRODUCTS[plain](given, results[0])
    for handle in _handles(operator, plain):
        return handle(given or results, results).total()
    numbers = [tensor for tensor in given if tensor.is_floating_point() or tensor.is_complex()]
    if _NEITHER.match(plain) or (len(numbers) > 1 and not _MOVES.search(plain)) or not _is_torchs(operator, plain):
        raise UnknownOperationError(operator._schema.name)
    return 0


def _handles(operator: Any, plain: str) -> Iterator[Handle]:
    """Those that fit an operator: its own, then the one of its tag."""
    own = "scaled_dot_product_attention" if plain.startswith("scaled_dot_product") else plain
    if operator.namespace == "aten" and f"aten::{own}" in HANDLES:
        yield HANDLES[f"aten::{own}"]
    for tag, stands in _TAGS:
        if getattr(torch.Tag, tag, None) in operator.tags or (tag == "reduction" and plain in _REDUCTIONS):
            yield HANDLES[f"aten::{stands}"]


def _is_torchs(operator: Any, plain: str) -> bool:
    """Whether the rules for names hold: what others name may be anything."""
    return operator.namespace in ("aten", "prims") or (
        operator.namespace == "torchvision" and bool(_MOVES.match(plain))
    )
