"""Sizes at which something in a graph is empty: told by arithmetic, against ONNX Runtime without its fast layout."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import pytest
from graph.hostile import array, choice, ints, local, model, refused, run
from hypothesis import given, note, settings
from hypothesis import strategies as st
from onnx import helper

from onnxviz.errors import ImageRejected
from onnxviz.graph.open import admission
from onnxviz.graph.open.admission import Admission
from onnxviz.graph.open.load import load

OPEN = ("N", 3, "H", "W")


def refusal(proto: onnx.ModelProto, *shape: int) -> str | None:
    try:
        Admission(proto).check({"x": shape})
    except ImageRejected as error:
        return str(error)
    return None


def lengths(proto: onnx.ModelProto, *shape: int) -> tuple[int, ...] | None:
    """What ONNX Runtime makes of it in the plain layout, where nothing empty ends the process; None: it refuses."""
    try:
        return run(proto, np.ones(shape, np.float32))[0].shape
    except Exception:
        return None


@st.composite
def windows(draw: st.DrawFn) -> tuple[onnx.ModelProto, tuple[int, int]]:
    op = draw(st.sampled_from(["MaxPool", "AveragePool", "LpPool", "Conv"]))
    each = st.integers(1, 4)
    kernel, strides, dilations = ([draw(each), draw(each)] for _ in range(3))
    pads = [draw(st.integers(0, max(0, k - 1))) for k in kernel]
    more: dict[str, object] = {"kernel_shape": kernel, "strides": strides}
    if draw(st.booleans()):
        more["dilations"] = dilations
    way = draw(st.sampled_from(["pads", "VALID", "SAME_UPPER", "SAME_LOWER", "none"]))
    if way == "pads":
        more["pads"] = pads * 2
    elif way != "none":
        more["auto_pad"] = way
        more.pop("dilations", None)  # which ONNX Runtime's pads of that kind do not know
        more["strides"] = [min(k, s) for k, s in zip(kernel, strides, strict=True)]  # no pads below 0
    if op.endswith("gePool") or op == "MaxPool":
        more["ceil_mode"] = int(draw(st.booleans()))
    weights = [array("W", np.ones((2, 3, *kernel)))] if op == "Conv" else []
    node = helper.make_node(op, ["x", "W"] if weights else ["x"], ["y"], **more)
    size = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    return model([node], weights, shape=OPEN, opset=19), size


@settings(max_examples=300, deadline=None)
@given(windows())
def test_windows_are_refused_where_onnx_runtime_has_none_left(case):
    proto, size = case
    note(f"{proto.graph.node[0]} of {size}")
    found = lengths(proto, 1, 3, *size)
    assert (refusal(proto, 1, 3, *size) is not None) == (found is None or 0 in found)


POOL = "MaxPool<kernel_shape = [3, 3]>"
# A pool of 3×3 where the condition holds, else the picture.
CHOICE = choice(f"[pool] b = {POOL}(x)", "b = Identity(x)")
LIMITS = [array("limit", 0, np.int64), ints("at", 2)]
TRIP = f"int64 i, bool go, float[] state) => (bool on, float[] n) {{ on = Identity(go) [pool] n = {POOL}(state) }}"
STEP = "float[] row) => (float[] b) { r = Unsqueeze(row, zero) [pool] b = AveragePool<kernel_shape = [3, 3]>(r) }"


def behind(before: str, *weights) -> onnx.ModelProto:
    return model(f"{before} [pool] y = {POOL}(p)", weights, shape=OPEN)


FORMS = {
    "plain": (model(f"[pool] y = {POOL}(x)", shape=OPEN), 3),
    "branch": (  # taken by what follows from the sizes
        model(
            f"s = Shape(x) h = Gather(s, at) top = ReduceMax<keepdims = 0>(h) c = Greater(top, limit) {CHOICE}",
            LIMITS, shape=OPEN,
        ),
        3,
    ),
    "loop": (
        model(f'y = Loop<body = trip ({TRIP}>(count, "", x)', [array("count", 1, np.int64)], shape=OPEN), 3,
    ),
    "scan": (model(f"y = Scan<num_scan_inputs = 1, body = step ({STEP}>(x)", [ints("zero", 0)], shape=OPEN), 3),
    "function": (
        model("y = local.Block(x)", shape=OPEN, functions=[local(f"Block (a) => (b) {{ [pool] b = {POOL}(a) }}")]), 3,
    ),
    "valid conv": (behind("[conv] p = Conv(x, W)", array("W", np.ones((2, 3, 5, 5)))), 7),
    "two pools": (behind("p = AveragePool<kernel_shape = [2, 2], strides = [2, 2]>(x)"), 6),
    "slice": (behind("p = Slice(x, a, b, axes)", ints("a", 4, 4), ints("b", 99, 99), ints("axes", 2, 3)), 7),
    "resize": (behind('p = Resize<mode = "nearest">(x, "", scales)', array("scales", [1, 1, 0.5, 0.5])), 6),
    "negative pads": (behind("p = Pad(x, pads)", ints("pads", 0, 0, -1, -1, 0, 0, -1, -1)), 5),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_the_smallest_picture_is_told_wherever_the_pool_stands(form):
    proto, least = FORMS[form]
    for height, width in itertools.product((1, 2, least - 1), (least, 40)):
        for shape in ((1, 3, height, width), (2, 3, width, height)):
            text = refusal(proto, *shape)
            assert text is not None and ("'pool'" in text or "'conv'" in text or "'Pad'" in text)
            assert f"the smallest picture that goes through has {least}×{least}" in text
    assert refusal(proto, 1, 3, least, least) is None
    assert lengths(proto, 1, 3, least, least) is not None


def test_a_branch_that_hangs_on_the_picture_is_left_to_the_run():
    proto = model(f"m = ReduceMax<keepdims = 0>(x) c = Cast<to = 9>(m) {CHOICE}", shape=OPEN)
    assert refusal(proto, 1, 3, 2, 2) is None


@pytest.mark.parametrize(
    "node",
    [
        "InstanceNormalization(p, scale, bias)",
        "GlobalAveragePool(p)",
        "GlobalMaxPool(p)",
        "ReduceMean<axes = [2, 3]>(p)",
        "ReduceMax<axes = [2, 3]>(p)",
    ],
)
def test_what_is_made_of_a_whole_map_needs_places(node):
    """ONNX Runtime 1.32 dies of an InstanceNormalization of nothing; the mean of nothing is 0 and says nothing."""
    weights = [
        ints("a", 4),
        ints("b", 99),
        ints("axis", 2),
        array("scale", np.ones(3)),
        array("bias", np.zeros(3)),
    ]
    proto = model(f"p = Slice(x, a, b, axis) [all] y = {node}", weights, shape=OPEN)
    assert refusal(proto, 1, 3, 5, 5) is None
    assert "'all'" in refusal(proto, 1, 3, 4, 5)


def test_elements_that_only_move_may_be_none():
    """A pad of zero columns by slices and Concat, as exporters write circular padding."""
    text = "none = Slice(x, a, a, axis) still = Relu(none) y = Concat<axis = 3>(still, x)"
    proto = model(text, [ints("a", 0), ints("axis", 3)], shape=OPEN)
    assert refusal(proto, 1, 3, 4, 4) is None
    assert lengths(proto, 1, 3, 4, 4) == (1, 3, 4, 4)


def test_a_batch_of_none_is_not_a_picture_of_none():
    assert refusal(FORMS["plain"][0], 0, 3, 8, 8) is None
    assert refusal(FORMS["plain"][0], 1, 3, 0, 8) is not None


def test_each_size_is_looked_at_once(monkeypatch):
    asked = []
    real = admission.empties
    monkeypatch.setattr(admission, "empties", lambda *a: asked.append(a[1]) or real(*a))
    gate = Admission(FORMS["plain"][0])
    for shape in ((1, 3, 8, 8), (4, 3, 8, 8), (1, 3, 8, 8), (1, 3, 9, 8)):
        gate.check({"x": shape})
    assert len(asked) == 2


# --- sizes that the file fixes ------------------------------------------------------------------


def pool(op="MaxPool", kernel=(9, 9), given="x", **more):
    attributes = {"kernel_shape": list(kernel), **more}
    return f"{op}<{', '.join(f'{name} = {value}' for name, value in attributes.items())}>({given})"


FIXED = {
    **{
        f"{op} {more}": (f"[pool] y = {pool(op, **more)}", "do not fit into the 8×8 places")
        for op in ("MaxPool", "AveragePool", "LpPool")
        for more in ({}, {"ceil_mode": 1}, {"strides": [3, 3], "kernel": (12, 12)})
        if op != "LpPool" or "ceil_mode" not in more
    },
    "function": ("y = local.Block(x)", ""),
    "branch": (choice(f"[pool] b = {pool()}", "b = Identity(x)"), ""),
    # A dilated window counts with its gaps.
    "dilated": (f"[pool] y = {pool(kernel=(3, 3), dilations=[4, 4])}", "windows of 9×9"),
}
BLOCK = local(f"Block (a) => (b) {{ [pool] b = {pool(given='a')} }}")


@pytest.mark.parametrize("name", FIXED)
def test_a_file_whose_own_size_leaves_nothing_is_refused_when_it_is_opened(name):
    text, word = FIXED[name]
    proto = model(text, [array("c", True, np.bool_)], shape=("N", 3, 8, 8), functions=[BLOCK])
    refused(proto, "'pool'", word)


@pytest.mark.parametrize(
    ("text", "taken"), [(f"y = {pool(kernel=(3, 3), dilations=[3, 3])}", True), (FIXED["branch"][0], False)]
)
def test_what_fits_or_never_runs_is_opened(text, taken):
    load(model(text, [array("c", taken, np.bool_)], shape=("N", 3, 8, 8)))


@pytest.mark.parametrize(
    ("shape", "crooked"),
    [
        (("N", 10), True),
        ((2, 3, 4), True),
        (("N", 3, "W"), True),
        (("N", 3, 3), False),
        (("N", "M", "M"), False),
    ],
)
def test_matrices_that_are_not_square_are_not_inverted(shape, crooked):
    """ONNX Runtime's own Inverse looks at no size: at one picture of ten numbers it ends the process."""
    proto = model("y = com.microsoft.Inverse(x)", shape=shape, imports=[("com.microsoft", 1)])
    if crooked:
        refused(proto, "not square")
    else:
        load(proto)
        assert refusal(proto, 2, 3, 3) is None
        assert refusal(proto, 2, 3, 4) is not None
