"""Putting the parts of an explainer together: one graph in front of another."""

from __future__ import annotations

import onnx_ir as ir

from onnxviz.explaining.picture import Prepared
from onnxviz.graph.naming import fresh, names


def put_in_front(graph: ir.Graph, x: ir.Value, prepared: Prepared) -> None:
    """The preprocessing computes `x`, until now an input of `graph`; its picture is the first input instead."""
    taken = names(graph)
    nodes = list(prepared.graph)
    prepared.graph.remove(nodes)
    for node in nodes:
        node.name = fresh(f"preprocessing/{node.op_type}", taken)
        for value in node.outputs:
            value.name = fresh(f"preprocessing/{node.op_type}", taken)
    for name, value in list(prepared.graph.initializers.items()):
        del prepared.graph.initializers[name]
        value.name = fresh("preprocessing/constant", taken)
        graph.register_initializer(value)
    prepared.graph.inputs.clear()
    prepared.tensor.shape, prepared.tensor.type = x.shape, x.type
    ir.convenience.replace_all_uses_with(x, prepared.tensor)
    graph.insert_before(next(iter(graph)), nodes)
    graph.inputs.remove(x)
    prepared.image.name = fresh("preprocessing/image", taken)
    graph.inputs.insert(0, prepared.image)
