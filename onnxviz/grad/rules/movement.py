"""Gradient rules of what only moves elements: joining, cutting, reordering, repeating, padding, gathering."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from onnxviz.grad.backward import NoRule, lengths, rank_of, unbroadcast
from onnxviz.grad.forms import step
from onnxviz.grad.layout import in_parts
from onnxviz.grad.table import enter, vjp
from onnxviz.graph.operators import computes
from onnxviz.graph.tape import array, dims


@vjp("Concat")
def concat(op, g, y, *xs, axis):
    """Cut g back into the joined pieces.

    Where a convolution's adjoint made g, that makes the pieces itself. Else, where all of these are rectified, one mask
    before the cut is cheaper than one for each piece, which are out of ONNX Runtime's blocked layout.
    """
    if len(xs) == 1:
        return (g,)
    if (parts := in_parts(op, g, xs, axis)) is not None:
        return parts
    lengths = op.vector([op.extent(x, axis) for x in xs])

    def cut(value: Any) -> Any:
        return op.Split(value, lengths, axis=axis, _outputs=len(xs))

    pieces = cut(g)
    if all(x.producer() is not None and computes(x.producer().op_type) == "relu" for x in xs):
        masked = functools.cache(lambda: cut(op.Mul(g, step(op, y))))
        for i, piece in enumerate(pieces):
            op.masked[piece] = lambda i=i: masked()[i]
    return pieces


@vjp("Split", every=True)
def split(op, gs, ys, x, sizes=None, *, axis, num_outputs=None):
    """Join the cotangents again; a part that nobody used counts as zeros."""
    parts = [g if g is not None else zeros_like(op, y, _first(gs)) for g, y in zip(gs, ys, strict=True)]
    return (op.Concat(*parts, axis=axis),)


def _first(gs: Any) -> Any:
    return next(g for g in gs if g is not None)


def zeros_like(op: Any, value: Any, g: Any) -> Any:
    """Zeros of value's shape, in g's type."""
    return op.Expand(op.cast_like(0.0, g), op.shape(value))


def put_back(op: Any, g: Any, x: Any, read: Callable[[Any], Any], *, again: bool = True) -> Any:
    """g where its elements were read from x, zeros elsewhere: the same reading of x's flat indices tells.

    again   whether an element may have been read more than once
    """
    where = op.Reshape(read(op.Reshape(op.arange(op.size(x)), op.shape(x))), [-1])
    zeros = op.Reshape(zeros_like(op, x, g), [-1])
    flat = op.ScatterElements(zeros, where, op.Reshape(g, [-1]), axis=0, reduction="add" if again else None)
    return op.Reshape(flat, op.shape(x), allowzero=1)


@vjp("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def reshape(op, g, y, x, how=None, *, allowzero=0, axis=1):
    """Back to the shape it had."""
    known = dims(x)
    if known is not None and sum(not isinstance(d, int) for d in known) == 1 and 0 not in known:
        # One unknown length: -1 stands for it, and no Shape is needed at run time.
        return (op.Reshape(g, [d if isinstance(d, int) else -1 for d in known]),)
    return (op.Reshape(g, op.shape(x), allowzero=1),)


@vjp("Transpose")
def transpose(op, g, y, x, *, perm=None):
    """The inverse permutation (none given: the axes are reversed, which is its own inverse)."""
    return (op.Transpose(g, perm=None if perm is None else [int(i) for i in np.argsort(perm)]),)


@vjp("Tile")
def tile(op, g, y, x, repeats):
    """Sum over the copies: each axis as (copies, length), the copies summed away."""
    rank = rank_of(x)
    times = array(repeats)
    pairs = []
    for axis in range(rank):
        copies = int(times[axis]) if times is not None else op.Slice(repeats, [axis], [axis + 1])
        pairs += [copies, op.extent(x, axis)]
    apart = op.Reshape(g, op.vector(pairs), allowzero=1)
    return op.ReduceSum(apart, list(range(0, 2 * rank, 2)), keepdims=0)


@vjp("Slice")
def slice_(op, g, y, x, starts, ends, axes=None, steps=None):
    """Zeros around g where the slice is plain; otherwise g is put where a slice of the indices tells."""
    first, last, along, stride = (array(v) for v in (starts, ends, axes, steps))
    known: Any = dims(x)
    plain = (
        first is not None and last is not None and known is not None
        and (axes is None or along is not None) and (steps is None or (stride is not None and (stride == 1).all()))
    )  # fmt: skip
    if plain:
        cut = [int(a) % len(known) for a in (range(len(first)) if along is None else along)]  # type: ignore[arg-type]
        if all(isinstance(known[a], int) for a in cut):
            before, after = [0] * len(known), [0] * len(known)
            for a, lo, hi in zip(cut, first, last, strict=True):  # type: ignore[arg-type]
                begin, end, _ = slice(int(lo), int(hi)).indices(known[a])
                before[a], after[a] = begin, known[a] - max(begin, end)
            return (pad_or_crop(op, g, before, after),)
    return (put_back(op, g, x, lambda index: op.Slice(index, starts, ends, axes, steps), again=False),)


@vjp("Pad")
def pad(op, g, y, x, pads, value=None, axes=None, *, mode):
    """constant: cut the rim off. Otherwise the rim's cotangents go to the elements that were copied there."""
    if mode == "constant":
        rank = rank_of(x)
        amounts: Any = array(pads)
        along: Any = list(range(rank)) if axes is None else array(axes)
        if along is None:
            raise NoRule("has axes that are no constant")
        along = [int(a) % rank for a in along]
        if amounts is not None:
            amounts = [int(p) for p in amounts]
            rim = [(a, amounts[i], amounts[i + len(along)]) for i, a in enumerate(along)]
            before, after = [0] * rank, [0] * rank
            for a, b, e in rim:
                before[a], after[a] = -b, -e
            inner = pad_or_crop(op, g, before, after)
        else:
            inner = op.Pad(g, op.Neg(pads), 0.0, axes)
        if value is None:
            return (inner,)

        def to_value() -> Any:  # all that did not come from x
            return op.Reshape(
                op.Sub(op.ReduceSum(g, keepdims=0), op.ReduceSum(inner, keepdims=0)), op.shape(value)
            )

        return inner, None, to_value
    return (put_back(op, g, x, lambda index: op.Pad(index, pads, None, axes, mode=mode)),)


