"""Small files that would take all memory or never end: refused by a limit, quickly, naming the flag that lifts it."""

import re
import time

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper

from onnxviz.errors import LimitExceeded, ModelRejected, OnnxVizError
from onnxviz.graph.open.load import load
from onnxviz.limits import Limits
from tests.graph import hostile


def limited(source, name, *words, limits=None, seconds=5):
    start = time.process_time()
    with pytest.raises(LimitExceeded) as caught:
        load(source, limits=limits or Limits())
    assert caught.value.exit_code == 4
    for word in ("limits=onnxviz.Limits", f"{name}=", *words):  # as Python writes --limit
        assert word in str(caught.value), str(caught.value)
    assert time.process_time() - start < seconds


# --- by number and depth ----------------------------------------------------------------------


def test_a_million_nodes():
    limited(hostile.many_nodes(10**6), "nodes", "100001 nodes")


def test_as_many_nodes_as_allowed():
    nodes = [helper.make_node("Relu", [f"v{n}" if n else "x"], [f"v{n + 1}"]) for n in range(300)]
    proto = hostile.model(nodes, outputs=("v300",))
    load(proto, limits=Limits(nodes=300))
    limited(proto, "nodes", limits=Limits(nodes=299))


def test_nodes_of_subgraphs_count():
    branch = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["b"]), helper.make_node("Relu", ["b"], ["c"])],
        "b",
        [],
        [hostile.value("c")],
    )
    proto = hostile.model(
        [helper.make_node("If", ["k"], ["y"], then_branch=branch, else_branch=branch)],
        [hostile.array("k", True, np.bool_)],
    )
    load(proto, limits=Limits(nodes=5))
    limited(proto, "nodes", limits=Limits(nodes=4))


def test_dimensions_one_by_one():
    """A shape of n entries for each of n nodes is the square of the file."""

    def grown(count: int) -> onnx.ModelProto:
        nodes = [
            helper.make_node("Unsqueeze", [f"v{n}" if n else "x", "front"], [f"v{n + 1}"])
            for n in range(count)
        ]
        nodes.append(helper.make_node("ReduceSum", [f"v{count}"], ["y"], keepdims=0))
        return hostile.model(nodes, [hostile.array("front", [0], np.int64)])

    start = time.process_time()
    with pytest.raises(ModelRejected, match=r"node .*a value of 65 dimensions; at most 64"):
        load(grown(3000))
    assert time.process_time() - start < 5
    load(grown(50))


def test_functions_that_multiply():
    """The billion laughs: 10^9 nodes out of nine functions of ten lines."""
    limited(hostile.laughs(9), "nodes", "functions expanded")
    load(hostile.laughs(3), limits=Limits(nodes=1 + 10 + 100 + 1000 + 1000))


def test_functions_that_read_very_much_very_often():
    body = helper.make_node("Sum", ["a"] * 50_000, ["b"])
    function = helper.make_function("local", "f1", ["a"], ["b"], [body], [helper.make_opsetid("", 17)])
    functions = [hostile.function("f0", ["f1"] * 1000), function]
    limited(hostile.calls("f0", functions), "nodes", limits=Limits(nodes=10_000))


def test_very_many_functions_and_calls():
    """Putting their bodies in place would take minutes, more with the square of their number."""
    unused = [hostile.function(f"f{n}", []) for n in range(5000)]
    with pytest.raises(ModelRejected, match="defines 5000 functions"):
        load(hostile.calls("f0", unused))
    again = hostile.calls("f0", [hostile.function("f0", ["f1"] * 13_000), hostile.function("f1", [])])
    with pytest.raises(ModelRejected, match="13001 times"):
        load(again)


def test_functions_in_a_long_row():
    functions = [hostile.function(f"f{n}", [f"f{n + 1}"]) for n in range(2000)]
    proto = hostile.calls("f0", [*functions, hostile.function("f2000", [])])
    limited(proto, "function_depth", "2001 deep")
    load(hostile.calls("f1969", proto.functions[1969:]), limits=Limits(function_depth=32))


@pytest.mark.parametrize("depth", [9, 20, 32, 50, 200, 3000])
def test_nested_ifs(depth):
    limited(deep(depth), "subgraph_depth")


