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
from onnxviz.errors import ModelRejected, OnnxVizError
from onnxviz.graph.open.load import load
from tests.graph import hostile

ROOT = Path(__file__).resolve().parents[3]
X = np.random.default_rng(0).normal(size=(2, 4, 8, 8)).astype(np.float32)
F, WHOLE = np.float32, np.int64
BIG = 2**63 - 1

# Operator, its inputs after the picture (None: left out), attributes, opset; and what to vary.
SOUND = {
    "Conv": (
        "Conv",
        [np.ones((6, 2, 3, 3), F), np.ones(6, F)],
        {"group": 2, "pads": [1] * 4, "strides": [1, 1]},
        17,
    ),
    "ConvTranspose": ("ConvTranspose", [np.ones((4, 3, 3, 3), F), np.ones(3, F)], {"dilations": [1, 1]}, 17),
    "MaxPool": ("MaxPool", [], {"kernel_shape": [2, 2], "strides": [2, 2], "pads": [0] * 4}, 17),
    "AveragePool": ("AveragePool", [], {"kernel_shape": [2, 2], "auto_pad": "VALID"}, 17),
    "BatchNormalization": ("BatchNormalization", [np.ones(4, F)] * 4, {}, 17),
    "InstanceNormalization": ("InstanceNormalization", [np.ones(4, F)] * 2, {}, 17),
    "Clip": ("Clip", [np.array(-1, F), np.array(1, F)], {}, 17),
    "Resize": ("Resize", [None, np.array([1, 1, 2, 2], F)], {"mode": "linear"}, 17),
    "Resize by sizes": ("Resize", [None, None, np.array([2, 4, 16, 16], WHOLE)], {}, 17),
    "Upsample-9": ("Upsample", [np.array([1, 1, 2, 2], F)], {}, 9),
    "Transpose": ("Transpose", [], {"perm": [0, 2, 3, 1]}, 17),
    "Softmax": ("Softmax", [], {"axis": 1}, 17),
    "Concat": ("Concat", [np.ones((2, 1, 8, 8), F)], {"axis": 1}, 17),
    "Gather": ("Gather", [np.array([0, 1], WHOLE)], {"axis": 1}, 17),
    "GatherND": ("GatherND", [np.zeros((2, 1), WHOLE)], {"batch_dims": 1}, 17),
    "Slice": ("Slice", [np.array([0], WHOLE), np.array([2], WHOLE), np.array([1], WHOLE)], {}, 17),
    "Reshape": ("Reshape", [np.array([2, -1], WHOLE)], {}, 17),
    "Squeeze": ("Unsqueeze", [np.array([0], WHOLE)], {}, 17),
    "Pad": ("Pad", [np.array([0] * 7 + [1], WHOLE), np.array(0, F)], {"mode": "constant"}, 17),
    "Tile": ("Tile", [np.array([1, 1, 2, 1], WHOLE)], {}, 17),
    "Einsum": ("Einsum", [np.ones((4, 3), F)], {"equation": "nchw,cd->nd"}, 17),
    "MatMul": ("MatMul", [np.ones((8, 3), F)], {}, 17),
    "ReduceMean-13": ("ReduceMean", [], {"axes": [2, 3]}, 13),
    "ReduceSum": ("ReduceSum", [np.array([2, 3], WHOLE)], {}, 17),
    "Sum": ("Sum", [np.ones((1, 4, 1, 1), F)], {}, 17),
    "DepthToSpace": ("DepthToSpace", [], {"blocksize": 2, "mode": "DCR"}, 17),
    "SpaceToDepth": ("SpaceToDepth", [], {"blocksize": 2}, 17),
    "LayerNormalization": ("LayerNormalization", [np.ones(8, F), np.ones(8, F)], {"axis": -1}, 17),
    "Split": ("Split", [], {"axis": 1, "num_outputs": 1}, 18),
    "PRelu": ("PRelu", [np.ones((4, 1, 1), F)], {}, 17),
}


def model(op, inputs, attributes, opset):
    names = ["x", *("" if each is None else f"i{place}" for place, each in enumerate(inputs))]
    weights = [numpy_helper.from_array(np.asarray(e), f"i{p}") for p, e in enumerate(inputs) if e is not None]
    node = helper.make_node(op, names, ["y"], name="it")
    for name, value in attributes.items():
        kind = onnx.defs.get_schema(op, opset).attributes[name].type
        node.attribute.append(helper.make_attribute(name, value, attr_type=int(kind.value)))
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
    ("Split", "num_outputs", 0, "'num_outputs'"),
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
    op, inputs, attributes, opset = SOUND[name]
    if isinstance(what, str):
        return model(op, inputs, {**attributes, what: new}, opset)
    return model(op, [*inputs[:what], new, *inputs[what + 1 :]], attributes, opset)


