"""Sizes at which something in a graph is empty: told by arithmetic, against ONNX Runtime without its fast layout."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import pytest
from graph.hostile import array, model, value
from hypothesis import given, note, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

import onnxviz
from onnxviz.errors import ImageRejected, ModelRejected
from onnxviz.graph.open.admission import Admission
from onnxviz.graph.open.load import load

node = helper.make_node
OPEN = ("N", 3, "H", "W")


def refusal(proto: onnx.ModelProto, *shape: int, name: str = "x") -> str | None:
    try:
        Admission(proto).check({name: shape})
    except ImageRejected as error:
        return str(error)
    return None


def lengths(proto: onnx.ModelProto, *shape: int) -> tuple[int, ...] | None:
    """What ONNX Runtime makes of it in the plain layout, where nothing empty ends the process; None: it refuses."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    try:
        return session.run(None, {"x": np.ones(shape, np.float32)})[0].shape
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
    inputs = ["x", "W"] if weights else ["x"]
    size = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    return model([node(op, inputs, ["y"], **more)], weights, shape=OPEN, opset=19), size


@settings(max_examples=300, deadline=None)
@given(windows())
def test_windows_are_refused_where_onnx_runtime_has_none_left(case):
    proto, size = case
    note(f"{proto.graph.node[0]} of {size}")
    found = lengths(proto, 1, 3, *size)
    assert (refusal(proto, 1, 3, *size) is not None) == (found is None or 0 in found)


POOL = node("MaxPool", ["x"], ["y"], kernel_shape=[3, 3], name="pool")


def body(name: str, nodes, inputs=(), outputs=("b",)) -> onnx.GraphProto:
    made = [value(one, *(((), TensorProto.BOOL) if one == "on" else ())) for one in outputs]
    return helper.make_graph(nodes, name, list(inputs), made)


def branches(condition: str, *before: onnx.NodeProto) -> onnx.ModelProto:
    """A pool of 3×3 where the condition holds, else the picture."""
    then = body("then", [node("MaxPool", ["x"], ["b"], kernel_shape=[3, 3], name="pool")])
    other = body("else", [node("Identity", ["x"], ["e"])], outputs=("e",))
    choice = node("If", [condition], ["y"], then_branch=then, else_branch=other)
    weights = [array("limit", 0, np.int64), array("at", [2], np.int64), array("axes", [1], np.int64)]
    return model([*before, choice], weights, shape=OPEN)


def in_branch() -> onnx.ModelProto:
    """Taken by what follows from the sizes."""
    told = [
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "at"], ["h"]),
        node("ReduceMax", ["h"], ["top"], keepdims=0),
        node("Greater", ["top", "limit"], ["c"]),
    ]
    return branches("c", *told)


def in_loop() -> onnx.ModelProto:
    inputs = [
        value("i", [], TensorProto.INT64),
        value("go", [], TensorProto.BOOL),
        value("state", None),
    ]
    trip = body(
        "trip",
        [
            node("Identity", ["go"], ["on"]),
            node("MaxPool", ["state"], ["next"], kernel_shape=[3, 3], name="pool"),
        ],
        inputs,
        ("on", "next"),
    )
    loop = node("Loop", ["count", "", "x"], ["y"], body=trip)
    return model([loop], [array("count", 1, np.int64)], shape=OPEN)


def in_scan() -> onnx.ModelProto:
    step = body(
        "step",
        [
            node("Unsqueeze", ["row", "zero"], ["r"]),
            node("AveragePool", ["r"], ["b"], kernel_shape=[3, 3], name="pool"),
        ],
        [value("row", None)],
    )
    return model(
        [node("Scan", ["x"], ["y"], body=step, num_scan_inputs=1)],
        [array("zero", [0], np.int64)],
        shape=OPEN,
    )


def in_function() -> onnx.ModelProto:
    function = helper.make_function(
        "local",
        "Block",
        ["a"],
        ["b"],
        [node("MaxPool", ["a"], ["b"], kernel_shape=[3, 3], name="pool")],
        [helper.make_opsetid("", 17)],
    )
    return model(
        [node("Block", ["x"], ["y"], domain="local")],
        shape=OPEN,
        imports=[("local", 1)],
        functions=[function],
    )


def behind(*before: onnx.NodeProto, weights=()) -> onnx.ModelProto:
    return model(
        [*before, node("MaxPool", ["p"], ["y"], kernel_shape=[3, 3], name="pool")], weights, shape=OPEN
    )