def deep(depth):
    """A file of nested Ifs made byte by byte, since protobuf itself nests no deeper than 100 messages."""
    if depth <= 20:
        return hostile.nested_ifs(depth)
    leaf = hostile.field(1, hostile.field(1, b"c") + hostile.field(2, b"y") + hostile.field(4, b"Not"))
    leaf += hostile.field(12, hostile.field(1, b"y"))
    graph = leaf
    for _ in range(depth):
        both = b"".join(
            hostile.field(5, hostile.field(1, name) + hostile.field(6, branch) + b"\xa0\x01\x05")
            for name, branch in ((b"then_branch", graph), (b"else_branch", leaf))
        )
        named = hostile.field(1, b"c") + hostile.field(2, b"y") + hostile.field(4, b"If")
        graph = hostile.field(1, named + both) + hostile.field(12, hostile.field(1, b"y"))
    return hostile.raw_model(graph + hostile.field(11, hostile.field(1, b"c")))


def test_ifs_as_deep_as_allowed():
    load(hostile.nested_ifs(8))
    load(hostile.nested_ifs(20), limits=Limits(subgraph_depth=20))


def test_types_nested_without_end():
    kind = hostile.field(1, b"\x08\x01")
    for _ in range(5000):
        kind = hostile.field(4, hostile.field(1, kind))
    graph = hostile.field(13, hostile.field(1, b"v") + hostile.field(2, kind))
    with pytest.raises(ModelRejected):
        load(hostile.raw_model(graph))


@pytest.mark.parametrize("number", [1, 5, 13])
def test_a_file_of_empty_fields(number):
    """Two bytes that become a hundred when they are parsed: 4 MB would take 200 MB, 1 GB would take all."""
    tag = hostile.field(number, b"")
    content = hostile.raw_model(tag * 2_100_000)
    with pytest.raises(LimitExceeded):
        load(content)


def test_empty_fields_within_fields():
    node = hostile.field(1, hostile.field(4, b"Relu") + b"\x2a\0" * 500)
    limited(hostile.raw_model(node * 5000), "messages")


def test_a_structure_that_is_too_large():
    content = hostile.raw_model(hostile.field(10, b"x" * 2**26))
    limited(content, "structure_bytes")
    limited(hostile.network(), "structure_bytes", limits=Limits(structure_bytes=100))


def test_a_file_that_is_too_large(tmp_path):
    path = hostile.save(hostile.network(), tmp_path)
    size = path.stat().st_size
    load(path, limits=Limits(file_bytes=size))
    for source in (path, path.read_bytes()):
        limited(source, "file_bytes", str(size), limits=Limits(file_bytes=size - 1))


def test_too_many_weights():
    proto = hostile.network()
    load(proto, limits=Limits(tensors=4))
    limited(proto, "tensors", limits=Limits(tensors=3))


# --- by size ----------------------------------------------------------------------------------


def test_weights_that_claim_to_be_huge():
    for dims in ([2**33], [2**32, 2**32], [2**62, 2**62, 2**62], [0, 2**62], [2**63 - 1, 2]):
        weight = onnx.TensorProto(name="w", data_type=1, dims=dims)
        limited(hostile.model([helper.make_node("Add", ["x", "w"], ["y"])], [weight]), "tensor_elements")


def test_a_sparse_weight_that_writes_out_huge():
    proto = hostile.model([helper.make_node("Add", ["x", "w"], ["y"])])
    proto.graph.sparse_initializer.append(
        onnx.SparseTensorProto(
            values=hostile.array("w", [1.0]), indices=hostile.array("i", [5], np.int64), dims=[2**17, 2**17]
        )
    )
    limited(proto, "tensor_elements")


def test_an_input_that_claims_to_be_huge():
    limited(
        hostile.model([helper.make_node("Relu", ["x"], ["y"])], shape=("N", 3, 2**20, 2**20)),
        "tensor_elements",
    )


def node(op, inputs, opset=17, output="y", **attributes):
    return lambda *weights: hostile.model(
        [helper.make_node(op, inputs, [output], name="bomb", **attributes)],
        weights,
        opset=opset,
        shape=(1, 1, 4, 4),
    )


def ints(name, *values):
    return hostile.array(name, values, np.int64)


