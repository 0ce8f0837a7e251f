"""Operators on quantised tensors (QLinearConv and its kind): the float operator between a dequantiser and a quantiser.

Every operand is three inputs, (tensor, scale, zero point); so is the result's scale and zero point.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from onnxviz.backends.torch.activation import leaky_relu
from onnxviz.backends.torch.convolution import conv
from onnxviz.backends.torch.pooling import average_pool, global_average_pool
from onnxviz.backends.torch.quantised import dequantize_linear, quantize_linear
from onnxviz.backends.torch.table import operator

_MICROSOFT = "com.microsoft"


def _bias(bias: Any, x_scale: Any, w_scale: Any) -> Any:
    """An int32 bias counts in units of both scales."""
    return None if bias is None else bias.to(x_scale.dtype) * (x_scale * w_scale).reshape(-1)


@operator("QLinearConv")
def qlinear_conv(
    x: Any,
    xs: Any,
    xz: Any,
    w: Any,
    ws: Any,
    wz: Any,
    ys: Any,
    yz: Any,
    b: Any = None,
    *,
    kind: int,
    **attributes: Any,
) -> Any:
    """Conv."""
    real = conv(
        dequantize_linear(x, xs, xz), dequantize_linear(w, ws, wz, axis=0), _bias(b, xs, ws), **attributes
    )
    return quantize_linear(real, ys, yz, kind=kind)


def _matrix(x: Any, scale: Any, zero: Any) -> Any:
    """A matrix whose scale, where it has several, goes by its last axis (or already lies as it should)."""
    if scale.ndim > 1:
        return (x.to(scale.dtype) - (0 if zero is None else zero.to(scale.dtype))) * scale
    return dequantize_linear(x, scale, zero, axis=x.ndim - 1)


@operator("QLinearMatMul")
def qlinear_matmul(
    a: Any, a_s: Any, az: Any, b: Any, bs: Any, bz: Any, ys: Any, yz: Any, *, kind: int
) -> Any:
    """MatMul."""
    left = dequantize_linear(a, a_s, az, axis=a.ndim - 2) if a_s.ndim < 2 else _matrix(a, a_s, az)
    return quantize_linear(left @ _matrix(b, bs, bz), ys, yz, kind=kind)


@operator("QGemm", domain=_MICROSOFT)
def qgemm(
    a: Any,
    a_s: Any,
    az: Any,
    b: Any,
    bs: Any,
    bz: Any,
    c: Any = None,
    ys: Any = None,
    yz: Any = None,
    *,
    kind: int,
    alpha: float = 1.0,
    transA: int = 0,
    transB: int = 0,
) -> Any:
    """Gemm; its bias is not touched by alpha. A float without a scale for the result."""
    left, right = dequantize_linear(a, a_s, az), dequantize_linear(b, bs, bz, axis=0 if transB else 1)
    y = alpha * ((left.T if transA else left) @ (right.T if transB else right))
    y = y if c is None else y + _bias(c, a_s, bs)
    return y if ys is None else quantize_linear(y, ys, yz, kind=kind)


def _binary(function: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    def both(
        a: Any, a_s: Any, az: Any, b: Any, bs: Any, bz: Any, ys: Any, yz: Any = None, *, kind: int
    ) -> Any:
        real = function(dequantize_linear(a, a_s, az), dequantize_linear(b, bs, bz))
        return quantize_linear(real, ys, yz, kind=kind)

    return both


operator("QLinearAdd", domain=_MICROSOFT)(_binary(torch.add))
operator("QLinearMul", domain=_MICROSOFT)(_binary(torch.mul))


def _unary(function: Callable[..., Any]) -> Callable[..., Any]:
    def one(
        x: Any,
        xs: Any,
        xz: Any,
        ys: Any,
        yz: Any = None,
        *,
        kind: int,
        channels_last: int = 0,
        **attributes: Any,
    ) -> Any:
        real = dequantize_linear(x, xs, xz)
        real = function(real.movedim(-1, 1) if channels_last else real, **attributes)
        real = real.movedim(1, -1) if channels_last else real
        return quantize_linear(real, ys, yz, kind=kind)

    return one


def _softmax(x: Any, *, axis: int = -1, opset: int = 13) -> Any:
    if opset >= 13:
        return torch.softmax(x, axis)
    return torch.softmax(x.flatten(axis % x.ndim), -1).reshape(x.shape)


for _name, _function in {
    "QLinearSigmoid": torch.sigmoid,
    "QLinearLeakyRelu": leaky_relu,
    "QLinearAveragePool": average_pool,
    "QLinearGlobalAveragePool": global_average_pool,
    "QLinearSoftmax": _softmax,
}.items():
    operator(_name, domain=_MICROSOFT)(_unary(_function))


@operator("QLinearConcat", domain=_MICROSOFT)
def qlinear_concat(ys: Any, yz: Any, *xs: Any, axis: int, kind: int) -> Any:
    """Concat; the result's scale and zero point come first."""
    parts = [dequantize_linear(*xs[i : i + 3]) for i in range(0, len(xs), 3)]
    return quantize_linear(torch.cat(parts, axis), ys, yz, kind=kind)
