"""What operators need of their inputs and attributes: refused when the file is opened, or run by ONNX Runtime."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

import onnxviz
from onnxviz.errors import OnnxVizError
from onnxviz.graph.open.load import load
from tests.graph import hostile
from tests.graph.hostile import array, choice, ints, local, refused
from tests.graph.running import session

ROOT = Path(__file__).resolve().parents[3]
X = np.random.default_rng(0).normal(size=(2, 4, 8, 8)).astype(np.float32)
F, WHOLE = np.float32, np.int64
BIG = 2**63 - 1

# Operator (and opset, where it is no 17): its inputs after the picture (None: left out), attributes.
SOUND = {
    "Conv": ([np.ones((6, 2, 3, 3), F), np.ones(6, F)], {"group": 2, "pads": [1] * 4, "strides": [1, 1]}),
    "ConvTranspose": ([np.ones((4, 3, 3, 3), F), np.ones(3, F)], {"dilations": [1, 1]}),
    "MaxPool": ([], {"kernel_shape": [2, 2], "strides": [2, 2], "pads": [0] * 4}),
    "AveragePool": ([], {"kernel_shape": [2, 2], "auto_pad": "VALID"}),
    "BatchNormalization": ([np.ones(4, F)] * 4, {}),
    "InstanceNormalization": ([np.ones(4, F)] * 2, {}),
    "Clip": ([np.array(-1, F), np.array(1, F)], {}),
    "Resize": ([None, np.array([1, 1, 2, 2], F)], {"mode": "linear"}),
    "Resize by sizes": ([None, None, np.array([2, 4, 16, 16], WHOLE)], {}),
    "Upsample-9": ([np.array([1, 1, 2, 2], F)], {}),
    "Transpose": ([], {"perm": [0, 2, 3, 1]}),
    "Softmax": ([], {"axis": 1}),
    "Concat": ([np.ones((2, 1, 8, 8), F)], {"axis": 1}),
    "Gather": ([np.array([0, 1], WHOLE)], {"axis": 1}),
    "GatherND": ([np.zeros((2, 1), WHOLE)], {"batch_dims": 1}),
    "Slice": ([np.array([0], WHOLE), np.array([2], WHOLE), np.array([1], WHOLE)], {}),
    "Reshape": ([np.array([2, -1], WHOLE)], {}),
    "Unsqueeze": ([np.array([0], WHOLE)], {}),
    "Pad": ([np.array([0] * 7 + [1], WHOLE), np.array(0, F)], {"mode": "constant"}),
    "Tile": ([np.array([1, 1, 2, 1], WHOLE)], {}),
    "Einsum": ([np.ones((4, 3), F)], {"equation": "nchw,cd->nd"}),
    "MatMul": ([np.ones((8, 3), F)], {}),
    "ReduceMean-13": ([], {"axes": [2, 3]}),
    "ReduceSum": ([np.array([2, 3], WHOLE)], {}),
    "Sum": ([np.ones((1, 4, 1, 1), F)], {}),
    "DepthToSpace": ([], {"blocksize": 2, "mode": "DCR"}),
    "SpaceToDepth": ([], {"blocksize": 2}),
    "LayerNormalization": ([np.ones(8, F), np.ones(8, F)], {"axis": -1}),
    "Split-18": ([], {"axis": 1, "num_outputs": 1}),
    "PRelu": ([np.ones((4, 1, 1), F)], {}),
}


def model(name, inputs, attributes, opset=17):
    op, _, version = name.split()[0].partition("-")
    names = ["x", *("" if each is None else f"i{place}" for place, each in enumerate(inputs))]
    weights = [numpy_helper.from_array(np.asarray(e), f"i{p}") for p, e in enumerate(inputs) if e is not None]
    node, opset = helper.make_node(op, names, ["y"], name="it"), int(version or opset)
    for key, value in attributes.items():
        kind = onnx.defs.get_schema(op, opset).attributes[key].type
        node.attribute.append(helper.make_attribute(key, value, attr_type=int(kind.value)))
    return hostile.model([node], weights, shape=X.shape, opset=opset)


# Sound case, what is changed (the place of an input, or an attribute), to what, and a word of the message.
# ONNX Runtime 1.32 refuses each when it loads it or runs it, or ends the process, or hangs.
BAD = [
    ("Conv", 0, None, "leaves out its input 2 (W)"),
    ("Conv", 0, np.ones((6, 2, 3), F), "4 axes"),
    ("Conv", 0, np.ones((6, 3, 3, 3), F), "4 channels in 2 groups"),
    ("Conv", 0, np.ones((5, 2, 3, 3), F), "a divisor of 5"),
    ("Conv", 1, np.ones(5, F), "a vector of 6"),
    ("Conv", 1, np.ones((6, 1), F), "a vector"),
    ("Conv", "group", 0, "'group'"),
    ("Conv", "pads", [1, 1, 1], "4 numbers"),
    ("Conv", "strides", [1, 0], "positive"),
    ("Conv", "strides", [1], "2 numbers"),
    ("Conv", "auto_pad", "SAME", "SAME_UPPER"),
    ("ConvTranspose", 0, np.ones((3, 3, 3, 3), F), "4 channels"),
    ("ConvTranspose", "dilations", [-1, 1], "positive"),
    ("MaxPool", "kernel_shape", [2], "2 numbers"),
    ("MaxPool", "kernel_shape", [2, 0], "positive"),
    ("AveragePool", "strides", [0, 1], "positive"),
    ("BatchNormalization", 0, np.ones((4, 1), F), "a vector of 4"),
    ("BatchNormalization", 3, np.ones(5, F), "a vector of 4"),
    ("BatchNormalization", 2, None, "leaves out its input 4"),
    ("InstanceNormalization", 1, np.ones(3, F), "a vector of 4"),
    ("Clip", 0, np.zeros(2, F), "one number"),
    ("Clip", 1, np.zeros((1, 1), F), "one number"),
    ("Resize", 1, np.array([1, 1, 2], F), "4 numbers"),
    ("Resize", 1, np.array([1, 1, -2, 2], F), "positive"),
    ("Resize", 1, np.array([1, 1, np.nan, 2], F), "positive"),
    ("Resize", "mode", "junk", "nearest"),
    ("Resize by sizes", 2, np.array([2, 4, 0, 16], WHOLE), "positive"),
    ("Upsample-9", 0, np.array([1, 1, 0, 2], F), "positive"),
    ("Transpose", "perm", [0, 1, 1, 2], "does not fit"),
    ("Transpose", "perm", [1, 0], "the 4 axes"),
    ("Transpose", "perm", [0, 1, 2, BIG], "does not fit"),
    ("Concat", "axis", 4, "does not fit"),
    ("Concat", 0, None, "leaves out its input 2"),
    ("Gather", "axis", -5, "does not fit"),
    ("GatherND", "batch_dims", -5, "'batch_dims'"),
    ("GatherND", "batch_dims", 2, "'batch_dims'"),
    ("Slice", 0, np.array([[0]], WHOLE), "a vector"),
    ("Pad", 1, np.zeros(2, F), "one number"),
    ("Pad", "mode", "junk", "reflect"),
    ("Tile", 0, np.array([1, 1], WHOLE), "does not fit"),
    ("Einsum", "equation", "....->....", "'equation'"),
    ("Einsum", "equation", "nchw->n", "2 terms"),
    ("Einsum", "equation", "nchw,cdn->d", "3 axes"),
    ("Einsum", "equation", "nchw,cd->nn", "each letter"),
    ("Einsum", "equation", "nchw,cd->z", "each letter"),
    ("Sum", 0, None, "leaves out its input 2"),
    ("LayerNormalization", "axis", BIG, "'axis'"),
    ("ReduceMean-13", "axes", [2, 9], "does not fit"),
    ("DepthToSpace", "mode", "junk", "DCR"),
    ("DepthToSpace", "blocksize", 3, "divides its 4 channels"),
    ("DepthToSpace", "blocksize", 0, "1 or more"),
    ("SpaceToDepth", "blocksize", 3, "divides its 8 places"),
    ("MatMul", 0, np.ones((7, 3), F), "does not fit"),
    ("Split-18", "num_outputs", 0, "'num_outputs'"),
    ("AveragePool", "kernel_shape", [2, 2**62], "'kernel_shape'"),
]
# What looks odd and ONNX Runtime runs.
ODD = [
    ("Clip", 0, np.array([-1], F)),
    ("Clip", 0, None),
    ("Clip", 1, None),
    ("Resize", 1, np.array([[1, 1, 2, 2]], F)),
    ("LayerNormalization", 1, None),
    ("Conv", 1, None),
    ("Pad", 1, np.array([0], F)),
    ("Conv", "strides", [1, 2**40]),
    ("Softmax", "axis", -4),
    ("Einsum", "equation", " nchw , cd -> nd "),
    ("Einsum", "equation", "...w,cd->...cd"),
    ("Slice", 1, np.array([BIG], WHOLE)),
]


def variant(name, what, new):
    inputs, attributes = SOUND[name]
    if isinstance(what, str):
        return model(name, inputs, {**attributes, what: new})
    return model(name, [*inputs[:what], new, *inputs[what + 1 :]], attributes)


def runs(proto):
    """Whether ONNX Runtime gives an output; from what was opened, as all that follows does."""
    return session(proto).run(None, {"x": X})[0].size > 0


def opened(proto):
    return ir.to_proto(load(proto).model)


@pytest.mark.parametrize(
    ("name", "what", "new", "word"), BAD, ids=[f"{n}-{w}-{p}" for p, (n, w, _, _) in enumerate(BAD)]
)
def test_what_no_run_can_do_is_refused(name, what, new, word):
    assert refused(variant(name, what, new), word, "'it'").isprintable()


@pytest.mark.parametrize("name", SOUND)
def test_sound_nodes_are_opened(name):
    assert runs(opened(model(name, *SOUND[name])))


@pytest.mark.parametrize(("name", "what", "new"), ODD, ids=[f"{n}-{w}" for n, w, _ in ODD])
def test_what_looks_odd_and_runs_is_opened(name, what, new):
    assert runs(opened(variant(name, what, new)))


@pytest.mark.parametrize(("name", "what", "new", "word"), BAD[:8], ids=range(8))
def test_in_branches_and_functions_too(name, what, new, word):
    proto = variant(name, what, new)
    node, weights = proto.graph.node[0], proto.graph.initializer
    inside = hostile.model(choice("b = Relu(x)"), [*weights, array("c", True, bool)], shape=X.shape)
    node.output[0] = "b"
    inside.graph.node[0].attribute[0].g.node[0].CopyFrom(node)
    refused(inside, "'it'")
    if not all(node.input):
        return
    called = helper.make_function("local", "f", node.input, ["b"], [node], [helper.make_opsetid("", 17)])
    call = f"y = local.f({', '.join(node.input)})"
    for text in (call, "y = Relu(x)")[: 1 + (what == "group")]:  # without a call no shape is known
        refused(hostile.model(text, weights, shape=X.shape, functions=[called]), "'it'")


# --- quantisers ---------------------------------------------------------------------------------


def quantised(node, weights):
    """A node from the picture, or its codes `q`, to `w`."""
    text = f"q = Cast<to = 2>(x) on = Cast<to = 9>(x) [it] w = {node} y = Cast<to = 1>(w)"
    return hostile.model(text, weights, shape=X.shape, imports=[("com.microsoft", 1)])


@pytest.mark.parametrize("shape", [(0,), (1, 0, 8, 8)])
@pytest.mark.parametrize(
    ("op", "kinds"),
    [
        ("QLinearConcat<axis = 1>", "sz qsz"),
        ("QLinearSoftmax<opset = 13>", "qszsz"),
        ("QLinearWhere", "bqsz qsz sz"),
        ("QLinearAdd", "qsz qsz sz"),
    ],
)
def test_a_scale_or_zero_point_of_no_number(op, kinds, shape):
    """ONNX Runtime 1.32 reads one all the same, and the process ends."""
    kinds = kinds.replace(" ", "")
    names = [{"q": "q", "b": "on"}.get(kind, f"i{place}") for place, kind in enumerate(kinds)]
    types = {f"i{place}": F if kind == "s" else np.uint8 for place, kind in enumerate(kinds) if kind in "sz"}
    for empty in types:
        weights = [array(name, np.ones(shape if name == empty else ()), kind) for name, kind in types.items()]
        refused(
            quantised(f"com.microsoft.{op}({', '.join(names)})", weights), "'it'", "one number was expected"
        )


@pytest.mark.parametrize("op", ["QuantizeLinear(x", "DequantizeLinear(q"])
@pytest.mark.parametrize("empty", ["scale", "zero"])
@pytest.mark.parametrize("domain", ["", "com.microsoft."])
def test_a_quantisation_of_no_number(op, empty, domain):
    """ONNX Runtime makes one QLinear operator of these and what lies between, which ends the process (seed 756479)."""
    kinds = {"scale": F, "zero": np.uint8}
    weights = [array(name, np.ones((0,) if empty == name else ()), kind) for name, kind in kinds.items()]
    refused(quantised(f"{domain}{op}, scale, zero)", weights), "'it'", "one number, ", "expected")


@pytest.mark.parametrize(("shape", "sound"), [((), True), ((1,), True), ((4, 1), False), ((0,), False)])
def test_one_scale_has_one_zero_point(shape, sound):
    """ONNX Runtime's node wants it so; but it may leave the node out, and then everything else fails."""
    weights = [array("scale", 1, F), array("zero", np.zeros(shape), np.uint8)]
    proto = hostile.model("[it] y = QuantizeLinear(x, scale, zero)", weights, shape=X.shape)
    proto.graph.output[0].type.tensor_type.elem_type = 2
    if sound:
        assert runs(opened(proto))
        return
    refused(proto, "'it'", "one number")
    with pytest.raises(Exception, match="x_zero_point must be null or a scalar"):
        runs(proto)


