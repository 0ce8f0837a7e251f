"""Tiny networks with known answers, for techniques that hide parts of the image."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

import onnxviz
from tests.heads import renamed
from tests.networks import Maker

SIDE = 12
#: Files of one network, by what `detector` takes: the same answers are wanted of all.
FORMS = {
    "plain": {},
    "opset 7": {"opset": 7},
    "newest opset": {"opset": 24},
    "NHWC": {"layout": "NHWC"},
    "fp16": {"dtype": TensorProto.FLOAT16},
    "uint8": {"dtype": TensorProto.UINT8},
    "uint8 NHWC": {"dtype": TensorProto.UINT8, "layout": "NHWC"},
    "batch of 1": {"batch": 1},
    "batch of 4": {"batch": 4},
}


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
    half = dtype == TensorProto.FLOAT16
    place = np.zeros((1, 1, SIDE, SIDE), np.float16 if half else np.float32)
    place[:, :, 4:8, 6:10] = 1 / 16 * SIDE * SIDE / 64  # GlobalAveragePool divides by all 144 positions
    m = Maker(opset)
    x = m("Cast", "image", to=TensorProto.FLOAT) if dtype == TensorProto.UINT8 else "image"
    x = m("Transpose", x, perm=[0, 3, 1, 2]) if layout == "NHWC" else x
    weights = m.constant(np.eye(2, 3, dtype=place.dtype)[:, :, None, None], "weights")
    x = renamed(m, m("Conv", x, weights, name="features"), "features")
    x = m("Flatten", m("GlobalAveragePool", m("Mul", x, m.constant(place, "place"))))
    x = renamed(m, x, "logits")
    if softmax:
        x = renamed(m, m("Softmax", x, axis=1), "scores")
    shape = (batch, 3, SIDE, SIDE) if layout == "NCHW" else (batch, SIDE, SIDE, 3)
    model = m.model({"image": shape}, {x: (batch, 2)}, dtype)
    if half:
        model.graph.output[0].type.tensor_type.elem_type = dtype
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


def load(threads: int | None = None, **form):
    """The detector in a form as a network."""
    preset = "uint8" if form.get("dtype") == TensorProto.UINT8 else "raw"
    labels = ["red", "green"]
    return onnxviz.load(detector(**form), preprocess=preset, labels=labels, provider="cpu", threads=threads)
