"""Gradient rules of reductions, of the soft maximum family, and of what is normalised by its mean and variance."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from onnxviz.grad.backward import NoRule, rank_of, unbroadcast
from onnxviz.grad.forms import channel_sums
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


# --- by mean and variance -------------------------------------------------------------------------


def _per_channel(op: Any, value: Any, rank: int) -> Any:
    """(C,) -> (1, C, 1, ...)."""
    return op.Reshape(value, [1, -1, *([1] * (rank - 2))])


@vjp("BatchNormalization")
def batch_normalization(op, g, y, x, scale, bias, mean, var, *, epsilon, momentum, training_mode):
    """At inference an affine map of each channel; a BatchNormalization without shift stays in the blocked layout."""
    rank = rank_of(x)
    others = [a for a in range(rank) if a != 1]
    if training_mode:  # by mean and variance of the batch at hand
        to_unit, unit = _standardised(op, op.Mul(g, _per_channel(op, scale, rank)), x, others, epsilon)
        return to_unit, *_to_affine(op, g, unit, others), None, None

    def to_x():
        # The zeros have the channels' number, which the file may not tell: made from scale itself.
        known = dims(scale)
        if known is not None and isinstance(known[0], int) and scale.dtype is not None:
            zeros: Any = np.zeros(known[0], dtype=scale.dtype.numpy())
        else:
            zeros = op.Mul(scale, 0.0)
        return op.BatchNormalization(g, scale, zeros, zeros, var, epsilon=epsilon)

    def inverse():
        return op.Reciprocal(op.Sqrt(op.Add(var, epsilon)))

    def centred():  # Σ g (x − mean) of each channel
        return op.ReduceSum(op.Mul(g, op.Sub(x, _per_channel(op, mean, rank))), others, keepdims=0)

    def total():
        return op.ReduceSum(g, others, keepdims=0)

    def to_var():
        cube = op.Mul(inverse(), op.Reciprocal(op.Add(var, epsilon)))
        return op.Mul(op.Mul(op.Mul(centred(), scale), cube), -0.5)

    return (
        to_x,
        lambda: op.Mul(centred(), inverse()),
        total,
        lambda: op.Neg(op.Mul(op.Mul(total(), scale), inverse())),
        to_var,
    )


def _to_affine(op: Any, g: Any, unit: Any, others: list[int]) -> tuple[Any, Any]:
    """The cotangents of scale and bias: over all axes but the channels'."""
    return (
        lambda: op.ReduceSum(op.Mul(g, unit), others, keepdims=0),
        lambda: op.ReduceSum(g, others, keepdims=0),
    )


def _standardised(op: Any, h: Any, x: Any, axes: list[int], epsilon: float) -> tuple[Any, Any]:
    """The cotangent through (x − mean)/√(var + ε) over these axes, and the standardised x itself.

    h   the cotangent of the standardised x
    """
    unit, inverse = _parts(op, x, axes, epsilon)
    return _through(op, h, unit, inverse, axes), unit


def _parts(op: Any, x: Any, axes: list[int], epsilon: float) -> tuple[Any, Any]:
    """The standardised x, and 1/√(var + ε)."""
    centre = op.Sub(x, op.ReduceMean(x, axes, keepdims=1))
    inverse = op.Reciprocal(op.Sqrt(op.Add(op.ReduceMean(op.Mul(centre, centre), axes, keepdims=1), epsilon)))
    return op.Mul(centre, inverse), inverse


def _through(op: Any, h: Any, unit: Any, inverse: Any, axes: list[int]) -> Any:
    """inverse·(h − mean h − unit·mean(h·unit)): what is left of h when its parts along 1 and unit are gone."""
    along = op.Mul(unit, op.ReduceMean(op.Mul(h, unit), axes, keepdims=1))
    return op.Mul(inverse, op.Sub(op.Sub(h, op.ReduceMean(h, axes, keepdims=1)), along))


@vjp("InstanceNormalization")
def instance_normalization(op, g, y, x, scale, bias, *, epsilon):
    """Each channel of each image standardised over its positions."""
    rank = rank_of(x)
    axes, others = list(range(2, rank)), [0, *range(2, rank)]
    to_x, unit = _standardised(op, op.Mul(g, _per_channel(op, scale, rank)), x, axes, epsilon)
    return to_x, *_to_affine(op, g, unit, others)


@vjp("LayerNormalization", every=True)
def layer_normalization(op, gs, ys, x, scale, bias=None, *, axis, epsilon, stash_type):
    """Standardised over the axes from `axis` on. The further outputs are the mean, whose slope is 1/n, and r = 1/σ,
    whose slope is −r²·unit/n.

    On ONNX Runtime's CPU provider the operator itself gives the standardised x and 1/σ at once; elsewhere they are
    computed in parts, since OpenVINO refuses an operator with further outputs.
    """
    rank = rank_of(x)
    first = axis % rank
    axes = list(range(first, rank))
    if op.cpu:
        ones, how = (
            op.Expand(op.cast_like(1.0, x), op.shape(x, first)),
            {"epsilon": epsilon, "stash_type": stash_type},
        )
        unit, _, inverse = op.LayerNormalization(x, ones, axis=axis, _outputs=3, **how)
    else:
        unit, inverse = _parts(op, x, axes, epsilon)
    g, *further = (*gs, None, None)[:3]

    def to_x() -> Any:
        found = [] if g is None else [_through(op, op.Mul(g, scale), unit, inverse, axes)]
        if any(h is not None for h in further):
            share = op.Reciprocal(op.cast_like(op.ReduceProd(op.shape(x, first), keepdims=0), x))
            of_mean, of_inverse = (None if h is None else op.Mul(op.cast_like(h, x), share) for h in further)
            if of_mean is not None:
                found.append(op.Expand(of_mean, op.shape(x)))
            if of_inverse is not None:
                found.append(op.Neg(op.Mul(op.Mul(of_inverse, op.Mul(inverse, inverse)), unit)))
        return functools.reduce(op.Add, found)

    return (
        to_x,
        lambda: None if g is None else unbroadcast(op, op.Mul(g, unit), scale, x),
        lambda: None if g is None else unbroadcast(op, g, bias, x),
    )


