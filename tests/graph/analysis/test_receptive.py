"""Receptive fields against a numerical oracle: change one pixel of the image and see which units change."""

from __future__ import annotations

import numpy as np
import pytest
from fields import check, finish
from hypothesis import given
from hypothesis import strategies as st
from networks import Maker

from onnxviz.graph.analysis import intervals
from onnxviz.graph.analysis.intervals import IDENTITY, compose, spread, union, window
from onnxviz.graph.analysis.units import Atom, _deal
from onnxviz.graph.layers import field

# --- the algebra ----------------------------------------------------------------------------------

modes = st.sampled_from(["nearest", "linear", "cubic"])
coordinates = st.sampled_from(["half_pixel", "align_corners", "asymmetric"])
roundings = st.sampled_from(["floor", "round_prefer_ceil"])
sizes = st.integers(2, 11)
steps = st.one_of(
    st.builds(window, st.integers(-3, 4), st.integers(-4, 4), st.integers(1, 5)),
    st.builds(
        intervals.transposed, st.integers(1, 4), st.integers(0, 3), st.integers(1, 5), st.integers(1, 3)
    ),
    st.builds(intervals.resampling, sizes, sizes, st.none(), modes, coordinates, roundings, st.booleans()),
    st.builds(intervals.block, st.integers(1, 4)),
)


@given(st.lists(steps, min_size=1, max_size=4), st.integers(-40, 40))
def test_stacked_maps_see_what_their_parts_see(chain, unit):
    """A map of a map, against following every position through both."""
    whole = IDENTITY
    for step in chain:
        whole = compose(step, whole)
    positions = {unit}
    for step in reversed(chain):
        positions = {p for i in positions for low, high in [step.at(i)] for p in range(low, high + 1)}
    assert whole.at(unit) == (min(positions), max(positions))


@given(steps, steps, st.integers(1, 30))
def test_the_union_of_two_maps_sees_both(one, other, length):
    both = union(one, other, length)
    for unit in range(length):
        (low, high), (low2, high2) = one.at(unit), other.at(unit)
        assert both.at(unit)[0] <= min(low, low2)
        assert both.at(unit)[1] >= max(high, high2)
        if one.step and other.step:
            assert both.at(unit) == (min(low, low2), max(high, high2))


@given(steps, st.integers(1, 4), st.integers(1, 4), st.integers(1, 4))
def test_a_digit_summed_over(inner, high, size, low):
    """A coordinate of three digits loses the middle one."""
    spread_out = spread(inner, low, size, high * size * low)
    for unit in range(high * size * low):
        a, _, c = unit // (size * low), unit // low % size, unit % low
        seen = [inner.at((a * size + b) * low + c) for b in range(size)]
        assert spread_out.at(unit) == (min(s[0] for s in seen), max(s[1] for s in seen))


# --- windows --------------------------------------------------------------------------------------