FORMS = {
    "plain": (model([POOL], shape=OPEN), 3),
    "branch": (in_branch(), 3),
    "loop": (in_loop(), 3),
    "scan": (in_scan(), 3),
    "function": (in_function(), 3),
    "valid conv": (
        behind(node("Conv", ["x", "W"], ["p"], name="conv"), weights=[array("W", np.ones((2, 3, 5, 5)))]),
        7,
    ),
    "two pools": (behind(node("AveragePool", ["x"], ["p"], kernel_shape=[2, 2], strides=[2, 2])), 6),
    "slice": (
        behind(
            node("Slice", ["x", "a", "b", "axes"], ["p"]),
            weights=[array("a", [4, 4], np.int64), array("b", [99, 99], np.int64), array("axes", [2, 3], np.int64)],
        ),
        7,
    ),
    "resize": (
        behind(
            node("Resize", ["x", "", "scales"], ["p"], mode="nearest"),
            weights=[array("scales", [1, 1, 0.5, 0.5])],
        ),
        6,
    ),
    "negative pads": (
        behind(node("Pad", ["x", "pads"], ["p"]), weights=[array("pads", [0, 0, -1, -1, 0, 0, -1, -1], np.int64)]),
        5,
    ),
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
    proto = branches(
        "c",
        node("ReduceMax", ["x"], ["m"], keepdims=0),
        node("Cast", ["m"], ["c"], to=TensorProto.BOOL),
    )
    assert refusal(proto, 1, 3, 2, 2) is None


@pytest.mark.parametrize(
    "op, more",
    [
        ("InstanceNormalization", ["scale", "bias"]),
        ("GlobalAveragePool", []),
        ("GlobalMaxPool", []),
        ("ReduceMean", []),
        ("ReduceMax", []),
    ],
)
def test_what_is_made_of_a_whole_map_needs_places(op, more):
    """ONNX Runtime 1.32 dies of an InstanceNormalization of nothing; the mean of nothing is 0 and says nothing."""
    weights = [
        array("a", [4], np.int64), array("b", [99], np.int64), array("axis", [2], np.int64),
        array("scale", np.ones(3)), array("bias", np.zeros(3)),
    ]  # fmt: skip
    axes = {"axes": [2, 3]} if op.startswith("Reduce") else {}
    nodes = [node("Slice", ["x", "a", "b", "axis"], ["p"]), node(op, ["p", *more], ["y"], name="all", **axes)]
    proto = model(nodes, weights, shape=OPEN)
    assert refusal(proto, 1, 3, 5, 5) is None
    text = refusal(proto, 1, 3, 4, 5)
    assert text is not None and "'all'" in text


def test_elements_that_only_move_may_be_none():
    """A pad of zero columns by slices and Concat, as exporters write circular padding."""
    weights = [array("a", [0], np.int64), array("b", [0], np.int64), array("axis", [3], np.int64)]
    nodes = [
        node("Slice", ["x", "a", "b", "axis"], ["none"]),
        node("Relu", ["none"], ["still"]),
        node("Concat", ["still", "x"], ["y"], axis=3),
    ]
    proto = model(nodes, weights, shape=OPEN)
    assert refusal(proto, 1, 3, 4, 4) is None
    assert lengths(proto, 1, 3, 4, 4) == (1, 3, 4, 4)


def test_a_batch_of_none_is_not_a_picture_of_none():
    proto = model([POOL], shape=OPEN)
    assert refusal(proto, 0, 3, 8, 8) is None
    assert refusal(proto, 1, 3, 0, 8) is not None


def test_each_size_is_looked_at_once(monkeypatch):
    from onnxviz.graph.open import admission

    asked = []
    real = admission.empties
    monkeypatch.setattr(admission, "empties", lambda *a: asked.append(a[1]) or real(*a))
    gate = Admission(model([POOL], shape=OPEN))
    for batch in (1, 4, 1):
        gate.check({"x": (batch, 3, 8, 8)})
    gate.check({"x": (1, 3, 9, 8)})
    assert len(asked) == 2


# --- sizes that the file fixes ------------------------------------------------------------------


def fixed(nodes, weights=(), functions=(), imports=()) -> bytes:
    return model(
        nodes, weights, shape=("N", 3, 8, 8), functions=functions, imports=imports
    ).SerializeToString()


LARGE = {"kernel_shape": [9, 9], "name": "pool"}


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool", "LpPool"])
@pytest.mark.parametrize("more", [{}, {"ceil_mode": 1}, {"strides": [3, 3], "kernel_shape": [12, 12]}])
def test_a_file_whose_own_size_leaves_nothing_is_refused_when_it_is_opened(op, more):
    if op == "LpPool":
        more = {key: one for key, one in more.items() if key != "ceil_mode"}
    with pytest.raises(ModelRejected, match="'pool'.*do not fit into the 8×8 places"):
        onnxviz.load(fixed([node(op, ["x"], ["y"], **{**LARGE, **more})]))


def test_the_same_in_bodies_and_functions():
    function = helper.make_function(
        "local",
        "Block",
        ["a"],
        ["b"],
        [node("MaxPool", ["a"], ["b"], **LARGE)],
        [helper.make_opsetid("", 17)],
    )
    called = fixed([node("Block", ["x"], ["y"], domain="local")], (), [function], [("local", 1)])
    then = body("then", [node("MaxPool", ["x"], ["b"], **LARGE)])
    other = body("else", [node("Identity", ["x"], ["e"])], outputs=("e",))
    taken, not_taken = (
        fixed([node("If", ["c"], ["y"], then_branch=then, else_branch=other)], [array("c", [flag], np.bool_)])
        for flag in (True, False)
    )
    for content in (called, taken):
        with pytest.raises(ModelRejected, match="'pool'"):
            onnxviz.load(content)
    onnxviz.load(not_taken)


def test_a_dilated_window_counts_with_its_gaps():
    long = node("MaxPool", ["x"], ["y"], kernel_shape=[3, 3], dilations=[4, 4], name="pool")
    with pytest.raises(ModelRejected, match="windows of 9×9"):
        onnxviz.load(fixed([long]))
    fits = node("MaxPool", ["x"], ["y"], kernel_shape=[3, 3], dilations=[3, 3])
    onnxviz.load(fixed([fits]))


@pytest.mark.parametrize(
    ("shape", "refused"),
    [
        (("N", 10), True),
        ((2, 3, 4), True),
        (("N", 3, "W"), True),
        (("N", 3, 3), False),
        (("N", "M", "M"), False),
    ],
)
def test_matrices_that_are_not_square_are_not_inverted(shape, refused):
    """ONNX Runtime's own Inverse looks at no size: at one picture of ten numbers it ends the process."""
    proto = model(
        [node("Inverse", ["x"], ["y"], domain="com.microsoft")], shape=shape, imports=[("com.microsoft", 1)]
    )
    if refused:
        with pytest.raises(ModelRejected, match="not square"):
            load(proto)
    else:
        load(proto)
        assert refusal(proto, 2, 3, 3) is None
        assert refusal(proto, 2, 3, 4) is not None