def test_the_axis_of_one_scale_is_not_read():
    text = f"q = QuantizeLinear<axis = {BIG}>(x, scale) y = DequantizeLinear<axis = -99>(q, scale)"
    assert runs(opened(hostile.model(text, [array("scale", 1, F)], shape=X.shape)))


# --- what ONNX's inference or ONNX Runtime does not survive ---------------------------------------


def test_a_split_of_more_outputs_than_pieces():
    proto = model("Split-18", *SOUND["Split-18"])
    proto.graph.node[0].output.append("more")
    refused(proto, "'num_outputs'")


@pytest.mark.parametrize("pieces", [2, 2**31 - 1])
def test_a_split_of_more_pieces_than_outputs(pieces):
    """ONNX's inference takes eight bytes for each of them; ONNX Runtime runs none."""
    with pytest.raises(ort.capi.onnxruntime_pybind11_state.Fail, match="does not match num_outputs"):
        runs(variant("Split-18", "num_outputs", 2))
    refused(variant("Split-18", "num_outputs", pieces), "'it'")


NEGATIVE = {
    "ConvTranspose": ([np.ones((4, 4, 3, 3), F)], {"pads": [20] * 4}),
    "CenterCropPad-18": ([np.array([-3], WHOLE)], {"axes": [2]}),
    "Split": ([np.array([-2, 10], WHOLE)], {"axis": 2}),
    "MaxUnpool": ([np.zeros(X.shape, WHOLE), np.array([2, 4, -5, 9], WHOLE)], {"kernel_shape": [2, 2]}),
    "RoiAlign": ([np.ones((1, 4), F), np.zeros(1, WHOLE)], {"output_height": -2}),
}