WINDOWS = {
    "asymmetric pads": ("Conv", 3, {"pads": [0, 1, 2, 3], "strides": [2, 1]}),
    "dilation": ("Conv", 3, {"dilations": [2, 3], "pads": [1, 2, 3, 4]}),
    "wide kernel, stride 3": ("Conv", 5, {"strides": [3, 2], "pads": [2, 1, 0, 2]}),
    "same upper": ("Conv", 4, {"auto_pad": "SAME_UPPER", "strides": [2, 3]}),
    "same lower": ("Conv", 4, {"auto_pad": "SAME_LOWER", "strides": [2, 3]}),
    "valid": ("Conv", 4, {"auto_pad": "VALID", "strides": [2, 3]}),
    "ceil mode": ("MaxPool", 3, {"strides": [2, 3], "ceil_mode": 1}),
    "pool, same": ("MaxPool", 3, {"strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    "average pool": ("AveragePool", 3, {"strides": [2, 2], "pads": [1, 0, 1, 2], "count_include_pad": 1}),
    "pool, dilated": ("MaxPool", 2, {"dilations": [3, 2]}),
    "lp pool": ("LpPool", 3, {"strides": [2, 2]}),
}


@pytest.mark.parametrize("size", [(24, 20), (23, 21)])
@pytest.mark.parametrize("case", WINDOWS)
def test_windows(case, size):
    op, kernel, attributes = WINDOWS[case]
    m = Maker()
    x = m("Conv", "image", m.random(2, 1, 3, 3, positive=True), pads=[1] * 4)
    if op == "Conv":
        x = m("Conv", x, m.random(2, 2, kernel, kernel, positive=True), **attributes)
    else:
        x = m(op, x, kernel_shape=[kernel, kernel], **attributes)
    x = m("Conv", x, m.random(1, 2, 2, 3, positive=True), pads=[1, 1, 0, 1])
    check(finish(m, x, size), size=size)


def test_strides_that_leave_one_window():
    """Behind each other they are farther apart than numbers of 64 bits hold."""
    m = Maker()
    x = m("Conv", "image", m.random(2, 1, 3, 3, positive=True))
    x = m("MaxPool", x, kernel_shape=[3, 3], strides=[2**63 - 1, 2**40])
    x = m("MaxPool", x, kernel_shape=[1, 1], strides=[2**40, 2**62])
    x = m("Conv", x, m.random(1, 2, 1, 1, positive=True))
    check(finish(m, x, (24, 20)), border=True)


def test_the_first_unit_may_begin_in_the_padding():
    m = Maker()
    x = m("Conv", "image", m.random(2, 1, 7, 5, positive=True), pads=[3, 1, 2, 2], strides=[2, 3])
    x = m("Conv", x, m.random(2, 2, 3, 3, positive=True), pads=[1, 1, 1, 1], strides=[2, 1])
    last = check(finish(m, x))[x]
    assert last.receptive_field == (7 + 2 * 2, 5 + 2 * 3)
    assert last.stride == (4, 3)
    assert last.offset == (-3 - 2, -1 - 3)
    assert field(last, 2, 1) == (-5 + 8, -4 + 3, -5 + 8 + 11, -4 + 3 + 11)


TRANSPOSED = {
    "k4 s2 p1": (4, {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
    "k3 s2, output padding": (3, {"strides": [2, 2], "pads": [1, 0, 1, 0], "output_padding": [1, 1]}),
    "dilated": (3, {"strides": [2, 1], "dilations": [2, 3]}),
    "narrower than the stride": (2, {"strides": [3, 3]}),
    "output shape": (3, {"strides": [2, 2], "output_shape": [24, 21]}),
    "same upper": (3, {"strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    "same lower": (3, {"strides": [2, 2], "auto_pad": "SAME_LOWER"}),
}


@pytest.mark.parametrize("case", TRANSPOSED)
def test_transposed_convolution(case):
    kernel, attributes = TRANSPOSED[case]
    m = Maker()
    x = m("Conv", "image", m.random(2, 1, 3, 3, positive=True), pads=[1] * 4, strides=[2, 2])
    x = m("ConvTranspose", x, m.random(2, 1, kernel, kernel, positive=True), **attributes)
    check(finish(m, x))


# --- resizing -------------------------------------------------------------------------------------

RESIZES = [
    ("nearest", "asymmetric", "floor", (2.0, 3.0)),
    ("nearest", "half_pixel", "round_prefer_floor", (2.0, 1.5)),
    ("nearest", "half_pixel", "round_prefer_ceil", (0.5, 1.5)),
    ("nearest", "align_corners", "ceil", (2.0, 2.0)),
    ("linear", "half_pixel", "round_prefer_floor", (2.0, 1.5)),
    ("linear", "half_pixel", "round_prefer_floor", (0.5, 0.4)),
    ("linear", "asymmetric", "round_prefer_floor", (2.0, 1.25)),
    ("linear", "align_corners", "round_prefer_floor", (2.0, 1.5)),
    ("linear", "pytorch_half_pixel", "round_prefer_floor", (2.0, 3.0)),
    ("linear", "half_pixel_symmetric", "round_prefer_floor", (2.0, 1.5)),
    ("cubic", "half_pixel", "round_prefer_floor", (2.0, 3.0)),
    ("cubic", "align_corners", "round_prefer_floor", (1.5, 2.0)),
]


@pytest.mark.parametrize(("mode", "coordinates", "rounding", "scales"), RESIZES)
def test_resize(mode, coordinates, rounding, scales):
    m = Maker(opset=19)
    x = m("Conv", "image", m.random(1, 1, 2, 2, positive=True), strides=[2, 2])  # (12, 10)
    x = m("Resize", x, "", m.constant(np.array([1, 1, *scales], np.float32)), mode=mode,
          coordinate_transformation_mode=coordinates, nearest_mode=rounding)  # fmt: skip
    x = m("Conv", x, m.random(1, 1, 3, 3, positive=True), pads=[1] * 4)
    check(finish(m, x))


@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_antialiased_resize(mode):
    m = Maker(opset=18)
    x = m("Resize", "image", "", m.constant(np.array([1, 1, 0.5, 0.25], np.float32)), mode=mode, antialias=1)
    check(finish(m, x))


def test_resize_to_sizes_of_an_unlike_ratio():
    m = Maker(opset=18)
    x = m("Conv", "image", m.random(1, 1, 2, 2, positive=True), strides=[2, 2])  # (12, 10)
    x = m("Resize", x, "", "", m.constant([17, 23]), axes=[2, 3], mode="nearest", nearest_mode="floor",
          coordinate_transformation_mode="asymmetric")  # fmt: skip
    last = check(finish(m, x))[x]
    assert last.stride[0] * 17 == 24
    assert last.stride[1] * 23 == 20


def test_upsample_of_opset_9():
    m = Maker(opset=9)
    x = m("Conv", "image", m.random(1, 1, 3, 3, positive=True), strides=[2, 2], pads=[1] * 4)
    x = m("Upsample", x, m.constant(np.array([1, 1, 2, 2], np.float32)), mode="nearest")
    last = check(m.model({"image": ("N", 1, 24, 20)}, {x: None}, ir=4))[x]
    assert last.stride == (1, 1)
    assert (last.offset, last.receptive_field) == ((-1, -1), (3, 3))
    assert field(last, 1, 2) == (-1, 1, 2, 4)


@pytest.mark.parametrize(
    "coordinates", ["asymmetric", "half_pixel", "pytorch_half_pixel", "half_pixel_symmetric"]
)
def test_a_scale_that_is_next_to_nothing_has_no_plain_formula(coordinates):
    assert intervals.resampling(32, 1, 1e-9, "linear", coordinates, "floor", False) is None


def test_a_map_of_no_places_is_dealt_to_no_axes():
    assert _deal([Atom(None, 0, 0)], [4]) is None
    assert _deal([Atom(None, 0, 4)], [2, 2]) is not None
