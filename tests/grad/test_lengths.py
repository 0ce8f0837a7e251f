"""Resize and pools have the lengths that ONNX Runtime gives, and the gradient of what it computes.

ONNX's own inference says otherwise for scales such as 2.3333333 (3 to 7), for ceil_mode with a window that starts
behind the picture, for auto_pad with dilations, and for kept aspect ratios. Forms are drawn from fixed seeds; one that
ONNX Runtime itself refuses is passed over.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxviz.errors import ModelUnsuitable, UnsupportedOperator
from tests.grad.oracle import differentiated, session
from tests.graph.running import shapes
from tests.networks import Maker, from_nodes, node


def model(op, shape, inputs=(), opset=18, **attributes):
    """One node on x; `inputs` are its further inputs: arrays, or None for one left out."""
    weights = {f"i{place}": array for place, array in enumerate(inputs) if array is not None}
    names = [f"i{place}" if f"i{place}" in weights else "" for place in range(len(inputs))]
    nodes = [node(op, ["x", *names], ["y"], **attributes)]
    return from_nodes(nodes, {"x": shape}, {"y": None}, weights, opset=opset, ir=9)


def runs(proto, shape):
    """What ONNX Runtime gives for zeros of this shape: the length is its own, no declaration stands in the way."""
    free = onnx.ModelProto()
    free.CopyFrom(proto)
    for axis, dim in enumerate(free.graph.input[0].type.tensor_type.shape.dim):
        if axis > 1:
            dim.dim_param = f"d{axis}"
    try:
        return session(free).run(None, {"x": np.zeros(shape, np.float32)})[0].shape
    except Exception:  # the runtime's own refusals have no common type
        return None


def check(proto, shape, *, linear):
    """Lengths as the runtime's; the gradient as differences of the runtime's own outputs."""
    given = runs(proto, shape)
    if given is None or 0 in given:
        return False
    assert shapes(ir.from_proto(proto))["y"] == given
    made = differentiated(proto)
    rng = np.random.default_rng(1)
    # Far apart, so that no step changes which one is the largest of a window.
    x = rng.normal(size=shape) if linear else rng.permutation(int(np.prod(shape))).reshape(shape) / 10
    u, v = rng.normal(size=given), rng.normal(size=shape)
    x, u, v = (array.astype(np.float32) for array in (x, u, v))
    plain = session(proto)
    y, gradient = session(made).run(None, {"x": x, "y.cotangent": u})
    np.testing.assert_allclose(y, plain.run(None, {"x": x})[0], atol=1e-4, rtol=1e-4)
    step = np.float32(1e-2)
    high, low = (plain.run(None, {"x": x + sign * step * v})[0].astype(np.float64) for sign in (1, -1))
    slopes = (high - low) / (2 * step) * u
    assert abs(slopes.sum() - (v * gradient).sum(dtype=np.float64)) <= 1e-2 * np.abs(slopes).sum() + 1e-4
    return True


# --- Resize and Upsample --------------------------------------------------------------------------

THIRDS = [(3, 7), (7, 15), (11, 23), (15, 31), (6, 14), (9, 21), (13, 38), (26, 64), (5, 9), (12, 10)]


@pytest.mark.parametrize("before, after", THIRDS)
def test_scales_in_float32(before, after):
    scale = np.array([1, 1, np.float32(after / before), 1.5], np.float32)
    shape = (1, 2, before, 4)
    for opset in (9, 10, 11, 13, 18, 19):
        op, places = ("Upsample", [scale]) if opset == 9 else ("Resize", [None, scale])
        if opset in (10, 11):
            places = [scale] if opset == 10 else [np.array([], np.float32), scale]
        for mode in ("nearest", "linear"):
            assert check(model(op, shape, places, opset, mode=mode), shape, linear=True) or scale[2] < 1
    shown = shapes(ir.from_proto(model("Resize", shape, [None, scale])))["y"]
    assert shown == (1, 2, after, 6)


def test_scales_as_exporters_compute_them():
    """sizes / Shape, as torch writes interpolate(size=...) below opset 11: ONNX Runtime folds it when it loads."""
    m = Maker(opset=9)
    scales = m("Div", m.constant([1.0, 3, 7, 15]), m("Cast", m("Shape", "x"), to=1))
    up = m("Upsample", "x", scales)
    y = m("Conv", up, m.constant(np.ones((2, 3, 3, 3))), pads=[1] * 4)
    proto = m.model({"x": (1, 3, 3, 7)}, {y: None}, ir=5)
    proto.graph.node[-1].output[0] = proto.graph.output[0].name = "y"
    assert shapes(ir.from_proto(proto))[up] == (1, 3, 7, 15)
    assert check(proto, (1, 3, 3, 7), linear=True)


FLOOR = {"coordinate_transformation_mode": "tf_half_pixel_for_nn", "nearest_mode": "floor"}
NONE = np.array([], np.float32)
FORMS = [
    # 1.33 of 3 is 3 again, but not the same three: the axis is resampled; alone, ONNX Runtime hands the picture on.
    *(
        ((3, 3), 18, [None, [1, 1, 1.33, other]], {"mode": mode})
        for other in (1.0, 2.0, 7 / 3)
        for mode in ("nearest", "linear")
    ),
    # Opset 10 rounds up where it shrinks.
    *(((11, 7), 10, [s], {}) for s in ([1, 1, 0.45, 0.45], [1, 1, 0.6, 2.5], [1, 1, 1.25, 0.5])),
    # The places of TensorFlow's nearest.
    ((5, 4), 11, [NONE, [1, 1, 2.5, 1.75]], FLOOR),
]


@pytest.mark.parametrize("size, opset, inputs, attributes", FORMS)
def test_the_places_that_are_read(size, opset, inputs, attributes):
    given = [None if one is None else np.array(one, np.float32) for one in inputs]
    assert check(model("Resize", (1, 1, *size), given, opset, **attributes), (1, 1, *size), linear=True)


def drawn(rng):
    """One form of Resize."""
    opset = int(rng.choice([11, 13, 18, 19, 21]))
    height, width = (int(n) for n in rng.integers(2, 16, 2))
    mode = str(rng.choice(["nearest", "linear", "cubic"]))
    places = ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "tf_crop_and_resize"]
    place = str(rng.choice([*places, "half_pixel_symmetric"] if opset >= 19 else places))
    attributes = {"mode": mode, "coordinate_transformation_mode": place}
    if mode == "nearest":
        attributes["nearest_mode"] = str(
            rng.choice(["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
        )
    if mode == "cubic":
        attributes |= {"cubic_coeff_a": -0.5, "exclude_outside": int(rng.integers(2))}
    axes = [[2, 3], [3, 2], [-2, -1], [3], None][int(rng.integers(5))] if opset >= 18 else None
    if axes is not None:
        attributes["axes"] = axes
    if opset >= 18 and mode != "nearest" and not rng.integers(3):
        attributes["antialias"] = 1

    def along(first, second):
        return [first, second] if axes is None else [first if a in (2, -2) else second for a in axes]

    pair = [1, 1] if axes is None else []
    inputs = [None if opset > 11 else np.array([], np.float32)]
    if place == "tf_crop_and_resize":
        attributes["extrapolation_value"] = 0.5
        ends = [*([0, 0] if axes is None else []), *along(0.1, 0.2), *pair, *along(0.8, 0.9)]
        inputs = [np.array(ends, np.float32)]
    if rng.integers(3):
        factors = [np.float32(rng.integers(1, 3 * n + 3) / n) for n in (height, width)]
        if not rng.integers(4):
            factors = [np.float32(round(float(f), 2)) for f in factors]
        inputs.append(np.array([*pair, *along(*factors)], np.float32))
    else:
        sizes = [int(rng.integers(1, 3 * n)) for n in (height, width)]
        if opset >= 18:
            policies = ["stretch", "not_larger", "not_smaller"] if axes is not None else ["stretch"]
            attributes["keep_aspect_ratio_policy"] = str(rng.choice(policies))
        inputs += [
            None if opset > 11 else np.array([], np.float32),
            np.array([*pair, *along(*sizes)], np.int64),
        ]
    shape = (1, 1, height, width)
    return model("Resize", shape, inputs, opset, **attributes), shape


@pytest.mark.parametrize("seed", range(8))
def test_forms_of_resize(seed):
    rng = np.random.default_rng(seed)
    done = refused = 0
    for proto, shape in (drawn(rng) for _ in range(20)):
        try:
            done += check(proto, shape, linear=True)
        except (ModelUnsuitable, UnsupportedOperator) as error:  # see _keeping_the_ratio
            assert "keep_aspect_ratio_policy" in str(error)
            refused += 1
    assert done >= 15
    assert refused <= 2


# --- pools ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool", "LpPool"])
def test_a_window_may_reach_far_beyond_the_end(op):
    """Dilated, it leaves more than a kernel's width open: no pad attribute may say so."""
    for size, stride, dilation in ((9, 4, 4), (11, 5, 3), (8, 3, 2), (10, 4, 3)):
        window = {"kernel_shape": [2], "strides": [stride], "dilations": [dilation], "ceil_mode": 1}
        for pads in ([0, 0], [1, 1], [1, 0]):
            for extra in ({}, {"count_include_pad": 1}) if op == "AveragePool" else ({},):
                proto = model(op, (2, 3, size), (), 22, pads=pads, **window, **extra)
                assert check(proto, (2, 3, size), linear=False)


