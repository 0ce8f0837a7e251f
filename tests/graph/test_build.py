"""Appending nodes to models of any opset."""

from __future__ import annotations

import networks
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from networks import Maker, bare, tiny_cnn

from onnxviz.errors import ModelUnsuitable, UnknownLayer
from onnxviz.graph.build import PORTABLE, builder
from onnxviz.graph.load import load

NEWEST = 23  # the newest opset that both this onnx and the oldest ONNX Runtime of the tests know


def run(b, **feeds):
    proto = ir.to_proto(b.model)
    onnx.checker.check_model(proto, full_check=True)
    session = onnxruntime.InferenceSession(proto.SerializeToString())
    return dict(zip([v.name for v in session.get_outputs()], session.run(None, feeds), strict=True))


def relu(opset):
    m = Maker(opset=opset)
    x = m("Relu", "image")
    return load(m.model({"image": ("N", 3, 4, 4)}, {x: ("N", 3, 4, 4)})).model


@pytest.mark.parametrize("opset", [7, 9, 13, NEWEST])
def test_the_portable_operators_give_the_same_in_every_opset(opset):
    """What a forward technique needs: masks, sums, maxima with their places, constants, casts."""
    b = builder(relu(opset))
    op, x = b.op, b.value("relu1")
    flat = op.Reshape(op.Add(op.Mul(x, 2.0), [[[[1.0]]]]), [0, 3, -1])  # (N, 3, 16)
    parts = {
        "sum": op.MatMul(flat, np.ones((16, 1), np.float32)),
        "place": op.ArgMax(flat, axis=2, keepdims=0),
        "largest": op.GlobalMaxPool(x),
        "step": op.HardSigmoid(op.Sub(x, 0.5), alpha=2.0**100, beta=0.0),
        "first": op.Gather(flat, [0], axis=1),
        "turned": op.Transpose(flat, perm=[0, 2, 1]),
        "joined": op.Concat(flat, op.Abs(op.Neg(flat)), axis=1),
        "whole": op.Cast(op.Floor(flat), to=ir.DataType.INT64.value),
        "shape": op.Shape(x),
        "product": op.Div(op.Exp(op.Log(op.Add(flat, 1))), 3),
    }
    for name, value in parts.items():
        b.add_output(value, name)
    image = np.random.default_rng(0).standard_normal((2, 3, 4, 4)).astype(np.float32)
    found = run(b, image=image)
    positive = np.maximum(image, 0)
    flat = (2 * positive + 1).reshape(2, 3, 16)
    wanted = {
        "sum": flat.sum(2, keepdims=True),
        "place": flat.argmax(2),
        "largest": positive.max((2, 3), keepdims=True),
        "step": (positive > 0.5).astype(np.float32),
        "first": flat[:, :1],
        "turned": flat.transpose(0, 2, 1),
        "joined": np.concatenate([flat, flat], 1),
        "whole": np.floor(flat).astype(np.int64),
        "shape": np.array([2, 3, 4, 4]),
        "product": (flat + 1) / 3,
    }
    for name, array in wanted.items():
        assert found[name].dtype == array.dtype, name
        np.testing.assert_allclose(found[name], array, rtol=1e-5, err_msg=name)


def test_portable_operators_are_written_alike_in_every_opset():
    """By the standard's own schemas: same inputs, no attribute lost, none newly required, no default changed."""
    histories = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "":
            histories.setdefault(schema.name, []).append(schema)
    for name in PORTABLE:
        versions = sorted(histories[name], key=lambda s: s.since_version)
        first = max(
            (s for s in versions if s.since_version <= 7), key=lambda s: s.since_version, default=versions[0]
        )
        for later in versions:
            if later.since_version <= first.since_version:
                continue
            assert not later.deprecated, name
            names = [i.name for i in first.inputs]
            assert [i.name for i in later.inputs][: len(names)] == names, name
            for key, attribute in first.attributes.items():
                assert str(later.attributes[key].default_value) == str(attribute.default_value), (name, key)
            added = set(later.attributes) - set(first.attributes)
            assert not any(later.attributes[key].required for key in added), name


