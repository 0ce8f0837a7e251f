"""Activations and quantisers, and what the backprop variants make of the rectifiers among them.

Kinks are as the gradient rules have them: Relu 0 at 0, Clip 0 at and outside its bounds. Quantisers are passed straight
through the rounding and stopped where the range saturates: a quantised tensor is a float tensor that holds whole
numbers, so that autograd passes it. As in grad/rules/quantised.py the scale and the zero point count as constants, and
the mask is that of torch's fake quantisation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import onnx_ir as ir
import torch
import torch.nn.functional as F

from onnxviz.backends.torch.layers import conv
from onnxviz.backends.torch.table import OPERATORS, CannotRun, Ints, Table, along, enter, is_real, operator
from onnxviz.errors import one_of
from onnxviz.graph.rectifiers import RANGES, Rectifier

Back = Callable[..., Any]
"""(g, whether x is strictly between its ends, x, the upper end) -> the cotangent of x."""


class Between(torch.autograd.Function):
    """x held between bounds; a variant of backpropagation may change what goes back."""

    @staticmethod
    def forward(ctx: Any, x: Any, low: float | None, high: float | None, back: Back) -> Any:
        """x between the bounds; None: no bound."""
        ctx.save_for_backward(x)
        ctx.low, ctx.high, ctx.back = low, high, back
        return torch.clamp(x, low, high)

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        """What `back` says."""
        (x,) = ctx.saved_tensors
        inside = torch.ones_like(x, dtype=torch.bool)
        if ctx.low is not None:
            inside &= x > ctx.low
        if ctx.high is not None:
            inside &= x < ctx.high
        return ctx.back(g, inside, x, ctx.high), None, None, None


def plain(g: Any, inside: Any, x: Any, high: float | None) -> Any:
    """What the derivative says."""
    return g * inside


@operator("Clip")
def clip(x: Any, low: Any = None, high: Any = None) -> Any:
    """x between bounds, which may be differentiated too."""
    if any(b is not None and b.requires_grad for b in (low, high)):
        x = x if low is None else torch.maximum(x, low)
        return x if high is None else torch.minimum(x, high)
    if low is None and high is None:
        return x
    values: list[Any] = [None if b is None else b.item() for b in (low, high)]
    if None not in values and values[0] > values[1]:  # where the bounds are crossed, the upper one holds
        values[0] = values[1]
    return Between.apply(x, *values, plain) if x.dtype.is_floating_point else torch.clamp(x, *values)


@operator("Hardmax")
def hardmax(x: Any, *, axis: int = -1) -> Any:
    """1 at the first of the largest, otherwise 0."""
    x = x.detach()
    return torch.zeros_like(x).scatter(axis, x.argmax(axis, keepdim=True), 1.0)


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "Relu": torch.relu,
    "Sigmoid": torch.sigmoid,
    "HardSwish": F.hardswish,
    "Mish": F.mish,
    "Softplus": F.softplus,
    "Softsign": F.softsign,
    "Tanh": torch.tanh,
    "Erf": torch.erf,
    "LeakyRelu": lambda x, *, alpha=0.01: F.leaky_relu(x, alpha),
    "PRelu": lambda x, slope: torch.where(x > 0, x, slope * x),
    "ThresholdedRelu": lambda x, *, alpha=1.0: torch.where(x > alpha, x, torch.zeros_like(x)),
    "Elu": lambda x, *, alpha=1.0: F.elu(x, alpha),
    "Celu": lambda x, *, alpha=1.0: F.celu(x, alpha),
    "Selu": lambda x, *, alpha=1.6732632423543772, gamma=1.0507010221481323: gamma * F.elu(x, alpha),
    "HardSigmoid": lambda x, *, alpha=0.2, beta=0.5: Between.apply(alpha * x + beta, 0.0, 1.0, plain),
    "Swish": lambda x, *, alpha=1.0: x * torch.sigmoid(alpha * x),
    "Gelu": lambda x, *, approximate="none": F.gelu(x, approximate=approximate),
    "Shrink": lambda x, *, bias=0.0, lambd=0.5: torch.where(
        x < -lambd, x + bias, torch.where(x > lambd, x - bias, torch.zeros_like(x))
    ),
    "Softmax": lambda x, *, axis=-1: torch.softmax(x, axis),
    "LogSoftmax": lambda x, *, axis=-1: torch.log_softmax(x, axis),
}
enter(_FUNCTIONS)


# --- quantisers -----------------------------------------------------------------------------------


class Rounded(torch.autograd.Function):
    """Rounded and held in a range; g passes where the rounded number lies within it, or as a variant says.

    All that `back` sees is in units of the scale.
    """

    @staticmethod
    def forward(ctx: Any, units: Any, zero: Any, low: int, high: int, back: Back) -> Any:
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
def quantize_linear(
    x: Any, scale: Any, zero: Any = None, *, kind: int, axis: int = 1, block_size: int = 0,
    saturate: int = 1, output_dtype: int = 0, precision: int = 0, back: Back = plain,
) -> Any:  # fmt: skip
    """round(x / scale) + zero point, within the range of the integer."""
    if kind not in RANGES:
        raise CannotRun(f"quantises to {ir.DataType(kind).name}")
    low, high = RANGES[ir.DataType(kind)]
    step = _spread(scale.detach(), x, axis, block_size)
    offset = 0 if zero is None else _spread(zero.detach(), x, axis, block_size).to(scale.dtype)
    return Rounded.apply(x / step, offset, low, high, back)


@operator("DequantizeLinear")
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
    x: Any, w: Any, x_zero: Any = None, w_zero: Any = None, *, dilations: Ints = None, group: int = 1,
    kernel_shape: Ints = None, pads: Ints = None, strides: Ints = None,
) -> Any:  # fmt: skip
    """Conv of integers; whole numbers in floats."""
    x, w = _real(x, x_zero, 1), _real(w, w_zero, 0)
    return conv(x, w, dilations=dilations, group=group, pads=pads, strides=strides)


# --- backprop variants as other tables: what they do stands in grad/overrides.py ------------------


def _guided(g: Any, inside: Any, x: Any, high: float | None) -> Any:
    return torch.relu(g) * inside


def _deconvnet(g: Any, inside: Any, x: Any, high: float | None) -> Any:
    return torch.relu(g)


def _redirected(g: Any, inside: Any, x: Any, high: float | None) -> Any:
    through = g * inside
    blocked = (x < 0) & (g < 0)
    if high is not None:
        blocked |= (x > high) & (g > 0)
    alive = through.flatten(1).abs().sum(1).reshape(-1, *([1] * (x.ndim - 1))) > 0
    return torch.where(alive, through, torch.where(blocked, torch.zeros_like(g), g))


def _table(back: Back) -> Mapping[str, Callable[..., Any]]:
    """Functions for the rectifiers (graph/rectifiers.py) among the nodes of these operators."""

    def relu(x: Any) -> Any:
        return Between.apply(x, 0.0, None, back)

    def clipped(x: Any, low: Any = None, high: Any = None, *, rectifier: Rectifier | None) -> Any:
        return clip(x, low, high) if rectifier is None else Between.apply(x, 0.0, rectifier.high, back)

    def quantized(
        x: Any, *operands: Any, rectifier: Rectifier | None, kind: int, axis: int = 1,
        block_size: int = 0, saturate: int = 1, output_dtype: int = 0, precision: int = 0,
    ) -> Any:  # fmt: skip
        going_back = plain if rectifier is None else back
        return quantize_linear(x, *operands, kind=kind, axis=axis, block_size=block_size, back=going_back)

    return {"Relu": relu, "Clip": clipped, "QuantizeLinear": quantized}


_VARIANTS = {
    "plain": {}, "guided": _table(_guided), "deconvnet": _table(_deconvnet), "redirected": _table(_redirected),
}  # fmt: skip


def by_name(name: str) -> Table:
    """The table that the command line calls so; raises UsageError."""
    return MappingProxyType({**OPERATORS, **_VARIANTS[one_of("rules", name, _VARIANTS)]})
