"""If nodes whose condition follows from lengths, and nodes inside removed branches: they are no readers any more."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxviz
from onnxviz.graph.dynamic_batch import free_batch
from onnxviz.graph.fold import decided
from onnxviz.graph.surgery import cut
from tests.grad.oracle import session
from tests.networks import from_nodes, node

PICTURE = np.random.default_rng(1).integers(0, 256, (16, 16, 3), dtype=np.uint8)
FLOAT = TensorProto.FLOAT


def branch(name, nodes, out):
    return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(out, FLOAT, None)])


def asking(axis, length, source, out, stem, then, other):
    """`if source.shape[axis] == length` as exporters write it."""
    return [
        node("Shape", [source], [f"{stem}/shape"]),
        node("Constant", [], [f"{stem}/axis"], value_int=axis),
        node("Gather", [f"{stem}/shape", f"{stem}/axis"], [f"{stem}/length"], axis=0),
        node("Constant", [], [f"{stem}/wanted"], value_int=length),
        node("Equal", [f"{stem}/length", f"{stem}/wanted"], [f"{stem}/is"]),
        node("If", [f"{stem}/is"], [out], name=f"{stem}/if", then_branch=then, else_branch=other),
    ]


def network(*, batch="N", size=16, ask=True):
    """conv - relu - [odd places: another conv] - pool - squeeze twice, each only if the axis is 1 - linear."""
    rng = np.random.default_rng(0)
    big = rng.normal(size=(64, 64, 3, 3)).astype(np.float32) / 10  # too large to lie in the message
    shapes = {"w0": (64, 3, 3, 3), "w2": (64, 5)}
    weights = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    weights |= {"big": big, "two": np.array([2])}
    start = [node("Conv", ["x", "w0"], ["c"], pads=[1] * 4), node("Relu", ["c"], ["r"])]
    end = [node("MatMul", ["flat", "w2"], ["y"])]
    if not ask:
        middle = [
            node("GlobalAveragePool", ["r"], ["pooled"]),
            node("Squeeze", ["pooled", "two"], ["s1"]),
            node("Squeeze", ["s1", "two"], ["flat"]),
        ]
    else:

        def squeeze(x, y):
            return branch("then", [node("Squeeze", [x, "two"], [y])], y)

        def keep(x, y):
            return branch("other", [node("Identity", [x], [y])], y)

        never = [node("Conv", ["r", "big"], ["n0"], pads=[1] * 4), node("Relu", ["n0"], ["n1"])]
        inner = asking(2, 1, "s1", "i1", "again", squeeze("s1", "i2"), keep("s1", "i3"))
        middle = [
            *asking(1, 63, "r", "m", "never", branch("never", never, "n1"), keep("r", "k")),
            node("GlobalAveragePool", ["m"], ["pooled"]),
            *asking(2, 1, "pooled", "s1", "first", squeeze("pooled", "t1"), keep("pooled", "t2")),
            *asking(1, 64, "s1", "flat", "second", branch("then", inner, "i1"), keep("s1", "e")),
        ]
    inputs, outputs = {"x": (batch, 3, size, size)}, {"y": (batch, 5)}
    return from_nodes([*start, *middle, *end], inputs, outputs, weights)


@pytest.mark.parametrize("batch", ["N", 1])
def test_conditions_that_follow_from_lengths_are_decided(batch):
    net = onnxviz.load(network(batch=batch), preprocess="unit")
    plain = onnxviz.load(network(batch=batch, ask=False), preprocess="unit")
    assert not [n for n in net.model.graph if n.op_type == "If"]
    shapes = {layer.name: layer.shape for layer in net.layers}
    assert shapes["s1"] == (batch, 64, 1)  # the name that the file has for what comes out
    assert shapes["flat"] == (batch, 64)
    for run in (
        lambda one: onnxviz.saliency(one, PICTURE, target=2).values,
        lambda one: onnxviz.cam(one, PICTURE, target=2).values,
        lambda one: one.probabilities(one.prepare([PICTURE, PICTURE[::-1]])),
        lambda one: one.activations(PICTURE, ["s1"])["s1"],
    ):
        np.testing.assert_allclose(run(net), run(plain), rtol=1e-4, atol=1e-6)


def test_the_written_files():
    proto = network()
    x = np.random.default_rng(2).normal(size=(2, 3, 16, 16)).astype(np.float32)
    expected = session(proto).run(None, {"x": x})[0]
    feeds = {"x": x, "y.cotangent": np.ones((2, 5), np.float32)}
    made, reference = (onnxviz.gradient_model(one) for one in (proto, network(ask=False)))
    onnx.checker.check_model(made, full_check=True)
    found = session(made).run(None, feeds)
    np.testing.assert_allclose(found[0], expected, rtol=1e-5)
    np.testing.assert_allclose(found[1], session(reference).run(None, feeds)[1], rtol=1e-4, atol=1e-6)
    shown = onnxviz.expose(proto)
    onnx.checker.check_model(shown, full_check=True)
    np.testing.assert_allclose(session(shown).run(["y"], {"x": x})[0], expected, rtol=1e-5)


def test_a_part_holds_no_more_than_it_needs():
    """Neither what the removed branch captured nor the arithmetic of its condition."""
    part = cut(ir.from_proto(network()), ["r"])
    assert [n.op_type for n in part.graph] == ["Conv", "Relu"]
    assert set(part.graph.initializers) == {"w0"}
    part = cut(decided(ir.from_proto(network())), ["y"])
    assert "big" not in part.graph.initializers
    assert [n.op_type for n in part.graph] == [
        "Conv", "Relu", "Identity", "GlobalAveragePool", "Squeeze", "Squeeze", "MatMul",
    ]  # fmt: skip


def test_what_only_the_run_can_tell_is_kept():
    """The condition depends on the picture's height, which the file leaves open."""
    proto = network(size=None)
    extra = asking(2, 7, "r", "q", "open", branch("t", [node("Neg", ["r"], ["t9"])], "t9"),
                   branch("o", [node("Identity", ["r"], ["o9"])], "o9"))  # fmt: skip
    place = next(i for i, n in enumerate(proto.graph.node) if n.op_type == "GlobalAveragePool")
    nodes = [*proto.graph.node[:place], *extra, *proto.graph.node[place:]]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    next(n for n in proto.graph.node if n.op_type == "GlobalAveragePool").input[0] = "q"
    kept = decided(ir.from_proto(proto))
    assert [n.name for n in kept.graph if n.op_type == "If"] == ["open/if"]
    x = {"x": np.random.default_rng(2).normal(size=(2, 3, 7, 16)).astype(np.float32)}
    (expected,) = session(proto).run(["y"], x)
    for model in (kept, free_batch(kept), cut(kept, ["y"])):
        np.testing.assert_allclose(session(ir.to_proto(model)).run(["y"], x)[0], expected, rtol=1e-5)


def test_large_weights_that_nothing_reads():
    """ONNX Runtime is handed only weights that it knows."""
    proto = network(ask=False)
    proto.graph.initializer.append(numpy_helper.from_array(np.ones((300, 300), np.float32), "idle"))
    net = onnxviz.load(proto, preprocess="unit")
    assert np.isfinite(net.program()({"x": net.prepare([PICTURE])})["y"]).all()