def pad_or_crop(op: Any, g: Any, before: Any, after: Any) -> Any:
    """Zeros before and after each axis; negative amounts cut that much off."""
    cut = [a for a, (b, e) in enumerate(zip(before, after, strict=True)) if b < 0 or e < 0]
    if cut:
        starts = [max(-before[a], 0) for a in cut]
        ends = [after[a] if after[a] < 0 else 2**62 for a in cut]
        g = op.Slice(g, starts, ends, cut)
    if max(*before, *after) <= 0:
        return g
    return op.Pad(g, [max(p, 0) for p in (*before, *after)], 0.0)


@vjp("DepthToSpace")
def depth_to_space(op, g, y, x, *, blocksize, mode):
    """SpaceToDepth; in CRD mode the channels are then reordered."""
    back = op.SpaceToDepth(g, blocksize=blocksize)
    if mode == "DCR":
        return (back,)
    # SpaceToDepth gives channels as (b², C'); CRD has them as (C', b²).
    area = blocksize * blocksize
    return (_swap_channels(op, back, area, x),)


def _swap_channels(op: Any, value: Any, outer: int, like: Any) -> Any:
    n, _, h, w = (op.extent(like, a) for a in range(4))
    parts = op.Reshape(value, op.vector([n, outer, -1, h, w]))
    return op.Reshape(op.Transpose(parts, perm=[0, 2, 1, 3, 4]), op.shape(like))


enter({
    "Expand": lambda op, g, y, x, shape: unbroadcast(op, g, x, y),  # sum over the axes that were widened
    "SpaceToDepth": lambda op, g, y, x, *, blocksize, mode="DCR": op.DepthToSpace(g, blocksize=blocksize, mode=mode),
    "Trilu": lambda op, g, y, x, k=None, *, upper: op.Trilu(g, k, upper=upper),  # the same triangle of g
    # Reversed again.
    "ReverseSequence": lambda op, g, y, x, lengths, *, batch_axis, time_axis: op.ReverseSequence(
        g, lengths, batch_axis=batch_axis, time_axis=time_axis),
    # Added up where it was read; of an axis or a mask every element is read once.
    "GatherElements": lambda op, g, y, x, indices, *, axis: op.ScatterElements(
        zeros_like(op, x, g), indices, g, axis=axis, reduction="add"),
    "GatherND": lambda op, g, y, x, indices, *, batch_dims: put_back(
        op, g, x, lambda index: op.GatherND(index, indices, batch_dims=batch_dims)),
    "Compress": lambda op, g, y, x, condition, *, axis=None: put_back(
        op, g, x, lambda index: op.Compress(index, condition, axis=axis), again=False),
})  # fmt: skip


@vjp("CenterCropPad")
def center_crop_pad(op, g, y, x, shape, *, axes=None):
    """Its own kind back to x's lengths: what was cropped becomes zero, what was padded is cut.

    Only where the crop and the pad of an axis put their odd element on the same side is that exact; otherwise refused.
    """
    rank = rank_of(x)
    along = [int(a) % rank for a in axes] if axes is not None else list(range(rank))
    known: Any = dims(x)
    wanted = dims(y)
    before, after = [0] * rank, [0] * rank
    for a in along:
        have, want = known[a], None if wanted is None else wanted[a]
        if not isinstance(have, int) or not isinstance(want, int):
            raise NoRule("crops or pads an axis of unknown length")
        if have >= want:  # cropped from floor((have - want) / 2) on
            before[a] = (have - want) // 2
            after[a] = have - want - before[a]
        else:  # padded by floor((want - have) / 2) before
            before[a] = -((want - have) // 2)
            after[a] = have - want - before[a]
    return (pad_or_crop(op, g, before, after),)


# --- gathering, scattering, selecting: adding scatters, since an element may be read twice --------


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
            more = list(range(axis + 1, axis + index.ndim))
            g = op.Unsqueeze(g, [axis]) if index.ndim == 0 else op.Squeeze(g, more)
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


@vjp("ScatterElements")
def scatter_elements(op, g, y, x, indices, updates, *, axis, reduction):
    """Updates read g where they were written; x has g elsewhere (everywhere when they were added)."""
    read = functools.partial(op.GatherElements, axis=axis)
    return _scattered(
        op, g, y, x, indices, updates, reduction, read, functools.partial(op.ScatterElements, axis=axis)
    )


@vjp("ScatterND")
def scatter_nd(op, g, y, x, indices, updates, *, reduction):
    """As ScatterElements, with n-dimensional indices."""
    return _scattered(op, g, y, x, indices, updates, reduction, op.GatherND, op.ScatterND)


def _scattered(
    op: Any, g: Any, y: Any, x: Any, indices: Any, updates: Any, reduction: str, gather: Any, scatter: Any
) -> Any:
    def read(value: Any) -> Any:
        return gather(value, indices)

    def write(value: Any, new: Any, how: str) -> Any:
        return scatter(value, indices, new, reduction=how)

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
