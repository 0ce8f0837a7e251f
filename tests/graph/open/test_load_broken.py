"""Models that are ONNX and do not hang together, or whose data does not fit its shape: refused, naming the place."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from onnxviz.graph.open.load import load
from onnxviz.programs import compile
from tests.graph import hostile
from tests.graph.hostile import refused

RELU = [helper.make_node("Relu", ["x"], ["y"])]


# --- structure --------------------------------------------------------------------------------


def test_a_cycle():
    nodes = [helper.make_node("Add", ["x", "b"], ["a"], name="first"), helper.make_node("Relu", ["a"], ["b"])]
    refused(hostile.model([*nodes, helper.make_node("Relu", ["b"], ["y"])]), "cycle", "'first'")
    refused(hostile.model([helper.make_node("Add", ["x", "y"], ["y"])]), "cycle")


def test_a_cycle_through_a_subgraph():
    branch = helper.make_graph([helper.make_node("Relu", ["y"], ["b"])], "b", [], [hostile.value("b")])
    node = helper.make_node("If", ["c"], ["a"], then_branch=branch, else_branch=branch)
    weights = [hostile.array("c", True, np.bool_)]
    refused(hostile.model([node, helper.make_node("Relu", ["a"], ["y"])], weights), "cycle")


@pytest.mark.parametrize("names", [["f"], ["f", "g"], ["f", "g", "h"]])
def test_functions_that_call_themselves(names):
    functions = [
        hostile.function(name, [names[(place + 1) % len(names)]]) for place, name in enumerate(names)
    ]
    refused(hostile.calls("f", functions), "calls itself")
    # Also where nothing calls them.
    refused(hostile.model(RELU, functions=functions), "calls itself")


def test_a_function_that_calls_itself_from_a_subgraph():
    branch = helper.make_graph(
        [helper.make_node("f", ["a"], ["b"], domain="local")], "b", [], [hostile.value("b")]
    )
    node = helper.make_node("If", ["a"], ["b"], then_branch=branch, else_branch=branch)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    function = helper.make_function("local", "f", ["a"], ["b"], [node], opsets)
    refused(hostile.calls("f", [function]), "calls itself")


def test_functions_twice_without_a_name_or_called_wrongly():
    refused(hostile.calls("f", [hostile.function("f", []), hostile.function("f", [])]), "twice")
    refused(hostile.calls("f", [hostile.function("f", []), hostile.function("", [])]), "without a name")
    proto = hostile.calls("f", [hostile.function("f", [])])
    proto.graph.node[0].input.append("x")
    refused(proto, "2 inputs")


@pytest.mark.parametrize(("domain", "name"), [("", "Relu"), ("", "Softmax"), ("com.microsoft", "Gelu")])
def test_a_function_with_the_name_of_an_operator_is_never_called(domain, name):
    """It is ONNX Runtime that decides: the standard leaves it open."""
    body = [helper.make_node("Neg", ["a"], ["b"])]
    function = helper.make_function(domain, name, ["a"], ["b"], body, [helper.make_opsetid("", 17)])
    node = helper.make_node(name, ["x"], ["y"], domain=domain)
    proto = hostile.model([node], functions=[function], imports=[("com.microsoft", 1)], shape=(1, 3, 8, 8))
    loaded = load(proto)
    assert any(f"'{name}'" in warning and "operator counts" in warning for warning in loaded.warnings)
    x = np.random.default_rng(0).normal(size=(1, 3, 8, 8)).astype(np.float32)
    (wanted,) = onnxruntime.InferenceSession(proto.SerializeToString()).run(None, {"x": x})
    np.testing.assert_array_equal(compile(loaded.model, provider="cpu")({"x": x})["y"], wanted)


def test_values_that_nothing_makes_or_two_nodes_make():
    refused(hostile.model([helper.make_node("Relu", ["nothing"], ["y"])]), "'nothing'")
    refused(hostile.model([helper.make_node("Relu", ["x"], ["z"])]), "output 'y'")
    refused(hostile.model(RELU * 2), "'y' twice")
    refused(hostile.model([helper.make_node("Split", ["x"], ["y", "y"])]), "'y' twice")
    refused(hostile.model(RELU, [hostile.array("y", 1)]), "'y' twice")
    twice = hostile.model(RELU, inputs=[hostile.value("x"), hostile.value("x")])
    refused(twice, "'x'")
    refused(hostile.model(RELU, [hostile.array("", 1)]), "without a name")


def test_a_subgraph_that_hands_an_outer_value_on():
    branch = helper.make_graph([], "b", [], [hostile.value("x")])
    node = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    refused(hostile.model([node], [hostile.array("c", True, np.bool_)]), "Identity")


def test_a_map_that_is_no_zipmap():
    proto = hostile.model([helper.make_node("Identity", ["x"], ["y"])])
    tensor = helper.make_tensor_type_proto(hostile.FLOAT, [])
    proto.graph.output[0].type.CopyFrom(helper.make_map_type_proto(TensorProto.INT64, tensor))
    refused(proto, "map")


def test_names_in_messages_are_inert():
    evil = "\x1b[31m\u202e../../<script>\0\n"
    message = refused(hostile.model([helper.make_node("Relu", [evil], ["y"], name=evil)]), "<script>")
    assert message.isprintable()
    refused(hostile.model([helper.make_node("R" * 10**6, ["x"], ["y"])]), "RRR")


# --- tensors ----------------------------------------------------------------------------------


def weight(**changes):
    """A model whose weight w has these fields set."""
    tensor = hostile.array("w", np.zeros(400, np.float32))
    for name, given in changes.items():
        if name == "dims":
            tensor.ClearField("dims")
            tensor.dims.extend(given)
        elif name.endswith("_data") and name != "raw_data":
            tensor.ClearField("raw_data")
            getattr(tensor, name).extend(given)
        else:
            setattr(tensor, name, given)
    return hostile.model([helper.make_node("Add", ["x", "w"], ["y"])], [tensor])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"raw_data": b"\0" * 1599}, ["1599 bytes", "1600"]),
        ({"raw_data": b""}, ["0 bytes", "1600"]),
        ({"raw_data": b"\0" * 16}, ["16 bytes", "1600"]),
        ({"raw_data": b"\0" * 1604}, ["1604 bytes", "1600"]),
        ({"dims": [401]}, ["1600 bytes", "1604"]),
        ({"dims": [-400]}, ["negative"]),
        ({"dims": [-20, -20]}, ["negative"]),
        ({"dims": [1] * 40 + [400]}, ["41 dimensions"]),
        ({"data_type": 0}, ["element type 0"]),
        ({"data_type": 99}, ["element type 99"]),
        ({"data_type": TensorProto.DOUBLE}, ["3200"]),
        ({"data_type": TensorProto.STRING}, ["text"]),
        ({"float_data": [1.0] * 399}, ["1596 bytes", "1600"]),
        ({"float_data": [1.0] * 5}, ["5 entries in float_data", "400"]),
        ({"float_data": []}, ["no data", "400"]),
        ({"int32_data": [1] * 400}, ["FLOAT", "int32_data"]),
        ({"double_data": [1.0] * 400}, ["FLOAT", "double_data"]),
        ({"int64_data": [1] * 400, "data_type": TensorProto.STRING}, ["STRING", "int64_data"]),
        ({"int32_data": [1] * 400, "data_type": TensorProto.INT4}, ["400 entries", "200"]),
        ({"float_data": [1.0] * 400, "data_type": TensorProto.COMPLEX64}, ["400 entries", "800"]),
    ],
)
def test_data_that_does_not_fit_type_and_shape(changes, words):
    refused(weight(**changes), "'w'", *words)


def test_data_twice_or_in_segments():
    proto = weight()
    proto.graph.initializer[0].float_data.extend([1.0] * 400)
    refused(proto, "twice")
    proto = weight(float_data=[1.0] * 400)
    proto.graph.initializer[0].int32_data.append(1)
    refused(proto, "twice")
    proto = weight()
    proto.graph.initializer[0].raw_data = bytes(8)
    proto.graph.initializer[0].segment.begin = 1
    refused(proto, "segments")


@pytest.mark.parametrize("field", ["Constant", "ConstantOfShape"])
def test_data_of_constants_is_held_to_the_same(field):
    tensor = hostile.array("k", np.zeros(1))
    tensor.raw_data = bytes(3)
    nodes = [
        helper.make_node(field, ["s"] if field == "ConstantOfShape" else [], ["k"], value=tensor),
        helper.make_node("Add", ["x", "k"], ["y"]),
    ]
    refused(hostile.model(nodes, [hostile.array("s", [1], np.int64)]), "3 bytes", field)


def sparse(values, indices, dims):
    proto = hostile.model([helper.make_node("Add", ["x", "w"], ["y"])])
    proto.graph.sparse_initializer.append(
        onnx.SparseTensorProto(
            values=hostile.array("w", values), indices=hostile.array("i", indices, np.int64), dims=dims
        )
    )
    return proto


@pytest.mark.parametrize(
    ("indices", "dims", "words"),
    [
        ([0, 9], [4], ["outside"]),
        ([-1, 2], [4], ["outside"]),
        ([[0, 0], [0, 9]], [2, 4], ["outside"]),
        ([1, 1], [4], ["twice"]),
        ([1], [4], ["(1,)"]),
        ([[1], [2]], [2, 2], ["(2, 1)"]),
        ([0, 1], [-4], ["negative"]),
    ],
)
def test_sparse_weights_that_make_no_sense(indices, dims, words):
    refused(sparse([1.0, 2.0], indices, dims), "'w'", *words)


def test_sparse_attributes_of_other_nodes():
    node = helper.make_node("Relu", ["x"], ["y"])
    attribute = node.attribute.add(name="sparse_value", type=onnx.AttributeProto.SPARSE_TENSOR)
    attribute.sparse_tensor.CopyFrom(sparse([1.0], [0], [4]).graph.sparse_initializer[0])
    refused(hostile.model([node]), "sparse_value")
    taken = sparse([1.0], [0], [4])
    taken.graph.initializer.append(hostile.array("w", 1))
    refused(taken, "twice")


def test_a_division_that_would_end_the_process():
    nodes = [
        helper.make_node("Div", ["a", "b"], ["c"], name="trap"),
        helper.make_node("Cast", ["c"], ["d"], to=hostile.FLOAT),
        helper.make_node("Add", ["x", "d"], ["y"]),
    ]
    for kind in (np.int32, np.int64):
        least = np.iinfo(kind).min
        for divisor in (-1, [3, -1]):
            proto = hostile.model(nodes, [hostile.array("a", least, kind), hostile.array("b", divisor, kind)])
            refused(proto, "'trap'", "end the process")
        load(hostile.model(nodes, [hostile.array("a", least + 1, kind), hostile.array("b", -1, kind)]))
