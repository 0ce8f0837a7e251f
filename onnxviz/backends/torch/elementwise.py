"""Operators that work element by element."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch

from onnxviz.backends.torch.table import CannotRun, operator
from onnxviz.backends.torch.tensors import is_real, single, torch_type


def _old(function: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    """A binary operator; before opset 7 its second operand was laid along `axis`."""

    def both(a: Any, b: Any, *, axis: int | None = None, broadcast: int = 0) -> Any:
        if axis is not None and broadcast:
            b = b.reshape([*b.shape, *([1] * (a.ndim - axis - b.ndim))])
        return function(a, b)

    return both


def _divide(a: Any, b: Any) -> Any:
    return a / b if is_real(a) else torch.div(a, b, rounding_mode="trunc")


def _power(a: Any, b: Any) -> Any:
    return torch.pow(a, b).to(a.dtype) if is_real(a) else torch.pow(a.double(), b).to(a.dtype)


for _name, _two in {
    "Add": torch.add,
    "Sub": torch.sub,
    "Mul": torch.mul,
    "Div": _divide,
    "Pow": _power,
    "And": torch.logical_and,
    "Or": torch.logical_or,
    "Xor": torch.logical_xor,
    "Equal": torch.eq,
    "Greater": torch.gt,
    "Less": torch.lt,
}.items():
    operator(_name)(_old(_two))

for _name, _function in {
    "GreaterOrEqual": torch.ge,
    "LessOrEqual": torch.le,
    "BitwiseAnd": torch.bitwise_and,
    "BitwiseOr": torch.bitwise_or,
    "BitwiseXor": torch.bitwise_xor,
    "BitwiseNot": torch.bitwise_not,
    "Not": torch.logical_not,
    "Neg": torch.neg,
    "Abs": torch.abs,
    "Sqrt": torch.sqrt,
    "Exp": torch.exp,
    "Log": torch.log,
    "Reciprocal": torch.reciprocal,
    "Sin": torch.sin,
    "Cos": torch.cos,
    "Tan": torch.tan,
    "Asin": torch.asin,
    "Acos": torch.acos,
    "Atan": torch.atan,
    "Sinh": torch.sinh,
    "Cosh": torch.cosh,
    "Asinh": torch.asinh,
    "Acosh": torch.acosh,
    "Atanh": torch.atanh,
    "IsNaN": torch.isnan,
    "Identity": lambda x: x,
    "Where": torch.where,
}.items():
    operator(_name)(_function)


# torch would give them a gradient of zeros; what is not differentiable must be seen not to be.
for _name, _step in {
    "Sign": torch.sign,
    "Floor": torch.floor,
    "Ceil": torch.ceil,
    "Round": torch.round,
}.items():
    operator(_name)(lambda x, step=_step: step(x.detach()))


@operator("BitShift")
def bit_shift(x: Any, amount: Any, *, direction: str) -> Any:
    """To the LEFT or RIGHT."""
    shift = torch.bitwise_left_shift if direction == "LEFT" else torch.bitwise_right_shift
    return shift(x, amount)


@operator("Mod")
def mod(a: Any, b: Any, *, fmod: int = 0) -> Any:
    """The remainder with the divisor's sign, or with fmod the dividend's."""
    return torch.fmod(a, b) if fmod else torch.remainder(a, b)


@operator("Sum")
def sum_(*xs: Any) -> Any:
    """Of all inputs."""
    return functools.reduce(torch.add, xs)


@operator("Mean")
def mean(*xs: Any) -> Any:
    """Of all inputs."""
    return functools.reduce(torch.add, xs) / len(xs)


class _Extreme(torch.autograd.Function):
    """The largest (or smallest) of several; a tie is shared evenly among all that are tied."""

    @staticmethod
    def forward(ctx: Any, pick: Callable[..., Any], *xs: Any) -> Any:
        y = functools.reduce(pick, xs)
        ctx.save_for_backward(y, *xs)
        return y

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        y, *xs = ctx.saved_tensors
        taken = [(x == y).to(g.dtype) for x in xs]
        share = g / functools.reduce(torch.add, taken)
        return None, *((share * t).sum_to_size(x.shape) for t, x in zip(taken, xs, strict=True))


@operator("Max")
def maximum(*xs: Any) -> Any:
    """The largest."""
    return _Extreme.apply(torch.maximum, *xs)


@operator("Min")
def minimum(*xs: Any) -> Any:
    """The smallest."""
    return _Extreme.apply(torch.minimum, *xs)


@operator("IsInf")
def is_inf(x: Any, *, detect_negative: int = 1, detect_positive: int = 1) -> Any:
    """Whether infinite."""
    return (x == math.inf) & bool(detect_positive) | (x == -math.inf) & bool(detect_negative)


@operator("Cast")
def cast(x: Any, *, to: int, saturate: int = 1, round_mode: str = "up") -> Any:
    """To another type. A quantised tensor is a float that holds whole numbers here: it stays differentiable."""
    return x.to(torch_type(to))


@operator("CastLike")
def cast_like(x: Any, like: Any, *, saturate: int = 1, round_mode: str = "up") -> Any:
    """To the type of another tensor."""
    return x.to(like.dtype)


def _running(
    function: Callable[..., Any], x: Any, axis: Any, exclusive: int, reverse: int, start: float
) -> Any:
    dim = int(single(axis))
    x = x.flip(dim) if reverse else x
    y = function(x, dim).to(x.dtype)
    if exclusive:
        first = torch.full_like(x.narrow(dim, 0, 1), start)
        y = torch.cat([first, y.narrow(dim, 0, x.shape[dim] - 1)], dim)
    return y.flip(dim) if reverse else y


@operator("CumSum")
def cum_sum(x: Any, axis: Any, *, exclusive: int = 0, reverse: int = 0) -> Any:
    """Sums of all up to each place."""
    return _running(torch.cumsum, x, axis, exclusive, reverse, 0.0)


@operator("CumProd")
def cum_prod(x: Any, axis: Any, *, exclusive: int = 0, reverse: int = 0) -> Any:
    """Products of all up to each place."""
    return _running(torch.cumprod, x, axis, exclusive, reverse, 1.0)


@operator("Dropout")
def dropout(x: Any, ratio: Any = None, training: Any = None, *, outputs: int, seed: int = 0) -> Any:
    """Nothing, at inference; the mask keeps everything."""
    if training is not None and bool(single(training)) and (ratio is None or float(single(ratio))):
        raise CannotRun("is in training mode")
    return (x, torch.ones_like(x, dtype=torch.bool)) if outputs > 1 else x
