"""Gradient rules of layers: convolutions and pools (1-D to 3-D, any window and groups), and matrix products."""

from __future__ import annotations

import string
from typing import Any

import numpy as np

from onnxviz.grad.backward import NoRule, rank_of, unbroadcast
from onnxviz.grad.forms import box_to_input, conv_to_input, conv_to_weight, identity, shared, step, times
from onnxviz.grad.layout import spread
from onnxviz.grad.table import vjp
from onnxviz.grad.windows import Window
from onnxviz.graph.tape import array, dims

# --- convolutions ---------------------------------------------------------------------------------


@vjp("Conv")
def conv(
    op, g, y, x, w, b=None, *, auto_pad, dilations=None, group, kernel_shape=None, pads=None, strides=None
):
    """Each output position hands its cotangent back along the kernel (form: see forms.py)."""
    win = Window.of(_kernel(w, kernel_shape), strides, pads, dilations, auto_pad, dims(x))
    return (
        lambda: conv_to_input(op, g, w, x, y, group, win),
        lambda: conv_to_weight(op, g, x, w, group, win),
        lambda: op.ReduceSum(g, [0, *win.axes], keepdims=0),
    )


@vjp("ConvTranspose")
def conv_transpose(
    op, g, y, x, w, b=None, *,
    auto_pad, dilations=None, group, kernel_shape=None, output_padding=None, output_shape=None, pads=None, strides=None,
):  # fmt: skip
    """It is the adjoint of a Conv with the same weights; so that Conv is its adjoint."""
    if output_shape is not None:
        raise NoRule("has an output_shape that could not be made explicit pads")
    win = Window.of(_kernel(w, kernel_shape), strides, pads, dilations, auto_pad)
    if min(win.pads) < 0:
        raise NoRule("has negative pads")

    def to_input():
        back, kernel = (op.Neg(g), op.Neg(w)) if shared(op, w) and group == 1 else (g, w)
        out = op.Conv(
            back, kernel, group=group, strides=list(win.strides), dilations=list(win.dilations), pads=win.pads
        )
        # An output padding of a stride or more (dilation allows it) makes windows that no input owns.
        wide = [
            a for a, p, s in zip(win.axes, output_padding or win.begin, win.strides, strict=True) if p >= s
        ]
        if output_padding is None or not wide:
            return out
        return op.Slice(out, [0] * len(wide), op.vector([op.extent(x, a) for a in wide]), wide)

    return (
        to_input,
        lambda: conv_to_weight(op, x, g, w, group, win),
        lambda: op.ReduceSum(g, [0, *win.axes], keepdims=0),
    )


def _kernel(w, kernel_shape):
    known = dims(w)
    if known is not None and all(isinstance(d, int) for d in known[2:]):
        return known[2:]
    if kernel_shape is None:
        raise NoRule("has weights of unknown shape")
    return kernel_shape


# --- Gemm and MatMul ------------------------------------------------------------------------------


@vjp("Gemm")
def gemm(op, g, y, a, b, c=None, *, alpha, beta, transA, transB):
    """alpha·A'B' + beta·C, each factor against the other's transpose."""
    scaled = op.Mul(g, alpha) if alpha != 1.0 else g

    def to_a():
        other, sign = (op.Neg(b), -1.0) if shared(op, b) else (b, None)
        if transA:
            return op.Gemm(other, scaled, transA=transB, transB=1, alpha=sign)
        return op.Gemm(scaled, other, transB=1 - transB, alpha=sign)

    def to_b():
        other, sign = (op.Neg(a), -1.0) if array(a) is not None and shared(op, a) else (a, None)
        if transB:
            return op.Gemm(scaled, other, transA=1, transB=transA, alpha=sign)
        return op.Gemm(other, scaled, transA=1 - transA, alpha=sign)

    return to_a, to_b, lambda: unbroadcast(op, op.Mul(g, beta) if beta != 1.0 else g, c, y)