@pytest.mark.parametrize("name", NEGATIVE)
@pytest.mark.parametrize("inside", [False, True])
def test_sizes_below_zero(name, inside):
    """ONNX's inference of the Slice behind ends the process, in ONNX Runtime, too."""
    proto = model(name, *NEGATIVE[name])
    node = proto.graph.node[0]
    node.output[:] = ["v", "w"] if name == "Split" else ["v"]
    proto.graph.node.extend(hostile.nodes("b = Slice(v, a, a, a)"))
    proto.graph.initializer.append(ints("a", 1))
    outer = "m = ReduceMax<keepdims = 0>(x) c = Cast<to = 9>(m) " + choice("b = Relu(x)")
    if inside:
        steps = hostile.nodes(outer)
        then = steps[-1].attribute[0].g
        then.ClearField("node")
        then.node.extend(proto.graph.node)
        proto.graph.ClearField("node")
        proto.graph.node.extend(steps)
    proto.graph.output[0].name = "y" if inside else "b"
    assert "-" in refused(proto, "'it' makes a value of ").partition("makes a value of ")[2]


def mapping(text):
    """A network that does this to each element of a sequence, from 'a' to 'b'."""
    each = f"body = each (float[] a) => (float[] b) {{ {text} }}"
    around = f"s = SplitToSequence(x) q = SequenceMap<{each}>(s) y = ConcatFromSequence<axis = 0>(q)"
    return hostile.model(around, shape=X.shape, imports=[("com.microsoft", 1)], opset=20)


