"""Quantised operators: straight through the rounding, stopped where the range saturates.

A quantised tensor is a float tensor that holds whole numbers, so that autograd passes it. As in grad/rules/quantised.py
the scale and the zero point count as constants, and the mask is that of torch's fake quantisation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import onnx_ir as ir
import torch

from onnxviz.backends.torch.activation import plain
from onnxviz.backends.torch.convolution import conv
from onnxviz.backends.torch.table import CannotRun, operator
from onnxviz.backends.torch.tensors import along, is_real
from onnxviz.graph.rectifiers import RANGES


class Rounded(torch.autograd.Function):
    """Rounded and held in a range; g passes where the rounded number lies within it, or as a variant says.

    back   (g, whether the number lies within, x, its upper end), all in units of the scale -> the cotangent of x
    """

    @staticmethod
    def forward(ctx: Any, units: Any, zero: Any, low: int, high: int, back: Callable[..., Any]) -> Any:
        """The whole numbers."""
        y = torch.round(units) + zero
        ctx.save_for_backward((y >= low) & (y <= high), units)
        ctx.high, ctx.back = high - zero, back
        return y.clamp(low, high)

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        """What `back` says."""
        inside, units = ctx.saved_tensors
        return ctx.back(g, inside, units, ctx.high), None, None, None, None


def _spread(vector: Any, x: Any, axis: int, block_size: int) -> Any:
    """A scale or zero point, so that it broadcasts against x: for all, one an index of `axis`, or one a block."""
    if block_size:
        return vector.repeat_interleave(block_size, axis).narrow(axis, 0, x.shape[axis])
    return along(vector, x, axis)


@operator("QuantizeLinear")
@operator("QuantizeLinear", domain="com.microsoft")
def quantize_linear(
    x: Any,
    scale: Any,
    zero: Any = None,
    *,
    kind: int,
    axis: int = 1,
    block_size: int = 0,
    saturate: int = 1,
    output_dtype: int = 0,
    precision: int = 0,
    back: Callable[..., Any] = plain,
) -> Any:
    """round(x / scale) + zero point, within the range of the integer."""
    if kind not in RANGES:
        raise CannotRun(f"quantises to {ir.DataType(kind).name}")
    low, high = RANGES[ir.DataType(kind)]
    step = _spread(scale.detach(), x, axis, block_size)
    offset = 0 if zero is None else _spread(zero.detach(), x, axis, block_size).to(scale.dtype)
    return Rounded.apply(x / step, offset, low, high, back)


@operator("DequantizeLinear")
@operator("DequantizeLinear", domain="com.microsoft")
def dequantize_linear(
    x: Any, scale: Any, zero: Any = None, *, axis: int = 1, block_size: int = 0, output_dtype: int = 0
) -> Any:
    """(x − zero point)·scale."""
    real = x.to(scale.dtype)
    if zero is not None:
        real = real - _spread(zero.detach(), x, axis, block_size).to(scale.dtype)
    return real * _spread(scale.detach(), x, axis, block_size)


@operator("DynamicQuantizeLinear")
def dynamic_quantize_linear(x: Any) -> Any:
    """To the range that x has, which with 0 it covers: nothing saturates."""
    values = x.detach()
    low, high = values.min().clamp(max=0), values.max().clamp(min=0)
    scale = (high - low) / 255
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    zero = torch.round(-low / scale).clamp(0, 255)
    return Rounded.apply(x / scale, zero, 0, 255, plain), scale, zero.to(torch.uint8)


def _real(value: Any, zero: Any, axis: int) -> Any:
    """An integer tensor less its zero point, as floats."""
    real = value if is_real(value) else value.float()
    if zero is None:
        return real
    zero = zero.to(real.dtype)
    return real - (along(zero, real, axis) if zero.ndim < 2 else zero)


@operator("MatMulInteger")
def matmul_integer(a: Any, b: Any, a_zero: Any = None, b_zero: Any = None) -> Any:
    """The product of integers; whole numbers in floats."""
    return _real(a, a_zero, a.ndim - 2 if a.ndim > 1 else 0) @ _real(b, b_zero, b.ndim - 1)


@operator("ConvInteger")
def conv_integer(
    x: Any,
    w: Any,
    x_zero: Any = None,
    w_zero: Any = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Any:
    """Conv of integers; whole numbers in floats."""
    return conv(
        _real(x, x_zero, 1), _real(w, w_zero, 0), auto_pad=auto_pad, dilations=dilations, group=group, pads=pads,
        strides=strides,
    )  # fmt: skip


@operator("DynamicQuantizeMatMul", domain="com.microsoft")
def dynamic_quantize_matmul(a: Any, b: Any, b_scale: Any, b_zero: Any = None, bias: Any = None) -> Any:
    """A float matrix, quantised on the way, times an integer one."""
    units, scale, zero = dynamic_quantize_linear(a)
    y = (units - zero) @ _real(b, b_zero, b.ndim - 1) * scale * b_scale
    return y if bias is None else y + bias


@operator("MatMulIntegerToFloat", domain="com.microsoft")
def matmul_integer_to_float(
    a: Any, b: Any, a_scale: Any, b_scale: Any, a_zero: Any = None, b_zero: Any = None, bias: Any = None
) -> Any:
    """The product of integers in units of both scales."""
    y = matmul_integer(a, b, a_zero, b_zero) * a_scale * b_scale
    return y if bias is None else y + bias
