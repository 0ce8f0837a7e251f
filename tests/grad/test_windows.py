"""Convolutions and pools: linear ones by the adjoint identity, maxima at separated inputs; geometry by hypothesis."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxviz.errors import UnsupportedOperator
from tests.grad.oracle import (
    LINEAR,
    PIECEWISE,
    Case,
    apart,
    case,
    check,
    differentiated,
    each_form,
    normal,
    session,
)


def shown(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def conv(x, w, bias=0, op="Conv", **attributes) -> Case:
    more = {"b": normal(bias)} if bias else {}
    label = f"{shown(x)}w{shown(w)}"
    return case(op, x=normal(*x), w=normal(*w), **more, label=label, **attributes, **LINEAR)


deconv = partial(conv, op="ConvTranspose")
CONV = [
    conv((2, 3, 7), (4, 3, 3)),
    conv((2, 3, 7), (4, 3, 3), strides=[2], pads=[1, 0]),
    conv((1, 2, 5, 6, 4), (3, 2, 3, 2, 1), pads=[1, 0, 0, 1, 1, 0], strides=[2, 1, 2]),
    conv((2, 4, 6, 7), (6, 4, 3, 3), bias=6, pads=[1, 1, 1, 1]),
    conv((2, 4, 6, 7), (6, 2, 3, 2), group=2, pads=[0, 1, 2, 0], strides=[1, 2], dilations=[2, 1]),
    conv((2, 4, 6, 7), (8, 1, 3, 3), group=4, pads=[1, 1, 1, 1]),
    conv((2, 4, 6, 7), (4, 1, 3, 3), group=4, pads=[1, 1, 1, 1]),
    conv((2, 4, 8, 8), (4, 1, 3, 3), group=4, pads=[1, 1, 1, 1], strides=[2, 2]),
    conv((2, 4, 7, 8), (4, 1, 3, 3), group=4, pads=[0, 0, 1, 1], strides=[2, 2]),
    conv((2, 4, 9, 9), (4, 1, 5, 5), group=4, pads=[2, 2, 2, 2], strides=[3, 2]),
    conv((2, 4, 7, 8), (5, 4, 1, 1), strides=[2, 3]),
    conv((2, 4, 7, 8), (5, 4, 1, 1)),
    conv((2, 4, 7, 8), (4, 2, 1, 1), strides=[2, 2], group=2),
    conv((2, 4, 7, 8), (5, 4, 1, 1), strides=[2, 2], pads=[1, 0, 0, 1]),
    conv((2, 3, 5, 5), (4, 3, 2, 2), pads=[2, 3, 2, 3]),
    conv((2, 3, 11, 10), (4, 3, 3, 3), strides=[4, 4]),
    conv((2, 4, 7, 7), (4, 2, 2, 2), pads=[3, 2, 1, 2], strides=[2, 2], group=2),
    *(
        conv((1, 2, n, n + 1), (3, 2, k, k), auto_pad=mode, strides=[s, s])
        for n, k, s, mode in itertools.product((6, 7), (2, 3), (1, 2), ("SAME_UPPER", "SAME_LOWER"))
    ),
    conv((1, 2, 6, 7), (3, 2, 3, 3), auto_pad="VALID", strides=[2, 2]),
]


DECONV = [
    deconv((2, 3, 5), (3, 4, 3)),
    deconv((2, 3, 4, 5), (3, 4, 3, 2), bias=4, strides=[2, 3], pads=[1, 0, 0, 1]),
    deconv((2, 4, 4, 5), (4, 2, 3, 3), group=2, strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1]),
    deconv((2, 4, 4, 5), (4, 1, 3, 3), group=4, strides=[2, 2]),
    deconv((1, 2, 3, 3, 3), (2, 3, 2, 2, 2), strides=[2, 1, 2]),
    deconv((1, 2, 4, 5), (2, 3, 3, 3), dilations=[2, 2], pads=[1, 2, 1, 2]),
    deconv((1, 2, 4, 5), (2, 3, 3, 3), strides=[2, 2], auto_pad="SAME_UPPER"),
    deconv((1, 2, 4, 5), (2, 3, 3, 3), strides=[2, 2], auto_pad="SAME_LOWER"),
    deconv((1, 2, 4, 5), (2, 3, 3, 3), strides=[2, 2], auto_pad="VALID"),
]
FIXED_SHAPE = [
    deconv((1, 2, 4, 5), (2, 3, 3, 3), strides=[3, 2], output_shape=shape, dynamic=False)
    for shape in ([10, 8], [12, 11])
]


def pool(op, x, opset=18, **attributes) -> Case:
    how = PIECEWISE if op in ("MaxPool", "LpPool", "GlobalMaxPool") else LINEAR
    return case(op, x=apart(*x, gap=0.5), opset=opset, label=shown(x), **attributes, **how)


SHAPES = [
    dict(x=(2, 3, 9), kernel_shape=[3]),
    dict(x=(2, 3, 9), kernel_shape=[3], strides=[2], pads=[1, 1]),
    dict(x=(1, 2, 7, 8), kernel_shape=[2, 2], strides=[2, 2]),
    dict(x=(1, 2, 8, 8), kernel_shape=[2, 2], strides=[2, 2]),
    dict(x=(1, 2, 7, 8), kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    dict(x=(1, 2, 7, 8), kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 1]),
    dict(x=(1, 2, 7, 8), kernel_shape=[3, 2], strides=[1, 1]),
    dict(x=(1, 2, 7, 8), kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    dict(x=(1, 2, 7, 8), kernel_shape=[2, 2], strides=[3, 3]),
    dict(x=(1, 2, 5, 6, 4), kernel_shape=[2, 3, 2], strides=[2, 1, 2]),
    dict(x=(1, 2, 7, 8), kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER"),
    dict(x=(1, 2, 7, 8), kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_LOWER"),
    dict(x=(1, 2, 7, 8), kernel_shape=[2, 2], auto_pad="SAME_UPPER"),
    dict(x=(1, 2, 7, 8), kernel_shape=[3, 2], strides=[2, 2], auto_pad="VALID"),
]
CEIL = [
    dict(x=(1, 2, 7, 8), kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
    dict(x=(1, 2, 7, 8), kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
    dict(x=(1, 2, 7, 8), kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], ceil_mode=1),
    dict(x=(1, 2, 10, 11), kernel_shape=[3, 3], strides=[3, 3], pads=[1, 0, 1, 0], ceil_mode=1),
]
HUGE = [
    dict(x=(1, 2, 7, 5), kernel_shape=[900, 800], strides=[900, 800], ceil_mode=1, dynamic=False),
    dict(x=(1, 2, 7, 5), kernel_shape=[5, 5], strides=[900, 900], dynamic=False),
    dict(x=(1, 2, 7, 5), kernel_shape=[7, 5]),
]
DILATED = [
    dict(x=(1, 2, 9, 8), kernel_shape=[3, 2], dilations=[2, 3]),
    dict(x=(1, 2, 9, 8), kernel_shape=[3, 2], dilations=[2, 1], strides=[2, 2], pads=[2, 0, 2, 1]),
]
POOL = [
    *(pool("MaxPool", **s) for s in SHAPES + CEIL + DILATED),
    *(pool("MaxPool", opset=8, **s) for s in SHAPES[:3]),
    *(pool("AveragePool", **s) for s in SHAPES + CEIL),
    *(pool("AveragePool", opset=7, **s) for s in SHAPES[:5]),
    *(pool("AveragePool", count_include_pad=1, **s) for s in SHAPES + CEIL + HUGE),
    *(pool("AveragePool", **s) for s in HUGE),
    *(pool("AveragePool", opset=19, **s) for s in DILATED),
    *(pool("AveragePool", opset=19, count_include_pad=1, **s) for s in DILATED),
    *(pool("LpPool", p=p, **s) for p in (1, 2, 3) for s in SHAPES[:7]),
    *(pool("LpPool", **s) for s in DILATED),
    *(
        pool(f"Global{kind}Pool", x=x)
        for kind in ("Average", "Max")
        for x in ((2, 3, 7), (2, 3, 4, 5), (2, 1, 2, 3, 4))
    ),
    *(case("GlobalLpPool", x=apart(2, 3, 4, 3, gap=0.3), p=p, **PIECEWISE) for p in (1, 2, 3)),
]

# ONNX Runtime rounds towards 0: of a window longer than all there is, there is one of a stride above 1, over the taps
# that the input has.
SHORT = [
    pool(op, (1, 2, *lengths), opset=19, **attributes)
    for op in ("MaxPool", "AveragePool", "LpPool")
    for lengths, attributes in (
        ((2, 2), {"kernel_shape": [3, 3], "strides": [2, 2]}),
        ((2, 9), {"kernel_shape": [3, 3], "strides": [2, 2]}),
        ((4, 4), {"kernel_shape": [3, 3], "strides": [4, 4], "dilations": [3, 3]}),
        ((5, 7), {"kernel_shape": [3, 2], "strides": [3, 3], "dilations": [3, 6]}),
        ((1, 1), {"kernel_shape": [2, 2], "strides": [2, 2]}),
    )
]


@pytest.mark.parametrize("case", CONV + DECONV + FIXED_SHAPE + POOL + SHORT, ids=lambda case: case.id)
@each_form
def test_rule(case: Case, dynamic: bool) -> None:
    dynamic = dynamic and case.dynamic
    check(replace(case, constant=("w",)) if dynamic and "w" in case.inputs else case, dynamic=dynamic)


def test_huge_strides_over_unknown_sizes_are_refused() -> None:
    """A global pool in disguise: its adjoint would be laid out over kernel times kernel pixels."""
    case = pool("AveragePool", (1, 2, 7, 5), kernel_shape=[900, 900], strides=[900, 900], ceil_mode=1)
    with pytest.raises(UnsupportedOperator, match="fixed size"):
        check(case, dynamic=True)


@st.composite
def geometries(draw):
    """A convolution whose windows fit: kernel, stride, dilation, pads and groups at random."""
    axes = draw(st.integers(1, 2))
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    per_in, per_out = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    kernel = [draw(st.integers(1, 3)) for _ in range(axes)]
    dilations = [draw(st.integers(1, 2)) for _ in range(axes)]
    strides = [draw(st.integers(1, 3)) for _ in range(axes)]
    pads = [draw(st.integers(0, 3)) for _ in range(2 * axes)]
    lengths = [draw(st.integers(d * (k - 1) + 1, 8)) for k, d in zip(kernel, dilations, strict=True)]
    return groups, per_in, per_out, kernel, dilations, strides, pads, lengths, draw(st.booleans())


@settings(max_examples=60, deadline=None)
@given(geometries())
def test_any_convolution(geometry) -> None:
    groups, per_in, per_out, kernel, dilations, strides, pads, lengths, dynamic = geometry
    shapes = (2, groups * per_in, *lengths), (groups * per_out, per_in, *kernel)
    fixed = {"constant": "w" if dynamic else "", "group": groups}
    check(conv(*shapes, dilations=dilations, strides=strides, pads=pads, **fixed), dynamic=dynamic)


@settings(max_examples=60, deadline=None)
@given(geometries(), st.sampled_from(["MaxPool", "AveragePool"]), st.booleans(), st.booleans())
def test_any_pool(geometry, op, ceil, include) -> None:
    _, _, _, kernel, _, strides, pads, lengths, dynamic = geometry
    pads = [min(p, k - 1) for p, k in zip(pads, kernel * 2, strict=True)]
    attributes = {"kernel_shape": kernel, "strides": strides, "pads": pads, "ceil_mode": int(ceil)}
    if op == "AveragePool":
        attributes["count_include_pad"] = int(include)
    check(pool(op, (2, 2, *lengths), **attributes), dynamic=dynamic)


def gradient(one: Case, wrt: str | None = None) -> np.ndarray:
    """By x, of the sum of y."""
    y = session(one.model()).run(None, one.feeds())[0]
    feeds = one.feeds() | {"y.cotangent": np.ones_like(y)}
    return session(differentiated(one.model(), wrt=wrt)).run(["x.gradient"], feeds)[0]


@pytest.mark.parametrize(
    "op, side, attributes",
    [("MaxPool", 2, {"kernel_shape": [2, 2], "strides": [1, 1]}), ("GlobalMaxPool", 1, {})],
)
def test_ties_go_to_the_first_index(op, side, attributes) -> None:
    """As torch: equal maxima share nothing."""
    expected = np.zeros((3, 3))
    expected[:side, :side] = 1
    ones = case(op, x=np.ones((1, 1, 3, 3), np.float32), **attributes)
    np.testing.assert_array_equal(gradient(ones)[0, 0], expected)


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool", "LpPool", "Conv"])
def test_a_stride_beyond_all_that_there_is(op) -> None:
    """One window an axis, whatever the stride: 2^63 - 1 is as 100."""
    more = {"w": apart(2, 2, 2, 2)} if op == "Conv" else {}
    window = partial(case, op, x=apart(1, 2, 5, 6), kernel_shape=[2, 2], **more)
    first, *others = (gradient(window(strides=[s, s]), "x") for s in (2**63 - 1, 2**40, 100))
    assert np.abs(first).max() > 0 and not first[..., 2:, :].any() and not first[..., 2:].any()
    for other in others:
        np.testing.assert_array_equal(first, other)