WIDE = 2**16 + 1
BOMBS = {
    "ConstantOfShape": node("ConstantOfShape", ["s"])(ints("s", 2**33)),
    "ConstantOfShape by two": node("ConstantOfShape", ["s"])(ints("s", 2**17, 2**17)),
    "Expand": node("Expand", ["x", "s"])(ints("s", 2**33, 1, 1, 1)),
    "Expand of one number": node("Expand", ["w", "s"])(ints("s", 2**33), hostile.array("w", 1.0)),
    "Tile": node("Tile", ["x", "s"])(ints("s", 2**30, 1, 1, 1)),
    "Range": node("Range", ["a", "b", "c"])(
        *(hostile.array(*p, np.int64) for p in (("a", 0), ("b", 2**40), ("c", 1)))
    ),
    "Range of floats": node("Range", ["a", "b", "c"])(
        *(hostile.array(*p) for p in (("a", 0), ("b", 1e15), ("c", 1)))
    ),
    "Range of ONNX Runtime": node("Range", ["a", "b", "c"], domain="com.microsoft")(
        *(hostile.array(*p, np.int64) for p in (("a", 0), ("b", 2**40), ("c", 1)))
    ),
    "Pad of ONNX Runtime": node("Pad", ["x", "s"], domain="com.microsoft")(
        ints("s", 0, 0, 2**20, 2**20, 0, 0, 0, 0)
    ),
    "FusedMatMul of one weight read in two ways": node(
        "FusedMatMul", ["w", "w"], domain="com.microsoft", transA=1
    )(hostile.array("w", np.ones((1, 2**16 + 1)))),
    "Resize by scales": node("Resize", ["x", "", "s"])(hostile.array("s", [1, 1, 1e5, 1e5])),
    "Resize by sizes": node("Resize", ["x", "", "", "s"])(ints("s", 1, 1, 2**20, 2**20)),
    "Resize-10": node("Resize", ["x", "s"], 10)(hostile.array("s", [1, 1, 1e5, 1e5])),
    "Upsample-9": node("Upsample", ["x", "s"], 9)(hostile.array("s", [1, 1, 1e5, 1e5])),
    "Upsample-7": node("Upsample", ["x"], 7, scales=[1.0, 1.0, 1e5, 1e5])(),
    "Pad": node("Pad", ["x", "s"])(ints("s", 0, 0, 0, 0, 0, 0, 2**30, 2**30)),
    "Pad-2": node("Pad", ["x"], 10, pads=[0, 0, 2**31, 0, 0, 0, 0, 0])(),
    "Conv pads": node("Conv", ["x", "w"], pads=[2**20] * 4)(hostile.array("w", np.ones((1, 1, 1, 1)))),
    "ConvTranspose strides": node("ConvTranspose", ["x", "w"], strides=[2**20, 2**20])(
        hostile.array("w", np.ones((1, 1, 1, 1)))
    ),
    "ConvTranspose output_shape": node("ConvTranspose", ["x", "w"], output_shape=[2**20, 2**20])(
        hostile.array("w", np.ones((1, 1, 1, 1)))
    ),
    "AveragePool pads": node("AveragePool", ["x"], kernel_shape=[2**20 + 1] * 2, pads=[2**20] * 4)(),
    "OneHot": node("OneHot", ["i", "d", "v"])(
        ints("i", *range(4)), ints("d", 2**33), hostile.array("v", [0.0, 1.0])
    ),
    "RandomNormal": node("RandomNormal", [], shape=[2**20, 2**20])(),
    "RandomUniform": node("RandomUniform", [], shape=[2**33])(),
    "Broadcast": node("Add", ["w", "v"])(
        hostile.array("w", np.zeros((WIDE, 1))), hostile.array("v", np.zeros((1, WIDE)))
    ),
    "Outer product": node("MatMul", ["w", "v"])(
        hostile.array("w", np.zeros((WIDE, 1))), hostile.array("v", np.zeros((1, WIDE)))
    ),
    "Einsum": node("Einsum", ["w", "v"], equation="i,j->ij")(
        hostile.array("w", np.zeros(WIDE)), hostile.array("v", np.zeros(WIDE))
    ),
    "Gather": node("Gather", ["w", "i"])(
        hostile.array("w", np.zeros((2, WIDE))), hostile.array("i", np.zeros(WIDE), np.int64)
    ),
    "Window": node("HannWindow", ["n"])(hostile.array("n", 2**40, np.int64)),
    "CenterCropPad": node("CenterCropPad", ["x", "s"], 18)(ints("s", 1, 1, 2**20, 2**20)),
    "MaxUnpool": node("MaxUnpool", ["x", "i", "s"], kernel_shape=[1, 1])(
        hostile.array("i", np.zeros((1, 1, 4, 4)), np.int64), ints("s", 1, 1, 2**20, 2**20)
    ),
}


