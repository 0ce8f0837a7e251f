"""A model that computes in float32 throughout, so that it can be differentiated: its integer inputs and its halves."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxviz.errors import ModelUnsuitable
from onnxviz.graph.analysis.dataflow import clone
from onnxviz.graph.fused import as_qdq
from onnxviz.graph.operators import MOVING, RESIZING, SHAPE_ONLY, computes, computing
from onnxviz.graph.tape import Tape

# What only moves values about works on any type. Resize and AveragePool round whole numbers, which a gradient must
# not see.
_MOVING = MOVING | RESIZING | computing("max_pool")
# Exact on whole numbers too, once they are wider than the pixels' own 8 bits, where sums would wrap.
_ARITHMETIC = computing("add maximum minimum multiply negative subtract total")
_NARROW = frozenset({ir.DataType.UINT8, ir.DataType.INT8})


def real_input(model: ir.Model, name: str) -> ir.Model:
    """The model itself where its input `name` is float already; else a copy whose input is float32.

    For whole numbers the copy computes the same. The model must turn its input into floats itself (Cast,
    DequantizeLinear, QLinearConv and its kind), after operators that only move values, or sums and products of wider
    integers.

    raises   ModelUnsuitable naming the operator that needs the integers
    """
    found = next(value for value in model.graph.inputs if value.name == name)
    if found.dtype is None or found.dtype.is_floating_point():
        return model
    copy = clone(model)
    as_qdq(copy)
    tape = Tape(copy.graph)
    source = next(value for value in copy.graph.inputs if value.name == name)
    kind = source.dtype or ir.DataType.UINT8
    open_: list[tuple[ir.Value, ir.DataType]] = [(source, kind)]
    seen = {source}
    while open_:
        value, integer = open_.pop()
        value.dtype = ir.DataType.FLOAT
        for node, place in value.uses():
            after = _step(tape, node, place, integer)
            if after is None:
                raise ModelUnsuitable(
                    f"input {name!r} has type {kind.name}, and {node.op_type} (node {node.name!r}) "
                    "needs it so: there is no gradient by integers; choose a float layer behind it"
                )
            for out in node.outputs if after.is_integer() else ():
                if out not in seen:
                    seen.add(out)
                    open_.append((out, after))
    return copy


def _step(tape: Tape, node: ir.Node, place: int, integer: ir.DataType) -> ir.DataType | None:
    """Let the node read floats at `place`; the type that its result had, None where it needs the integers."""
    if node.domain:
        return None
    if node.op_type in SHAPE_ONLY:
        return ir.DataType.FLOAT
    if computes(node.op_type) == "cast":
        return _cast(node)
    if node.op_type == "CastLike":
        like = node.inputs[1]
        floats = place == 0 and like is not None and like.dtype is not None and like.dtype.is_floating_point()
        return ir.DataType.FLOAT if floats else None
    if computes(node.op_type) == "dequantize":
        return _dequantised(tape, node, integer) if place == 0 else None
    if node.op_type in _MOVING and place == 0:
        fills = computes(node.op_type) == "pad" and len(node.inputs) > 2
        alike = [2] if fills else []
    elif computes(node.op_type) == "concatenate" or (node.op_type in _ARITHMETIC and integer not in _NARROW):
        alike = [i for i in range(len(node.inputs)) if i != place]
    else:
        return None
    for i in alike:
        other = node.inputs[i]
        if other is not None and (other.dtype is None or not other.dtype.is_floating_point()):
            # Of data that is on its way to floats too this Cast does nothing.
            node.replace_input_with(i, tape.before(node).Cast(other, to=int(ir.DataType.FLOAT)))
    return integer


def _cast(node: ir.Node) -> ir.DataType | None:
    to = ir.DataType(node.attributes["to"].as_int())
    if to.is_floating_point():
        return ir.DataType.FLOAT
    if to in (ir.DataType.BOOL, ir.DataType.INT8) or not to.is_integer():  # not the same numbers
        return None
    node.attributes["to"] = ir.AttrInt64("to", int(ir.DataType.FLOAT))
    return to


def _dequantised(tape: Tape, node: ir.Node, integer: ir.DataType) -> ir.DataType | None:
    """(x − zero) · scale, written out; an axis of scales is laid along its dimension."""
    x, scale = node.inputs[:2]
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    if x is None or scale is None or "block_size" in node.attributes:
        return None
    if scale.shape is not None and len(scale.shape) == 1 and scale.shape[0] != 1:
        if x.shape is None:
            return None
        rank = len(x.shape)
        axis = node.attributes.get_int("axis", 1)
        sizes = tape.const([-1 if i == axis % rank else 1 for i in range(rank)])
        scale = tape.before(node).Reshape(scale, sizes)
        zero = None if zero is None else tape.before(node).Reshape(zero, sizes)
    result = node.outputs[0].dtype or scale.dtype or ir.DataType.FLOAT
    if result != ir.DataType.FLOAT:
        scale = tape.before(node).Cast(scale, to=int(ir.DataType.FLOAT))
    if zero is not None:
        x = tape.before(node).Sub(x, tape.before(node).Cast(zero, to=int(ir.DataType.FLOAT)))
    real = tape.before(node).Mul(x, scale)
    tape.become(node).Cast(real, to=int(result))
    return ir.DataType.FLOAT


# --- half precision: its cotangents would underflow to silent zeros -------------------------------
#
# Weights are widened (lazily), Casts to half become Casts to float32. Graph inputs and outputs keep their
# type: a Cast stands at each.


_NARROWING = "onnxviz.narrowing"
HALVES = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16})


def widen(model: ir.Model) -> None:
    """Make every half-precision value of the main graph float32, in place."""
    graph = model.graph
    values = [*graph.inputs, *graph.initializers.values(), *(y for node in graph for y in node.outputs)]
    if not any(v.dtype in HALVES for v in values):
        return
    tape = Tape(model.graph)
    for holder in model.graphs():
        for value in holder.initializers.values():
            _widen_weight(value)
        for node in holder:
            _widen_node(node)
    for value in graph.inputs:
        if value.dtype in HALVES:
            _widen_input(graph, tape, value)
    for i, value in enumerate(list(graph.outputs)):
        if value.dtype in HALVES and value.producer() is not None:
            _narrow_output(graph, tape, i, value)


def _widen_weight(value: ir.Value) -> None:
    tensor = value.const_value
    if tensor is None or tensor.dtype not in HALVES or value.is_graph_input():
        return
    value.const_value = ir.LazyTensor(
        lambda: ir.tensor(tensor.numpy().astype(np.float32), name=tensor.name),
        dtype=ir.DataType.FLOAT,
        shape=ir.Shape(tensor.shape.numpy()),
        name=tensor.name,
    )
    value.dtype = ir.DataType.FLOAT


def _widen_node(node: ir.Node) -> None:
    for name, attribute in list(node.attributes.items()):
        if attribute.type == ir.AttributeType.TENSOR and attribute.as_tensor().dtype in HALVES:
            wide = ir.tensor(attribute.as_tensor().numpy().astype(np.float32))
            node.attributes[name] = ir.AttrTensor(name, wide)
        elif name in ("to", "dtype", "output_dtype") and attribute.type == ir.AttributeType.INT:
            kind = attribute.as_int()
            node.attributes[name] = ir.AttrInt64(name, int(ir.DataType.FLOAT) if kind in HALVES else kind)


def _widen_input(graph: ir.Graph, tape: Tape, value: ir.Value) -> None:
    uses = list(value.uses())
    first = next(iter(graph), None)
    write = tape if first is None else tape.before(first)
    out = write.Cast(value, to=int(ir.DataType.FLOAT))
    out.type, out.shape = ir.TensorType(ir.DataType.FLOAT), value.shape
    for user, index in uses:
        user.replace_input_with(index, out)


def _narrow_output(graph: ir.Graph, tape: Tape, index: int, value: ir.Value) -> None:
    name, shape, dtype = value.name, value.shape, value.dtype
    assert dtype is not None
    value.name = tape.fresh(f"{name}/float32")
    value.type = ir.TensorType(ir.DataType.FLOAT)  # a type object of its own: `out` keeps the half one
    out = tape.Cast(value, to=int(dtype))
    out.name, out.type, out.shape = name, ir.TensorType(dtype), shape
    out.producer().meta[_NARROWING] = True
    graph.outputs[index] = out


def computed(value: ir.Value) -> ir.Value | None:
    """The float32 value behind an output that `widen` casts to half precision, None for any other value."""
    node = value.producer()
    return node.inputs[0] if node is not None and node.meta.get(_NARROWING) else None
