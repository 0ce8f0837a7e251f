"""Models that are ONNX and do not hang together, or whose data does not fit its shape: refused, naming the place."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto

from onnxviz.graph.open.load import load
from onnxviz.programs import compile
from tests.graph import hostile
from tests.graph.hostile import array, choice, function, ints, local, model, refused

TRUE = array("c", True, np.bool_)
ADD = "y = Add(x, w)"


# --- structure --------------------------------------------------------------------------------

STRUCTURES = {
    "a cycle": (model("[first] a = Add(x, b) b = Relu(a) y = Relu(b)"), "cycle", "'first'"),
    "a cycle of one": (model("y = Add(x, y)"), "cycle"),
    "a cycle through a subgraph": (model(choice("b = Relu(y)", made="a") + " y = Relu(a)", [TRUE]), "cycle"),
    "a function of two bodies": (hostile.calls("f", [function("f", []), function("f", [])]), "twice"),
    "a function without a name": (
        hostile.calls("f", [function("f", []), function("", [])]),
        "without a name",
    ),
    "a function of another call": (model("y = local.f(x, x)", functions=[function("f", [])]), "2 inputs"),
    "what nothing makes": (model("y = Relu(nothing)"), "'nothing'"),
    "an output that nothing makes": (model("z = Relu(x)"), "output 'y'"),
    "two nodes for a value": (model("y = Relu(x) y = Relu(x)"), "'y' twice"),
    "two results of a node": (model("y, y = Split(x)"), "'y' twice"),
    "a node for a weight": (model("y = Relu(x)", [array("y", 1)]), "'y' twice"),
    "a node that computes for a weight": (
        model("w = Relu(x) y = Add(x, w)", [array("w", [1.0])]),
        "'w' twice",
    ),
    "two inputs": (model("y = Relu(x)", inputs=[hostile.value("x"), hostile.value("x")]), "'x'"),
    "no name": (model("y = Relu(x)", [array("", 1)]), "without a name"),
    "an outer value handed on": (
        model("y = If<then_branch = t () => (x) {}, else_branch = e () => (x) {}>(c)", [TRUE]),
        "Identity",
    ),
    "a name of a million": (model(f"y = {'R' * 10**6}(x)"), "RRR"),
    "no value": (model("[nothing] k = Constant() y = Add(x, k)"), "'nothing' has no value"),
    "another's weight": (
        model("y = local.F(x)", [array("w", 1)], functions=[local("F (a) => (b) { b = Add(a, w) }")]),
        "function 'F' makes: a function sees its inputs only",
    ),
}


@pytest.mark.parametrize("name", STRUCTURES)
def test_what_does_not_hang_together(name):
    refused(*STRUCTURES[name])


@pytest.mark.parametrize("names", [["f"], ["f", "g"], ["f", "g", "h"], None])
def test_functions_that_call_themselves(names):
    if names is None:  # from a subgraph
        body = "b = If<then_branch = t () => (d) { d = local.f(a) }, else_branch = e () => (d) { d = Neg(a) }>(a)"
        functions = [local(f"f (a) => (b) {{ {body} }}")]
    else:
        functions = [function(name, [names[(place + 1) % len(names)]]) for place, name in enumerate(names)]
    refused(hostile.calls("f", functions), "calls itself")
    # Also where nothing calls them.
    refused(model("y = Relu(x)", functions=functions), "calls itself")


@pytest.mark.parametrize(("domain", "name"), [("", "Relu"), ("", "Softmax"), ("com.microsoft", "Gelu")])
def test_a_function_with_the_name_of_an_operator_is_never_called(domain, name):
    """It is ONNX Runtime that decides: the standard leaves it open."""
    called = f"{domain}.{name}".lstrip(".")
    functions = [local(f"{name} (a) => (b) {{ b = Neg(a) }}", domain)]
    proto = model(f"y = {called}(x)", functions=functions, imports=[("com.microsoft", 1)], shape=(1, 3, 8, 8))
    loaded = load(proto)
    assert any(f"'{name}'" in warning and "operator counts" in warning for warning in loaded.warnings)
    x = hostile.X[:1]
    (wanted,) = onnxruntime.InferenceSession(proto.SerializeToString()).run(None, {"x": x})
    np.testing.assert_array_equal(compile(loaded.model, provider="cpu")({"x": x})["y"], wanted)


def test_a_map_that_is_no_zipmap():
    proto = model("y = Identity(x)")
    tensor = onnx.helper.make_tensor_type_proto(hostile.FLOAT, [])
    proto.graph.output[0].type.CopyFrom(onnx.helper.make_map_type_proto(TensorProto.INT64, tensor))
    refused(proto, "map")


def test_names_in_messages_are_inert():
    evil = "\x1b[31m\u202e../../<script>\0\n"
    message = refused(model([onnx.helper.make_node("Relu", [evil], ["y"], name=evil)]), "<script>")
    assert message.isprintable()


# --- bodies, against what ONNX Runtime says of the same file ------------------------------------


def body(inputs, outputs, condition=False):
    """A body whose values are the outer x, rectified."""
    given = ["int64 i", "bool on"] * condition + [f"float[] s{place}" for place in range(inputs)]
    made = ["bool go"] * condition + [f"float[] r{place}" for place in range(outputs)]
    given, made = (given[:inputs], made[:outputs]) if condition else (given, made)
    rows = [f"r{place} = Relu(x)" for place in range(max(outputs, 1))] + ["go = Identity(on)"] * condition
    return f"body ({', '.join(given)}) => ({', '.join(made)}) {{ {' '.join(rows)} }}"


def branches(then, other, made):
    return f"{made} = If<then_branch = {body(0, then)}, else_branch = {body(0, other)}>(c)"


def loop(inputs, outputs, made):
    return f"{made} = Loop<body = {body(inputs, outputs, condition=True)}>(n, c, x)"


def scan(inputs, outputs):
    return f"y0 = Scan<num_scan_inputs = 1, body = {body(inputs, outputs)}>(x)"


BODIES = [  # a node, and what is named where its bodies do not fit it
    (branches(1, 1, "y0"), None), (branches(2, 2, "y0, y1"), None), (scan(1, 1), None),
    (loop(3, 2, "y0"), None), (loop(3, 3, "y0, y1"), None),
    (branches(0, 0, "y0"), "then_branch"), (branches(1, 0, "y0"), "else_branch"),
    (branches(2, 1, "y0"), "then_branch"), (branches(1, 1, "y0, y1"), "branch"),
    (loop(2, 2, "y0"), "inputs"), (loop(3, 3, "y0"), "outputs"), (loop(3, 1, "y0"), "outputs"),
    (scan(2, 1), "inputs"), (scan(0, 1), "inputs"), (scan(1, 2), "outputs"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "named"), BODIES)
def test_bodies_and_their_nodes(text, named):
    proto = model(text + " z = Relu(x)", [TRUE, ints("n", 2)], outputs=("z",), shape=(1, 3, 8, 8))
    proto.graph.initializer[1].ClearField("dims")
    if named is None:
        hostile.run(proto, hostile.X[:1])
        load(proto)
        return
    with pytest.raises(Exception, match="INVALID_GRAPH|FAIL"):
        hostile.run(proto, hostile.X[:1])
    refused(proto, named)


# --- tensors ----------------------------------------------------------------------------------


def weight(**changes):
    """A model whose weight w has these fields set."""
    tensor = array("w", np.zeros(400, np.float32))
    for name, given in changes.items():
        if name in ("data_type", "raw_data"):
            setattr(tensor, name, given)
            continue
        tensor.ClearField("dims" if name == "dims" else "raw_data")
        getattr(tensor, name).extend(given)
    return model(ADD, [tensor])


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
        ({"float_data": [1.0] * 400, "raw_data": bytes(1600)}, ["twice"]),
        ({"float_data": [1.0] * 400, "int32_data": [1]}, ["twice"]),
    ],
)
def test_data_that_does_not_fit_type_and_shape(changes, words):
    refused(weight(**changes), "'w'", *words)


def test_data_in_segments():
    proto = weight(raw_data=bytes(8))
    proto.graph.initializer[0].segment.begin = 1
    refused(proto, "segments")


@pytest.mark.parametrize("field", ["Constant", "ConstantOfShape"])
def test_data_of_constants_is_held_to_the_same(field):
    proto = model(f"k = {field}({'s' * (field != 'Constant')}) y = Add(x, k)", [ints("s", 1)])
    tensor = TensorProto(dims=[1], data_type=1, raw_data=bytes(3))
    proto.graph.node[0].attribute.append(onnx.helper.make_attribute("value", tensor))
    refused(proto, "3 bytes", field)


def sparse(values, indices, dims):
    proto = model(ADD)
    proto.graph.sparse_initializer.append(
        onnx.SparseTensorProto(values=array("w", values), indices=array("i", indices, np.int64), dims=dims)
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
    taken = sparse([1.0], [0], [4])
    proto = model("y = Relu(x)")
    attribute = proto.graph.node[0].attribute.add(name="sparse_value", type=onnx.AttributeProto.SPARSE_TENSOR)
    attribute.sparse_tensor.CopyFrom(taken.graph.sparse_initializer[0])
    refused(proto, "sparse_value")
    taken.graph.initializer.append(array("w", 1))
    refused(taken, "twice")


def test_a_division_that_would_end_the_process():
    text = "[trap] c = Div(a, b) d = Cast<to = 1>(c) y = Add(x, d)"
    for kind in (np.int32, np.int64):
        least = np.iinfo(kind).min
        for divisor in (-1, [3, -1]):
            refused(
                model(text, [array("a", least, kind), array("b", divisor, kind)]), "'trap'", "end the process"
            )
        load(model(text, [array("a", least + 1, kind), array("b", -1, kind)]))