def test_what_is_done_to_each_element_of_a_sequence_is_checked():
    """ONNX's inference goes through that body by itself, whatever is in it."""
    refused(mapping("[it] b = Split<num_outputs = 2>(a)"), "'it'")
    proto = mapping("b = com.microsoft.Gelu(a)")
    session(proto)
    load(proto)


@pytest.mark.parametrize("lengths", [[-1], [3, -5], [2**62]])
def test_feature_vectors_of_no_length(lengths):
    node = f"y = ai.onnx.ml.FeatureVectorizer<inputdimensions = {lengths}>({', '.join('x' * len(lengths))})"
    refused(hostile.model(node, shape=(1, 3), imports=[("ai.onnx.ml", 1)]), "'inputdimensions'")


GRAMS = {
    "mode": '"TF"', "min_gram_length": 1, "max_gram_length": 2, "max_skip_count": 0, "ngram_counts": [0, 2],
    "ngram_indexes": [0, 1, 2], "pool_int64s": [1, 2, 1, 2],
}  # fmt: skip
DRAWN = [  # operator, attributes; a word where ONNX Runtime 1.32 ends the process, or never comes back
    ("RandomNormalLike", {"scale": -0.0}, "'scale'"),
    ("RandomNormal", {"scale": -1.0, "shape": [2]}, "'scale'"),
    ("RandomNormalLike", {"scale": float("nan")}, "'scale'"),
    ("RandomUniformLike", {"low": 2.0}, "'low'"),
    ("RandomUniform", {"low": float("nan"), "shape": [2]}, "'low'"),
    ("TfIdfVectorizer", {"ngram_indexes": [0]}, "'ngram_indexes'"),
    ("TfIdfVectorizer", {"ngram_indexes": [0, 1]}, "3 numbers"),
    ("TfIdfVectorizer", {"max_skip_count": 2**33}, "'max_skip_count'"),
    ("RandomNormalLike", {"scale": 1e-30}, None),
    ("RandomUniformLike", {"low": 1.0}, None),
    ("TfIdfVectorizer", {}, None),
    ("TfIdfVectorizer", {"ngram_indexes": [0, 1, 2, 3]}, None),
    ("TfIdfVectorizer", {"weights": [1.0, 1.0, 1.0], "max_skip_count": 1000}, None),
]


