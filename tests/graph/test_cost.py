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


# --- recurrent cells, attentions and products of integers, by the formulas of their definitions -----

STEPS, WIDE, HIDDEN = 11, 36, 5  # 11 columns of 4 maps of 9 rows
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
MICROSOFT = "com.microsoft"


def columns(m: Maker) -> str:
    """The image as a sequence of its columns, (steps, batch, width)."""
    turned = m("Transpose", "image", perm=[3, 0, 1, 2])
    return m("Reshape", turned, m.constant([STEPS, -1, WIDE]))


def rows(m: Maker) -> str:
    """The image as (batch, 11, 36)."""
    return m("Transpose", columns(m), perm=[1, 0, 2])


def total(m: Maker, out: str) -> tuple[int, int]:
    """MACs for one image, and learned numbers."""
    found = layers(ir.from_proto(m.model({"image": ("N", 4, 9, 11)}, {out: None})))
    return sum(layer.macs for layer in found), sum(layer.parameters for layer in found)


@pytest.mark.parametrize("op", GATES)
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("layout", [0, 1])
def test_recurrent_cells(op, directions, layout):
    """Every step multiplies the input and the state with the matrices of every gate and direction."""
    gates = GATES[op]
    m = Maker()
    x = rows(m) if layout else columns(m)
    w, r = m.random(directions, gates * HIDDEN, WIDE), m.random(directions, gates * HIDDEN, HIDDEN)
    b = m.random(directions, 2 * gates * HIDDEN)
    start = m.constant(np.zeros((1, directions, HIDDEN) if layout else (directions, 1, HIDDEN), np.float32))
    direction = "bidirectional" if directions == 2 else "reverse"
    y, _ = m(op, x, w, r, b, "", start, hidden_size=HIDDEN, direction=direction, layout=layout, outputs=2)
    work, learned = total(m, m("Relu", y))
    assert work == STEPS * directions * gates * HIDDEN * (WIDE + HIDDEN)
    assert learned == directions * gates * HIDDEN * (WIDE + HIDDEN + 2)


def test_dynamically_quantised_lstm():
    m = Maker()
    codes = [np.ones((1, width, 4 * HIDDEN), np.uint8) for width in (WIDE, HIDDEN)]
    w, r = (m.constant(c) for c in codes)
    scales = [
        m.constant(np.full(shape, v, kind))
        for shape, v, kind in 2 * (((1,), 0.1, np.float32), ((1,), 3, np.uint8))
    ]
    x = m(
        "DynamicQuantizeLSTM", columns(m), w, r, m.random(1, 8 * HIDDEN), "", "", "", "", *scales,
        hidden_size=HIDDEN, domain=MICROSOFT,
    )  # fmt: skip
    assert total(m, m("Relu", x)) == (
        STEPS * 4 * HIDDEN * (WIDE + HIDDEN), 4 * HIDDEN * (WIDE + HIDDEN + 2)
    )  # fmt: skip


def test_products_of_integers():
    m = Maker()
    q, scale, zero = m("DynamicQuantizeLinear", rows(m), outputs=3)
    w = m.constant(np.ones((WIDE, 7), np.uint8))
    y = m("Mul", m("Cast", m("MatMulInteger", q, w, zero), to=1), scale)
    assert total(m, y) == (STEPS * WIDE * 7, WIDE * 7)

    m = Maker()
    w, unit, bias = m.constant(np.ones((WIDE, 7), np.uint8)), m.random(7, positive=True), m.random(7)
    y = m("DynamicQuantizeMatMul", rows(m), w, unit, "", bias, domain=MICROSOFT)
    assert total(m, m("Relu", y)) == (STEPS * WIDE * 7, WIDE * 7 + 7)  # scales are no learned numbers

    m = Maker()
    q, scale, zero = m("DynamicQuantizeLinear", rows(m), outputs=3)
    w, unit, bias = m.constant(np.ones((WIDE, 7), np.uint8)), m.random(7, positive=True), m.random(7)
    y = m("MatMulIntegerToFloat", q, w, scale, unit, zero, "", bias, domain=MICROSOFT)
    assert total(m, m("Relu", y)) == (STEPS * WIDE * 7, WIDE * 7 + 7)


@pytest.mark.parametrize(
    ("equation", "shapes", "products"),
    [
        ("bsw,wk->bsk", [(WIDE, 7)], STEPS * WIDE * 7),
        ("...w,wk->...k", [(WIDE, 7)], STEPS * WIDE * 7),
        ("b...w, w k -> b...k", [(WIDE, 7)], STEPS * WIDE * 7),
        ("bsw,sw->bs", [(STEPS, WIDE)], STEPS * WIDE),
        ("bsw,wk,kj->bsj", [(WIDE, 7), (7, 2)], 2 * STEPS * WIDE * 7 * 2),
    ],
)
def test_einsum(equation, shapes, products):
    m = Maker()
    x = m("Einsum", rows(m), *[m.random(*shape) for shape in shapes], equation=equation)
    assert total(m, x) == (products, sum(int(np.prod(shape)) for shape in shapes))


def test_attention_of_the_standard():
    """Queries of 2 heads on keys and values of 1; and with the heads on an axis of their own."""
    m = Maker(opset=23)
    x = rows(m)
    k, v = (m("MatMul", x, m.random(WIDE, 18)) for _ in range(2))
    y = m("Attention", x, k, v, q_num_heads=2, kv_num_heads=1)
    assert total(m, y)[0] == 2 * STEPS * WIDE * 18 + 2 * STEPS * STEPS * (18 + 18)

    m = Maker(opset=23)
    heads = m("Transpose", m("Reshape", rows(m), m.constant([-1, STEPS, 3, 12])), perm=[0, 2, 1, 3])
    assert total(m, m("Attention", heads, heads, heads))[0] == 3 * STEPS * STEPS * (12 + 12)


def test_attentions_of_onnx_runtime():
    """Three projections at once, then queries by keys and weights by values; what follows has its shape."""
    inside = 2 * STEPS * STEPS * WIDE
    m = Maker()
    y = m("Attention", rows(m), m.random(WIDE, 3 * WIDE), m.random(3 * WIDE), num_heads=4, domain=MICROSOFT)
    y = m("MatMul", y, m.random(WIDE, 7))
    assert total(m, y) == (
        STEPS * WIDE * 3 * WIDE + inside + STEPS * WIDE * 7, 3 * WIDE * WIDE + 3 * WIDE + WIDE * 7
    )  # fmt: skip

    m = Maker()
    q, scale, zero = m("DynamicQuantizeLinear", rows(m), outputs=3)
    w = m.constant(np.ones((WIDE, 3 * WIDE), np.uint8))
    y = m(
        "QAttention", q, w, m.random(3 * WIDE), scale, m.constant(np.float32(0.1)), "", zero,
        num_heads=4, domain=MICROSOFT,
    )  # fmt: skip
    y = m("MatMul", y, m.random(WIDE, 7))
    assert total(m, y) == (
        STEPS * WIDE * 3 * WIDE + inside + STEPS * WIDE * 7, 3 * WIDE * WIDE + 3 * WIDE + WIDE * 7
    )  # fmt: skip

    m = Maker()
    x = rows(m)
    y = m("MultiHeadAttention", x, x, x, num_heads=4, domain=MICROSOFT)
    assert total(m, m("MatMul", y, m.random(WIDE, 7)))[0] == inside + STEPS * WIDE * 7
