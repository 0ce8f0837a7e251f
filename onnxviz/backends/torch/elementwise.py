"""Operators that work element by element, reductions, and picking the largest."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch

from onnxviz.backends.torch.table import CannotRun, enter, is_real, numbers, operator, single, torch_type

_SHIFTS = {"LEFT": torch.bitwise_left_shift, "RIGHT": torch.bitwise_right_shift}


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


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "Add": torch.add,
    "Sub": torch.sub,
    "Mul": torch.mul,
    "Div": lambda a, b: a / b if is_real(a) else torch.div(a, b, rounding_mode="trunc"),
    "Pow": lambda a, b: torch.pow(a if is_real(a) else a.double(), b).to(a.dtype),
    "And": torch.logical_and,
    "Or": torch.logical_or,
    "Xor": torch.logical_xor,
    "Not": torch.logical_not,
    "Equal": torch.eq,
    "Greater": torch.gt,
    "Less": torch.lt,
    "GreaterOrEqual": torch.ge,
    "LessOrEqual": torch.le,
    "BitwiseAnd": torch.bitwise_and,
    "BitwiseOr": torch.bitwise_or,
    "BitwiseXor": torch.bitwise_xor,
    "BitwiseNot": torch.bitwise_not,
    "Identity": lambda x: x,
    "Where": torch.where,
    "IsNaN": torch.isnan,
    **{name.capitalize(): getattr(torch, name) for name in (
        "neg", "abs", "sqrt", "exp", "log", "reciprocal", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh",
        "asinh", "acosh", "atanh",
    )},
    # torch would give these a gradient of zeros; what is not differentiable must be seen not to be.
    "Sign": lambda x: torch.sign(x.detach()),
    "Floor": lambda x: torch.floor(x.detach()),
    "Ceil": lambda x: torch.ceil(x.detach()),
    "Round": lambda x: torch.round(x.detach()),
    "Sum": lambda *xs: functools.reduce(torch.add, xs),
    "Mean": lambda *xs: functools.reduce(torch.add, xs) / len(xs),
    "Max": lambda *xs: _Extreme.apply(torch.maximum, *xs),
    "Min": lambda *xs: _Extreme.apply(torch.minimum, *xs),
    "Mod": lambda a, b, *, fmod=0: torch.fmod(a, b) if fmod else torch.remainder(a, b),
    "BitShift": lambda x, by, *, direction: _SHIFTS[direction](x, by),
    "IsInf": lambda x, *, detect_negative=1, detect_positive=1: (
        (x == math.inf) & bool(detect_positive) | (x == -math.inf) & bool(detect_negative)
    ),
    # A quantised tensor is a float that holds whole numbers here: it stays differentiable.
    "Cast": lambda x, *, to, saturate=1, round_mode="up": x.to(torch_type(to)),
    "CastLike": lambda x, like, *, saturate=1, round_mode="up": x.to(like.dtype),
    "CumSum": lambda x, axis, *, exclusive=0, reverse=0: _running(torch.cumsum, x, axis, exclusive, reverse, 0.0),
    "CumProd": lambda x, axis, *, exclusive=0, reverse=0: _running(torch.cumprod, x, axis, exclusive, reverse, 1.0),
}  # fmt: skip
enter(_FUNCTIONS)


@operator("Dropout")
def dropout(x: Any, ratio: Any = None, training: Any = None, *, outputs: int, seed: int = 0) -> Any:
    """Nothing, at inference; the mask keeps everything."""
    if training is not None and bool(single(training)) and (ratio is None or float(single(ratio))):
        raise CannotRun("is in training mode")
    return (x, torch.ones_like(x, dtype=torch.bool)) if outputs > 1 else x


# --- reductions -----------------------------------------------------------------------------------


def _product(x: Any, axes: tuple[int, ...]) -> Any:
    for axis in axes:
        x = x.prod(axis, keepdim=True)
    return x


def _farthest(
    pick: Callable[..., Any], of_bools: Callable[..., Any], of_nothing: float
) -> Callable[..., Any]:
    """A maximum or minimum; over no elements, which torch refuses, what ONNX gives."""

    def extreme(x: Any, axes: tuple[int, ...]) -> Any:
        if is_real(x) and not all(x.shape[axis] for axis in axes):
            return x.new_full([1 if axis in axes else size for axis, size in enumerate(x.shape)], of_nothing)
        return (of_bools if x.dtype == torch.bool else pick)(x, axes, keepdim=True) if axes else x

    return extreme


def _total(x: Any, axes: tuple[int, ...]) -> Any:
    return x.sum(axes, keepdim=True) if axes else x


def _norm(x: Any, axes: tuple[int, ...]) -> Any:
    squares = _total(x * x, axes)
    if not is_real(squares):
        return squares.double().sqrt().to(x.dtype)
    zero = squares == 0  # the derivative there is 0, not infinite
    return torch.where(
        zero, torch.zeros_like(squares), torch.where(zero, torch.ones_like(squares), squares).sqrt()
    )


def _logarithm(x: Any, axes: tuple[int, ...]) -> Any:
    total = _total(x, axes)
    return total.log() if is_real(x) else total.double().log().to(x.dtype)


def _log_sum_exp(x: Any, axes: tuple[int, ...]) -> Any:
    if not is_real(x):
        return torch.logsumexp(x.double(), axes, keepdim=True).to(x.dtype)
    return torch.logsumexp(x, axes, keepdim=True) if axes else x


def _average(x: Any, axes: tuple[int, ...]) -> Any:
    if not axes:
        return x
    return x.mean(axes, keepdim=True) if is_real(x) else x.double().mean(axes, keepdim=True).to(x.dtype)


def _reduction(function: Callable[[Any, tuple[int, ...]], Any]) -> Callable[..., Any]:
    """The operator's form around its function of (x, axes)."""

    def reduce(x: Any, axes: Any = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Any:
        given = [] if axes is None else numbers(axes)
        if not given and noop_with_empty_axes:
            return function(x, ())
        along = tuple(sorted({a % x.ndim for a in given})) if given else tuple(range(x.ndim))
        y = function(x, along)
        if x.dtype not in (y.dtype, torch.bool):  # torch widens sums of small integers
            y = y.to(x.dtype)
        return y if keepdims else y.reshape([s for a, s in enumerate(y.shape) if a not in along])

    return reduce


_REDUCTIONS: dict[str, Callable[..., Any]] = {
    "ReduceSum": _total,
    "ReduceMean": _average,
    "ReduceMax": _farthest(torch.amax, torch.any, -math.inf),
    "ReduceMin": _farthest(torch.amin, torch.all, math.inf),
    "ReduceProd": _product,
    "ReduceL1": lambda x, axes: _total(x.abs(), axes),
    "ReduceL2": _norm,
    "ReduceSumSquare": lambda x, axes: _total(x * x, axes),
    "ReduceLogSum": _logarithm,
    "ReduceLogSumExp": _log_sum_exp,
}
enter({name: _reduction(function) for name, function in _REDUCTIONS.items()})


def _place(x: Any, axis: int, keepdims: int, last: int) -> Any:
    if last:
        return x.shape[axis] - 1 - x.flip(axis).argmax(axis, keepdim=bool(keepdims))
    return x.argmax(axis, keepdim=bool(keepdims))


@operator("ArgMax")
def arg_max(x: Any, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Any:
    """Where the largest lies: the first or the last of several."""
    return _place(x.detach(), axis, keepdims, select_last_index)


@operator("ArgMin")
def arg_min(x: Any, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Any:
    """Where the smallest lies."""
    flipped = ~x if not is_real(x) else -x  # ~x is −x − 1, which unsigned and smallest integers have too
    return _place(flipped.detach(), axis, keepdims, select_last_index)


@operator("TopK")
def top_k(x: Any, k: Any, *, axis: int = -1, largest: int = 1, sorted: int = 1) -> Any:
    """The k largest (or smallest) and where they lay; ties in their order."""
    order = torch.argsort(x.detach(), dim=axis, descending=bool(largest), stable=True)
    index = order.narrow(axis, 0, int(single(k)))
    return torch.gather(x, axis, index), index
