"""Multiply-accumulates against a count of the products that a naive run makes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from networks import Maker

from onnxviz.graph.layers import layers

STEPS, WIDE, HIDDEN = 11, 36, 5  # the image is 11 columns of 4 maps of 9 rows
MICROSOFT = "com.microsoft"


def total(m: Maker, out: str, batch: int | str = "N") -> tuple[int, int]:
    """MACs for one image, and learned numbers."""
    found = layers(ir.from_proto(m.model({"image": (batch, 4, 9, 11)}, {out: None})))
    return sum(layer.macs for layer in found), sum(layer.parameters for layer in found)


def products(kernel, stride, pads, groups):
    """Products of a convolution of (1, 4, 9, 11) into 6 channels, padding counted, one by one."""
    heights, widths = 9 + pads[0] + pads[2], 11 + pads[1] + pads[3]
    rows, columns = (
        range(0, side - k + 1, stride) for side, k in zip((heights, widths), kernel, strict=True)
    )
    return len([(y, x) for y in rows for x in columns]) * kernel[0] * kernel[1] * 6 * (4 // groups)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(("kernel", "stride", "pads"), [((3, 3), 1, (1, 1, 1, 1)), ((2, 5), 2, (0, 1, 2, 0))])
def test_convolution(kernel, stride, pads, groups):
    m = Maker()
    weights = m.random(6, 4 // groups, *kernel)
    x = m("Conv", "image", weights, pads=list(pads), strides=[stride] * 2, group=groups)
    assert total(m, x)[0] == products(kernel, stride, pads, groups)


@pytest.mark.parametrize("batch", [1, 5, "N"])
def test_work_is_for_one_image_whatever_the_batch(batch):
    m = Maker()
    assert total(m, m("Conv", "image", m.random(6, 4, 3, 3)), batch)[0] == 6 * 4 * 9 * 7 * 9


def columns(m: Maker) -> str:
    """The image as a sequence of its columns, (steps, batch, width)."""
    return m("Reshape", m("Transpose", "image", perm=[3, 0, 1, 2]), m.constant([STEPS, -1, WIDE]))


def rows(m: Maker) -> str:
    """The image as (batch, 11, 36)."""
    return m("Transpose", columns(m), perm=[1, 0, 2])


def codes(m: Maker, *shape: int) -> str:
    return m.constant(np.ones(shape, np.uint8))


def integer_convolution(m):
    q, scale, zero = m("DynamicQuantizeLinear", "image", outputs=3)
    return m("Mul", m("Cast", m("ConvInteger", q, codes(m, 6, 4, 3, 3), zero), to=1), scale)


def integer_product(m):
    q, scale, zero = m("DynamicQuantizeLinear", rows(m), outputs=3)
    return m("Mul", m("Cast", m("MatMulInteger", q, codes(m, WIDE, 7), zero), to=1), scale)


def product_of_float_and_integers(m):
    unit, bias = m.random(7, positive=True), m.random(7)
    return m("DynamicQuantizeMatMul", rows(m), codes(m, WIDE, 7), unit, "", bias, domain=MICROSOFT)


def integers_to_float(m):
    q, scale, zero = m("DynamicQuantizeLinear", rows(m), outputs=3)
    unit, bias = m.random(7, positive=True), m.random(7)
    return m("MatMulIntegerToFloat", q, codes(m, WIDE, 7), scale, unit, zero, "", bias, domain=MICROSOFT)


def quantised_lstm(m):
    w, r = (codes(m, 1, width, 4 * HIDDEN) for width in (WIDE, HIDDEN))
    scales = [m.constant(np.full(1, v, kind)) for v, kind in 2 * ((0.1, np.float32), (3, np.uint8))]
    given = [w, r, m.random(1, 8 * HIDDEN), *[""] * 4, *scales]
    return m("DynamicQuantizeLSTM", columns(m), *given, hidden_size=HIDDEN, domain=MICROSOFT)


def grouped_attention(m):
    """Queries of 2 heads on keys and values of 1."""
    x = rows(m)
    k, v = (m("MatMul", x, m.random(WIDE, 18)) for _ in range(2))
    return m("Attention", x, k, v, q_num_heads=2, kv_num_heads=1)


def attention_on_axes(m):
    """The heads on an axis of their own."""
    heads = m("Transpose", m("Reshape", rows(m), m.constant([-1, STEPS, 3, 12])), perm=[0, 2, 1, 3])
    return m("Attention", heads, heads, heads)


def onnx_runtimes_attention(m):
    given = rows(m), m.random(WIDE, 3 * WIDE), m.random(3 * WIDE)
    return m("MatMul", m("Attention", *given, num_heads=4, domain=MICROSOFT), m.random(WIDE, 7))


def quantised_attention(m):
    q, scale, zero = m("DynamicQuantizeLinear", rows(m), outputs=3)
    given = codes(m, WIDE, 3 * WIDE), m.random(3 * WIDE), scale, m.constant(np.float32(0.1)), "", zero
    return m("MatMul", m("QAttention", q, *given, num_heads=4, domain=MICROSOFT), m.random(WIDE, 7))


def many_heads(m):
    x = rows(m)
    return m("MatMul", m("MultiHeadAttention", x, x, x, num_heads=4, domain=MICROSOFT), m.random(WIDE, 7))


def einsum(equation, *shapes):
    return lambda m: m("Einsum", rows(m), *[m.random(*shape) for shape in shapes], equation=equation)


INSIDE = 2 * STEPS * STEPS * WIDE  # queries by keys, and weights by values
PROJECTED = STEPS * WIDE * 3 * WIDE + INSIDE + STEPS * WIDE * 7, 3 * WIDE * WIDE + 3 * WIDE + WIDE * 7
LSTM = STEPS * 4 * HIDDEN * (WIDE + HIDDEN), 4 * HIDDEN * (WIDE + HIDDEN + 2)
COUNTED = {  # how it is built, the opset, and what is counted: work, learned numbers
    # Each input is counted once for each tap.
    "transposed convolution": (
        lambda m: m("ConvTranspose", "image", m.random(4, 3, 2, 2), strides=[2, 2], group=2),
        17, 4 * 9 * 11 * 3 * 4, 4 * 3 * 2 * 2,
    ),
    "Gemm": (lambda m: m("Gemm", m("Flatten", "image"), m.random(5, 396), transB=1), 17, 5 * 396, 5 * 396),
    "Gemm of columns": (
        lambda m: m("Gemm", m("Transpose", m("Flatten", "image"), perm=[1, 0]), m.random(396, 5), transA=1),
        17, 5 * 396, 5 * 396,
    ),
    "MatMul": (lambda m: m("MatMul", "image", m.random(11, 7)), 17, 4 * 9 * 11 * 7, 77),
    "MatMul of two maps": (
        lambda m: m("MatMul", "image", m("Transpose", "image", perm=[0, 1, 3, 2])), 17, 4 * 9 * 9 * 11, 0,
    ),
    "Einsum of maps": (
        lambda m: m("Einsum", "image", m.random(4, 7), equation="bchw,cd->bdhw"), 13, 4 * 9 * 11 * 7, 28,
    ),
    "Einsum": (einsum("bsw,wk->bsk", (WIDE, 7)), 17, STEPS * WIDE * 7, WIDE * 7),
    "Einsum with dots": (einsum("...w,wk->...k", (WIDE, 7)), 17, STEPS * WIDE * 7, WIDE * 7),
    "Einsum with spaces": (einsum("b...w, w k -> b...k", (WIDE, 7)), 17, STEPS * WIDE * 7, WIDE * 7),
    "Einsum over two": (einsum("bsw,sw->bs", (STEPS, WIDE)), 17, STEPS * WIDE, STEPS * WIDE),
    "Einsum of three": (
        einsum("bsw,wk,kj->bsj", (WIDE, 7), (7, 2)), 17, 2 * STEPS * WIDE * 7 * 2, WIDE * 7 + 7 * 2,
    ),
    "what is not counted": (
        lambda m: m("Relu", m("Add", m("MaxPool", "image", kernel_shape=[2, 2]), m.constant(np.float32(1)))),
        17, 0, 0,
    ),
    "convolution of integers": (integer_convolution, 17, 6 * 4 * 9 * 7 * 9, 6 * 4 * 9),
    "product of integers": (integer_product, 17, STEPS * WIDE * 7, WIDE * 7),
    # Scales are no learned numbers.
    "product of float and integers": (product_of_float_and_integers, 17, STEPS * WIDE * 7, WIDE * 7 + 7),
    "integers to float": (integers_to_float, 17, STEPS * WIDE * 7, WIDE * 7 + 7),
    "quantised LSTM": (quantised_lstm, 17, *LSTM),
    "attention of the standard": (
        grouped_attention, 23, 2 * STEPS * WIDE * 18 + 2 * STEPS * STEPS * (18 + 18), 2 * WIDE * 18,
    ),
    "attention on axes": (attention_on_axes, 23, 3 * STEPS * STEPS * (12 + 12), 0),
    "attention of ONNX Runtime": (onnx_runtimes_attention, 17, *PROJECTED),
    "quantised attention": (quantised_attention, 17, *PROJECTED),
    "many heads": (many_heads, 17, INSIDE + STEPS * WIDE * 7, WIDE * 7),
}  # fmt: skip


@pytest.mark.parametrize("name", COUNTED)
def test_counts_by_the_formulas_of_their_definitions(name):
    build, opset, *expected = COUNTED[name]
    m = Maker(opset)
    assert total(m, m("Relu", build(m))) == tuple(expected)


@pytest.mark.parametrize(("op", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("layout", [0, 1])
def test_recurrent_cells(op, gates, directions, layout):
    """Every step multiplies the input and the state with the matrices of every gate and direction."""
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