@pytest.mark.parametrize(("op", "attributes", "word"), DRAWN, ids=range(len(DRAWN)))
def test_what_draws_and_counts(op, attributes, word):
    counts = op == "TfIdfVectorizer"
    attributes = {**(GRAMS if counts else {}), **attributes}
    given = ", ".join(f"{name} = {value}" for name, value in attributes.items())
    read = "whole" if counts else "x" * op.endswith("Like")
    proto = hostile.model(f"whole = Cast<to = 7>(x) [it] y = {op}<{given}>({read})", shape=(1, 3))
    if word is not None:
        refused(proto, "'it'", word)
        return
    assert np.isfinite(session(opened(proto)).run(None, {"x": np.array([[1, 2, 1]], F)})[0]).all()


# --- flags ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [2, -1, 2**32, 2**62])
@pytest.mark.parametrize(
    ("flag", "op", "inputs", "attributes", "x"),
    [
        ("transB", "Gemm", [np.ones((4, 4), F) * np.arange(4, dtype=F)], {}, np.ones((2, 4), F)),
        ("keepdims", "ReduceMean", [], {"axes": [1]}, np.ones((2, 4), F)),
        ("noop_with_empty_axes", "ReduceSum", [], {}, np.ones((2, 4), F)),
        ("ceil_mode", "MaxPool", [], {"kernel_shape": [2, 2], "strides": [2, 2]}, X[:, :, :7, :7]),
        ("count_include_pad", "AveragePool", [], {"kernel_shape": [3, 3], "pads": [1] * 4}, X),
        ("largest", "TopK", [np.array([1], WHOLE)], {}, X),
        ("upper", "Trilu", [], {}, X),
        ("select_last_index", "ArgMax", [], {"axis": 1}, np.ones((2, 4), F)),
    ],
)
def test_a_flag_that_is_neither_0_nor_1(flag, op, inputs, attributes, x, value):
    """It means what ONNX Runtime takes it for, and everything that reads the graph sees that."""
    proto = model(op, inputs, {**attributes, flag: value})
    kind = onnx.defs.get_schema(op, 17).outputs[0].type_str
    proto.graph.output[0].CopyFrom(hostile.value("y", None, 7 if kind == "tensor(int64)" else 1))
    proto.graph.input[0].CopyFrom(hostile.value("x", x.shape))
    if op == "TopK":
        proto.graph.node[0].output.append("places")
    as_onnx_runtime_has_it(proto, op, flag, x)