def pool(rng):
    """One form of a pool."""
    op, rank = str(rng.choice(["MaxPool", "AveragePool", "LpPool"])), int(rng.choice([1, 2, 2, 2, 3]))
    kernel, strides = rng.integers(1, 5, rank).tolist(), rng.integers(1, 6, rank).tolist()
    attributes = {"kernel_shape": kernel, "strides": strides, "ceil_mode": int(rng.integers(4) > 0)}
    if rng.integers(2):
        attributes["dilations"] = rng.integers(1, 5, rank).tolist()
    padding = rng.integers(4)
    if padding == 0:
        attributes["auto_pad"] = str(rng.choice(["SAME_UPPER", "SAME_LOWER", "VALID"]))
    elif padding < 3:
        attributes["pads"] = [int(rng.integers(0, k)) for k in kernel * 2]
    if op == "AveragePool":
        attributes["count_include_pad"] = int(rng.integers(2))
    shape = (2, int(rng.choice([1, 3, 8])), *rng.integers(5, 18, rank).tolist())
    return model(op, shape, (), 22, **attributes), shape


@pytest.mark.parametrize("seed", range(6))
def test_forms_of_pools(seed):
    rng = np.random.default_rng(seed)
    assert sum(check(*pool(rng), linear=False) for _ in range(20)) >= 10