@vjp("MatMul")
def matmul(op, g, y, a, b):
    """g·Bᵀ and Aᵀ·g over the last two axes; vectors are matrices of one row or column; batch axes broadcast."""
    rank_a, rank_b = rank_of(a), rank_of(b)
    full = g
    if rank_b == 1:
        full = op.Unsqueeze(full, [-1])
    if rank_a == 1:
        full = op.Unsqueeze(full, [-2])

    def to_a():
        other = op.Unsqueeze(b, [0]) if rank_b == 1 else _transposed(op, b, rank_b)
        if rank_a == 1:  # the row of every batch element, summed
            rows = op.MatMul(full, other)
            return op.ReduceSum(rows, list(range(max(rank_b, 2) - 1)), keepdims=0)
        return _summed(op, op.MatMul(full, other), a, y, rank_a, rank_b)

    def to_b():
        other = op.Unsqueeze(a, [1]) if rank_a == 1 else _transposed(op, a, rank_a)
        if rank_b == 1:
            columns = op.Squeeze(op.MatMul(other, full), [-1])
            return op.ReduceSum(columns, list(range(rank_a - 2)), keepdims=0) if rank_a > 2 else columns
        return _summed(op, op.MatMul(other, full), b, y, rank_b, rank_a)

    return to_a, to_b


def _transposed(op: Any, value: Any, rank: int) -> Any:
    return op.Transpose(value, perm=[*range(rank - 2), rank - 1, rank - 2])


def _summed(op: Any, g: Any, x: Any, y: Any, rank: int, other: int) -> Any:
    """Sum the batch axes that x was broadcast along."""
    if other <= 2:  # the other factor has no batch axes
        return g
    return unbroadcast(op, g, x, y, keep=2)


# --- Einsum: ellipses, diagonals and lengths of 1 that broadcast included -------------------------


@vjp("Einsum")
def einsum(op, g, y, *xs, equation):
    """Swap the operand's letters with the output's: the einsum of g and the other operands."""
    terms, right = _explicit(equation.replace(" ", ""), xs)
    return tuple(lambda i=i: _operand(op, g, i, xs, terms, right) for i in range(len(xs)))


def _explicit(equation: str, xs: Any) -> tuple[list[str], str]:
    """Each operand's letters and the output's, with letters of their own for what an ellipsis stands for."""
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    if not arrow:  # alphabetical, what occurs once; an ellipsis comes first
        letters = left.replace(",", "").replace(".", "")
        right = ("..." if "..." in left else "") + "".join(
            sorted(c for c in set(letters) if letters.count(c) == 1)
        )
    if "..." not in equation:
        return terms, right
    free = [c for c in string.ascii_letters if c not in equation]
    lengths = []
    for x, term in zip(xs, terms, strict=True):
        known = dims(x)
        if known is None:
            raise NoRule("has an ellipsis and an input of unknown rank")
        lengths.append(len(known) - len(term.replace("...", "")) if "..." in term else 0)
    most = max(lengths)
    named = "".join(free[:most])
    # They align at the right, as NumPy broadcasts.
    terms = [t.replace("...", named[most - n :]) for t, n in zip(terms, lengths, strict=True)]
    return terms, right.replace("...", named)


def _operand(op: Any, g: Any, i: int, xs: Any, terms: list[str], right: str) -> Any:
    term, others = terms[i], [t for j, t in enumerate(terms) if j != i]
    letters = "".join(dict.fromkeys(term))
    # A letter of this operand alone was summed over: its cotangent is constant along it.
    lost = [c for c in letters if c not in right and not any(c in t for t in others)]
    kept = "".join(c for c in letters if c not in lost)
    out = op.Einsum(
        g, *[x for j, x in enumerate(xs) if j != i], equation=f"{','.join([right, *others])}->{kept}"
    )
    sides = op.vector([op.extent(xs[i], term.index(c)) for c in letters]) if letters else None
    if any(_may_broadcast(c, xs, terms) for c in kept):
        # Where this operand's length was 1 the others' are summed; where theirs was, it is repeated (below).
        # Hence each axis as (its length over the shorter, the shorter), the first summed away.
        own = op.vector([op.extent(xs[i], term.index(c)) for c in kept])
        full = op.Shape(out)
        least = op.Min(own, full)
        times = op.Div(full, op.Max(least, [1]))
        pairs = op.Reshape(op.Concat(*(op.Unsqueeze(v, [1]) for v in (times, least)), axis=1), [-1])
        out = op.ReduceSum(op.Reshape(out, pairs, allowzero=1), list(range(0, 2 * len(kept), 2)), keepdims=0)
        out = op.Expand(out, own)
    if lost:
        out = op.Unsqueeze(out, [k for k, c in enumerate(letters) if c in lost])
        out = op.Expand(out, sides)
    return _diagonal(op, out, xs[i], letters, term)


def _may_broadcast(letter: str, xs: Any, terms: list[str]) -> bool:
    """Whether the letter's length may be 1 in one operand and more in another: ONNX broadcasts it then."""
    found = set()
    for x, term in zip(xs, terms, strict=True):
        known = dims(x) or (None,) * len(term)
        found |= {
            known[k] if known[k] is not None else (x.name, k) for k, c in enumerate(term) if c == letter
        }
    return len(found) > 1


