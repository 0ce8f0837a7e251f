"""Pools."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from onnxviz.backends.torch.table import operator
from onnxviz.backends.torch.tensors import is_real, numbers
from onnxviz.backends.torch.windows import Windows, padded, pick


@operator("MaxPool")
def max_pool(
    x: Any,
    *,
    kernel_shape: Sequence[int],
    outputs: int,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    storage_order: int = 0,
    strides: Sequence[int] | None = None,
) -> Any:
    """The largest of each window, at a tie the first; the second output tells where it lay in the whole input."""
    if not is_real(x):
        found = max_pool(
            x.double(), kernel_shape=kernel_shape, outputs=1, auto_pad=auto_pad, ceil_mode=ceil_mode,
            dilations=dilations, pads=pads, strides=strides,
        )  # fmt: skip
        return found.to(x.dtype)
    lengths = x.shape[2:]
    win = Windows.of(lengths, kernel_shape, strides, pads, dilations, auto_pad)
    end = [e + s for e, s in zip(win.end, win.surplus(lengths, ceil_mode), strict=True)]
    function = pick(len(lengths), F.max_pool1d, F.max_pool2d, F.max_pool3d)
    if outputs == 1 and win.even(end):
        return function(x, win.kernel, win.strides, win.begin, win.dilations)
    wide = padded(x, win.begin, end, -math.inf)
    y, flat = function(wide, win.kernel, win.strides, 0, win.dilations, return_indices=True)
    if outputs == 1:
        return y
    places: list[Any] = []
    rest = flat  # the index in the padded map, axis by axis, turned into one of the whole input
    for axis in range(len(lengths) - 1, -1, -1):
        places.insert(0, rest % wide.shape[2 + axis] - win.begin[axis])
        rest = rest // wide.shape[2 + axis]
    if storage_order:
        places, lengths = places[::-1], lengths[::-1]
    index = torch.zeros_like(flat)
    for place, length in zip(places, lengths, strict=True):
        index = index * length + place
    maps = torch.arange(x.shape[0] * x.shape[1], device=x.device).reshape(
        x.shape[0], x.shape[1], *([1] * len(lengths))
    )
    return y, index + maps * math.prod(lengths)


@operator("MaxUnpool")
def max_unpool(
    x: Any,
    index: Any,
    output_shape: Any = None,
    *,
    kernel_shape: Sequence[int],
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Any:
    """Values back at their places in a map of zeros."""
    n = x.ndim - 2
    steps, around = strides or [1] * n, pads or [0] * 2 * n
    natural = [
        (length - 1) * s + k - around[i] - around[n + i]
        for i, (length, s, k) in enumerate(zip(x.shape[2:], steps, kernel_shape, strict=True))
    ]
    whole = [*x.shape[:2], *natural]  # which the indices count in; a larger output holds it at its start
    y = torch.zeros(math.prod(whole), dtype=x.dtype, device=x.device)
    y = y.scatter(0, index.reshape(-1), x.reshape(-1)).reshape(whole)
    if output_shape is None:
        return y
    return padded(
        y, [0] * n, [w - length for w, length in zip(numbers(output_shape)[2:], natural, strict=True)]
    )


def _sums(x: Any, win: Windows, end: Sequence[int]) -> Any:
    """The sum of each window; for dilated ones a convolution with ones, map by map."""
    wide = padded(x, win.begin, end)
    if all(d == 1 for d in win.dilations):
        average = pick(x.ndim - 2, F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)
        return average(wide, win.kernel, win.strides) * math.prod(win.kernel)
    flat = wide.reshape(-1, 1, *wide.shape[2:])
    ones = torch.ones((1, 1, *win.kernel), dtype=x.dtype, device=x.device)
    function = pick(x.ndim - 2, F.conv1d, F.conv2d, F.conv3d)
    y = function(flat, ones, None, win.strides, 0, win.dilations)
    return y.reshape(*x.shape[:2], *y.shape[2:])


@operator("AveragePool")
def average_pool(
    x: Any,
    *,
    kernel_shape: Sequence[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Any:
    """The mean of each window, over what lies inside the input (or inside it and its padding)."""
    lengths = x.shape[2:]
    win = Windows.of(lengths, kernel_shape, strides, pads, dilations, auto_pad)
    surplus = win.surplus(lengths, ceil_mode)
    end = [e + s for e, s in zip(win.end, surplus, strict=True)]
    if all(d == 1 for d in win.dilations) and win.even(end) and (count_include_pad or not any(end)):
        average = pick(len(lengths), F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)
        return average(x, win.kernel, win.strides, win.begin)
    ones = torch.ones((1, 1, *lengths), dtype=x.dtype, device=x.device)
    if count_include_pad:
        inside = padded(ones, win.begin, win.end, 1.0)
        bare = Windows(win.kernel, win.strides, win.dilations, (0,) * len(lengths), (0,) * len(lengths))
        counts = _sums(inside, bare, surplus)
    else:
        counts = _sums(ones, win, end)
    return _sums(x, win, end) / counts


def _root(s: Any, p: int) -> Any:
    """The p-th root, with derivative 0 (not infinite) at 0."""
    positive = s > 0
    return torch.where(
        positive, torch.where(positive, s, torch.ones_like(s)) ** (1.0 / p), torch.zeros_like(s)
    )


@operator("LpPool")
def lp_pool(
    x: Any,
    *,
    kernel_shape: Sequence[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Sequence[int] | None = None,
    p: int = 2,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Any:
    """The p-norm of each window."""
    lengths = x.shape[2:]
    win = Windows.of(lengths, kernel_shape, strides, pads, dilations, auto_pad)
    end = [e + s for e, s in zip(win.end, win.surplus(lengths, ceil_mode), strict=True)]
    return _root(_sums(x.abs() ** p, win, end), p)


@operator("GlobalAveragePool")
def global_average_pool(x: Any) -> Any:
    """The mean of each map."""
    return x.mean(tuple(range(2, x.ndim)), keepdim=True)


@operator("GlobalMaxPool")
def global_max_pool(x: Any) -> Any:
    """The largest of each map, at a tie the first."""
    return x.flatten(2).max(2).values.reshape(*x.shape[:2], *([1] * (x.ndim - 2)))


@operator("GlobalLpPool")
def global_lp_pool(x: Any, *, p: int = 2) -> Any:
    """The p-norm of each map."""
    return _root((x.abs() ** p).sum(tuple(range(2, x.ndim)), keepdim=True), p)
