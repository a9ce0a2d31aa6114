"""What each operation of a network counts, as handles for fvcore.

A handle takes the inputs and outputs of an operation, as values of a trace or as tensors. Operations without a handle
here are derived (`se_nas.space.derived`).
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message=r".*torch\.jit\b")  # fvcore is built on it; the category varies
    from fvcore.nn.jit_handles import conv_flop_count, get_shape


def _shape(value: Any) -> Sequence[int] | None:
    """Shape of a tensor, or of a tensor in a trace; None for anything else."""
    if isinstance(value, Tensor):
        return tuple(value.shape)
    return get_shape(value) if hasattr(value, "isCompleteTensor") else None


def _elements(value: Any) -> int:
    shape = _shape(value)
    return math.prod(shape) if shape else 0


def _has_extent(value: Any) -> bool:
    shape = _shape(value)
    return shape is not None and len(shape) > 2 and math.prod(shape[2:]) > 1


def _global_pool(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """One per input element if nothing of the spatial extent is left, else (local pooling) nothing."""
    return Counter({"pool": 0 if _has_extent(outputs[0]) else _elements(inputs[0])})


def _product(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    return Counter({"mul": _elements(outputs[0])})


def _descriptor(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """One per element of a tensor without spatial extent, else nothing."""
    return Counter({"descriptor": 0 if _has_extent(outputs[0]) else _elements(outputs[0])})


def _nothing(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """Nothing. A handle of its own, since fvcore falls back on its own handle where ours is None."""
    return Counter({"free": 0})


Handle = Callable[[list[Any], list[Any]], Counter[str]]

_POOLS = """
    mean sum amax amin max adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d
    adaptive_max_pool2d adaptive_max_pool3d
""".split()

_POINTWISE = """
    sigmoid hardsigmoid tanh relu relu6 hardtanh hardswish silu gelu elu leaky_relu prelu softmax log_softmax clamp
    clamp_min clamp_max add sub rsub div exp pow sqrt rsqrt softplus mish
""".split()

_PRODUCTS = "mul addcmul lerp".split()

_FREE = """
    batch_norm layer_norm group_norm instance_norm max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d
    dropout dropout1d dropout2d dropout3d feature_dropout alpha_dropout flatten view reshape permute transpose
    unsqueeze squeeze expand expand_as cat concat stack chunk split split_with_sizes slice select narrow contiguous
    clone detach to type_as pad constant_pad_nd reflection_pad2d replication_pad2d roll pixel_shuffle
    pixel_unshuffle channel_shuffle upsample_nearest2d upsample_bilinear2d upsample_nearest3d upsample_trilinear3d
    zeros zeros_like ones ones_like empty full arange copy_ index repeat unbind unflatten t numel floor_divide floor
    ceil remainder eq ne lt gt le ge bool logical_and logical_or bitwise_not where masked_fill einsum_path fill_
    im2col unfold movedim new_ones new_zeros swapaxes swapdims view_as reshape_as tensor_split hsplit
""".split()


def _handles() -> dict[str, Handle]:
    """aten operation -> how it is counted."""
    table: dict[str, Handle] = {f"aten::{name}": _nothing for name in _FREE}
    for handle, names in ((_global_pool, _POOLS), (_descriptor, _POINTWISE), (_product, _PRODUCTS)):
        for name in names:
            table[f"aten::{name}"] = handle
            table[f"aten::{name}_"] = handle
    table["aten::_convolution_mode"] = _convolution
    table["aten::scaled_dot_product_attention"] = _attention
    table["aten::matmul"] = _matmul
    return table


def _convolution(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """A convolution whose padding is given by name, which fvcore does not know."""
    return Counter({"conv": conv_flop_count(get_shape(inputs[0]), get_shape(inputs[1]), get_shape(outputs[0]))})


def _matmul(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """Rows times columns times what is summed, for every matrix of the batch: fvcore forgets a batch of the second."""
    left, right = (list(_shape(value) or (1,)) for value in inputs)
    left, right = ([1, *left] if len(left) == 1 else left), ([*right, 1] if len(right) == 1 else right)
    batch = itertools.zip_longest(left[-3::-1], right[-3::-1], fillvalue=1)
    return Counter({"matmul": math.prod(max(pair) for pair in batch) * left[-2] * left[-1] * right[-1]})


def _attention(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """Two matrix products: queries with keys, and the weights with the values."""
    (*batch, queries, width), keys, values = (_shape(inputs[i]) or () for i in range(3))
    return Counter({"attention": math.prod(batch) * queries * keys[-2] * (width + values[-1])})


HANDLES: Mapping[str, Handle] = _handles()
