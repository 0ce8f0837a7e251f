"""A small convolutional network and pictures for the tests of maximally activating patches."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import onnxviz

SIDE = 24


def network(*, layout="NCHW", dtype=TensorProto.FLOAT, batch="N", opset=13, size=SIDE, clip=None) -> bytes:
    """3×3 convolution, stride 2, pad 1 (`maps`, 4 channels), ReLU or Clip (`active`), 3×3 pool, then logits (`end`)."""
    shape = [batch, 3, size, size] if layout == "NCHW" else [batch, size, size, 3]
    half = dtype == TensorProto.FLOAT16
    kind = np.float16 if half else np.float32
    weights = np.random.default_rng(5).normal(size=(4, 3, 3, 3)) / 255
    nodes, value = [], "image"
    if dtype == TensorProto.UINT8:
        nodes.append(helper.make_node("Cast", [value], ["real"], to=TensorProto.FLOAT))
        value = "real"
    if layout == "NHWC":
        nodes.append(helper.make_node("Transpose", [value], ["planes"], perm=[0, 3, 1, 2]))
        value = "planes"
    nodes.append(
        helper.make_node("Conv", [value, "w"], ["maps"], pads=[1] * 4, strides=[2, 2], kernel_shape=[3, 3])
    )
    inits = [numpy_helper.from_array(weights.astype(kind), "w")]
    if clip is None:
        nodes.append(helper.make_node("Relu", ["maps"], ["active"]))
    else:
        nodes.append(helper.make_node("Clip", ["maps", "low", "high"], ["active"]))
        inits += [
            numpy_helper.from_array(np.array(edge, kind), name) for name, edge in (("low", 0), ("high", clip))
        ]
    nodes += [
        helper.make_node("AveragePool", ["active"], ["pooled"], kernel_shape=[3, 3]),
        helper.make_node("Transpose", ["pooled"], ["turned"], perm=[0, 2, 3, 1]),
        helper.make_node("GlobalAveragePool", ["pooled"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["end"]),
    ]
    real = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info("image", dtype, shape)],
        [helper.make_tensor_value_info("end", real, [batch, 4])],
        inits,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return onnx.shape_inference.infer_shapes(made).SerializeToString()


def load(preprocess="raw", **form):
    preset = "uint8" if form.get("dtype") == TensorProto.UINT8 else preprocess
    return onnxviz.load(network(**form), preprocess=preset, provider="cpu")


def photos(count=17, size=SIDE) -> list[np.ndarray]:
    random = np.random.default_rng(9)
    return [random.integers(0, 256, (size, size, 3), dtype=np.uint8) for _ in range(count)]
