"""The builder: appending nodes to models of any opset, and putting them in front of others."""

from __future__ import annotations

import networks
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from networks import Maker, bare, tiny_cnn

from onnxviz.errors import ModelUnsuitable, UnknownLayer
from onnxviz.graph.analysis.dataflow import duplicate
from onnxviz.graph.open.load import load
from onnxviz.graph.reduce import appended
from onnxviz.graph.surgery import add_outputs, declare_outputs
from onnxviz.graph.tape import PORTABLE, Tape
from tests.graph.running import checked

NEWEST = 23  # the newest opset that both this onnx and the oldest ONNX Runtime of the tests know


def run(model, **feeds):
    declare_outputs(model)
    return checked(model, **feeds)


def relu(opset):
    m = Maker(opset=opset)
    x = m("Relu", "image")
    return load(m.model({"image": ("N", 3, 4, 4)}, {x: ("N", 3, 4, 4)})).model


@pytest.mark.parametrize("opset", [7, 9, 13, NEWEST])
def test_the_portable_operators_give_the_same_in_every_opset(opset):
    """What a forward technique needs: masks, sums, maxima with their places, constants, casts."""
    model, op, x = appended(relu(opset), "relu1")
    flat = op.Reshape(op.Add(op.Mul(x, 2.0), [[[[1.0]]]]), [0, 3, -1])  # (N, 3, 16)
    image = np.random.default_rng(0).standard_normal((2, 3, 4, 4)).astype(np.float32)
    positive = np.maximum(image, 0)
    rows = (2 * positive + 1).reshape(2, 3, 16)
    parts = {
        "sum": (op.MatMul(flat, np.ones((16, 1), np.float32)), rows.sum(2, keepdims=True)),
        "place": (op.ArgMax(flat, axis=2, keepdims=0), rows.argmax(2)),
        "largest": (op.GlobalMaxPool(x), positive.max((2, 3), keepdims=True)),
        "step": (
            op.HardSigmoid(op.Sub(x, 0.5), alpha=2.0**100, beta=0.0),
            (positive > 0.5).astype(np.float32),
        ),
        "first": (op.Gather(flat, [0], axis=1), rows[:, :1]),
        "turned": (op.Transpose(flat, perm=[0, 2, 1]), rows.transpose(0, 2, 1)),
        "joined": (op.Concat(flat, op.Abs(op.Neg(flat)), axis=1), np.concatenate([rows, rows], 1)),
        "whole": (op.Cast(op.Floor(flat), to=ir.DataType.INT64.value), np.floor(rows).astype(np.int64)),
        "shape": (op.Shape(x), np.array([2, 3, 4, 4])),
        "product": (op.Div(op.Exp(op.Log(op.Add(flat, 1))), 3), (rows + 1) / 3),
    }
    for name, (value, _) in parts.items():
        op.output(value, name)
    found = run(model, image=image)
    for name, (_, array) in parts.items():
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
        first = [s for s in versions if s.since_version <= 7 or s is versions[0]][-1]
        for later in versions[versions.index(first) + 1 :]:
            assert not later.deprecated, name
            names = [i.name for i in first.inputs]
            assert [i.name for i in later.inputs][: len(names)] == names, name
            for key, attribute in first.attributes.items():
                assert str(later.attributes[key].default_value) == str(attribute.default_value), (name, key)
            added = set(later.attributes) - set(first.attributes)
            assert not any(later.attributes[key].required for key in added), name


def test_numbers_take_the_type_of_what_they_stand_beside():
    model, op, x = appended(load(networks.fp16(networks.static_batch())).model, "relu4")
    y = op.Mul(op.Add(x, 1), 0.5)
    assert y.dtype == ir.DataType.FLOAT16
    add_outputs(model, [y])
    assert run(model, image=np.zeros((1, 3, 32, 32), np.float16))[y.name].dtype == np.float16


