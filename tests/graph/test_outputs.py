"""What kind of thing an output is, from the graph alone."""

from __future__ import annotations

import heads
import numpy as np
import onnx_ir as ir
import pytest
from heads import finished, linear, pooled, renamed, trunk
from networks import Maker

from onnxviz.graph.head import head, outputs


def ends(proto, **options):
    return outputs(ir.from_proto(proto), **options)


def only(build, **options):
    """What the one output of `build(m)` is."""
    m = Maker()
    (found,) = ends(finished(m, build(m), **options))
    return found


def one(value):
    return np.float32(value)


def tokens(m):
    """(N, 64, 8)"""
    return m("Transpose", m("Reshape", trunk(m), m.constant([0, 8, 64])), perm=[0, 2, 1])


def columns(m, classes=5):
    """(T, N, classes)"""
    x = m("Squeeze", m("AveragePool", trunk(m), kernel_shape=[8, 1]), m.constant([2]))
    return m("Transpose", m("Conv", x, m.random(classes, 8, 1)), perm=[2, 0, 1])


def row(m, count):
    """(N, count)"""
    return linear(m, pooled(m), count)


def by_root(m):
    z = row(m, 5)
    length = m("Sqrt", m("ReduceSum", m("Mul", z, z), m.constant([1]), keepdims=1))
    return m("Div", z, m("Clip", length, m.constant(one(1e-12))))


def by_norm(m):
    z = row(m, 5)
    length = m("Clip", m("ReduceL2", z, axes=[1], keepdims=1), m.constant(one(1e-12)))
    return m("Div", z, m("Expand", length, m("Shape", z)))


def expected(m):
    ages = m.constant(np.arange(101, dtype=np.float32))
    return m("ReduceSum", m("Mul", m("Softmax", row(m, 101)), ages), m.constant([1]), keepdims=1)


def rescaled(m, count=3):
    return m("Add", m("Mul", row(m, count), m.constant(one(50))), m.constant(one(30)))


QUANTITIES = {
    "unit length by a root": (by_root, "division by its length"),
    "unit length by a norm": (by_norm, "division by its length"),
    "a share of a hundred": (
        lambda m: m("Mul", m("Sigmoid", row(m, 1)), m.constant(one(100))),
        "scaled Sigmoid",
    ),
    "an expected age": (expected, "weighted by a Softmax"),
    "units brought back": (rescaled, "rescaling"),
    "one unit brought back": (lambda m: rescaled(m, 1), "rescaling"),
    "tanh": (lambda m: m("Tanh", row(m, 2)), "Tanh"),
    "a count": (lambda m: m("Relu", row(m, 1)), "Relu"),
    "clipped": (lambda m: m("Clip", row(m, 1), m.constant(one(0)), m.constant(one(90))), "Clip"),
    "softmax over one": (lambda m: m("Softmax", row(m, 1)), "1 whatever the picture"),
}


@pytest.mark.parametrize("name", QUANTITIES)
def test_numbers_by_how_they_end(name):
    build, reason = QUANTITIES[name]
    found = only(build)
    assert (found.kind, found.scored) == ("numbers", False)
    assert reason in found.reason


NAMES = {
    "numbers": "pose bbox age fc_landmarks headPose xyz face_embedding head.regressor.weight",
    "classes": "logits class_scores Probs cls bbox_class_logits classifier classifier.6.weight",
}


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in NAMES for name in NAMES[kind].split()])
def test_names_of_outputs_and_of_weights(kind, name):
    if name.endswith("weight"):
        m = Maker()
        x = m("Gemm", pooled(m), m.random(4, 8, name=name), transB=1)
        proto = finished(m, renamed(m, x, "output"))
    else:
        proto = heads.row(6, name)
    (found,) = ends(proto)
    assert (found.kind, found.told) == (kind, True)


def test_the_task_that_the_file_states():
    for task, kind in (("regression", "numbers"), ("classify", "classes")):
        proto = heads.row(4, "output0")
        proto.metadata_props.add(key="task", value=task)
        (found,) = ends(proto)
        assert (found.kind, found.told) == (kind, True)


def test_labels_decide():
    assert head(ir.from_proto(heads.row(4, "pose")), labels=4).kind == "classes"
    assert head(ir.from_proto(heads.row(1, "age")), labels=2).kind == "binary"
    assert head(ir.from_proto(heads.row(4, "pose")), labels=7).kind == "numbers"


def maps(m, channels=1):
    return m("Conv", trunk(m), m.random(channels, 8, 1, 1))