def runs(proto):
    """Whether ONNX Runtime gives an output; from what was opened, as all that follows does."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": X})[0].size > 0


@pytest.mark.parametrize(
    ("name", "what", "new", "word"), BAD, ids=[f"{n}-{w}-{p}" for p, (n, w, _, _) in enumerate(BAD)]
)
def test_what_no_run_can_do_is_refused(name, what, new, word):
    with pytest.raises(ModelRejected) as caught:
        load(variant(name, what, new))
    said = str(caught.value)
    assert word in said, said
    assert "'it'" in said
    assert said.isprintable()


@pytest.mark.parametrize("shape", [(0,), (1, 0, 8, 8)])
@pytest.mark.parametrize(
    ("op", "kinds"),
    [
        ("QLinearConcat", "sz xsz"),
        ("QLinearSoftmax", "xszsz"),
        ("QLinearWhere", "bxsz xsz sz"),
        ("QLinearAdd", "xsz xsz sz"),
    ],
)
def test_a_scale_or_zero_point_of_no_number(op, kinds, shape):
    """ONNX Runtime 1.32 reads one all the same, and the process ends."""
    kinds = kinds.replace(" ", "")
    for empty, kind in enumerate(kinds):
        if kind not in "sz":
            continue
        weights = [
            numpy_helper.from_array(
                np.ones(shape if place == empty else (), {"s": F, "z": np.uint8}[kind]), f"i{place}"
            )
            for place, kind in enumerate(kinds)
            if kind in "sz"
        ]
        names = [{"x": "q", "b": "on"}.get(kind, f"i{place}") for place, kind in enumerate(kinds)]
        attributes = {"QLinearConcat": {"axis": 1}, "QLinearSoftmax": {"opset": 13}}.get(op, {})
        nodes = [
            helper.make_node("Cast", ["x"], ["q"], to=onnx.TensorProto.UINT8),
            helper.make_node("Cast", ["x"], ["on"], to=onnx.TensorProto.BOOL),
            helper.make_node(op, names, ["w"], name="it", domain="com.microsoft", **attributes),
            helper.make_node("Cast", ["w"], ["y"], to=onnx.TensorProto.FLOAT),
        ]
        proto = hostile.model(nodes, weights, shape=X.shape, opset=17)
        proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
        with pytest.raises(ModelRejected, match=r"'it'.*one number was expected"):
            load(proto)


@pytest.mark.parametrize("op", ["QuantizeLinear", "DequantizeLinear"])
@pytest.mark.parametrize("empty", ["scale", "zero"])
@pytest.mark.parametrize("domain", ["", "com.microsoft"])
def test_a_quantisation_of_no_number(op, empty, domain):
    """ONNX Runtime makes one QLinear operator of these and what lies between, which ends the process (seed 756479)."""
    weights = [
        numpy_helper.from_array(np.ones((0,) if empty == name else (), kind), name)
        for name, kind in (("scale", F), ("zero", np.uint8))
    ]
    data = {"QuantizeLinear": "x", "DequantizeLinear": "q"}[op]
    nodes = [
        helper.make_node("Cast", ["x"], ["q"], to=onnx.TensorProto.UINT8),
        helper.make_node(op, [data, "scale", "zero"], ["w"], name="it", domain=domain),
        helper.make_node("Cast", ["w"], ["y"], to=onnx.TensorProto.FLOAT),
    ]
    proto = hostile.model(nodes, weights, shape=X.shape, opset=17)
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    with pytest.raises(ModelRejected, match=r"'it'.*one number, .*expected"):
        load(proto)


def test_a_split_of_more_outputs_than_pieces():
    proto = model(*SOUND["Split"])
    proto.graph.node[0].output.append("more")
    with pytest.raises(ModelRejected, match="'num_outputs'"):
        load(proto)


@pytest.mark.parametrize("pieces", [2, 2**31 - 1])
def test_a_split_of_more_pieces_than_outputs(pieces):
    """ONNX's inference takes eight bytes for each of them; ONNX Runtime runs none."""
    proto = model(*SOUND["Split"])
    proto.graph.node[0].attribute[1].i = pieces
    with pytest.raises(ort.capi.onnxruntime_pybind11_state.Fail, match="does not match num_outputs"):
        ort.InferenceSession(variant("Split", "num_outputs", 2).SerializeToString()).run(None, {"x": X})
    refuses(proto)


