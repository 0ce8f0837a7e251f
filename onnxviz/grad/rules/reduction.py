"""Gradient rules of reductions and of the soft maximum family."""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxviz.grad.backward import NoRule
from onnxviz.grad.layout import spread
from onnxviz.grad.table import enter, vjp
from onnxviz.graph.tape import array, dims


def _wide(op: Any, value: Any, x: Any, axes: Any, keepdims: int, noop: int) -> Any:
    """A reduced value with the reduced axes put back as length 1, so that it broadcasts against x."""
    if keepdims or _is_noop(axes, noop):
        return value
    along = _axes(x, axes)
    if (
        along is None and axes is None
    ):  # everything was reduced, the rank unknown: a scalar broadcasts by itself
        return value
    return op.Unsqueeze(value, axes if along is None else list(along))


def _axes(x: Any, axes: Any) -> tuple[int, ...] | None:
    """The reduced axes, where they are known at build time."""
    known = dims(x)
    found = array(axes)
    if axes is None or (found is not None and found.size == 0):
        return None if known is None else tuple(range(len(known)))
    if found is None:
        return None
    # Unsqueeze counts negative axes from the end of its output, which has x's rank: as they are.
    return tuple(int(a) for a in found)


def _is_noop(axes: Any, noop: int) -> bool:
    found = array(axes)
    return bool(noop) and (axes is None or (found is not None and found.size == 0))


def _count(op: Any, x: Any, y: Any, axes: Any, like: Any) -> Any:
    """How many elements were put together into one: a float where known, otherwise a scalar of the graph."""
    known: Any = dims(x)
    along = _axes(x, axes)
    if known is not None and along is not None:
        lengths = [known[a] for a in along]
        if all(isinstance(d, int) for d in lengths):
            return float(np.prod(lengths))
    return op.Div(op.cast_like(op.size(x), like), op.cast_like(op.size(y), like))


def _widened(rule: Any) -> Any:
    """A rule of x and of g and y with the reduced axes put back."""

    def widened(op, g, y, x, axes=None, *, keepdims, noop_with_empty_axes):
        wide = [_wide(op, value, x, axes, keepdims, noop_with_empty_axes) for value in (g, y)]
        return rule(op, *wide, x)

    return widened


enter({name: _widened(rule) for name, rule in {
    "ReduceSum": lambda op, g, y, x: op.Expand(g, op.shape(x)),
    "ReduceL1": lambda op, g, y, x: op.Mul(g, op.Sign(x)),
    "ReduceL2": lambda op, g, y, x: op.Mul(op.Where(op.Equal(y, 0.0), 0.0, op.Div(g, y)), x),  # 0 where the norm is
    "ReduceSumSquare": lambda op, g, y, x: op.Mul(op.Mul(g, x), 2.0),
    "ReduceLogSum": lambda op, g, y, x: op.Expand(op.Div(g, op.Exp(y)), op.shape(x)),  # 1 over the sum
    "ReduceLogSumExp": lambda op, g, y, x: op.Mul(g, op.Exp(op.Sub(x, y))),  # the soft maximum
}.items()})  # fmt: skip


@vjp("ReduceMean")
def reduce_mean(op, g, y, x, axes=None, *, keepdims, noop_with_empty_axes):
    """An equal share to every element."""
    if _is_noop(axes, noop_with_empty_axes):
        return (g,)
    count = _count(op, x, y, axes, g)
    wide = _wide(op, g, x, axes, keepdims, noop_with_empty_axes)
    if isinstance(count, float):
        return (spread(op, wide, x, 1.0 / (count or 1.0), _axes(x, axes)),)  # (a mean of nothing)
    return (spread(op, op.Div(wide, count), x, 1.0, _axes(x, axes)),)


@vjp("ReduceMax", "ReduceMin")
def reduce_extreme(op, g, y, x, axes=None, *, keepdims, noop_with_empty_axes):
    """To the largest elements, shared evenly where several are equal (as torch.amax)."""
    if _is_noop(axes, noop_with_empty_axes):
        return (g,)
    top = _wide(op, y, x, axes, keepdims, 0)
    g = _wide(op, g, x, axes, keepdims, 0)
    taken = op.cast_like(op.Equal(x, top), g)
    along = list(_axes(x, axes) or ()) or axes
    return (op.Mul(taken, op.Div(g, op.ReduceSum(taken, along, keepdims=1))),)


@vjp("ReduceProd")
def reduce_prod(op, g, y, x, axes=None, *, keepdims, noop_with_empty_axes):
    """The product of the others. Exact with zeros too: the product over the elements that are not 0 goes to a lone
    zero, and nothing where there are several.
    """
    if _is_noop(axes, noop_with_empty_axes):
        return (g,)
    g = _wide(op, g, x, axes, keepdims, 0)
    along = list(_axes(x, axes) or ()) or axes
    zero = op.Equal(x, 0.0)
    filled = op.Where(zero, 1.0, x)
    others = op.ReduceProd(filled, along, keepdims=1)  # the product without the zeros
    zeros = op.ReduceSum(op.cast_like(zero, g), along, keepdims=1)
    none = op.cast_like(op.Equal(zeros, 0.0), g)
    lone = op.cast_like(op.Equal(zeros, 1.0), g)
    share = op.Where(zero, op.Mul(others, lone), op.Mul(op.Div(others, filled), none))
    return (op.Mul(g, share),)


@vjp("Softmax")
def softmax(op, g, y, x, *, axis):
    """y(g − Σgy)."""
    weighted = op.Mul(g, y)
    return op.Sub(weighted, op.Mul(y, op.ReduceSum(weighted, [axis], keepdims=1)))


@vjp("LogSoftmax")
def log_softmax(op, g, y, x, *, axis):
    """g − softmax·Σg."""
    return op.Sub(g, op.Mul(op.Exp(y), op.ReduceSum(g, [axis], keepdims=1)))


@vjp("LpNormalization")
def lp_normalization(op, g, y, x, *, axis, p):
    """x/n with n the norm: (g − y·Σ(g·dn))/n, where dn = y for p = 2 and sign x for p = 1; 0 where n is 0."""
    if p == 2:
        norm, slope = op.ReduceL2(x, [axis], keepdims=1), y
    elif p == 1:
        norm, slope = op.ReduceL1(x, [axis], keepdims=1), op.Sign(x)
    else:
        raise NoRule(f"has p={p}")
    along = op.ReduceSum(op.Mul(g, y), [axis], keepdims=1)
    return (op.Where(op.Equal(norm, 0.0), 0.0, op.Div(op.Sub(g, op.Mul(slope, along)), norm)),)
