"""One view of every spelling of an operator, so that no other module has to know quantised or fused ones.

`QLinearConv(x, x_scale, x_zero, w, ...)`, `ConvInteger(x, w, ...)` and the `com.microsoft` `FusedConv` move
data as `Conv(x, w, b)` does. A `View` gives that operator's name, the data and weights at the places
where it has them, and its attributes; scales and zero points are left out. `com.microsoft` operators
have no schema in the onnx package, so shape inference runs on the view too (`standard_nodes`).

What such views tell first is which axis holds the channels: of the image, by what reads it, and of every value behind
it. A convolution says it for certain (its weights name the number, its rule names the axis); Transpose, Reshape and
Squeeze carry the axis along. Sizes alone do not tell: a strip of 11 channels, 60×1, looks like grey pictures with
the channels last.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnx_ir as ir

from onnxviz.graph.analysis.dataflow import constant, dependent
from onnxviz.graph.analysis.dataflow import rank as rank_of
from onnxviz.graph.operators import (
    BY_STATISTICS,
    CONVOLUTIONS,
    MAPS,
    OWN,
    POINTWISE,
    REDUCTIONS,
    RESHAPING,
    SPELLINGS,
    computes,
    computing,
    operator,
    operators,
)

Inputs = list[ir.Value | None]


@dataclass(frozen=True)
class View:
    """A node as the standard floating-point operator that moves data in the same way."""

    op: str
    inputs: Inputs
    attributes: dict[str, Any]
    channels_last: bool = False
    dtype: ir.DataType | None = None
    """Element type of the result where it is not that of the first input."""
    standard: bool = True
    """False for an operator that is unknown here and in the ONNX standard."""
    exact: bool = field(default=False)
    """True where the node is of the ONNX standard itself, so that its own schema gives the shapes."""

    def input(self, index: int) -> ir.Value | None:
        """The input at this place, None where it is left out."""
        return self.inputs[index] if index < len(self.inputs) else None


# Attributes of the fused spellings that say nothing about shapes.
_DROPPED = frozenset({"activation", "activation_alpha", "activation_beta", "activation_gamma", "activation_params",
                      "activation_axis", "channels_last", "opset", "alpha", "beta", "epsilon"})  # fmt: skip
# Attentions whose result has the shape of the query, where it is (batch, length, width).
_AS_QUERY = frozenset({"Attention", "MultiHeadAttention", "QAttention"})
# ONNX Runtime had these in the default domain before the standard did, or under another name.
_SPOKEN_AS = {"SimplifiedLayerNormalization": "RMSNormalization"}
_EARLY = {"LayerNormalization": 17, "Gelu": 20, "RMSNormalization": 23}


def view(node: ir.Node) -> View:
    """The node as its standard floating-point twin; itself where it already is one."""
    attributes = {name: a.value for name, a in node.attributes.items() if not a.is_ref()}
    inputs: Inputs = list(node.inputs)
    if node.domain == "com.microsoft":
        return _microsoft(node, inputs, attributes)
    if node.domain != "":
        return View(node.op_type, inputs, attributes, standard=False)
    spelling = SPELLINGS.get(node.op_type)
    if spelling is not None and spelling.domain != "ort":
        return View(spelling.of, _pick(inputs, spelling.places), attributes, exact=True)
    op = _SPOKEN_AS.get(node.op_type, node.op_type)
    return View(op, inputs, attributes, exact=op == node.op_type)


def _microsoft(node: ir.Node, inputs: Inputs, attributes: dict[str, Any]) -> View:
    kept = {name: value for name, value in attributes.items() if name not in _DROPPED}
    if node.op_type == "QLinearConcat":  # y_scale, y_zero, then (x, scale, zero) for each piece
        return View("Concat", inputs[2::3], kept)
    spelling = SPELLINGS.get(node.op_type)
    if spelling is None or not spelling.places or spelling.domain == "onnx":
        return View(node.op_type, inputs, attributes, standard=False)
    op, places = spelling.of, spelling.places
    real = spelling.real or (node.op_type == "QGemm" and _absent(inputs, 7))
    last = spelling.channels_last or bool(attributes.get("channels_last", 0))
    if computes(op) == "add":  # a fused bias may be left out
        places = tuple(place for place in places if not _absent(inputs, place))
        op = op if len(places) == 2 else "Sum"
    if computes(op) == "relu":
        kept = {}
    return View(
        op, _pick(inputs, places), kept, channels_last=last, dtype=ir.DataType.FLOAT if real else None
    )


def _absent(inputs: Inputs, place: int) -> bool:
    return place >= len(inputs) or inputs[place] is None


def _pick(inputs: Inputs, places: tuple[int, ...]) -> Inputs:
    picked = [inputs[place] if place < len(inputs) else None for place in places]
    while picked and picked[-1] is None:
        picked.pop()
    return picked


def channels_first(rank: int) -> list[int]:
    """The order of axes that makes (N, *spatial, C) to (N, C, *spatial)."""
    return [0, rank - 1, *range(1, rank - 1)]


def channels_last(rank: int) -> list[int]:
    """The order of axes that makes (N, C, *spatial) to (N, *spatial, C)."""
    return [0, *range(2, rank), 1]


def in_standard(node: ir.Node, opset: int) -> bool:
    """True where the standard of this opset has a schema for the node, by which shapes can be inferred."""
    spelt = (
        node.op_type in _SPOKEN_AS
    )  # else a node of the standard's domain is of the standard, however it is seen
    return node.domain == "" and not spelt and _EARLY.get(node.op_type, 0) <= opset


def standard_nodes(node: ir.Node, fresh: Callable[[], str]) -> Iterator[onnx.NodeProto]:
    """Standard nodes whose results have the shapes and element types of a non-standard node's results.

    They are for shape inference only: they compute other numbers. Nothing for an operator that is unknown.
    """
    twin = view(node)
    if not node.outputs:
        return
    names = [value.name or "" if value is not None else "" for value in twin.inputs]
    if node.domain == "com.microsoft" and node.op_type in _AS_QUERY:
        if _keeps_width(node):
            yield onnx.helper.make_node(
                "Cast", names[:1], [node.outputs[0].name or ""], to=onnx.TensorProto.FLOAT
            )
        return
    if not twin.standard:
        return
    if twin.op == "LSTM":
        results = [value.name or "" for value in node.outputs]
        yield onnx.helper.make_node(twin.op, names, results, **twin.attributes)
        return
    if twin.op in _EARLY:
        yield onnx.helper.make_node("Identity", names[:1], [node.outputs[0].name or ""])
        return
    rank = rank_of(twin.input(0))
    if twin.channels_last:
        rank = rank or 4
        turned = fresh()
        yield onnx.helper.make_node("Transpose", names[:1], [turned], perm=channels_first(rank))
        names[0] = turned
    attributes = dict(twin.attributes)
    if computes(twin.op) == "matmul":
        for place, flag in enumerate(("transA", "transB")):
            side = rank_of(twin.input(place))
            if attributes.pop(flag, 0):
                if side is None or side < 2:
                    return
                turned = fresh()
                perm = [*range(side - 2), side - 1, side - 2]
                yield onnx.helper.make_node("Transpose", [names[place]], [turned], perm=perm)
                names[place] = turned
        attributes = {}
    result = node.outputs[0].name or ""
    steps: list[tuple[str, ir.DataType | None]] = [("cast", twin.dtype)] if twin.dtype is not None else []
    steps += [("turn", None)] if twin.channels_last else []
    target = fresh() if steps else result
    yield onnx.helper.make_node(twin.op, names, [target], **attributes)
    for position, (step, dtype) in enumerate(steps):
        source, target = target, result if position == len(steps) - 1 else fresh()
        if step == "cast" and dtype is not None:
            yield onnx.helper.make_node("Cast", [source], [target], to=dtype.value)
        elif rank is not None:
            yield onnx.helper.make_node("Transpose", [source], [target], perm=channels_last(rank))


def _keeps_width(node: ir.Node) -> bool:
    """Whether an attention of com.microsoft gives as many numbers a place as it reads."""
    if node.op_type == "MultiHeadAttention":
        query, value = node.inputs[0], node.inputs[2] if len(node.inputs) > 2 else None
        if query is value:
            return True
        known = [x.shape for x in (query, value) if x is not None and x.shape is not None]
        return len(known) == 2 and all(len(shape) == 3 for shape in known) and known[0][2] == known[1][2]
    weights = node.inputs[1] if len(node.inputs) > 1 else None
    if weights is None or weights.const_value is None or "qkv_hidden_sizes" in node.attributes:
        return False
    sizes = [int(size) for size in weights.const_value.shape.numpy()]
    return len(sizes) == 2 and sizes[1] == 3 * sizes[0]


# --- which axis holds the channels ----------------------------------------------------------------

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
