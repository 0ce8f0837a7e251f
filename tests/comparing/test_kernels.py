"""The same weights are found whatever operator they stand in, and whatever their filters and inputs were scaled by."""

from __future__ import annotations

import numpy as np
import pytest

from onnxviz.comparing.kernels import factors, likeness, taken_back, vary
from onnxviz.comparing.sides import Side
from onnxviz.comparing.values import Projector
from tests.comparing.small import opened
from tests.networks import Maker

RNG = np.random.default_rng(0)
DENSE = RNG.standard_normal((24, 12)).astype(np.float32)  # filters, inputs


def kernels(build, **options):
    """The kernels of a network of one layer that reads 12 channels of 4×4."""
    m = Maker(**options)
    out = build(m, m("Conv", "image", np.full((12, 3, 1, 1), 0.5), name="first"))
    net = opened(m.model({"image": (1, 3, 4, 4)}, {out: None}), preprocess="unit")
    return Side(net, np.zeros((1, 3, 4, 4), np.float32), Projector()).kernels


def conv(weights, **attributes):
    return lambda m, x: m("Conv", x, weights[:, :, None, None], **attributes)


def rows(m, x):
    """(1, 16, 12): the channels last."""
    return m("Reshape", m("Transpose", x, perm=[0, 2, 3, 1]), [1, 16, 12])


SPELLINGS = {
    "MatMul": lambda m, x: m("MatMul", rows(m, x), DENSE.T),
    "MatMul from the left": lambda m, x: m("MatMul", DENSE, m("Reshape", x, [1, 12, 16])),
    "Gemm": lambda m, x: m("Gemm", m("Reshape", rows(m, x), [16, 12]), DENSE.T),
    "Gemm transposed": lambda m, x: m("Gemm", m("Reshape", rows(m, x), [16, 12]), DENSE, transB=1),
    "computed": lambda m, x: m("Conv", x, m("Mul", DENSE[:, :, None, None], [3.0])),
    "ConvTranspose": lambda m, x: m("ConvTranspose", x, DENSE.T[:, :, None, None].copy()),
    "scaled filters": conv(DENSE * RNG.uniform(0.1, 9, (24, 1)).astype(np.float32)),
    "scaled inputs": conv(DENSE * RNG.uniform(0.1, 9, 12).astype(np.float32)),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_the_same_weights_are_alike_however_they_are_written(name):
    (_, plain), (_, other) = kernels(conv(DENSE)), kernels(SPELLINGS[name])
    assert likeness(plain, other) > 0.999
    assert plain.macs == other.macs == 24 * 12 * 16
    drawn = np.random.default_rng(9).standard_normal(DENSE.shape).astype(np.float32)
    assert likeness(kernels(conv(drawn))[1], other) < 0.4


def test_a_product_behind_a_map_with_channels_last():
    weights = RNG.standard_normal((5, 12 * 16)).astype(np.float32)
    turned = weights.reshape(5, 12, 4, 4).transpose(0, 2, 3, 1).reshape(5, -1)

    def flat(array, perm):
        def build(m, x):
            x = m("Transpose", x, perm=perm) if perm else x
            return m("Gemm", m("Flatten", x), array, transB=1)

        return build

    first, last = kernels(flat(weights, None))[1], kernels(flat(turned, [0, 2, 3, 1]))[1]
    assert likeness(first, last) > 0.999
    assert likeness(first, kernels(flat(turned, None))[1]) < 0.3
    other = kernels(flat(RNG.standard_normal(weights.shape).astype(np.float32), None))[1]
    assert likeness(first, other) < 0.3


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
def test_groups_are_kept_apart(op):
    """What a filter and what an input was scaled by is told apart, in each group."""
    weights = RNG.standard_normal((12, 4, 3, 3)).astype(np.float32)  # three groups
    rows_by, columns_by = (RNG.uniform(0.25, 4, 12).astype(np.float32) for _ in range(2))
    grouped = weights.reshape(3, 4, 4, 9)
    scaled = grouped * rows_by.reshape(3, 4, 1, 1) * columns_by.reshape(3, 1, 4, 1)
    sides = [array.swapaxes(1, 2) if op == "ConvTranspose" else array for array in (grouped, scaled)]
    a, b = (
        kernels(lambda m, x, w=w: m(op, x, w.reshape(12, 4, 3, 3).copy(), group=3, pads=[1] * 4))[1]
        for w in sides
    )
    assert likeness(a, b) > 0.999
    found = factors(a, b)
    assert vary(found)
    for group in range(3):
        part = slice(4 * group, 4 * group + 4)
        np.testing.assert_allclose(np.diff(found[part]), np.diff(np.log(rows_by[part])), atol=0.02)
    assert taken_back(-np.log(b.inputs / a.inputs), a, b)
    assert not taken_back(np.log(b.inputs / a.inputs), a, b)


def test_recurrent_cells_have_weights():
    shapes = (1, 16, 12), (1, 16, 4)
    weights = [RNG.standard_normal(shape).astype(np.float32) for shape in shapes]

    def build(m, x):
        return m("LSTM", m("Reshape", x, [16, 1, 12]), *weights, hidden_size=4)

    a, b = kernels(build)[1], kernels(build)[1]
    assert likeness(a, b) > 0.999
    assert a.macs == 16 * 16 * (12 + 4)
    weights[1] = -weights[1][:, ::-1].copy()
    assert likeness(a, kernels(build)[1]) < 0.95