@pytest.mark.parametrize("value", [2, -1, BIG])
def test_a_flag_of_an_operator_of_onnx_runtime_s_own(value):
    text = f"""f = Flatten(x) y = com.microsoft.FusedGemm<activation = "Relu", transB = {value}>(f, w)"""
    weight = array("w", np.random.default_rng(1).normal(size=(3, 256)))
    proto = hostile.model(text, [weight], shape=X.shape, imports=[("com.microsoft", 1)])
    as_onnx_runtime_has_it(proto, "FusedGemm", "transB", X)


def as_onnx_runtime_has_it(proto, op, flag, x):
    found = load(proto)
    assert next(node for node in found.model.graph if node.op_type == op).attributes[flag].as_int() in (0, 1)
    assert any(repr(flag) in warning for warning in found.warnings)
    expected, given = (session(one).run(["y"], {"x": x})[0] for one in (proto, ir.to_proto(found.model)))
    np.testing.assert_array_equal(given, expected, strict=True)


# --- what is known of a picture of any rank, versions, counts ---------------------------------------


@pytest.mark.parametrize(
    ("node", "shape", "word"),
    [
        ("Conv", (), "3 axes or more"),
        ("Conv", (4, 3), "3 axes or more"),
        ("ConvTranspose", (3,), "3 axes or more"),
        *((f"Conv<{name} = [3, 3]>", (4, 3, 3, 3, 3), "expected 3 numbers")
          for name in ("strides", "dilations", "kernel_shape")),
    ],
)  # fmt: skip
def test_weights_and_windows_whatever_the_picture_is(node, shape, word):
    proto = hostile.model(f"y = {node}(x, w)", [array("w", np.ones(shape))])
    proto.graph.input[0].type.tensor_type.ClearField("shape")
    refused(proto, word)


@pytest.mark.parametrize("version", [2**31, 2**40, BIG])
@pytest.mark.parametrize("domain", ["", "com.microsoft", "local"])
def test_versions_beyond_what_onnx_holds(version, domain):
    """Whatever reads a version, asks ONNX with a C int: opened or refused with a typed error, and so on."""
    text = 'f = local.F(x) c = com.microsoft.FusedConv<activation = "Relu">(f, w) y = Conv(c, v)'
    weights = [array("w", np.ones((3, 3, 3, 3))), array("v", np.ones((2, 3, 3, 3)))]
    functions = [local("F (a) => (b) { b = Relu(a) }")]
    proto = hostile.model(text, weights, functions=functions, imports=[("com.microsoft", 1)])
    next(entry for entry in proto.opset_import if entry.domain == domain).version = version
    try:
        assert max(load(proto).model.opset_imports.values()) < 2**31
        onnxviz.gradient_model(proto.SerializeToString())
    except OnnxVizError as error:
        assert error.exit_code != 5
        assert "function" not in str(error)


