"""Every form that a sound model may have: loaded, and in ONNX Runtime the same network as before."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxviz
from onnxviz.graph.open.load import load
from onnxviz.objectives import logit
from tests import networks
from tests.graph import hostile
from tests.graph.hostile import X, array, choice, ints, local, model, proto, refused, same, weights

ADD = "y = Add(x, w)"
TRUE = array("c", True, np.bool_)


def warned(loaded, words):
    assert any(words in warning for warning in loaded.warnings), loaded.warnings


# --- forms of models --------------------------------------------------------------------------


@pytest.mark.parametrize("opset", range(7, onnx.defs.onnx_opset_version() + 1))
def test_opsets(opset):
    original = hostile.network(opset=opset)
    loaded = load(original.SerializeToString())
    same(loaded, original)
    assert loaded.model.opset_imports == {"": opset}
    assert loaded.warnings == []


def test_an_opset_that_is_newer_or_before_7_is_a_warning():
    newer = onnx.defs.onnx_opset_version() + 1
    (warning,) = load(hostile.network(opset=newer)).warnings
    assert f"version {newer} of ai.onnx" in warning
    warned(load(model("y = Relu(x)", opset=6)), "opset 6")


@pytest.mark.parametrize("version", range(3, onnx.IR_VERSION + 1))
def test_ir_versions(version):
    original = hostile.network(ir_version=version)
    loaded = load(original.SerializeToString())
    same(loaded, original)
    onnx.checker.check_model(proto(loaded), full_check=True)


def test_weights_that_are_also_inputs_are_inputs_no_more():
    original = hostile.network(ir_version=3)
    for tensor in original.graph.initializer:
        original.graph.input.append(hostile.value(tensor.name, tensor.dims, tensor.data_type))
    loaded = load(original.SerializeToString())
    assert [value.name for value in loaded.model.graph.inputs] == ["x"]
    assert set(weights(loaded)) == {"conv.w", "conv.b", "fc.w", "fc.b"}
    same(loaded, original)
    onnx.checker.check_model(proto(loaded), full_check=True)


def test_half_precision():
    original = hostile.network(dtype=np.float16)
    loaded = load(original.SerializeToString())
    assert weights(loaded)["conv.w"].dtype == ir.DataType.FLOAT16
    same(loaded, original, X.astype(np.float16))


@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
def test_quantised_models(form):
    target = networks.by_ort(hostile.network(), [X], form)
    loaded = load(target.SerializeToString())
    operators = {node.op_type for node in loaded.model.graph}
    assert ("QLinearConv" if form == "QOperator" else "DequantizeLinear") in operators
    same(loaded, target)


def test_elements_in_typed_fields():
    rng = np.random.default_rng(2)
    dense = rng.normal(size=(16, 3, 3, 3)).astype(np.float32)
    original = hostile.network()
    for name, kind, shape, elements in (
        ("conv.w", TensorProto.FLOAT, dense.shape, dense.ravel()),
        ("h", TensorProto.FLOAT16, [600], rng.normal(size=600).astype(np.float16)),
        ("d", TensorProto.DOUBLE, [300], rng.normal(size=300)),
        ("l", TensorProto.INT64, [300], np.arange(-150, 150)),
        ("s", TensorProto.INT8, [300], np.arange(300) % 7 - 3),
    ):
        original.graph.initializer.append(helper.make_tensor(name, kind, shape, elements.tolist()))
        assert not original.graph.initializer[-1].raw_data
    del original.graph.initializer[0]
    found = weights(load(original.SerializeToString()))
    for tensor in original.graph.initializer:
        np.testing.assert_array_equal(found[tensor.name].numpy(), numpy_helper.to_array(tensor))


@pytest.mark.parametrize(
    "kind", [TensorProto.INT4, TensorProto.UINT4, TensorProto.FLOAT8E4M3FN, TensorProto.BFLOAT16]
)
@pytest.mark.parametrize("size", [5, 5001])
def test_narrow_types(kind, size):
    values = (np.arange(size) % 7).tolist()
    tensor = helper.make_tensor("w", kind, [size], values)
    found = weights(load(model("y = Relu(x)", [tensor], ir_version=10, opset=21)))
    np.testing.assert_array_equal(found["w"].numpy().astype(np.float32), np.array(values, np.float32))
    assert found["w"].dtype == kind


def test_constant_of_shape_weights():
    text = "w = ConstantOfShape<value = float[1] {0.5}>(s) y = Conv(x, w)"
    original = model(text, [ints("s", 4, 3, 3, 3)])
    same(load(original), original)


def test_the_light_networks_of_the_onnx_package():
    folder = Path(onnx.__file__).parent / "backend/test/data/light"
    found = sorted(folder.glob("light_*.onnx"))
    assert len(found) == 9
    for path in found:
        loaded = load(path)
        assert loaded.warnings == []
        assert len(loaded.model.graph.inputs) == 1


def test_weights_in_functions_subgraphs_and_constants(tmp_path):
    big = np.random.default_rng(3).normal(size=(3, 8, 8)).astype(np.float32)
    inner = local("F (a) => (b) { k = Constant() b = Add(a, k) }")
    branch = "k = Constant() b = Add(k, w)"
    text = f"f = local.F(x) {choice(branch, made='i')} y = Add(f, i)"
    original = model(text, [TRUE], functions=[inner])
    bodies = [attribute.g for attribute in original.graph.node[1].attribute]
    for scale, body in enumerate(bodies, 2):
        body.initializer.append(array("w", big * scale))
    for node in (original.functions[0].node[0], *(body.node[0] for body in bodies)):
        node.attribute.append(helper.make_attribute("value", array("", big)))
    loaded = load(hostile.save(original, tmp_path))
    same(loaded, original)
    assert ("local", "F", "") in loaded.model.functions
    # The same with all of it in another file.
    moved = onnx.ModelProto.FromString(original.SerializeToString())
    holders = [moved.functions[0].node[0].attribute[0].t]
    for attribute in moved.graph.node[1].attribute:
        holders += [attribute.g.node[0].attribute[0].t, attribute.g.initializer[0]]
    hostile.put(holders, tmp_path / "w.bin")
    loaded = load(hostile.save(moved, tmp_path, "moved.onnx"))
    assert loaded.files == ["w.bin"]
    same(loaded, original)


def test_sparse_weights_are_written_out():
    original = model("k = Constant() a = Add(x, w) y = Add(a, k)", shape=(2, 4))
    sparse, constant = (
        helper.make_sparse_tensor(array(name, values), array("", indices, np.int64), dims)
        for name, values, indices, dims in (("w", [5.0, 7.0], [1, 3], [4]), ("", [2.0], [[1, 1]], [2, 4]))
    )
    original.graph.node[0].attribute.append(helper.make_attribute("sparse_value", constant))
    original.graph.sparse_initializer.append(sparse)
    loaded = load(original)
    np.testing.assert_array_equal(weights(loaded)["w"].numpy(), [0, 5, 0, 7])
    same(loaded, original, np.zeros((2, 4), np.float32))
    warned(loaded, "sparse")


def test_domains_that_are_not_imported_or_called_by_their_long_names():
    original = model("y = com.microsoft.FastGelu(x)")
    loaded = load(original)
    same(loaded, original)
    assert loaded.model.opset_imports["com.microsoft"] == 1
    original = model("y = ai.onnx.Relu(x)")
    original.opset_import[0].domain = "ai.onnx"
    loaded = load(original)
    assert loaded.model.opset_imports == {"": 17}
    same(loaded, original)


# --- repairs ----------------------------------------------------------------------------------


def test_nodes_out_of_order_are_sorted():
    original = model("y = Relu(a) a = Abs(x)")
    loaded = load(original)
    assert [node.op_type for node in loaded.model.graph] == ["Abs", "Relu"]
    warned(loaded, "order")
    same(loaded, original)


def test_nodes_of_one_name_are_renamed():
    loaded = load(model("[n] a = Relu(x) [n_1] b = Abs(a) [n] c = Neg(b) [n] y = Exp(c)"))
    assert [node.name for node in loaded.model.graph] == ["n", "n_1", "n_2", "n_3"]
    assert hostile.run(proto(loaded), X)[0].shape == X.shape


def test_of_two_weights_of_one_name_the_last_counts():
    original = model(ADD, [array("w", 1), array("w", 2)])
    loaded = load(original)
    assert weights(loaded)["w"].numpy() == 2
    same(loaded, original)
    warned(loaded, "the last of a name counts")


def test_negative_sizes_of_an_input_are_unknown_ones():
    loaded = load(model("y = Relu(x)", shape=(-1, 3, 8, 8)))
    assert loaded.model.graph.inputs[0].shape[0] == ir.SymbolicDim(None)
    warned(loaded, "negative")


def test_a_map_of_scores_gives_way_to_the_scores():
    text = "scores = Softmax(x) y = ai.onnx.ml.ZipMap<classlabels_int64s = [0, 1, 2]>(scores)"
    original = model(text, shape=("N", 3), imports=[("ai.onnx.ml", 3)])
    key = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(hostile.FLOAT, []))
    original.graph.output[0].type.CopyFrom(helper.make_sequence_type_proto(key))
    loaded = load(original)
    assert [value.name for value in loaded.model.graph.outputs] == ["scores"]
    got = hostile.run(proto(loaded), X[0, 0, :, :3])
    assert len(got) == 1
    np.testing.assert_allclose(got[0].sum(axis=1), 1, rtol=1e-6)
    warned(loaded, "map")


def test_a_weight_keeps_its_own_shape_whatever_is_declared():
    original = hostile.network()
    original.graph.value_info.append(hostile.value("fc.w", (1, 2, 3)))
    loaded = load(original)
    assert tuple(loaded.model.graph.initializers["fc.w"].shape) == (10, 16)


@pytest.mark.parametrize("default", [False, True])
def test_a_constant_that_takes_its_tensor_from_a_function(default):
    """By reference to an attribute of the call, or to the function's own default."""
    original = hostile.network()
    given = helper.make_attribute("w", original.graph.initializer[0])
    del original.graph.initializer[0]
    call = helper.make_node("weight", [], ["conv.w"], domain="local")
    function = local(f"weight {'' if default else '<w>'} () => (o) {{ o = Constant<value: tensor = @w>() }}")
    (function.attribute_proto if default else call.attribute).append(given)
    original.functions.append(function)
    original.opset_import.add(domain="local", version=1)
    original.graph.node.insert(0, call)
    same(load(original), hostile.network())
    net, plain = (onnxviz.load(each, preprocess="unit") for each in (original, hostile.network()))
    value, gradient = net.value_and_gradient(logit(3))(X)
    expected_value, expected = plain.value_and_gradient(logit(3))(X)
    np.testing.assert_allclose(value, expected_value, rtol=1e-5)
    np.testing.assert_allclose(gradient, expected, atol=1e-6)
    assert np.abs(expected).max() > 0
    assert [layer.name for layer in net.layers if layer.op == "Conv"] == ["c"]


