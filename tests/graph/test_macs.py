"""Multiply-accumulates against a count of the products that a naive run makes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from networks import Maker

from onnxviz.graph.layers import layers


def work(m, out, shape=("N", 4, 9, 11)):
    return sum(layer.macs for layer in layers(ir.from_proto(m.model({"image": shape}, {out: None}))))


def products(kernel, stride, pads, groups):
    """Products of a convolution of (1, 4, 9, 11) into 6 channels, padding counted, one by one."""
    heights, widths = 9 + pads[0] + pads[2], 11 + pads[1] + pads[3]
    places = [
        (y, x)
        for y in range(0, heights - kernel[0] + 1, stride)
        for x in range(0, widths - kernel[1] + 1, stride)
    ]
    return len(places) * kernel[0] * kernel[1] * 6 * (4 // groups)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(("kernel", "stride", "pads"), [((3, 3), 1, (1, 1, 1, 1)), ((2, 5), 2, (0, 1, 2, 0))])
def test_convolution(kernel, stride, pads, groups):
    m = Maker()
    x = m(
        "Conv",
        "image",
        m.random(6, 4 // groups, *kernel),
        pads=list(pads),
        strides=[stride] * 2,
        group=groups,
    )
    assert work(m, x) == products(kernel, stride, pads, groups)


def test_transposed_convolution_counts_each_input_once_for_each_tap():
    m = Maker()
    x = m("ConvTranspose", "image", m.random(4, 3, 2, 2), strides=[2, 2], group=2)
    assert work(m, x) == 4 * 9 * 11 * 3 * 4


def test_products_of_matrices():
    m = Maker()
    rows = m("Flatten", "image")
    assert work(m, m("Gemm", rows, m.random(5, 396), transB=1)) == 5 * 396
    m = Maker()
    columns = m("Transpose", m("Flatten", "image"), perm=[1, 0])
    assert work(m, m("Gemm", columns, m.random(396, 5), transA=1)) == 5 * 396
    m = Maker()
    assert work(m, m("MatMul", "image", m.random(11, 7))) == 4 * 9 * 11 * 7
    m = Maker()
    turned = m("Transpose", "image", perm=[0, 1, 3, 2])
    assert work(m, m("MatMul", "image", turned)) == 4 * 9 * 9 * 11
    m = Maker(opset=13)
    assert work(m, m("Einsum", "image", m.random(4, 7), equation="bchw,cd->bdhw")) == 4 * 9 * 11 * 7


def test_work_is_for_one_image_whatever_the_batch():
    counts = []
    for batch in (1, 5, "N"):
        m = Maker()
        x = m("Conv", "image", m.random(6, 4, 3, 3))
        counts.append(work(m, x, (batch, 4, 9, 11)))
    assert counts == [6 * 4 * 9 * 7 * 9] * 3


def test_what_is_not_counted():
    m = Maker()
    x = m("Relu", m("Add", m("MaxPool", "image", kernel_shape=[2, 2]), m.constant(np.float32(1))))
    assert work(m, x) == 0


def test_integer_convolutions_count_like_float_ones():
    m = Maker()
    q, scale, zero = m("DynamicQuantizeLinear", "image", outputs=3)
    x = m("ConvInteger", q, m.constant(np.ones((6, 4, 3, 3), np.uint8)), zero)
    y = m("Mul", m("Cast", x, to=1), scale)
    assert work(m, y) == 6 * 4 * 9 * 7 * 9
