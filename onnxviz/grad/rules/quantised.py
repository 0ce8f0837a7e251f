"""Gradient rules of quantised models: straight through the rounding, stopped where the range saturates.

A quantised tensor (an integer that stands for a float) carries a float cotangent. In files of
QuantizeLinear/DequantizeLinear pairs Relu and Clip are gone: the range of QuantizeLinear is the clip, and a gradient
without its mask would pass through dead units. The mask is that of torch's fake quantisation:
the rounded value lies within the integer's range.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxviz.grad.backward import NoRule
from onnxviz.grad.forms import between, conv_to_input
from onnxviz.grad.table import vjp
from onnxviz.grad.windows import Window
from onnxviz.graph.tape import array, dims


@vjp("QuantizeLinear")
def quantize_linear(
    op, g, y, x, scale, zero=None, *, axis, block_size=0, saturate=1, output_dtype=0, precision=0
):
    """g over the scale where x falls within the range of the integer; the scale counts as a constant."""
    if block_size:
        raise NoRule("quantises by blocks")
    return rescaled(op, op.Mul(g, within(op, g, y, x, scale, zero, axis)), y, x, scale, axis), None


def within(op: Any, g: Any, y: Any, x: Any, scale: Any, zero: Any, axis: int) -> Any:
    """1 where x falls within the range of the integer, 0 elsewhere, in g's type."""
    from onnxviz.graph.rectifiers import RANGES

    if y.dtype not in RANGES:
        raise NoRule(f"quantises to {y.dtype.name if y.dtype else 'an unknown type'}")
    low, high = (bound - 0.5 if i == 0 else bound + 0.5 for i, bound in enumerate(RANGES[y.dtype]))
    step, offset = array(scale), 0 if zero is None else array(zero)
    if step is not None and offset is not None and step.size == 1 and np.isfinite(step).all():
        at = float(np.asarray(offset, dtype=np.float64).reshape(-1)[0])
        width = float(step.reshape(-1)[0])
        return between(op, x, float(np.float32((low - at) * width)), float(np.float32((high - at) * width)))
    units = op.Round(op.Div(x, _along(op, scale, x, axis)))
    if zero is not None:
        units = op.Add(units, op.cast_like(_along(op, zero, x, axis), x))
    return op.cast_like(op.And(op.Greater(units, low), op.Less(units, high)), g)


def rescaled(op: Any, g: Any, y: Any, x: Any, scale: Any, axis: int) -> Any:
    """g over the scale, which a pair of quantiser and dequantiser leaves out."""
    return g if _paired(y.producer()) else op.Div(g, _along(op, scale, x, axis))


@vjp("DequantizeLinear")
def dequantize_linear(op, g, y, x, scale, zero=None, *, axis, block_size=0, output_dtype=0):
    """g times the scale, which counts as a constant."""
    if block_size:
        raise NoRule("dequantises by blocks")
    source = x.producer()
    if _paired(source):
        # The quantiser leaves its own 1/scale out: together the two are one, or the quotient of their scales.
        if source.inputs[1] is scale:
            return g, None
        mine, other = array(scale), array(source.inputs[1])
        if mine is not None and other is not None and mine.shape == other.shape and (mine == other).all():
            return g, None
        own = source.attributes["axis"].as_int() if "axis" in source.attributes else 1
        g = op.Div(g, _along(op, source.inputs[1], x, own))
    return op.Mul(g, _along(op, scale, x, axis)), None


def _paired(node: Any) -> bool:
    """A quantiser that only dequantisers read."""
    if node is None or node.op_type != "QuantizeLinear" or node.domain:
        return False
    return all(u.op_type == "DequantizeLinear" and i == 0 and not u.domain for u, i in node.outputs[0].uses())


def _along(op: Any, value: Any, x: Any, axis: int) -> Any:
    """A scale for each index of `axis` (or one for all), so that it broadcasts against x."""
    known, full = dims(value), dims(x)
    if known is not None and (len(known) == 0 or known == (1,)):
        return value
    if known is None or full is None:
        raise NoRule("has a scale or input of unknown rank")
    axis %= len(full)
    return op.Reshape(value, [-1, *([1] * (len(full) - 1 - axis))])


@vjp("DynamicQuantizeLinear", constant=(1, 2))
def dynamic_quantize_linear(op, g, y, x):
    """Its range covers x, so nothing saturates; scale and zero point count as constants."""
    scale = y.producer().outputs[1]
    return (op.Div(g, scale),)


def _real(op: Any, value: Any, zero: Any, g: Any, rank: int, axis: int) -> Any:
    """An integer tensor less its zero point, in g's type."""
    real = op.cast_like(value, g)
    if zero is None:
        return real
    zero_real = op.cast_like(zero, g)
    known = dims(zero)
    if known is None or (len(known) == 1 and known[0] != 1):
        zero_real = op.Reshape(zero_real, [-1, *([1] * (rank - 1 - axis))])
    return op.Sub(real, zero_real)


@vjp("MatMulInteger")
def matmul_integer(op, g, y, a, b, a_zero=None, b_zero=None):
    """g·Bᵀ in units of the quantised operand."""
    known_a, known_b = dims(a), dims(b)
    if known_a is None or known_b is None or len(known_b) != 2 or len(known_a) < 2:
        raise NoRule("is not a matrix product with one constant matrix")

    def to_b() -> Any:
        raise NoRule("has a second operand that depends on the wanted input")

    return lambda: op.MatMul(g, op.Transpose(_real(op, b, b_zero, g, 2, 1), perm=[1, 0])), to_b


@vjp("ConvInteger")
def conv_integer(
    op, g, y, x, w, x_zero=None, w_zero=None, *,
    auto_pad, dilations=None, group, kernel_shape=None, pads=None, strides=None,
):  # fmt: skip
    """As Conv, with the weights less their zero point."""
    known: Any = dims(w)
    if known is None or not all(isinstance(d, int) for d in known):
        raise NoRule("has weights of unknown shape")
    win = Window.of(known[2:], strides, pads, dilations, auto_pad, dims(x))
    real = _real(op, w, w_zero, g, len(known), 0)
    real.shape = w.shape

    def to_w() -> Any:
        raise NoRule("has weights that depend on the wanted input")

    return lambda: conv_to_input(op, g, real, x, y, group, win), to_w