TWO, THREE = (f"w = Constant<value = float[1] {{{number}}}>()" for number in (2, 3))


@pytest.mark.parametrize(
    ("nodes", "expected"), [([TWO, ADD], 2), ([ADD, TWO], 2), ([THREE, TWO, ADD], 2)], ids=range(3)
)
@pytest.mark.parametrize("listed", [False, True], ids=["", "listed among the inputs"])
def test_a_constant_node_that_shadows_a_weight(nodes, expected, listed):
    inputs = [hostile.value("x", X.shape), *[hostile.value("w", [1])] * listed]
    original = model(" ".join(nodes), [array("w", [1.0])] if len(nodes) == 2 else [], inputs=inputs)
    loaded = load(original)
    same(loaded, original)
    np.testing.assert_array_equal(hostile.run(proto(loaded), X)[0], X + expected)
    warned(loaded, "have the name of another one")


def test_a_constant_node_with_inputs():
    original = model(f"{TWO.replace('()', '(nothing)')} {ADD}", shape=X.shape)
    loaded = load(original)
    same(loaded, original)
    warned(loaded, "has inputs")


@pytest.mark.parametrize("version", [0, -1])
def test_an_ir_version_that_is_none(version):
    original = hostile.network()
    original.ir_version = version
    same(load(original.SerializeToString()), original)