@vjp("RMSNormalization")
def rms_normalization(op, g, y, x, scale, *, axis, epsilon, stash_type):
    """x·r with r = 1/√(mean x² + ε): r·(h − x·r²·mean(h·x))."""
    rank = rank_of(x)
    axes = list(range(axis % rank, rank))
    h = op.Mul(g, scale)
    inverse = op.Reciprocal(op.Sqrt(op.Add(op.ReduceMean(op.Mul(x, x), axes, keepdims=1), epsilon)))
    unit = op.Mul(x, inverse)
    along = op.Mul(unit, op.ReduceMean(op.Mul(h, unit), axes, keepdims=1))
    return lambda: op.Mul(inverse, op.Sub(h, along)), lambda: unbroadcast(op, op.Mul(g, unit), scale, x)


@vjp("GroupNormalization")
def group_normalization(op, g, y, x, scale, bias, *, epsilon, num_groups, stash_type=1):
    """Standardised over each group of channels; scale and bias one a channel (lift brings the older form here)."""
    known = dims(x)
    if known is None or not isinstance(known[1], int):
        raise NoRule("has an input of unknown channels")
    rank, channels = len(known), known[1]
    split = op.Concat(op.shape(x, 0, 1), [num_groups, channels // num_groups], op.shape(x, 2), axis=0)
    grouped = op.Reshape(x, split)
    gain = op.Reshape(scale, [1, num_groups, channels // num_groups, *([1] * (rank - 2))])
    h = op.Mul(op.Reshape(g, split), gain)
    axes = list(range(2, rank + 1))
    to_x, unit = _standardised(op, h, grouped, axes, epsilon)
    others = [0, *range(3, rank + 1)]

    def summed(value: Any) -> Any:
        return op.Reshape(op.ReduceSum(value, others, keepdims=0), [-1])

    return (
        lambda: op.Reshape(to_x, op.shape(x)),
        lambda: summed(op.Mul(op.Reshape(g, split), unit)),
        lambda: summed(op.Reshape(g, split)),
    )


@vjp("MeanVarianceNormalization")
def mean_variance_normalization(op, g, y, x, *, axes):
    """(x − mean)/(σ + 1e-9), as the standard defines it."""
    rank = None if x.shape is None else len(x.shape)  # axes that x has not are none, as in ONNX Runtime
    axes = [axis for axis in axes if rank is None or -rank <= axis < rank]
    if not axes:  # each number is its own mean: 0, whatever x is
        return (None,)
    mean = op.ReduceMean(x, axes, keepdims=1)
    centre = op.Sub(x, mean)
    # The standard's own form of the variance, E[x²] − E[x]².
    var = op.Sub(op.ReduceMean(op.Mul(x, x), axes, keepdims=1), op.Mul(mean, mean))
    sigma = op.Sqrt(var)
    below = op.Add(sigma, 1e-9)
    h = op.Sub(g, op.ReduceMean(g, axes, keepdims=1))
    pull = op.Div(op.ReduceMean(op.Mul(g, centre), axes, keepdims=1), op.Mul(sigma, below))
    return (op.Div(op.Sub(h, op.Mul(centre, pull)), below),)


@vjp("LRN")
def lrn(op, g, y, x, *, alpha, beta, bias, size):
    """y = x·p, p = d^−β, d = bias + α/n·Σx² over n neighbouring channels: g·p − 2αβ/n·x·Σ(g·x·p/d), the window turned.

    The forward node gives way to x·p: ONNX Runtime's own kernel takes most of GoogLeNet's time, and p is here anyway.
    """
    before, after = (size - 1) // 2, size // 2
    d = channel_sums(op, op.Mul(x, x), x, before, after, alpha / size, bias)
    p = _power(op, d, beta)
    op.replace(y, op.Mul(x, p))
    h = op.Mul(g, p)
    spread = channel_sums(op, op.Div(op.Mul(h, x), d), x, after, before, -2.0 * alpha * beta / size, 0.0)
    return (op.Add(h, op.Mul(x, spread)),)


def _power(op: Any, d: Any, beta: float) -> Any:
    """d^−β; by square roots for the usual exponents, five times as fast as Pow."""
    root = op.Sqrt(d) if beta in (0.5, 0.75) else None
    if beta == 0.5:
        return op.Reciprocal(root)
    return op.Reciprocal(op.Mul(root, op.Sqrt(root))) if beta == 0.75 else op.Pow(d, -beta)
