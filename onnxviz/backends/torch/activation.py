"""Activation functions. Kinks as the gradient rules have them: Relu 0 at 0, Clip 0 at and outside its bounds."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from onnxviz.backends.torch.table import operator


class Between(torch.autograd.Function):
    """x held between bounds; a variant of backpropagation may change what goes back.

    back   (g, whether x is strictly between the bounds, x, the upper bound) -> the cotangent of x
    """

    @staticmethod
    def forward(ctx: Any, x: Any, low: float | None, high: float | None, back: Callable[..., Any]) -> Any:
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


@operator("Relu")
def relu(x: Any) -> Any:
    """max(x, 0)."""
    return torch.relu(x)


@operator("Clip")
def clip(x: Any, low: Any = None, high: Any = None, *, min: Any = None, max: Any = None) -> Any:
    """x between bounds, which were attributes before opset 11; the bounds may be differentiated too."""
    low = min if low is None else low
    high = max if high is None else high
    bounds = [b for b in (low, high) if isinstance(b, torch.Tensor)]
    if any(b.requires_grad for b in bounds):
        x = x if low is None else torch.maximum(x, torch.as_tensor(low))
        return x if high is None else torch.minimum(x, torch.as_tensor(high))
    if low is None and high is None:
        return x
    values = [b.item() if isinstance(b, torch.Tensor) else b for b in (low, high)]
    if None not in values and values[0] > values[1]:  # where the bounds are crossed, the upper one holds
        values[0] = values[1]
    return Between.apply(x, *values, plain) if x.dtype.is_floating_point else torch.clamp(x, *values)


@operator("LeakyRelu")
def leaky_relu(x: Any, *, alpha: float = 0.01) -> Any:
    """alpha·x below 0."""
    return F.leaky_relu(x, alpha)


@operator("PRelu")
def prelu(x: Any, slope: Any) -> Any:
    """As LeakyRelu with a tensor of slopes; before opset 9 it lay along the channels."""
    if slope.ndim == 1 and x.ndim > 2 and slope.shape[0] == x.shape[1] != x.shape[-1]:
        slope = slope.reshape(-1, *([1] * (x.ndim - 2)))
    return torch.where(x > 0, x, slope * x)


@operator("ThresholdedRelu")
def thresholded_relu(x: Any, *, alpha: float = 1.0) -> Any:
    """x above the threshold, otherwise 0."""
    return torch.where(x > alpha, x, torch.zeros_like(x))


@operator("Elu")
def elu(x: Any, *, alpha: float = 1.0) -> Any:
    """alpha·(exp x − 1) below 0."""
    return F.elu(x, alpha)


@operator("Celu")
def celu(x: Any, *, alpha: float = 1.0) -> Any:
    """alpha·(exp(x/alpha) − 1) below 0."""
    return F.celu(x, alpha)


@operator("Selu")
def selu(
    x: Any, *, alpha: float = 1.67326319217681884765625, gamma: float = 1.05070102214813232421875
) -> Any:
    """gamma times Elu."""
    return gamma * F.elu(x, alpha)


@operator("HardSigmoid")
def hard_sigmoid(x: Any, *, alpha: float = 0.2, beta: float = 0.5) -> Any:
    """alpha·x + beta between 0 and 1."""
    return Between.apply(alpha * x + beta, 0.0, 1.0, plain)


@operator("Swish")
def swish(x: Any, *, alpha: float = 1.0) -> Any:
    """x·sigmoid(alpha·x)."""
    return x * torch.sigmoid(alpha * x)


@operator("QuickGelu", domain="com.microsoft")
def quick_gelu(x: Any, *, alpha: float = 1.702) -> Any:
    """x·sigmoid(alpha·x)."""
    return x * torch.sigmoid(alpha * x)


@operator("Gelu")
def gelu(x: Any, *, approximate: str = "none") -> Any:
    """x·Φ(x), exactly or by tanh."""
    return F.gelu(x, approximate=approximate)


@operator("Gelu", domain="com.microsoft")
def gelu_microsoft(x: Any) -> Any:
    """x·Φ(x)."""
    return F.gelu(x)


@operator("BiasGelu", domain="com.microsoft")
def bias_gelu(x: Any, bias: Any) -> Any:
    """Gelu of x + bias."""
    return F.gelu(x + bias)


@operator("FastGelu", domain="com.microsoft")
def fast_gelu(x: Any, bias: Any = None) -> Any:
    """Gelu by tanh of x + bias."""
    return F.gelu(x if bias is None else x + bias, approximate="tanh")


@operator("Shrink")
def shrink(x: Any, *, bias: float = 0.0, lambd: float = 0.5) -> Any:
    """Towards 0 by the bias outside ±lambd, 0 inside."""
    zero = torch.zeros_like(x)
    return torch.where(x < -lambd, x + bias, torch.where(x > lambd, x - bias, zero))


def _over_axis(function: Callable[..., Any], x: Any, axis: int | None, opset: int) -> Any:
    """Before opset 13 everything from `axis` (1) on was one axis."""
    if opset >= 13:
        return function(x, -1 if axis is None else axis)
    axis = (1 if axis is None else axis) % max(x.ndim, 1)
    return function(x.reshape(math.prod(x.shape[:axis]), -1), 1).reshape(x.shape)


@operator("Softmax")
def softmax(x: Any, *, opset: int, axis: int | None = None) -> Any:
    """exp x over its sum."""
    return _over_axis(torch.softmax, x, axis, opset)


@operator("LogSoftmax")
def log_softmax(x: Any, *, opset: int, axis: int | None = None) -> Any:
    """The logarithm of Softmax."""
    return _over_axis(torch.log_softmax, x, axis, opset)


@operator("Hardmax")
def hardmax(x: Any, *, opset: int, axis: int | None = None) -> Any:
    """1 at the first of the largest, otherwise 0."""

    def one(values: Any, dim: int) -> Any:
        best = values.argmax(dim, keepdim=True)
        return torch.zeros_like(values).scatter(dim, best, 1.0)

    return _over_axis(one, x.detach(), axis, opset)


for _name, _function in {
    "Sigmoid": torch.sigmoid,
    "HardSwish": F.hardswish,
    "Mish": F.mish,
    "Softplus": F.softplus,
    "Softsign": F.softsign,
    "Tanh": torch.tanh,
    "Erf": torch.erf,
}.items():
    operator(_name)(_function)
