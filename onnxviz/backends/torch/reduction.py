"""Reductions, and picking the largest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from onnxviz.backends.torch.table import operator
from onnxviz.backends.torch.tensors import is_real, numbers, single


def _product(x: Any, axes: tuple[int, ...]) -> Any:
    for axis in axes:
        x = x.prod(axis, keepdim=True)
    return x


def _of_nothing(x: Any, axes: tuple[int, ...], value: Any) -> Any:
    """What ONNX gives for a maximum or minimum over no elements, which torch refuses; None where there are some."""
    if all(x.shape[axis] for axis in axes) or not is_real(x):
        return None
    return x.new_full([1 if axis in axes else size for axis, size in enumerate(x.shape)], value)


def _largest(x: Any, axes: tuple[int, ...]) -> Any:
    if (empty := _of_nothing(x, axes, float("-inf"))) is not None:
        return empty
    if x.dtype == torch.bool:
        return x.any(axes, keepdim=True) if axes else x
    return x.amax(axes, keepdim=True) if axes else x


def _smallest(x: Any, axes: tuple[int, ...]) -> Any:
    if (empty := _of_nothing(x, axes, float("inf"))) is not None:
        return empty
    if x.dtype == torch.bool:
        return ~(~x).any(axes, keepdim=True) if axes else x
    return x.amin(axes, keepdim=True) if axes else x


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
    """The operator's form around its function of (x, axes): axes were an attribute before opset 13 or 18."""

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


for _name, _function in {
    "ReduceSum": _total,
    "ReduceMean": _average,
    "ReduceMax": _largest,
    "ReduceMin": _smallest,
    "ReduceProd": _product,
    "ReduceL1": lambda x, axes: _total(x.abs(), axes),
    "ReduceL2": _norm,
    "ReduceSumSquare": lambda x, axes: _total(x * x, axes),
    "ReduceLogSum": _logarithm,
    "ReduceLogSumExp": _log_sum_exp,
}.items():
    operator(_name)(_reduction(_function))


def _place(x: Any, axis: int, keepdims: int, last: int) -> Any:
    if last:
        found = x.shape[axis] - 1 - x.flip(axis).argmax(axis, keepdim=bool(keepdims))
    else:
        found = x.argmax(axis, keepdim=bool(keepdims))
    return found


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
