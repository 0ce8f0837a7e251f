"""Gradient rule of Einsum: ellipses, diagonals and lengths of 1 that broadcast included."""

from __future__ import annotations

import string
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxviz.grad.backward import NoRule
from onnxviz.grad.table import vjp
from onnxviz.graph.tape import dims


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
        side = op.shape(x, k, k + 1)
        square = op.ConstantOfShape(
            op.Concat(side, side, axis=0), value=ir.tensor(np.zeros(1, dtype=out.dtype.numpy()))
        )
        operands.append(op.EyeLike(square))
        named.append(c + fresh)
        target += fresh
    return op.Einsum(*operands, equation=f"{','.join(named)}->{target}")