@pytest.mark.parametrize("kind", ["sequence_type", "optional_type", "map_type", "tensor_type"])
def test_nonsense_said_of_a_weight_or_of_nothing_is_not_read(kind):
    original = hostile.network()
    for name in ("conv.w", "nothing"):
        said = original.graph.value_info.add(name=name).type
        getattr(said, kind).SetInParent()
        if kind == "tensor_type":
            said.tensor_type.elem_type = 99
    same(load(original.SerializeToString()), original)
    original.graph.value_info[0].name = original.graph.node[0].output[0]
    refused(original.SerializeToString(), repr(original.graph.value_info[0].name))


def test_a_weight_as_an_output_is_of_its_own_type():
    original = hostile.network()
    original.graph.output.add(name="conv.w").type.sequence_type.SetInParent()
    assert "conv.w" in [value.name for value in load(original.SerializeToString()).model.graph.outputs]
    original.graph.output[-1].name = original.graph.node[0].output[0]
    refused(original.SerializeToString(), "list or option of nothing")


def test_a_loop_that_leaves_out_its_condition():
    body = "body (int64 trip, bool go) => (bool on, float[] part) { on = Identity(go) part = Relu(x) }"
    original = model(f'y = Loop<body = {body}>(count, "")', [array("count", 2, np.int64)])
    same(load(original), original)