# ONNX Runtime refuses an output that is declared to be of another type.
BOMBS["Range"].graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.INT64


def test_a_range_beyond_64_bits():
    """Of which ONNX's inference makes any number."""
    with pytest.raises(LimitExceeded, match="tensor_elements"):
        load(node("Range", ["a", "b", "c"])(*map(hostile.array, "abc", (0, 1e30, 1e-30))))


@pytest.mark.parametrize("name", BOMBS)
def test_operators_that_make_something_huge(name):
    limited(BOMBS[name], "tensor_elements", "'bomb'")
    # With the limit lifted it loads: nothing was allocated for the check.
    load(BOMBS[name], limits=Limits(tensor_elements=2**62, total_elements=2**62))


def test_a_size_that_is_computed():
    """The shape comes out of arithmetic on other shapes."""
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),  # 1, 1, 4, 4
        helper.make_node("Gather", ["s", "two"], ["four"]),
        helper.make_node("Mul", ["four", "big"], ["m"]),
        helper.make_node("Unsqueeze", ["m", "zero"], ["u"]),
        helper.make_node("Concat", ["u", "u"], ["both"], axis=0),
        helper.make_node("ConstantOfShape", ["both"], ["y"], name="bomb"),
    ]
    weights = [hostile.array("two", 2, np.int64), hostile.array("big", 2**16, np.int64), ints("zero", 0)]
    limited(hostile.model(nodes, weights, shape=(1, 1, 4, 4)), "tensor_elements", "'bomb'")
    # Listed in another order it is the same.
    limited(hostile.model(nodes[::-1], weights, shape=(1, 1, 4, 4)), "tensor_elements", "'bomb'")


def test_a_shape_in_a_constant_node_or_an_attribute():
    for attribute in ({"value": ints("", 2**33)}, {"value_ints": [2**33]}):
        nodes = [helper.make_node("Constant", [], ["s"], **attribute)]
        nodes.append(helper.make_node("ConstantOfShape", ["s"], ["y"], name="bomb"))
        limited(hostile.model(nodes), "tensor_elements", "'bomb'")


def test_doubling():
    """Each Concat joins the last value with itself."""
    nodes = [
        helper.make_node("Concat", [f"v{n}" if n else "x"] * 2, [f"v{n + 1}"], axis=1) for n in range(40)
    ]
    limited(hostile.model(nodes, outputs=("v40",)), "tensor_elements", "'Concat'")


def test_in_subgraphs_and_functions():
    bomb = helper.make_node("ConstantOfShape", ["s"], ["b"], name="bomb")
    branch = helper.make_graph([bomb], "b", [], [hostile.value("b")], [ints("s", 2**33)])
    conditional = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    limited(hostile.model([conditional], [hostile.array("c", True, np.bool_)]), "tensor_elements", "'bomb'")
    body = [helper.make_node("ConstantOfShape", ["s"], ["b"], name="bomb")]
    function = helper.make_function("local", "f", ["s"], ["b"], body, [helper.make_opsetid("", 17)])
    call = helper.make_node("f", ["big"], ["y"], domain="local")
    proto = hostile.model([call], [ints("big", 2**33)], imports=[("local", 1)], functions=[function])
    limited(proto, "tensor_elements", "'bomb'")


def test_an_attribute_handed_to_a_function():
    body = helper.make_node("RandomNormal", [], ["b"], name="bomb")
    body.attribute.add(name="shape", ref_attr_name="size", type=onnx.AttributeProto.INTS)
    function = helper.make_function(
        "local", "f", ["a"], ["b"], [body], [helper.make_opsetid("", 17)], ["size"]
    )
    call = helper.make_node("f", ["x"], ["y"], domain="local", size=[2**33])
    proto = hostile.model([call], imports=[("local", 1)], functions=[function])
    limited(proto, "tensor_elements", "'bomb'")


