"""Scaling of pixels inside a network, told from the constants of its first operators."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from networks import Maker

from onnxviz.graph.input_scaling import input_scaling

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
CAFFE = np.array([103.939, 116.779, 123.68])


def column(values):
    return np.asarray(values, np.float32).reshape(1, 3, 1, 1)


def concluded(front, layout="NCHW"):
    """Of a network with what `front(m)` makes of its image before a convolution."""
    m = Maker()
    x = m("Relu", m("Conv", front(m), m.random(4, 3, 3, 3)))
    x = m("Gemm", m("Flatten", m("GlobalAveragePool", x)), m.random(4, 3))
    shape = ("N", 3, 16, 16) if layout == "NCHW" else ("N", 16, 16, 3)
    return input_scaling(ir.serde.deserialize_model(m.model({"image": shape}, {x: ("N", 3)})), "image")


def scaled(steps, layout="NCHW"):
    """Of one whose first operators are (operator, constant) or (operator, attributes)."""

    def front(m):
        value = "image"
        for op, what in steps:
            if isinstance(what, dict):
                value = m(op, value, **what)
            else:  # of an operator with '<' the constant comes first
                operands = value, m.constant(np.asarray(what, np.float32))
                value = m(op.rstrip("<"), *operands[:: -1 if op.endswith("<") else 1])
        if layout == "NHWC" and not any(op == "Transpose" for op, _ in steps):
            value = m("Transpose", value, perm=[0, 3, 1, 2])
        return value

    return concluded(front, layout)


NORMALISED = [("Sub", column(MEAN)), ("Div", column(STD))]


@pytest.mark.parametrize(
    ("steps", "preset", "bgr"),
    [
        ([("Div", 255)], "raw", False),
        ([("Mul", 1 / 255)], "raw", False),
        ([("Div", 127.5), ("Sub", 1)], "raw", False),
        ([("Mul", 1 / 127.5), ("Add", -1)], "raw", False),
        ([("Sub", 127), ("Div", 128)], "raw", False),
        ([("Mul", 1 / 255), *NORMALISED], "raw", False),
        ([("Sub", column(255 * MEAN)), ("Div", column(255 * STD))], "raw", False),
        ([("Sub", column(CAFFE))], "raw", True),
        ([("Sub", column(CAFFE[::-1]))], "raw", False),
        (NORMALISED, "unit", False),
        ([("Add", column(-MEAN)), ("Mul", column(1 / STD))], "unit", False),
        ([("Sub", column(MEAN[::-1])), ("Div", column(STD[::-1]))], "unit", True),
        ([("Mul", 2), ("Sub", 1)], "unit", False),
        ([("Mul", 255)], "unit", False),
        ([("Mul", 255), ("Sub", column(CAFFE[::-1]))], "unit", False),
        ([("Add", 1), ("Mul", 127.5)], "tensorflow", False),
        ([("Add", 1), ("Div", 2)], "tensorflow", False),
        ([("Add", 1), ("Mul", 127.5), ("Sub", column(CAFFE))], "tensorflow", True),
        ([("Mul<", 1 / 255)], "raw", False),
        ([("Identity", {}), *NORMALISED], "unit", False),
    ],
)
def test_the_pixels_that_a_network_scales_are_told(steps, preset, bgr) -> None:
    scaling = scaled(steps)
    assert (scaling.preset, scaling.bgr) == (preset, bgr)
    assert "scale pixels themselves" in scaling.reason


def test_channels_last_and_a_transpose_between() -> None:
    steps = [("Div", 255.0), ("Transpose", {"perm": [0, 3, 1, 2]}), *NORMALISED]
    assert scaled(steps, "NHWC").preset == "raw"
    assert scaled([("Sub", MEAN), ("Div", STD)], "NHWC").preset == "unit"


def test_a_constant_that_is_computed() -> None:
    """Keras keeps the variance and takes its root in the graph."""

    def front(m):
        value = m("Mul", "image", m.constant(np.float32(1 / 255)))
        root = m("Sqrt", m("Add", m.constant(column(STD**2 - 1e-3)), m.constant(np.float32(1e-3))))
        return m("Div", m("Sub", value, m.constant(column(MEAN))), root)

    scaling = concluded(front)
    assert scaling.preset == "raw"
    assert "58" in scaling.reason or "57" in scaling.reason  # 255 · 0.224...


@pytest.mark.parametrize(
    ("mean", "deviation", "preset"),
    [(MEAN, STD, "unit"), (255 * MEAN, 255 * STD, "raw"), (np.zeros(3), np.ones(3), None)],
)
def test_a_batch_normalization_that_reads_the_picture(mean, deviation, preset) -> None:
    def front(m):
        numbers = (np.ones(3), np.zeros(3), mean, deviation**2)
        return m("BatchNormalization", "image", *(m.constant(np.asarray(x, np.float32)) for x in numbers))

    scaling = concluded(front)
    assert (scaling.preset if scaling else None) == preset


@pytest.mark.parametrize(
    "steps",
    [
        [],
        # torchvision's Inception: takes normalised pixels
        [("Mul", 0.458), ("Add", column([-0.03, -0.088, -0.188]))],
        [("Mul", 1.0)],
        [("Mul", -1 / 255)],
        [("Mul", 0.0)],
        [("Div<", 255)],
    ],
)
def test_nothing_is_concluded_where_the_constants_do_not_tell(steps) -> None:
    assert scaled(steps) is None