@pytest.mark.parametrize(
    "build",
    [
        maps,
        lambda m: m("Squeeze", maps(m), m.constant([1])),
        lambda m: m("Sigmoid", maps(m)),
        lambda m: m("Softmax", maps(m, 5), axis=1),
        lambda m: m("LayerNormalization", tokens(m), m.random(8)),
        # steps folded into the batch; a segmentation, its places in a row; one scale of YOLO
        lambda m: m("Reshape", m("Softmax", columns(m)), m.constant([-1, 5])),
        lambda m: m("Softmax", m("MatMul", tokens(m), m.random(8, 6)), axis=2),
        lambda m: m("Reshape", maps(m, 6), m.constant([0, 6, 64])),
    ],
)
def test_maps_depths_and_tokens_are_neither_classes_nor_steps(build):
    assert only(build).kind == "map"


@pytest.mark.parametrize(
    ("form", "options", "batch", "axis"),
    [
        ("tnc", {}, 1, 2),
        ("tnc", {"end": "Softmax"}, 1, 2),
        ("tnc", {"end": "LogSoftmax", "batch": 1}, 1, 2),
        ("tnc", {"end": "Softmax", "batch": 4}, 1, 2),
        ("tnc", {"classes": 24}, 1, 2),  # as many classes as the stand-in for the batch
        ("tnc", {"classes": 8, "end": "Softmax"}, 1, 2),  # as many as steps
        ("ntc", {"end": "Softmax"}, 0, 2),
        ("ntc", {"recurrent": True, "batch": 1}, 0, 2),
        ("nct", {"end": "Softmax"}, 0, 1),
    ],
)
def test_the_axes_of_sequences(form, options, batch, axis):
    (found,) = ends(heads.sequence(form, **options))
    assert (found.kind, found.batch, found.axis, found.steps) == ("sequence", batch, axis, 8)
    assert found.classes == options.get("classes", 5)
    assert found.shape[batch] == "N"


def test_steps_of_an_open_width_are_open():
    (found,) = ends(heads.sequence("tnc", "Softmax", width="W"))
    assert (found.kind, found.steps, found.shape) == ("sequence", None, ("?", "N", 5))


def test_a_declared_batch_settles_what_inference_cannot():
    m = Maker()
    # Where the shape hangs on values, only the file's own dimension names tell.
    end = m("Cast", m("ReduceSum", "image", keepdims=0), to=7)
    x = m("Slice", columns(m), m.constant([0]), end, m.constant([0]))
    assert ends(m.model({"image": ("N", 3, 16, 16)}, {x: ("T", "N", 5)}))[0].batch == 1


@pytest.mark.parametrize("form", ["nms", "topk", "anchors"])
def test_detections(form):
    found = ends(heads.detector(form))
    assert "detections" in {one.kind for one in found}
    assert not any(one.scored or one.kind == "sequence" for one in found)


def test_picks_in_front_of_the_last_weights_are_no_detections():
    m = Maker()
    best, _ = m("TopK", m("Reshape", trunk(m), m.constant([0, 8, 64])), m.constant([4]), outputs=2)
    x = m("Gemm", m("Flatten", best), m.random(5, 32), m.random(5), transB=1)
    assert ends(finished(m, x))[0].kind == "classes"


def test_whole_numbers_and_what_the_picture_does_not_move():
    assert only(lambda m: m("ArgMax", m("Softmax", linear(m, pooled(m), 5)), axis=1)).kind == "other"
    assert only(lambda m: m("Identity", m.random(1, 5))).kind == "other"


@pytest.mark.parametrize(("end", "count"), [("Softmax", 2), ("Sigmoid", 1)])
def test_of_a_told_head_and_an_assumed_one_the_told(end, count):
    m = Maker()
    x = pooled(m)
    told, box = m(end, linear(m, x, count)), linear(m, x, 4)
    for both in ((box, told), (told, box)):
        assert head(ir.from_proto(finished(m, *both))).scores == told


def test_a_lost_batch_axis():
    found = only(lambda m: m("Squeeze", m("Softmax", row(m, 5)), m.constant([0])), batch=1)
    assert (found.kind, found.classes, found.batch) == ("classes", 5, None)


def test_it_is_said_in_one_line():
    assert ends(heads.one("sigmoid"))[0].describe() == (
        "'score' (N, 1): one score for two classes (one sigmoid of 'gemm8')"
    )
    assert ends(heads.row(5))[0].describe().startswith("'y' (N, 5): taken for 5 classes (")