def test_values_without_declared_types():
    """Old files declare nothing; no CastLike (opset 15) may slip in."""
    model, op, x = appended(load(bare("squeezenet")).model, "r60")
    assert op.opset == 9
    name = op.output(op.Mul(x, 2.0), "twice").name
    assert "CastLike" not in {node.op_type for node in model.graph}
    assert run(model, data_0=np.zeros((1, 3, 224, 224), np.float32))[name].shape == (1, 512, 13, 13)


def test_the_callers_model_is_untouched_and_shares_weights():
    model = load(tiny_cnn()).model
    before = ir.to_proto(model).SerializeToString()
    copy, op, x = appended(model, "conv1")
    op.output(op.Relu(x), "again")
    assert ir.to_proto(model).SerializeToString() == before
    weight = next(iter(model.graph.initializers))
    assert copy.graph.initializers[weight].const_value is model.graph.initializers[weight].const_value


def test_names_never_collide():
    model, op, x = appended(tiny := load(tiny_cnn()).model, "conv1")
    assert op.output(op.Relu(x), "relu1").name == "relu1_2"
    assert op.input("image", ir.DataType.FLOAT, [1]).name == "image_2"
    again, op, x = appended(model, "conv1")  # a second tape on the result of the first
    op.output(op.Mul(op.Relu(x), 2.0), "relu1")
    names = [v.name for node in again.graph for v in node.outputs] + list(again.graph.initializers)
    assert len(names) == len(set(names))
    nodes = [node.name for node in again.graph]
    assert len(nodes) == len(set(nodes))
    assert len(tiny.graph.inputs) == 1


def test_names_in_branches_count():
    model = ir.from_onnx_text(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[2] image) => (float[2] y) <bool flag = {1}> {
            y = If (flag) <
                then_branch = b () => (float[2] "onnxviz/Relu_1") { "onnxviz/Relu_1" = Relu(image) },
                else_branch = c () => (float[2] z) { z = Identity(image) }
            >
        }"""
    )
    _, op, x = appended(model, "y")
    assert op.Relu(x).name == "onnxviz/Relu_2"


def test_inputs_and_equal_constants():
    model, op, x = appended(relu(13), "relu1")
    gain = op.input("gain", ir.DataType.FLOAT, ["N", 1, 1, 1])
    once, twice = op.const(2.0, np.float32), op.const(2.0, np.float32)
    assert once is twice
    assert op.const(2) is not once
    assert op.const([]).dtype == ir.DataType.INT64
    op.output(op.Mul(op.Mul(x, gain), once), "y")
    gains = np.array([1, 3], np.float32).reshape(2, 1, 1, 1)
    found = run(model, gain=gains, image=np.ones((2, 3, 4, 4), np.float32))["y"]
    np.testing.assert_array_equal(found[:, 0, 0, 0], [2, 6])


def test_nodes_in_front_of_others():
    """Rewriting: a node before another one, and the other one as another operator under its own name."""
    model = duplicate(relu(13))
    tape, node = Tape(model.graph), next(iter(model.graph))
    low, high = tape.before(node).Split(node.inputs[0], axis=2, _outputs=2)
    tape.become(node).Concat(high, tape.before(node).Neg(low), axis=2)
    x = np.random.default_rng(0).standard_normal((1, 3, 4, 4)).astype(np.float32)
    assert node.name == next(iter(relu(13).graph)).name
    np.testing.assert_array_equal(
        run(model, image=x)["relu1"], np.concatenate([x[:, :, 2:], -x[:, :, :2]], 2)
    )


def test_mistakes_are_told_at_the_call():
    model, op, x = appended(relu(7), "relu1")
    with pytest.raises(AssertionError, match="not written alike"):
        op.Clip(x, 0.0, 1.0)
    with pytest.raises(AssertionError, match="no attribute \\['alfa'\\]"):
        op.HardSigmoid(x, alfa=1.0)
    with pytest.raises(AssertionError, match="takes 1 inputs, 2 given"):
        op.Relu(x, x)
    with pytest.raises(ModelUnsuitable, match="opset 7 of the model does not have"):
        op.Where(x, x, x)
    with pytest.raises(UnknownLayer):
        appended(model, "nothing")
    assert len(list(model.graph)) == 1
