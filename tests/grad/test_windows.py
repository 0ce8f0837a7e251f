"""Convolutions and pools: linear ones by the adjoint identity, maxima at separated inputs; geometry by hypothesis."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxviz.errors import UnsupportedOperator
from tests.grad.oracle import Case, apart, check, normal

# Linear operators are differenced with a large step in ONNX Runtime: exact up to rounding at any step.
LINEAR = {"oracle": "ort", "step": 1.0}
PIECEWISE = {"oracle": "ort", "step": 0.05, "tolerance": 5e-4}


def conv(x, w, bias=False, **attributes) -> Case:
    label = attributes.pop("label", "") + "x".join(map(str, x)) + "w" + "x".join(map(str, w))
    inputs = {"x": normal(*x), "w": normal(*w)}
    if bias:
        inputs["b"] = normal(w[0])
    return Case("Conv", inputs, attributes, label=label, **LINEAR)


CONV = [
    conv((2, 3, 7), (4, 3, 3)),
    conv((2, 3, 7), (4, 3, 3), strides=[2], pads=[1, 0]),
    conv((1, 2, 5, 6, 4), (3, 2, 3, 2, 1), pads=[1, 0, 0, 1, 1, 0], strides=[2, 1, 2]),
    conv((2, 4, 6, 7), (6, 4, 3, 3), bias=True, pads=[1, 1, 1, 1]),
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


def deconv(x, w, bias=0, **attributes) -> Case:
    label = "x".join(map(str, x)) + "w" + "x".join(map(str, w))
    inputs = {"x": normal(*x), "w": normal(*w)}
    if bias:
        inputs["b"] = normal(bias)
    return Case("ConvTranspose", inputs, attributes, label=label, **LINEAR)


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
    deconv((1, 2, 4, 5), (2, 3, 3, 3), strides=[3, 2], output_shape=[10, 8]),
    deconv((1, 2, 4, 5), (2, 3, 3, 3), strides=[3, 2], output_shape=[12, 11]),
]


def pool(op, x, opset=18, **attributes) -> Case:
    how = PIECEWISE if op in ("MaxPool", "LpPool", "GlobalMaxPool") else LINEAR
    values = apart(*x, gap=0.5)
    return Case(op, {"x": values}, attributes, opset=opset, label="x".join(map(str, x)), **how)


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
    dict(x=(1, 2, 7, 5), kernel_shape=[900, 800], strides=[900, 800], ceil_mode=1),
    dict(x=(1, 2, 7, 5), kernel_shape=[5, 5], strides=[900, 900]),
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
    *(
        Case(
            "GlobalLpPool",
            {"x": apart(2, 3, 4, 3, gap=0.3)},
            {"p": p},
            oracle="ort",
            step=0.05,
            tolerance=5e-4,
        )
        for p in (1, 2, 3)
    ),
]


@pytest.mark.parametrize("case", CONV + DECONV + POOL, ids=lambda case: case.id)
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_rule(case: Case, dynamic: bool) -> None:
    dynamic = dynamic and max(case.attributes.get("strides", [0])) < 100
    if dynamic and "w" in case.inputs:
        case = Case(**{**case.__dict__, "constant": ("w",)})
    check(case, dynamic=dynamic)


def test_huge_strides_over_unknown_sizes_are_refused() -> None:
    """A global pool in disguise: its adjoint would be laid out over kernel times kernel pixels."""
    case = pool("AveragePool", (1, 2, 7, 5), kernel_shape=[900, 900], strides=[900, 900], ceil_mode=1)
    with pytest.raises(UnsupportedOperator, match="fixed size"):
        check(case, dynamic=True)


@pytest.mark.parametrize("case", FIXED_SHAPE, ids=lambda case: case.id)
def test_output_shape(case: Case) -> None:
    check(case)


sizes = st.integers(4, 9)


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
    case = Case(
        "Conv",
        {"x": normal(2, groups * per_in, *lengths), "w": normal(groups * per_out, per_in, *kernel)},
        {"group": groups, "dilations": dilations, "strides": strides, "pads": pads},
        constant=("w",) if dynamic else (),
        **LINEAR,
    )
    check(case, dynamic=dynamic)


@settings(max_examples=60, deadline=None)
@given(geometries(), st.sampled_from(["MaxPool", "AveragePool"]), st.booleans(), st.booleans())
def test_any_pool(geometry, op, ceil, include) -> None:
    _, _, _, kernel, _, strides, pads, lengths, dynamic = geometry
    pads = [min(p, k - 1) for p, k in zip(pads, kernel * 2, strict=True)]
    attributes = {"kernel_shape": kernel, "strides": strides, "pads": pads, "ceil_mode": int(ceil)}
    if op == "AveragePool":
        attributes["count_include_pad"] = int(include)
    check(pool(op, (2, 2, *lengths), **attributes), dynamic=dynamic)


SHORT = [
    ((2, 2), {"kernel_shape": [3, 3], "strides": [2, 2]}),
    ((2, 9), {"kernel_shape": [3, 3], "strides": [2, 2]}),
    ((4, 4), {"kernel_shape": [3, 3], "strides": [4, 4], "dilations": [3, 3]}),
    ((5, 7), {"kernel_shape": [3, 2], "strides": [3, 3], "dilations": [3, 6]}),
    ((1, 1), {"kernel_shape": [2, 2], "strides": [2, 2]}),
]


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("op", ["MaxPool", "AveragePool", "LpPool"])
@pytest.mark.parametrize("lengths, attributes", SHORT)
def test_a_window_longer_than_all_there_is_hangs_over(lengths, attributes, op, dynamic) -> None:
    """ONNX Runtime rounds towards 0, so that there is one of a stride above 1: over the taps that the input has."""
    check(pool(op, (1, 2, *lengths), opset=19, **attributes), dynamic=dynamic)


def test_ties_go_to_the_first_index() -> None:
    """As torch: equal maxima share nothing."""
    import onnx_ir as ir

    from onnxviz.grad.model import gradient_model
    from tests.grad.oracle import session

    for op, attributes in (("MaxPool", {"kernel_shape": [2, 2], "strides": [1, 1]}), ("GlobalMaxPool", {})):
        case = Case(op, {"x": np.ones((1, 1, 3, 3), np.float32)}, attributes)
        proto = ir.to_proto(gradient_model(ir.from_proto(case.model())))
        y = session(case.model()).run(None, case.feeds())[0]
        gradient = session(proto).run(["x.gradient"], case.feeds() | {"y.cotangent": np.ones_like(y)})[0]
        expected = np.zeros((3, 3))
        expected[: y.shape[2], : y.shape[3]] = 1
        np.testing.assert_array_equal(gradient[0, 0], expected)


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool", "LpPool", "Conv"])
def test_a_stride_beyond_all_that_there_is(op) -> None:
    """One window an axis, whatever the stride: 2^63 - 1 is as 100."""
    import onnx_ir as ir

    from onnxviz.grad.model import gradient_model
    from tests.grad.oracle import session

    found = []
    for stride in (2**63 - 1, 2**40, 100):
        more = {"w": apart(2, 2, 2, 2)} if op == "Conv" else {}
        case = Case(
            op,
            {"x": apart(1, 2, 5, 6), **more},
            {"kernel_shape": [2, 2], "strides": [stride, stride]},
            opset=18,
        )
        proto = ir.to_proto(gradient_model(ir.from_proto(case.model()), wrt="x"))
        y = session(case.model()).run(None, case.feeds())[0]
        assert y.shape == (1, 2, 1, 1)
        found.append(session(proto).run(["x.gradient"], case.feeds() | {"y.cotangent": np.ones_like(y)})[0])
    assert np.abs(found[0]).max() > 0 and not found[0][..., 2:, :].any() and not found[0][..., 2:].any()
    for other in found[1:]:
        np.testing.assert_array_equal(found[0], other)
