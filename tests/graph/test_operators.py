"""The table of operators: that it is sound, that nobody keeps a list beside it, and what such lists had wrong."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

import onnxviz
from onnxviz import objectives
from onnxviz.errors import ModelUnsuitable
from onnxviz.graph import operators
from onnxviz.graph.normalise import normalise
from onnxviz.graph.operators import ROWS, SPELLINGS, TABLE
from onnxviz.graph.randomise import randomise, weighted
from onnxviz.graph.rectifiers import rectifiers
from tests.grad.oracle import session
from tests.networks import from_nodes, node
from tools import lines

ONNX = {schema.name: schema for schema in onnx.defs.get_all_schemas()}
X = np.random.default_rng(3).random((2, 3, 8, 8), dtype=np.float32)

# --- the table ------------------------------------------------------------------------------------


def test_no_operator_stands_in_two_rows():
    names = [name for row in ROWS for name in row.names.split()]
    assert len(names) == len(set(names)) == len(TABLE)


def test_every_row_is_of_operators_of_the_standard():
    old = {"Scatter", "Upsample"}  # no longer in the newest opset
    assert set(TABLE) - set(ONNX) <= old | {"SimplifiedLayerNormalization"}


@pytest.mark.parametrize("name", sorted(set(TABLE) & set(ONNX)))
def test_places_are_places_of_the_schema(name):
    row, most = TABLE[name], ONNX[name].max_input
    assert all(place < most for place in (*row.weights, *row.steering, *row.numbers, *row.sizes))
    assert not set(row.weights) & set(row.steering)


def test_every_spelling_leads_into_the_table():
    for name, spelling in SPELLINGS.items():
        assert spelling.of in TABLE or spelling.family, name
        assert operators.family(name) != "unknown", name


_KEEP = sorted(
    name
    for name in operators.SAME_SHAPE & set(ONNX)
    if ONNX[name].min_input == 1 and name not in ("Cast", "EyeLike", "MeanVarianceNormalization")
)


@pytest.mark.parametrize("name", _KEEP)
def test_what_keeps_the_shape_does_so_by_the_inference_of_onnx(name):
    dtype = {"Not": TensorProto.BOOL, "BitwiseNot": TensorProto.INT32}.get(name, TensorProto.FLOAT)
    attributes = {"size": 3} if name == "LRN" else {}
    made = ["y", "more", "still"][: ONNX[name].min_output]
    nodes, newest = [node(name, ["x"], made, **attributes)], onnx.defs.onnx_opset_version()
    model = from_nodes(nodes, {"x": (2, 3, 4, 5)}, {}, opset=newest, dtype=dtype)
    model.graph.output.add(name="y")
    found = onnx.shape_inference.infer_shapes(model).graph.output[0].type.tensor_type.shape
    assert [d.dim_value for d in found.dim] == [2, 3, 4, 5]


def test_the_page_of_operators_is_made_from_the_tables():
    """`python tools/operators.py` writes it."""
    pytest.importorskip("torch")
    from tools.operators import PAGE, page

    assert PAGE.read_text(encoding="utf-8") == page()
    assert "unknown" not in page()


# --- what it computes -----------------------------------------------------------------------------

_WORDS = [(name, word) for name, word in operators._COMPUTES.items() if hasattr(np, word)]


def test_every_word_is_of_one_operator():
    assert len(set(operators._COMPUTES.values())) == len(operators._COMPUTES)
    assert operators.computing("add relu") == {"Add", "Relu"}
    assert operators.computes("Mul") == "multiply" and operators.computes("LSTM") is None


@pytest.mark.parametrize(
    ("name", "word"), [pair for pair in _WORDS if TABLE[pair[0]].family in ("arithmetic", "function")]
)
def test_words_of_numpy_mean_what_numpy_does(name, word):
    """By the reference implementation that comes with onnx."""
    values = np.array([0.25, 0.5, 0.75, 2.0], np.float32)
    given = [values, values[::-1].copy()][: max(1, ONNX[name].min_input) if ONNX[name].max_input < 9 else 2]
    names = "ab"[: len(given)]
    nodes = [node(name, list(names), ["y"], **({"fmod": 1} if name == "Mod" else {}))]
    model = from_nodes(nodes, dict.fromkeys(names, (4,)), {}, opset=20)
    model.graph.output.add(name="y")
    (found,) = ReferenceEvaluator(model).run(None, dict(zip("ab", given, strict=False)))
    np.testing.assert_allclose(found, getattr(np, word)(*given), rtol=1e-6)


# --- nobody else ----------------------------------------------------------------------------------


def test_an_operator_is_spelled_in_few_files():
    found = lines.operator_files()
    wide = {name: sorted(files) for name, files in found.items() if len(files) > lines.MOST_FILES}
    assert len(found) > 200
    assert not wide, "ask onnxviz.graph.operators instead of naming the operator"


# --- what lists that disagreed had wrong ----------------------------------------------------------


def network(nodes, weights, output, *, image=("N", 3, 8, 8), dtype=TensorProto.FLOAT, opset: int = 20):
    """A network of `image` and `logits`, the nodes as (operator, inputs, output, attributes)."""
    made = [node(op, inputs.split(), [out], name=out, **more) for op, inputs, out, more in nodes]
    return from_nodes(made, {"image": image}, {"logits": output}, weights, dtype=dtype, opset=opset, ir=9)


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


_MOVES = {
    "ReduceMax": (np.array([1]), {}),
    "ReduceMin": (np.array([1]), {}),
    "GatherND": (np.array([[2], [2]]), {"batch_dims": 1}),
    "GatherElements": (np.zeros((2, 4, 8, 2), np.int64), {"axis": 3}),
    "Compress": (np.array([True, False, True, True]), {"axis": 1}),
    "CenterCropPad": (np.array([6, 6]), {"axes": [2, 3]}),
}


@pytest.mark.parametrize("name", _MOVES)
def test_codes_that_are_moved_are_read_as_real_numbers(name):
    """Held against the DequantizeLinear that the file has behind the move; before, the codes themselves came out."""
    by, attributes = _MOVES[name]
    nodes = [
        ("QuantizeLinear", "image s z", "codes", {}),
        ("QLinearConv", "codes s z w s wz s2 z2", "conv", {"pads": [1] * 4}),
        (name, "conv by", "moved", attributes),
        ("DequantizeLinear", "moved s2 z2", "real", {}),
        ("Flatten", "real", "flat", {}),
        ("ReduceMean", "flat one", "logits", {}),
    ]
    weights = {
        "s": np.float32(0.02), "s2": np.float32(0.05), "z": np.uint8(0), "z2": np.uint8(99), "wz": np.int8(0),
        "w": np.random.default_rng(0).integers(-90, 100, (4, 3, 3, 3)).astype(np.int8), "by": by, "one": np.array([1]),
    }  # fmt: skip
    model = network(nodes, weights, (2, 1), image=(2, 3, 8, 8))
    model.graph.output.append(helper.make_tensor_value_info("real", TensorProto.FLOAT, None))
    expected = session(model).run(["real"], {"image": X})[0]
    net = onnxviz.load(model, preprocess="unit", provider="cpu")
    np.testing.assert_array_equal(net.activations(X, ["moved"])["moved"], expected)
    assert np.ptp(expected) > 1


def test_a_gradient_goes_through_whole_numbers_that_are_picked():
    nodes = [
        ("GatherElements", "image by", "picked", {"axis": 3}),
        ("Cast", "picked", "real", {"to": TensorProto.FLOAT}),
        ("Flatten", "real", "flat", {}),
        ("MatMul", "flat w", "logits", {}),
    ]
    weights = {"by": np.full((2, 3, 8, 1), 5), "w": random(24, 4)}
    net = onnxviz.load(network(nodes, weights, (2, 4), image=(2, 3, 8, 8), dtype=TensorProto.UINT8))
    pixels = (X * 255).astype(np.uint8)
    value, gradient = net.value_and_gradient(objectives.logit(2))(pixels)
    expected = np.zeros((2, 3, 8, 8), np.float32)
    expected[..., 5] = weights["w"][:, 2].reshape(3, 8)
    np.testing.assert_allclose(gradient, expected, rtol=1e-6)
    logits = pixels[..., 5].reshape(2, 24).astype(np.float32) @ weights["w"]
    np.testing.assert_allclose(np.sum(value), logits[:, 2].sum(), rtol=1e-5)


_SIGNED = {
    "LRN": (None, {"size": 3}),
    "GridSample": (np.zeros((2, 8, 8, 2), np.float32), {}),
    "GatherElements": (np.zeros((2, 4, 8, 8), np.int64), {"axis": 3}),
    "ReverseSequence": (np.array([3, 4]), {"batch_axis": 0, "time_axis": 2}),
    "ReduceMin": (np.array([1]), {}),
    "CumSum": (np.array(1), {}),
}


@pytest.mark.parametrize("name", _SIGNED)
@pytest.mark.parametrize("front", ["Conv", "Relu"])
def test_a_range_from_0_up_is_a_rectifier_behind_whatever_hands_signs_on(name, front):
    """ONNX Runtime drops the Relu in front of it; where one has cut before, it is none."""
    by, attributes = _SIGNED[name]
    nodes = [
        ("Conv", "image w", "conv", {"pads": [1] * 4}),
        ("Relu" if front == "Relu" else "Identity", "conv", "front", {}),
        (name, "front" if by is None else "front by", "moved", attributes),
        ("QuantizeLinear", "moved s z", "codes", {}),
        ("DequantizeLinear", "codes s z", "real", {}),
        ("Flatten", "real", "flat", {}),
        ("ReduceMean", "flat one", "logits", {}),
    ]
    weights = {"w": random(4, 3, 3, 3), "s": np.float32(0.05), "z": np.uint8(0), "one": np.array([1])}
    weights |= {} if by is None else {"by": by}
    model = normalise(ir.from_proto(network(nodes, weights, (2, 1), image=(2, 3, 8, 8))))
    assert [node.op_type for node in rectifiers(model)] == ["QuantizeLinear" if front == "Conv" else "Relu"]


def test_every_product_with_weights_is_randomised():
    nodes = [
        ("DeformConv", "image w1 places", "deform", {}),
        ("Einsum", "deform w2", "mixed", {"equation": "nchw,cd->ndhw"}),
        ("ConvTranspose", "mixed w3", "logits", {}),
    ]
    weights = {"w1": random(4, 3, 3, 3), "w2": random(4, 6), "w3": random(6, 2, 2, 2)}
    weights["places"] = np.zeros((2, 18, 6, 6), np.float32)
    model = ir.from_proto(network(nodes, weights, (2, 2, 7, 7), image=(2, 3, 8, 8)))
    assert weighted(model) == ["logits", "mixed", "deform"]
    made = {node.name: node.inputs[1].const_value.numpy() for node in randomise(model).graph}
    for name, old in (("deform", "w1"), ("mixed", "w2"), ("logits", "w3")):
        assert not np.array_equal(made[name], weights[old])


def test_both_matrices_of_a_recurrent_layer_are_randomised():
    """Even where only its last state is read, and the output in front of it has no name."""
    nodes = [("Reshape", "image shape", "flat", {}), ("GRU", "flat w r", "rows", {"hidden_size": 5})]
    weights = {"w": random(1, 15, 64), "r": random(1, 15, 5), "shape": np.array([2, 3, 64])}
    model = network(nodes, weights, (1, 3, 5), image=(2, 3, 8, 8))
    model.graph.node[1].output[:] = ["", "logits"]
    model = ir.from_proto(model)
    assert weighted(model) == ["logits"]
    gru = randomise(model).graph[1]
    for place, name in ((1, "w"), (2, "r")):
        assert gru.inputs[place].name == f"logits/random{place}"
        assert not np.array_equal(gru.inputs[place].const_value.numpy(), weights[name])
    session(ir.to_proto(randomise(model))).run(None, {"image": X})


def test_a_deformable_convolution_is_a_convolution():
    """It has filters, and channels that the layers behind it keep."""
    nodes = [
        ("DeformConv", "image w places", "deform", {}),
        ("MeanVarianceNormalization", "deform", "norm", {"axes": [2, 3]}),
        ("Relu", "norm", "relu", {}),
        ("GlobalAveragePool", "relu", "pool", {}),
        ("Flatten", "pool", "logits", {}),
    ]
    weights = {"w": random(4, 3, 3, 3), "places": np.zeros((2, 18, 6, 6), np.float32)}
    net = onnxviz.load(network(nodes, weights, (2, 4), image=(2, 3, 8, 8)), preprocess="unit")
    assert {layer.name: layer.channel_axis for layer in net.layers if len(layer.shape) == 4} == {
        "deform": 1, "norm": 1, "relu": 1, "pool": 1
    }  # fmt: skip
    np.testing.assert_array_equal(onnxviz.filters(net, layer="relu").values, weights["w"])


CONV = ("Conv", "image w", "conv", {"pads": [1] * 4})
FLAT = {"w": random(4, 3, 3, 3), "v": random(256, 5)}


@pytest.mark.parametrize("name", ["Swish", "Softsign", "HardSwish", "Shrink"])
def test_filters_are_found_through_any_activation(name):
    nodes = [
        CONV,
        (name, "conv", "active", {}),
        ("Flatten", "active", "flat", {}),
        ("MatMul", "flat v", "logits", {}),
    ]
    net = onnxviz.load(network(nodes, FLAT, ("N", 5), opset=24), preprocess="unit")
    np.testing.assert_array_equal(onnxviz.filters(net, layer="active").values, FLAT["w"])


@pytest.mark.parametrize(
    "name", ["Celu", "Elu", "Gelu", "HardSwish", "Mish", "Selu", "Softsign", "Swish", "Tanh"]
)
def test_what_ends_in_an_activation_is_a_quantity(name):
    nodes = [
        CONV,
        ("Flatten", "conv", "flat", {}),
        ("MatMul", "flat v", "product", {}),
        (name, "product", "logits", {}),
    ]
    net = onnxviz.load(network(nodes, FLAT, ("N", 5), opset=24), preprocess="unit")
    with pytest.raises(ModelUnsuitable, match=f"ends in {name}"):
        net.predict([np.zeros((8, 8, 3), np.uint8)])


def test_what_a_cast_takes_its_type_from_is_no_weight():
    nodes = [
        ("Conv", "image w", "conv", {"pads": [1] * 4}),
        ("CastLike", "conv like", "cast", {}),
        ("GlobalAveragePool", "cast", "logits", {}),
    ]
    weights = {"w": random(4, 3, 3, 3), "like": np.zeros(7, np.float32)}
    net = onnxviz.load(network(nodes, weights, ("N", 4, 1, 1)), preprocess="unit")
    assert {layer.name: layer.parameters for layer in net.layers} == {"conv": 108, "cast": 0, "logits": 0}
