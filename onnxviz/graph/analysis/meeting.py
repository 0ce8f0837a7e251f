"""Several inputs that meet in one value: what a unit of the result sees of each (see `reach.py`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from onnxviz.graph.analysis.reach import Atom, Axis, Reach, X, Y, mix, plain, purify, settled
from onnxviz.graph.analysis.span import Span, union


def merge(one: Reach, other: Reach, shape: Sequence[int]) -> Reach:
    """Units of the broadcast result (of this shape) that read a unit of each: Add, Mul, Concat over channels.

    What comes from a side that does not tell the places of a direction apart is context (see the module's
    text): it widens `full` only.
    """
    one, other = _aligned(one, shape), _aligned(other, shape)
    for d in (Y, X):
        one, other = _agree(one, other, d)
    axes = tuple(_wider(a, b) for a, b in zip(one.axes, other.axes, strict=True))
    full, local, lengths = [], [], []
    for d in (Y, X):
        length = max(one.lengths[d], other.lengths[d])
        full.append(_either(one.full[d], other.full[d], length))
        mine, theirs = _atoms(one, d), _atoms(other, d)
        if mine == theirs:
            local.append(_either(one.local[d], other.local[d], length))
        else:
            local.append(one.local[d] if len(mine) >= len(theirs) else other.local[d])
        lengths.append(one.lengths[d] if mine else other.lengths[d] if theirs else 1)
    return Reach(axes, (lengths[0], lengths[1]), (full[0], full[1]), (local[0], local[1]))


def stretch(reach: Reach, shape: Sequence[int]) -> Reach:
    """Broadcast to this shape, as by a constant: stretched axes have no place in the image."""
    aligned = _aligned(reach, shape)
    axes = [
        plain(size) if size != 1 and math.prod(atom.size for atom in axis) == 1 else axis
        for axis, size in zip(aligned.axes, shape, strict=True)
    ]
    return replace(aligned, axes=tuple(axes))


def context(reach: Reach, other: Reach) -> Reach:
    """`reach`, reading all of `other` besides."""
    everything = mix(other, range(len(other.axes)))
    full = [_either(reach.full[d], everything.full[d], reach.lengths[d]) for d in (Y, X)]
    return replace(reach, full=(full[0], full[1]))


def _either(one: Span, other: Span, length: int) -> Span:
    return one if one.same(other) else union(one, other, length)


def _atoms(reach: Reach, direction: int) -> list[tuple[int, Atom]]:
    return [(i, atom) for i, axis in enumerate(reach.axes) for atom in axis if atom.direction == direction]


def _aligned(reach: Reach, shape: Sequence[int]) -> Reach:
    """Leading axes of size 1 as broadcasting adds them; a single place that is stretched is none."""
    axes = [()] * (len(shape) - len(reach.axes)) + list(reach.axes)
    for i, (axis, size) in enumerate(zip(axes, shape, strict=True)):
        if size != 1 and math.prod(atom.size for atom in axis) == 1:
            axes[i] = ()
    return settled(replace(reach, axes=tuple(axes)))


def _agree(one: Reach, other: Reach, d: int) -> tuple[Reach, Reach]:
    """Both with the places of this direction on the same axes, or one of them without places."""
    mine, theirs = _atoms(one, d), _atoms(other, d)
    if not mine or not theirs:
        return one, other
    smaller, larger = sorted((set(mine), set(theirs)), key=len)
    if one.lengths[d] == other.lengths[d]:
        if not smaller <= larger:  # the rows and columns of an attention: the first side's places are kept
            other = mix(other, sorted({axis for axis, atom in theirs if (axis, atom) not in mine}))
        if set(_atoms(other, d)) <= set(mine) or smaller <= larger:
            return one, other
    one_pure, other_pure = _pure_axis(one, d), _pure_axis(other, d)
    if one_pure is not None and other_pure is not None:  # other coordinates for the same places
        (a, one_new), (b, other_new) = one_pure, other_pure
        if a == b and one_new.lengths[d] == other_new.lengths[d]:
            return one_new, other_new
    return one, mix(other, sorted({axis for axis, _ in theirs}))


def _pure_axis(reach: Reach, d: int) -> tuple[int, Reach] | None:
    axes = {axis for axis, _ in _atoms(reach, d)}
    if len(axes) != 1:
        return None
    axis = axes.pop()
    pure = purify(reach, axis)
    return None if pure is None else (axis, pure)


def _wider(one: Axis, other: Axis) -> Axis:
    """The axis that tells more places apart, else the longer one."""
    rank = [
        (sum(a.direction is not None for a in axis), math.prod(a.size for a in axis)) for axis in (one, other)
    ]
    return one if rank[0] >= rank[1] else other