NEGATIVE = {
    "ConvTranspose": ("ConvTranspose", [np.ones((4, 4, 3, 3), F)], {"pads": [20] * 4}, 17),
    "CenterCropPad": ("CenterCropPad", [np.array([-3], WHOLE)], {"axes": [2]}, 18),
    "Split": ("Split", [np.array([-2, 10], WHOLE)], {"axis": 2}, 17),
    "MaxUnpool": (
        "MaxUnpool",
        [np.zeros(X.shape, WHOLE), np.array([2, 4, -5, 9], WHOLE)],
        {"kernel_shape": [2, 2]},
        17,
    ),
    "RoiAlign": ("RoiAlign", [np.ones((1, 4), F), np.zeros(1, WHOLE)], {"output_height": -2}, 17),
}


@pytest.mark.parametrize("name", NEGATIVE)
@pytest.mark.parametrize("inside", [False, True])
def test_sizes_below_zero(name, inside):
    """ONNX's inference of the Slice behind ends the process, in ONNX Runtime, too."""
    proto = model(*NEGATIVE[name])
    node = proto.graph.node[0]
    node.output[0] = "v"
    if name == "Split":
        node.output.append("w")
    proto.graph.node.add(op_type="Slice", input=["v", "a", "a", "a"], output=["y"])
    proto.graph.initializer.append(hostile.array("a", [1], WHOLE))
    if inside:
        one = helper.make_graph(list(proto.graph.node), "one", [], [hostile.value("y")])
        other = helper.make_graph([helper.make_node("Relu", ["x"], ["z"])], "other", [], [hostile.value("z")])
        steps = [
            helper.make_node("ReduceMax", ["x"], ["m"], keepdims=0),
            helper.make_node("Cast", ["m"], ["on"], to=onnx.TensorProto.BOOL),
            helper.make_node("If", ["on"], ["y"], then_branch=one, else_branch=other),
        ]
        del proto.graph.node[:]
        proto.graph.node.extend(steps)
    with pytest.raises(ModelRejected, match=r"'it' makes a value of .*-\d+"):
        load(proto)


def mapping(nodes):
    """A network that does this to each element of a sequence, from 'a' to 'y'."""
    body = helper.make_graph(nodes, "each", [hostile.value("a")], [hostile.value("y")])
    around = [
        helper.make_node("SplitToSequence", ["x"], ["s"]),
        helper.make_node("SequenceMap", ["s"], ["q"], body=body),
        helper.make_node("ConcatFromSequence", ["q"], ["o"], axis=0),
    ]
    return hostile.model(around, shape=X.shape, outputs=("o",), imports=[("com.microsoft", 1)], opset=20)


def test_what_is_done_to_each_element_of_a_sequence_is_checked():
    """ONNX's inference goes through that body by itself, whatever is in it."""
    refuses(mapping([helper.make_node("Split", ["a"], ["y"], name="it", num_outputs=2)]))
    proto = mapping([helper.make_node("Gelu", ["a"], ["y"], domain="com.microsoft")])
    ort.InferenceSession(proto.SerializeToString())
    load(proto)


@pytest.mark.parametrize("lengths", [[-1], [3, -5], [2**62]])
def test_feature_vectors_of_no_length(lengths):
    node = helper.make_node("FeatureVectorizer", ["x"] * len(lengths), ["y"], name="it", domain="ai.onnx.ml")
    node.attribute.append(helper.make_attribute("inputdimensions", lengths))
    with pytest.raises(ModelRejected, match="'inputdimensions'"):
        load(hostile.model([node], shape=(1, 3), imports=[("ai.onnx.ml", 1)]))


