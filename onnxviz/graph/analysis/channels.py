"""Which axis holds the channels: of the image, by what reads it, and of every value behind it.

A convolution says it for certain (its weights name the number, its rule names the axis); Transpose, Reshape and
Squeeze carry the axis along. Sizes alone do not tell: a strip of 11 channels, 60×1, looks like grey pictures with
the channels last.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir

from onnxviz.graph.analysis.dataflow import constant, dependent
from onnxviz.graph.analysis.twins import View, view
from onnxviz.graph.operators import (
    BY_STATISTICS,
    CONVOLUTIONS,
    MAPS,
    OWN,
    POINTWISE,
    REDUCTIONS,
    RESHAPING,
    computes,
    computing,
    operator,
    operators,
)

# The axes stay where they are, though their sizes may change.
_SAME = POINTWISE | OWN | operators(lambda row: row.keeps)
_REDUCING = REDUCTIONS | operators(lambda row: row.sees == "arg_reduction")
_CUTTING = operators(
    lambda row: row.keeps == "axes" and row.sees in ("concat", "cut", "own", "pad", "split", "tile")
)
_COUNTED = BY_STATISTICS | (CONVOLUTIONS) | computing("instance_norm")
_FAR = 256  # values that are looked at before it is given up


class Channels(NamedTuple):
    """Where an image has its channels, and how many; `number` is None where that cannot be told."""

    axis: int
    number: int | None


# --- the image ------------------------------------------------------------------------------------


def read_as(
    image: ir.Value, functions: Mapping[ir.OperatorIdentifier, ir.Function] | None = None
) -> Channels | None:
    """The image's channel axis as its first convolution, pool or normalisation takes it; None where there is none.

    functions   the model's own, which are looked into
    """
    if image.shape is None:
        return None
    axes: tuple[int | None, ...] = tuple(range(len(image.shape)))
    queue = deque(
        [(image, axes, True)]
    )  # a value, the image's axis behind each of its own, whether the count holds
    left = _FAR
    returned: dict[ir.Value, ir.Value] = {}
    turned: Channels | None = None  # a Transpose between the two layouts, where nothing says it for certain
    while queue and left:
        value, axes, whole = queue.popleft()
        left -= 1
        if value in returned:
            queue.append((returned[value], axes, whole))
        for node, place in value.uses():
            function = functions.get(node.op_identifier()) if functions else None
            if function is not None:
                returned |= dict(zip(function.outputs, node.outputs, strict=False))
                queue.append((function.inputs[place], axes, whole))
                continue
            twin = view(node)
            if twin.op in MAPS and twin.input(0) is value:
                at = axes[-1 if twin.channels_last else 1] if len(axes) > 1 else None
                if at is not None:
                    return Channels(at, _weighed(twin) if whole else None)
                continue
            if turned is None and computes(twin.op) == "transpose":
                turned = _turned(twin, len(axes))
            moved = _moved(twin, axes)
            if moved is not None:
                cutting = twin.op in _CUTTING
                queue.extend((out, moved, whole and not cutting) for out in node.outputs)
    return turned


def _turned(twin: View, rank: int) -> Channels | None:
    order = [int(axis) for axis in twin.attributes.get("perm") or ()]
    if order[-3:] == [rank - 1, rank - 3, rank - 2]:
        return Channels(rank - 1, None)
    return Channels(rank - 3, None) if order[-3:] == [rank - 2, rank - 1, rank - 3] else None


def _moved(twin: View, axes: tuple[int | None, ...]) -> tuple[int | None, ...] | None:
    """The image's axes behind those of the result; None where they cannot be followed."""
    if twin.op in _SAME:
        return axes
    if computes(twin.op) == "transpose":
        order = twin.attributes.get("perm") or list(reversed(range(len(axes))))
        return tuple(axes[int(axis)] for axis in order) if sorted(order) == list(range(len(axes))) else None
    if computes(twin.op) in ("squeeze", "expand_dims"):
        given = twin.attributes.get("axes")
        if given is None:
            tensor = constant(twin.input(1))
            given = None if tensor is None else tensor.numpy().reshape(-1)
        if given is None:
            return None
        if computes(twin.op) == "squeeze":
            gone = {int(axis) % len(axes) for axis in given}
            return tuple(axis for i, axis in enumerate(axes) if i not in gone)
        rank = len(axes) + len(given)
        new, rest = {int(axis) % rank for axis in given}, iter(axes)
        if len(new) < len(given):  # of an axis given twice ONNX Runtime runs nothing
            return None
        return tuple(None if i in new else next(rest) for i in range(rank))
    return None