def _diagonal(op: Any, out: Any, x: Any, letters: str, term: str) -> Any:
    """A letter that stands twice in a term read a diagonal: back onto the diagonal, 0 beside it."""
    if letters == term:
        return out
    operands, named, target = [out], [letters], ""
    free = [c for c in string.ascii_letters if c not in term]
    for k, c in enumerate(term):
        if c not in term[:k]:
            target += c
            continue
        fresh = free.pop()
        operands.append(identity(op, x, k, out))
        named.append(c + fresh)
        target += fresh
    return op.Einsum(*operands, equation=f"{','.join(named)}->{target}")


# --- pools ----------------------------------------------------------------------------------------


@vjp("MaxPool")
def max_pool(
    op, g, y, x, *, auto_pad, ceil_mode, dilations=None, kernel_shape, pads=None, storage_order, strides=None
):
    """To the first of the largest elements of each window (forms: see maxima.py).

    Where ONNX Runtime's CPU provider has no faster form, its operator gives the flat index of each maximum; overlapping
    windows may share one, hence the adding scatter (MaxUnpool would assign).
    """
    from onnxviz.grad import maxima

    win = Window.of(kernel_shape, strides, pads, dilations, auto_pad, dims(x))

    def route(h: Any, *, positive: bool = True) -> Any:
        if maxima.fits(op, x, y, win):
            return maxima.max_to_input(op, h, y, x, win, positive=positive)
        if not op.cpu:
            return maxima.by_slices(op, h, y, x, win, bool(ceil_mode))
        steps = {"strides": list(win.strides), "pads": win.pads, "dilations": list(win.dilations)}
        _, places = op.MaxPool(x, _outputs=2, kernel_shape=list(win.kernel), ceil_mode=ceil_mode, **steps)
        zeros = op.Expand(op.cast_like(0.0, h), op.Reshape(op.size(x), [1]))
        flat = (op.Reshape(value, [-1]) for value in (places, h))
        return op.Reshape(op.ScatterElements(zeros, *flat, axis=0, reduction="add"), op.shape(x))

    routed = route(g, positive=False)
    # It lies where x = y: a Relu in front may mask the smaller g instead.
    op.masked[routed] = lambda: route(op.Mul(g, step(op, y)))
    return (routed,)


@vjp("AveragePool")
def average_pool(
    op, g, y, x, *,
    auto_pad, ceil_mode, count_include_pad, dilations=None, kernel_shape, pads=None, strides=None,
):  # fmt: skip
    """Each element gets the sum of its windows' cotangents, each over its own count."""
    win = Window.of(kernel_shape, strides, pads, dilations, auto_pad, dims(x))
    counts = _counts(op, x, y, win, bool(count_include_pad), bool(ceil_mode), g)
    share = op.Div(g, counts) if not isinstance(counts, float) else op.Mul(g, 1.0 / counts)
    return (box_to_input(op, share, x, y, win),)


def _counts(op: Any, x: Any, y: Any, win: Window, with_pads: bool, ceil: bool, g: Any) -> Any:
    """How many elements each window averages: a float where all are equal, a scalar, or (1, 1, *out).

    1 for a dilated window whose taps all miss the input: it gives no gradient anyway.
    """
    if not ceil and not any(win.pads):
        return _whole(op, x, win, g)
    if not ceil and with_pads:
        return float(np.prod(win.kernel))
    dtype = g.dtype.numpy()
    n = len(win.kernel)
    known_x, known_y = dims(x), dims(y)
    product: Any = None
    for i, axis in enumerate(win.axes):
        lx, ly = (known_x or (None,) * (n + 2))[axis], (known_y or (None,) * (n + 2))[axis]
        along = [1] * (2 + i) + [-1] + [1] * (n - 1 - i)
        s, d, k, b, e = win.strides[i], win.dilations[i], win.kernel[i], win.begin[i], win.end[i]
        if isinstance(lx, int) and isinstance(ly, int):
            first, last = (-b, lx + e) if with_pads else (0, lx)
            taps = np.arange(ly)[:, None] * s - b + np.arange(k) * d
            counts: Any = ((taps >= first) & (taps < last)).sum(1).clip(1).astype(dtype).reshape(along)
        else:
            counts = op.Reshape(_counts_now(op, x, y, axis, (k, s, d, b, e), with_pads, g), along)
        product = times(op, product, counts)
    if isinstance(product, np.ndarray) and (product == product.flat[0]).all():
        return float(product.flat[0])
    return product


