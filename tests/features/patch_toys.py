"""A small convolutional network and pictures for the tests of maximally activating patches."""

from __future__ import annotations

import numpy as np
import onnx
from networks import Maker
from onnx import TensorProto

import onnxviz

SIDE = 24


def network(*, layout="NCHW", dtype=TensorProto.FLOAT, batch="N", opset=13, size=SIDE, clip=None) -> bytes:
    """3×3 convolution, stride 2, pad 1 (`maps`, 4 channels), ReLU or Clip (`active`), 3×3 pool, then logits (`end`)."""
    m = Maker(opset)
    kind = np.float16 if dtype == TensorProto.FLOAT16 else np.float32
    weights = np.random.default_rng(5).normal(size=(4, 3, 3, 3)) / 255

    def named(name: str, op: str, *inputs: str, **attributes) -> str:
        m(op, *inputs, **attributes)
        m.nodes[-1].output[:] = [name]
        return name

    x = named("real", "Cast", "image", to=TensorProto.FLOAT) if dtype == TensorProto.UINT8 else "image"
    x = named("planes", "Transpose", x, perm=[0, 3, 1, 2]) if layout == "NHWC" else x
    form = {"pads": [1] * 4, "strides": [2, 2], "kernel_shape": [3, 3]}
    x = named("maps", "Conv", x, m.constant(weights.astype(kind), "w"), **form)
    if clip is None:
        x = named("active", "Relu", x)
    else:
        limits = [m.constant(np.array(edge, kind), name) for name, edge in (("low", 0), ("high", clip))]
        x = named("active", "Clip", x, *limits)
    x = named("pooled", "AveragePool", x, kernel_shape=[3, 3])
    named("turned", "Transpose", x, perm=[0, 2, 3, 1])
    named("end", "Flatten", named("mean", "GlobalAveragePool", x))
    shape = (batch, 3, size, size) if layout == "NCHW" else (batch, size, size, 3)
    made = m.model({"image": shape}, {"end": (batch, 4)}, dtype)
    if kind is np.float16:
        made.graph.output[0].type.tensor_type.elem_type = dtype
    return onnx.shape_inference.infer_shapes(made).SerializeToString()


def load(preprocess="raw", **form):
    preset = "uint8" if form.get("dtype") == TensorProto.UINT8 else preprocess
    return onnxviz.load(network(**form), preprocess=preset, provider="cpu")


def photos(count=17, size=SIDE) -> list[np.ndarray]:
    random = np.random.default_rng(9)
    return [random.integers(0, 256, (size, size, 3), dtype=np.uint8) for _ in range(count)]