def test_many_large_constants():
    """Each is allowed, together they are 2^35 elements that ONNX Runtime would fold into the model."""
    nodes = [helper.make_node("ConstantOfShape", ["s"], [f"v{n}"]) for n in range(32)]
    nodes.append(helper.make_node("Sum", [f"v{n}" for n in range(32)], ["y"]))
    limited(hostile.model(nodes, [ints("s", 2**30)]), "total_elements")


def test_sizes_that_depend_on_the_input_are_not_refused():
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Mul", ["s", "big"], ["m"]),
        helper.make_node("Expand", ["x", "m"], ["y"]),
    ]
    load(hostile.model(nodes, [hostile.array("big", 2**10, np.int64)], shape=("N", "C", "H", "W")))


# --- by time ----------------------------------------------------------------------------------


@pytest.mark.parametrize("condition", ["true", "kept"])
@pytest.mark.parametrize("trips", [2**62, 2**63 - 1, 10**7])
def test_a_loop_of_very_many_trips(condition, trips):
    limited(hostile.loop(trips, condition=condition), "loop_trips", "'loop'")


def test_a_loop_of_very_many_trips_unless_its_data_ends_it():
    limited(hostile.loop(2**62, condition="data"), "loop_trips")
    # This is how exporters write a while loop; a run has its own limit.
    load(hostile.loop(2**63 - 1, condition="data"))
    load(hostile.loop(None, condition="data"))
    load(hostile.loop(10**6))


@pytest.mark.parametrize("condition", ["true", "kept"])
def test_a_loop_that_never_ends(condition):
    limited(hostile.loop(None, condition=condition), "loop_trips", "never ends")


def test_loops_within_loops():
    inner = hostile.loop(2000).graph
    body = onnx.NodeProto.FromString(inner.node[0].SerializeToString())
    body.input[2], body.output[0] = "state", "next"
    limited(hostile.loop(2000, body=[body]), "loop_trips", str(2000 * 2000))
    load(hostile.loop(400, body=[body]))


def test_a_loop_that_stacks_something_huge():
    proto = hostile.loop(2**12)
    body = proto.graph.node[0].attribute[0].g
    body.node.append(helper.make_node("ConstantOfShape", ["s"], ["slab"]))
    body.output.append(hostile.value("slab"))
    proto.graph.node[0].output.append("stack")
    proto.graph.initializer.append(ints("s", 2**20))
    limited(proto, "tensor_elements", "'loop'")


def test_a_scan():
    body = helper.make_graph(
        [helper.make_node("ConstantOfShape", ["s"], ["o"])], "b", [hostile.value("i")], [hostile.value("o")]
    )
    scan = helper.make_node("Scan", ["w"], ["y"], name="scan", body=body, num_scan_inputs=1)
    weights = [hostile.array("w", np.zeros(2**12)), ints("s", 2**20)]
    limited(hostile.model([scan], weights), "tensor_elements", "'scan'")
    weights = [hostile.array("w", np.zeros(2**12)), ints("s", 1)]
    limited(hostile.model([scan], weights), "loop_trips", "4096 trips", limits=Limits(loop_trips=4000))


# --- the limits themselves --------------------------------------------------------------------


def test_without_limits_what_is_only_large_loads():
    limits = Limits.unlimited()
    for proto in (hostile.loop(2**62), BOMBS["Expand"], hostile.nested_ifs(15), hostile.laughs(4)):
        assert isinstance(load(proto, limits=limits).model, ir.Model)


def test_the_flag_that_an_error_names_lets_the_model_pass():
    """As a user would: add each flag that is asked for, until the model loads."""
    proto = hostile.laughs(3)
    limits, flags = Limits(nodes=10, function_depth=1, tensors=1, messages=5), []
    for _ in range(10):
        try:
            load(proto, limits=limits)
            break
        except LimitExceeded as error:
            flags.append(re.search(r"onnxviz\.Limits.*?(\w+=[\w.]+)", str(error))[1])
            limits = Limits.parse(flags, limits)
    else:
        pytest.fail(f"still refused with {flags}")
    assert len(flags) >= 2


def test_a_refusal_is_always_typed():
    for proto in (hostile.laughs(9), *BOMBS.values(), hostile.loop(2**62)):
        with pytest.raises(OnnxVizError):
            load(proto)
