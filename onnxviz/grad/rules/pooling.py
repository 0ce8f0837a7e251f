"""Gradient rules of the pooling operators, 1-D to 3-D, any pads, strides, dilations, ceil_mode."""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxviz.grad.backward import rank_of
from onnxviz.grad.forms import box_to_input, step, times
from onnxviz.grad.layout import spread
from onnxviz.grad.table import vjp
from onnxviz.grad.windows import Window
from onnxviz.graph.tape import dims


@vjp("MaxPool")
def max_pool(
    op, g, y, x, *, auto_pad, ceil_mode, dilations=None, kernel_shape, pads=None, storage_order, strides=None
):
    """To the first of the largest elements of each window (forms: see maxima.py).

    Where ONNX Runtime's CPU provider has no faster form, its operator gives the flat index of each maximum; overlapping
    windows may share one, hence the adding scatter (MaxUnpool would assign).
    """
    from onnxviz.grad import maxima

    win = Window.of(kernel_shape, strides, pads, dilations, auto_pad, dims(x))

    def route(h: Any, *, positive: bool = True) -> Any:
        if maxima.fits(op, x, y, win):
            return maxima.max_to_input(op, h, y, x, win, positive=positive)
        if not op.cpu:
            return maxima.by_slices(op, h, y, x, win, bool(ceil_mode))
        steps = {"strides": list(win.strides), "pads": win.pads, "dilations": list(win.dilations)}
        _, places = op.MaxPool(x, _outputs=2, kernel_shape=list(win.kernel), ceil_mode=ceil_mode, **steps)
        zeros = op.Expand(op.cast_like(0.0, h), op.Reshape(op.size(x), [1]))
        flat = (op.Reshape(value, [-1]) for value in (places, h))
        return op.Reshape(op.ScatterElements(zeros, *flat, axis=0, reduction="add"), op.shape(x))

    routed = route(g, positive=False)
    # It lies where x = y: a Relu in front may mask the smaller g instead.
    op.masked[routed] = lambda: route(op.Mul(g, step(op, y)))
    return (routed,)


@vjp("AveragePool")
def average_pool(
    op, g, y, x, *,
    auto_pad, ceil_mode, count_include_pad, dilations=None, kernel_shape, pads=None, strides=None,
):  # fmt: skip
    """Each element gets the sum of its windows' cotangents, each over its own count."""
    win = Window.of(kernel_shape, strides, pads, dilations, auto_pad, dims(x))
    counts = _counts(op, x, y, win, bool(count_include_pad), bool(ceil_mode), g)
    share = op.Div(g, counts) if not isinstance(counts, float) else op.Mul(g, 1.0 / counts)
    return (box_to_input(op, share, x, y, win),)


def _counts(op: Any, x: Any, y: Any, win: Window, with_pads: bool, ceil: bool, g: Any) -> Any:
    """How many elements each window averages: a float where all are equal, a scalar, or (1, 1, *out).

    1 for a dilated window whose taps all miss the input: it gives no gradient anyway.
    """
    if not ceil and not any(win.pads):
        return _whole(op, x, win, g)
    if not ceil and with_pads:
        return float(np.prod(win.kernel))
    dtype = g.dtype.numpy()
    n = len(win.kernel)
    known_x, known_y = dims(x), dims(y)
    product: Any = None
    for i, axis in enumerate(win.axes):
        lx, ly = (known_x or (None,) * (n + 2))[axis], (known_y or (None,) * (n + 2))[axis]
        along = [1] * (2 + i) + [-1] + [1] * (n - 1 - i)
        s, d, k, b, e = win.strides[i], win.dilations[i], win.kernel[i], win.begin[i], win.end[i]
        if isinstance(lx, int) and isinstance(ly, int):
            first, last = (-b, lx + e) if with_pads else (0, lx)
            taps = np.arange(ly)[:, None] * s - b + np.arange(k) * d
            counts: Any = ((taps >= first) & (taps < last)).sum(1).clip(1).astype(dtype).reshape(along)
        else:
            counts = op.Reshape(_counts_now(op, x, y, axis, (k, s, d, b, e), with_pads, g), along)
        product = times(op, product, counts)
    if isinstance(product, np.ndarray) and (product == product.flat[0]).all():
        return float(product.flat[0])
    return product