DEADLY = [  # operator, attributes: ONNX Runtime 1.32 ends the process, or never comes back
    ("RandomNormalLike", {"scale": -0.0}, "'scale'"),
    ("RandomNormal", {"scale": -1.0, "shape": [2]}, "'scale'"),
    ("RandomNormalLike", {"scale": float("nan")}, "'scale'"),
    ("RandomUniformLike", {"low": 2.0}, "'low'"),
    ("RandomUniform", {"low": float("nan"), "shape": [2]}, "'low'"),
    ("TfIdfVectorizer", {"ngram_indexes": [0]}, "'ngram_indexes'"),
    ("TfIdfVectorizer", {"ngram_indexes": [0, 1]}, "3 numbers"),
    ("TfIdfVectorizer", {"max_skip_count": 2**33}, "'max_skip_count'"),
]
GRAMS = {
    "mode": "TF",
    "min_gram_length": 1,
    "max_gram_length": 2,
    "max_skip_count": 0,
    "ngram_counts": [0, 2],
    "ngram_indexes": [0, 1, 2],
    "pool_int64s": [1, 2, 1, 2],
}


def drawn(op, attributes):
    """A node that is made to draw or to count, with these attributes beside what it needs."""
    if op == "TfIdfVectorizer":
        attributes = {**GRAMS, **attributes}
    inputs = [] if op in ("RandomNormal", "RandomUniform") else ["x"]
    if op != "TfIdfVectorizer":
        return hostile.model([helper.make_node(op, inputs, ["y"], name="it", **attributes)], shape=(1, 3))
    cast = helper.make_node("Cast", ["x"], ["whole"], to=7)
    return hostile.model(
        [cast, helper.make_node(op, ["whole"], ["y"], name="it", **attributes)], shape=(1, 3)
    )


@pytest.mark.parametrize(("op", "attributes", "word"), DEADLY, ids=range(len(DEADLY)))
def test_what_ends_the_process_is_refused(op, attributes, word):
    with pytest.raises(ModelRejected, match="'it'") as caught:
        load(drawn(op, attributes))
    assert word in str(caught.value)


@pytest.mark.parametrize(
    ("op", "attributes"),
    [
        ("RandomNormalLike", {"scale": 1e-30}),
        ("RandomUniformLike", {"low": 1.0}),
        ("TfIdfVectorizer", {}),
        ("TfIdfVectorizer", {"ngram_indexes": [0, 1, 2, 3]}),
        ("TfIdfVectorizer", {"weights": [1.0, 1.0, 1.0], "max_skip_count": 1000}),
    ],
)
def test_what_draws_and_counts_is_opened(op, attributes):
    session = ort.InferenceSession(ir.to_proto(load(drawn(op, attributes)).model).SerializeToString())
    assert np.isfinite(session.run(None, {"x": np.array([[1, 2, 1]], F)})[0]).all()


@pytest.mark.parametrize(("shape", "sound"), [((), True), ((1,), True), ((4, 1), False), ((0,), False)])
def test_one_scale_has_one_zero_point(shape, sound):
    """ONNX Runtime's node wants it so; but it may leave the node out, and then everything else fails."""
    node = helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["y"], name="it")
    weights = [hostile.array("scale", 1, F), hostile.array("zero", np.zeros(shape), np.uint8)]
    proto = hostile.model([node], weights, shape=X.shape)
    proto.graph.output[0].type.tensor_type.elem_type = 2
    if sound:
        assert runs(ir.to_proto(load(proto).model))
        return
    with pytest.raises(ModelRejected, match="'it'.*one number"):
        load(proto)
    with pytest.raises(Exception, match="x_zero_point must be null or a scalar"):
        runs(proto)


def test_the_axis_of_one_scale_is_not_read():
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale"], ["q"], axis=BIG),
        helper.make_node("DequantizeLinear", ["q", "scale"], ["y"], axis=-99),
    ]
    assert runs(ir.to_proto(load(hostile.model(nodes, [hostile.array("scale", 1, F)], shape=X.shape)).model))


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
    proto = model(op, inputs, {**attributes, flag: value}, 17)
    kind = onnx.defs.get_schema(op, 17).outputs[0].type_str
    proto.graph.output[0].type.CopyFrom(hostile.value("y").type)
    proto.graph.output[0].type.tensor_type.elem_type = 7 if kind == "tensor(int64)" else 1
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    proto.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", 1, x.shape))
    if op == "TopK":
        proto.graph.node[0].output.append("places")
    opened = load(proto)
    found = next(node for node in opened.model.graph if node.op_type == op).attributes[flag].as_int()
    assert found in (0, 1)
    assert any(repr(flag) in warning for warning in opened.warnings)
    (expected,), (given,) = (
        ort.InferenceSession(each.SerializeToString()).run(["y"], {"x": x})
        for each in (proto, ir.to_proto(opened.model))
    )
    assert expected.shape == given.shape
    assert np.array_equal(expected, given)


