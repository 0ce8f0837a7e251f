"""Inferred shapes against the shapes that ONNX Runtime computes, at several batches and sizes."""

from __future__ import annotations

import time

import networks
import numpy as np
import onnx_ir as ir
import pytest
from networks import LIGHT, Maker, bare, tiny_cnn

from onnxviz.graph.analysis.known_values import LARGEST, fold
from onnxviz.graph.analysis.probe import Prober, annotate, layout
from onnxviz.graph.open.load import load
from onnxviz.graph.surgery import expose
from tests.graph.running import outputs, shapes


def agree(proto, *feeds, size=None):
    """Every inferred shape, with symbols filled in, is that of the value that ONNX Runtime computes."""
    model = load(proto).model
    told, every = shapes(model, size=size), expose(model)
    for feed in feeds:
        batch, _, height, width = feed.shape
        for name, value in outputs(every, **{every.graph.inputs[0].name: feed}).items():
            filled = tuple(value_of(dim, batch, height, width) for dim in told[name])
            assert filled == value.shape, f"{name}: told {told[name]}"
    return told


def value_of(dim, batch, height, width):
    if isinstance(dim, int):
        return dim
    times, _, over = dim.partition("/")
    letter = times[-1]
    return int(times[:-1] or 1) * {"N": batch, "H": height, "W": width}[letter] // int(over or 1)


def image(*shape):
    return np.random.default_rng(0).random(shape, np.float32)


@pytest.mark.parametrize("name", LIGHT)
def test_every_value_of_the_classics_has_a_shape(name):
    model = load(bare(name)).model
    told = shapes(model)
    named = [v.name for node in model.graph for v in node.outputs if v.name and v.uses()]
    assert not [name for name in named if "?" in told[name] or "..." in told[name]]


def test_shapes_are_those_of_a_run():
    agree(bare("squeezenet"), image(1, 3, 224, 224))
    agree(bare("shufflenet"), image(1, 3, 224, 224))


def test_an_open_batch_and_size():
    told = agree(tiny_cnn(size=("H", "W")), image(1, 3, 64, 32), image(5, 3, 32, 96))
    assert told["pool"] == ("N", 16, "H/4", "W/4")
    assert told["image"] == ("N", 3, "H", "W")
    assert told["prob"] == ("N", 10)


def test_an_open_width_only():
    told = shapes(load(tiny_cnn(size=(32, "W"))).model)
    assert told["pool"] == ("N", 16, 8, "W/4")
    assert shapes(load(tiny_cnn(size=(32, "W"))).model, size=(32, 100))["pool"] == ("N", 16, 8, 25)


def arithmetic(m):
    """Sizes worked out by the graph: double the height and width, then fold pixels into the batch."""
    x = m("Conv", "image", m.random(4, 3, 3, 3), pads=[1] * 4)
    sizes = m("Shape", x)
    n, height, width = (m("Gather", sizes, m.constant(np.int64(i)), axis=0) for i in (0, 2, 3))
    doubled = [m("Unsqueeze", m("Mul", d, m.constant(np.int64(2))), m.constant([0])) for d in (height, width)]
    kept = m("Slice", sizes, m.constant([0]), m.constant([2]))
    x = m("Resize", x, "", "", m("Concat", kept, *doubled, axis=0), mode="nearest")
    rows = m("Unsqueeze", m("Mul", n, m("Mul", height, m.constant(np.int64(2)))), m.constant([0]))
    x = m("Transpose", x, perm=[0, 2, 3, 1])
    return m("Reshape", x, m("Concat", rows, m.constant([-1, 4]), axis=0))


def test_shape_arithmetic_comes_out():
    def built(height, width):
        m = Maker()
        x = arithmetic(m)
        return x, m.model({"image": ("N", 3, height, width)}, {x: None})

    x, proto = built(8, 8)
    assert agree(proto, image(1, 3, 8, 8), image(3, 3, 8, 8))[x] == ("16N", 16, 4)
    x, proto = built("H", "W")
    assert shapes(load(proto).model)[x] == ("?", "2W", 4)  # N·H rows: a product of symbols is not told


def test_a_size_that_only_a_run_can_tell():
    m = Maker()
    x = m("Transpose", m("NonZero", m("Conv", "image", m.random(4, 3, 3, 3))), perm=[1, 0])
    y = m("Cast", x, to=1)
    assert shapes(load(m.model({"image": ("N", 3, 8, 8)}, {y: None})).model)[y] == ("?", 4)


@pytest.mark.parametrize("form", ["fp16", "qdq", "qoperator"])
def test_other_forms(form):
    proto = getattr(networks, form)(networks.static_batch())
    feed = image(1, 3, 32, 32)
    agree(proto, feed.astype(np.float16) if form == "fp16" else feed)


def test_resnet_50_is_fast():
    model = load(bare("resnet50")).model
    shapes(model)
    start = time.process_time()
    shapes(model)
    assert time.process_time() - start < 0.3


def test_weights_are_not_copied(monkeypatch):
    """Only small constants are looked at: a network of any size costs the same."""
    model = load(networks.light("squeezenet")).model
    weights = model.graph.initializers["conv10_w_0"]
    touched = []

    def numpy(self):
        touched.append(self.size)
        return np.zeros(self.shape)

    monkeypatch.setattr(type(weights.const_value), "numpy", numpy)
    shapes(model)
    assert max(touched, default=0) <= LARGEST