def _whole(op: Any, x: Any, win: Window, g: Any) -> Any:
    """The same for windows that lie within the input: all their elements.

    But where the input is shorter than a window: ONNX Runtime rounds towards 0, so that of a stride above 1 there is
    one all the same, and hangs over.
    """
    known = dims(x) or (None,) * (len(win.kernel) + 2)
    fixed, open_axes = 1.0, []
    for axis, k, s, d in zip(win.axes, win.kernel, win.strides, win.dilations, strict=True):
        length = known[axis]
        if isinstance(length, int):
            fixed *= min(k, -(-length // d))
        elif s == 1 or k == 1:
            fixed *= k
        else:
            open_axes.append((axis, k, d))
    counts: Any = fixed
    for axis, k, d in open_axes:
        length = op.Squeeze(op.shape(x, axis, axis + 1), [0])
        taps = length if d == 1 else op.Div(op.Add(length, d - 1), d)
        counts = op.Mul(op.cast_like(op.Min(taps, op.const(np.int64(k))), g), counts)
    return counts


def _counts_now(op: Any, x: Any, y: Any, axis: int, geometry: Any, with_pads: bool, g: Any) -> Any:
    """The same along one axis of unknown length, at run time: taps between the first and the last position."""
    k, s, d, b, e = geometry
    length = op.shape(x, axis, axis + 1)
    outs = op.Squeeze(op.shape(y, axis, axis + 1), [0])
    starts = op.Sub(op.Mul(op.arange(outs), s), b)
    taps = op.Add(op.Unsqueeze(starts, [1]), (np.arange(k) * d)[None])
    first, last = (-b, op.Add(length, e)) if with_pads else (0, length)
    inside = op.And(op.GreaterOrEqual(taps, first), op.Less(taps, last))
    return op.Max(op.ReduceSum(op.cast_like(inside, g), [1], keepdims=0), 1.0)


@vjp("LpPool")
def lp_pool(op, g, y, x, *, auto_pad, ceil_mode, dilations=None, kernel_shape, p, pads=None, strides=None):
    """y = (Σ|x|^p)^(1/p): the cotangent over y^(p−1), summed over the windows, times |x|^(p−1)·sign x."""
    win = Window.of(kernel_shape, strides, pads, dilations, auto_pad, dims(x))
    return (_powers(op, box_to_input(op, _over_powers(op, g, y, p), x, y, win), x, p),)


@vjp("GlobalLpPool")
def global_lp_pool(op, g, y, x, *, p):
    """As LpPool with one window."""
    return (_powers(op, _over_powers(op, g, y, p), x, p),)


def _over_powers(op: Any, g: Any, y: Any, p: int) -> Any:
    """g / y^(p−1), 0 where y is 0 (there every |x|^(p−1) is 0 too, but for p = 1)."""
    if p == 1:
        return g
    return op.Where(op.Equal(y, 0.0), 0.0, op.Div(g, y if p == 2 else op.Pow(y, float(p - 1))))


def _powers(op: Any, h: Any, x: Any, p: int) -> Any:
    if p == 1:
        return op.Mul(h, op.Sign(x))
    if p == 2:
        return op.Mul(h, x)
    return op.Mul(h, op.Mul(op.Pow(op.Abs(x), float(p - 1)), op.Sign(x)))


@vjp("GlobalAveragePool")
def global_average_pool(op, g, y, x):
    """An equal share to every position."""
    known: Any = dims(x)
    if known is not None and all(isinstance(d, int) for d in known[2:]):
        return (spread(op, g, x, 1.0 / float(np.prod(known[2:]))),)
    return (spread(op, op.Div(g, op.cast_like(op.ReduceProd(op.shape(x, 2), keepdims=0), g)), x, 1.0),)


@vjp("GlobalMaxPool")
def global_max_pool(op, g, y, x):
    """To the first of the largest elements."""
    rank_of(x)  # of an unknown one it is refused
    flat = op.Reshape(x, [0, 0, -1])
    first = op.ArgMax(flat, axis=2, keepdims=1)
    zeros = op.Expand(op.cast_like(0.0, g), op.Shape(flat))
    spread = op.ScatterElements(zeros, first, op.Reshape(g, [0, 0, 1]), axis=2)
    return (op.Reshape(spread, op.shape(x)),)