def _whole(op: Any, x: Any, win: Window, g: Any) -> Any:
    """The same for windows that lie within the input: all their elements.

    But where the input is shorter than a window: ONNX Runtime rounds towards 0, so that of a stride above 1 there is
    one all the same, and hangs over.
    """
    known = dims(x) or (None,) * (len(win.kernel) + 2)
    fixed, open_axes = 1.0, []
    for axis, k, s, d in zip(win.axes, win.kernel, win.strides, win.dilations, strict=True):
        length = known[axis]
        if isinstance(length, int):
            fixed *= min(k, -(-length // d))
        elif s == 1 or k == 1:
            fixed *= k
        else:
            open_axes.append((axis, k, d))
    counts: Any = fixed
    for axis, k, d in open_axes:
        length = op.Squeeze(op.shape(x, axis, axis + 1), [0])
        taps = length if d == 1 else op.Div(op.Add(length, d - 1), d)
        counts = op.Mul(op.cast_like(op.Min(taps, op.const(np.int64(k))), g), counts)
    return counts


def _counts_now(op: Any, x: Any, y: Any, axis: int, geometry: Any, with_pads: bool, g: Any) -> Any:
    """The same along one axis of unknown length, at run time: taps between the first and the last position."""
    k, s, d, b, e = geometry
    length = op.shape(x, axis, axis + 1)
    outs = op.Squeeze(op.shape(y, axis, axis + 1), [0])
    starts = op.Sub(op.Mul(op.arange(outs), s), b)
    taps = op.Add(op.Unsqueeze(starts, [1]), (np.arange(k) * d)[None])
    first, last = (-b, op.Add(length, e)) if with_pads else (0, length)
    inside = op.And(op.GreaterOrEqual(taps, first), op.Less(taps, last))
    return op.Max(op.ReduceSum(op.cast_like(inside, g), [1], keepdims=0), 1.0)


@vjp("LpPool")
def lp_pool(op, g, y, x, *, auto_pad, ceil_mode, dilations=None, kernel_shape, p, pads=None, strides=None):
    """y = (Σ|x|^p)^(1/p): the cotangent over y^(p−1), summed over the windows, times |x|^(p−1)·sign x."""
    win = Window.of(kernel_shape, strides, pads, dilations, auto_pad, dims(x))
    return (_powers(op, box_to_input(op, _over_powers(op, g, y, p), x, y, win), x, p),)


@vjp("GlobalLpPool")
def global_lp_pool(op, g, y, x, *, p):
    """As LpPool with one window."""
    return (_powers(op, _over_powers(op, g, y, p), x, p),)


def _over_powers(op: Any, g: Any, y: Any, p: int) -> Any:
    """g / y^(p−1), 0 where y is 0 (there every |x|^(p−1) is 0 too, but for p = 1)."""
    if p == 1:
        return g
    return op.Where(op.Equal(y, 0.0), 0.0, op.Div(g, y if p == 2 else op.Pow(y, float(p - 1))))


def _powers(op: Any, h: Any, x: Any, p: int) -> Any:
    if p == 1:
        return op.Mul(h, op.Sign(x))
    if p == 2:
        return op.Mul(h, x)
    return op.Mul(h, op.Mul(op.Pow(op.Abs(x), float(p - 1)), op.Sign(x)))


@vjp("GlobalAveragePool")
def global_average_pool(op, g, y, x):
    """An equal share to every position."""
    known: Any = dims(x)
    if known is not None and all(isinstance(d, int) for d in known[2:]):
        return (spread(op, g, x, 1.0 / float(np.prod(known[2:]))),)
    return (spread(op, op.Div(g, op.cast_like(op.ReduceProd(op.shape(x, 2), keepdims=0), g)), x, 1.0),)


@vjp("GlobalMaxPool")
def global_max_pool(op, g, y, x):
    """To the first of the largest elements."""
    rank_of(x)  # of an unknown one it is refused
    flat = op.Reshape(x, [0, 0, -1])
    first = op.ArgMax(flat, axis=2, keepdims=1)
    zeros = op.Expand(op.cast_like(0.0, g), op.Shape(flat))
    spread = op.ScatterElements(zeros, first, op.Reshape(g, [0, 0, 1]), axis=2)
    return (op.Reshape(spread, op.shape(x)),)
