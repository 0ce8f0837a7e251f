"""Compute a half-precision model in float32: half-precision cotangents underflow to silent zeros.

Weights are widened (lazily), Casts to half become Casts to float32. Graph inputs and outputs keep their
type: a Cast stands at each.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxviz.graph.tape import Tape

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
        elif (
            name in ("to", "dtype", "output_dtype")
            and attribute.type == ir.AttributeType.INT
            and (attribute.as_int() in {int(h) for h in HALVES})
        ):
            node.attributes[name] = ir.AttrInt64(name, int(ir.DataType.FLOAT))


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
