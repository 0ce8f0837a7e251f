"""Scaling of pixels inside a network, told from the constants of its first operators."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from networks import Maker

from onnxviz.graph.input_scaling import input_scaling

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
CAFFE = np.array([103.939, 116.779, 123.68])


def network(*steps, layout="NCHW", dtype="float32") -> onnx.ModelProto:
    """A network whose first operators are (operator, constant) or (operator, attributes), before a convolution."""
    m = Maker()
    value = "image"
    for op, what in steps:
        if isinstance(what, dict):
            value = m(op, value, **what)
        elif op.endswith("<"):  # the constant comes first
            value = m(op[:-1], m.constant(np.asarray(what, np.float32)), value)
        else:
            value = m(op, value, m.constant(np.asarray(what, np.float32)))
    if layout == "NHWC" and not any(op == "Transpose" for op, _ in steps):
        value = m("Transpose", value, perm=[0, 3, 1, 2])
    value = m("Relu", m("Conv", value, m.random(4, 3, 3, 3)))
    value = m("Gemm", m("Flatten", m("GlobalAveragePool", value)), m.random(4, 3))
    shape = ("N", 3, 16, 16) if layout == "NCHW" else ("N", 16, 16, 3)
    return m.model({"image": shape}, {value: ("N", 3)})


def column(values):
    return np.asarray(values, np.float32).reshape(1, 3, 1, 1)


def found(model: onnx.ModelProto):
    return input_scaling(ir.serde.deserialize_model(model), "image")


@pytest.mark.parametrize(
    ("steps", "preset", "bgr"),
    [
        ([("Div", 255)], "raw", False),
        ([("Mul", 1 / 255)], "raw", False),
        ([("Div", 127.5), ("Sub", 1)], "raw", False),
        ([("Mul", 1 / 127.5), ("Add", -1)], "raw", False),
        ([("Sub", 127), ("Div", 128)], "raw", False),
        ([("Mul", 1 / 255), ("Sub", column(MEAN)), ("Div", column(STD))], "raw", False),
        ([("Sub", column(255 * MEAN)), ("Div", column(255 * STD))], "raw", False),
        ([("Sub", column(CAFFE))], "raw", True),
        ([("Sub", column(CAFFE[::-1]))], "raw", False),
        ([("Sub", column(MEAN)), ("Div", column(STD))], "unit", False),
        ([("Add", column(-MEAN)), ("Mul", column(1 / STD))], "unit", False),
        ([("Sub", column(MEAN[::-1])), ("Div", column(STD[::-1]))], "unit", True),
        ([("Mul", 2), ("Sub", 1)], "unit", False),
        ([("Mul", 255)], "unit", False),
        ([("Mul", 255), ("Sub", column(CAFFE[::-1]))], "unit", False),
        ([("Add", 1), ("Mul", 127.5)], "tensorflow", False),
        ([("Add", 1), ("Div", 2)], "tensorflow", False),
        ([("Add", 1), ("Mul", 127.5), ("Sub", column(CAFFE))], "tensorflow", True),
        ([("Mul<", 1 / 255)], "raw", False),
        ([("Identity", {}), ("Sub", column(MEAN)), ("Div", column(STD))], "unit", False),
    ],
)
def test_the_pixels_that_a_network_scales_are_told(steps, preset, bgr) -> None:
    scaling = found(network(*steps))
    assert scaling is not None
    assert (scaling.preset, scaling.bgr) == (preset, bgr)
    assert "scale pixels themselves" in scaling.reason


def test_channels_last_and_a_transpose_between() -> None:
    steps = [
        ("Div", 255.0),
        ("Transpose", {"perm": [0, 3, 1, 2]}),
        ("Sub", column(MEAN)),
        ("Div", column(STD)),
    ]
    assert found(network(*steps, layout="NHWC")).preset == "raw"
    assert found(network(("Sub", MEAN), ("Div", STD), layout="NHWC")).preset == "unit"


def test_a_constant_that_is_computed() -> None:
    """Keras keeps the variance and takes its root in the graph."""
    m = Maker()
    value = m("Mul", "image", m.constant(np.float32(1 / 255)))
    root = m("Sqrt", m("Add", m.constant(column(STD**2 - 1e-3)), m.constant(np.float32(1e-3))))
    value = m("Div", m("Sub", value, m.constant(column(MEAN))), root)
    value = m("Flatten", m("GlobalAveragePool", m("Conv", value, m.random(4, 3, 3, 3))))
    scaling = found(m.model({"image": ("N", 3, 16, 16)}, {value: ("N", 4)}))
    assert scaling.preset == "raw"
    assert "58" in scaling.reason or "57" in scaling.reason  # 255 · 0.224...


@pytest.mark.parametrize(
    ("mean", "deviation", "preset"),
    [(MEAN, STD, "unit"), (255 * MEAN, 255 * STD, "raw"), (np.zeros(3), np.ones(3), None)],
)
def test_a_batch_normalization_that_reads_the_picture(mean, deviation, preset) -> None:
    m = Maker()
    numbers = [m.constant(np.asarray(x, np.float32)) for x in (np.ones(3), np.zeros(3), mean, deviation**2)]
    value = m("Conv", m("BatchNormalization", "image", *numbers), m.random(4, 3, 3, 3))
    value = m("Flatten", m("GlobalAveragePool", value))
    scaling = found(m.model({"image": ("N", 3, 16, 16)}, {value: ("N", 4)}))
    assert (scaling.preset if scaling else None) == preset


@pytest.mark.parametrize(
    "steps",
    [
        [],
        [
            ("Mul", 0.458),
            ("Add", column([-0.03, -0.088, -0.188])),
        ],  # torchvision's Inception: takes normalised pixels
        [("Mul", 1.0)],
        [("Mul", -1 / 255)],
        [("Mul", 0.0)],
        [("Div<", 255)],
    ],
)
def test_nothing_is_concluded_where_the_constants_do_not_tell(steps) -> None:
    assert found(network(*steps)) is None