@pytest.mark.parametrize("value", [2, -1, BIG])
def test_a_flag_of_an_operator_of_onnx_runtime_s_own(value):
    nodes = [
        helper.make_node("Flatten", ["x"], ["f"]),
        helper.make_node(
            "FusedGemm", ["f", "w"], ["y"], domain="com.microsoft", activation="Relu", transB=value
        ),
    ]
    weight = numpy_helper.from_array(np.random.default_rng(1).normal(size=(3, 256)).astype(F), "w")
    proto = hostile.model(nodes, [weight], shape=X.shape, imports=[("com.microsoft", 1)])
    opened = load(proto)
    assert any("'transB'" in warning for warning in opened.warnings)
    expected, given = (
        ort.InferenceSession(each.SerializeToString()).run(None, {"x": X})[0]
        for each in (proto, ir.to_proto(opened.model))
    )
    assert np.array_equal(expected, given)


@pytest.mark.parametrize(
    ("op", "shape", "word"),
    [
        ("Conv", (), "3 axes or more"),
        ("Conv", (4, 3), "3 axes or more"),
        ("ConvTranspose", (3,), "3 axes or more"),
    ],
)
def test_weights_of_no_convolution_whatever_the_picture_is(op, shape, word):
    proto = hostile.model([helper.make_node(op, ["x", "w"], ["y"])], [hostile.array("w", np.ones(shape))])
    proto.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(ModelRejected, match=word):
        load(proto)


@pytest.mark.parametrize("version", [2**31, 2**40, BIG])
@pytest.mark.parametrize("domain", ["", "com.microsoft", "own"])
def test_versions_beyond_what_onnx_holds(version, domain):
    """Whatever reads a version, asks ONNX with a C int: opened or refused with a typed error, and so on."""
    function = helper.make_function(
        "own", "F", ["a"], ["b"], [helper.make_node("Relu", ["a"], ["b"])], [helper.make_opsetid("", 17)]
    )
    nodes = [
        helper.make_node("F", ["x"], ["f"], domain="own"),
        helper.make_node("FusedConv", ["f", "w"], ["c"], domain="com.microsoft", activation="Relu"),
        helper.make_node("Conv", ["c", "v"], ["y"]),
    ]
    weights = [hostile.array("w", np.ones((3, 3, 3, 3))), hostile.array("v", np.ones((2, 3, 3, 3)))]
    proto = hostile.model(nodes, weights, functions=[function], imports=[("com.microsoft", 1), ("own", 1)])
    entry = next(entry for entry in proto.opset_import if entry.domain == domain)
    entry.version = version
    try:
        assert max(load(proto).model.opset_imports.values()) < 2**31
        onnxviz.gradient_model(proto.SerializeToString())
    except OnnxVizError as error:
        assert error.exit_code != 5
        assert "function" not in str(error)


def test_a_body_sees_its_inputs_alone():
    function = helper.make_function(
        "own", "F", ["a"], ["b"], [helper.make_node("Add", ["a", "w"], ["b"])], [helper.make_opsetid("", 17)]
    )
    proto = hostile.model(
        [helper.make_node("F", ["x"], ["y"], domain="own")],
        [hostile.array("w", 1)],
        functions=[function],
        imports=[("own", 1)],
    )
    with pytest.raises(ModelRejected, match="function 'F' makes: a function sees its inputs only"):
        load(proto)


@pytest.mark.parametrize("name", SOUND)
def test_sound_nodes_are_opened(name):
    assert runs(ir.to_proto(load(model(*SOUND[name])).model))


@pytest.mark.parametrize(("name", "what", "new"), ODD, ids=[f"{n}-{w}" for n, w, _ in ODD])
def test_what_looks_odd_and_runs_is_opened(name, what, new):
    assert runs(ir.to_proto(load(variant(name, what, new)).model))


