"""Networks with operators that native gradients have no rule for."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.networks import Maker


def lstm_network() -> onnx.ModelProto:
    """A text reader's kind: convolution, then an LSTM over the columns. image (N, 3, 16, 16) -> scores (N, 5)."""
    m = Maker(17)
    x = m("Relu", m("Conv", "image", m.random(8, 3, 3, 3), m.random(8), pads=[1] * 4, strides=[2, 2]))
    x = m("Transpose", m("ReduceMean", x, axes=[2], keepdims=0), perm=[2, 0, 1])  # (columns, N, 8)
    weights = [m.random(1, 24, 8), m.random(1, 24, 6), m.constant(np.zeros((1, 48), np.float32))]
    _, last = m("LSTM", x, *weights, hidden_size=6, outputs=2)  # (1, N, 6)
    x = m("Flatten", m("Transpose", last, perm=[1, 0, 2]))
    scores = m("Gemm", x, m.random(5, 6), m.random(5), transB=1)
    return m.model({"image": ("N", 3, 16, 16)}, {scores: ("N", 5)})


def loop_network() -> onnx.ModelProto:
    """x·x·…, as often as its own length says, and every step of it; with a scan over rows."""
    body = helper.make_graph(
        [
            helper.make_node("Mul", ["before", "x"], ["after"]),
            helper.make_node("Identity", ["go"], ["on"]),
            helper.make_node("Sin", ["after"], ["seen"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("before", TensorProto.FLOAT, ["N", 3]),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("after", TensorProto.FLOAT, ["N", 3]),
            helper.make_tensor_value_info("seen", TensorProto.FLOAT, ["N", 3]),
        ],
    )
    big, small = (
        helper.make_graph(
            [helper.make_node(op, ["last"], [f"{op}_out"])],
            op,
            [],
            [helper.make_tensor_value_info(f"{op}_out", TensorProto.FLOAT, ["N", 3])],
        )
        for op in ("Tanh", "Neg")
    )
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"], start=1),
        helper.make_node("Squeeze", ["shape"], ["times"]),
        helper.make_node("Loop", ["times", "", "x"], ["last", "all"], body=body),
        helper.make_node("ReduceSum", ["last"], ["total"], keepdims=0),
        helper.make_node("Greater", ["total", "zero"], ["positive"]),
        helper.make_node("If", ["positive"], ["chosen"], then_branch=big, else_branch=small),
        helper.make_node("ReduceSum", ["all", "first"], ["steps"], keepdims=0),
        helper.make_node("Add", ["chosen", "steps"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "loop",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
        [
            numpy_helper.from_array(np.float32(0), "zero"),
            numpy_helper.from_array(np.int64([0]), "first"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