def test_numbers_take_the_type_of_what_they_stand_beside():
    b = builder(load(networks.fp16(networks.static_batch())).model)
    y = b.op.Mul(b.op.Add(b.value("relu4"), 1), 0.5)
    assert y.dtype == ir.DataType.FLOAT16
    name = b.add_output(y)
    assert run(b, image=np.zeros((1, 3, 32, 32), np.float16))[name].dtype == np.float16


def test_values_without_declared_types():
    """Old files declare nothing; no CastLike (opset 15) may slip in."""
    b = builder(load(bare("squeezenet")).model)
    assert b.opset == 9
    name = b.add_output(b.op.Mul(b.value("r60"), 2.0), "twice")
    assert "CastLike" not in {node.op_type for node in b.graph}
    assert run(b, data_0=np.zeros((1, 3, 224, 224), np.float32))[name].shape == (1, 512, 13, 13)


def test_the_callers_model_is_untouched_and_shares_weights():
    model = load(tiny_cnn()).model
    before = ir.to_proto(model).SerializeToString()
    b = builder(model)
    b.add_output(b.op.Relu(b.value("conv1")), "again")
    assert ir.to_proto(model).SerializeToString() == before
    weight = next(iter(model.graph.initializers))
    assert b.graph.initializers[weight].const_value is model.graph.initializers[weight].const_value


def test_names_never_collide():
    b = builder(tiny := load(tiny_cnn()).model)
    assert b.add_output(b.op.Relu(b.value("conv1")), "relu1") == "relu1.1"
    assert b.add_input("image", ir.DataType.FLOAT, [1]).name == "image.1"
    again = builder(b.model)  # a second builder on the result of the first
    again.add_output(again.op.Mul(again.op.Relu(again.value("conv1")), 2.0), "relu1")
    names = [v.name for node in again.graph for v in node.outputs] + list(again.graph.initializers)
    assert len(names) == len(set(names))
    nodes = [node.name for node in again.graph]
    assert len(nodes) == len(set(nodes))
    assert len(tiny.graph.inputs) == 1


def test_names_in_branches_count():
    helper = onnx.helper
    branch = helper.make_graph(
        [helper.make_node("Relu", ["image"], ["onnxviz.Relu.out"])], "b", [],
        [helper.make_tensor_value_info("onnxviz.Relu.out", 1, None)],
    )  # fmt: skip
    node = helper.make_node("If", ["flag"], ["y"], then_branch=branch, else_branch=branch)
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("image", 1, [2])], [helper.make_tensor_value_info("y", 1, [2])],
        [onnx.numpy_helper.from_array(np.array(True), "flag")],
    )  # fmt: skip
    b = builder(
        ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    )
    assert b.op.Relu(b.value("y")).name == "onnxviz.Relu.out.1"


def test_inputs_and_equal_constants():
    b = builder(relu(13))
    gain = b.add_input("gain", ir.DataType.FLOAT, ["N", 1, 1, 1])
    once, twice = b.constant(2.0), b.constant(2.0)
    assert once is twice
    assert b.constant(2) is not once
    b.add_output(b.op.Mul(b.op.Mul(b.value("relu1"), gain), once), "y")
    found = run(
        b, image=np.ones((2, 3, 4, 4), np.float32), gain=np.array([1, 3], np.float32).reshape(2, 1, 1, 1)
    )
    np.testing.assert_array_equal(found["y"][:, 0, 0, 0], [2, 6])


def test_several_outputs_and_an_input_left_out():
    b = builder(relu(13), portable=False)
    halves = b.op.Split(b.value("relu1"), axis=2, _outputs=2)
    b.add_output(b.op.Clip(halves[1], None, 0.5), "top")
    assert run(b, image=np.full((1, 3, 4, 4), 7, np.float32))["top"].max() == 0.5


def test_mistakes_are_told_at_the_call():
    b = builder(relu(7))
    x = b.value("relu1")
    with pytest.raises(TypeError, match="not written alike"):
        b.op.Clip(x, 0.0, 1.0)
    with pytest.raises(TypeError, match="does not take attribute 'alfa'"):
        b.op.HardSigmoid(x, alfa=1.0)
    with pytest.raises(TypeError, match="does not take 2 inputs"):
        b.op.Relu(x, x)
    with pytest.raises(ModelUnsuitable, match="opset 7 of the model does not have"):
        b.op.Where(x, x, x)
    with pytest.raises(UnknownLayer):
        b.value("nothing")
    assert len(list(b.graph)) == 1
