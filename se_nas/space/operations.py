"""What each operation of a network counts, as handles for fvcore."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", category=DeprecationWarning)  # torch.jit, on which fvcore is built
    from fvcore.nn.jit_handles import conv_flop_count, get_shape


def _elements(value: Any) -> int:
    shape = get_shape(value)
    return math.prod(shape) if shape else 0


def _has_extent(value: Any) -> bool:
    shape = get_shape(value)
    return bool(shape) and len(shape) > 2 and math.prod(shape[2:]) > 1


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
    for handle, names in ((_global_pool, _POOLS), (_descriptor, _POINTWISE), (_product, ["mul"])):
        for name in names:
            table[f"aten::{name}"] = handle
            table[f"aten::{name}_"] = handle
    table["aten::_convolution_mode"] = _convolution
    table["aten::scaled_dot_product_attention"] = _attention
    return table


def _convolution(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """A convolution whose padding is given by name, which fvcore does not know."""
    return Counter({"conv": conv_flop_count(get_shape(inputs[0]), get_shape(inputs[1]), get_shape(outputs[0]))})


def _attention(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """Two matrix products: queries with keys, and the weights with the values."""
    (*batch, queries, width), keys = get_shape(inputs[0]), get_shape(inputs[1])[-2]
    return Counter({"attention": math.prod(batch) * queries * keys * (width + get_shape(inputs[2])[-1])})


HANDLES: Mapping[str, Handle] = _handles()