LAYOUTS = [
    (("N", 3, 224, 224), "NCHW"),
    ((1, 224, 224, 3), "NHWC"),
    ((1, "H", "W", 1), "NHWC"),
    (("N", 12, "H", "W"), "NCHW"),
    ((3, 32, 32), "CHW"),
    ((32, 32, 3), "HWC"),
    (("N", 10), ""),
]


@pytest.mark.parametrize(("shape", "name"), LAYOUTS)
def test_layout(shape, name):
    assert layout(ir.Value(name="x", shape=ir.Shape(shape))).name == name


def test_layout_by_the_first_reader():
    m = Maker()
    x = m("Transpose", "image", perm=[0, 3, 1, 2])
    model = ir.from_proto(m.model({"image": ("N", "H", "W", "C")}, {x: None}))
    assert layout(model.graph.inputs[0]).name == "NHWC"


def test_annotate_keeps_open_dimensions_open():
    model = load(tiny_cnn(size=("H", "W"), batch="B")).model
    annotate(model)
    pool = next(v for node in model.graph for v in node.outputs if v.name == "pool")
    assert pool.dtype == ir.DataType.FLOAT
    assert [getattr(d, "value", d) for d in pool.shape] == ["B", 16, None, None]


# --- the evaluator --------------------------------------------------------------------------------


def folded(build, opset=17):
    """The values that `fold` finds and those that ONNX Runtime computes, of integer graphs."""
    m = Maker(opset=opset)
    outputs = build(m)
    proto = m.model({"image": (2, 3, 4, 5)}, dict.fromkeys(outputs))
    for value in proto.graph.output:
        value.type.CopyFrom(type(value.type)())
    model = ir.from_proto(proto)
    found = fold(model.graph, {"image": (2, 3, 4, 5)})
    del proto.graph.output[:]
    from onnx.reference import ReferenceEvaluator

    proto.graph.output.extend([type(proto.graph.input[0])(name=name) for name in outputs])
    wanted = ReferenceEvaluator(proto).run(None, {"image": np.zeros((2, 3, 4, 5), np.float32)})
    for name, value in zip(outputs, wanted, strict=True):
        assert found[name].dtype == value.dtype, name
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_integer_arithmetic_is_that_of_onnx():
    def build(m):
        s = m("Shape", "image")
        c = m.constant
        return [
            m("Div", m("Sub", s, c([7, 3, 11, 0])), c([2, 2, -3, 2])),  # towards zero
            m("Mod", s, c([2, 2, 3, 3])),
            m("Slice", s, c([-1]), c([-10]), c([0]), c([-2])),
            m("Gather", s, c([-1, 0]), axis=0),
            m("Concat", s, c([9]), axis=0),
            m("Range", c(np.int64(1)), m("Gather", s, c(np.int64(3)), axis=0), c(np.int64(2))),
            m("Where", m("Equal", s, c([2, 3, 9, 9])), c([-1]), s),
            m("Unsqueeze", s, c([1])),
            m("ReduceProd", s, axes=[0], keepdims=0),
            m("ConstantOfShape", s),
            m("Expand", c([[1], [2]]), c([2, 3])),
            m("Reshape", s, c([2, -1])),
            m("Max", s, c([3])),
            m("Cast", m("Ceil", m("Div", m("Cast", s, to=1), c(np.float32(3)))), to=7),
            m("Size", "image"),
            *m("Split", s, c([1, 3]), outputs=2),
            m("Shape", "image", start=1, end=-1),
            m("Pow", s, c([2])),
        ]

    folded(build)


def test_old_forms_of_the_arithmetic():
    def build(m):
        s = m("Shape", "image")
        squeezed = m("Squeeze", m("Unsqueeze", s, axes=[0, 2]), axes=[0])
        return [m("Slice", s, axes=[0], starts=[1], ends=[3]), m("Unsqueeze", s, axes=[0]), squeezed]

    folded(build, opset=9)


def test_the_evaluator_never_holds_much():
    m = Maker()
    big = m("ConstantOfShape", m.constant([1 << 33]))
    m("Expand", m.constant([1]), m.constant([1 << 20, 1 << 20]))
    m("Range", m.constant(np.int64(0)), m.constant(np.int64(1 << 60)), m.constant(np.int64(1)))
    m("Gather", m.constant(np.zeros((1, 4000), np.int64)), m.constant(np.zeros(4000, np.int64)), axis=0)
    model = ir.from_proto(m.model({"image": (1, 3, 4, 4)}, {big: None}))
    found = fold(model.graph, {})
    assert all(value.size <= LARGEST for value in found.values())
    assert big not in found


def test_facts_at_a_given_batch():
    model = load(tiny_cnn()).model
    facts = Prober(model, model.graph.inputs[0]).facts(batch=7)
    assert facts.shapes["pool"] == (7, 16, 8, 8)
    assert facts.batch == 7
    assert facts.size == (32, 32)


def test_a_split_in_equal_parts_without_their_number_is_known():
    """Before opset 18 the outputs alone tell how many; it ended in a KeyError."""
    model = ir.from_onnx_text(
        """<ir_version: 8, opset_import: ["" : 13]>
        g (float[2,3,4] x) => (float[2,3,4] y) {
            s = Shape(x)
            w = Concat<axis=0>(s, s)
            a, b = Split<axis=0>(w)
            y = Reshape(x, b)
        }"""
    )
    assert fold(model.graph, {"x": (2, 3, 4)})["b"].tolist() == [2, 3, 4]
