"""Every form that a sound model may have: loaded, and in ONNX Runtime the same network as before."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxviz
from onnxviz.errors import ModelRejected
from onnxviz.graph.open.load import load
from onnxviz.objectives import logit
from tests.graph import hostile
from tests.graph.hostile import X, proto, same, weights

# --- forms of models --------------------------------------------------------------------------


@pytest.mark.parametrize("opset", range(7, onnx.defs.onnx_opset_version() + 1))
def test_opsets(opset):
    original = hostile.network(opset=opset)
    loaded = load(original.SerializeToString())
    same(loaded, original)
    assert loaded.model.opset_imports == {"": opset}
    assert loaded.warnings == []


def test_a_newer_opset_is_a_warning():
    loaded = load(hostile.network(opset=onnx.defs.onnx_opset_version() + 1))
    assert len(loaded.warnings) == 1
    assert "opset" in loaded.warnings[0] or "version" in loaded.warnings[0]


def test_an_opset_before_7_is_a_warning():
    loaded = load(hostile.model([helper.make_node("Relu", ["x"], ["y"])], opset=6))
    assert any("opset 6" in warning for warning in loaded.warnings)


@pytest.mark.parametrize("version", range(3, onnx.IR_VERSION + 1))
def test_ir_versions(version):
    original = hostile.network(ir_version=version)
    loaded = load(original.SerializeToString())
    same(loaded, original)
    onnx.checker.check_model(proto(loaded), full_check=True)


def test_weights_that_are_also_inputs_are_inputs_no_more():
    original = hostile.network(ir_version=3)
    for tensor in original.graph.initializer:
        original.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
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
def test_quantised_models(form, tmp_path):
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.rows = iter([{"x": X}])

        def get_next(self):
            return next(self.rows, None)

    source, target = hostile.save(hostile.network(), tmp_path), tmp_path / "q.onnx"
    quantize_static(source, target, Reader(), quant_format=getattr(QuantFormat, form))
    loaded = load(target)
    operators = {node.op_type for node in loaded.model.graph}
    assert ("QLinearConv" if form == "QOperator" else "DequantizeLinear") in operators
    same(loaded, target)


def test_elements_in_typed_fields():
    rng = np.random.default_rng(2)
    dense = rng.normal(size=(16, 3, 3, 3)).astype(np.float32)
    original = hostile.network()
    original.graph.initializer[0].CopyFrom(
        helper.make_tensor("conv.w", hostile.FLOAT, dense.shape, dense.ravel().tolist())
    )
    half = hostile.array("h", rng.normal(size=600), np.float16)
    typed = helper.make_tensor("h", TensorProto.FLOAT16, [600], numpy_helper.to_array(half).tolist())
    double = helper.make_tensor("d", TensorProto.DOUBLE, [300], rng.normal(size=300).tolist())
    long = helper.make_tensor("l", TensorProto.INT64, [300], list(range(-150, 150)))
    small = helper.make_tensor("s", TensorProto.INT8, [300], [place % 7 - 3 for place in range(300)])
    original.graph.initializer.extend([typed, double, long, small])
    found = weights(load(original.SerializeToString()))
    for tensor in original.graph.initializer:
        np.testing.assert_array_equal(found[tensor.name].numpy(), numpy_helper.to_array(tensor))
    assert typed.int32_data
    assert double.double_data


@pytest.mark.parametrize(
    "kind", [TensorProto.INT4, TensorProto.UINT4, TensorProto.FLOAT8E4M3FN, TensorProto.BFLOAT16]
)
@pytest.mark.parametrize("size", [5, 5001])
def test_narrow_types(kind, size):
    values = (np.arange(size) % 7).tolist()
    tensor = helper.make_tensor("w", kind, [size], values)
    found = weights(
        load(hostile.model([helper.make_node("Relu", ["x"], ["y"])], [tensor], ir_version=10, opset=21))
    )
    np.testing.assert_array_equal(found["w"].numpy().astype(np.float32), np.array(values, np.float32))
    assert found["w"].dtype == kind


def test_constant_of_shape_weights():
    nodes = [
        helper.make_node("ConstantOfShape", ["s"], ["w"], value=hostile.array("v", [0.5])),
        helper.make_node("Conv", ["x", "w"], ["y"]),
    ]
    original = hostile.model(nodes, [hostile.array("s", [4, 3, 3, 3], np.int64)])
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

    def constant(name):
        return helper.make_node("Constant", [], [name], value=hostile.array(f"{name}.v", big))

    inner = helper.make_function(
        "local",
        "F",
        ["a"],
        ["b"],
        [constant("k"), helper.make_node("Add", ["a", "k"], ["b"])],
        [helper.make_opsetid("", 17)],
    )
    branches = {
        name: helper.make_graph(
            [constant(f"{name}.c"), helper.make_node("Add", [f"{name}.c", f"{name}.w"], [f"{name}.o"])],
            name, [], [hostile.value(f"{name}.o")], [hostile.array(f"{name}.w", big * scale)],
        )
        for name, scale in (("then_branch", 2), ("else_branch", 3))
    }  # fmt: skip
    nodes = [
        helper.make_node("F", ["x"], ["f"], domain="local"),
        helper.make_node("If", ["c"], ["i"], **branches),
        helper.make_node("Add", ["f", "i"], ["y"]),
    ]
    original = hostile.model(
        nodes, [hostile.array("c", True, np.bool_)], imports=[("local", 1)], functions=[inner]
    )
    loaded = load(hostile.save(original, tmp_path))
    same(loaded, original)
    assert ("local", "F", "") in loaded.model.functions
    # The same with all of it in another file.
    moved = onnx.ModelProto.FromString(original.SerializeToString())
    holders = [moved.functions[0].node[0].attribute[0].t]
    for attribute in moved.graph.node[1].attribute:
        holders += [attribute.g.node[0].attribute[0].t, attribute.g.initializer[0]]
    blob = b""
    for tensor in holders:
        elements = numpy_helper.to_array(tensor).tobytes()
        hostile.point(tensor, location="w.bin", offset=len(blob), length=len(elements))
        blob += elements
    (tmp_path / "w.bin").write_bytes(blob)
    loaded = load(hostile.save(moved, tmp_path, "moved.onnx"))
    assert loaded.files == ["w.bin"]
    same(loaded, original)


def test_sparse_weights_are_written_out():
    sparse = helper.make_sparse_tensor(
        hostile.array("w", [5.0, 7.0]), hostile.array("i", [1, 3], np.int64), [4]
    )
    attribute = helper.make_sparse_tensor(
        hostile.array("", [2.0]), hostile.array("", [[1, 1]], np.int64), [2, 4]
    )
    nodes = [
        helper.make_node("Constant", [], ["k"], sparse_value=attribute),
        helper.make_node("Add", ["x", "w"], ["a"]),
        helper.make_node("Add", ["a", "k"], ["y"]),
    ]
    original = hostile.model(nodes, shape=(2, 4))
    original.graph.sparse_initializer.append(sparse)
    x = np.zeros((2, 4), np.float32)
    loaded = load(original)
    np.testing.assert_array_equal(weights(loaded)["w"].numpy(), [0, 5, 0, 7])
    same(loaded, original, x)
    assert any("sparse" in warning for warning in loaded.warnings)


def test_operators_of_com_microsoft_without_an_import():
    original = hostile.model([helper.make_node("FastGelu", ["x"], ["y"], domain="com.microsoft")])
    loaded = load(original)
    same(loaded, original)
    assert loaded.model.opset_imports["com.microsoft"] == 1


def test_ai_onnx_by_its_long_name():
    original = hostile.model([helper.make_node("Relu", ["x"], ["y"], domain="ai.onnx")])
    original.opset_import[0].domain = "ai.onnx"
    loaded = load(original)
    assert loaded.model.opset_imports == {"": 17}
    same(loaded, original)


# --- repairs ----------------------------------------------------------------------------------


def test_nodes_out_of_order_are_sorted():
    nodes = [helper.make_node("Relu", ["a"], ["y"]), helper.make_node("Abs", ["x"], ["a"])]
    original = hostile.model(nodes)
    loaded = load(original)
    assert [node.op_type for node in loaded.model.graph] == ["Abs", "Relu"]
    assert any("order" in warning for warning in loaded.warnings)
    same(loaded, original)


def test_nodes_of_one_name_are_renamed():
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], name="n"),
        helper.make_node("Abs", ["a"], ["b"], name="n_1"),
    ]
    nodes += [
        helper.make_node("Neg", ["b"], ["c"], name="n"),
        helper.make_node("Exp", ["c"], ["y"], name="n"),
    ]
    loaded = load(hostile.model(nodes))
    assert [node.name for node in loaded.model.graph] == ["n", "n_1", "n_2", "n_3"]
    assert hostile.run(proto(loaded), X)[0].shape == X.shape


def test_of_two_weights_of_one_name_the_last_counts():
    original = hostile.model(
        [helper.make_node("Add", ["x", "w"], ["y"])], [hostile.array("w", 1), hostile.array("w", 2)]
    )
    loaded = load(original)
    assert weights(loaded)["w"].numpy() == 2
    same(loaded, original)
    assert any("the last of a name counts" in warning for warning in loaded.warnings)


def test_negative_sizes_of_an_input_are_unknown_ones():
    loaded = load(hostile.model([helper.make_node("Relu", ["x"], ["y"])], shape=(-1, 3, 8, 8)))
    assert loaded.model.graph.inputs[0].shape[0] == ir.SymbolicDim(None)
    assert any("negative" in warning for warning in loaded.warnings)


def test_a_map_of_scores_gives_way_to_the_scores():
    nodes = [
        helper.make_node("Softmax", ["x"], ["scores"]),
        helper.make_node("ZipMap", ["scores"], ["y"], domain="ai.onnx.ml", classlabels_int64s=[0, 1, 2]),
    ]
    original = hostile.model(nodes, shape=("N", 3), imports=[("ai.onnx.ml", 3)])
    key = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(hostile.FLOAT, []))
    original.graph.output[0].type.CopyFrom(helper.make_sequence_type_proto(key))
    loaded = load(original)
    assert [value.name for value in loaded.model.graph.outputs] == ["scores"]
    got = hostile.run(proto(loaded), X[0, 0, :, :3])
    assert len(got) == 1
    np.testing.assert_allclose(got[0].sum(axis=1), 1, rtol=1e-6)
    assert any("map" in warning for warning in loaded.warnings)


def test_a_weight_keeps_its_own_shape_whatever_is_declared():
    original = hostile.network()
    original.graph.value_info.append(hostile.value("fc.w", (1, 2, 3)))
    loaded = load(original)
    assert tuple(loaded.model.graph.initializers["fc.w"].shape) == (10, 16)


def constant_by_reference():
    """A network whose convolution takes its weight from a function, whose Constant has it as an attribute."""
    model = hostile.network()
    weight = model.graph.initializer[0]
    assert weight.name == "conv.w"
    node = helper.make_node("Constant", [], ["o"])
    node.attribute.add(name="value", ref_attr_name="w", type=onnx.AttributeProto.TENSOR)
    function = helper.make_function(
        "local", "weight", [], ["o"], [node], [helper.make_opsetid("", 17)], attributes=["w"]
    )
    model.functions.append(function)
    model.opset_import.add(domain="local", version=1)
    call = helper.make_node("weight", [], ["conv.w"], domain="local", w=weight)
    model.graph.node.insert(0, call)
    del model.graph.initializer[0]
    return model


def test_a_constant_that_takes_its_tensor_by_reference():
    model = constant_by_reference()
    same(load(model), hostile.network())
    net, plain = (onnxviz.load(each, preprocess="unit") for each in (model, hostile.network()))
    value, gradient = net.value_and_gradient(logit(3))(X)
    expected_value, expected = plain.value_and_gradient(logit(3))(X)
    np.testing.assert_allclose(value, expected_value, rtol=1e-5)
    np.testing.assert_allclose(gradient, expected, atol=1e-6)
    assert np.abs(expected).max() > 0


def test_a_constant_that_takes_its_tensor_by_default():
    model = constant_by_reference()
    function = model.functions[0]
    default = function.attribute_proto.add()
    default.CopyFrom(model.graph.node[0].attribute[0])
    del function.attribute[:]
    del model.graph.node[0].attribute[:]
    net = onnxviz.load(model, preprocess="unit")
    assert [layer.name for layer in net.layers if layer.op == "Conv"] == ["c"]


def constant(number, name="w"):
    return helper.make_node("Constant", [], [name], value=hostile.array("", [number]))


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [([constant(2), "add"], 2), (["add", constant(2)], 2), ([constant(3), constant(2), "add"], 2)],
)
@pytest.mark.parametrize("listed", [False, True], ids=["", "listed among the inputs"])
def test_a_constant_node_that_shadows_a_weight(nodes, expected, listed):
    add = helper.make_node("Add", ["x", "w"], ["y"])
    original = hostile.model(
        [add if node == "add" else node for node in nodes],
        [hostile.array("w", [1.0])] if len(nodes) == 2 else [],
        inputs=[hostile.value("x", X.shape), *[hostile.value("w", [1])] * listed],
    )
    loaded = load(original)
    same(loaded, original)
    np.testing.assert_array_equal(hostile.run(proto(loaded), X)[0], X + expected)
    assert any("have the name of another one" in warning for warning in loaded.warnings)


def test_a_constant_node_with_inputs():
    node = constant(2)
    node.input.append("nothing")
    original = hostile.model([node, helper.make_node("Add", ["x", "w"], ["y"])], shape=X.shape)
    loaded = load(original)
    same(loaded, original)
    assert any("has inputs" in warning for warning in loaded.warnings)


def test_what_computes_under_a_weights_name_is_refused():
    """As ONNX Runtime does."""
    nodes = [helper.make_node("Relu", ["x"], ["w"]), helper.make_node("Add", ["x", "w"], ["y"])]
    with pytest.raises(ModelRejected, match="'w' twice"):
        load(hostile.model(nodes, [hostile.array("w", [1.0])]))


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
    with pytest.raises(ModelRejected, match=repr(original.graph.value_info[0].name)):
        load(original.SerializeToString())


def test_a_weight_as_an_output_is_of_its_own_type():
    original = hostile.network()
    said = original.graph.output.add(name="conv.w").type
    said.sequence_type.SetInParent()
    assert "conv.w" in [value.name for value in load(original.SerializeToString()).model.graph.outputs]
    original.graph.output[-1].name = original.graph.node[0].output[0]
    with pytest.raises(ModelRejected, match="list or option of nothing"):
        load(original.SerializeToString())


def test_a_loop_that_leaves_out_its_condition():
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Relu", ["x"], ["part"])],
        "body",
        [hostile.value("trip", [], TensorProto.INT64), hostile.value("go", [], TensorProto.BOOL)],
        [hostile.value("on", [], TensorProto.BOOL), hostile.value("part")],
    )
    node = helper.make_node("Loop", ["count", ""], ["y"], body=body)
    original = hostile.model([node], [hostile.array("count", 2, np.int64)])
    same(load(original), original)
