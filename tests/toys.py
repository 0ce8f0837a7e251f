"""Tiny networks with known answers, for techniques that hide parts of the image."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper, numpy_helper

import onnxviz

SIDE = 12


def detector(
    *,
    layout: str = "NCHW",
    dtype: int = TensorProto.FLOAT,
    batch: int | str = "N",
    opset: int = 13,
    softmax: bool = True,
) -> bytes:
    """Two classes: logits (red, green), each the mean of that colour over rows 4 to 7 and columns 6 to 9, / 64.

    One 1×1 convolution (`features`, its channels red and green, 12×12) and a constant mask, so that a map's every
    pixel can be worked out by hand. The input takes pixels of 0 to 255.
    """
    shape = [batch, 3, SIDE, SIDE] if layout == "NCHW" else [batch, SIDE, SIDE, 3]
    place = np.zeros((1, 1, SIDE, SIDE), np.float32)
    place[:, :, 4:8, 6:10] = 1 / 16 * SIDE * SIDE / 64  # GlobalAveragePool divides by all 144 positions
    weights = np.zeros((2, 3, 1, 1), np.float32)
    weights[0, 0] = weights[1, 1] = 1
    half = dtype == TensorProto.FLOAT16
    kind = np.float16 if half else np.float32
    nodes, value = [], "image"
    if dtype == TensorProto.UINT8:
        nodes.append(helper.make_node("Cast", [value], ["real"], to=TensorProto.FLOAT))
        value = "real"
    if layout == "NHWC":
        nodes.append(helper.make_node("Transpose", [value], ["planes"], perm=[0, 3, 1, 2]))
        value = "planes"
    nodes += [
        helper.make_node("Conv", [value, "weights"], ["features"], name="features"),
        helper.make_node("Mul", ["features", "place"], ["placed"]),
        helper.make_node("GlobalAveragePool", ["placed"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["logits"]),
    ]
    if softmax:
        nodes.append(helper.make_node("Softmax", ["logits"], ["scores"], axis=1))
    result = "scores" if softmax else "logits"
    real = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "detector",
        [helper.make_tensor_value_info("image", dtype, shape)],
        [helper.make_tensor_value_info(result, real, [batch, 2])],
        [
            numpy_helper.from_array(weights.astype(kind), "weights"),
            numpy_helper.from_array(place.astype(kind), "place"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return model.SerializeToString()


def logits(pictures: np.ndarray) -> np.ndarray:
    """What `detector` computes, for pictures (N, 12, 12, 3) of 0 to 255: (N, 2) float64."""
    return pictures[:, 4:8, 6:10, :2].astype(np.float64).mean(axis=(1, 2)) / 64


def softmax(rows: np.ndarray) -> np.ndarray:
    shifted = np.exp(rows - rows.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def photo(seed: int = 0) -> np.ndarray:
    """(12, 12, 3) uint8, redder than green."""
    picture = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3))
    picture[..., 0] = picture[..., 0] // 2 + 128
    return picture.astype(np.uint8)


def load(**form):
    """The detector as a network; `threads` goes to `onnxviz.load`, the rest to `detector`."""
    preset = "uint8" if form.get("dtype") == TensorProto.UINT8 else "raw"
    threads = form.pop("threads", None)
    return onnxviz.load(
        detector(**form), preprocess=preset, labels=["red", "green"], provider="cpu", threads=threads
    )