@pytest.mark.parametrize(("name", "what", "new", "word"), BAD[:8], ids=range(8))
def test_in_branches_and_functions_too(name, what, new, word):
    proto = variant(name, what, new)
    node, outer = proto.graph.node[0], helper.make_node("Identity", ["x"], ["z"])
    branch = helper.make_graph([node], "branch", [], [hostile.value("y")], proto.graph.initializer)
    choice = helper.make_node("If", ["yes"], ["out"], then_branch=branch, else_branch=branch)
    inside = hostile.model([choice], [hostile.array("yes", True, bool)], shape=X.shape, outputs=("out",))
    with pytest.raises(ModelRejected, match="'it'"):
        load(inside)
    called = helper.make_function(
        "local", "f", list(node.input), ["y"], [node], [helper.make_opsetid("", 17)]
    )
    if not all(node.input):
        return
    call = helper.make_node("f", node.input, ["y"], domain="local")
    for nodes in ([call], [outer, helper.make_node("Relu", ["z"], ["y"])]):  # called, and not
        whole = hostile.model(
            nodes, proto.graph.initializer, shape=X.shape, imports=[("local", 1)], functions=[called]
        )
        if nodes[0] is call or what == "group":  # without a call no shape is known
            refuses(whole)


def refuses(proto):
    with pytest.raises(ModelRejected, match="'it'"):
        load(proto)


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
    odd = helper.make_node("BiasGelu", ["x", "x"], ["z"], domain="com.microsoft")
    domain = "" if op in ("EyeLike", "RegexFullMatch") else "ai.onnx.ml"
    node = helper.make_node(op, ["z"], ["y"], domain=domain, **attributes)
    imports = [("com.microsoft", 1), ("ai.onnx.ml", 5 if op == "TreeEnsemble" else 3)]
    infer(load(hostile.model([odd, node], shape=(1, 3), opset=opset, imports=imports)).model)
    then = helper.make_graph([odd, node], "then", [], [hostile.value("y")])
    other = helper.make_graph([helper.make_node("Relu", ["x"], ["r"])], "else", [], [hostile.value("r")])
    within = [
        helper.make_node("ReduceMax", ["x"], ["m"], keepdims=0),
        helper.make_node("Cast", ["m"], ["c"], to=9),
        helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=other),
    ]
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
        node = helper.make_node(op, ["x"], ["y"], name="the pool", kernel_shape=[2, 2], pads=pads)
        proto = hostile.model([node], shape=X.shape)
        if sound:
            ort.InferenceSession(proto.SerializeToString())
            load(proto)
            continue
        with pytest.raises(Exception, match="Pad should be smaller than kernel"):
            ort.InferenceSession(proto.SerializeToString())
        with pytest.raises(ModelRejected, match=r"'the pool'.*'pads'.*less than its windows of \[2, 2\]"):
            load(proto)


def test_a_constant_without_a_value():
    node = helper.make_node("Constant", [], ["k"], name="nothing")
    with pytest.raises(ModelRejected, match="'nothing' has no value"):
        load(hostile.model([node, helper.make_node("Add", ["x", "k"], ["y"])]))


@pytest.mark.parametrize(
    ("count", "sound"), [((), True), ((1,), True), ((1, 1), True), ((0,), False), ((2,), False)]
)
def test_a_count_of_trips_is_one_number(count, sound):
    """ONNX Runtime reads the first element of a count that has none."""
    info, kinds = helper.make_tensor_value_info, onnx.TensorProto
    body = helper.make_graph(
        [helper.make_node("Identity", ["on"], ["still"]), helper.make_node("Relu", ["state"], ["next"])],
        "body",
        [info("i", kinds.INT64, []), info("on", kinds.BOOL, []), info("state", kinds.FLOAT, None)],
        [info("still", kinds.BOOL, []), info("next", kinds.FLOAT, None)],
    )
    graph = helper.make_graph(
        [helper.make_node("Loop", ["count", "", "image"], ["y"], name="loop", body=body)],
        "g",
        [helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 3, 8, 8])],
        [numpy_helper.from_array(np.full(count, 2, WHOLE), "count")],
    )
    content = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if sound:
        load(content.SerializeToString())
    else:
        with pytest.raises(ModelRejected, match="loop.*input 1, 'count'.*one number was expected"):
            load(content.SerializeToString())


@pytest.mark.parametrize("attribute", ["strides", "dilations", "kernel_shape"])
def test_windows_of_a_picture_of_unknown_rank_go_with_the_weight(attribute):
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], **{attribute: [3, 3]})]
    proto = hostile.model(nodes, [hostile.array("w", np.ones((4, 3, 3, 3, 3)))])
    proto.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(ModelRejected, match="expected 3 numbers"):
        load(proto)
