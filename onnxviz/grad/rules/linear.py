"""Gradient rules of linear layers: Conv and ConvTranspose (1-D to 3-D, any window and groups), Gemm, MatMul, Einsum."""

from __future__ import annotations

import string
from typing import Any

from onnxviz.grad.backward import NoRule, rank_of, unbroadcast
from onnxviz.grad.forms import conv_to_input, conv_to_weight, identity, shared
from onnxviz.grad.table import vjp
from onnxviz.grad.windows import Window
from onnxviz.graph.tape import array, dims


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