def test_a_dilated_window_that_reads_nothing():
    """Both taps of the only window lie in the pads."""
    proto = model("AveragePool", (1, 1, 3), (), 19, kernel_shape=[2], dilations=[4], pads=[1, 1])
    assert check(proto, (1, 1, 3), linear=True)


@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize("dims", ["known", "open"])
@pytest.mark.parametrize("kernel, strides", [([1, 1], [4, 3]), ([2, 1], [4, 3]), ([1, 2], [2, 5])])
def test_a_stride_longer_than_the_kernel_cuts_the_picture(mode, dims, kernel, strides):
    """ONNX Runtime's pads are negative there: where the first window stands depends on it."""
    shape = (1, 2, 12, 14)
    attributes = {"kernel_shape": kernel, "strides": strides, "auto_pad": mode}
    proto = model("LpPool", shape, **attributes)
    if dims == "known":
        assert check(proto, shape, linear=False)
        return
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    plain = session(proto).run(None, {"x": x})[0]
    free = model("LpPool", (1, 2, "h", "w"), **attributes)
    feeds = {"x": x, "y.cotangent": np.ones_like(plain)}
    known, found = (session(differentiated(one)).run(None, feeds) for one in (proto, free))
    np.testing.assert_allclose(found[0], plain, rtol=1e-5)
    np.testing.assert_allclose(found[1], known[1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "op, opset, size, attributes",
    [
        ("MaxPool", 19, (5, 8), {"kernel_shape": [4, 2], "strides": [4, 4], "dilations": [3, 3]}),
        ("MaxPool", 10, (5, 15), {"kernel_shape": [2, 2], "strides": [4, 4], "dilations": [1, 3], "ceil_mode": 1}),
        ("AveragePool", 22, (15, 15), {"kernel_shape": [2, 3], "strides": [4, 1], "dilations": [2, 1], "ceil_mode": 1,
                                       "count_include_pad": 1}),
    ],
)  # fmt: skip
def test_dilated_windows_beyond_the_pads_that_same_asks_for(op, opset, size, attributes):
    """One that does not fit in at all is there once; one that reaches over the end does not see what was cut off."""
    shape = (1, 2, *size)
    proto = model(op, shape, opset=opset, auto_pad="SAME_UPPER", **attributes)
    assert check(proto, shape, linear=op == "AveragePool")


@pytest.mark.parametrize("place", ["align_corners", "tf_crop_and_resize"])
def test_scales_in_float32_with_an_open_batch(place):
    """One region of interest stands for all axes: that of the batch, whose length is open, has to be left out."""
    region = np.array([0, 0, 0.1, 0.2, 1, 1, 0.8, 0.9], np.float32)
    scales = np.array([1, 1, 7 / 3, 1.5], np.float32)
    proto = model(
        "Resize", ("n", 2, 9, 6), [region, scales], 13, mode="nearest", coordinate_transformation_mode=place
    )
    made = differentiated(proto)
    rng = np.random.default_rng(0)
    x, v = (rng.normal(size=(2, 2, 9, 6)).astype(np.float32) for _ in range(2))
    plain = session(proto)
    y = plain.run(None, {"x": x})[0]
    assert y.shape == (2, 2, 21, 9)
    u = rng.normal(size=y.shape).astype(np.float32)
    given, gradient = session(made).run(None, {"x": x, "y.cotangent": u})
    np.testing.assert_allclose(given, y, rtol=1e-5)
    linear = (
        plain.run(None, {"x": x + v})[0].astype(np.float64) - y
    )  # the operator is linear, up to its border
    np.testing.assert_allclose((v * gradient).sum(dtype=np.float64), (linear * u).sum(), rtol=1e-3, atol=1e-3)
