"""Which graphs do more or less by the values that they are fed."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxviz.catalogue import resolve
from onnxviz.graph.analysis.dataflow import follows_values
from onnxviz.graph.open.load import load


def graph_of(*nodes):
    constants = [
        numpy_helper.from_array(np.array([2, 2], np.int64), "two"),
        numpy_helper.from_array(np.float32(0), "nought"),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    graph = helper.make_graph(list(nodes), "g", inputs, outputs, constants)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return ir.serde.deserialize_model(proto)


node = helper.make_node
CAST = node("Cast", ["x"], ["k"], to=TensorProto.INT64)


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ([node("Relu", ["x"], ["y"])], False),
        ([node("Tile", ["x", "two"], ["y"])], False),
        ([node("Shape", ["x"], ["s"]), node("ConstantOfShape", ["s"], ["y"])], False),
        ([CAST, node("ConstantOfShape", ["k"], ["y"])], True),
        ([CAST, node("Reshape", ["x", "k"], ["y"])], False),
        ([CAST, node("Expand", ["nought", "k"], ["e"]), node("Relu", ["e"], ["y"])], True),
        ([node("ReduceMax", ["x"], ["m"], keepdims=0), node("Range", ["nought", "m", "m"], ["y"])], True),
    ],
)
def test_follows_values(nodes, expected):
    assert follows_values(graph_of(*nodes)) is expected


def test_bodies_are_looked_into():
    body = helper.make_graph(
        [CAST, node("Expand", ["nought", "k"], ["z"])],
        "b",
        [],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)],
    )
    condition = numpy_helper.from_array(np.array(True), "always")
    graph = graph_of(
        node("Constant", [], ["c"], value=condition),
        node("If", ["c"], ["y"], then_branch=body, else_branch=body),
    )
    assert follows_values(graph)


def test_a_usual_network_does_not():
    assert not follows_values(load(resolve("efficientnet-lite0")).model)
