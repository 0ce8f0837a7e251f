"""One view of every spelling of an operator, so that no other module has to know quantised or fused ones.

`QLinearConv(x, x_scale, x_zero, w, ...)`, `ConvInteger(x, w, ...)` and the `com.microsoft` `FusedConv` move
data as `Conv(x, w, b)` does. A `View` gives that operator's name, the data and weights at the places
where it has them, and its attributes; scales and zero points are left out. `com.microsoft` operators
have no schema in the onnx package, so shape inference runs on the view too (`standard_nodes`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import onnx
import onnx_ir as ir

from onnxviz.graph.operators import SPELLINGS, computes

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
    rank = _rank(twin.input(0))
    if twin.channels_last:
        rank = rank or 4
        turned = fresh()
        yield onnx.helper.make_node("Transpose", names[:1], [turned], perm=channels_first(rank))
        names[0] = turned
    attributes = dict(twin.attributes)
    if computes(twin.op) == "matmul":
        for place, flag in enumerate(("transA", "transB")):
            side = _rank(twin.input(place))
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


def _rank(value: ir.Value | None) -> int | None:
    if value is None:
        return None
    if value.const_value is not None:
        return len(value.const_value.shape)
    return len(value.shape) if value.shape is not None else None