def _weighed(twin: View) -> int | None:
    """How many channels the node's weights are made for."""
    weights = twin.input(1)
    if weights is None or twin.op not in _COUNTED:
        return None
    tensor = constant(weights)
    shape = tensor.shape if tensor is not None else weights.shape
    if shape is None or len(shape) < (2 if computes(twin.op) == "conv" else 1):
        return None
    size = shape[-1 if twin.channels_last else 1] if computes(twin.op) == "conv" else shape[0]
    groups = twin.attributes.get("group", 1) if computes(twin.op) == "conv" else 1
    return int(size) * int(groups) if isinstance(size, int) else None


# --- every value ----------------------------------------------------------------------------------

Shape = tuple[int | None, ...]


class Known(NamedTuple):
    """What is known of values: `shape` and `value` of `probe.Facts`."""

    shape: Callable[[ir.Value | None], Shape | None]
    value: Callable[[ir.Value | None], np.ndarray | None]


def channel_axes(graph: ir.Graph, image: ir.Value, channel: int | None, known: Known) -> dict[ir.Value, int]:
    """The channel axis of each value behind the image whose axes can be followed there.

    channel   the image's own
    """
    found: dict[ir.Value, int] = {} if channel is None else {image: channel}
    moved = dependent(graph, image)
    for node in graph:
        if not any(value in moved for value in node.outputs):
            continue
        twin = view(node)
        for out in node.outputs:
            shape = known.shape(out)
            axis = None if shape is None or out not in moved else _axis(twin, shape, found, moved, known)
            if shape is not None and axis is not None and 0 <= axis < len(shape):
                found[out] = axis
    return found


def _axis(
    twin: View, shape: Shape, found: Mapping[ir.Value, int], moved: set[ir.Value], known: Known
) -> int | None:
    """The channel axis of a result of this shape."""
    data, rank = twin.input(0), len(shape)
    own = found.get(data) if data is not None else None
    if twin.op in MAPS:
        kept = own is not None and operator(twin.op).channels == "kept"
        return own if kept else rank - 1 if twin.channels_last else 1
    if twin.op in _SAME:
        held = [v for v in twin.inputs if v is not None and v in found]
        return found[held[0]] + rank - len(known.shape(held[0]) or ()) if held else None
    if computes(twin.op) == "gemm":
        return 1
    if computes(twin.op) == "matmul":
        return _product(twin, rank, found, moved)
    if data is None or own is None:
        return None
    before = known.shape(data) or ()
    if computes(twin.op) == "transpose":
        order = [int(axis) for axis in twin.attributes.get("perm") or reversed(range(rank))]
        return order.index(own) if own in order else None
    if twin.op in RESHAPING:
        return _regrouped(before, shape, own)
    if twin.op in _REDUCING:
        axes = twin.attributes.get("axes", twin.attributes.get("axis"))
        axes = known.value(twin.input(1)) if axes is None else axes
        return own if len(before) == rank else _dropped(own, before, axes)
    if computes(twin.op) == "take":
        return own if len(before) == rank else _dropped(own, before, twin.attributes.get("axis", 0))
    return None


def _product(twin: View, rank: int, found: Mapping[ir.Value, int], moved: set[ir.Value]) -> int | None:
    """Of places with weights the weights' columns (or rows, standing first) are the channels; of places with places
    (an attention) those of the values that are weighed."""
    first, second = twin.input(0), twin.input(1)
    if second not in moved:
        return rank - 1
    if first not in moved:
        return rank - 2
    if second is not None and found.get(second) == rank - 1:
        return rank - 1
    return None


def _dropped(own: int, before: Shape, axes: Any) -> int | None:
    """Where the axis stands when others are gone; None where it is gone itself."""
    if axes is None or not before:
        return None
    gone = {int(axis) % len(before) for axis in np.asarray(axes).reshape(-1)}
    return None if own in gone else own - sum(axis < own for axis in gone)


def _regrouped(before: Shape, after: Shape, own: int) -> int | None:
    """Where the axis stands under another shape: whole, or at the head of what it was flattened into."""
    if None in before or None in after or before[own] == 1:
        return None
    old, new = [int(size or 0) for size in before], [int(size or 0) for size in after]
    outer, inner = math.prod(old[:own]), math.prod(old[own + 1 :])
    for axis, size in enumerate(new):
        whole = math.prod(new[:axis]) == outer and size == old[own]
        flat = math.prod(new[:axis]) == outer and size == old[own] * inner and inner > 1
        if whole or flat:
            return axis
    return None
