"""Gradient rules of gathering, scattering and selecting. Adding scatters, since an element may be read twice."""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxviz.grad.backward import NoRule, lengths
from onnxviz.grad.rules.movement import pad_or_crop, zeros_like
from onnxviz.grad.table import vjp
from onnxviz.graph.tape import array


@vjp("Gather")
def gather(op, g, y, x, indices, *, axis):
    """Added up where it was read; for one constant index g between zeros."""
    known = lengths(x)
    axis %= len(known)
    index, length = array(indices), known[axis]
    if index is not None and index.size == 1 and isinstance(length, int):
        at = int(index.reshape(-1)[0]) % length
        before, after = [0] * len(known), [0] * len(known)
        before[axis], after[axis] = at, length - 1 - at
        one = list(known)
        one[axis] = 1
        if index.ndim != 1:
            g = (
                op.Unsqueeze(g, [axis])
                if index.ndim == 0
                else op.Squeeze(g, list(range(axis + 1, axis + index.ndim)))
            )
        return (pad_or_crop(op, g, before, after),)
    # As (before, read, after) against (before, length, after): one scatter along the middle axis.
    lead = op.ReduceProd(op.shape(x, 0, axis), keepdims=1) if axis else op.const(np.asarray([1], np.int64))
    rest = op.ReduceProd(op.shape(x, axis + 1), keepdims=1) if axis + 1 < len(known) else [1]
    count = op.Reshape(op.size(indices), [1])
    shape = op.Concat(lead, count, rest, axis=0)
    where = op.Expand(op.Reshape(indices, [1, -1, 1]), shape)
    zeros = op.Expand(op.cast_like(0.0, g), op.Concat(lead, op.shape(x, axis, axis + 1), rest, axis=0))
    out = op.ScatterElements(zeros, where, op.Reshape(g, shape), axis=1, reduction="add")
    return (op.Reshape(out, op.shape(x)),)


@vjp("GatherElements")
def gather_elements(op, g, y, x, indices, *, axis):
    """Added up where it was read."""
    return (op.ScatterElements(zeros_like(op, x, g), indices, g, axis=axis, reduction="add"),)


@vjp("GatherND")
def gather_nd(op, g, y, x, indices, *, batch_dims):
    """The same GatherND of the flat indices tells where each element was read."""
    index = op.Range(op.const(np.int64(0)), op.size(x), op.const(np.int64(1)))
    index = op.Reshape(index, op.shape(x))
    where = op.Reshape(op.GatherND(index, indices, batch_dims=batch_dims), [-1])
    zeros = op.Reshape(zeros_like(op, x, g), [-1])
    flat = op.ScatterElements(zeros, where, op.Reshape(g, [-1]), axis=0, reduction="add")
    return (op.Reshape(flat, op.shape(x)),)


@vjp("ScatterElements")
def scatter_elements(op, g, y, x, indices, updates, *, axis, reduction):
    """Updates read g where they were written; x has g elsewhere (everywhere when they were added)."""

    def read(value: Any) -> Any:
        return op.GatherElements(value, indices, axis=axis)

    def write(value: Any, new: Any, how: str) -> Any:
        return op.ScatterElements(value, indices, new, axis=axis, reduction=how)

    return _scattered(op, g, y, x, updates, reduction, read, write)


@vjp("ScatterND")
def scatter_nd(op, g, y, x, indices, updates, *, reduction):
    """As ScatterElements, with n-dimensional indices."""

    def read(value: Any) -> Any:
        return op.GatherND(value, indices)

    def write(value: Any, new: Any, how: str) -> Any:
        return op.ScatterND(value, indices, new, reduction=how)

    return _scattered(op, g, y, x, updates, reduction, read, write)


def _scattered(op: Any, g: Any, y: Any, x: Any, updates: Any, reduction: str, read: Any, write: Any) -> Any:
    if reduction == "add":
        return lambda: g, None, lambda: read(g)
    if reduction == "none":
        return lambda: write(g, zeros_like(op, updates, g), "none"), None, lambda: read(g)
    if reduction == "mul":

        def to_updates() -> Any:
            raise NoRule("multiplies with updates that depend on the wanted input")

        return lambda: write(g, updates, "mul"), None, to_updates

    def shares() -> tuple[Any, Any, Any]:
        """Who was taken, among x and the updates, and g over how many were (ties share evenly)."""
        kept, won = op.cast_like(op.Equal(x, y), g), op.cast_like(op.Equal(updates, read(y)), g)
        return kept, won, op.Div(g, op.Max(write(kept, won, "add"), 1.0))

    def to_x() -> Any:
        kept, _, share = shares()
        return op.Mul(kept, share)

    def to_winners() -> Any:
        _, won, share = shares()
        return op.Mul(won, read(share))

    return to_x, None, to_winners


@vjp("TopK", every=True)
def top_k(op, gs, ys, x, k, *, axis, largest, sorted):
    """Back to where the values were taken."""
    return (op.ScatterElements(zeros_like(op, x, gs[0]), ys[1], gs[0], axis=axis),)


@vjp("Compress")
def compress(op, g, y, x, condition, *, axis=None):
    """The same Compress of the flat indices tells where each element was read."""
    index = op.Range(op.const(np.int64(0)), op.size(x), op.const(np.int64(1)))
    where = op.Reshape(op.Compress(op.Reshape(index, op.shape(x)), condition, axis=axis), [-1])
    zeros = op.Reshape(zeros_like(op, x, g), [-1])
    flat = op.ScatterElements(zeros, where, op.Reshape(g, [-1]), axis=0)
    return (op.Reshape(flat, op.shape(x)),)