@pytest.mark.parametrize(
    ("count", "sound"), [((), True), ((1,), True), ((1, 1), True), ((0,), False), ((2,), False)]
)
def test_a_count_of_trips_is_one_number(count, sound):
    """ONNX Runtime reads the first element of a count that has none."""
    proto = hostile.loop(2, body="next = Relu(state)")
    proto.graph.initializer[-1].CopyFrom(array("trips", np.full(count, 2), WHOLE))
    if sound:
        load(proto)
    else:
        refused(proto, "loop", "input 1, 'trips'", "one number was expected")


UNGUARDED = """
from onnx import helper
from onnxviz.graph.shapes import infer
from onnxviz.graph.open.load import load
from tests.graph import hostile

tree = ("nodes_featureids", "nodes_truenodeids", "nodes_trueleafs", "nodes_falsenodeids", "nodes_falseleafs",
        "leaf_targetids", "tree_roots")
weights = ("nodes_splits", "nodes_modes", "leaf_weights")
for op, attributes, opset in (
    ("DictVectorizer", {"int64_vocabulary": [1, 2]}, 17),
    ("LabelEncoder", {"keys_floats": [1.0], "values_floats": [2.0], "default_float": 3.0}, 17),
    ("RegexFullMatch", {"pattern": "a"}, 20),
    ("TreeEnsemble", {**dict.fromkeys(weights, hostile.array("", [1.0])), **dict.fromkeys(tree, [0])}, 17),
    ("EyeLike", {"dtype": 1}, 17),
    ("EyeLike", {}, 17),
):
    domain = "" if op in ("EyeLike", "RegexFullMatch") else "ai.onnx.ml"
    odd = hostile.nodes("z = com.microsoft.BiasGelu(x, x)")
    odd.append(helper.make_node(op, ["z"], ["b"], domain=domain, **attributes))
    imports = [("com.microsoft", 1), ("ai.onnx.ml", 5 if op == "TreeEnsemble" else 3)]
    infer(load(hostile.model(odd, shape=(1, 3), outputs=("b",), opset=opset, imports=imports)).model)
    within = hostile.nodes("m = ReduceMax<keepdims = 0>(x) c = Cast<to = 9>(m) " + hostile.choice("b = Relu(x)"))
    then = within[-1].attribute[0].g
    del then.node[:]
    then.node.extend(odd)
    infer(load(hostile.model(within, shape=(1, 3), opset=opset, imports=imports)).model)
    print(op, flush=True)
"""


def test_inference_behind_what_onnx_does_not_know():
    """ONNX's inference reads the unknown type of their input; in a process of its own, since it ends that."""
    done = subprocess.run(
        [sys.executable, "-c", UNGUARDED], capture_output=True, text=True, check=False, cwd=ROOT
    )
    told = ["DictVectorizer", "LabelEncoder", "RegexFullMatch", "TreeEnsemble", "EyeLike", "EyeLike"]
    assert done.stdout.split() == told, done.stderr


@pytest.mark.parametrize("op", ["AveragePool", "LpPool", "MaxPool"])
def test_pads_as_wide_as_the_window(op):
    """ONNX Runtime's own refusal names no node."""
    for pads, sound in (([1, 1, 1, 1], True), ([2, 0, 0, 0], False), ([0, 0, 0, 2], False)):
        node = f'["the pool"] y = {op}<kernel_shape = [2, 2], pads = {pads}>(x)'
        proto = hostile.model(node, shape=X.shape)
        if sound:
            session(proto)
            load(proto)
            continue
        with pytest.raises(Exception, match="Pad should be smaller than kernel"):
            session(proto)
        refused(proto, "'the pool'", "'pads'", "less than its windows of [2, 2]")
