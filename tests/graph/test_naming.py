"""Names of nodes and of values are two namespaces: whatever a file puts in them, graphs come out right."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import onnxviz
from tests.grad.oracle import session

PICTURE = np.random.default_rng(1).integers(0, 256, (16, 16, 3), dtype=np.uint8)
PLAIN = ("a", "b", "c", "d", "e", "f")
NODES = {
    "no names": [None] * 7,
    "a node has another's output": [None, "a", None, "c", None, None, None],
    "a later one": ["b", None, None, None, "a", None, None],
    "exchanged": ["b", "a", "d", "c", "f", "e", "x"],
    "all alike": ["n"] * 7,
    "weights and ends": ["w0", "w1", "x", "y", None, None, None],
    "what is added": [
        "a/gradient/Mul_1",
        "y/half",
        "objective",
        "y/float32_0",
        None,
        "x.gradient",
        "y.cotangent",
    ],
}
VALUES = {
    "plain": PLAIN,
    "odd characters": ("/conv/Conv_output_0", "a b", "ü:0", "a;b|c\"d'", "c\n", "-"),
    "results": ("objective", "value", "norm", "y.cotangent", "x.gradient", "parameters"),
    "helpers": (
        "y/float32_0",
        "y/half",
        "lifted/constant_0",
        "gradient/constant_1",
        "parameters.next",
        "term.0",
    ),
}


def network(nodes, values=PLAIN, dtype=np.float32):
    """conv - relu - conv - relu - mean - flatten - linear, with these names."""
    a, b, c, d, e, f = values
    rng = np.random.default_rng(0)
    weights = {"w0": (8, 3, 3, 3), "w1": (8, 8, 3, 3), "w2": (5, 8)}
    parts = [
        ("Conv", ["x", "w0"], a, {"pads": [1] * 4}),
        ("Relu", [a], b, {}),
        ("Conv", [b, "w1"], c, {"pads": [1] * 4}),
        ("Relu", [c], d, {}),
        ("GlobalAveragePool", [d], e, {}),
        ("Flatten", [e], f, {}),
        ("Gemm", [f, "w2"], "y", {"transB": 1}),
    ]
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        [
            helper.make_node(op, inputs, [output], name=name, **attributes)
            for (op, inputs, output, attributes), name in zip(parts, nodes, strict=True)
        ],
        "g",
        [helper.make_tensor_value_info("x", kind, ["N", 3, 16, 16])],
        [helper.make_tensor_value_info("y", kind, ["N", 5])],
        [numpy_helper.from_array(rng.normal(size=s).astype(dtype), n) for n, s in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture(scope="module")
def expected():
    return onnxviz.saliency(onnxviz.load(network([None] * 7), preprocess="unit"), PICTURE, target=2).values


@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("nodes", NODES)
def test_gradients_whatever_the_names(nodes, values, expected):
    model = network(NODES[nodes], VALUES[values])
    net = onnxviz.load(model, preprocess="unit")
    assert [layer.name for layer in net.layers] == [*VALUES[values], "y"]
    found = onnxviz.saliency(net, PICTURE, target=2).values
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * expected.max())


@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("nodes", NODES)
def test_gradient_files_whatever_the_names(nodes, values, dtype):
    made = onnxviz.gradient_model(network(NODES[nodes], VALUES[values], dtype))
    onnx.checker.check_model(made, full_check=True)
    names = [node.name for node in made.graph.node]
    assert len(set(names)) == len(names)
    running = session(made)
    assert [value.name for value in running.get_inputs()] == ["x", "y.cotangent"]
    assert [value.name for value in running.get_outputs()] == ["y", "x.gradient"]
    feeds = {"x": np.ones((2, 3, 16, 16), dtype), "y.cotangent": np.ones((2, 5), np.float32)}
    assert all(np.isfinite(array).all() for array in running.run(None, feeds))


@pytest.mark.parametrize("values", ["results", "helpers"])
def test_techniques_on_layers_that_have_the_names_of_results(values):
    model, plain = network([None] * 7, VALUES[values]), network([None] * 7)
    net, other = (onnxviz.load(one, preprocess="unit") for one in (model, plain))
    layer = VALUES[values][3]
    for run in (
        lambda one, name: onnxviz.cam(one, PICTURE, target=2, layer=name),
        lambda one, name: onnxviz.ascent(one, layer=name, channel=1, steps=2, seed=1),
        lambda one, name: onnxviz.invert(one, PICTURE, name, steps=2, seed=1),
        lambda one, name: onnxviz.saliency(one, PICTURE, target=2, method="full-gradient"),
    ):
        np.testing.assert_allclose(run(net, layer).values, run(other, "d").values, rtol=1e-5, atol=1e-6)


def test_a_layer_that_is_called_as_a_result_is_refused_beside_it():
    net = onnxviz.load(network([None] * 7, VALUES["results"]), preprocess="unit")
    with pytest.raises(onnxviz.errors.UsageError, match="'objective' cannot be given out"):
        onnxviz.cam(net, PICTURE, target=2, layer="objective")
